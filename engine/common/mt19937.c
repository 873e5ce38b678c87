/* MT19937: see mt19937.h. */
#include "common/mt19937.h"

#define N IMF__MT19937_N
#define M 397

void imf__mt19937_seed(struct imf__mt19937 *mt, uint32_t seed)
{
    mt->state[0] = seed;
    for (uint32_t i = 1; i < N; i++)
        mt->state[i] = 1812433253u * (mt->state[i - 1] ^ (mt->state[i - 1] >> 30)) + i;
    mt->next = N;
}

static uint32_t twist(uint32_t upper, uint32_t lower, uint32_t far)
{
    uint32_t y = (upper & 0x80000000u) | (lower & 0x7FFFFFFFu);
    return far ^ (y >> 1) ^ (-(y & 1) & 0x9908B0DFu);
}

static uint32_t temper(uint32_t y)
{
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C5680u;
    y ^= (y << 15) & 0xEFC60000u;
    return y ^ (y >> 18);
}

/* In pieces within which no value needs one of the same piece: N - M apart they are far enough for
 * any vector. */
static void refill(struct imf__mt19937 *mt)
{
    uint32_t *s = mt->state;
    for (int i = 0; i < N - M; i++)
        s[i] = twist(s[i], s[i + 1], s[i + M]);
    for (int begin = N - M; begin < N - 1; begin += N - M) {
        int end = begin + N - M < N - 1 ? begin + N - M : N - 1;
#pragma GCC ivdep
        for (int i = begin; i < end; i++)
            s[i] = twist(s[i], s[i + 1], s[i + M - N]);
    }
    s[N - 1] = twist(s[N - 1], s[0], s[M - 1]);
    mt->next = 0;
}

uint32_t imf__mt19937_next(struct imf__mt19937 *mt)
{
    if (mt->next == N)
        refill(mt);
    return temper(mt->state[mt->next++]);
}

void imf__mt19937_uniform24(struct imf__mt19937 *mt, float *dst, size_t n)
{
    while (n > 0) {
        if (mt->next == N)
            refill(mt);
        size_t here = (size_t)(N - mt->next) < n ? (size_t)(N - mt->next) : n;
        const uint32_t *s = mt->state + mt->next;
        for (size_t i = 0; i < here; i++)
            dst[i] = (float)(int32_t)(temper(s[i]) & 0xFFFFFF) * 0x1p-24f;
        mt->next += (int)here;
        dst += here;
        n -= here;
    }
}
