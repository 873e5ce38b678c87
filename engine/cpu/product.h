/* Matrix products on oneDNN (product.c), and which of them may be trusted with a row's bits
 * (invariance.c). */
#ifndef IMF__CPU_PRODUCT_H
#define IMF__CPU_PRODUCT_H

#include "cpu/internal.h"

enum matmul_kind { MATMUL_STORE, MATMUL_SILU, MATMUL_ADD, MATMUL_SILU_MUL };

/* What the weights are packed for. */
enum matmul_packing { PACKED_MATMUL, PACKED_CONV };

struct matmul_key {
    int rows, N, K;
    enum imf__dtype type, dst_type;
    enum matmul_kind kind;
    bool bias;
    enum matmul_packing packing;
    bool apart; /* on one thread, whichever calls: cpu_product_run_apart */
};

/* Whether its rows' bits were found to be what they should be (invariance.c). */
enum cpu_proof { CPU_PROOF_NONE, CPU_PROOF_HOLDS, CPU_PROOF_FAILS };

struct cpu_matmul {
    struct cpu_matmul *next;
    struct matmul_key key;
    dnnl_primitive_t primitive;
    dnnl_memory_t src, dst, bias, factor, scratchpad;
    size_t scratchpad_bytes;
    enum cpu_proof proof;
};

/* The operands that change from call to call. */
struct operands {
    void *dst;
    const void *src;
    dnnl_memory_t weights; /* packed */
    const void *factor;
    float *bias;
};

dnnl_data_type_t cpu_data_type(const struct cpu_device *cpu, enum imf__dtype type);
dnnl_status_t cpu_matrix(dnnl_memory_desc_t *md, int rows, int columns, dnnl_data_type_t type,
                         dnnl_format_tag_t tag);
dnnl_status_t cpu_product_describe(struct cpu_device *cpu, dnnl_primitive_desc_t *pd,
                                   const struct matmul_key *key, const dnnl_memory_desc_t *weights);
bool cpu_implemented_as(const_dnnl_primitive_desc_t pd, const char *prefix);
imf_status cpu_product_get(struct cpu_device *cpu, struct cpu_matmul **out,
                           const struct matmul_key *key, const dnnl_memory_desc_t *weights);
imf_status cpu_product_run(struct cpu_device *cpu, const struct cpu_matmul *m,
                           const struct operands *o);
/* Of a key that says so: from any number of threads at once, each with its own scratchpad. */
imf_status cpu_product_run_apart(struct cpu_device *cpu, const struct cpu_matmul *m,
                                 const struct operands *o, void *scratchpad);

/* dst = src W^T and so on, in the way that was proved to hold for this shape; proves it first where
 * that has not been done. */
imf_status cpu_product_multiply(struct cpu_device *cpu, const struct matmul_key *key,
                                const dnnl_memory_desc_t *weights, const struct operands *o);

#endif
