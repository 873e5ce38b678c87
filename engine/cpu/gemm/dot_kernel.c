/* The product with VDPBF16PS: 8 rows x 2 vectors of sums at a time, from the tiles' packing, where
 * a tile's row of B is one vector. Pairs are added in order, to nearest even, denormals flushed. */
#include "cpu/gemm/epilogue.h"
#include "cpu/gemm/feed.h"

#include <immintrin.h>

#define ROWS 8

static inline __m512 dot(__m512 sum, const uint16_t *pair, __m512i b)
{
    int32_t both;
    memcpy(&both, pair, sizeof(both));
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(both), (__m512bh)b);
}

/* Rows [first, first + rows) of a block's sums; rows is a constant. */
static inline __attribute__((always_inline)) void multiply(float *sums, const struct gemm_job *job,
                                                           const uint16_t *a, const uint16_t *b,
                                                           size_t first, size_t rows)
{
    __m512 left[ROWS], right[ROWS];
    for (size_t r = 0; r < rows; r++)
        left[r] = right[r] = _mm512_setzero_ps();
    a += first * job->row;
    for (int s = 0; s < job->steps; s++, b += GEMM_STEP) {
        const uint16_t *at = a + job->offsets[s];
        for (int k = 0; k < 16; k++) {
            __m512i x = _mm512_loadu_si512(b + k * 32);
            __m512i y = _mm512_loadu_si512(b + GEMM_TILE + k * 32);
            for (size_t r = 0; r < rows; r++) {
                left[r] = dot(left[r], at + r * job->row + 2 * k, x);
                right[r] = dot(right[r], at + r * job->row + 2 * k, y);
            }
        }
    }
    sums += first / 16 * 512 + first % 16 * 16;
    for (size_t r = 0; r < rows; r++) {
        _mm512_storeu_ps(sums + r * 16, left[r]);
        _mm512_storeu_ps(sums + 256 + r * 16, right[r]);
    }
}

/* No row is read that is not there. */
static void multiply_strip(float *sums, const struct gemm_job *job, const uint16_t *a,
                           const uint16_t *b, size_t rows)
{
    size_t r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        multiply(sums, job, a, b, r, ROWS);
    if (r + 4 <= rows) {
        multiply(sums, job, a, b, r, 4);
        r += 4;
    }
    if (r + 2 <= rows) {
        multiply(sums, job, a, b, r, 2);
        r += 2;
    }
    if (r < rows)
        multiply(sums, job, a, b, r, 1);
}

static inline __attribute__((always_inline)) void run_as(const struct gemm_job *job,
                                                         enum gemm_epilogue e, bool bf16)
{
    float sums[SUMS] __attribute__((aligned(64)));
    for (int i = 0; i < job->n_strips; i++) {
        for (int p = 0; p < job->panels; p++) {
            struct place place = place_of(job->out, &job->strips[i], job->panel + p);
            multiply_strip(sums, job, job->a + job->strips[i].a,
                           job->b + (size_t)p * job->panel_size, (size_t)place.rows);
            while (place.done < place.rows)
                finish_row(sums, &place, e, bf16);
        }
    }
}

static void run(const struct gemm_job *job)
{
    struct feeding fed = feeding_of(job);
    GEMM_DISPATCH(run_as, job);
    feed_rest(&fed);
}

static double peak(int times)
{
    enum { SUMS_HELD = 12 };
    vf sums[SUMS_HELD] = {{0}};
    __m512i x = _mm512_set1_epi32(0x3F803F80);
    __asm__ volatile("" : "+v"(x));
    for (int t = 0; t < times; t++) {
        for (int i = 0; i < SUMS_HELD; i++) {
            sums[i] = (vf)_mm512_dpbf16_ps((__m512)sums[i], (__m512bh)x, (__m512bh)x);
            __asm__ volatile("" : "+v"(sums[i]));
        }
    }
    return (double)times * SUMS_HELD * 64;
}

const struct gemm_kernel imf__gemm_dot = {.name = "AVX512-BF16", .run = run, .peak = peak};
