/* Weight matrices on the CUDA device: linear layers and SwiGLU's pair. k is padded with zeros to a
 * multiple of 16 at load, which is exact; an x whose rows are not so padded is copied into padded
 * rows first. What cuBLASLt refuses (no algorithm without split-K) runs on k_linear instead. */
#include "cuda/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BY_DST_TYPE = 2, BY_ADD = 2 };

struct imf__linear {
    enum k_type type;
    int N, K, Kp;
    void *weight;    /* (N, Kp) */
    float *bias;     /* (N) or NULL */
    void *bias_bf16; /* cuBLASLt wants the bias in D's type */
    size_t bytes;
    struct cuda_gemm *gemm[BY_DST_TYPE][BY_ADD]; /* made when first asked for, in a dry run */
    bool refused[BY_DST_TYPE][BY_ADD];
};

struct imf__swiglu {
    struct imf__linear *both; /* rows 0..M-1: w1, Mp..Mp+M-1: w3, zeros between */
    int M, Mp;
};

/* Reference number of rows for choosing algorithms: sixteen samples of 256 tokens. */
#define REFERENCE_ROWS 4096

static imf_status upload_matrix(struct cuda_device *c, struct imf__linear *w, const float *weight)
{
    size_t row = (size_t)w->Kp * cuda_type_size(w->type), bytes = (size_t)w->N * row;
    char *host = calloc((size_t)w->N, row);
    if (!host)
        return IMF_ENOMEM;
    for (int i = 0; i < w->N; i++)
        cuda_pack(host + (size_t)i * row, w->type, weight + (size_t)i * (size_t)w->K, (size_t)w->K);
    imf_status status = cuda_weight_upload(c, &w->weight, host, bytes);
    free(host);
    w->bytes += bytes;
    return status;
}

static imf_status upload_bias(struct cuda_device *c, struct imf__linear *w, const float *bias)
{
    size_t n = (size_t)w->N;
    void *p = NULL;
    IMF_TRY(cuda_weight_upload(c, &p, bias, n * sizeof(float)));
    w->bias = p;
    uint16_t *half = malloc(n * sizeof(*half));
    if (!half)
        return IMF_ENOMEM;
    cuda_pack(half, K_BF16, bias, n);
    imf_status status = cuda_weight_upload(c, &w->bias_bf16, half, n * sizeof(*half));
    free(half);
    return status;
}

imf_status cuda_linear_load(struct imf__device *d, struct imf__linear **out, enum imf__dtype type,
                            const float *weight, const float *bias, int N, int K)
{
    CUDA_ENTER(d);
    if (N < 1 || K < 1 || N > 1 << 20 || K > 1 << 20)
        return cuda_refuse(c, "a matrix of %d x %d is out of range", N, K);
    struct imf__linear *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    w->type = cuda_type(c, type);
    w->N = N;
    w->K = K;
    w->Kp = cuda_round_up(K, 16);
    imf_status status = upload_matrix(c, w, weight);
    if (status == IMF_OK && bias)
        status = upload_bias(c, w, bias);
    if (status != IMF_OK) {
        cuda_linear_free(d, w);
        return status;
    }
    *out = w;
    return IMF_OK;
}

void cuda_linear_free(struct imf__device *d, struct imf__linear *w)
{
    if (!w)
        return;
    for (int i = 0; i < BY_DST_TYPE; i++)
        for (int j = 0; j < BY_ADD; j++)
            cuda_gemm_destroy(w->gemm[i][j]);
    cuda_free(d, w->weight);
    cuda_free(d, w->bias);
    cuda_free(d, w->bias_bf16);
    free(w);
}

/* The plain kernel is right but slow: nobody should have to guess. */
static void note_refusal(struct cuda_device *c, const struct imf__linear *w, enum k_type dst,
                         int rows)
{
    if (c->base.plain_matrices++ > 0)
        return;
    snprintf(c->base.plain_reason, sizeof(c->base.plain_reason),
             "%d x %d in %s to %s at %d rows: cuBLASLt has no algorithm that takes them", w->N,
             w->K, w->type == K_BF16 ? "bf16" : "fp32", dst == K_BF16 ? "bf16" : "fp32", rows);
}

