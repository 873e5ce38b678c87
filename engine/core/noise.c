/* The same normal numbers as PyTorch's CPU generator: MT19937, 24-bit uniforms, Box-Muller over
 * blocks of 16 (the path torch.randn takes for 16 numbers or more). */
#include "imf.h"
#include "common/mt19937.h"

#include <assert.h>
#include <math.h>

void imf_noise(float *z, size_t n, uint64_t seed)
{
    assert(n % 16 == 0);
    struct imf__mt19937 mt;
    imf__mt19937_seed(&mt, (uint32_t)seed);
    imf__mt19937_uniform24(&mt, z, n);
    for (size_t i = 0; i < n; i += 16) {
        for (size_t j = i; j < i + 8; j++) {
            float radius = sqrtf(-2.0f * logf(1.0f - z[j]));
            float theta = 6.283185307179586f * z[j + 8];
            z[j] = radius * cosf(theta);
            z[j + 8] = radius * sinf(theta);
        }
    }
}
