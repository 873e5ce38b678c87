/* The noise of imf.h. */
#include "imf.h"
#include "common/noise.h"

void imf_noise(float *z, size_t n, uint64_t seed)
{
    imf__noise_draw(z, n, seed);
    imf__noise_shape(z, n, 1);
}
