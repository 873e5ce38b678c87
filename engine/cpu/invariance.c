/* A row's bits must not depend on how many other rows there are, on its place among them, or on the
 * number of threads. oneDNN promises none of that: its AMX and gemm kernels sum differently for
 * other numbers of rows. So nothing is taken on trust. What counts as a row's bits is what a
 * product of one block of rows on one thread gives it; while a model loads, each product of all
 * rows at once is held against that with random rows, and where it differs in one bit, this shape
 * runs block by block, the blocks spread over the threads.
 *
 * A block's size itself is proved first: a row must come out the same at every place in it. Sizes
 * that fail give way to smaller ones, down to one row. */
#include "cpu/product.h"
#include "common/error.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* Products of more rows go piece by piece, so that the shapes to prove stay few: 8 samples of 276
 * tokens. */
#define WHOLE_ROWS 2208

static const int block_sizes[] = {96, 16, 1};
#define BLOCK_MAX 96

static size_t element_size(const struct cpu_device *cpu, enum imf__dtype type)
{
    return cpu_data_type(cpu, type) == dnnl_bf16 ? 2 : 4;
}

static struct operands at_row(const struct operands *o, size_t row, size_t src, size_t dst)
{
    struct operands piece = *o;
    piece.src = (const char *)o->src + row * src;
    piece.dst = (char *)o->dst + row * dst;
    piece.factor = o->factor ? (const char *)o->factor + row * dst : NULL;
    return piece;
}

/* ---- Block by block ---- */

/* One block of fewer rows than the primitive has: through padded copies. */
static imf_status run_padded(struct cpu_device *cpu, const struct cpu_matmul *m,
                             const struct operands *o, size_t rows, void *scratch)
{
    size_t src = (size_t)m->key.K * element_size(cpu, m->key.type);
    size_t dst = (size_t)m->key.N * element_size(cpu, m->key.dst_type);
    char *from = cpu_scratch(cpu, CPU_SCRATCH_ROWS), *to = from + BLOCK_MAX * src;
    char *factor = to + BLOCK_MAX * dst;
    struct operands padded = *o;
    padded.src = from;
    padded.dst = to;
    padded.factor = factor;
    memcpy(from, o->src, rows * src);
    memcpy(to, o->dst, rows * dst); /* the residual, where it is added to */
    if (o->factor)
        memcpy(factor, o->factor, rows * dst);
    IMF_TRY(cpu_product_run_apart(cpu, m, &padded, scratch));
    memcpy(o->dst, to, rows * dst);
    return IMF_OK;
}

static imf_status run_blocks(struct cpu_device *cpu, const struct cpu_matmul *m,
                             const struct operands *o, size_t rows)
{
    size_t src = (size_t)m->key.K * element_size(cpu, m->key.type), block = (size_t)m->key.rows;
    size_t dst = (size_t)m->key.N * element_size(cpu, m->key.dst_type);
    int blocks = (int)((rows + block - 1) / block);
    imf_status status = IMF_OK;
#pragma omp parallel for schedule(static) num_threads(cpu->threads)
    for (int i = 0; i < blocks; i++) {
        size_t at = (size_t)i * block;
        char *scratch = (char *)cpu_scratch(cpu, CPU_SCRATCH_THREADS) +
                        cpu_round_up(m->scratchpad_bytes, 4096) * (size_t)omp_get_thread_num();
        struct operands piece = at_row(o, at, src, dst);
        imf_status s = rows - at >= block ? cpu_product_run_apart(cpu, m, &piece, scratch)
                                          : run_padded(cpu, m, &piece, rows - at, scratch);
        if (s != IMF_OK) {
#pragma omp critical(imf_row_blocks)
            status = s;
        }
    }
    return status;
}

/* ---- The proof ---- */

struct rows {
    void *src, *factor, *before; /* random; before: what dst holds */
    void *a, *b;                 /* results */
    size_t src_bytes, dst_bytes; /* of a row */
};

static void rows_free(struct rows *r)
{
    free(r->src);
    free(r->factor);
    free(r->before);
    free(r->a);
    free(r->b);
}

/* n random numbers of a type; the same ones every time. */
static void *random_elements(const struct cpu_device *cpu, size_t bytes, size_t size)
{
    char *p = cpu_memory_alloc(bytes);
    uint32_t seed = 12345;
    for (size_t i = 0; p && i < bytes / size; i++) {
        seed = seed * 1664525u + 1013904223u;
        float x = (float)(seed >> 8) * 0x1p-23f - 1.0f;
        if (size == 2)
            cpu->k->to_bf16((uint16_t *)(p + 2 * i), &x, 1);
        else
            memcpy(p + 4 * i, &x, 4);
    }
    return p;
}

static bool rows_make(struct rows *r, const struct cpu_device *cpu, const struct matmul_key *key,
                      size_t n)
{
    size_t src = element_size(cpu, key->type), dst = element_size(cpu, key->dst_type);
    r->src_bytes = (size_t)key->K * src;
    r->dst_bytes = (size_t)key->N * dst;
    r->src = random_elements(cpu, n * r->src_bytes, src);
    r->factor = random_elements(cpu, n * r->dst_bytes, dst);
    r->before = random_elements(cpu, n * r->dst_bytes, dst);
    r->a = malloc(n * r->dst_bytes);
    r->b = malloc(n * r->dst_bytes);
    return r->src && r->factor && r->before && r->a && r->b;
}

