/* Inside the CUDA device: its state, error handling, work memory. Everything that computes runs on
 * one stream, so operations order themselves; transfers copy on a second one. Nothing waits except
 * download, sync, transfer_end, and upload when both of its pinned buffers are still in flight. */
#ifndef IMF__CUDA_DEVICE_H
#define IMF__CUDA_DEVICE_H

#include "device.h"
#include "common/error.h"
#include "kernels.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#define CUDA_STAGING_BYTES ((size_t)4 << 20)

struct cuda_staging {
    void *pinned;     /* CUDA_STAGING_BYTES of page-locked host memory */
    cudaEvent_t done; /* the last copy that used it */
};

/* A matrix product prepared for cuBLASLt; gemm.c. */
struct cuda_gemm;

struct cuda_device {
    struct imf__device base;
    int ordinal;
    int sm; /* 90 for compute capability 9.0 */
    enum k_type act;
    cudaStream_t stream, copies;
    cublasLtHandle_t lt;
    void *lt_workspace;
    size_t lt_workspace_bytes;
    cublasLtMatmulPreference_t lt_preference;
    struct cuda_staging staging[2];
    int next_staging;
    /* Work memory of one operation at a time. Dry runs say how much, the next allocation or
     * operation makes it so; captured graphs remember the generation of the block they point into.
     */
    void *scratch;
    size_t scratch_capacity, scratch_wanted;
    unsigned scratch_generation;
    bool capturing;
    bool sick; /* a CUDA call failed: every further call is refused with base.error */
    struct cuda_attention_plan *plans; /* of attention_single; owned list */
    struct cuda_gemm_plan *gemm_plans; /* algorithms by shape; owned list */
};

static inline struct cuda_device *cuda_of(struct imf__device *d)
{
    return (struct cuda_device *)d;
}

/* Makes this device the calling thread's, or refuses when it is sick. */
imf_status cuda_enter(struct cuda_device *c);
/* Records a failed call; out of memory and refused shapes leave the device usable. */
imf_status cuda_failed(struct cuda_device *c, cudaError_t error, const char *what, const char *file,
                       int line);
imf_status cuda_lt_failed(struct cuda_device *c, cublasStatus_t status, const char *what,
                          const char *file, int line);
/* An argument that our own kernels cannot take; the sentence goes to base.error. */
__attribute__((format(printf, 2, 3))) imf_status cuda_refuse(struct cuda_device *c,
                                                             const char *format, ...);

