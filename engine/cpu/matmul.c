/* Matrix products on oneDNN. One primitive per (rows, N, K, types, epilogue), made while the model
 * loads and shared by all layers of that shape. The scratchpad is ours: oneDNN's own is not safe,
 * and memory is planned at load.
 *
 * A row's sums must not depend on how many rows there are. Three ways, the first that the machine
 * has for a matrix:
 *   - matmul on brgemm kernels (AVX-512, and what comes after it);
 *   - float32: a 1x1 convolution on oneDNN's jit_1x1 kernels, where a row is a pixel, N and K are
 *     channels, and a pixel's sums run over K in one order. AVX2 has them for every N and K, SSE4.1
 *     for multiples of 8. Its matmul is a general gemm, which splits K as the whole size suggests;
 *   - that gemm on blocks of ROW_BLOCK rows: about half as fast, for what is left. */
#include "cpu/internal.h"
#include "common/error.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum matmul_kind { MATMUL_STORE, MATMUL_SILU, MATMUL_ADD, MATMUL_SILU_MUL };

/* What the weights are packed for. */
enum matmul_packing { PACKED_MATMUL, PACKED_CONV };

struct matmul_key {
    int rows, N, K;
    enum imf__dtype type, dst_type;
    enum matmul_kind kind;
    bool bias;
    enum matmul_packing packing;
};

struct cpu_matmul {
    struct cpu_matmul *next;
    struct matmul_key key;
    dnnl_primitive_t primitive;
    dnnl_memory_t src, dst, bias, factor, scratchpad;
    size_t scratchpad_bytes;
};

struct imf__linear {
    int N, K;
    enum imf__dtype type;
    enum matmul_packing packing; /* PACKED_MATMUL or PACKED_CONV */
    dnnl_memory_desc_t packed;
    dnnl_memory_t weights;
    void *data;
    float *bias; /* (N) or NULL */
};

struct imf__swiglu {
    struct imf__linear *w1, *w3;
};

static dnnl_data_type_t data_type(const struct cpu_device *cpu, enum imf__dtype type)
{
    return type == IMF__ACT && cpu_bf16(cpu) ? dnnl_bf16 : dnnl_f32;
}

static dnnl_status_t matrix(dnnl_memory_desc_t *md, int rows, int columns, dnnl_data_type_t type,
                            dnnl_format_tag_t tag)
{
    dnnl_dims_t dims = {rows, columns};
    return dnnl_memory_desc_init_by_tag(md, 2, dims, type, tag);
}

static dnnl_status_t add_post_ops(dnnl_post_ops_t ops, enum matmul_kind kind,
                                  const dnnl_memory_desc_t *factor)
{
    dnnl_status_t status = dnnl_success;
    if (kind == MATMUL_SILU || kind == MATMUL_SILU_MUL)
        status = dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_swish, 1.0f, 0.0f);
    if (status == dnnl_success && kind == MATMUL_SILU_MUL)
        status = dnnl_post_ops_append_binary(ops, dnnl_binary_mul, factor);
    if (status == dnnl_success && kind == MATMUL_ADD)
        status = dnnl_post_ops_append_sum(ops, 1.0f);
    return status;
}

union product_desc {
    dnnl_matmul_desc_t matmul;
    dnnl_convolution_desc_t conv;
};

static dnnl_status_t describe_matmul(union product_desc *desc, dnnl_memory_desc_t *dst,
                                     const struct cpu_device *cpu, const struct matmul_key *key,
                                     const dnnl_memory_desc_t *weights)
{
    dnnl_memory_desc_t src, bias;
    dnnl_status_t s = matrix(&src, key->rows, key->K, data_type(cpu, key->type), dnnl_ab);
    if (s == dnnl_success)
        s = matrix(dst, key->rows, key->N, data_type(cpu, key->dst_type), dnnl_ab);
    if (s == dnnl_success)
        s = matrix(&bias, 1, key->N, dnnl_f32, dnnl_ab);
    if (s == dnnl_success)
        s = dnnl_matmul_desc_init(&desc->matmul, &src, weights, key->bias ? &bias : NULL, dst);
    return s;
}

