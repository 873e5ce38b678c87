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