static struct operands operands_of(const struct rows *r, const struct operands *o, void *dst,
                                   size_t n)
{
    memcpy(dst, r->before, n * r->dst_bytes);
    return (struct operands){dst, r->src, o->weights, r->factor, o->bias};
}

/* Whether a row comes out the same at every place in a block: blocks full of one row. */
static imf_status prove_places(struct cpu_device *cpu, struct cpu_matmul *m,
                               const struct operands *o)
{
    enum { TRIED = 4 };
    struct rows r = {0};
    size_t n = (size_t)m->key.rows;
    imf_status status = rows_make(&r, cpu, &m->key, n + TRIED) ? IMF_OK : IMF_ENOMEM;
    m->proof = CPU_PROOF_HOLDS;
    for (size_t k = 0; k < TRIED && status == IMF_OK && n > 1; k++) {
        char *parts[] = {r.src, r.factor, r.before};
        size_t sizes[] = {r.src_bytes, r.dst_bytes, r.dst_bytes};
        for (size_t i = 0; i < 3; i++) {
            for (size_t row = 0; row < n; row++)
                memcpy(parts[i] + row * sizes[i], parts[i] + (n + k) * sizes[i], sizes[i]);
        }
        struct operands all = operands_of(&r, o, r.a, n);
        status = run_blocks(cpu, m, &all, n);
        for (size_t row = 1; row < n && status == IMF_OK; row++) {
            if (memcmp((char *)r.a + row * r.dst_bytes, r.a, r.dst_bytes) != 0)
                m->proof = CPU_PROOF_FAILS;
        }
    }
    rows_free(&r);
    return status;
}

/* Whether the product of all rows at once gives each the bits that its block does. */
static imf_status prove_whole(struct cpu_device *cpu, struct cpu_matmul *m,
                              const struct cpu_matmul *block, const struct operands *o)
{
    struct rows r = {0};
    size_t n = (size_t)m->key.rows;
    imf_status status = rows_make(&r, cpu, &m->key, n) ? IMF_OK : IMF_ENOMEM;
    if (status == IMF_OK) {
        struct operands whole = operands_of(&r, o, r.a, n), parts = operands_of(&r, o, r.b, n);
        status = cpu_product_run(cpu, m, &whole);
        if (status == IMF_OK)
            status = run_blocks(cpu, block, &parts, n);
    }
    if (status == IMF_OK)
        m->proof = memcmp(r.a, r.b, n * r.dst_bytes) == 0 ? CPU_PROOF_HOLDS : CPU_PROOF_FAILS;
    rows_free(&r);
    return status;
}

/* The block that decides the bits of this shape. */
static imf_status block_get(struct cpu_device *cpu, struct cpu_matmul **out, struct matmul_key key,
                            const dnnl_memory_desc_t *weights, const struct operands *o)
{
    size_t width = (size_t)key.K + 2 * (size_t)key.N;
    IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_ROWS, BLOCK_MAX * width * sizeof(float)));
    for (size_t i = 0; i < sizeof(block_sizes) / sizeof(block_sizes[0]); i++) {
        key.rows = block_sizes[i];
        key.apart = true;
        IMF_TRY(cpu_product_get(cpu, out, &key, weights));
        size_t pad = cpu_round_up((*out)->scratchpad_bytes, 4096);
        IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_THREADS, pad * (size_t)cpu->threads));
        if ((*out)->proof == CPU_PROOF_NONE)
            IMF_TRY(prove_places(cpu, *out, o));
        if ((*out)->proof == CPU_PROOF_HOLDS)
            return IMF_OK;
    }
    return IMF_OK; /* one row has one place */
}

static imf_status multiply_piece(struct cpu_device *cpu, const struct matmul_key *key,
                                 const dnnl_memory_desc_t *weights, const struct operands *o)
{
    struct cpu_matmul *m = NULL, *block = NULL;
    IMF_TRY(cpu_product_get(cpu, &m, key, weights));
    if (m->proof != CPU_PROOF_HOLDS)
        IMF_TRY(block_get(cpu, &block, *key, weights, o));
    if (m->proof == CPU_PROOF_NONE)
        IMF_TRY(prove_whole(cpu, m, block, o));
    if (cpu->base.dry)
        return IMF_OK;
    return m->proof == CPU_PROOF_HOLDS ? cpu_product_run(cpu, m, o)
                                       : run_blocks(cpu, block, o, (size_t)key->rows);
}

imf_status cpu_product_multiply(struct cpu_device *cpu, const struct matmul_key *key,
                                const dnnl_memory_desc_t *weights, const struct operands *o)
{
    size_t src = (size_t)key->K * element_size(cpu, key->type);
    size_t dst = (size_t)key->N * element_size(cpu, key->dst_type);
    struct matmul_key piece = *key;
    omp_set_num_threads(cpu->threads); /* what a primitive is made for */
    for (int at = 0; at < key->rows; at += WHOLE_ROWS) {
        struct operands part = at_row(o, (size_t)at, src, dst);
        piece.rows = key->rows - at < WHOLE_ROWS ? key->rows - at : WHOLE_ROWS;
        IMF_TRY(multiply_piece(cpu, &piece, weights, &part));
    }
    return IMF_OK;
}
