/* What becomes of a block of 32 x 32 sums (gemm.h), row by row, so that a kernel can do it while it
 * multiplies the next block. Included by the kernels. */
#ifndef IMF__CPU_GEMM_EPILOGUE_H
#define IMF__CPU_GEMM_EPILOGUE_H

#include "cpu/gemm/gemm.h"
#include "common/vector.h"

/* Four tiles of 16 x 16 sums: rows 0..15 of both column halves, then rows 16..31. */
#define SUMS 1024

/* Where a block of sums goes. Kept apart from the sums: nothing else points at it, so that it stays
 * in registers. */
struct place {
    char *row; /* the next one to finish, and its number */
    int done, rows;
    int columns;   /* that are there, of 32; of 16 where a pair of columns makes one */
    size_t stride; /* bytes */
    const float *bias;
    ptrdiff_t residual; /* bytes from row */
    bool has_residual, relu, goes_on;
    float *sums; /* of the columns; NULL: not wanted */
    size_t squares;
    vf sum[2], square[2]; /* of the rows so far */
};

static inline struct place place_of(const struct gemm_out *o, const struct gemm_strip *strip,
                                    int panel)
{
    int width = o->epilogue == GEMM_SWIGLU ? 16 : GEMM_PANEL, column = panel * width;
    size_t size = o->bf16 ? 2 : 4;
    struct place p = {.rows = strip->rows, .stride = o->stride * size, .relu = o->relu};
    p.columns = o->columns - column < width ? o->columns - column : width;
    p.row =
        (char *)o->dst + (strip->dst + (size_t)column / 32 * o->panel + (size_t)column % 32) * size;
    p.bias = o->bias ? o->bias + panel * GEMM_PANEL : NULL;
    p.has_residual = o->residual != NULL;
    if (o->residual)
        p.residual = (const char *)o->residual - (const char *)o->dst;
    if (o->sums) {
        p.sums = o->sums + strip->sums + (size_t)panel * GEMM_PANEL;
        p.squares = o->squares;
        p.goes_on = o->add_sums || strip->goes_on;
    }
    return p;
}

/* Columns [at, at + 16) of a row whose panel is cut off. */
static __attribute__((noinline)) void put_part(char *row, int columns, int at, vf x, bool bf16)
{
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
    const int left = columns < at ? 0 : columns - at > LANES ? LANES : columns - at;
    const __mmask16 there = (__mmask16)((1u << left) - 1);
    if (bf16)
        _mm256_mask_storeu_epi16((uint16_t *)row + at, there,
                                 (__m256i)_mm512_cvtneps_pbh((__m512)x));
    else
        _mm512_mask_storeu_ps((float *)row + at, there, (__m512)x);
#else
    size_t size = bf16 ? 2 : 4;
    char whole[64];
    store(whole, 0, x, bf16);
    if (columns > at)
        memcpy(row + (size_t)at * size, whole,
               (size_t)(columns - at < LANES ? columns - at : LANES) * size);
#endif
}

static __attribute__((noinline)) vf get_part(const char *row, int columns, int at)
{
#if defined(__AVX512F__)
    const int left = columns < at ? 0 : columns - at > LANES ? LANES : columns - at;
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << left) - 1), (const float *)row + at);
#else
    float whole[LANES] = {0};
    if (columns > at)
        memcpy(whole, (const float *)row + at,
               (size_t)(columns - at < LANES ? columns - at : LANES) * sizeof(float));
    return load_f32(whole);
#endif
}

/* What a convolution's rows come to, column by column. Strips of one sum follow each other. */
static inline __attribute__((always_inline)) void put_sums(struct place *p)
{
    for (size_t half = 0; half < 2; half++) {
        float *sum = p->sums + half * LANES, *square = sum + p->squares;
        store_f32(sum, p->goes_on ? load_f32(sum) + p->sum[half] : p->sum[half]);
        store_f32(square, p->goes_on ? load_f32(square) + p->square[half] : p->square[half]);
    }
}

static inline __attribute__((always_inline)) void finish_row(const float *sums, struct place *p,
                                                             enum gemm_epilogue e, bool bf16)
{
    const float *s = sums + p->done / 16 * 512 + p->done % 16 * 16;
    const int width = e == GEMM_SWIGLU ? LANES : 2 * LANES;
    const bool whole = __builtin_expect(p->columns == width, 1);
    char *row = p->row;
    vf x = load_f32(s), y = load_f32(s + 256);
    if (p->bias) {
        x += load_f32(p->bias);
        y += load_f32(p->bias + LANES);
    }
    if (e == GEMM_SWIGLU)
        x = silu_rough(x) * y;
    if (e == GEMM_SILU) {
        x = bf16 ? silu_rough(x) : silu_lanes(x);
        y = bf16 ? silu_rough(y) : silu_lanes(y);
    }
    if (e == GEMM_ADD && whole) {
        x += load_f32((const float *)row);
        y += load_f32((const float *)row + LANES);
    } else if (e == GEMM_ADD) {
        x += get_part(row, p->columns, 0);
        y += get_part(row, p->columns, LANES);
    }
    if (e == GEMM_CONV && p->has_residual) {
        x += load_bf16((const uint16_t *)(row + p->residual));
        y += load_bf16((const uint16_t *)(row + p->residual) + LANES);
    }
    if (e == GEMM_CONV && p->relu) {
        x = max_lanewise(x, splat(0));
        y = max_lanewise(y, splat(0));
    }
    if (whole && bf16 && width > LANES) {
        store_bf16_two((uint16_t *)row, x, y);
    } else if (whole) {
        store(row, 0, x, bf16);
        if (width > LANES)
            store(row, LANES, y, bf16);
    } else {
        put_part(row, p->columns, 0, x, bf16);
        if (width > LANES)
            put_part(row, p->columns, LANES, y, bf16);
    }
    p->row += p->stride;
    p->done++;
    if (e == GEMM_CONV && p->sums) {
        p->sum[0] += x;
        p->sum[1] += y;
        p->square[0] += x * x;
        p->square[1] += y * y;
        if (p->done == p->rows)
            put_sums(p);
    }
}

/* Calls f(job, epilogue, bf16) with constants, so that each kind is compiled by itself. */
#define GEMM_DISPATCH(f, job)                                                                      \
    do {                                                                                           \
        const enum gemm_epilogue kind = (job)->out->epilogue;                                      \
        const bool half = (job)->out->bf16;                                                        \
        if (kind == GEMM_STORE && half)                                                            \
            f(job, GEMM_STORE, true);                                                              \
        else if (kind == GEMM_STORE)                                                               \
            f(job, GEMM_STORE, false);                                                             \
        else if (kind == GEMM_SILU && half)                                                        \
            f(job, GEMM_SILU, true);                                                               \
        else if (kind == GEMM_SILU)                                                                \
            f(job, GEMM_SILU, false);                                                              \
        else if (kind == GEMM_ADD)                                                                 \
            f(job, GEMM_ADD, false);                                                               \
        else if (kind == GEMM_SWIGLU)                                                              \
            f(job, GEMM_SWIGLU, true);                                                             \
        else                                                                                       \
            f(job, GEMM_CONV, true);                                                               \
    } while (0)

#endif
