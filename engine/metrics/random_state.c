/* MT19937 as RandomState seeds it (init_genrand), and its permutation: Fisher-Yates from the end,
 * indices drawn by masking and rejection. */
#include "random_state.h"

#include "imf_metrics.h"

enum { N = 624, M = 397 };

void imf__random_state_init(struct imf__random_state *r, uint32_t seed)
{
    r->mt[0] = seed;
    for (uint32_t i = 1; i < N; i++)
        r->mt[i] = 1812433253u * (r->mt[i - 1] ^ r->mt[i - 1] >> 30) + i;
    r->at = N;
}

static void refill(struct imf__random_state *r)
{
    for (int i = 0; i < N; i++) {
        uint32_t y = (r->mt[i] & 0x80000000u) | (r->mt[(i + 1) % N] & 0x7fffffffu);
        r->mt[i] = r->mt[(i + M) % N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    r->at = 0;
}

uint32_t imf__random_state_next(struct imf__random_state *r)
{
    if (r->at == N)
        refill(r);
    uint32_t y = r->mt[r->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

void imf__random_state_permutation(struct imf__random_state *r, int64_t *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        uint32_t mask = UINT32_MAX >> __builtin_clz((uint32_t)i), j;
        do
            j = imf__random_state_next(r) & mask;
        while (j > (uint32_t)i);
        int64_t t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}

void imf_permutation(int64_t *out, int64_t n, uint32_t seed)
{
    struct imf__random_state r;
    imf__random_state_init(&r, seed);
    imf__random_state_permutation(&r, out, n);
}