#define CUDA_TRY(c, call)                                                                          \
    do {                                                                                           \
        cudaError_t cuda__error = (call);                                                          \
        if (cuda__error != cudaSuccess)                                                            \
            return cuda_failed((c), cuda__error, #call, __FILE__, __LINE__);                       \
    } while (0)

#define CUDA_LT_TRY(c, call)                                                                       \
    do {                                                                                           \
        cublasStatus_t cuda__status = (call);                                                      \
        if (cuda__status != CUBLAS_STATUS_SUCCESS)                                                 \
            return cuda_lt_failed((c), cuda__status, #call, __FILE__, __LINE__);                   \
    } while (0)

/* How an operation begins. In a dry run it stops at CUDA_DRY_STOPS_HERE, after its preparations. */
#define CUDA_ENTER(d)                                                                              \
    struct cuda_device *c = cuda_of(d);                                                            \
    IMF_TRY(cuda_enter(c))
#define CUDA_DRY_STOPS_HERE(c)                                                                     \
    do {                                                                                           \
        if ((c)->base.dry)                                                                         \
            return IMF_OK;                                                                         \
    } while (0)

/* What waits for the device calls this: IMF_EUNSUPPORTED while a pass is being captured. */
imf_status cuda_may_wait(struct cuda_device *c);
/* Work memory of at least `bytes`, valid until the operation's last launch; grows outside graphs.
 */
imf_status cuda_scratch(struct cuda_device *c, void **out, size_t bytes);
/* Memory, not cleared; out of memory becomes a sentence. */
imf_status cuda_device_malloc(struct cuda_device *c, void **out, size_t bytes);
/* Weights: device memory filled from the host; counted in weights_bytes. */
imf_status cuda_weight_upload(struct cuda_device *c, void **out, const void *host, size_t bytes);
/* n floats as `type`, host to host. */
void cuda_pack(void *dst, enum k_type type, const float *src, size_t n);

static inline size_t cuda_type_size(enum k_type type)
{
    return type == K_BF16 ? 2 : 4;
}

static inline enum k_type cuda_type(const struct cuda_device *c, enum imf__dtype type)
{
    return type == IMF__F32 ? K_F32 : c->act;
}

static inline int cuda_round_up(int x, int to)
{
    return (x + to - 1) / to * to;
}

/* ---- memory.c, transfer.c, graph.c ---- */
imf_status cuda_alloc(struct imf__device *d, void **out, size_t bytes, bool weight);
void cuda_free(struct imf__device *d, void *p);
imf_status cuda_upload(struct imf__device *d, void *dst, const void *src, size_t bytes);
imf_status cuda_download(struct imf__device *d, void *dst, const void *src, size_t bytes);
imf_status cuda_sync(struct imf__device *d);
imf_status cuda_copy(struct imf__device *d, void *dst, const void *src, size_t bytes);
imf_status cuda_memory_free(struct imf__device *d, size_t *bytes);
imf_status cuda_transfer_create(struct imf__device *d, struct imf__transfer **out, size_t bytes);
void cuda_transfer_free(struct imf__device *d, struct imf__transfer *t);
imf_status cuda_transfer_begin(struct imf__device *d, struct imf__transfer *t, const void *src,
                               size_t bytes);
imf_status cuda_transfer_end(struct imf__device *d, struct imf__transfer *t, const void **host);
imf_status cuda_graph_prepare(struct imf__device *d, struct imf__graph **slots, imf__forward_fn fn,
                              void *ctx, int max);
imf_status cuda_graph_run(struct imf__device *d, struct imf__graph **slot, imf__forward_fn fn,
                          void *ctx, int B);
void cuda_graph_free(struct imf__device *d, struct imf__graph *g);

/* ---- gemm.c: column-major D (m, n) = alpha op(A) B [+ D] [+ bias], n varies from call to call
 * ---- */
struct cuda_gemm_shape {
    enum k_type ab, d;
    int m, k;
    bool a_transposed; /* A is stored (m, k) row-major, a weight matrix; else (k, m) row-major */
    int64_t lda, ldb, ldd;
    const void *bias;                     /* m elements of type d, or NULL */
    bool add;                             /* beta = 1 */
    int n;                                /* the size that algorithms are judged by */
    int64_t stride_a, stride_b, stride_d; /* of batches, elements; 0: never batched */
};
/* *out is NULL when cuBLASLt has no algorithm for it whose rows do not depend on their number. */
imf_status cuda_gemm_create(struct cuda_device *c, struct cuda_gemm **out,
                            const struct cuda_gemm_shape *shape);
/* Whether the chosen algorithm takes this n and batch count; notes the largest n. */
bool cuda_gemm_fits(struct cuda_device *c, struct cuda_gemm *g, int n, int batch);
imf_status cuda_gemm_run(struct cuda_device *c, struct cuda_gemm *g, void *D, const void *A,
                         const void *B, int n, int batch, float alpha);
void cuda_gemm_destroy(struct cuda_gemm *g);
/* Compares the largest numbers of rows that were planned for. */
imf_status cuda_gemm_plans_settle(struct cuda_device *c);
void cuda_gemm_plans_free(struct cuda_device *c);
imf_status cuda_matmul_rate(struct imf__device *d, double *flops_per_second);

/* ---- matrices.c ---- */
imf_status cuda_linear_load(struct imf__device *d, struct imf__linear **out, enum imf__dtype type,
                            const float *weight, const float *bias, int N, int K);
void cuda_linear_free(struct imf__device *d, struct imf__linear *w);
imf_status cuda_linear(struct imf__device *d, void *dst, enum imf__dtype dst_type, const void *src,
                       const struct imf__linear *w, int rows, enum imf__epilogue epilogue);
imf_status cuda_swiglu_load(struct imf__device *d, struct imf__swiglu **out, const float *w1,
                            const float *w3, int M, int K);
void cuda_swiglu_free(struct imf__device *d, struct imf__swiglu *w);
imf_status cuda_swiglu(struct imf__device *d, void *dst, const void *src,
                       const struct imf__swiglu *w, int rows);

/* ---- tokens.c ---- */
imf_status cuda_rms_norm(struct imf__device *d, void *dst, enum imf__dtype dst_type,
                         const float *src, const float *weight, int B, int T, int t0, int C,
                         float eps);
imf_status cuda_attention(struct imf__device *d, void *dst, const void *qkv, const float *q_norm,
                          const float *k_norm, const float *rope, int B, int T, int NH, int HS);
imf_status cuda_scalar_embed(struct imf__device *d, float *dst, const float *values, int rows);
imf_status cuda_patchify(struct imf__device *d, void *dst, enum imf__dtype dst_type, const float *z,
                         int B, int C, int S, int p);
imf_status cuda_assemble(struct imf__device *d, float *x, const float *tokens, const float *classes,
                         const int32_t *labels, const float *scalars, const float *patches,
                         const float *positions, int B, int P, int D);
imf_status cuda_euler(struct imf__device *d, float *z, const float *out, bool predicts_x,
                      const float *dt, int B, int C, int S, int p);
imf_status cuda_attention_single(struct imf__device *d, float *dst, const float *q, const float *k,
                                 const float *v, int n, int T, int C);
void cuda_attention_plans_free(struct cuda_device *c);

/* ---- images.c ---- */
size_t cuda_image_bytes(const struct imf__device *d, const struct imf__image *img);
imf_status cuda_conv_load(struct imf__device *d, struct imf__conv **out,
                          const struct imf__conv_desc *desc, const float *weight,
                          const float *bias);
void cuda_conv_free(struct imf__device *d, struct imf__conv *w);
imf_status cuda_conv2d(struct imf__device *d, struct imf__image *dst, const struct imf__image *src,
                       const struct imf__conv *w, const struct imf__image *residual);
imf_status cuda_image_from_latent(struct imf__device *d, struct imf__image *dst, const float *z,
                                  const float *scale, const float *shift, bool clamp3);
imf_status cuda_group_norm(struct imf__device *d, struct imf__image *dst,
                           const struct imf__image *src, const float *gamma, const float *beta,
                           int groups, float eps, bool silu);
imf_status cuda_pool2d(struct imf__device *d, struct imf__image *dst, const struct imf__image *src,
                       enum imf__pool kind, int k, int stride, int pad);
imf_status cuda_concat(struct imf__device *d, struct imf__image *dst, const struct imf__image *src,
                       int c0);
imf_status cuda_image_to_tokens(struct imf__device *d, float *dst, const struct imf__image *src);
imf_status cuda_tokens_to_image(struct imf__device *d, struct imf__image *dst, const float *src,
                                bool add);
imf_status cuda_global_mean(struct imf__device *d, float *dst, const struct imf__image *src);
imf_status cuda_resize_rgb8(struct imf__device *d, struct imf__image *dst, const uint8_t *rgb,
                            int n, int H, int W);
imf_status cuda_to_rgb8(struct imf__device *d, uint8_t *rgb, const struct imf__image *src,
                        float scale, float shift);

#endif
