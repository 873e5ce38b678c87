/* Every operation once at a model's shape, on the CUDA device under the emulator and on the
 * counting device (engine/roofline): launches must be the same, FLOPs of matrix products too, and
 * the bytes that the kernels move are held against the least that the operation needs.
 *
 *   count_kernels [FILE|- [SHAPE]]
 *
 * FILE gets what was counted, as JSON, for tools/kernel_report.py; SHAPE is the only one to run.
 *
 * Bytes: `dram` are distinct 32-byte sectors per launch, what an ideal L2 fetches; `l2` are all
 * sectors that the warps ask of L2. The bounds are on dram: 1.3 x the least for element-wise and
 * norm kernels, 1.5 x for convolutions. */
#include "common/error.h"
#include "core/cuda_loader.h"
#include "roofline/roofline.h"
#include "imf_emu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The emulator stands in for the driver; its symbols stay local. */
struct emulator {
    void (*counters_reset)(void);
    int (*counters_count)(void);
    const struct imf_emu_counters *(*counters_at)(int i);
    int (*report_count)(void);
};

struct run {
    struct imf__device *d;
    void *held[16];
    int n;
    imf_status status;
};

struct shape {
    const char *name;
    void (*run)(struct run *r, const int *p);
    int p[12];
    double bound; /* dram bytes against the least */
};

static void *memory(struct run *r, size_t bytes)
{
    void *p = NULL;
    if (r->status == IMF_OK)
        r->status = r->d->ops->alloc(r->d, &p, bytes, false);
    if (r->status == IMF_OK)
        r->held[r->n++] = p;
    return p;
}

static float *zeros(size_t n)
{
    float *p = calloc(n, sizeof(*p));
    if (!p)
        abort();
    return p;
}

/* An operation: once dry, so that it prepares, then for real with the counters at zero. */
#define OPERATION(r, call)                                                                         \
    do {                                                                                           \
        (r)->d->dry = true;                                                                        \
        if ((r)->status == IMF_OK)                                                                 \
            (r)->status = (call);                                                                  \
        (r)->d->dry = false;                                                                       \
        if ((r)->status == IMF_OK)                                                                 \
            (r)->status = (r)->d->ops->sync((r)->d);                                               \
        before_operation(r);                                                                       \
        if ((r)->status == IMF_OK)                                                                 \
            (r)->status = (call);                                                                  \
        if ((r)->status == IMF_OK)                                                                 \
            (r)->status = (r)->d->ops->sync((r)->d);                                               \
    } while (0)

static const struct emulator *emulator; /* NULL while the counting device runs */

static void before_operation(struct run *r)
{
    if (emulator)
        emulator->counters_reset();
    else
        imf__roofline_reset(r->d);
}

static void run_rms_norm(struct run *r, const int *p)
{
    size_t n = (size_t)p[0] * (size_t)p[1];
    float *src = memory(r, n * 4);
    void *dst = memory(r, n * 4);
    OPERATION(r, r->d->ops->rms_norm(r->d, dst, IMF__ACT, src, NULL, 1, p[0], 0, p[1], 1e-6f));
}

static void run_attention(struct run *r, const int *p)
{
    size_t T = (size_t)p[0], NH = (size_t)p[1], HS = (size_t)p[2];
    void *dst = memory(r, T * NH * HS * 4), *qkv = memory(r, T * NH * HS * 3 * 4);
    float *norm = memory(r, HS * 4), *rope = memory(r, T * HS * 4);
    OPERATION(r, r->d->ops->attention(r->d, dst, qkv, norm, norm, rope, 1, p[0], p[1], p[2]));
}

static void run_linear(struct run *r, const int *p)
{
    struct imf__linear *w = NULL;
    float *weight = zeros((size_t)p[1] * (size_t)p[2]);
    void *dst = memory(r, (size_t)p[0] * (size_t)p[1] * 4);
    void *src = memory(r, (size_t)p[0] * (size_t)p[2] * 4);
    if (r->status == IMF_OK)
        r->status =
            r->d->ops->linear_load(r->d, &w, IMF__ACT, weight, p[3] ? weight : NULL, p[1], p[2]);
    enum imf__epilogue epilogue = p[4] ? IMF__ADD : IMF__STORE;
    enum imf__dtype type = p[4] ? IMF__F32 : IMF__ACT;
    OPERATION(r, r->d->ops->linear(r->d, dst, type, src, w, p[0], epilogue));
    r->d->ops->linear_free(r->d, w);
    free(weight);
}

