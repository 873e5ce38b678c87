/* Matrix products by cuBLASLt: descriptions and calls. Which algorithm runs is a matter of the shape
 * alone (gemm_plan.c), never one that splits k: a row's sum then runs in one order whatever stands
 * beside it, which is what batch invariance and captured graphs need. Work memory is the device's
 * own.
 *
 * cuBLASLt is column-major: row-major Y (n, m) = X (n, k) W (m, k)^T is D (m, n) = A^T B with A =
 * W, B = X, D = Y, leading dimensions k, k, m; its bias runs along m, our features. */
#include "internal.h"
#include "gemm_plan.h"

#include <stdlib.h>

static cudaDataType_t data_type(enum k_type type)
{
    return type == K_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

void cuda_gemm_destroy(struct cuda_gemm *g)
{
    if (!g)
        return;
    if (g->desc)
        cublasLtMatmulDescDestroy(g->desc);
    if (g->a)
        cublasLtMatrixLayoutDestroy(g->a);
    if (g->b)
        cublasLtMatrixLayoutDestroy(g->b);
    if (g->d)
        cublasLtMatrixLayoutDestroy(g->d);
    free(g);
}

static imf_status describe(struct cuda_device *c, struct cuda_gemm *g)
{
    const struct cuda_gemm_shape *s = &g->shape;
    cublasOperation_t transpose = s->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    CUDA_LT_TRY(c, cublasLtMatmulDescCreate(&g->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    CUDA_LT_TRY(c, cublasLtMatmulDescSetAttribute(g->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                                  sizeof(transpose)));
    if (s->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        CUDA_LT_TRY(c, cublasLtMatmulDescSetAttribute(g->desc, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                      &epilogue, sizeof(epilogue)));
        CUDA_LT_TRY(c, cublasLtMatmulDescSetAttribute(g->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                      &s->bias, sizeof(s->bias)));
    }
    uint64_t rows = (uint64_t)(s->a_transposed ? s->k : s->m);
    uint64_t cols = (uint64_t)(s->a_transposed ? s->m : s->k);
    uint64_t k = (uint64_t)s->k, m = (uint64_t)s->m, n = (uint64_t)s->n;
    CUDA_LT_TRY(c, cublasLtMatrixLayoutCreate(&g->a, data_type(s->ab), rows, cols, s->lda));
    CUDA_LT_TRY(c, cublasLtMatrixLayoutCreate(&g->b, data_type(s->ab), k, n, s->ldb));
    CUDA_LT_TRY(c, cublasLtMatrixLayoutCreate(&g->d, data_type(s->d), m, n, s->ldd));
    g->n = s->n;
    g->batch = 1;
    return IMF_OK;
}

static imf_status set_batch(struct cuda_device *c, cublasLtMatrixLayout_t layout, int batch,
                            int64_t stride)
{
    CUDA_LT_TRY(c, cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                    &batch, sizeof(batch)));
    CUDA_LT_TRY(c, cublasLtMatrixLayoutSetAttribute(layout,
                                                    CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                    &stride, sizeof(stride)));
    return IMF_OK;
}

imf_status cuda_gemm_resize(struct cuda_device *c, struct cuda_gemm *g, int n, int batch)
{
    if (n != g->n) {
        uint64_t cols = (uint64_t)n;
        CUDA_LT_TRY(c, cublasLtMatrixLayoutSetAttribute(g->b, CUBLASLT_MATRIX_LAYOUT_COLS, &cols,
                                                        sizeof(cols)));
        CUDA_LT_TRY(c, cublasLtMatrixLayoutSetAttribute(g->d, CUBLASLT_MATRIX_LAYOUT_COLS, &cols,
                                                        sizeof(cols)));
        g->n = n;
    }
    if (batch != g->batch) {
        IMF_TRY(set_batch(c, g->a, batch, g->shape.stride_a));
        IMF_TRY(set_batch(c, g->b, batch, g->shape.stride_b));
        IMF_TRY(set_batch(c, g->d, batch, g->shape.stride_d));
        g->batch = batch;
    }
    return IMF_OK;
}

bool cuda_gemm_fits(struct cuda_device *c, struct cuda_gemm *g, int n, int batch)
{
    if (n > g->plan->wanted)
        g->plan->wanted = n;
    return cuda_gemm_takes(c, g, cuda_gemm_algorithm(g->plan, n), n, batch);
}

bool cuda_gemm_takes(struct cuda_device *c, struct cuda_gemm *g, const cublasLtMatmulAlgo_t *algo,
                     int n, int batch)
{
    cublasLtMatmulHeuristicResult_t result;
    return cuda_gemm_resize(c, g, n, batch) == IMF_OK &&
           cublasLtMatmulAlgoCheck(c->lt, g->desc, g->a, g->b, g->d, g->d, algo, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= c->lt_workspace_bytes;
}

imf_status cuda_gemm_create(struct cuda_device *c, struct cuda_gemm **out,
                            const struct cuda_gemm_shape *s)
{
    struct cuda_gemm *g = calloc(1, sizeof(*g));
    if (!g)
        return IMF_ENOMEM;
    g->shape = *s;
    imf_status status = describe(c, g);
    if (status == IMF_OK)
        status = cuda_gemm_plan_for(c, g);
    if (status != IMF_OK || !g->plan->usable) {
        cuda_gemm_destroy(g);
        g = NULL;
    }
    if (status == IMF_OK)
        *out = g;
    return status;
}

imf_status cuda_gemm_run_by(struct cuda_device *c, struct cuda_gemm *g,
                            const cublasLtMatmulAlgo_t *algo, void *D, const void *A, const void *B,
                            int n, int batch, float alpha)
{
    float beta = g->shape.add ? 1.0f : 0.0f;
    IMF_TRY(cuda_gemm_resize(c, g, n, batch));
    CUDA_LT_TRY(c, cublasLtMatmul(c->lt, g->desc, &alpha, A, g->a, B, g->b, &beta, D, g->d, D, g->d,
                                  algo, c->lt_workspace, c->lt_workspace_bytes, c->stream));
    return IMF_OK;
}

imf_status cuda_gemm_run(struct cuda_device *c, struct cuda_gemm *g, void *D, const void *A,
                         const void *B, int n, int batch, float alpha)
{
    const struct cuda_gemm_shape *s = &g->shape;
    size_t row_b = (size_t)s->ldb * cuda_type_size(s->ab);
    size_t row_d = (size_t)s->ldd * cuda_type_size(s->d);
    /* More rows than were found to add in the same order go in pieces that were. */
    int piece = s->stride_d ? n : g->plan->most;
    for (int done = 0; done < n; done += piece) {
        int rows = n - done < piece ? n - done : piece;
        IMF_TRY(cuda_gemm_run_by(c, g, cuda_gemm_algorithm(g->plan, n),
                                 (char *)D + (size_t)done * row_d, A,
                                 (const char *)B + (size_t)done * row_b, rows, batch, alpha));
    }
    return IMF_OK;
}

static imf_status timed_product(struct cuda_device *c, int n, int repeats, double *seconds)
{
    struct cuda_gemm *g = NULL;
    void *memory = NULL;
    cudaEvent_t start = NULL, stop = NULL;
    float ms = 0.0f;
    size_t size = (size_t)n * (size_t)n * cuda_type_size(c->act);
    struct cuda_gemm_shape shape = {.ab = c->act,
                                    .d = c->act,
                                    .m = n,
                                    .k = n,
                                    .n = n,
                                    .lda = n,
                                    .ldb = n,
                                    .ldd = n,
                                    .a_transposed = true};
    imf_status status = cuda_gemm_create(c, &g, &shape);
    if (status == IMF_OK && !g)
        status = cuda_refuse(c, "cuBLASLt has no algorithm for a plain product of size %d", n);
    if (status == IMF_OK)
        status = cuda_alloc(&c->base, &memory, 3 * size, false);
    /* Random values: constants switch fewer transistors, and a GPU's clock would rise. */
    if (status == IMF_OK)
        status = cuda_fill_rows(c, memory, c->act, n, 3 * (int64_t)n, 1.0f);
    if (status != IMF_OK)
        goto out;
    char *A = memory, *B = A + size, *D = B + size;
    status = IMF_EDEVICE;
    if (cudaEventCreate(&start) != cudaSuccess || cudaEventCreate(&stop) != cudaSuccess)
        goto out;
    status = cuda_gemm_run(c, g, D, A, B, n, 1, 1.0f); /* loads the kernel */
    if (status == IMF_OK)
        status = cudaEventRecord(start, c->stream) == cudaSuccess ? IMF_OK : IMF_EDEVICE;
    for (int i = 0; i < repeats && status == IMF_OK; i++)
        status = cuda_gemm_run(c, g, D, A, B, n, 1, 1.0f);
    if (status == IMF_OK && (cudaEventRecord(stop, c->stream) != cudaSuccess ||
                             cudaEventSynchronize(stop) != cudaSuccess ||
                             cudaEventElapsedTime(&ms, start, stop) != cudaSuccess))
        status = cuda_failed(c, cudaGetLastError(), "timing a matrix product", __FILE__, __LINE__);
    *seconds = (double)ms / 1e3 / repeats;
out:
    if (start)
        cudaEventDestroy(start);
    if (stop)
        cudaEventDestroy(stop);
    cuda_gemm_destroy(g);
    cuda_free(&c->base, memory);
    return status;
}

/* Doubles the size until one product lasts a millisecond; then takes the mean of ten. */
imf_status cuda_matmul_rate(struct imf__device *d, double *flops_per_second)
{
    CUDA_ENTER(d);
    double seconds = 0.0, flops = 0.0;
    for (int n = 256; n <= 8192; n *= 2) {
        flops = 2.0 * n * n * n;
        IMF_TRY(timed_product(c, n, 1, &seconds));
        if (seconds >= 1e-3 || n == 8192) {
            IMF_TRY(timed_product(c, n, seconds > 0.1 ? 1 : 10, &seconds));
            break;
        }
    }
    *flops_per_second = flops / (seconds > 1e-9 ? seconds : 1e-9);
    return IMF_OK;
}
