/* The plain device's operations on tokens. */
#include "reference/plain.h"

#include <math.h>
#include <stdlib.h>

static double silu(double x)
{
    return x / (1 + exp(-x));
}

/* sum over k of a[k] w[k] */
static double dot(const float *a, const float *w, int K)
{
    double sum = 0;
    for (int k = 0; k < K; k++)
        sum += (double)a[k] * w[k];
    return sum;
}

/* Row `row` of src (rows, K) as floats. */
static void get_row(const struct imf__device *d, enum imf__dtype type, float *dst, const void *src,
                    int row, int K)
{
    for (int k = 0; k < K; k++)
        dst[k] = imf__plain_get(d, type, src, (size_t)row * (size_t)K + (size_t)k);
}

static imf_status linear(struct imf__device *d, void *dst, enum imf__dtype dst_type,
                         const void *src, const struct imf__linear *w, int rows,
                         enum imf__epilogue epilogue)
{
    if (epilogue == IMF__ADD && dst_type != IMF__F32)
        return IMF_EINVAL;
    if (d->dry)
        return IMF_OK;
    float *x = malloc((size_t)w->K * sizeof(*x));
    if (!x)
        return IMF_ENOMEM;
    for (int row = 0; row < rows; row++) {
        get_row(d, w->type, x, src, row, w->K);
        for (int n = 0; n < w->N; n++) {
            size_t at = (size_t)row * (size_t)w->N + (size_t)n;
            double y = dot(x, w->weight + (size_t)n * (size_t)w->K, w->K);
            if (w->bias)
                y += w->bias[n];
            if (epilogue == IMF__SILU)
                y = silu(y);
            else if (epilogue == IMF__ADD)
                y += ((float *)dst)[at];
            imf__plain_set(d, dst_type, dst, at, y);
        }
    }
    free(x);
    return IMF_OK;
}

static imf_status swiglu(struct imf__device *d, void *dst, const void *src,
                         const struct imf__swiglu *w, int rows)
{
    if (d->dry)
        return IMF_OK;
    float *x = malloc((size_t)w->K * sizeof(*x));
    if (!x)
        return IMF_ENOMEM;
    for (int row = 0; row < rows; row++) {
        get_row(d, IMF__ACT, x, src, row, w->K);
        for (int m = 0; m < w->M; m++) {
            size_t at = (size_t)m * (size_t)w->K;
            imf__plain_set(d, IMF__ACT, dst, (size_t)row * (size_t)w->M + (size_t)m,
                           silu(dot(x, w->w1 + at, w->K)) * dot(x, w->w3 + at, w->K));
        }
    }
    free(x);
    return IMF_OK;
}

/* y = x / sqrt(mean(x^2) + eps) * weight */
static void normalise(double *y, const float *x, const float *weight, int C, double eps)
{
    double sum = 0;
    for (int c = 0; c < C; c++)
        sum += (double)x[c] * x[c];
    double scale = 1 / sqrt(sum / C + eps);
    for (int c = 0; c < C; c++)
        y[c] = x[c] * scale * (weight ? weight[c] : 1);
}

static imf_status rms_norm(struct imf__device *d, void *dst, enum imf__dtype dst_type,
                           const float *src, const float *weight, int B, int T, int t0, int C,
                           float eps)
{
    if (t0 < 0 || t0 >= T)
        return IMF_EINVAL;
    if (d->dry)
        return IMF_OK;
    double *y = malloc((size_t)C * sizeof(*y));
    if (!y)
        return IMF_ENOMEM;
    size_t at = 0;
    for (int b = 0; b < B; b++) {
        for (int t = t0; t < T; t++) {
            normalise(y, src + ((size_t)b * (size_t)T + (size_t)t) * (size_t)C, weight, C, eps);
            for (int c = 0; c < C; c++)
                imf__plain_set(d, dst_type, dst, at++, y[c]);
        }
    }
    free(y);
    return IMF_OK;
}

enum { MAX_HS = 128 };

