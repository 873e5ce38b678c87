/* The part of NumPy's RandomState that the metrics need: permutations from an MT19937 stream. */
#ifndef IMF__RANDOM_PERMUTATION_H
#define IMF__RANDOM_PERMUTATION_H

#include "common/mt19937.h"

/* out[n] = permutation(n), n < 2^32; continues the stream as NumPy does. */
void imf__random_permutation(struct imf__mt19937 *mt, int64_t *out, int64_t n);

#endif