/* The same product: a picture of rows x 1 pixels, K channels in and N out. */
static dnnl_status_t describe_conv(union product_desc *desc, dnnl_memory_desc_t *dst,
                                   const struct cpu_device *cpu, const struct matmul_key *key,
                                   const dnnl_memory_desc_t *weights)
{
    dnnl_memory_desc_t src, bias;
    dnnl_dims_t src_dims = {1, key->K, key->rows, 1}, dst_dims = {1, key->N, key->rows, 1};
    dnnl_dims_t bias_dims = {key->N}, stride = {1, 1}, pad = {0, 0};
    dnnl_status_t s =
        dnnl_memory_desc_init_by_tag(&src, 4, src_dims, data_type(cpu, key->type), dnnl_nhwc);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(dst, 4, dst_dims, data_type(cpu, key->dst_type),
                                         dnnl_nhwc);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(&bias, 1, bias_dims, dnnl_f32, dnnl_x);
    if (s == dnnl_success)
        s = dnnl_convolution_forward_desc_init(&desc->conv, dnnl_forward_inference,
                                               dnnl_convolution_direct, &src, weights,
                                               key->bias ? &bias : NULL, dst, stride, pad, pad);
    return s;
}

static bool implemented_as(const_dnnl_primitive_desc_t pd, const char *prefix)
{
    const char *name = "";
    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name);
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

/* A convolution on kernels other than jit_1x1 is declined: its rows promise nothing. */
static dnnl_status_t describe(struct cpu_device *cpu, dnnl_primitive_desc_t *pd,
                              const struct matmul_key *key, const dnnl_memory_desc_t *weights)
{
    union product_desc desc;
    dnnl_memory_desc_t dst;
    dnnl_post_ops_t ops = NULL;
    bool conv = key->packing == PACKED_CONV;
    dnnl_status_t s = (conv ? describe_conv : describe_matmul)(&desc, &dst, cpu, key, weights);
    if (s == dnnl_success)
        s = dnnl_post_ops_create(&ops);
    if (s == dnnl_success)
        s = add_post_ops(ops, key->kind, &dst);
    if (s == dnnl_success)
        s = cpu_primitive_desc(cpu, pd, &desc, ops);
    dnnl_post_ops_destroy(ops);
    if (s == dnnl_success && conv && !implemented_as(*pd, "jit_1x1")) {
        dnnl_primitive_desc_destroy(*pd);
        *pd = NULL;
        s = dnnl_unimplemented;
    }
    return s;
}

static void matmul_free(struct cpu_matmul *m)
{
    if (!m)
        return;
    dnnl_primitive_destroy(m->primitive);
    dnnl_memory_destroy(m->src);
    dnnl_memory_destroy(m->dst);
    dnnl_memory_destroy(m->bias);
    dnnl_memory_destroy(m->factor);
    dnnl_memory_destroy(m->scratchpad);
    free(m);
}

void cpu_matmuls_free(struct cpu_device *cpu)
{
    while (cpu->matmuls) {
        struct cpu_matmul *m = cpu->matmuls;
        cpu->matmuls = m->next;
        matmul_free(m);
    }
}

static dnnl_status_t matmul_create(struct cpu_device *cpu, struct cpu_matmul *m,
                                   const struct matmul_key *key, const dnnl_memory_desc_t *weights)
{
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t s = describe(cpu, &pd, key, weights);
    if (s != dnnl_success)
        return s;
    m->key = *key;
    const dnnl_memory_desc_t *scratchpad =
        dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    m->scratchpad_bytes = dnnl_memory_desc_get_size(scratchpad);
    s = dnnl_primitive_create(&m->primitive, pd);
    const struct {
        dnnl_memory_t *memory;
        dnnl_query_t query;
        int index;
        bool wanted;
    } memories[] = {
        {&m->src, dnnl_query_src_md, 0, true},
        {&m->dst, dnnl_query_dst_md, 0, true},
        {&m->factor, dnnl_query_dst_md, 0, key->kind == MATMUL_SILU_MUL},
        {&m->bias, dnnl_query_weights_md, 1, key->bias},
        {&m->scratchpad, dnnl_query_scratchpad_md, 0, true},
    };
    for (size_t i = 0; i < sizeof(memories) / sizeof(memories[0]) && s == dnnl_success; i++) {
        if (memories[i].wanted)
            s = dnnl_memory_create(
                memories[i].memory,
                dnnl_primitive_desc_query_md(pd, memories[i].query, memories[i].index), cpu->engine,
                DNNL_MEMORY_NONE);
    }
    dnnl_primitive_desc_destroy(pd);
    return s;
}

