/* MT19937, 24-bit uniforms, Box-Muller over blocks of 16: see noise.h. */
#include "common/noise.h"
#include "common/mt19937.h"

#include <assert.h>
#include <math.h>

void imf__noise_draw(float *z, size_t n, uint64_t seed)
{
    struct imf__mt19937 mt;
    assert(n % 16 == 0);
    imf__mt19937_seed(&mt, (uint32_t)seed);
    imf__mt19937_uniform24(&mt, z, n);
}

void imf__noise_shape(float *z, size_t n, float scale)
{
    assert(n % 16 == 0);
    for (size_t i = 0; i < n; i += 16) {
        for (size_t j = i; j < i + 8; j++) {
            float radius = sqrtf(-2.0f * logf(1.0f - z[j]));
            float theta = 6.283185307179586f * z[j + 8];
            z[j] = radius * cosf(theta);
            z[j + 8] = radius * sinf(theta);
        }
    }
    for (size_t i = 0; scale != 1.0f && i < n; i++)
        z[i] *= scale;
}
