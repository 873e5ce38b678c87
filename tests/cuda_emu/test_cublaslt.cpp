/* The emulated cuBLASLt against plain loops, and the mistakes it must refuse. */
#include <math.h>
#include <cublasLt.h>
#include "test_emu.h"

static float value(size_t i, unsigned seed)
{
    uint32_t h = uint32_t(i) * 2654435761u + seed * 40503u;
    h ^= h >> 15;
    h *= 2246822519u;
    h ^= h >> 13;
    return float(h % 2001) / 1000.0f - 1.0f;
}

static float round_bf16(float v)
{
    return __uint_as_float(uint32_t(imf_emu_bf16_bits(v)) << 16);
}

struct matmul {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulPreference_t pref;
};

static void set_up(struct matmul *g, cudaDataType type, cudaDataType out, int ta, int tb, size_t m,
                   size_t n, size_t k, int batch)
{
    ck_assert_int_eq(cublasLtCreate(&g->handle), CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulDescCreate(&g->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasOperation_t opa = ta ? CUBLAS_OP_T : CUBLAS_OP_N, opb = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtMatmulDescSetAttribute(g->desc, CUBLASLT_MATMUL_DESC_TRANSA, &opa, sizeof opa);
    cublasLtMatmulDescSetAttribute(g->desc, CUBLASLT_MATMUL_DESC_TRANSB, &opb, sizeof opb);
    cublasLtMatrixLayoutCreate(&g->a, type, ta ? k : m, ta ? m : k, int64_t(ta ? k : m));
    cublasLtMatrixLayoutCreate(&g->b, type, tb ? n : k, tb ? k : n, int64_t(tb ? n : k));
    cublasLtMatrixLayoutCreate(&g->c, out, m, n, int64_t(m));
    int64_t strides[3] = {int64_t(m * k), int64_t(k * n), int64_t(m * n)};
    cublasLtMatrixLayout_t layouts[3] = {g->a, g->b, g->c};
    for (int i = 0; i < 3 && batch > 1; i++) {
        cublasLtMatrixLayoutSetAttribute(layouts[i], CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, 4);
        cublasLtMatrixLayoutSetAttribute(layouts[i], CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                         &strides[i], 8);
    }
    cublasLtMatmulPreferenceCreate(&g->pref);
    uint32_t align = 16;
    for (int i = 0; i < 4; i++)
        cublasLtMatmulPreferenceSetAttribute(
            g->pref,
            cublasLtMatmulPreferenceAttributes_t(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i),
            &align, 4);
}

static void tear_down(struct matmul *g)
{
    cublasLtMatmulPreferenceDestroy(g->pref);
    cublasLtMatrixLayoutDestroy(g->a);
    cublasLtMatrixLayoutDestroy(g->b);
    cublasLtMatrixLayoutDestroy(g->c);
    cublasLtMatmulDescDestroy(g->desc);
    cublasLtDestroy(g->handle);
}

/* Uploads n values, as bf16 or float, and keeps the rounded ones. */
static void *upload(size_t n, unsigned seed, cudaDataType type, std::vector<float> *kept)
{
    void *p = nullptr;
    std::vector<uint16_t> half(n);
    kept->resize(n);
    for (size_t i = 0; i < n; i++) {
        float v = value(i, seed);
        (*kept)[i] = type == CUDA_R_32F ? v : round_bf16(v);
        half[i] = imf_emu_bf16_bits(v);
    }
    size_t bytes = n * (type == CUDA_R_32F ? 4 : 2);
    ck_assert_int_eq(cudaMalloc(&p, bytes), cudaSuccess);
    cudaMemcpy(p, type == CUDA_R_32F ? static_cast<const void *>(kept->data()) : half.data(), bytes,
               cudaMemcpyHostToDevice);
    return p;
}

static const struct {
    size_t m, n, k;
    int ta, tb, batch, bias;
    cudaDataType type, out;
    float alpha, beta;
} cases[] = {
    {48, 64, 80, 1, 0, 1, 1, CUDA_R_16BF, CUDA_R_16BF, 1.0f, 0.0f},
    {40, 24, 304, 1, 0, 1, 0, CUDA_R_16BF, CUDA_R_32F, 0.5f, 1.0f},
    {33, 17, 65, 1, 0, 1, 1, CUDA_R_32F, CUDA_R_32F, 1.0f, 0.0f},
    {16, 8, 32, 0, 0, 3, 0, CUDA_R_16BF, CUDA_R_32F, 1.0f, 0.0f},
    {64, 72, 24, 0, 1, 2, 0, CUDA_R_32F, CUDA_R_32F, 2.0f, 0.25f},
    {200, 130, 520, 1, 1, 1, 0, CUDA_R_16BF, CUDA_R_16BF, 1.0f, 1.0f},
};

START_TEST(matmul_against_loops)
{
    const auto *t = &cases[_i];
    struct matmul g;
    imf_emu_reset();
    imf_emu_set_quiet(1);
    set_up(&g, t->type, t->out, t->ta, t->tb, t->m, t->n, t->k, t->batch);
    std::vector<float> a, b, c, bias;
    size_t batch = size_t(t->batch);
    void *da = upload(batch * t->m * t->k, 1, t->type, &a);
    void *db = upload(batch * t->k * t->n, 2, t->type, &b);
    void *dc = upload(batch * t->m * t->n, 3, t->out, &c);
    void *dbias = upload(t->m, 4, t->out, &bias);
    if (t->bias) {
        cublasLtEpilogue_t e = CUBLASLT_EPILOGUE_BIAS;
        cublasLtMatmulDescSetAttribute(g.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &e, sizeof e);
        cublasLtMatmulDescSetAttribute(g.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &dbias,
                                       sizeof dbias);
    }
    cublasLtMatmulHeuristicResult_t r[8];
    int found = 0;
    ck_assert_int_eq(
        cublasLtMatmulAlgoGetHeuristic(g.handle, g.desc, g.a, g.b, g.c, g.c, g.pref, 8, r, &found),
        CUBLAS_STATUS_SUCCESS);
    ck_assert_int_gt(found, 0);
    ck_assert_int_eq(cublasLtMatmul(g.handle, g.desc, &t->alpha, da, g.a, db, g.b, &t->beta, dc,
                                    g.c, dc, g.c, &r[0].algo, nullptr, 0, nullptr),
                     CUBLAS_STATUS_SUCCESS);
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
    ck_assert_int_eq(imf_emu_report_count(), 0);
    char name[80];
    snprintf(name, sizeof name, "cublasLtMatmul %zux%zux%zu%s", t->m, t->n, t->k,
             t->type == CUDA_R_32F ? " f32" : "");
    const struct imf_emu_counters *counted = imf_emu_counters_find(name);
    size_t in = t->type == CUDA_R_32F ? 4 : 2, to = t->out == CUDA_R_32F ? 4 : 2;
    ck_assert_ptr_nonnull(counted);
    ck_assert_uint_eq(counted->tensor_flops, 2 * batch * t->m * t->n * t->k);
    ck_assert_uint_eq(counted->write_bytes, batch * t->m * t->n * to);
    ck_assert_uint_eq(counted->read_bytes, batch * ((t->m + t->n) * t->k * in +
                                                    (t->beta != 0.0f ? t->m * t->n * to : 0)));
    std::vector<uint16_t> half(c.size());
    std::vector<float> got(c.size());
    if (t->out == CUDA_R_32F)
        cudaMemcpy(got.data(), dc, got.size() * 4, cudaMemcpyDeviceToHost);
    else
        cudaMemcpy(half.data(), dc, half.size() * 2, cudaMemcpyDeviceToHost);
    for (size_t z = 0; z < batch; z++)
        for (size_t j = 0; j < t->n; j++)
            for (size_t i = 0; i < t->m; i++) {
                double sum = 0.0;
                const float *az = a.data() + z * t->m * t->k, *bz = b.data() + z * t->k * t->n;
                for (size_t p = 0; p < t->k; p++)
                    sum += double(t->ta ? az[i * t->k + p] : az[p * t->m + i]) *
                           double(t->tb ? bz[p * t->n + j] : bz[j * t->k + p]);
                size_t at = z * t->m * t->n + j * t->m + i;
                double want = double(t->alpha) * sum + double(t->beta) * double(c[at]) +
                              (t->bias ? double(bias[i]) : 0.0);
                double have = t->out == CUDA_R_32F
                                  ? double(got[at])
                                  : double(__uint_as_float(uint32_t(half[at]) << 16));
                double bound = t->out == CUDA_R_32F ? 1e-4 : fabs(want) / 128.0 + 1e-3;
                ck_assert_msg(fabs(have - want) <= bound, "(%zu, %zu): %g, want %g", i, j, have,
                              want);
            }
    tear_down(&g);
    cudaFree(da);
    cudaFree(db);
    cudaFree(dc);
    cudaFree(dbias);
}
END_TEST

/* The first 8 columns of Y alone and among 64, with the heuristic's choice or one pinned algorithm.
 */
static bool same_bits(bool pinned)
{
    const size_t m = 128, k = 2048;
    std::vector<float> w, x, out[2];
    void *dw = upload(m * k, 5, CUDA_R_16BF, &w), *dx = upload(k * 64, 6, CUDA_R_16BF, &x), *dy;
    cudaMalloc(&dy, m * 64 * 4);
    for (int round = 0; round < 2; round++) {
        size_t n = round ? 64 : 8;
        struct matmul g;
        set_up(&g, CUDA_R_16BF, CUDA_R_32F, 1, 0, m, n, k, 1);
        uint64_t workspace = 0;
        uint32_t mask = 0;
        cublasLtMatmulPreferenceSetAttribute(g.pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &workspace, 8);
        cublasLtMatmulPreferenceSetAttribute(g.pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                             &mask, 4);
        cublasLtMatmulHeuristicResult_t r[8], check;
        int found = 0;
        cublasLtMatmulAlgoGetHeuristic(g.handle, g.desc, g.a, g.b, g.c, g.c, g.pref, 8, r, &found);
        cublasLtMatmulAlgo_t algo = r[0].algo;
        for (int i = 0; i < found; i++) {
            uint32_t id, split;
            cublasLtMatmulAlgoConfigGetAttribute(&r[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
                                                 &split, 4, nullptr);
            ck_assert_uint_eq(split, 1); /* the mask forbids split-K */
            cublasLtMatmulAlgoConfigGetAttribute(&r[i].algo, CUBLASLT_ALGO_CONFIG_ID, &id, 4,
                                                 nullptr);
            if (pinned && id == 3) /* takes every size */
                algo = r[i].algo;
        }
        ck_assert_int_eq(
            cublasLtMatmulAlgoCheck(g.handle, g.desc, g.a, g.b, g.c, g.c, &algo, &check),
            CUBLAS_STATUS_SUCCESS);
        float one = 1.0f, zero = 0.0f;
        cublasLtMatmul(g.handle, g.desc, &one, dw, g.a, dx, g.b, &zero, dy, g.c, dy, g.c, &algo,
                       nullptr, 0, nullptr);
        out[round].resize(m * 8);
        ck_assert_int_eq(cudaMemcpy(out[round].data(), dy, m * 8 * 4, cudaMemcpyDeviceToHost),
                         cudaSuccess);
        tear_down(&g);
    }
    cudaFree(dw);
    cudaFree(dx);
    cudaFree(dy);
    return out[0] == out[1];
}

START_TEST(only_pinned_algorithms_are_batch_invariant)
{
    imf_emu_reset();
    ck_assert(same_bits(true));
    ck_assert_msg(!same_bits(false), "the heuristic's choice ought to change with the shape");
}
END_TEST

START_TEST(matmul_mistakes)
{
    struct matmul g;
    std::vector<float> v;
    float one = 1.0f, zero = 0.0f;
    imf_emu_reset();
    imf_emu_set_quiet(1);
    set_up(&g, CUDA_R_16BF, CUDA_R_32F, 1, 0, 32, 16, 64, 1);
    char *a = static_cast<char *>(upload(32 * 64, 1, CUDA_R_16BF, &v));
    char *b = static_cast<char *>(upload(64 * 16, 1, CUDA_R_16BF, &v)), *short_b, *d, *raw;
    short_b = static_cast<char *>(upload(64 * 16 - 8, 1, CUDA_R_16BF, &v));
    cudaMalloc(&d, 32 * 16 * 4);
    cudaMalloc(&raw, 32 * 64 * 2);
    const struct {
        const char *a, *b;
        int kind;
    } bad[] = {{a + 2, b, IMF_EMU_MISALIGNED},
               {a, short_b, IMF_EMU_OUT_OF_BOUNDS},
               {raw, b, IMF_EMU_UNINITIALISED},
               {reinterpret_cast<const char *>(&v), b, IMF_EMU_OUT_OF_BOUNDS}};
    for (auto &t : bad) {
        imf_emu_reset();
        cublasStatus_t s = cublasLtMatmul(g.handle, g.desc, &one, t.a, g.a, t.b, g.b, &zero, d, g.c,
                                          d, g.c, nullptr, nullptr, 0, nullptr);
        cudaError_t e = cudaDeviceSynchronize();
        ck_assert(s != CUBLAS_STATUS_SUCCESS || e != cudaSuccess);
        ck_assert_int_gt(imf_emu_report_count(), 0);
        ck_assert_int_eq(imf_emu_report_at(0)->kind, t.kind);
    }
    imf_emu_reset();
    cublasLtMatmulAlgo_t garbage = {{1, 2, 3}};
    ck_assert_int_ne(cublasLtMatmul(g.handle, g.desc, &one, a, g.a, b, g.b, &zero, d, g.c, d, g.c,
                                    &garbage, nullptr, 0, nullptr),
                     CUBLAS_STATUS_SUCCESS);
    imf_emu_reset();
    tear_down(&g);
    cudaFree(a);
    cudaFree(b);
    cudaFree(short_b);
    cudaFree(d);
    cudaFree(raw);
    ck_assert_uint_eq(imf_emu_device_bytes(0), 0); /* and the tests before have freed theirs */
    ck_assert_int_eq(imf_emu_live_objects(), 0);
}
END_TEST

TCase *cublaslt_tests(void)
{
    TCase *t = tcase_create("cublaslt");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, matmul_against_loops, 0, int(sizeof cases / sizeof *cases));
    tcase_add_test(t, only_pinned_algorithms_are_batch_invariant);
    tcase_add_test(t, matmul_mistakes);
    return t;
}