static void run_swiglu(struct run *r, const int *p)
{
    struct imf__swiglu *w = NULL;
    float *weight = zeros((size_t)p[1] * (size_t)p[2]);
    void *dst = memory(r, (size_t)p[0] * (size_t)p[1] * 4);
    void *src = memory(r, (size_t)p[0] * (size_t)p[2] * 4);
    if (r->status == IMF_OK)
        r->status = r->d->ops->swiglu_load(r->d, &w, weight, weight, p[1], p[2]);
    OPERATION(r, r->d->ops->swiglu(r->d, dst, src, w, p[0]));
    r->d->ops->swiglu_free(r->d, w);
    free(weight);
}

static struct imf__image image(struct run *r, int n, int h, int w, int c, bool f32)
{
    struct imf__image img = {.n = n, .h = h, .w = w, .c = c, .f32 = f32};
    img.data = memory(r, r->d->ops->image_bytes(r->d, &img));
    return img;
}

/* p: side, in, out, kh, kw, stride, pad_h, pad_w, upsample, residual, f32_out */
static void run_conv(struct run *r, const int *p)
{
    struct imf__conv *w = NULL;
    struct imf__conv_desc desc = {.in = p[1],
                                  .out = p[2],
                                  .kh = p[3],
                                  .kw = p[4],
                                  .stride = p[5],
                                  .pad_h = p[6],
                                  .pad_w = p[7],
                                  .in_h = p[0],
                                  .in_w = p[0],
                                  .upsample2x = p[8],
                                  .residual = p[9],
                                  .f32_out = p[10]};
    float *weight = zeros((size_t)(p[1] * p[2] * p[3] * p[4]));
    int up = p[8] ? 2 : 1;
    int oh = (p[0] * up + 2 * p[6] - p[3]) / p[5] + 1,
        ow = (p[0] * up + 2 * p[7] - p[4]) / p[5] + 1;
    struct imf__image src = image(r, 1, p[0], p[0], p[1], false);
    struct imf__image dst = image(r, 1, oh, ow, p[2], p[10]);
    struct imf__image residual = image(r, 1, oh, ow, p[2], false);
    if (r->status == IMF_OK)
        r->status = r->d->ops->conv_load(r->d, &w, &desc, weight, NULL);
    OPERATION(r, r->d->ops->conv2d(r->d, &dst, &src, w, p[9] ? &residual : NULL));
    r->d->ops->conv_free(r->d, w);
    free(weight);
}

static void run_group_norm(struct run *r, const int *p)
{
    struct imf__image src = image(r, 1, p[0], p[0], p[1], false);
    struct imf__image dst = image(r, 1, p[0], p[0], p[1], false);
    float *gamma = memory(r, (size_t)p[1] * 4);
    OPERATION(r, r->d->ops->group_norm(r->d, &dst, &src, gamma, gamma, 32, 1e-6f, true));
}

static imf_status both(struct imf__device *d, const struct imf__conv *w, struct imf__image *dst,
                       const struct imf__image *src, const float *gamma)
{
    IMF_TRY(d->ops->conv2d(d, dst, src, w, NULL));
    return d->ops->group_norm(d, dst, dst, gamma, gamma, 32, 1e-6f, true);
}

/* A convolution that leaves the statistics, and the GroupNorm that takes them; p: side, in, out,
 * upsample */
static void run_conv_norm(struct run *r, const int *p)
{
    struct imf__conv *w = NULL;
    struct imf__conv_desc desc = {.in = p[1],
                                  .out = p[2],
                                  .kh = 3,
                                  .kw = 3,
                                  .stride = 1,
                                  .pad_h = 1,
                                  .pad_w = 1,
                                  .in_h = p[0],
                                  .in_w = p[0],
                                  .upsample2x = p[3],
                                  .norm_groups = 32};
    float *weight = zeros((size_t)(p[1] * p[2] * 9));
    int side = p[3] ? 2 * p[0] : p[0];
    struct imf__image src = image(r, 1, p[0], p[0], p[1], false);
    struct imf__image dst = image(r, 1, side, side, p[2], false);
    float *gamma = memory(r, (size_t)p[2] * 4);
    if (r->status == IMF_OK)
        r->status = r->d->ops->conv_load(r->d, &w, &desc, weight, NULL);
    OPERATION(r, both(r->d, w, &dst, &src, gamma));
    r->d->ops->conv_free(r->d, w);
    free(weight);
}

