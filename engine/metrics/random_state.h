/* The part of NumPy's RandomState that the metrics need: MT19937 and permutations. */
#ifndef IMF__RANDOM_STATE_H
#define IMF__RANDOM_STATE_H

#include <stdint.h>

struct imf__random_state {
    uint32_t mt[624];
    int at;
};

void imf__random_state_init(struct imf__random_state *r, uint32_t seed);
uint32_t imf__random_state_next(struct imf__random_state *r);
/* out[n] = permutation(n), n < 2^32; continues the stream as NumPy does. */
void imf__random_state_permutation(struct imf__random_state *r, int64_t *out, int64_t n);

#endif
