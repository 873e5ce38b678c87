/* Normal numbers as PyTorch's CPU generator draws them (torch.randn of 16 numbers or more), in two
 * steps, for several threads: uniform numbers, of which each follows from those before it, then,
 * piece by piece in any order, the normal ones that they become. */
#ifndef IMF__NOISE_H
#define IMF__NOISE_H

#include <stddef.h>
#include <stdint.h>

/* n is a multiple of 16, and so is where a piece begins. */
void imf__noise_draw(float *z, size_t n, uint64_t seed);
void imf__noise_shape(float *z, size_t n, float scale);

#endif
