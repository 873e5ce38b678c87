/* What the golden tests share: see golden.h. */
#include "golden.h"
#include "files/npy.h"
#include "models/synth.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *golden_path(const char *name)
{
    static char path[1024];
    snprintf(path, sizeof(path), "%s/%s", GOLDEN_DIR, name);
    return path;
}

const char *golden_shared(const char *name)
{
    static char path[1024];
    snprintf(path, sizeof(path), "%s/golden/%s", SHARED_DIR, name);
    return access(path, R_OK) == 0 ? path : NULL;
}

static struct imf__npy load(const char *name, enum imf__npy_type type)
{
    struct imf__npy a = {0};
    struct imf_error err = {0};
    imf_status status = imf__npy_load(&a, golden_path(name), &err);
    ck_assert_msg(status == IMF_OK, "%s", err.message);
    ck_assert_msg(a.type == type, "%s holds another type", name);
    return a;
}

struct golden golden_read(const char *name)
{
    struct imf__npy a = load(name, IMF__NPY_F32);
    return (struct golden){a.f32, a.count};
}

uint8_t *golden_read_bytes(const char *name, size_t count)
{
    struct imf__npy a = load(name, IMF__NPY_U8);
    ck_assert_uint_eq(a.count, count);
    return a.u8;
}

static imf_status open_engine(struct imf_engine **e, enum imf_precision precision,
                              struct imf_error *err)
{
    struct imf_engine_params p;
    const char *device = getenv("IMFD_TEST_DEVICE");
    imf_engine_params_init(&p);
    p.device = device ? device : "cpu";
    p.precision = precision;
    return imf_engine_create(e, &p, err);
}

bool golden_lacks(enum imf_precision precision)
{
    struct imf_engine *e = NULL;
    struct imf_error err = {0};
    bool lacks = open_engine(&e, precision, &err) == IMF_EUNSUPPORTED;
    if (lacks)
        printf("left out: %s\n", err.message);
    imf_engine_destroy(e);
    return lacks;
}

struct imf_engine *golden_engine(enum imf_precision precision)
{
    struct imf_engine *e = NULL;
    struct imf_error err = {0};
    imf_status status = open_engine(&e, precision, &err);
    ck_assert_msg(status == IMF_OK, "%s", err.message);
    return e;
}

struct imf_model *golden_model_of(struct imf_engine *e, const struct imf_model_params *p)
{
    struct imf_model *m = NULL;
    struct imf_error err = {0};
    imf_status status = imf_model_load(&m, e, p, &err);
    ck_assert_msg(status == IMF_OK, "%s", err.message);
    return m;
}

struct imf_model *golden_model(struct imf_engine *e, const char *checkpoint, const char *decoder)
{
    struct imf_model_params p;
    imf_model_params_init(&p);
    p.checkpoint = checkpoint;
    p.decoder = decoder;
    return golden_model_of(e, &p);
}

char *golden_work(const char *file)
{
    char *path = NULL;
    ck_assert_int_gt(asprintf(&path, "%s/work.%d", WORK_DIR, (int)getpid()), 0);
    ck_assert(mkdir(path, 0777) == 0 || errno == EEXIST);
    char *full = NULL;
    ck_assert_int_gt(asprintf(&full, "%s/%s", path, file), 0);
    free(path);
    return full;
}

char *golden_synth_with(const char *file, struct imf__names *names, uint64_t seed,
                        const char *const (*metadata)[2], size_t metadata_count)
{
    struct imf_error err = {0};
    struct imf__weights_params p = {.names = names,
                                    .type = IMF__STORED_F32,
                                    .metadata = metadata,
                                    .metadata_count = metadata_count};
    char *path = golden_work(file);
    imf_status status = imf__synth_write(path, &p, seed, NULL, NULL, &err);
    ck_assert_msg(status == IMF_OK, "%s", err.message);
    imf__names_free(names);
    return path;
}

char *golden_synth(const char *file, struct imf__names *names, uint64_t seed)
{
    return golden_synth_with(file, names, seed, NULL, 0);
}