static void run_pool(struct run *r, const int *p)
{
    struct imf__image src = image(r, 1, p[0], p[0], p[1], false);
    int side = (p[0] - 3) / p[2] + 1;
    struct imf__image dst = image(r, 1, side, side, p[1], false);
    OPERATION(r, r->d->ops->pool2d(r->d, &dst, &src, IMF__POOL_MAX, 3, p[2], 0));
}

static void run_concat(struct run *r, const int *p)
{
    struct imf__image src = image(r, 1, p[0], p[0], p[1], false);
    struct imf__image dst = image(r, 1, p[0], p[0], 2 * p[1], false);
    OPERATION(r, r->d->ops->concat(r->d, &dst, &src, p[1]));
}

static void run_to_rgb8(struct run *r, const int *p)
{
    struct imf__image src = image(r, 1, p[0], p[0], 3, true);
    uint8_t *rgb = memory(r, (size_t)(p[0] * p[0] * 3));
    OPERATION(r, r->d->ops->to_rgb8(r->d, rgb, &src, 127.5f, 127.5f));
}

static void run_from_latent(struct run *r, const int *p)
{
    struct imf__image dst = image(r, 4, p[0], p[0], 4, false);
    float *z = memory(r, (size_t)(4 * p[0] * p[0]) * 16), *scale = memory(r, 16);
    OPERATION(r, r->d->ops->image_from_latent(r->d, &dst, z, scale, scale, false));
}

static void run_tokens(struct run *r, const int *p)
{
    struct imf__image img = image(r, 1, p[0], p[0], p[1], false);
    float *tokens = memory(r, (size_t)(p[0] * p[0] * p[1]) * 4);
    OPERATION(r, p[2] ? r->d->ops->image_to_tokens(r->d, tokens, &img)
                      : r->d->ops->tokens_to_image(r->d, &img, tokens, true));
}

static void run_resize(struct run *r, const int *p)
{
    struct imf__image dst = image(r, 1, p[1], p[1], 3, false);
    uint8_t *rgb = memory(r, (size_t)(p[0] * p[0] * 3));
    OPERATION(r, r->d->ops->resize_rgb8(r->d, &dst, rgb, 1, p[0], p[0]));
}

static void run_assemble(struct run *r, const int *p)
{
    size_t D = (size_t)p[0];
    float *x = memory(r, 276 * D * 4), *tokens = memory(r, 20 * D * 4);
    float *classes = memory(r, 11 * D * 4), *scalars = memory(r, 4 * D * 4);
    float *patches = memory(r, 256 * D * 4), *positions = p[1] ? memory(r, 256 * D * 4) : NULL;
    int32_t *labels = memory(r, 4);
    OPERATION(r, r->d->ops->assemble(r->d, x, tokens, classes, labels, scalars, patches, positions,
                                     1, 256, p[0]));
}

static void run_euler(struct run *r, const int *p)
{
    size_t n = (size_t)(p[1] * p[0] * p[0]);
    float *z = memory(r, n * 4), *out = memory(r, n * 4), *dt = memory(r, 4);
    OPERATION(r, r->d->ops->euler(r->d, z, out, p[3], dt, 1, p[1], p[0], p[2]));
}

static void run_patchify(struct run *r, const int *p)
{
    size_t n = (size_t)(3 * p[0] * p[0]);
    float *z = memory(r, n * 4);
    void *dst = memory(r, n * 4);
    OPERATION(r, r->d->ops->patchify(r->d, dst, IMF__ACT, z, 1, 3, p[0], p[1]));
}

static void run_attention_single(struct run *r, const int *p)
{
    size_t n = (size_t)(p[0] * p[1]);
    float *q = memory(r, n * 4), *k = memory(r, n * 4), *v = memory(r, n * 4);
    float *dst = memory(r, n * 4);
    OPERATION(r, r->d->ops->attention_single(r->d, dst, q, k, v, 1, p[0], p[1]));
}

/* Bounds: 1.3 for element-wise and norms, 1.5 for convolutions; products by cuBLASLt are not ours.
 */
