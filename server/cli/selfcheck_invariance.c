/* Batches and threads against each other (selfcheck_invariance.h). */
#include "cli/selfcheck_invariance.h"
#include "cli/synthetic.h"
#include "common/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 8 };
static const int batches[] = {1, 2, 3, 5, 8};
enum { BATCHES = sizeof(batches) / sizeof(batches[0]) };

/* What a (batch, threads) gave: latents of SAMPLES samples, one picture. */
struct bytes {
    float *latents;
    uint8_t *rgb;
    size_t latents_size, rgb_size;
    char fingerprint[sizeof(((struct imf_model_info *)0)->fingerprint)];
};

struct invariance {
    const struct imfd_usage *usage;
    struct device_options options;
    struct imfd_synthetic mit, decoder;
    struct bytes first; /* batch 1, the first thread count */
    int failed;
};

static imf_status draw(struct imf_model *m, struct imf_lane **lanes, int batch,
                       struct imf_error *err)
{
    for (int i = 0; i < SAMPLES; i++) {
        const struct imf_sampling s = {.steps = 1, .omega = 8, .t_min = 0.4f, .t_max = 0.65f};
        imf_status status = imf_lane_start(lanes[i], m, i, (uint64_t)i, &s, err);
        if (status != IMF_OK)
            return status;
    }
    for (int i = 0; i < SAMPLES; i += batch) {
        imf_status status = imf_step(m, lanes + i, SAMPLES - i < batch ? SAMPLES - i : batch);
        if (status != IMF_OK)
            return imf__fail(err, status, "%s", imf_status_sentence(status));
    }
    return IMF_OK;
}

/* Whether the latents of a batch size are the first's; the first time they become it. */
static bool same_latents(struct bytes *first, struct imf_lane *const *lanes)
{
    size_t size = lanes[0]->z_count * sizeof(float);
    bool same = true;
    for (int i = 0; i < SAMPLES; i++)
        same = same && memcmp((char *)first->latents + (size_t)i * size, lanes[i]->z, size) == 0;
    return same;
}

static imf_status keep_first(struct bytes *first, struct imf_lane *const *lanes)
{
    size_t size = lanes[0]->z_count * sizeof(float);
    first->latents = malloc(SAMPLES * size);
    if (!first->latents)
        return IMF_ENOMEM;
    for (int i = 0; i < SAMPLES; i++)
        memcpy((char *)first->latents + (size_t)i * size, lanes[i]->z, size);
    return IMF_OK;
}

/* One picture; "same", "differs", or "-" where another fingerprint says that it may. */
static const char *compare_picture(struct invariance *v, struct imf_model *m,
                                   struct imf_lane **lanes, bool comparable, imf_status *status)
{
    const struct imf_model_info *info = imf_model_get_info(m);
    size_t size = (size_t)info->image_width * (size_t)info->image_height * 3;
    uint8_t *rgb = malloc(size);
    *status = rgb ? imf_decode(m, lanes, 1, rgb) : IMF_ENOMEM;
    if (*status == IMF_OK && !v->first.rgb) {
        v->first.rgb = rgb;
        return "same";
    }
    bool same = *status == IMF_OK && memcmp(rgb, v->first.rgb, size) == 0;
    free(rgb);
    v->failed += comparable && !same;
    return !comparable ? "-" : same ? "same" : "differs";
}

/* One line of the table. */
static imf_status check_threads(struct invariance *v, struct imf_model *m, int threads,
                                struct imf_error *err)
{
    struct imf_lane *lanes[SAMPLES] = {NULL};
    imf_status status = IMF_OK;
    const char *fingerprint = imf_model_get_info(m)->fingerprint;
    if (!v->first.latents)
        snprintf(v->first.fingerprint, sizeof(v->first.fingerprint), "%s", fingerprint);
    bool comparable = strcmp(v->first.fingerprint, fingerprint) == 0;
    for (int i = 0; i < SAMPLES && status == IMF_OK; i++)
        status = imf_lane_create(&lanes[i], m);
    printf("    %3d thread%s ", threads, threads == 1 ? " " : "s");
    for (int i = 0; i < BATCHES && status == IMF_OK; i++) {
        status = draw(m, lanes, batches[i], err);
        if (status == IMF_OK && !v->first.latents)
            status = keep_first(&v->first, lanes);
        bool same = status == IMF_OK && same_latents(&v->first, lanes);
        v->failed += !same;
        printf(" %8s", same ? "same" : "DIFFERS");
    }
    if (status == IMF_OK)
        printf(" %9s", compare_picture(v, m, lanes, comparable, &status));
    printf("\n");
    fflush(stdout);
    for (int i = 0; i < SAMPLES; i++)
        imf_lane_destroy(lanes[i]);
    return status;
}

static int check_engine(struct invariance *v, int threads)
{
    struct imf_engine *e = NULL;
    struct imf_model *m = NULL;
    struct imf_error err = {0};
    struct imf_model_params p;
    v->options.threads = threads;
    int result = imfd_engine_open(&e, v->usage, &v->options);
    if (result != 0)
        return result;
    imf_model_params_init(&p);
    p.checkpoint = v->mit.path;
    p.decoder = v->decoder.path;
    p.max_batch = SAMPLES;
    imf_status status = imf_model_load(&m, e, &p, &err);
    if (status == IMF_OK)
        status = check_threads(v, m, imf_engine_get_info(e)->threads, &err);
    if (status != IMF_OK) {
        printf("    MISS: %s\n", err.message[0] ? err.message : imf_status_sentence(status));
        v->failed++;
    }
    imf_model_destroy(m);
    imf_engine_destroy(e);
    return 0;
}

int imfd_selfcheck_invariance(const struct imfd_usage *usage, const struct device_options *o)
{
    static const struct imf__meanflow_shape wide = {.family = IMF__MIT,
                                                    .depth = 2,
                                                    .shared_depth = 1,
                                                    .hidden = 768,
                                                    .head_size = 64,
                                                    .mlp_hidden = 2048,
                                                    .classes = 10,
                                                    .channels = 4,
                                                    .patch_size = 2,
                                                    .input_size = 32};
    struct invariance v = {
        .usage = usage, .options = *o, .mit = {.folder = ""}, .decoder = {.folder = ""}};
    struct imf_error err = {0};
    if (imfd_synthetic_make_shape(&v.mit, &wide, 5, &err) != IMF_OK ||
        imfd_synthetic_make(&v.decoder, "taesd", &err) != IMF_OK) {
        printf("  batches            MISS: %s\n", err.message);
        v.failed = 1;
    } else {
        printf("  bits of a sample    in batches of 1        2        3        5        8   "
               "picture\n");
        const int counts[] = {1, 2, 3, o->threads};
        for (int i = 0; i < (o->threads > 3 ? 4 : 3); i++)
            v.failed += check_engine(&v, counts[i]) != 0;
        printf("  batches, threads   %s\n", v.failed ? "MISS" : "ok");
    }
    imfd_synthetic_remove(&v.mit);
    imfd_synthetic_remove(&v.decoder);
    free(v.first.latents);
    free(v.first.rgb);
    return v.failed > 0;
}
