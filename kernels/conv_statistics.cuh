/* Statistics for GroupNorm from a convolution's epilogue: warps leave the sums of their pixels for
 * every four neighbouring channels in shared memory, then one thread a group merges them. */
#ifndef K_CONV_STATISTICS_CUH
#define K_CONV_STATISTICS_CUH

#include "common.cuh"
#include "group_norm.cuh"

/* Sums over a lane's pixels of four neighbouring channels, x and x^2. */
struct moments {
    float sum, squares;
};

IMF_DEVICE void add_rounded(moments &m, float x, float y)
{
    const uint32_t pair = pack_bf16x2(x, y); /* as stored */
    const float a = bf16_lo(pair), b = bf16_hi(pair);
    m.sum += a + b;
    m.squares += a * a + b * b;
}

IMF_DEVICE moments over_rows(moments m)
{
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) {
        m.sum += __shfl_xor_sync(0xffffffffu, m.sum, offset);
        m.squares += __shfl_xor_sync(0xffffffffu, m.squares, offset);
    }
    return m;
}

/* Mean and M2 of every group, of the sums of quads (rows of warps, COLUMNS / 4) in shared memory
 * and of the squares behind them. */
template <int COLUMNS, int ROWS>
IMF_DEVICE void write_statistics(float4 *out, const float *quads, int width, int groups, int pixels)
{
    const int g = static_cast<int>(threadIdx.x);
    if (g >= groups)
        return;
    moments m = {0.0f, 0.0f};
    for (int row = 0; row < ROWS; row++) {
        for (int quad = g * width / 4; quad < (g + 1) * width / 4; quad++) {
            m.sum += quads[row * (COLUMNS / 4) + quad];
            m.squares += quads[(ROWS + row) * (COLUMNS / 4) + quad];
        }
    }
    out[g] = strip_statistics(m.sum, m.squares, pixels * width);
}

/* A group of channels must not be split among blocks, nor a quad of channels among groups. */
static inline bool leaves_statistics(const struct k_conv *c, int columns)
{
    if (c->groups < 1 || c->out % c->groups != 0 || c->out_f32)
        return false;
    const int of_group = c->out / c->groups;
    return of_group % 4 == 0 && columns % of_group == 0;
}

#endif