static const struct shape shapes[] = {
    {"assemble, D 1024", run_assemble, {1024}, 1.3},
    {"assemble with positions, D 1280", run_assemble, {1280, 1}, 1.3},
    {"patchify, 256 x 256 by 16", run_patchify, {256, 16}, 1.3},
    {"rms_norm, 276 x 1024", run_rms_norm, {276, 1024}, 1.3},
    {"rms_norm, 276 x 768", run_rms_norm, {276, 768}, 1.3},
    {"rms_norm, 276 x 1280", run_rms_norm, {276, 1280}, 1.3},
    {"linear, 276 x 384 x 128", run_linear, {276, 384, 128, 0, 0}, 1.5},
    {"linear add, 276 x 128 x 128", run_linear, {276, 128, 128, 0, 1}, 1.5},
    {"attention, 276 tokens, 2 heads", run_attention, {276, 2, 64}, 1.3},
    {"attention, 276 tokens, 2 heads of 80", run_attention, {276, 2, 80}, 1.3},
    {"swiglu, 276 x 352 x 128", run_swiglu, {276, 352, 128}, 1.5},
    {"euler, 32 x 32", run_euler, {32, 4, 2}, 1.3},
    {"euler to x, 256 x 256", run_euler, {256, 3, 16, 1}, 1.3},
    {"image_from_latent, 32 x 32", run_from_latent, {32}, 1.3},
    {"conv 3x3, 32 x 32, 4 to 128", run_conv, {32, 4, 128, 3, 3, 1, 1, 1, 0, 0, 0}, 1.5},
    {"conv 3x3, 32 x 32, 128 to 128", run_conv, {32, 128, 128, 3, 3, 1, 1, 1, 0, 0, 0}, 1.5},
    {"conv 3x3 + residual, 32 x 32, 64 to 64", run_conv, {32, 64, 64, 3, 3, 1, 1, 1, 0, 1, 0}, 1.5},
    {"conv 3x3 x2, 16 to 32, 128 to 128", run_conv, {16, 128, 128, 3, 3, 1, 1, 1, 1, 0, 0}, 1.5},
    {"conv 3x3 and group_norm, 64 x 64 x 128", run_conv_norm, {64, 128, 128, 0}, 1.5},
    {"conv 3x3 x2 and group_norm, 32 to 64 x 256", run_conv_norm, {32, 128, 256, 1}, 1.5},
    {"conv 3x3 to f32, 64 x 64, 64 to 3", run_conv, {64, 64, 3, 3, 3, 1, 1, 1, 0, 0, 1}, 1.5},
    {"conv 1x1, 32 x 32, 128 to 64", run_conv, {32, 128, 64, 1, 1, 1, 0, 0, 0, 0, 0}, 1.5},
    {"conv 1x7, 17 x 17, 128 to 64", run_conv, {17, 128, 64, 1, 7, 1, 0, 3, 0, 0, 0}, 1.5},
    {"conv 3x3/2, 35 x 35, 64 to 96", run_conv, {35, 64, 96, 3, 3, 2, 0, 0, 0, 0, 0}, 1.5},
    {"group_norm, 64 x 64 x 128", run_group_norm, {64, 128}, 1.3},
    {"group_norm, 32 x 32 x 512", run_group_norm, {32, 512}, 1.3},
    {"image_to_tokens, 32 x 32 x 128", run_tokens, {32, 128, 1}, 1.3},
    {"tokens_to_image, 32 x 32 x 128", run_tokens, {32, 128, 0}, 1.3},
    {"VAE attention, 256 x 128", run_attention_single, {256, 128}, 1.5},
    {"to_rgb8, 64 x 64", run_to_rgb8, {64}, 1.3},
    {"max pool 3/2, 35 x 35 x 64", run_pool, {35, 64, 2}, 1.3},
    {"concat, 17 x 17 x 64", run_concat, {17, 64}, 1.3},
    {"resize_rgb8, 64 to 75", run_resize, {64, 75}, 1.3},
};

struct totals {
    int launches;
    double dram, l2, flops, wavefronts, ideal;
};

static struct totals sum_counters(void)
{
    struct totals t = {0};
    for (int i = 0; i < emulator->counters_count(); i++) {
        const struct imf_emu_counters *c = emulator->counters_at(i);
        t.launches += (int)c->launches;
        t.dram += (double)(c->read_unique + c->write_unique);
        t.l2 += (double)(c->read_sectors + c->write_sectors) * 32;
        t.flops += (double)c->tensor_flops;
        t.wavefronts += (double)c->shared_wavefronts;
        t.ideal += (double)c->shared_ideal;
    }
    return t;
}

static void write_kernels(FILE *json)
{
    for (int i = 0; i < emulator->counters_count(); i++) {
        const struct imf_emu_counters *c = emulator->counters_at(i);
        fprintf(
            json,
            "%s{\"name\": \"%s\", \"launches\": %llu, \"dram\": %llu, \"l2\": %llu, \"block\": %u, "
            "\"static_smem\": %llu, \"dynamic_smem\": %llu, \"wavefronts\": %llu, \"ideal\": %llu}",
            i ? ", " : "", c->name, (unsigned long long)c->launches,
            (unsigned long long)(c->read_unique + c->write_unique),
            (unsigned long long)((c->read_sectors + c->write_sectors) * 32), c->block[0],
            (unsigned long long)c->static_smem, (unsigned long long)c->dynamic_smem,
            (unsigned long long)c->shared_wavefronts, (unsigned long long)c->shared_ideal);
    }
}

