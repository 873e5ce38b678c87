/* Inputs, buffers and results of one run of one case. */
#include "reference/op_run.h"
#include "common/bfloat16.h"
#include "common/error.h"

#include <stdlib.h>
#include <string.h>

enum { GUARD_BYTES = 256, GARBAGE = 0xFF /* NaN in float32 and bfloat16 */ };

static uint64_t splitmix64(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static void fill(float *dst, uint64_t seed, int tag, size_t n, float amplitude, bool act)
{
    uint64_t base = splitmix64(seed * 64 + (uint64_t)tag);
    for (size_t i = 0; i < n; i++) {
        uint64_t bits = splitmix64(base + i);
        /* The sum of two uniforms in (-1, 1), scaled to variance 1. */
        float u = (float)(int32_t)(bits >> 32) * 0x1p-31f, v = (float)(int32_t)bits * 0x1p-31f;
        float x = (u + v) * 1.2247449f * amplitude;
        dst[i] = act ? imf__from_bf16(imf__to_bf16(x)) : x;
    }
}

static imf_status hold_host(struct imf__op_run *r, void **out, size_t bytes)
{
    if (r->n_host == OP_HELD)
        return IMF_EINVAL;
    void *p = malloc(bytes ? bytes : 1);
    if (!p)
        return IMF_ENOMEM;
    r->host[r->n_host++] = p;
    *out = p;
    return IMF_OK;
}

static imf_status hold_device(struct imf__op_run *r, void **out, size_t bytes)
{
    if (r->n_device == OP_HELD)
        return IMF_EINVAL;
    void *p = NULL;
    IMF_TRY(r->d->ops->alloc(r->d, &p, bytes, false));
    r->device[r->n_device++] = p;
    *out = p;
    return IMF_OK;
}

imf_status imf__op_values(struct imf__op_run *r, float **out, uint64_t seed, int tag, size_t n,
                          float amplitude, bool act)
{
    void *p;
    IMF_TRY(hold_host(r, &p, n * sizeof(float)));
    *out = p;
    fill(*out, seed, tag, n, amplitude, act);
    return IMF_OK;
}

imf_status imf__op_samples(struct imf__op_run *r, float **out, int tag, size_t per_sample,
                           float amplitude, bool act)
{
    void *p;
    IMF_TRY(hold_host(r, &p, (size_t)r->B * per_sample * sizeof(float)));
    *out = p;
    for (int b = 0; b < r->B; b++)
        fill(*out + (size_t)b * per_sample, r->seeds[b], tag, per_sample, amplitude, act);
    return IMF_OK;
}

imf_status imf__op_upload_bytes(struct imf__op_run *r, void **out, const void *src, size_t bytes)
{
    IMF_TRY(hold_device(r, out, bytes));
    return r->d->ops->upload(r->d, *out, src, bytes);
}

static size_t size_of(const struct imf__device *d, enum imf__dtype type)
{
    return type == IMF__F32 ? sizeof(float) : d->act_size;
}

imf_status imf__op_upload(struct imf__op_run *r, void **out, const float *src, size_t n,
                          enum imf__dtype type)
{
    if (size_of(r->d, type) == sizeof(float))
        return imf__op_upload_bytes(r, out, src, n * sizeof(float));
    uint16_t *half = malloc(n * sizeof(*half) + 1);
    if (!half)
        return IMF_ENOMEM;
    for (size_t i = 0; i < n; i++)
        half[i] = imf__to_bf16(src[i]);
    imf_status status = imf__op_upload_bytes(r, out, half, n * sizeof(*half));
    if (status == IMF_OK)
        status = r->d->ops->sync(r->d); /* before the host copy goes */
    free(half);
    return status;
}

static imf_status fill_garbage(struct imf__op_run *r, void *dst, size_t bytes)
{
    void *garbage = malloc(bytes ? bytes : 1);
    if (!garbage)
        return IMF_ENOMEM;
    memset(garbage, GARBAGE, bytes);
    imf_status status = r->d->ops->upload(r->d, dst, garbage, bytes);
    if (status == IMF_OK)
        status = r->d->ops->sync(r->d);
    free(garbage);
    return status;
}

static imf_status output_bytes(struct imf__op_run *r, void **out, size_t bytes)
{
    IMF_TRY(hold_device(r, out, bytes + GUARD_BYTES));
    return fill_garbage(r, *out, bytes + GUARD_BYTES);
}

imf_status imf__op_output(struct imf__op_run *r, void **out, size_t n, enum imf__dtype type)
{
    return output_bytes(r, out, n * size_of(r->d, type));
}

/* Downloads `bytes` and the guard behind them into held host memory. */
static imf_status take_bytes(struct imf__op_run *r, void **out, const void *src, size_t bytes)
{
    IMF_TRY(hold_host(r, out, bytes + GUARD_BYTES));
    IMF_TRY(r->d->ops->download(r->d, *out, src, bytes + GUARD_BYTES));
    const uint8_t *guard = (const uint8_t *)*out + bytes;
    for (int i = 0; i < GUARD_BYTES; i++) {
        if (guard[i] != GARBAGE)
            r->complaint = "wrote behind the end of its output";
    }
    r->count = bytes;
    return IMF_OK;
}

imf_status imf__op_take(struct imf__op_run *r, const void *src, size_t n, enum imf__dtype type)
{
    void *raw;
    size_t size = size_of(r->d, type);
    IMF_TRY(take_bytes(r, &raw, src, n * size));
    r->result = malloc(n * sizeof(float));
    if (!r->result)
        return IMF_ENOMEM;
    r->count = n;
    for (size_t i = 0; i < n; i++)
        r->result[i] = size == sizeof(float) ? ((const float *)raw)[i]
                                             : imf__from_bf16(((const uint16_t *)raw)[i]);
    return IMF_OK;
}

/* ---- Rows for products ---- */

static bool lies_apart(const struct imf__op_run *r, enum imf__dtype type)
{
    return type == IMF__ACT && r->d->ops->act_bytes;
}

imf_status imf__op_upload_rows(struct imf__op_run *r, void **out, const float *src, size_t rows,
                               size_t K, enum imf__dtype type)
{
    if (!lies_apart(r, type))
        return imf__op_upload(r, out, src, rows * K, type);
    IMF_TRY(imf__op_output_rows(r, out, rows, K, type));
    return imf__act_put(r->d, *out, src, rows, K);
}

imf_status imf__op_output_rows(struct imf__op_run *r, void **out, size_t rows, size_t K,
                               enum imf__dtype type)
{
    if (!lies_apart(r, type))
        return imf__op_output(r, out, rows * K, type);
    return output_bytes(r, out, imf__act_bytes(r->d, rows, K));
}

imf_status imf__op_take_rows(struct imf__op_run *r, const void *src, size_t rows, size_t K,
                             enum imf__dtype type)
{
    if (!lies_apart(r, type))
        return imf__op_take(r, src, rows * K, type);
    void *raw;
    IMF_TRY(take_bytes(r, &raw, src, imf__act_bytes(r->d, rows, K)));
    r->count = rows * K;
    r->result = malloc(r->count * sizeof(float));
    return r->result ? imf__act_get(r->d, r->result, src, rows, K) : IMF_ENOMEM;
}

imf_status imf__op_take_levels(struct imf__op_run *r, const uint8_t *src, size_t n)
{
    void *raw;
    IMF_TRY(take_bytes(r, &raw, src, n));
    r->result = malloc(n * sizeof(float));
    if (!r->result)
        return IMF_ENOMEM;
    for (size_t i = 0; i < n; i++)
        r->result[i] = ((const uint8_t *)raw)[i];
    return IMF_OK;
}

imf_status imf__op_image(struct imf__op_run *r, struct imf__image *img)
{
    size_t bytes = r->d->ops->image_bytes(r->d, img);
    IMF_TRY(hold_device(r, &img->data, bytes));
    return fill_garbage(r, img->data, bytes);
}

imf_status imf__op_image_load(struct imf__op_run *r, struct imf__image *img, const float *values)
{
    void *tokens;
    size_t n = (size_t)img->n * (size_t)img->h * (size_t)img->w * (size_t)img->c;
    IMF_TRY(imf__op_image(r, img));
    IMF_TRY(imf__op_upload(r, &tokens, values, n, IMF__F32));
    OP_CALL(r, r->d->ops->tokens_to_image(r->d, img, tokens, false));
    return IMF_OK;
}

imf_status imf__op_image_take(struct imf__op_run *r, const struct imf__image *img)
{
    void *tokens;
    size_t n = (size_t)img->n * (size_t)img->h * (size_t)img->w * (size_t)img->c;
    IMF_TRY(imf__op_output(r, &tokens, n, IMF__F32));
    OP_CALL(r, r->d->ops->image_to_tokens(r->d, tokens, img));
    return imf__op_take(r, tokens, n, IMF__F32);
}

imf_status imf__op_run(struct imf__op_run *r, const struct imf__op_case *c)
{
    imf_status status = c->op->run(r, c->p);
    const struct imf__device_ops *ops = r->d->ops;
    r->d->dry = false;
    if (status == IMF_OK)
        status = ops->sync(r->d);
    ops->linear_free(r->d, r->linear);
    ops->swiglu_free(r->d, r->swiglu);
    ops->conv_free(r->d, r->conv);
    for (int i = 0; i < r->n_device; i++)
        ops->free(r->d, r->device[i]);
    for (int i = 0; i < r->n_host; i++)
        free(r->host[i]);
    r->n_device = r->n_host = 0;
    if (status != IMF_OK) {
        free(r->result);
        r->result = NULL;
    }
    return status;
}
