/* Matrix products by cuBLASLt. One algorithm per product, chosen once for a reference size and used
 * for every number of rows, never one that splits k: a row's sum then runs in one order whatever
 * stands beside it, which is what batch invariance and captured graphs need. Work memory is the
 * device's own.
 *
 * cuBLASLt is column-major: row-major Y (n, m) = X (n, k) W (m, k)^T is D (m, n) = A^T B with A =
 * W, B = X, D = Y, leading dimensions k, k, m; its bias runs along m, our features. */
#include "cuda/internal.h"

#include <stdlib.h>

struct cuda_gemm {
    struct cuda_gemm_shape shape;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
    int n, batch; /* what the layouts say now */
};

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

/* Our rows are 256-byte aligned at best and element-aligned at worst: what the leading dimension
 * and the batch stride leave of it. */
static uint32_t alignment_of(int64_t ld, int64_t stride, enum k_type type)
{
    int64_t step = (ld | stride) * (int64_t)cuda_type_size(type) | 256;
    return (uint32_t)(step & -step);
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

static imf_status resize(struct cuda_device *c, struct cuda_gemm *g, int n, int batch)
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

static bool splits_k(const cublasLtMatmulAlgo_t *algo)
{
    int32_t parts = 1;
    uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
    size_t written;
    if (cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts,
                                             sizeof(parts), &written) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme,
                                             sizeof(scheme), &written) != CUBLAS_STATUS_SUCCESS)
        return true; /* what cannot be asked is not trusted */
    return parts > 1 || scheme != CUBLASLT_REDUCTION_SCHEME_NONE;
}

bool cuda_gemm_fits(struct cuda_device *c, struct cuda_gemm *g, int n, int batch)
{
    cublasLtMatmulHeuristicResult_t result;
    return resize(c, g, n, batch) == IMF_OK &&
           cublasLtMatmulAlgoCheck(c->lt, g->desc, g->a, g->b, g->d, g->d, &g->algo, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= c->lt_workspace_bytes;
}

/* Takes the first of cuBLASLt's suggestions that keeps k whole and also runs a single row. */
static bool choose(struct cuda_device *c, struct cuda_gemm *g)
{
    enum { SUGGESTIONS = 16 };
    cublasLtMatmulHeuristicResult_t found[SUGGESTIONS];
    int count = 0;
    if (cublasLtMatmulAlgoGetHeuristic(c->lt, g->desc, g->a, g->b, g->d, g->d, c->lt_preference,
                                       SUGGESTIONS, found, &count) != CUBLAS_STATUS_SUCCESS)
        return false;
    int n = g->n;
    for (int i = 0; i < count; i++) {
        if (found[i].state != CUBLAS_STATUS_SUCCESS || splits_k(&found[i].algo))
            continue;
        g->algo = found[i].algo;
        if (g->shape.stride_d || (cuda_gemm_fits(c, g, 1, 1) && cuda_gemm_fits(c, g, n, 1)))
            return true;
    }
    return false;
}

static imf_status set_preference(struct cuda_device *c, cublasLtMatmulPreferenceAttributes_t which,
                                 uint32_t value)
{
    CUDA_LT_TRY(
        c, cublasLtMatmulPreferenceSetAttribute(c->lt_preference, which, &value, sizeof(value)));
    return IMF_OK;
}

imf_status cuda_gemm_create(struct cuda_device *c, struct cuda_gemm **out,
                            const struct cuda_gemm_shape *s)
{
    struct cuda_gemm *g = calloc(1, sizeof(*g));
    if (!g)
        return IMF_ENOMEM;
    g->shape = *s;
    imf_status status = describe(c, g);
    uint32_t a = alignment_of(s->lda, s->stride_a, s->ab);
    uint32_t b = alignment_of(s->ldb, s->stride_b, s->ab);
    uint32_t d = alignment_of(s->ldd, s->stride_d, s->d);
    if (status == IMF_OK)
        status = set_preference(c, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a);
    if (status == IMF_OK)
        status = set_preference(c, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b);
    if (status == IMF_OK)
        status = set_preference(c, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, d);
    if (status == IMF_OK)
        status = set_preference(c, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, d);
    if (status != IMF_OK || !choose(c, g)) {
        cuda_gemm_destroy(g);
        g = NULL;
    }
    if (status == IMF_OK)
        *out = g;
    return status;
}

imf_status cuda_gemm_run(struct cuda_device *c, struct cuda_gemm *g, void *D, const void *A,
                         const void *B, int n, int batch, float alpha)
{
    float beta = g->shape.add ? 1.0f : 0.0f;
    IMF_TRY(resize(c, g, n, batch));
    CUDA_LT_TRY(c, cublasLtMatmul(c->lt, g->desc, &alpha, A, g->a, B, g->b, &beta, D, g->d, D, g->d,
                                  &g->algo, c->lt_workspace, c->lt_workspace_bytes, c->stream));
    return IMF_OK;
}

/* Random values in memory: constants would switch fewer transistors, and a GPU's clock rises. */
static imf_status fill_randomly(struct cuda_device *c, void *memory, enum k_type type, size_t bytes)
{
    enum { BLOCK = 1 << 18 };
    float *values = malloc(2 * BLOCK * sizeof(*values)), *packed = values + BLOCK;
    if (!values)
        return IMF_ENOMEM;
    uint32_t state = 1;
    for (int i = 0; i < BLOCK; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (float)(int32_t)state * 0x1p-31f;
    }
    cuda_pack(packed, type, values, BLOCK);
    size_t block = BLOCK * cuda_type_size(type), done = block < bytes ? block : bytes;
    imf_status status = cuda_upload(&c->base, memory, packed, done);
    free(values);
    IMF_TRY(status);
    for (; done < bytes; done *= 2) {
        size_t piece = bytes - done < done ? bytes - done : done;
        CUDA_TRY(c, cudaMemcpyAsync((char *)memory + done, memory, piece, cudaMemcpyDeviceToDevice,
                                    c->stream));
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
    if (status == IMF_OK)
        status = fill_randomly(c, memory, c->act, 3 * size);
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
