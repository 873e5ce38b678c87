/* NumPy's legacy permutation: Fisher-Yates from the end, indices drawn by masking and rejection. */
#include "metrics/random_permutation.h"

#include "imf_metrics.h"

void imf__random_permutation(struct imf__mt19937 *mt, int64_t *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        uint32_t mask = UINT32_MAX >> __builtin_clz((uint32_t)i), j;
        do
            j = imf__mt19937_next(mt) & mask;
        while (j > (uint32_t)i);
        int64_t t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}

void imf_permutation(int64_t *out, int64_t n, uint32_t seed)
{
    struct imf__mt19937 mt;
    imf__mt19937_seed(&mt, seed);
    imf__random_permutation(&mt, out, n);
}