static bool same_key(const struct matmul_key *a, const struct matmul_key *b)
{
    return a->rows == b->rows && a->N == b->N && a->K == b->K && a->type == b->type &&
           a->dst_type == b->dst_type && a->kind == b->kind && a->bias == b->bias &&
           a->packing == b->packing;
}

static imf_status matmul_get(struct cpu_device *cpu, struct cpu_matmul **out,
                             const struct matmul_key *key, const dnnl_memory_desc_t *weights)
{
    struct cpu_matmul *m;
    for (m = cpu->matmuls; m; m = m->next) {
        if (same_key(&m->key, key)) {
            *out = m;
            return IMF_OK;
        }
    }
    m = calloc(1, sizeof(*m));
    if (!m)
        return IMF_ENOMEM;
    dnnl_status_t s = matmul_create(cpu, m, key, weights);
    if (s == dnnl_success && cpu_scratch_reserve(cpu, CPU_SCRATCH_DNNL, m->scratchpad_bytes))
        s = dnnl_out_of_memory;
    if (s != dnnl_success) {
        matmul_free(m);
        return cpu_fail(cpu, "a matrix product", s);
    }
    m->next = cpu->matmuls;
    cpu->matmuls = m;
    *out = m;
    return IMF_OK;
}

/* The operands that change from call to call. */
struct operands {
    void *dst;
    const void *src;
    dnnl_memory_t weights; /* packed */
    const void *factor;
    float *bias;
};

static imf_status matmul_run(struct cpu_device *cpu, const struct cpu_matmul *m,
                             const struct operands *o)
{
    dnnl_exec_arg_t args[6] = {
        {DNNL_ARG_SRC, m->src},
        {DNNL_ARG_WEIGHTS, o->weights},
        {DNNL_ARG_DST, m->dst},
        {DNNL_ARG_SCRATCHPAD, m->scratchpad},
    };
    int n = 4;
    DNNL_TRY(cpu, dnnl_memory_set_data_handle(m->src, (void *)o->src));
    DNNL_TRY(cpu, dnnl_memory_set_data_handle(m->dst, o->dst));
    DNNL_TRY(cpu, dnnl_memory_set_data_handle(m->scratchpad, cpu_scratch(cpu, CPU_SCRATCH_DNNL)));
    if (m->bias) {
        DNNL_TRY(cpu, dnnl_memory_set_data_handle(m->bias, o->bias));
        args[n++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, m->bias};
    }
    if (m->factor) {
        DNNL_TRY(cpu, dnnl_memory_set_data_handle(m->factor, (void *)o->factor));
        args[n++] =
            (dnnl_exec_arg_t){DNNL_ARG_ATTR_MULTIPLE_POST_OP(1) | DNNL_ARG_SRC_1, m->factor};
    }
    DNNL_TRY(cpu, dnnl_primitive_execute(m->primitive, cpu->stream, n, args));
    DNNL_TRY(cpu, dnnl_stream_wait(cpu->stream));
    return IMF_OK;
}

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
    dnnl_memory_destroy(w->weights);
    free(w->data);
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
    dnnl_status_t s = describe(cpu, &pd, key, any);
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
    struct matmul_key key = {PACKING_ROWS, w->N,         w->K,  w->type,
                             w->type,      MATMUL_STORE, false, PACKED_MATMUL};
    dnnl_status_t s = matrix(&any, w->K, w->N, data_type(cpu, w->type), dnnl_format_tag_any);
    if (s == dnnl_success)
        s = matrix(plain, w->K, w->N, dnnl_f32, dnnl_ba); /* host rows are outputs */
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
    struct matmul_key key = {PACKING_ROWS,    w->N,  w->K,       w->type, w->type,
                             MATMUL_SILU_MUL, false, PACKED_CONV};
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

