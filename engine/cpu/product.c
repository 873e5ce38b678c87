/* One matrix product on oneDNN: a primitive for one shape, made while models load and shared by all
 * layers of that shape. The scratchpad is ours: oneDNN's own is not safe, and memory is planned at
 * load. */
#include "cpu/product.h"
#include "common/error.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

dnnl_data_type_t cpu_data_type(const struct cpu_device *cpu, enum imf__dtype type)
{
    return type != IMF__F32 && cpu_bf16(cpu) ? dnnl_bf16 : dnnl_f32;
}

dnnl_status_t cpu_matrix(dnnl_memory_desc_t *md, int rows, int columns, dnnl_data_type_t type,
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
    dnnl_status_t s = cpu_matrix(&src, key->rows, key->K, cpu_data_type(cpu, key->type), dnnl_ab);
    if (s == dnnl_success)
        s = cpu_matrix(dst, key->rows, key->N, cpu_data_type(cpu, key->dst_type), dnnl_ab);
    if (s == dnnl_success)
        s = cpu_matrix(&bias, 1, key->N, dnnl_f32, dnnl_ab);
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
        dnnl_memory_desc_init_by_tag(&src, 4, src_dims, cpu_data_type(cpu, key->type), dnnl_nhwc);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(dst, 4, dst_dims, cpu_data_type(cpu, key->dst_type),
                                         dnnl_nhwc);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(&bias, 1, bias_dims, dnnl_f32, dnnl_x);
    if (s == dnnl_success)
        s = dnnl_convolution_forward_desc_init(&desc->conv, dnnl_forward_inference,
                                               dnnl_convolution_direct, &src, weights,
                                               key->bias ? &bias : NULL, dst, stride, pad, pad);
    return s;
}

bool cpu_implemented_as(const_dnnl_primitive_desc_t pd, const char *prefix)
{
    const char *name = "";
    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name);
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

/* A convolution on kernels other than jit_1x1 is declined: its rows promise nothing. */
dnnl_status_t cpu_product_describe(struct cpu_device *cpu, dnnl_primitive_desc_t *pd,
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
    if (s == dnnl_success && conv && !cpu_implemented_as(*pd, "jit_1x1")) {
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
    dnnl_status_t s = cpu_product_describe(cpu, &pd, key, weights);
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
           a->packing == b->packing && a->apart == b->apart;
}

imf_status cpu_product_get(struct cpu_device *cpu, struct cpu_matmul **out,
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
    if (key->apart)
        omp_set_num_threads(1);
    dnnl_status_t s = matmul_create(cpu, m, key, weights);
    omp_set_num_threads(cpu->threads);
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

/* The memories of a product, and where its scratchpad is. */
static imf_status execute(struct cpu_device *cpu, const struct cpu_matmul *m,
                          const struct operands *o, void *scratchpad)
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
    DNNL_TRY(cpu, dnnl_memory_set_data_handle(m->scratchpad, scratchpad));
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

imf_status cpu_product_run(struct cpu_device *cpu, const struct cpu_matmul *m,
                           const struct operands *o)
{
    return execute(cpu, m, o, cpu_scratch(cpu, CPU_SCRATCH_DNNL));
}

/* Memory objects hold the pointers, so that each thread wants its own. */
imf_status cpu_product_run_apart(struct cpu_device *cpu, const struct cpu_matmul *m,
                                 const struct operands *o, void *scratchpad)
{
    struct cpu_matmul own = *m;
    dnnl_memory_t *all[] = {&own.src, &own.dst, &own.bias, &own.factor, &own.scratchpad};
    dnnl_status_t s = dnnl_success;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        const dnnl_memory_desc_t *md = NULL;
        dnnl_memory_t shared = *all[i];
        *all[i] = NULL;
        if (!shared || s != dnnl_success)
            continue;
        s = dnnl_memory_get_memory_desc(shared, &md);
        if (s == dnnl_success)
            s = dnnl_memory_create(all[i], md, cpu->engine, DNNL_MEMORY_NONE);
    }
    imf_status status = s == dnnl_success ? execute(cpu, &own, o, scratchpad)
                                          : cpu_fail(cpu, "a product's memories", s);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        dnnl_memory_destroy(*all[i]);
    return status;
}
