/* The product on tiles: 2 x 2 tiles of sums, two of A, two of B. While a block is multiplied, the
 * rows of the one before it are finished. */
#include "cpu/gemm/epilogue.h"
#include "cpu/gemm/tiles.h"
#include "cpu/gemm/tiles_attention.h"

/* row: bytes between rows of A. */
#define STEP(a, b, row)                                                                            \
    do {                                                                                           \
        TILE_LOAD(4, a, row);                                                                      \
        TILE_LOAD(6, b, 64);                                                                       \
        TILE_DOT(0, 4, 6);                                                                         \
        TILE_LOAD(7, (b) + GEMM_TILE, 64);                                                         \
        TILE_DOT(1, 4, 7);                                                                         \
        TILE_LOAD(5, (a) + 8 * (row), row);                                                        \
        TILE_DOT(2, 5, 6);                                                                         \
        TILE_DOT(3, 5, 7);                                                                         \
    } while (0)

/* Every other panel of columns runs over K backwards, so that half of A's panel is still in the
 * first-level cache. Which way depends on the panel's number in its matrix alone. */
static inline __attribute__((always_inline)) void run_as(const struct gemm_job *job,
                                                         enum gemm_epilogue e, bool bf16)
{
    float sums[2][SUMS] __attribute__((aligned(64)));
    const size_t size = (size_t)job->steps * GEMM_STEP, row = job->row * sizeof(uint16_t);
    const size_t *first = job->offsets, *last = job->offsets + job->steps - 1;
    struct place before = {.rows = 0};
    int now = 0;
    tiles_begin();
    for (int i = 0; i < job->n_strips; i++) {
        const uint16_t *a = job->a + job->strips[i].a;
        for (int p = 0; p < job->panels; p++) {
            const uint16_t *b = job->b + (size_t)p * size;
            const size_t *at = first;
            ptrdiff_t step = 1;
            if ((job->panel + p) % 2) {
                at = last;
                b += size - GEMM_STEP;
                step = -1;
            }
            int left = job->steps;
            TILE_ZERO(0);
            TILE_ZERO(1);
            TILE_ZERO(2);
            TILE_ZERO(3);
            for (; left > 0 && before.done + 1 < before.rows; left--) {
                STEP(a + *at, b, row);
                at += step;
                b += step * GEMM_STEP;
                finish_row(sums[now ^ 1], &before, e, bf16);
                finish_row(sums[now ^ 1], &before, e, bf16);
            }
            for (; left > 0; left--) {
                STEP(a + *at, b, row);
                at += step;
                b += step * GEMM_STEP;
            }
            while (before.done < before.rows)
                finish_row(sums[now ^ 1], &before, e, bf16);
            TILE_STORE(0, sums[now], 64);
            TILE_STORE(1, sums[now] + 256, 64);
            TILE_STORE(2, sums[now] + 512, 64);
            TILE_STORE(3, sums[now] + 768, 64);
            before = place_of(job->out, &job->strips[i], job->panel + p);
            now ^= 1;
        }
    }
    while (before.done < before.rows)
        finish_row(sums[now ^ 1], &before, e, bf16);
    tiles_end();
}

static void run(const struct gemm_job *job)
{
    GEMM_DISPATCH(run_as, job);
}

static double peak(int times)
{
    static const uint16_t ones[GEMM_TILE];
    tiles_begin();
    TILE_LOAD(4, ones, 64);
    TILE_LOAD(5, ones, 64);
    TILE_LOAD(6, ones, 64);
    TILE_LOAD(7, ones, 64);
    for (int i = 0; i < times; i++) {
        TILE_DOT(0, 4, 6);
        TILE_DOT(1, 4, 7);
        TILE_DOT(2, 5, 6);
        TILE_DOT(3, 5, 7);
    }
    tiles_end();
    return (double)times * 4 * 2 * 16 * 16 * 32;
}

const struct gemm_kernel IMF__TILES_NAME(imf__gemm_tiles) = {
#if defined(IMF__TILES_EMULATED)
    .name = "AMX, emulated",
#else
    .name = "AMX",
#endif
    .run = run,
    .attention_head = IMF__TILES_NAME(imf__tiles_attention_head),
    .attention_work = IMF__TILES_NAME(imf__tiles_attention_work),
    .peak = peak,
};
