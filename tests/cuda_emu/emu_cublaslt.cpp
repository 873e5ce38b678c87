/* cuBLASLt's calls, as far as the engine uses them; the product itself is in emu_matmul.cpp.
 *
 * Stricter than the library: alignment promised in the preference is checked, as are ranges,
 * workspace size and the algorithm's fitness. Like the library, the heuristic picks by the whole
 * shape, and each algorithm sums K in chunks of its own length: results change in the last bits
 * when the algorithm is not pinned, which is what a test of batch invariance must notice. */
#include "emu_cublaslt.h"
#include <algorithm>
#include <set>
#include <stdlib.h>

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

/* IMF_EMU_CUBLASLT: "none", "moody" (some algorithms sum small products in another order), or
 * "refuse:N" (no algorithm takes N columns). */
static bool lt_mode(const char *name)
{
    const char *mode = getenv("IMF_EMU_CUBLASLT");
    return mode && !strcmp(mode, name);
}

/* Like the library's, not every algorithm takes every size that its suggestion was for. */
static bool takes(const struct algo *g, const struct layout *d)
{
    const char *mode = getenv("IMF_EMU_CUBLASLT");
    if (mode && !strncmp(mode, "refuse:", 7) && d->cols == strtoull(mode + 7, nullptr, 10))
        return false;
    return !(g->id == 1 && d->cols < 16) && !(g->id == 2 && d->batch > 1);
}

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
    *returned = 0;
    if (lt_mode("none") || unsupported(s, la, lb, lc, ld))
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
            if ((!fast && i) || !takes(&g, ld))
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
    if (!takes(g, ld))
        return CUBLAS_STATUS_NOT_SUPPORTED;
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
    if (!takes(&chosen, &g.d)) {
        emu_report(IMF_EMU_API, 0, 0, "cublasLtMatmul: algorithm %u does not take %llu columns",
                   chosen.id, static_cast<unsigned long long>(g.d.cols));
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (g.beta != 0.0f && !c)
        return CUBLAS_STATUS_INVALID_VALUE;
    g.chunk = algo_chunk[chosen.id] / std::max<uint32_t>(chosen.split_k, 1);
    if (lt_mode("moody") && chosen.id != 3 && g.d.cols < 64)
        g.chunk /= 2;
    g.chunk = std::max<uint64_t>(g.chunk, 16);
    if (emu_enqueue(stream, "cublasLtMatmul", [g] { return emu_run_product(g); }) != cudaSuccess)
        return CUBLAS_STATUS_EXECUTION_FAILED;
    return CUBLAS_STATUS_SUCCESS;
}
}
