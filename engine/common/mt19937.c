/* MT19937: see mt19937.h. */
#include "common/mt19937.h"

#define N 624
#define M 397

void imf__mt19937_seed(struct imf__mt19937 *mt, uint32_t seed)
{
    mt->state[0] = seed;
    for (uint32_t i = 1; i < N; i++)
        mt->state[i] = 1812433253u * (mt->state[i - 1] ^ (mt->state[i - 1] >> 30)) + i;
    mt->next = N;
}

static void refill(struct imf__mt19937 *mt)
{
    uint32_t *s = mt->state;
    for (int i = 0; i < N; i++) {
        uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % N] & 0x7FFFFFFFu);
        s[i] = s[(i + M) % N] ^ (y >> 1) ^ ((y & 1) ? 0x9908B0DFu : 0);
    }
    mt->next = 0;
}

uint32_t imf__mt19937_next(struct imf__mt19937 *mt)
{
    if (mt->next == N)
        refill(mt);
    uint32_t y = mt->state[mt->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C5680u;
    y ^= (y << 15) & 0xEFC60000u;
    return y ^ (y >> 18);
}
