/* Matrices of the CPU device: packing, products, epilogues. bfloat16 goes to our own products
 * (cpu/gemm) where the CPU has instructions for it. Else oneDNN multiplies, by matmul or, in
 * float32 without AVX-512, by a 1x1 convolution on its jit_1x1 kernels, where a row is a pixel, and
 * N and K are channels: AVX2 has them for every N and K, SSE4.1 for multiples of 8, twice as fast
 * as its gemm. invariance.c sees to it that a row's bits are its own. */
#include "cpu/gemm_multiply.h"
#include "cpu/product.h"
#include "common/clock.h"
#include "common/error.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

struct imf__linear {
    int N, K;
    enum imf__dtype type;
    enum matmul_packing packing; /* PACKED_MATMUL or PACKED_CONV */
    dnnl_memory_desc_t packed;
    dnnl_memory_t weights;
    void *data;
    float *bias;              /* (N) or NULL */
    struct gemm_matrix *ours; /* instead of all that; NULL: oneDNN's */
};

struct imf__swiglu {
    struct imf__linear *w1, *w3;
    struct gemm_matrix *ours;
};

static struct operands with_weights(void *dst, const void *src, const struct imf__linear *w)
{
    return (struct operands){.dst = dst, .src = src, .weights = w->weights, .bias = w->bias};
}

/* ---- Weights ---- */

void cpu_linear_free(struct imf__device *d, struct imf__linear *w)
{
    (void)d;
    if (!w)
        return;
    imf__gemm_matrix_free(w->ours);
    dnnl_memory_destroy(w->weights);
    cpu_weights_free(w->data);
    free(w->bias);
    free(w);
}

/* The packed layout is the same for every number of rows (checked when a primitive is made with
 * it), so one typical number serves to ask for it. */
#define PACKING_ROWS 276

static dnnl_status_t packed_layout(struct cpu_device *cpu, struct imf__linear *w,
                                   const dnnl_memory_desc_t *any, const struct matmul_key *key)
{
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t s = cpu_product_describe(cpu, &pd, key, any);
    if (s != dnnl_success)
        return s;
    w->packing = key->packing;
    w->packed = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    dnnl_primitive_desc_destroy(pd);
    return s;
}

static dnnl_status_t pack_for_matmul(struct cpu_device *cpu, struct imf__linear *w,
                                     dnnl_memory_desc_t *plain)
{
    dnnl_memory_desc_t any;
    struct matmul_key key = {PACKING_ROWS, w->N,  w->K,          w->type, w->type,
                             MATMUL_STORE, false, PACKED_MATMUL, false};
    dnnl_status_t s =
        cpu_matrix(&any, w->K, w->N, cpu_data_type(cpu, w->type), dnnl_format_tag_any);
    if (s == dnnl_success)
        s = cpu_matrix(plain, w->K, w->N, dnnl_f32, dnnl_ba); /* host rows are outputs */
    if (s == dnnl_success)
        s = packed_layout(cpu, w, &any, &key);
    return s;
}

/* Asked for with the epilogue that fewest kernels have, so that all the others can follow. */
static dnnl_status_t pack_for_conv(struct cpu_device *cpu, struct imf__linear *w,
                                   dnnl_memory_desc_t *plain)
{
    dnnl_memory_desc_t any;
    dnnl_dims_t dims = {w->N, w->K, 1, 1};
    struct matmul_key key = {PACKING_ROWS,    w->N,  w->K,        w->type, w->type,
                             MATMUL_SILU_MUL, false, PACKED_CONV, false};
    dnnl_status_t s = dnnl_memory_desc_init_by_tag(&any, 4, dims, dnnl_f32, dnnl_format_tag_any);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(plain, 4, dims, dnnl_f32, dnnl_oihw);
    if (s == dnnl_success)
        s = packed_layout(cpu, w, &any, &key);
    return s;
}

static imf_status linear_pack(struct cpu_device *cpu, struct imf__linear *w, const float *weight)
{
    dnnl_memory_desc_t plain;
    bool conv_wanted = !cpu->row_invariant && !cpu_bf16(cpu);
    if (!conv_wanted || pack_for_conv(cpu, w, &plain) != dnnl_success)
        DNNL_TRY(cpu, pack_for_matmul(cpu, w, &plain));
    return cpu_pack(cpu, &w->weights, &w->data, &w->packed, &plain, weight);
}

