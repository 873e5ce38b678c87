/* What the CUDA device does when things go wrong, and that a captured graph computes what the eager
 * pass computed. One case a process, since the emulator reads its environment when it starts:
 *
 *   test_faults memory     too little memory: the message names a max_batch, and that one loads
 *   test_faults launch     a failing launch: the device is sick, says why, refuses further work
 *   test_faults allocation any one allocation failing, device, pinned or a graph's: no memory, and
 *                          the device goes on
 *   test_faults driver     a driver for CUDA 12: said, and "auto" takes the CPU
 *   test_faults module     a module that cannot be loaded: the same
 *   test_faults build      the build line, which fingerprints contain, names GPU and cuBLASLt
 *   test_faults plain      no algorithm for some number of rows: counted, and said why
 *   test_faults old        a V100 (sm_70): refused with a reason; "auto" takes the CPU
 *   test_faults graph      eager and replayed steps give the same bits, captured for every batch
 *                          size when the model loads */
#include "core/engine.h"
#include "emulator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static struct imf_engine *open_engine(const char *device, enum imf_precision precision)
{
    struct imf_engine_params p;
    struct imf_engine *e = NULL;
    struct imf_error err = {0};
    imf_engine_params_init(&p);
    p.device = device;
    p.precision = precision;
    if (imf_engine_create(&e, &p, &err) != IMF_OK)
        fprintf(stderr, "%s\n", err.message);
    return e;
}

static imf_status load(struct imf_model **m, struct imf_engine *e, int max_batch,
                       struct imf_error *err)
{
    struct imf_model_params p;
    imf_model_params_init(&p);
    p.checkpoint = TESTS_DIR "/golden/mit_tiny/mit_tiny.pth";
    p.decoder = "none";
    p.max_batch = max_batch;
    p.decode_batch = 1;
    return imf_model_load(m, e, &p, err);
}

static struct imf_lane *start_lane(struct imf_model *m, uint64_t seed)
{
    struct imf_sampling sampling = imf_model_get_info(m)->defaults;
    struct imf_lane *lane = NULL;
    sampling.steps = 1;
    CHECK(imf_lane_create(&lane, m) == IMF_OK);
    CHECK(imf_lane_start(lane, m, 3, seed, &sampling, NULL) == IMF_OK);
    return lane;
}

static void check_memory(void)
{
    struct imf_error err = {0};
    struct imf_engine *e = open_engine("cuda", IMF_PRECISION_BF16);
    struct imf_model *m = NULL;
    int fits = 0;
    CHECK(e);
    CHECK(load(&m, e, 1024, &err) == IMF_ENOMEM);
    printf("%s\n", err.message);
    const char *advice = strstr(err.message, "; max_batch ");
    CHECK(advice && sscanf(advice, "; max_batch %d would fit", &fits) == 1);
    CHECK(fits > 0 && fits < 1024);
    CHECK(strstr(err.message, "were needed") && strstr(err.message, "are free"));
    CHECK(load(&m, e, fits, &err) == IMF_OK); /* what failed has left nothing behind */
    imf_model_destroy(m);
    imf_engine_destroy(e);
}

static void check_launch(void)
{
    void (*fail_launch)(int n, int error);
    emulator_find("imf_emu_fail_launch", &fail_launch);
    struct imf_engine *e = open_engine("cuda", IMF_PRECISION_BF16);
    struct imf_model *m = NULL;
    CHECK(e);
    CHECK(load(&m, e, 2, NULL) == IMF_OK);
    struct imf_lane *lane = start_lane(m, 1);
    fail_launch(5, 719); /* cudaErrorLaunchFailure at the fifth launch of the step */
    CHECK(imf_step(m, &lane, 1) == IMF_EDEVICE);
    printf("%s\n", imf_engine_error(e));
    CHECK(strstr(imf_engine_error(e), "cuda:0"));
    CHECK(strstr(imf_engine_error(e), "cudaErrorLaunchFailure"));
    imf_lane_destroy(lane);
    lane = start_lane(m, 2);
    CHECK(imf_step(m, &lane, 1) == IMF_EDEVICE); /* refused: the device stays sick */
    imf_lane_destroy(lane);
    imf_model_destroy(m);
    imf_engine_destroy(e);
}