/* dst (T, HS) = rope(norm(q or k)) of one head; qkv points at sample b. */
static void normed_rotated(const struct imf__device *d, double *dst, const void *qkv, size_t first,
                           size_t stride, const float *weight, const float *rope, int T, int HS)
{
    for (int t = 0; t < T; t++) {
        float x[MAX_HS];
        double y[MAX_HS];
        for (int i = 0; i < HS; i++)
            x[i] = imf__plain_get(d, IMF__ACT, qkv, first + (size_t)t * stride + (size_t)i);
        normalise(y, x, weight, HS, 1e-6);
        for (int i = 0; i < HS / 2; i++) {
            double c = rope[t * (HS / 2) + i];
            double s = rope[(T + t) * (HS / 2) + i];
            double *out = dst + t * HS + 2 * i;
            out[0] = imf__plain_act(d, y[2 * i] * c - y[2 * i + 1] * s);
            out[1] = imf__plain_act(d, y[2 * i] * s + y[2 * i + 1] * c);
        }
    }
}

/* p (T) = softmax of itself; the sum is returned and p left undivided, as a device divides last. */
static double exponentials(double *p, int T)
{
    double top = p[0], sum = 0;
    for (int t = 1; t < T; t++)
        top = p[t] > top ? p[t] : top;
    for (int t = 0; t < T; t++) {
        p[t] = exp(p[t] - top);
        sum += p[t];
    }
    return sum;
}

static imf_status attention(struct imf__device *d, void *dst, const void *qkv, const float *q_norm,
                            const float *k_norm, const float *rope, int B, int T, int NH, int HS)
{
    if (HS > MAX_HS)
        return IMF_EUNSUPPORTED;
    if (d->dry)
        return IMF_OK;
    size_t head_size = (size_t)HS;
    double *q = malloc((size_t)T * head_size * sizeof(*q));
    double *k = malloc((size_t)T * head_size * sizeof(*k));
    double *p = malloc((size_t)T * sizeof(*p));
    imf_status status = q && k && p ? IMF_OK : IMF_ENOMEM;
    size_t stride = (size_t)3 * (size_t)NH * head_size; /* from a token to the next */
    for (int bh = 0; status == IMF_OK && bh < B * NH; bh++) {
        size_t sample = (size_t)(bh / NH), head = (size_t)(bh % NH);
        size_t first = sample * (size_t)T * stride + head * head_size;
        size_t k_first = first + (size_t)NH * head_size;
        size_t v_first = k_first + (size_t)NH * head_size;
        normed_rotated(d, q, qkv, first, stride, q_norm, rope, T, HS);
        normed_rotated(d, k, qkv, k_first, stride, k_norm, rope, T, HS);
        for (int t = 0; t < T; t++) {
            for (int s = 0; s < T; s++) {
                double score = 0;
                for (int i = 0; i < HS; i++)
                    score += q[t * HS + i] * k[s * HS + i];
                p[s] = score / sqrt(HS);
            }
            double sum = exponentials(p, T);
            for (int i = 0; i < HS; i++) {
                double y = 0;
                for (int s = 0; s < T; s++)
                    y += imf__plain_act(d, p[s]) *
                         imf__plain_get(d, IMF__ACT, qkv, v_first + (size_t)s * stride + (size_t)i);
                size_t row = sample * (size_t)T + (size_t)t;
                imf__plain_set(d, IMF__ACT, dst, (row * (size_t)NH + head) * head_size + (size_t)i,
                               y / sum);
            }
        }
    }
    free(q);
    free(k);
    free(p);
    return status;
}