static imf_status load_onednn(struct cpu_device *cpu, struct imf__linear *w, const float *weight,
                              const float *bias)
{
    IMF_TRY(linear_pack(cpu, w, weight));
    if (!bias)
        return IMF_OK;
    w->bias = cpu_memory_alloc((size_t)w->N * sizeof(float));
    if (!w->bias)
        return IMF_ENOMEM;
    memcpy(w->bias, bias, (size_t)w->N * sizeof(float));
    cpu->base.weights_bytes += (size_t)w->N * sizeof(float);
    return IMF_OK;
}

static imf_status linear_load(struct cpu_device *cpu, struct imf__linear **out,
                              enum imf__dtype type, const float *weight, const float *bias, int N,
                              int K, bool ours)
{
    struct imf__linear *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    w->N = N;
    w->K = K;
    w->type = type;
    imf_status status = IMF_OK;
    if (!ours)
        status = load_onednn(cpu, w, weight, bias);
    else if (!(w->ours = imf__gemm_matrix_create(cpu, weight, NULL, bias, N, K)))
        status = IMF_ENOMEM;
    if (status != IMF_OK) {
        cpu_linear_free(&cpu->base, w);
        return status;
    }
    *out = w;
    return IMF_OK;
}

imf_status cpu_linear_load(struct imf__device *d, struct imf__linear **out, enum imf__dtype type,
                           const float *weight, const float *bias, int N, int K)
{
    struct cpu_device *cpu = cpu_of(d);
    return linear_load(cpu, out, type, weight, bias, N, K, cpu->gemm && type == IMF__ACT);
}

void cpu_swiglu_free(struct imf__device *d, struct imf__swiglu *w)
{
    if (!w)
        return;
    cpu_linear_free(d, w->w1);
    cpu_linear_free(d, w->w3);
    imf__gemm_matrix_free(w->ours);
    free(w);
}

imf_status cpu_swiglu_load(struct imf__device *d, struct imf__swiglu **out, const float *w1,
                           const float *w3, int M, int K)
{
    struct imf__swiglu *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    imf_status status = IMF_OK;
    if (cpu_of(d)->gemm) {
        w->ours = imf__gemm_matrix_create(cpu_of(d), w1, w3, NULL, M, K);
        status = w->ours ? IMF_OK : IMF_ENOMEM;
    } else {
        status = cpu_linear_load(d, &w->w1, IMF__ACT, w1, NULL, M, K);
        if (status == IMF_OK)
            status = cpu_linear_load(d, &w->w3, IMF__ACT, w3, NULL, M, K);
    }
    if (status != IMF_OK) {
        cpu_swiglu_free(d, w);
        return status;
    }
    *out = w;
    return IMF_OK;
}

/* ---- Operations ---- */

bool cpu_matmul_is_row_invariant(struct cpu_device *cpu)
{
    dnnl_memory_desc_t any;
    dnnl_primitive_desc_t pd = NULL;
    struct matmul_key key = {PACKING_ROWS, 768,   768,           IMF__ACT, IMF__ACT,
                             MATMUL_STORE, false, PACKED_MATMUL, false};
    if (cpu_matrix(&any, 768, 768, cpu_data_type(cpu, IMF__ACT), dnnl_format_tag_any) !=
            dnnl_success ||
        cpu_product_describe(cpu, &pd, &key, &any) != dnnl_success)
        return false;
    bool yes = cpu_implemented_as(pd, "brg");
    dnnl_primitive_desc_destroy(pd);
    return yes;
}

imf_status cpu_linear(struct imf__device *d, void *dst, enum imf__dtype dst_type, const void *src,
                      const struct imf__linear *w, int rows, enum imf__epilogue epilogue)
{
    static const enum matmul_kind kinds[] = {
        [IMF__STORE] = MATMUL_STORE, [IMF__SILU] = MATMUL_SILU, [IMF__ADD] = MATMUL_ADD};
    static const enum gemm_epilogue ours[] = {
        [IMF__STORE] = GEMM_STORE, [IMF__SILU] = GEMM_SILU, [IMF__ADD] = GEMM_ADD};
    if (w->ours)
        return imf__gemm_multiply(cpu_of(d), dst, dst_type, src, w->ours, rows, ours[epilogue]);
    if (dst_type == IMF__ACT && cpu_packs(cpu_of(d)))
        return IMF_EUNSUPPORTED; /* float32 products write rows */
    struct matmul_key key = {
        rows, w->N, w->K, w->type, dst_type, kinds[epilogue], w->bias != NULL, w->packing, false};
    struct operands o = with_weights(dst, src, w);
    return cpu_product_multiply(cpu_of(d), &key, &w->packed, &o);
}