static void check_allocation(void)
{
    void (*fail_malloc)(int n);
    emulator_find("imf_emu_fail_malloc", &fail_malloc);
    struct imf_engine *e = open_engine("cuda", IMF_PRECISION_BF16);
    struct imf_model *m = NULL;
    CHECK(e);
    int n = 1, status = IMF_ENOMEM;
    for (; status != IMF_OK; n++) {
        CHECK(n < 1000);
        fail_malloc(n);
        status = load(&m, e, 2, NULL);
        CHECK(status == IMF_OK || status == IMF_ENOMEM);
    }
    printf("%d allocations failed, one after another\n", n - 2);
    CHECK(n > 50); /* weights, buffers, pinned memory, graphs */
    fail_malloc(0);
    struct imf_lane *lane = start_lane(m, 1);
    CHECK(imf_step(m, &lane, 1) == IMF_OK);
    imf_lane_destroy(lane);
    imf_model_destroy(m);
    imf_engine_destroy(e);
}

/* There is a GPU, but it cannot be used for the reason given. */
static void check_unusable(const char *reason_has)
{
    char reason[256] = "";
    CHECK(imf_cuda_device_count(reason, sizeof(reason)) == 0);
    printf("%s\n", reason);
    CHECK(strstr(reason, reason_has));
    CHECK(!open_engine("cuda", IMF_PRECISION_BF16));
    struct imf_engine *e = open_engine("auto", IMF_PRECISION_AUTO);
    CHECK(e && strcmp(imf_engine_get_info(e)->device, "cpu") == 0);
    imf_engine_destroy(e);
}

static void check_driver(void)
{
    check_unusable("CUDA 12.4");
}

static void check_module(void)
{
    check_unusable("cannot be loaded");
}

static void check_build(void)
{
    struct imf_engine *e = open_engine("cuda", IMF_PRECISION_BF16);
    CHECK(e);
    printf("%s\n", imf__engine_device(e)->build);
    CHECK(strcmp(imf__engine_device(e)->build, "cuda sm_80 108 SMs cuBLASLt 13.0.0") == 0);
    imf_engine_destroy(e);
}

static void check_plain(void)
{
    struct imf_engine *e = open_engine("cuda", IMF_PRECISION_BF16);
    struct imf_model *m = NULL;
    CHECK(e);
    CHECK(load(&m, e, 1, NULL) == IMF_OK);
    CHECK(imf_model_get_info(m)->plain_matrices == 0); /* 276 rows are taken, 552 are not */
    imf_model_destroy(m);
    CHECK(load(&m, e, 2, NULL) == IMF_OK);
    const struct imf_model_info *info = imf_model_get_info(m);
    printf("%d: %s\n", info->plain_matrices, info->plain_reason);
    CHECK(info->plain_matrices > 10);
    CHECK(strstr(info->plain_reason, "at 552 rows"));
    imf_model_destroy(m);
    imf_engine_destroy(e);
}

static void check_old(void)
{
    check_unusable("compute capability 7");
}

static void check_graph(void)
{
    struct imf_engine *e = open_engine("cuda", IMF_PRECISION_BF16);
    struct imf_model *m = NULL;
    float *first = NULL;
    CHECK(e);
    CHECK(load(&m, e, 1, NULL) == IMF_OK);
    CHECK(imf_model_get_info(m)->graph_bytes > 0);
    CHECK(imf_model_get_info(m)->plain_matrices == 0);
    for (int run = 0; run < 3; run++) { /* eager, replayed, replayed */
        imf__engine_device(e)->eager = run == 0;
        struct imf_lane *lane = start_lane(m, 7);
        size_t bytes = lane->z_count * sizeof(float);
        CHECK(imf_step(m, &lane, 1) == IMF_OK);
        if (run == 0)
            CHECK((first = malloc(bytes)) && memcpy(first, lane->z, bytes));
        CHECK(memcmp(first, lane->z, bytes) == 0);
        imf_lane_destroy(lane);
    }
    free(first);
    imf_model_destroy(m);
    imf_engine_destroy(e);
}

int main(int argc, char **argv)
{
    const struct {
        const char *name;
        void (*check)(void);
    } cases[] = {
        {"memory", check_memory}, {"launch", check_launch}, {"allocation", check_allocation},
        {"driver", check_driver}, {"module", check_module}, {"build", check_build},
        {"plain", check_plain},   {"old", check_old},       {"graph", check_graph}};
    for (size_t i = 0; argc == 2 && i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (strcmp(argv[1], cases[i].name) == 0) {
            cases[i].check();
            printf("%s: ok\n", argv[1]);
            return 0;
        }
    }
    fprintf(stderr,
            "usage: test_faults memory|launch|allocation|driver|module|build|plain|old|graph\n");
    return 2;
}
