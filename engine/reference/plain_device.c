/* The plain device: memory, weights and the table. Host memory is device memory here, every call is
 * finished when it returns, and a dry run has nothing to prepare. */
#include "reference/plain.h"
#include "common/bfloat16.h"
#include "common/clock.h"
#include "common/error.h"

#include <stdlib.h>
#include <string.h>

/* ---- Elements ---- */

static float bf16_round(float x)
{
    return imf__from_bf16(imf__to_bf16(x));
}

static bool is_bf16(const struct imf__device *d, enum imf__dtype type)
{
    return type != IMF__F32 && d->precision == IMF_PRECISION_BF16;
}

float imf__plain_get(const struct imf__device *d, enum imf__dtype type, const void *p, size_t i)
{
    return is_bf16(d, type) ? imf__from_bf16(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

void imf__plain_set(const struct imf__device *d, enum imf__dtype type, void *p, size_t i,
                    double value)
{
    if (is_bf16(d, type))
        ((uint16_t *)p)[i] = imf__to_bf16((float)value);
    else
        ((float *)p)[i] = (float)value;
}

double imf__plain_act(const struct imf__device *d, double value)
{
    return is_bf16(d, IMF__ACT) ? bf16_round((float)value) : value;
}

float *imf__plain_copy(struct imf__device *d, const float *src, size_t n, bool act)
{
    float *copy = malloc(n * sizeof(*copy));
    if (!copy)
        return NULL;
    for (size_t i = 0; i < n; i++)
        copy[i] = act && d->precision == IMF_PRECISION_BF16 ? bf16_round(src[i]) : src[i];
    d->weights_bytes += n * sizeof(*copy);
    return copy;
}

/* ---- Memory ---- */

static void plain_destroy(struct imf__device *d)
{
    free(d);
}

static imf_status plain_alloc(struct imf__device *d, void **out, size_t bytes, bool weight)
{
    if (bytes > SIZE_MAX / 2)
        return IMF_EINVAL;
    size_t rounded = (bytes + 255) / 256 * 256;
    void *p = aligned_alloc(256, rounded ? rounded : 256);
    if (!p)
        return IMF_ENOMEM;
    memset(p, 0, rounded);
    if (weight)
        d->weights_bytes += bytes;
    *out = p;
    return IMF_OK;
}

static void plain_free(struct imf__device *d, void *p)
{
    (void)d;
    free(p);
}

static imf_status plain_copy_bytes(struct imf__device *d, void *dst, const void *src, size_t bytes)
{
    if (!d->dry && bytes)
        memcpy(dst, src, bytes);
    return IMF_OK;
}

static imf_status plain_sync(struct imf__device *d)
{
    (void)d;
    return IMF_OK;
}

static imf_status plain_graph_run(struct imf__device *d, struct imf__graph **slot,
                                  imf__forward_fn fn, void *ctx, int B)
{
    (void)d;
    (void)slot;
    return fn(ctx, B);
}

static void plain_graph_free(struct imf__device *d, struct imf__graph *g)
{
    (void)d;
    (void)g;
}

/* ---- Weights ---- */

static void linear_free(struct imf__device *d, struct imf__linear *w)
{
    (void)d;
    if (!w)
        return;
    free(w->weight);
    free(w->bias);
    free(w);
}

static imf_status linear_load(struct imf__device *d, struct imf__linear **out, enum imf__dtype type,
                              const float *weight, const float *bias, int N, int K)
{
    struct imf__linear *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    w->type = type;
    w->N = N;
    w->K = K;
    w->weight = imf__plain_copy(d, weight, (size_t)N * (size_t)K, type != IMF__F32);
    w->bias = bias ? imf__plain_copy(d, bias, (size_t)N, false) : NULL;
    if (!w->weight || (bias && !w->bias)) {
        linear_free(d, w);
        return IMF_ENOMEM;
    }
    *out = w;
    return IMF_OK;
}

static void swiglu_free(struct imf__device *d, struct imf__swiglu *w)
{
    (void)d;
    if (!w)
        return;
    free(w->w1);
    free(w->w3);
    free(w);
}

static imf_status swiglu_load(struct imf__device *d, struct imf__swiglu **out, const float *w1,
                              const float *w3, int M, int K)
{
    struct imf__swiglu *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    w->M = M;
    w->K = K;
    w->w1 = imf__plain_copy(d, w1, (size_t)M * (size_t)K, true);
    w->w3 = imf__plain_copy(d, w3, (size_t)M * (size_t)K, true);
    if (!w->w1 || !w->w3) {
        swiglu_free(d, w);
        return IMF_ENOMEM;
    }
    *out = w;
    return IMF_OK;
}

/* ---- The device ---- */

/* Of these loops, not of the machine. */
static imf_status matmul_rate(struct imf__device *d, double *flops_per_second)
{
    enum { N = 96 };
    float *a = calloc((size_t)N * N, sizeof(*a)), *c = calloc((size_t)N * N, sizeof(*c));
    struct imf__linear w = {.type = IMF__F32, .N = N, .K = N, .weight = a};
    imf_status status = a && c ? IMF_OK : IMF_ENOMEM;
    double start = imf__seconds();
    if (status == IMF_OK)
        status = d->ops->linear(d, c, IMF__F32, a, &w, N, IMF__STORE);
    if (status == IMF_OK)
        *flops_per_second = 2.0 * N * N * N / (imf__seconds() - start + 1e-9);
    free(a);
    free(c);
    return status;
}

static struct imf__device_ops make_table(void)
{
    struct imf__device_ops ops = {
        .destroy = plain_destroy,
        .alloc = plain_alloc,
        .free = plain_free,
        .upload = plain_copy_bytes,
        .download = plain_copy_bytes,
        .sync = plain_sync,
        .graph_run = plain_graph_run,
        .graph_free = plain_graph_free,
        .linear_load = linear_load,
        .linear_free = linear_free,
        .swiglu_load = swiglu_load,
        .swiglu_free = swiglu_free,
        .matmul_rate = matmul_rate,
    };
    imf__plain_fill_tokens(&ops);
    imf__plain_fill_images(&ops);
    return ops;
}

struct plain_device {
    struct imf__device base;
    struct imf__device_ops ops; /* a copy a device: no global needs a lock */
};

imf_status imf__plain_device_create(struct imf__device **out, enum imf_precision precision,
                                    struct imf_error *err)
{
    struct plain_device *d = calloc(1, sizeof(*d));
    if (!d)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    bool bf16 = precision == IMF_PRECISION_BF16;
    d->ops = make_table();
    d->base.ops = &d->ops;
    d->base.precision = bf16 ? IMF_PRECISION_BF16 : IMF_PRECISION_FP32;
    d->base.act_size = bf16 ? 2 : 4;
    d->base.decode_batch = 1;
    d->base.info.precision = d->base.precision;
    d->base.info.threads = 1;
    strcpy(d->base.info.device, "plain");
    strcpy(d->base.info.description, "plain loops, the reference");
    *out = &d->base;
    return IMF_OK;
}