imf_status cpu_linear_load(struct imf__device *d, struct imf__linear **out, enum imf__dtype type,
                           const float *weight, const float *bias, int N, int K)
{
    struct cpu_device *cpu = cpu_of(d);
    struct imf__linear *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    w->N = N;
    w->K = K;
    w->type = type;
    imf_status status = linear_pack(cpu, w, weight);
    if (status == IMF_OK && bias) {
        w->bias = cpu_memory_alloc((size_t)N * sizeof(float));
        if (w->bias) {
            memcpy(w->bias, bias, (size_t)N * sizeof(float));
            d->weights_bytes += (size_t)N * sizeof(float);
        } else {
            status = IMF_ENOMEM;
        }
    }
    if (status != IMF_OK) {
        cpu_linear_free(d, w);
        return status;
    }
    *out = w;
    return IMF_OK;
}

void cpu_swiglu_free(struct imf__device *d, struct imf__swiglu *w)
{
    if (!w)
        return;
    cpu_linear_free(d, w->w1);
    cpu_linear_free(d, w->w3);
    free(w);
}

imf_status cpu_swiglu_load(struct imf__device *d, struct imf__swiglu **out, const float *w1,
                           const float *w3, int M, int K)
{
    struct imf__swiglu *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    imf_status status = cpu_linear_load(d, &w->w1, IMF__ACT, w1, NULL, M, K);
    if (status == IMF_OK)
        status = cpu_linear_load(d, &w->w3, IMF__ACT, w3, NULL, M, K);
    if (status != IMF_OK) {
        cpu_swiglu_free(d, w);
        return status;
    }
    *out = w;
    return IMF_OK;
}

/* ---- Operations ---- */

/* Where a row's sums depend on how many rows there are, every product is made of blocks of this
 * many rows, the last one padded: slower, but the same bits at every batch. */
#define ROW_BLOCK 96

bool cpu_matmul_is_row_invariant(struct cpu_device *cpu)
{
    dnnl_memory_desc_t any;
    dnnl_primitive_desc_t pd = NULL;
    struct matmul_key key = {PACKING_ROWS, 768,          768,   IMF__ACT,
                             IMF__ACT,     MATMUL_STORE, false, PACKED_MATMUL};
    if (matrix(&any, 768, 768, data_type(cpu, IMF__ACT), dnnl_format_tag_any) != dnnl_success ||
        describe(cpu, &pd, &key, &any) != dnnl_success)
        return false;
    bool yes = implemented_as(pd, "brg");
    dnnl_primitive_desc_destroy(pd);
    return yes;
}

static size_t element_size(const struct cpu_device *cpu, enum imf__dtype type)
{
    return data_type(cpu, type) == dnnl_bf16 ? 2 : 4;
}

/* One block of fewer rows than the primitive has: through padded copies. */
static imf_status run_padded(struct cpu_device *cpu, const struct cpu_matmul *m,
                             const struct operands *o, size_t rows)
{
    size_t src = (size_t)m->key.K * element_size(cpu, m->key.type);
    size_t dst = (size_t)m->key.N * element_size(cpu, m->key.dst_type);
    char *from = cpu_scratch(cpu, CPU_SCRATCH_ROWS), *to = from + ROW_BLOCK * src;
    char *factor = to + ROW_BLOCK * dst;
    struct operands padded = *o;
    padded.src = from;
    padded.dst = to;
    padded.factor = factor;
    memcpy(from, o->src, rows * src);
    memcpy(to, o->dst, rows * dst); /* the residual, where it is added to */
    if (o->factor)
        memcpy(factor, o->factor, rows * dst);
    IMF_TRY(matmul_run(cpu, m, &padded));
    memcpy(o->dst, to, rows * dst);
    return IMF_OK;
}