/* The gate is a post-operation of the second product, so that it costs no pass of its own. */
imf_status cpu_swiglu(struct imf__device *d, void *dst, const void *src,
                      const struct imf__swiglu *w, int rows)
{
    struct cpu_device *cpu = cpu_of(d);
    if (w->ours)
        return imf__gemm_multiply(cpu, dst, IMF__ACT, src, w->ours, rows, GEMM_SWIGLU);
    struct matmul_key up = {rows,         w->w3->N, w->w3->K,       IMF__ACT, IMF__ACT,
                            MATMUL_STORE, false,    w->w3->packing, false};
    struct matmul_key gate = up;
    gate.kind = MATMUL_SILU_MUL;
    IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_TENSOR,
                                (size_t)rows * (size_t)w->w3->N * d->act_size));
    void *product = cpu_scratch(cpu, CPU_SCRATCH_TENSOR);
    struct operands o = with_weights(product, src, w->w3);
    IMF_TRY(cpu_product_multiply(cpu, &up, &w->w3->packed, &o));
    o = with_weights(dst, src, w->w1);
    o.factor = product;
    return cpu_product_multiply(cpu, &gate, &w->w1->packed, &o);
}

/* ---- What the machine can do ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* oneDNN's product, median of a few of (1104, 1024) with (1024, 3072): q, k and v of 4 samples of
 * XL. */
imf_status cpu_matmul_rate(struct imf__device *d, double *flops_per_second)
{
    enum { M = 1104, K = 1024, N = 3072, RUNS = 15 };
    struct cpu_device *cpu = cpu_of(d);
    omp_set_num_threads(cpu->threads);
    size_t counted = d->weights_bytes;
    struct imf__linear *w = NULL;
    float *weight = cpu_memory_alloc((size_t)N * K * sizeof(float));
    void *src = cpu_memory_alloc((size_t)M * K * d->act_size);
    void *dst = cpu_memory_alloc((size_t)M * N * d->act_size);
    imf_status status = weight && src && dst ? IMF_OK : IMF_ENOMEM;
    if (status == IMF_OK)
        status = linear_load(cpu, &w, IMF__ACT, weight, NULL, N, K, false);
    double t[RUNS];
    for (int i = -1; i < RUNS && status == IMF_OK; i++) { /* the first is a warm-up */
        struct matmul_key key = {M,     N,          K,    IMF__ACT, IMF__ACT, MATMUL_STORE,
                                 false, w->packing, false};
        struct operands o = with_weights(dst, src, w);
        double start = imf__seconds();
        status = cpu_product_multiply(cpu, &key, &w->packed, &o);
        if (i >= 0)
            t[i] = imf__seconds() - start;
    }
    if (status == IMF_OK) {
        qsort(t, RUNS, sizeof(t[0]), by_value);
        *flops_per_second = 2.0 * M * N * K / t[RUNS / 2];
    }
    cpu_linear_free(d, w);
    d->weights_bytes = counted;
    free(dst);
    free(src);
    free(weight);
    return status;
}

/* The best of a few runs of instructions that touch no memory, on all threads at once. */
imf_status cpu_peak_rate(struct imf__device *d, double *flops_per_second)
{
    enum { RUNS = 7 };
    struct cpu_device *cpu = cpu_of(d);
    double (*peak)(int) = cpu->gemm ? cpu->gemm->peak : cpu->k->peak;
    double best = 0;
    int times = 1000;
    for (int i = 0; i < RUNS; i++) {
        double flops = 0, start = imf__seconds();
#pragma omp parallel num_threads(cpu->threads) reduction(+ : flops)
        flops += peak(times);
        double t = imf__seconds() - start;
        if (t < 1e-3) { /* too short to tell from the start of the threads */
            times *= 2;
            i = -1;
        } else if (flops / t > best) {
            best = flops / t;
        }
    }
    *flops_per_second = best;
    return IMF_OK;
}
