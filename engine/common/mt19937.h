/* MT19937 (Matsumoto and Nishimura 1998), seeded by init_genrand: PyTorch's and NumPy's generator.
 */
#ifndef IMF__MT19937_H
#define IMF__MT19937_H

#include <stddef.h>
#include <stdint.h>

#define IMF__MT19937_N 624

struct imf__mt19937 {
    uint32_t state[IMF__MT19937_N];
    int next; /* IMF__MT19937_N: the state is used up */
};

void imf__mt19937_seed(struct imf__mt19937 *mt, uint32_t seed);
uint32_t imf__mt19937_next(struct imf__mt19937 *mt);
/* The lower 24 bits of the next n numbers as fractions of 1, as torch.rand makes a float32. */
void imf__mt19937_uniform24(struct imf__mt19937 *mt, float *dst, size_t n);

#endif
