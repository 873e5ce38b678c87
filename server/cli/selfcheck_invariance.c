/* Batches and threads against each other (selfcheck_invariance.h). */
#include "cli/selfcheck_invariance.h"
#include "cli/synthetic.h"
#include "common/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 5 };
static const int batches[] = {1, 2, 3, 5};
enum { BATCHES = sizeof(batches) / sizeof(batches[0]) };

/* Layers of published widths, two blocks of each network. `side` is that of z: a sixteenth of
 * sd-vae's work is enough, since its channels decide which kernels run. */
static const struct tried {
    const char *network, *decoder; /* decoder NULL: z is the picture */
    int side;
} models[] = {{"MiT_B_2", "taesd", 32}, {"MiT_XL_2", "sd-vae", 8}, {"pmfDiT_B_16", NULL, 256}};
enum { MODELS = sizeof(models) / sizeof(models[0]) };

/* What the first engine gave at batch 1: all others must give the same where the fingerprint is
 * the same. */
struct bytes {
    float *z;     /* SAMPLES of them */
    uint8_t *rgb; /* SAMPLES pictures */
    char fingerprint[sizeof(((struct imf_model_info *)0)->fingerprint)];
};

struct invariance {
    const struct imfd_usage *usage;
    struct device_options options;
    struct imfd_synthetic network, decoder;
    struct bytes first;
    int failed;
};

static void bytes_free(struct bytes *b)
{
    free(b->z);
    free(b->rgb);
    *b = (struct bytes){0};
}

/* All samples, `batch` at a time; into out, whose memory is made here. */
static imf_status draw(struct bytes *out, struct imf_model *m, struct imf_lane **lanes, int batch,
                       struct imf_error *err)
{
    const struct imf_model_info *info = imf_model_get_info(m);
    size_t picture = (size_t)info->image_width * (size_t)info->image_height * 3;
    size_t z = lanes[0]->z_count;
    out->z = malloc(SAMPLES * z * sizeof(float));
    out->rgb = malloc(SAMPLES * picture);
    if (!out->z || !out->rgb)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    snprintf(out->fingerprint, sizeof(out->fingerprint), "%s", info->fingerprint);
    for (int i = 0; i < SAMPLES; i++) {
        const struct imf_sampling s = {.steps = 1, .omega = 8, .t_min = 0.4f, .t_max = 0.65f};
        IMF_TRY(imf_lane_start(lanes[i], m, i, (uint64_t)i, &s, err));
    }
    for (int i = 0; i < SAMPLES; i += batch) {
        int n = SAMPLES - i < batch ? SAMPLES - i : batch;
        imf_status status = imf_step(m, lanes + i, n);
        if (status == IMF_OK)
            status = imf_decode(m, lanes + i, n, out->rgb + (size_t)i * picture);
        if (status != IMF_OK)
            return imf__fail(err, status, "%s", imf_status_sentence(status));
    }
    for (int i = 0; i < SAMPLES; i++)
        memcpy(out->z + (size_t)i * z, lanes[i]->z, z * sizeof(float));
    return IMF_OK;
}

static bool same_bytes(const struct bytes *a, const struct bytes *b, const struct imf_model *m,
                       struct imf_lane *const *lanes)
{
    const struct imf_model_info *info = imf_model_get_info(m);
    size_t picture = (size_t)info->image_width * (size_t)info->image_height * 3;
    return memcmp(a->z, b->z, SAMPLES * lanes[0]->z_count * sizeof(float)) == 0 &&
           memcmp(a->rgb, b->rgb, SAMPLES * picture) == 0;
}

/* One line of the table. */
static imf_status check_threads(struct invariance *v, struct imf_model *m, int threads,
                                struct imf_error *err)
{
    struct imf_lane *lanes[SAMPLES] = {NULL};
    struct bytes own = {0};
    const struct bytes *wanted = &v->first;
    imf_status status = IMF_OK;
    for (int i = 0; i < SAMPLES && status == IMF_OK; i++)
        status = imf_lane_create(&lanes[i], m);
    printf("      %3d thread%s ", threads, threads == 1 ? " " : "s");
    for (int i = 0; i < BATCHES && status == IMF_OK; i++) {
        struct bytes now = {0};
        status = draw(&now, m, lanes, batches[i], err);
        if (status == IMF_OK && !v->first.z) {
            v->first = now;
            now = (struct bytes){0};
        } else if (status == IMF_OK && strcmp(v->first.fingerprint, now.fingerprint) != 0 &&
                   !own.z) {
            own = now; /* these threads have bytes, and a fingerprint, of their own */
            now = (struct bytes){0};
            wanted = &own;
        }
        bool same = status == IMF_OK && (!now.z || same_bytes(&now, wanted, m, lanes));
        v->failed += !same;
        printf(" %8s", same ? "same" : "DIFFERS");
        bytes_free(&now);
    }
    printf("%s\n", own.z ? "  own fingerprint" : "");
    fflush(stdout);
    bytes_free(&own);
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
    p.checkpoint = v->network.path;
    p.decoder = v->decoder.path[0] ? v->decoder.path : NULL;
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

static imf_status make_weights(struct invariance *v, const struct tried *t, struct imf_error *err)
{
    struct imf__meanflow_shape shape;
    if (!imf__meanflow_named(&shape, t->network))
        return IMF_EINVAL;
    shape.depth = 2;
    shape.shared_depth = 1;
    shape.classes = 10;
    shape.input_size = t->side;
    IMF_TRY(imfd_synthetic_make_shape(&v->network, &shape, 5, err));
    return t->decoder ? imfd_synthetic_make(&v->decoder, t->decoder, err) : IMF_OK;
}

/* One model: its part of the table. */
static int check_model(const struct imfd_usage *usage, const struct device_options *o,
                       const struct tried *t)
{
    struct invariance v = {
        .usage = usage, .options = *o, .network = {.folder = ""}, .decoder = {.folder = ""}};
    struct imf_error err = {0};
    printf("    %s%s%s\n", t->network, t->decoder ? ", " : "", t->decoder ? t->decoder : "");
    if (make_weights(&v, t, &err) != IMF_OK) {
        printf("      MISS: %s\n", err.message);
        v.failed = 1;
    } else {
        const int counts[] = {1, 2, 3, 4, o->threads};
        for (int i = 0; i < (o->threads > 4 ? 5 : 4); i++)
            v.failed += check_engine(&v, counts[i]) != 0;
    }
    imfd_synthetic_remove(&v.network);
    imfd_synthetic_remove(&v.decoder);
    bytes_free(&v.first);
    return v.failed;
}

int imfd_selfcheck_invariance(const struct imfd_usage *usage, const struct device_options *o)
{
    int failed = 0;
    printf("  bits of a sample    in batches of 1        2        3        5\n");
    for (int i = 0; i < MODELS; i++)
        failed += check_model(usage, o, &models[i]);
    printf("  batches, threads   %s\n", failed ? "MISS" : "ok");
    return failed > 0;
}