/* The prepared product for this kind of destination; NULL when k_linear must do it. */
static imf_status prepare(struct cuda_device *c, struct cuda_gemm **out, struct imf__linear *w,
                          enum k_type dst, bool add, int rows)
{
    int by_type = dst == K_BF16, by_add = add;
    struct cuda_gemm **g = &w->gemm[by_type][by_add];
    bool *refused = &w->refused[by_type][by_add], before = *refused;
    if (!*g && !*refused) {
        struct cuda_gemm_shape shape = {
            .ab = w->type,
            .d = dst,
            .m = w->N,
            .k = w->Kp,
            .a_transposed = true,
            .lda = w->Kp,
            .ldb = w->Kp,
            .ldd = w->N,
            .bias = dst == K_BF16 ? w->bias_bf16 : w->bias,
            .add = add,
            .n = REFERENCE_ROWS,
        };
        /* float32 times float32 never stores bfloat16 in cuBLASLt's table of types. */
        if (w->type == K_BF16 || dst == K_F32)
            IMF_TRY(cuda_gemm_create(c, g, &shape));
        *refused = !*g;
    }
    /* A size that the pinned algorithm cannot do moves the whole matrix to k_linear, all sizes: a
     * row's bits may not depend on how many rows there are. Dry runs find out before real ones. */
    if (!*refused && c->base.dry && !cuda_gemm_fits(c, *g, rows, 1))
        *refused = true;
    if (*refused && !before)
        note_refusal(c, w, dst, rows);
    *out = *refused ? NULL : *g;
    return IMF_OK;
}

/* dst (rows, N) of dst_type [+]= x (rows, K) w^T + bias; `scratch` takes the padded x if it must
 * be. */
static imf_status multiply(struct cuda_device *c, void *dst, enum k_type dst_type, const void *x,
                           const struct imf__linear *w, int rows, bool add, void *scratch)
{
    struct cuda_gemm *g = NULL;
    /* Preparing changes only what the matrix remembers about cuBLASLt, not the matrix. */
    IMF_TRY(prepare(c, &g, (struct imf__linear *)w, dst_type, add, rows));
    CUDA_DRY_STOPS_HERE(c);
    if (!g) {
        CUDA_TRY(c, k_linear(dst, dst_type, x, w->weight, w->type, w->bias, rows, w->N, w->K, w->K,
                             w->Kp, add, c->stream));
        return IMF_OK;
    }
    if (w->Kp != w->K) {
        CUDA_TRY(c, k_convert(scratch, w->type, w->Kp, x, w->type, w->K, rows, w->K, c->stream));
        x = scratch;
    }
    return cuda_gemm_run(c, g, dst, w->weight, x, rows, 1, 1.0f);
}

static size_t padding_bytes(const struct imf__linear *w, int rows)
{
    return w->Kp == w->K ? 0 : (size_t)rows * (size_t)w->Kp * cuda_type_size(w->type);
}

imf_status cuda_linear(struct imf__device *d, void *dst, enum imf__dtype dst_type, const void *src,
                       const struct imf__linear *w, int rows, enum imf__epilogue epilogue)
{
    CUDA_ENTER(d);
    void *scratch = NULL;
    IMF_TRY(cuda_scratch(c, &scratch, padding_bytes(w, rows)));
    enum k_type type = cuda_type(c, dst_type);
    IMF_TRY(multiply(c, dst, type, src, w, rows, epilogue == IMF__ADD, scratch));
    CUDA_DRY_STOPS_HERE(c);
    if (epilogue == IMF__SILU)
        CUDA_TRY(c, k_silu(dst, type, (size_t)rows * (size_t)w->N, c->stream));
    return IMF_OK;
}

imf_status cuda_swiglu_load(struct imf__device *d, struct imf__swiglu **out, const float *w1,
                            const float *w3, int M, int K)
{
    CUDA_ENTER(d);
    if (M < 1 || K < 1 || M > 1 << 18 || K > 1 << 18)
        return cuda_refuse(c, "a pair of %d x %d matrices is out of range", M, K);
    int Mp = cuda_round_up(M, 16);
    size_t half = (size_t)Mp * (size_t)K, used = (size_t)M * (size_t)K;
    struct imf__swiglu *w = calloc(1, sizeof(*w));
    float *both = calloc(2 * half, sizeof(*both));
    imf_status status = IMF_ENOMEM;
    if (!w || !both)
        goto out;
    memcpy(both, w1, used * sizeof(*both));
    memcpy(both + half, w3, used * sizeof(*both));
    w->M = M;
    w->Mp = Mp;
    status = cuda_linear_load(d, &w->both, IMF__ACT, both, NULL, 2 * Mp, K);
    if (status == IMF_OK) {
        *out = w;
        w = NULL;
    }
out:
    free(both);
    free(w);
    return status;
}

void cuda_swiglu_free(struct imf__device *d, struct imf__swiglu *w)
{
    if (!w)
        return;
    cuda_linear_free(d, w->both);
    free(w);
}

imf_status cuda_swiglu(struct imf__device *d, void *dst, const void *src,
                       const struct imf__swiglu *w, int rows)
{
    CUDA_ENTER(d);
    size_t products = (size_t)rows * 2 * (size_t)w->Mp * cuda_type_size(c->act);
    products = (products + 255) / 256 * 256;
    void *scratch = NULL;
    IMF_TRY(cuda_scratch(c, &scratch, products + padding_bytes(w->both, rows)));
    IMF_TRY(multiply(c, scratch, c->act, src, w->both, rows, false, (char *)scratch + products));
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c, k_swiglu(dst, scratch, c->act, rows, w->M, w->Mp, c->stream));
    return IMF_OK;
}