static imf_status attention_single(struct imf__device *d, float *dst, const float *q,
                                   const float *k, const float *v, int n, int T, int C)
{
    if (d->dry)
        return IMF_OK;
    double *p = malloc((size_t)T * sizeof(*p));
    if (!p)
        return IMF_ENOMEM;
    for (int row = 0; row < n * T; row++) {
        size_t base = (size_t)(row / T) * (size_t)T * (size_t)C;
        for (int s = 0; s < T; s++)
            p[s] = dot(q + (size_t)row * (size_t)C, k + base + (size_t)s * (size_t)C, C) / sqrt(C);
        double sum = exponentials(p, T);
        for (int c = 0; c < C; c++) {
            double y = 0;
            for (int s = 0; s < T; s++)
                y += p[s] * v[base + (size_t)s * (size_t)C + (size_t)c];
            dst[(size_t)row * (size_t)C + (size_t)c] = (float)(y / sum);
        }
    }
    free(p);
    return IMF_OK;
}

static imf_status scalar_embed(struct imf__device *d, float *dst, const float *values, int rows)
{
    for (int row = 0; !d->dry && row < rows; row++) {
        for (int k = 0; k < 128; k++) {
            double angle = values[row] * exp(-log(10000) * k / 128);
            dst[row * 256 + k] = (float)cos(angle);
            dst[row * 256 + 128 + k] = (float)sin(angle);
        }
    }
    return IMF_OK;
}

static imf_status patchify(struct imf__device *d, void *dst, enum imf__dtype dst_type,
                           const float *z, int B, int C, int S, int p)
{
    int G = S / p; /* patches along a side */
    for (int b = 0; !d->dry && b < B; b++) {
        for (int patch = 0; patch < G * G; patch++) {
            for (int f = 0; f < C * p * p; f++) {
                int c = f / (p * p), py = f / p % p, px = f % p;
                int y = patch / G * p + py, x = patch % G * p + px;
                imf__plain_set(d, dst_type, dst, ((size_t)b * G * G + patch) * C * p * p + f,
                               z[(((size_t)b * C + c) * S + y) * S + x]);
            }
        }
    }
    return IMF_OK;
}

static imf_status assemble(struct imf__device *d, float *x, const float *tokens,
                           const float *classes, const int32_t *labels, const float *scalars,
                           const float *patches, const float *positions, int B, int P, int D)
{
    for (int b = 0; !d->dry && b < B; b++) {
        for (int t = 0; t < 20 + P; t++) {
            const float *add, *learned = t < 20 ? tokens + (size_t)t * D : NULL;
            if (t < 8)
                add = classes + (size_t)labels[b] * D;
            else if (t < 20) /* omega, t_min, t_max, h */
                add = scalars + ((size_t)(t < 12 ? 0 : t < 14 ? 1 : t < 16 ? 2 : 3) * B + b) * D;
            else
                add = patches + ((size_t)b * P + (t - 20)) * D;
            if (t >= 20 && positions)
                learned = positions + (size_t)(t - 20) * D;
            for (int c = 0; c < D; c++)
                x[((size_t)b * (20 + P) + t) * D + c] = add[c] + (learned ? learned[c] : 0);
        }
    }
    return IMF_OK;
}

static imf_status euler(struct imf__device *d, float *z, const float *out, bool predicts_x,
                        const float *dt, int B, int C, int S, int p)
{
    int G = S / p;
    for (int b = 0; !d->dry && b < B; b++) {
        for (int i = 0; i < C * S * S; i++) {
            int c = i / (S * S), y = i / S % S, x = i % S;
            size_t patch = (size_t)b * G * G + (size_t)(y / p * G + x / p);
            float *at = &z[(size_t)b * C * S * S + i];
            double u = out[(patch * p * p + (y % p * p + x % p)) * C + c];
            *at = (float)(*at - dt[b] * (predicts_x ? *at - u : u));
        }
    }
    return IMF_OK;
}

void imf__plain_fill_tokens(struct imf__device_ops *ops)
{
    ops->linear = linear;
    ops->swiglu = swiglu;
    ops->rms_norm = rms_norm;
    ops->attention = attention;
    ops->attention_single = attention_single;
    ops->scalar_embed = scalar_embed;
    ops->patchify = patchify;
    ops->assemble = assemble;
    ops->euler = euler;
}
