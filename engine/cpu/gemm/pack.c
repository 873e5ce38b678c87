/* Operands in tiles (gemm.h). */
#include "cpu/gemm/gemm.h"
#include "common/bfloat16.h"

#include <string.h>

void imf__gemm_pack_b(uint16_t *panel, const float *const from[GEMM_PANEL], int K)
{
    size_t steps = gemm_steps(K);
    memset(panel, 0, steps * GEMM_STEP * sizeof(*panel));
    for (size_t c = 0; c < GEMM_PANEL; c++) {
        if (!from[c])
            continue;
        for (size_t k = 0; k < (size_t)K; k++)
            panel[k / 32 * GEMM_STEP + c / 16 * GEMM_TILE + k % 32 / 2 * 32 + c % 16 * 2 + k % 2] =
                imf__to_bf16(from[c][k]);
    }
}

void imf__gemm_pack_a(uint16_t *panel, const uint16_t *src, size_t stride, int rows, int K)
{
    size_t steps = gemm_steps(K), whole = (size_t)K / 32, rest = (size_t)K % 32;
    for (size_t r = 0; r < GEMM_PANEL; r++, src += stride) {
        uint16_t *to = panel + r / 16 * GEMM_TILE + r % 16 * 32;
        if (r >= (size_t)rows) {
            for (size_t s = 0; s < steps; s++)
                memset(to + s * GEMM_STEP, 0, 64);
            continue;
        }
        for (size_t s = 0; s < whole; s++)
            memcpy(to + s * GEMM_STEP, src + s * 32, 64);
        if (rest) {
            memset(to + whole * GEMM_STEP, 0, 64);
            memcpy(to + whole * GEMM_STEP, src + whole * 32, rest * sizeof(*src));
        }
    }
}