static imf_status run_shape(struct imf__device *d, const struct shape *s)
{
    struct run r = {.d = d};
    s->run(&r, s->p);
    for (int i = 0; i < r.n; i++)
        d->ops->free(d, r.held[i]);
    if (r.status != IMF_OK)
        fprintf(stderr, "%s: %s: %s\n", s->name, imf_status_name(r.status), d->error);
    return r.status;
}

static bool load_emulator(struct emulator *e)
{
    const char *path = getenv("IMFD_CUDA_DRIVER");
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library)
        return false;
    *(void **)&e->counters_reset = dlsym(library, "imf_emu_counters_reset");
    *(void **)&e->counters_count = dlsym(library, "imf_emu_counters_count");
    *(void **)&e->counters_at = dlsym(library, "imf_emu_counters_at");
    *(void **)&e->report_count = dlsym(library, "imf_emu_report_count");
    return e->counters_reset && e->counters_count && e->counters_at && e->report_count;
}

/* One shape on both devices; false when a bound is broken. */
static bool check_shape(struct imf__device *cuda, struct imf__device *roofline,
                        const struct emulator *e, const struct shape *s, FILE *json, bool first)
{
    emulator = e;
    if (run_shape(cuda, s) != IMF_OK)
        return false;
    struct totals t = sum_counters();
    if (json) {
        fprintf(json, "%s\n  {\"case\": \"%s\", \"bound\": %.1f, \"kernels\": [", first ? "" : ",",
                s->name, s->bound);
        write_kernels(json);
    }
    emulator = NULL;
    if (run_shape(roofline, s) != IMF_OK)
        return false;
    struct imf__roofline_row least = imf__roofline_total(roofline);
    double ratio = t.dram / least.bytes;
    bool good = t.launches == least.launches && ratio <= s->bound && t.wavefronts <= t.ideal;
    /* The counting device says exactly which products run on tensor cores. */
    if (t.flops > 0.0 && (t.flops > least.flops * 1.01 || t.flops < least.flops * 0.99))
        good = false;
    printf("%s %-40s launches %d (%d)  dram %.0f / %.0f = %.2f  l2 x %.2f  flops %.3g (%.3g)  "
           "bank conflicts %.0f\n",
           good ? "ok  " : "FAIL", s->name, t.launches, least.launches, t.dram, least.bytes, ratio,
           t.l2 / least.bytes, t.flops, least.flops, t.wavefronts - t.ideal);
    if (json)
        fprintf(json,
                "], \"launches\": %d, \"least\": %.0f, \"dram\": %.0f, "
                "\"l2\": %.0f, \"flops\": %.0f, \"tensor\": %s, \"conflicts\": %.0f}",
                t.launches, least.bytes, t.dram, t.l2, least.flops,
                t.flops > 0.0 ? "true" : "false", t.wavefronts - t.ideal);
    return good;
}

int main(int argc, char **argv)
{
    struct imf_error err = {0};
    struct imf__device *cuda = NULL, *roofline = NULL;
    struct emulator e;
    if (!load_emulator(&e)) {
        fprintf(stderr, "IMFD_CUDA_DRIVER must name the emulator\n");
        return 77;
    }
    if (imf__cuda_device_open(&cuda, 0, IMF_PRECISION_BF16, &err) != IMF_OK ||
        imf__roofline_device_create(&roofline, "H100", IMF_PRECISION_BF16, &err) != IMF_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    FILE *json = argc > 1 && strcmp(argv[1], "-") != 0 ? fopen(argv[1], "w") : NULL;
    if (json)
        fputs("[", json);
    int bad = 0, ran = 0;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        if (argc < 3 || strcmp(argv[2], shapes[i].name) == 0)
            bad += !check_shape(cuda, roofline, &e, &shapes[i], json, ran++ == 0);
    if (json) {
        fputs("\n]\n", json);
        fclose(json);
    }
    if (e.report_count() > 0) {
        fprintf(stderr, "the emulator reports %d faults\n", e.report_count());
        bad++;
    }
    cuda->ops->destroy(cuda);
    roofline->ops->destroy(roofline);
    return bad > 0 || ran == 0;
}
