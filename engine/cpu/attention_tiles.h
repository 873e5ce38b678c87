/* What both kinds of attention are made of: float32 tiles of matrix products, and the softmax. */
#ifndef IMF__CPU_ATTENTION_TILES_H
#define IMF__CPU_ATTENTION_TILES_H

#include "common/vector.h"

static inline size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Tiles of vectors of the instruction set's own width: a tile's sums and its two operands fit 32
 * registers with AVX-512, 16 without. */
#if NATIVE == 16
#define TILE_R 4
#define SCORE_V 6
#define VALUE_V 4
#else
#define TILE_R 6
#define SCORE_V 2
#define VALUE_V 2
#endif

/* c (R, V * NATIVE) = a (R, K) b (K, V * NATIVE). */
#define TILE_F32(name, R, V)                                                                       \
    static inline __attribute__((always_inline)) void name(                                        \
        float *c, size_t ldc, const float *a, size_t lda, const float *b, size_t ldb, size_t K)    \
    {                                                                                              \
        vn acc[R][V] = {0};                                                                        \
        for (size_t k = 0; k < K; k++) {                                                           \
            vn bv[V];                                                                              \
            for (int v = 0; v < V; v++)                                                            \
                bv[v] = *(const vn_u *)(b + k * ldb + (size_t)v * NATIVE);                         \
            for (int r = 0; r < R; r++)                                                            \
                for (int v = 0; v < V; v++)                                                        \
                    acc[r][v] += a[(size_t)r * lda + k] * bv[v];                                   \
        }                                                                                          \
        for (int r = 0; r < R; r++)                                                                \
            for (int v = 0; v < V; v++)                                                            \
                *(vn_u *)(c + (size_t)r * ldc + (size_t)v * NATIVE) = acc[r][v];                   \
    }
TILE_F32(tile_f32_values, TILE_R, VALUE_V)

/* Softmax of `rows` rows of s (rows, Tp) with T real columns; leaves exponentials, padded columns
 * zero, and 1 / sum in inv. */
static inline void exponentials(float *s, float *inv, int rows, int T, size_t Tp)
{
    for (int i = 0; i < rows; i++) {
        float *row = s + (size_t)i * Tp;
        for (size_t j = (size_t)T; j < Tp; j++)
            row[j] = -INFINITY;
        vf m = load_f32(row);
        for (size_t j = LANES; j < Tp; j += LANES)
            m = max_lanewise(m, load_f32(row + j));
        float top = max_lanes(m);
        vf sum = splat(0);
        for (size_t j = 0; j < Tp; j += LANES) {
            vf e = exp_lanes(load_f32(row + j) - top);
            sum += e;
            store_f32(row + j, e);
        }
        for (size_t j = (size_t)T; j < Tp; j++)
            row[j] = 0.0f; /* exp was clamped, not zero: e^-87 */
        inv[i] = 1.0f / sum_lanes(sum);
    }
}

#endif
