/* Our own bfloat16 matrix products, for CPUs that multiply bfloat16 pairs: on AMX tiles, or with
 * VDPBF16PS.
 *
 * Both operands lie in tiles of 1 KB: 16 rows of 32 bfloat16 each of A, and of B 16 pairs of rows
 * of 16 columns, a pair side by side (VNNI). A panel is 32 rows of A, or 32 columns of B, over all
 * of K: (K / 32, 2 tiles). A's tiles may lie elsewhere, as a picture's do (cpu/gemm_conv.c). K is
 * padded with zeros to a multiple of 32. A result is made in blocks of one panel of each: 2 x 2
 * tiles. Its sums run over K in one order from the first to the last, whatever else is computed, so
 * that a row's bits depend on the row and the matrix only. */
#ifndef IMF__CPU_GEMM_H
#define IMF__CPU_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GEMM_TILE 512  /* elements */
#define GEMM_PANEL 32  /* rows or columns */
#define GEMM_STEP 1024 /* elements of a panel for 32 of K */
/* Steps of A that stay in a first-level cache of 48 KB beside the sums and what streams through. */
#define GEMM_KEPT 16

enum gemm_epilogue {
    GEMM_STORE,  /* x + bias */
    GEMM_SILU,   /* silu(x + bias) */
    GEMM_ADD,    /* dst += x + bias; dst is float32 */
    GEMM_SWIGLU, /* silu(first 16 columns) * last 16 columns */
    GEMM_CONV,   /* relu(x + bias + residual), the last two where wanted; dst is bfloat16 */
};

/* A product's result. */
struct gemm_out {
    void *dst;
    bool bf16;
    size_t stride; /* elements between rows */
    size_t panel;  /* elements from 32 columns to the next 32 */
    int columns;   /* in all; the last panel may have fewer than the others */
    const float *bias;
    const uint16_t *residual; /* GEMM_CONV: added, where dst is in `dst`; or NULL */
    bool relu;                /* GEMM_CONV */
    float *sums;              /* GEMM_CONV: strips' sums of each column go here, and the squares' */
    size_t squares;           /* so many elements behind; or NULL */
    bool add_sums;            /* to what is there, for the first strip of a sum too */
    enum gemm_epilogue epilogue;
};

/* Up to 32 rows of A: where they start, and where in dst they go, in elements. Rows that are not
 * there are not read. */
struct gemm_strip {
    size_t a, dst;
    int rows;
    bool goes_on; /* adds to the sums that the strip before it has left */
    size_t sums;  /* elements from the result's sums to the strip's */
};

/* Pixels of a picture in blocks of 32 channels that a kernel normalises for a later job while it
 * multiplies: dst = src a + b, and SiLU of that. All of it is done when the kernel returns. */
struct gemm_feed {
    const uint16_t *src;
    uint16_t *dst;
    const float *a, *b;      /* 32 for each plane */
    int planes, pixels;      /* runs, and what each has */
    size_t src_gap, dst_gap; /* elements between a run's end and the next one */
    int step;                /* pixels for each 32 of K */
    bool silu;
};

/* Some strips of A times some panels of B. */
struct gemm_job {
    const struct gemm_out *out;
    const struct gemm_strip *strips;
    int n_strips;
    const uint16_t *a;            /* strips count from here */
    const size_t *offsets;        /* (steps) of a strip's two tiles for each 32 of K, in elements */
    size_t row;                   /* elements between a tile's rows in A: 32, or more where some are
                            * skipped; the second tile is 16 such rows further */
    const uint16_t *b;            /* the first panel */
    size_t panel_size;            /* elements from one to the next */
    int steps;                    /* K / 32 */
    int keep;                     /* so many of them leave A in the first-level cache, for the next
                                   * panel; B, and the rest of A, pass it by */
    int panel, panels;            /* of B, counted from the matrix's first */
    const struct gemm_feed *feed; /* or NULL */
    const uint16_t *next; /* what B's next job begins with, to be fetched meanwhile; or NULL */
    size_t next_size;     /* elements */
};

struct gemm_kernel {
    const char *name;
    void (*run)(const struct gemm_job *job);
    /* As imf__cpu_kernels', of bfloat16, in panels; NULL: theirs. */
    void (*attention_head)(uint16_t *dst, const uint16_t *qkv, size_t first, const float *q_norm,
                           const float *k_norm, const float *rope, int T, int NH, int HS, int head,
                           void *work);
    size_t (*attention_work)(int T, int HS);
    /* FLOPs of `times` rounds of products that touch no memory. */
    double (*peak)(int times);
};

extern const struct gemm_kernel imf__gemm_tiles; /* needs imf__tiles_allowed */
extern const struct gemm_kernel imf__gemm_dot;   /* needs AVX512_BF16 */
/* The tiles' kernels over tiles in plain C (tiles.h), for tests: anywhere; and compiled for the
 * vectors that the real ones use, where every bit must be theirs. */
extern const struct gemm_kernel imf__gemm_tiles_emulated;
extern const struct gemm_kernel imf__gemm_tiles_emulated_beside;

/* Whether this processor has AMX with bfloat16 and the kernel lets this process use it. Asks for
 * the permission. *why, where not NULL, gets a sentence where the processor has it and the system
 * refuses; else NULL. */
bool imf__tiles_allowed(const char **why);

/* ---- Packing ---- */

static inline size_t gemm_steps(int K)
{
    return ((size_t)K + 31) / 32;
}

static inline size_t gemm_panels(int n)
{
    return ((size_t)n + GEMM_PANEL - 1) / GEMM_PANEL;
}

/* Elements of `panels` packed panels. */
static inline size_t gemm_packed(size_t panels, int K)
{
    return panels * gemm_steps(K) * GEMM_STEP;
}

/* Where an element of A lies, in panels one behind the other. */
static inline size_t gemm_place(size_t row, size_t column, size_t steps)
{
    return (row / GEMM_PANEL * steps + column / 32) * GEMM_STEP + row % GEMM_PANEL * 32 +
           column % 32;
}

/* Panel of B whose column c is row `from[c]` of weights (N, K), NULL: zeros. */
void imf__gemm_pack_b(uint16_t *panel, const float *const from[GEMM_PANEL], int K);

#endif
