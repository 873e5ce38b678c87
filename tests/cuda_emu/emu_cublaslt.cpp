/* cuBLASLt's matmul on the host: D = alpha op(A) op(B) + beta C, bias over D's rows; float32
 * accumulation.
 *
 * Stricter than the library: alignment promised in the preference is checked, as are ranges,
 * workspace size and the algorithm's fitness. Like the library, the heuristic picks by the whole
 * shape, and each algorithm sums K in chunks of its own length: results change in the last bits
 * when the algorithm is not pinned, which is what a test of batch invariance must notice. */
#include "emu_internal.h"
#include "cublasLt.h"
#include <algorithm>
#include <math.h>
#include <set>
#include <stdlib.h>

struct layout {
    uint32_t type, order;
    uint64_t rows, cols;
    int64_t ld;
    int32_t batch;
    int64_t stride;
};
static_assert(sizeof(struct layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "fits");

struct desc {
    int32_t compute, scale, pointer_mode, transa, transb, transc, fill;
    uint32_t epilogue;
    const void *bias;
    int64_t bias_stride;
    int32_t bias_type;
};
static_assert(sizeof(struct desc) <= sizeof(cublasLtMatmulDescOpaque_t), "fits");

struct preference {
    uint64_t workspace;
    uint32_t reduction_mask, min_align[4];
};
static_assert(sizeof(struct preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "fits");

enum { ALGO_MAGIC = 0x1a7, ALGO_COUNT = 5 };
struct algo {
    uint32_t magic, id, tile, split_k, reduction, swizzle, custom, stages;
};
static_assert(sizeof(struct algo) <= sizeof(cublasLtMatmulAlgo_t), "fits");
static const uint64_t algo_chunk[ALGO_COUNT] = {256, 128, 512, 64, 192};

struct cublasLtContext {
    int device;
};
static std::set<cublasLtHandle_t> handles;

template <class T, class O> static T *open(O *opaque)
{
    return reinterpret_cast<T *>(opaque->data);
}

/* ---- the product ---- */

enum { MR = 16, NR = 12 };
typedef float vec __attribute__((vector_size(64)));

/* acc (MR x NR, column-major) += A panel (k x MR) times B panel (k x NR). */
EMU_CLONES static void micro_kernel(float *acc, const float *a, const float *b, size_t k)
{
    vec c[NR];
    for (int j = 0; j < NR; j++)
        c[j] = *reinterpret_cast<const vec *>(acc + j * MR);
    for (size_t p = 0; p < k; p++, a += MR, b += NR) {
        vec ap = *reinterpret_cast<const vec *>(a);
        for (int j = 0; j < NR; j++)
            c[j] += ap * b[j];
    }
    for (int j = 0; j < NR; j++)
        *reinterpret_cast<vec *>(acc + j * MR) = c[j];
}

static inline float load(const void *p, uint32_t type, size_t i)
{
    if (type == CUDA_R_32F)
        return static_cast<const float *>(p)[i];
    return __uint_as_float(uint32_t(static_cast<const uint16_t *>(p)[i]) << 16);
}

static inline void store(void *p, uint32_t type, size_t i, float v)
{
    if (type == CUDA_R_32F)
        static_cast<float *>(p)[i] = v;
    else
        static_cast<uint16_t *>(p)[i] = imf_emu_bf16_bits(v);
}

/* Rows r0.. of op(X), columns k0..k0+k, as a panel of `width` rows: out[p * width + r];
 * zero-padded. */
static void pack(float *out, const void *x, uint32_t type, size_t row_step, size_t k_step,
                 size_t r0, size_t rows, size_t k0, size_t k, size_t width)
{
    for (size_t r = 0; r < width; r++) {
        if (r >= rows) {
            for (size_t p = 0; p < k; p++)
                out[p * width + r] = 0.0f;
            continue;
        }
        size_t at = (r0 + r) * row_step + k0 * k_step;
        for (size_t p = 0; p < k; p++, at += k_step)
            out[p * width + r] = load(x, type, at);
    }
}

struct product {
    struct layout a, b, c, d;
    struct desc desc;
    const void *pa, *pb, *pc;
    void *pd;
    float alpha, beta;
    uint64_t chunk;
};

static size_t element(uint32_t type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

static const void *batch_at(const void *p, const struct layout &l, int32_t batch)
{
    return static_cast<const char *>(p) + size_t(l.stride) * size_t(batch) * element(l.type);
}

static float gelu(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

static void finish_tile(const struct product &g, const float *acc, const void *c, void *d,
                        const void *bias, size_t i0, size_t rows, size_t j0, size_t cols)
{
    for (size_t j = 0; j < cols; j++)
        for (size_t i = 0; i < rows; i++) {
            float v = g.alpha * acc[j * MR + i];
            if (g.beta != 0.0f)
                v += g.beta * load(c, g.c.type, i0 + i + (j0 + j) * size_t(g.c.ld));
            if (bias)
                v += load(bias, uint32_t(g.desc.bias_type), i0 + i);
            if (g.desc.epilogue & CUBLASLT_EPILOGUE_RELU)
                v = v > 0.0f ? v : 0.0f;
            if (g.desc.epilogue & CUBLASLT_EPILOGUE_GELU)
                v = gelu(v);
            store(d, g.d.type, i0 + i + (j0 + j) * size_t(g.d.ld), v);
        }
}

static void multiply(const struct product &g, int32_t batch)
{
    const void *a = batch_at(g.pa, g.a, batch), *b = batch_at(g.pb, g.b, batch);
    const void *c = g.pc ? batch_at(g.pc, g.c, batch) : nullptr;
    void *d = const_cast<void *>(batch_at(g.pd, g.d, batch));
    const void *bias = (g.desc.epilogue & CUBLASLT_EPILOGUE_BIAS) ? g.desc.bias : nullptr;
    if (bias)
        bias = static_cast<const char *>(bias) +
               size_t(g.desc.bias_stride) * size_t(batch) * element(uint32_t(g.desc.bias_type));
    size_t m = g.d.rows, n = g.d.cols, k = g.desc.transa ? g.a.rows : g.a.cols;
    size_t a_row = g.desc.transa ? size_t(g.a.ld) : 1, a_k = g.desc.transa ? 1 : size_t(g.a.ld);
    size_t b_col = g.desc.transb ? 1 : size_t(g.b.ld), b_k = g.desc.transb ? size_t(g.b.ld) : 1;
    size_t mp = (m + MR - 1) / MR, np = (n + NR - 1) / NR;
    /* Columns of D are taken in stretches, so that the packed B and the accumulators stay in cache.
     */
    enum { STRETCH = 32 };
    float *pa = static_cast<float *>(aligned_alloc(64, MR * g.chunk * sizeof(float)));
    float *pb = static_cast<float *>(
        aligned_alloc(64, size_t(STRETCH) * NR * g.chunk * sizeof(float) + 64));
    float *acc = static_cast<float *>(aligned_alloc(64, mp * STRETCH * MR * NR * sizeof(float)));
    for (size_t j0 = 0; j0 < np; j0 += STRETCH) {
        size_t jn = std::min<size_t>(STRETCH, np - j0);
        memset(acc, 0, mp * STRETCH * MR * NR * sizeof(float));
        for (size_t k0 = 0; k0 < k; k0 += g.chunk) {
            size_t kn = std::min<size_t>(g.chunk, k - k0);
            for (size_t j = 0; j < jn; j++)
                pack(pb + j * NR * g.chunk, b, g.b.type, b_col, b_k, (j0 + j) * NR,
                     std::min<size_t>(NR, n - (j0 + j) * NR), k0, kn, NR);
            for (size_t i = 0; i < mp; i++) {
                pack(pa, a, g.a.type, a_row, a_k, i * MR, std::min<size_t>(MR, m - i * MR), k0, kn,
                     MR);
                for (size_t j = 0; j < jn; j++) {
                    /* Each chunk is summed on its own, then added: the algorithm's signature. */
                    float part[MR * NR] __attribute__((aligned(64))) = {0};
                    float *sum = acc + (i * STRETCH + j) * MR * NR;
                    micro_kernel(part, pa, pb + j * NR * g.chunk, kn);
                    for (int x = 0; x < MR * NR; x++)
                        sum[x] += part[x];
                }
            }
        }
        for (size_t i = 0; i < mp; i++)
            for (size_t j = 0; j < jn; j++)
                finish_tile(g, acc + (i * STRETCH + j) * MR * NR, c, d, bias, i * MR,
                            std::min<size_t>(MR, m - i * MR), (j0 + j) * NR,
                            std::min<size_t>(NR, n - (j0 + j) * NR));
    }
    free(pa);
    free(pb);
    free(acc);
}

/* ---- checks ---- */

static size_t batch_span(const struct layout &l)
{
    return (size_t(l.ld) * (l.cols - 1) + l.rows) * element(l.type);
}

static bool check_operand(const char *name, const void *p, const struct layout &l, bool read)
{
    for (int32_t i = 0; i < l.batch; i++) {
        const char *at = static_cast<const char *>(batch_at(p, l, i));
        if (!read) {
            if (!emu_check_range(at, batch_span(l), false, name))
                return false;
            continue;
        }
        /* Padding between the columns need not be initialised. */
        if (size_t(l.ld) == l.rows) {
            if (!emu_check_range(at, batch_span(l), true, name))
                return false;
            continue;
        }
        for (size_t c = 0; c < l.cols; c++)
            if (!emu_check_range(at + c * size_t(l.ld) * element(l.type), l.rows * element(l.type),
                                 true, name))
                return false;
    }
    return true;
}

static void mark_result(const struct product &g)
{
    for (int32_t i = 0; i < g.d.batch; i++)
        for (size_t c = 0; c < g.d.cols; c++)
            emu_mark_written(static_cast<const char *>(batch_at(g.pd, g.d, i)) +
                                 c * size_t(g.d.ld) * element(g.d.type),
                             g.d.rows * element(g.d.type));
}

static cudaError_t run_product(const struct product &g)
{
    char name[80];
    size_t m = g.d.rows, n = g.d.cols, k = g.desc.transa ? g.a.rows : g.a.cols;
    bool good = check_operand("matmul operand A", g.pa, g.a, true) &&
                check_operand("matmul operand B", g.pb, g.b, true) &&
                (g.beta == 0.0f || check_operand("matmul operand C", g.pc, g.c, true)) &&
                check_operand("matmul result D", g.pd, g.d, false);
    if (good && (g.desc.epilogue & CUBLASLT_EPILOGUE_BIAS))
        good = emu_check_range(g.desc.bias, m * element(uint32_t(g.desc.bias_type)), true,
                               "matmul bias");
    if (!good)
        return cudaErrorIllegalAddress;
    for (int32_t i = 0; i < g.d.batch; i++)
        multiply(g, i);
    mark_result(g);
    uint64_t batch = uint64_t(g.d.batch);
    uint64_t read = batch * (m * k * element(g.a.type) + n * k * element(g.b.type) +
                             (g.beta != 0.0f ? m * n * element(g.c.type) : 0));
    snprintf(name, sizeof name, "cublasLtMatmul %zux%zux%zu%s", m, n, k,
             g.a.type == CUDA_R_32F ? " f32" : "");
    emu_count_matmul(name, read, batch * m * n * element(g.d.type), batch * 2 * m * n * k);
    return cudaSuccess;
}

/* The library's rules on what it will multiply; NULL or what is wrong. */
static const char *unsupported(const struct desc *s, const struct layout *a, const struct layout *b,
                               const struct layout *c, const struct layout *d)
{
    uint64_t m = s->transa ? a->cols : a->rows, k = s->transa ? a->rows : a->cols;
    uint64_t n = s->transb ? b->rows : b->cols, kb = s->transb ? b->cols : b->rows;
    if (s->scale != CUDA_R_32F || s->compute < CUBLAS_COMPUTE_32F)
        return "scale or compute type";
    if (a->type != b->type || (a->type != CUDA_R_32F && a->type != CUDA_R_16BF))
        return "operand types";
    if (c->type != d->type || (d->type != CUDA_R_32F && d->type != CUDA_R_16BF) ||
        (a->type == CUDA_R_32F && d->type != CUDA_R_32F))
        return "result type";
    if (k != kb || d->rows != m || d->cols != n || c->rows != m || c->cols != n)
        return "shapes do not fit";
    if (a->batch != b->batch || a->batch != d->batch || c->batch != d->batch)
        return "batch counts differ";
    for (const struct layout *l : {a, b, c, d})
        if (l->ld < int64_t(l->rows) || l->order != CUBLASLT_ORDER_COL)
            return "leading dimension or order";
    if (s->transc || s->transa > 1 || s->transb > 1 || s->pointer_mode)
        return "transpose or pointer mode";
    if ((s->epilogue & ~uint32_t(CUBLASLT_EPILOGUE_DEFAULT | CUBLASLT_EPILOGUE_BIAS |
                                 CUBLASLT_EPILOGUE_RELU | CUBLASLT_EPILOGUE_GELU)) != 0)
        return "epilogue";
    return nullptr;
}

/* Elements that every row start and pointer must be a multiple of, for the fast kernels. */
static bool aligned_for(const struct layout *l, uint32_t alignment)
{
    return alignment % 16 == 0 && size_t(l->ld) * element(l->type) % 16 == 0 &&
           size_t(l->stride) * element(l->type) % 16 == 0;
}

extern "C" {

size_t cublasLtGetVersion(void)
{
    return 130000;
}

const char *cublasLtGetStatusName(cublasStatus_t s)
{
    switch (s) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_MAPPING_ERROR:
        return "CUBLAS_STATUS_MAPPING_ERROR";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_LICENSE_ERROR:
        return "CUBLAS_STATUS_LICENSE_ERROR";
    }
    return "unknown status";
}

const char *cublasLtGetStatusString(cublasStatus_t s)
{
    return cublasLtGetStatusName(s);
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    emu_guard guard(emu_mutex);
    if (emu_device_ok() != cudaSuccess)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = new cublasLtContext();
    handles.insert(*handle);
    emu_live(1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    emu_guard guard(emu_mutex);
    if (!handles.erase(handle))
        return CUBLAS_STATUS_NOT_INITIALIZED;
    delete handle;
    emu_live(-1);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- descriptors ---- */

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    *desc = new cublasLtMatmulDescOpaque_t();
    struct desc *s = open<struct desc>(*desc);
    s->compute = compute;
    s->scale = scale;
    s->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    s->bias_type = -1;
    emu_live(1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    delete desc;
    emu_live(desc ? -1 : 0);
    return CUBLAS_STATUS_SUCCESS;
}

static void *desc_field(struct desc *s, cublasLtMatmulDescAttributes_t attr, size_t *size)
{
    *size = 4;
    switch (attr) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
        return &s->compute;
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
        return &s->scale;
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        return &s->pointer_mode;
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return &s->transa;
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return &s->transb;
    case CUBLASLT_MATMUL_DESC_TRANSC:
        return &s->transc;
    case CUBLASLT_MATMUL_DESC_FILL_MODE:
        return &s->fill;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return &s->epilogue;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return &s->bias_type;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        *size = 8;
        return &s->bias;
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE:
        *size = 8;
        return &s->bias_stride;
    }
    return nullptr;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attr, const void *buf,
                                              size_t size)
{
    size_t want;
    void *field = desc ? desc_field(open<struct desc>(desc), attr, &want) : nullptr;
    if (!field || !buf || size != want)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(field, buf, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attr, void *buf,
                                              size_t size, size_t *written)
{
    size_t want;
    void *field = desc ? desc_field(open<struct desc>(desc), attr, &want) : nullptr;
    if (!field || size < want)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(buf, field, want);
    if (written)
        *written = want;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    *layout = new cublasLtMatrixLayoutOpaque_t();
    *open<struct layout>(*layout) = {type, CUBLASLT_ORDER_COL, rows, cols, ld, 1, 0};
    emu_live(1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    delete layout;
    emu_live(layout ? -1 : 0);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attr,
                                                const void *buf, size_t size)
{
    if (!layout || !buf)
        return CUBLAS_STATUS_INVALID_VALUE;
    struct layout *l = open<struct layout>(layout);
    void *field = attr == CUBLASLT_MATRIX_LAYOUT_TYPE          ? static_cast<void *>(&l->type)
                  : attr == CUBLASLT_MATRIX_LAYOUT_ORDER       ? static_cast<void *>(&l->order)
                  : attr == CUBLASLT_MATRIX_LAYOUT_ROWS        ? static_cast<void *>(&l->rows)
                  : attr == CUBLASLT_MATRIX_LAYOUT_COLS        ? static_cast<void *>(&l->cols)
                  : attr == CUBLASLT_MATRIX_LAYOUT_LD          ? static_cast<void *>(&l->ld)
                  : attr == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT ? static_cast<void *>(&l->batch)
                  : attr == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET
                      ? static_cast<void *>(&l->stride)
                      : nullptr;
    bool narrow = attr == CUBLASLT_MATRIX_LAYOUT_TYPE || attr == CUBLASLT_MATRIX_LAYOUT_ORDER ||
                  attr == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
    if (!field || size != (narrow ? 4u : 8u))
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(field, buf, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *pref)
{
    *pref = new cublasLtMatmulPreferenceOpaque_t();
    *open<struct preference>(*pref) = {0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
    emu_live(1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t pref)
{
    delete pref;
    emu_live(pref ? -1 : 0);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
                                                    cublasLtMatmulPreferenceAttributes_t attr,
                                                    const void *buf, size_t size)
{
    if (!pref || !buf)
        return CUBLAS_STATUS_INVALID_VALUE;
    struct preference *p = open<struct preference>(pref);
    if (attr == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES && size == 8)
        memcpy(&p->workspace, buf, 8);
    else if (attr == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK && size == 4)
        memcpy(&p->reduction_mask, buf, 4);
    else if (attr >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES &&
             attr <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES && size == 4)
        memcpy(&p->min_align[attr - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], buf, 4);
    else if ((attr != CUBLASLT_MATMUL_PREF_SEARCH_MODE &&
              attr != CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT) ||
             size != 4)
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- algorithms ---- */

static size_t workspace_of(const struct algo *g, const struct layout *d)
{
    return g->split_k > 1 ? size_t(g->split_k) * d->rows * d->cols * 4 : 0;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t pref, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int *returned)
{
    emu_guard guard(emu_mutex);
    if (!handles.count(handle))
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!desc || !a || !b || !c || !d || !pref || requested < 1 || !results || !returned)
        return CUBLAS_STATUS_INVALID_VALUE;
    const struct desc *s = open<struct desc>(desc);
    const struct layout *la = open<struct layout>(a), *lb = open<struct layout>(b);
    const struct layout *lc = open<struct layout>(c), *ld = open<struct layout>(d);
    const struct preference *p = open<struct preference>(pref);
    const char *mode = getenv("IMF_EMU_CUBLASLT"); /* "none": the engine must do without */
    *returned = 0;
    if ((mode && !strcmp(mode, "none")) || unsupported(s, la, lb, lc, ld))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    bool fast = aligned_for(la, p->min_align[0]) && aligned_for(lb, p->min_align[1]) &&
                aligned_for(lc, p->min_align[2]) && aligned_for(ld, p->min_align[3]);
    /* Like the library: the order depends on the whole shape, and a small grid prefers split-K. */
    uint64_t k = s->transa ? la->rows : la->cols;
    uint32_t first = uint32_t((ld->rows / 64 + ld->cols / 48 + k / 256) % (ALGO_COUNT - 1));
    bool split = ld->rows * ld->cols < 256 * 256 && k >= 1024;
    for (int i = 0; i < ALGO_COUNT && *returned < requested; i++) {
        for (uint32_t parts = split ? 4 : 1;
             parts && *returned<requested; parts = parts> 1 ? 1 : 0) {
            struct algo g = {ALGO_MAGIC,
                             fast ? (first + uint32_t(i)) % (ALGO_COUNT - 1) : ALGO_COUNT - 1,
                             20,
                             parts,
                             parts > 1 ? uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) : 0,
                             0,
                             0,
                             15};
            if (parts > 1 &&
                (!(p->reduction_mask & g.reduction) || workspace_of(&g, ld) > p->workspace))
                continue;
            if (!fast && i)
                continue;
            cublasLtMatmulHeuristicResult_t *r = &results[(*returned)++];
            memset(r, 0, sizeof *r);
            *open<struct algo>(&r->algo) = g;
            r->workspaceSize = workspace_of(&g, ld);
            r->state = CUBLAS_STATUS_SUCCESS;
            r->wavesCount = 1.0f;
        }
    }
    return *returned ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoGetIds(cublasLtHandle_t handle, cublasComputeType_t,
                                        cudaDataType_t, cudaDataType_t, cudaDataType_t,
                                        cudaDataType_t, cudaDataType_t, int requested, int ids[],
                                        int *returned)
{
    emu_guard guard(emu_mutex);
    if (!handles.count(handle))
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *returned = std::min<int>(requested, ALGO_COUNT);
    for (int i = 0; i < *returned; i++)
        ids[i] = i;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoInit(cublasLtHandle_t handle, cublasComputeType_t, cudaDataType_t,
                                      cudaDataType_t, cudaDataType_t, cudaDataType_t,
                                      cudaDataType_t, int id, cublasLtMatmulAlgo_t *algo)
{
    emu_guard guard(emu_mutex);
    if (!handles.count(handle))
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (id < 0 || id >= ALGO_COUNT)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    memset(algo, 0, sizeof *algo);
    *open<struct algo>(algo) = {ALGO_MAGIC, uint32_t(id), 20, 1, 0, 0, 0, 15};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    emu_guard guard(emu_mutex);
    if (!handles.count(handle))
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!desc || !a || !b || !c || !d || !algo || !result)
        return CUBLAS_STATUS_INVALID_VALUE;
    const struct algo *g = reinterpret_cast<const struct algo *>(algo->data);
    const struct layout *la = open<struct layout>(a), *lb = open<struct layout>(b);
    const struct layout *ld = open<struct layout>(d);
    if (g->magic != ALGO_MAGIC ||
        unsupported(open<struct desc>(desc), la, lb, open<struct layout>(c), ld))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (g->id != ALGO_COUNT - 1 &&
        (!aligned_for(la, 16) || !aligned_for(lb, 16) || !aligned_for(ld, 16)))
        return CUBLAS_STATUS_NOT_SUPPORTED; /* the vectorised kernels want 16-byte rows */
    memset(result, 0, sizeof *result);
    result->algo = *algo;
    result->workspaceSize = workspace_of(g, ld);
    result->state = CUBLAS_STATUS_SUCCESS;
    result->wavesCount = 1.0f;
    return CUBLAS_STATUS_SUCCESS;
}

static uint32_t *algo_field(struct algo *g, cublasLtMatmulAlgoConfigAttributes_t attr)
{
    switch (attr) {
    case CUBLASLT_ALGO_CONFIG_ID:
        return &g->id;
    case CUBLASLT_ALGO_CONFIG_TILE_ID:
        return &g->tile;
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM:
        return &g->split_k;
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME:
        return &g->reduction;
    case CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING:
        return &g->swizzle;
    case CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION:
        return &g->custom;
    case CUBLASLT_ALGO_CONFIG_STAGES_ID:
        return &g->stages;
    default:
        return nullptr;
    }
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t attr,
                                                    void *buf, size_t size, size_t *written)
{
    cublasLtMatmulAlgo_t copy_of = *algo;
    const uint32_t *field = algo_field(open<struct algo>(&copy_of), attr);
    if (!field || size < 4 || !buf)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(buf, field, 4);
    if (written)
        *written = 4;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t attr,
                                                    const void *buf, size_t size)
{
    uint32_t *field = algo_field(open<struct algo>(algo), attr);
    if (!field || size != 4 || !buf || attr == CUBLASLT_ALGO_CONFIG_ID)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(field, buf, 4);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- matmul ---- */

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_size, cudaStream_t stream)
{
    emu_guard guard(emu_mutex);
    if (!handles.count(handle))
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (emu_device_ok() != cudaSuccess)
        return CUBLAS_STATUS_EXECUTION_FAILED;
    if (!desc || !alpha || !beta || !a || !b || !d || !a_layout || !b_layout || !c_layout ||
        !d_layout)
        return CUBLAS_STATUS_INVALID_VALUE;
    struct product g = {};
    g.desc = *open<struct desc>(desc);
    g.a = *open<struct layout>(a_layout);
    g.b = *open<struct layout>(b_layout);
    g.c = *open<struct layout>(c_layout);
    g.d = *open<struct layout>(d_layout);
    g.pa = a;
    g.pb = b;
    g.pc = c;
    g.pd = d;
    memcpy(&g.alpha, alpha, 4);
    memcpy(&g.beta, beta, 4);
    if (g.desc.bias_type < 0)
        g.desc.bias_type = int32_t(g.d.type);
    const char *wrong = unsupported(&g.desc, &g.a, &g.b, &g.c, &g.d);
    if (wrong) {
        emu_report(IMF_EMU_API, 0, 0, "cublasLtMatmul: %s", wrong);
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    struct algo chosen = {ALGO_MAGIC, 0, 20, 1, 0, 0, 0, 15};
    if (algo)
        memcpy(&chosen, algo->data, sizeof chosen);
    if (chosen.magic != ALGO_MAGIC || chosen.id >= ALGO_COUNT) {
        emu_report(IMF_EMU_API, 0, 0, "cublasLtMatmul: the algorithm was never initialised");
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const void *pointers[] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        size_t need = chosen.id == ALGO_COUNT - 1 ? element(i < 2 ? g.a.type : g.d.type) : 16;
        if (pointers[i] && reinterpret_cast<uintptr_t>(pointers[i]) % need) {
            emu_report(IMF_EMU_MISALIGNED, reinterpret_cast<uintptr_t>(pointers[i]), 0,
                       "cublasLtMatmul: operand %c needs %zu bytes alignment for this algorithm",
                       "ABCD"[i], need);
            return CUBLAS_STATUS_NOT_SUPPORTED;
        }
    }
    if (workspace_of(&chosen, &g.d) > workspace_size ||
        (workspace_size &&
         !emu_check_range(workspace, workspace_size, false, "matmul workspace"))) {
        emu_report(IMF_EMU_API, 0, 0, "cublasLtMatmul: needs %zu bytes of workspace, has %zu",
                   workspace_of(&chosen, &g.d), workspace_size);
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (g.beta != 0.0f && !c)
        return CUBLAS_STATUS_INVALID_VALUE;
    g.chunk = algo_chunk[chosen.id] / std::max<uint32_t>(chosen.split_k, 1);
    g.chunk = std::max<uint64_t>(g.chunk, 16);
    if (emu_enqueue(stream, "cublasLtMatmul", [g] { return run_product(g); }) != cudaSuccess)
        return CUBLAS_STATUS_EXECUTION_FAILED;
    return CUBLAS_STATUS_SUCCESS;
}
}