char *golden_synth_model(const char *model, uint64_t seed)
{
    struct imf__meanflow_shape shape;
    struct imf__names names = {0};
    char file[64];
    ck_assert(imf__meanflow_named(&shape, model));
    ck_assert_int_eq(imf__meanflow_names(&names, &shape), IMF_OK);
    snprintf(file, sizeof(file), "%s.safetensors", model);
    return golden_synth(file, &names, seed);
}

char *golden_vae_tiny(void)
{
    struct imf__vae_shape shape;
    struct imf__names names = {0};
    char *config = golden_work("config.json");
    FILE *from = fopen(golden_path("vae_tiny/config.json"), "r"), *to = fopen(config, "w");
    ck_assert(from && to);
    for (int c; (c = getc(from)) != EOF;)
        putc(c, to);
    fclose(from);
    fclose(to);
    free(config);
    imf__vae_shape_init(&shape);
    for (int i = 0; i < 4; i++)
        shape.channels[i] = i < 2 ? 64 : 32; /* in the order of the up blocks */
    ck_assert_int_eq(imf__vae_names(&names, &shape), IMF_OK);
    return golden_synth("vae_tiny.bin", &names, 5);
}

void golden_clean(void)
{
    static const char *const files[] = {"/config.json", "/vae_tiny.bin", "/vae.safetensors",
                                        "/taesd.pth", ""};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        char path[1024];
        snprintf(path, sizeof(path), "%s/work.%d%s", WORK_DIR, (int)getpid(), files[i]);
        remove(path);
    }
}

float *golden_latents(struct imf_model *m, const struct golden_sample *s, int n)
{
    struct imf_lane *lanes[64];
    struct imf_error err = {0};
    int left = n;
    ck_assert_int_le(n, 64);
    for (int i = 0; i < n; i++) {
        ck_assert_int_eq(imf_lane_create(&lanes[i], m), IMF_OK);
        imf_status status =
            imf_lane_start(lanes[i], m, s[i].label, s[i].seed, &s[i].sampling, &err);
        ck_assert_msg(status == IMF_OK, "%s", err.message);
    }
    while (left > 0) {
        struct imf_lane *batch[64];
        int b = 0;
        for (int i = 0; i < n; i++) {
            if (!imf_lane_finished(lanes[i]))
                batch[b++] = lanes[i];
        }
        left = b;
        if (b)
            ck_assert_int_eq(imf_step(m, batch, b), IMF_OK);
    }
    float *z = malloc((size_t)n * lanes[0]->z_count * sizeof(float));
    for (int i = 0; i < n; i++) {
        ck_assert_int_eq(imf_lane_fetch(m, lanes[i]), IMF_OK);
        memcpy(z + (size_t)i * lanes[i]->z_count, lanes[i]->z, lanes[i]->z_count * sizeof(float));
        imf_lane_destroy(lanes[i]);
    }
    return z;
}

void golden_check(const char *what, const float *got, const float *want, size_t n,
                  enum imf_precision precision)
{
    double bound = precision == IMF_PRECISION_FP32 ? FP32_LATENT_BOUND : BF16_LATENT_BOUND;
    double error = golden_relative_l2(got, want, n);
    printf("%-14s %s %.2e\n", what, imf_precision_name(precision), error);
    ck_assert_msg(error <= bound, "%s, %s: relative L2 %g, bound %g", what,
                  imf_precision_name(precision), error, bound);
}

double golden_relative_l2(const float *got, const float *want, size_t n)
{
    double d = 0, w = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        w += (double)want[i] * (double)want[i];
    }
    return isfinite(d) ? sqrt(d / w) : INFINITY;
}

double golden_psnr(const uint8_t *got, const uint8_t *want, size_t n)
{
    double d = 0;
    for (size_t i = 0; i < n; i++)
        d += (double)(got[i] - want[i]) * (double)(got[i] - want[i]);
    return d > 0 ? 10 * log10(255.0 * 255.0 * (double)n / d) : INFINITY;
}

int golden_max_level(const uint8_t *got, const uint8_t *want, size_t n)
{
    int most = 0;
    for (size_t i = 0; i < n; i++) {
        int d = abs(got[i] - want[i]);
        most = d > most ? d : most;
    }
    return most;
}

int golden_main(Suite *s)
{
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK); /* an OpenMP team does not survive a fork */
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    golden_clean();
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
