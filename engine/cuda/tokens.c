/* Token operations of the CUDA device: each is one launch, but for attention_single, which is two
 * batched products around a softmax. */
#include "cuda/internal.h"

#include <math.h>
#include <stdlib.h>

imf_status cuda_rms_norm(struct imf__device *d, void *dst, enum imf__dtype dst_type,
                         const float *src, const float *weight, int B, int T, int t0, int C,
                         float eps)
{
    CUDA_ENTER(d);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c, k_rms_norm(dst, cuda_type(c, dst_type), src, weight, B, T, t0, C, eps, c->stream));
    return IMF_OK;
}

imf_status cuda_attention(struct imf__device *d, void *dst, const void *qkv, const float *q_norm,
                          const float *k_norm, const float *rope, int B, int T, int NH, int HS)
{
    CUDA_ENTER(d);
    if (!imf__head_size_valid(HS))
        return cuda_refuse(c, "heads of %d", HS);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c, k_attention(dst, qkv, c->act, q_norm, k_norm, rope, B, T, NH, HS, c->stream));
    return IMF_OK;
}

imf_status cuda_scalar_embed(struct imf__device *d, float *dst, const float *values, int rows)
{
    CUDA_ENTER(d);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c, k_scalar_embed(dst, values, rows, c->stream));
    return IMF_OK;
}

imf_status cuda_patchify(struct imf__device *d, void *dst, enum imf__dtype dst_type, const float *z,
                         int B, int C, int S, int p)
{
    CUDA_ENTER(d);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c, k_patchify(dst, cuda_type(c, dst_type), z, B, C, S, p, c->stream));
    return IMF_OK;
}

imf_status cuda_assemble(struct imf__device *d, float *x, const float *tokens, const float *classes,
                         const int32_t *labels, const float *scalars, const float *patches,
                         const float *positions, int B, int P, int D)
{
    CUDA_ENTER(d);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(
        c, k_assemble(x, tokens, classes, labels, scalars, patches, positions, B, P, D, c->stream));
    return IMF_OK;
}

imf_status cuda_euler(struct imf__device *d, float *z, const float *out, bool predicts_x,
                      const float *dt, int B, int C, int S, int p)
{
    CUDA_ENTER(d);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c, k_euler(z, out, predicts_x, dt, B, C, S, p, c->stream));
    return IMF_OK;
}

/* The two products of attention_single for one size. */
struct cuda_attention_plan {
    struct cuda_attention_plan *next;
    int T, C;
    struct cuda_gemm *scores;   /* (T, T) f32 = q k^T, batched over pictures */
    struct cuda_gemm *weighted; /* (T, C) f32 = probabilities v */
};

void cuda_attention_plans_free(struct cuda_device *c)
{
    while (c->plans) {
        struct cuda_attention_plan *p = c->plans;
        c->plans = p->next;
        cuda_gemm_destroy(p->scores);
        cuda_gemm_destroy(p->weighted);
        free(p);
    }
}

static imf_status make_plan(struct cuda_device *c, struct cuda_attention_plan *p)
{
    int64_t T = p->T, C = p->C;
    struct cuda_gemm_shape scores = {
        .ab = K_F32,
        .d = K_F32,
        .m = p->T,
        .k = p->C,
        .n = p->T,
        .a_transposed = true,
        .lda = C,
        .ldb = C,
        .ldd = T,
        .stride_a = T * C,
        .stride_b = T * C,
        .stride_d = T * T,
    };
    struct cuda_gemm_shape weighted = {
        .ab = K_F32,
        .d = K_F32,
        .m = p->C,
        .k = p->T,
        .n = p->T,
        .a_transposed = false,
        .lda = C,
        .ldb = T,
        .ldd = C,
        .stride_a = T * C,
        .stride_b = T * T,
        .stride_d = T * C,
    };
    IMF_TRY(cuda_gemm_create(c, &p->scores, &scores));
    IMF_TRY(cuda_gemm_create(c, &p->weighted, &weighted));
    if (!p->scores || !p->weighted)
        return cuda_refuse(c, "cuBLASLt has no algorithm for attention over %d tokens of %d", p->T,
                           p->C);
    return IMF_OK;
}

static imf_status plan_for(struct cuda_device *c, struct cuda_attention_plan **out, int T, int C)
{
    for (struct cuda_attention_plan *p = c->plans; p; p = p->next) {
        if (p->T == T && p->C == C) {
            *out = p;
            return IMF_OK;
        }
    }
    struct cuda_attention_plan *p = calloc(1, sizeof(*p));
    if (!p)
        return IMF_ENOMEM;
    p->T = T;
    p->C = C;
    p->next = c->plans;
    c->plans = p;
    imf_status status = make_plan(c, p);
    if (status != IMF_OK) {
        c->plans = p->next;
        cuda_gemm_destroy(p->scores);
        cuda_gemm_destroy(p->weighted);
        free(p);
        return status;
    }
    *out = p;
    return IMF_OK;
}

/* All float32: one head of 512 over 1024 positions amplifies what bfloat16 would round away, and
 * the two products are half a percent of a picture's work. */
imf_status cuda_attention_single(struct imf__device *d, float *dst, const float *q, const float *k,
                                 const float *v, int n, int T, int C)
{
    CUDA_ENTER(d);
    if (n < 1 || T < 1 || C < 1 || T > 16384 || C > 16384)
        return cuda_refuse(c, "attention over %d x %d tokens of %d is out of range", n, T, C);
    struct cuda_attention_plan *p = NULL;
    IMF_TRY(plan_for(c, &p, T, C));
    size_t square = (size_t)n * (size_t)T * (size_t)T;
    void *scores = NULL;
    IMF_TRY(cuda_scratch(c, &scores, square * sizeof(float)));
    if (d->dry && (!cuda_gemm_fits(c, p->scores, T, n) || !cuda_gemm_fits(c, p->weighted, T, n)))
        return cuda_refuse(c, "cuBLASLt cannot batch attention over %d x %d tokens", n, T);
    CUDA_DRY_STOPS_HERE(c);
    /* Row-major scores (query, key): A is k, B is q. */
    IMF_TRY(cuda_gemm_run(c, p->scores, scores, k, q, T, n, 1.0f / sqrtf((float)C)));
    CUDA_TRY(c, k_softmax(scores, scores, n * T, T, c->stream));
    return cuda_gemm_run(c, p->weighted, dst, v, scores, T, n, 1.0f);
}
