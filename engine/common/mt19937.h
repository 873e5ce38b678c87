/* MT19937 (Matsumoto and Nishimura 1998), seeded by init_genrand: PyTorch's and NumPy's generator.
 */
#ifndef IMF__MT19937_H
#define IMF__MT19937_H

#include <stdint.h>

struct imf__mt19937 {
    uint32_t state[624];
    int next; /* 624: the state is used up */
};

void imf__mt19937_seed(struct imf__mt19937 *mt, uint32_t seed);
uint32_t imf__mt19937_next(struct imf__mt19937 *mt);

#endif
