/* cuBLASLt's product on the host: D = alpha op(A) op(B) + beta C, bias over D's rows, float32
 * accumulation, K summed in chunks of the algorithm's length. */
#include "emu_cublaslt.h"
#include <algorithm>
#include <math.h>
#include <stdlib.h>

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

cudaError_t emu_run_product(const struct product &g)
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