static imf_status run_blocks(struct cpu_device *cpu, const struct cpu_matmul *m,
                             const struct operands *o, size_t rows)
{
    size_t src = (size_t)m->key.K * element_size(cpu, m->key.type);
    size_t dst = (size_t)m->key.N * element_size(cpu, m->key.dst_type);
    for (size_t at = 0; at < rows; at += ROW_BLOCK) {
        struct operands piece = *o;
        piece.src = (const char *)o->src + at * src;
        piece.dst = (char *)o->dst + at * dst;
        piece.factor = o->factor ? (const char *)o->factor + at * dst : NULL;
        if (rows - at >= ROW_BLOCK)
            IMF_TRY(matmul_run(cpu, m, &piece));
        else
            IMF_TRY(run_padded(cpu, m, &piece, rows - at));
    }
    return IMF_OK;
}

/* Prepares the product of a key and, unless dry, runs it. */
static imf_status multiply(struct cpu_device *cpu, struct matmul_key key,
                           const dnnl_memory_desc_t *weights, const struct operands *o)
{
    struct cpu_matmul *m = NULL;
    size_t rows = (size_t)key.rows;
    bool blocks = key.packing == PACKED_MATMUL && !cpu->row_invariant;
    if (blocks) {
        size_t width = (size_t)key.K + 2 * (size_t)key.N;
        key.rows = ROW_BLOCK;
        IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_ROWS, ROW_BLOCK * width * sizeof(float)));
    }
    IMF_TRY(matmul_get(cpu, &m, &key, weights));
    if (cpu->base.dry)
        return IMF_OK;
    return blocks ? run_blocks(cpu, m, o, rows) : matmul_run(cpu, m, o);
}

imf_status cpu_linear(struct imf__device *d, void *dst, enum imf__dtype dst_type, const void *src,
                      const struct imf__linear *w, int rows, enum imf__epilogue epilogue)
{
    static const enum matmul_kind kinds[] = {
        [IMF__STORE] = MATMUL_STORE, [IMF__SILU] = MATMUL_SILU, [IMF__ADD] = MATMUL_ADD};
    struct matmul_key key = {
        rows, w->N, w->K, w->type, dst_type, kinds[epilogue], w->bias != NULL, w->packing};
    struct operands o = with_weights(dst, src, w);
    return multiply(cpu_of(d), key, &w->packed, &o);
}

/* The gate is a post-operation of the second product, so that it costs no pass of its own. */
imf_status cpu_swiglu(struct imf__device *d, void *dst, const void *src,
                      const struct imf__swiglu *w, int rows)
{
    struct cpu_device *cpu = cpu_of(d);
    struct matmul_key up = {rows,     w->w3->N,     w->w3->K, IMF__ACT,
                            IMF__ACT, MATMUL_STORE, false,    w->w3->packing};
    struct matmul_key gate = up;
    gate.kind = MATMUL_SILU_MUL;
    IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_TENSOR,
                                (size_t)rows * (size_t)w->w3->N * d->act_size));
    void *product = cpu_scratch(cpu, CPU_SCRATCH_TENSOR);
    struct operands o = with_weights(product, src, w->w3);
    IMF_TRY(multiply(cpu, up, &w->w3->packed, &o));
    o = with_weights(dst, src, w->w1);
    o.factor = product;
    return multiply(cpu, gate, &w->w1->packed, &o);
}

/* ---- What the machine can do ---- */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median of a few products of (1104, 1024) with (1024, 3072): q, k and v of 4 samples of XL. */
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
        status = cpu_linear_load(d, &w, IMF__ACT, weight, NULL, N, K);
    double t[RUNS];
    for (int i = -1; i < RUNS && status == IMF_OK; i++) { /* the first is a warm-up */
        double start = seconds();
        status = cpu_linear(d, dst, IMF__ACT, src, w, M, IMF__STORE);
        if (i >= 0)
            t[i] = seconds() - start;
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
