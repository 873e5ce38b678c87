/* Sixteen float lanes in GCC vectors, so that one source serves every instruction set: the compiler
 * splits them where registers are narrower. Included by the files that are compiled once per
 * instruction set (IMF__ISA, engine/CMakeLists.txt). */
#ifndef IMF__CPU_VECTOR_H
#define IMF__CPU_VECTOR_H

#include "common/bfloat16.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define LANES 16

typedef float vf __attribute__((vector_size(64)));
typedef float vf_u __attribute__((vector_size(64), aligned(4)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));
typedef uint16_t vh __attribute__((vector_size(32)));
typedef uint16_t vh_u __attribute__((vector_size(32), aligned(2)));

/* What one register holds. The compiler splits sums and products of wider vectors well, but
 * compares them lane by lane and keeps no array of them in registers: those are written with this
 * width. */
#if defined(__AVX512F__)
#define NATIVE 16
#elif defined(__AVX2__)
#define NATIVE 8
#else
#define NATIVE 4
#endif

typedef float vn __attribute__((vector_size(NATIVE * 4)));
typedef float vn_u __attribute__((vector_size(NATIVE * 4), aligned(4)));
typedef int32_t vni __attribute__((vector_size(NATIVE * 4)));

static inline vf splat(float x)
{
    return x - (vf){0};
}

static inline vf load_f32(const float *p)
{
    return *(const vf_u *)p;
}

static inline void store_f32(float *p, vf x)
{
    *(vf_u *)p = x;
}

static inline vf load_bf16(const uint16_t *p)
{
#if defined(__AVX512F__) /* one instruction; the compiler makes five of it */
    vu u = (vu)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)) << 16;
#else
    vu u = __builtin_convertvector(*(const vh_u *)p, vu) << 16;
#endif
    return (vf)u;
}

static inline void store_bf16(uint16_t *p, vf x)
{
#if defined(__AVX512BF16__)
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
    vu u = (vu)x;
    u = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
    *(vh_u *)p = __builtin_convertvector(u, vh);
#endif
}

/* Both, one behind the other: as dear as one. */
static inline void store_bf16_two(uint16_t *p, vf x, vf y)
{
#if defined(__AVX512BF16__)
    _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x));
#else
    store_bf16(p, x);
    store_bf16(p + LANES, y);
#endif
}

static inline vf load(const void *p, size_t i, bool bf16)
{
    return bf16 ? load_bf16((const uint16_t *)p + i) : load_f32((const float *)p + i);
}

static inline void store(void *p, size_t i, vf x, bool bf16)
{
    if (bf16)
        store_bf16((uint16_t *)p + i, x);
    else
        store_f32((float *)p + i, x);
}

static inline float load1(const void *p, size_t i, bool bf16)
{
    return bf16 ? imf__from_bf16(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static inline void store1(void *p, size_t i, float x, bool bf16)
{
    if (bf16)
        ((uint16_t *)p)[i] = imf__to_bf16(x);
    else
        ((float *)p)[i] = x;
}

/* A fixed tree, so that a sum does not depend on the instruction set's reduction order. */
static inline float sum_lanes(vf x)
{
#if defined(__AVX512F__)
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)x),
                                _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)x, 1)));
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
#else
    float t[LANES];
    memcpy(t, &x, sizeof(t));
    for (int w = LANES / 2; w > 0; w /= 2) {
        for (int i = 0; i < w; i++)
            t[i] += t[i + w];
    }
    return t[0];
#endif
}

/* Of each lane the larger or the smaller; b's where they do not compare. */
static inline vf extreme_lanewise(vf a, vf b, bool larger)
{
#if defined(__AVX512F__)
    return larger ? (vf)_mm512_max_ps((__m512)a, (__m512)b)
                  : (vf)_mm512_min_ps((__m512)a, (__m512)b);
#else
    vn x[LANES / NATIVE], y[LANES / NATIVE];
    memcpy(x, &a, sizeof(x));
    memcpy(y, &b, sizeof(y));
    for (int i = 0; i < LANES / NATIVE; i++) {
        vni mask = larger ? x[i] > y[i] : x[i] < y[i];
        x[i] = (vn)((mask & (vni)x[i]) | (~mask & (vni)y[i]));
    }
    memcpy(&a, x, sizeof(a));
    return a;
#endif
}

static inline vf max_lanewise(vf a, vf b)
{
    return extreme_lanewise(a, b, true);
}

static inline vf min_lanewise(vf a, vf b)
{
    return extreme_lanewise(a, b, false);
}

static inline float max_lanes(vf x)
{
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)x);
#else
    float t[LANES];
    memcpy(t, &x, sizeof(t));
    float m = t[0];
    for (int i = 1; i < LANES; i++)
        m = t[i] > m ? t[i] : m;
    return m;
#endif
}

/* exp(x) to 2 ulp: 2^n e^r with Cephes' polynomial for e^r, |r| <= ln 2 / 2. */
static inline vf exp_lanes(vf x)
{
    x = max_lanewise(splat(-87.0f), min_lanewise(splat(88.0f), x));
    const vf magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vf n = x * 1.44269504088896341f + magic - magic;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    vi e = (__builtin_convertvector(n, vi) + 127) << 23;
    return p * (vf)e;
}

/* Below -86, where e^-x leaves the range, it stays at -4e-36; in truth it is nearer to 0 still. */
static inline vf silu_lanes(vf x)
{
    x = max_lanewise(splat(-86.0f), x);
    return x / (1.0f + exp_lanes(-x));
}

/* 2^x, x <= 125, to 4e-5, far below what bfloat16 keeps; as of -125 below that: 2^n times a
 * polynomial on half a unit to either side. */
static inline vf exp2_below(vf x)
{
    const vf magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    x = max_lanewise(splat(-125.0f), x);
    vf n = x + magic;
    vf r = x - (n - magic);
    vf p = splat(9.6181291e-3f);
    p = p * r + 5.5504109e-2f;
    p = p * r + 2.4022651e-1f;
    p = p * r + 6.9314718e-1f;
    p = p * r + 1.0f;
    return (vf)((vi)p + ((vi)n << 23)); /* n's low bits are the integer */
}

/* 2^x to 1e-4, x <= 125: bfloat16 keeps far less. */
static inline vf exp2_coarse(vf x)
{
#if defined(__AVX512DQ__) /* a polynomial of what x is above an integer; any x */
    vf r = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf p = splat(7.80245227e-02f);
    p = p * r + 2.26067155e-01f;
    p = p * r + 6.95833541e-01f;
    p = p * r + 9.99925219e-01f;
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    return exp2_below(x);
#endif
}

/* silu(x) to 2e-4, where the result will be bfloat16. */
static inline vf silu_rough(vf x)
{
#if defined(__AVX512DQ__)
    /* Not so far below that it would be denormal, which is slow. */
    vf power = max_lanewise(splat(-64.0f), x * -1.44269504088896341f);
    return x * (vf)_mm512_rcp14_ps((__m512)(1.0f + exp2_coarse(power)));
#else
    x = max_lanewise(splat(-86.0f), x);
    return x / (1.0f + exp2_coarse(x * -1.44269504088896341f));
#endif
}

/* name_ISA: what each object of a source file calls its symbols. */
#define IMF__ISA_NAME2(name, isa) name##_##isa
#define IMF__ISA_NAME1(name, isa) IMF__ISA_NAME2(name, isa)
#define IMF__ISA_NAME(name) IMF__ISA_NAME1(name, IMF__ISA)

#endif
