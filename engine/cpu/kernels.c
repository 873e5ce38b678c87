/* The CPU device's own loops, written with 16-lane GCC vectors so that one source serves every
 * instruction set: compiled with -DIMF__ISA=avx512_bf16 and friends (engine/CMakeLists.txt). The
 * only intrinsic is the bfloat16 dot product, where the processor has it; without it the same
 * attention runs in float32. */
#include "kernels.h"

#include <math.h>
#include <string.h>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#define HS IMF__HEAD_SIZE
#define LANES 16

typedef float vf __attribute__((vector_size(64)));
typedef float vf_u __attribute__((vector_size(64), aligned(4)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));
typedef uint16_t vh __attribute__((vector_size(32)));
typedef uint16_t vh_u __attribute__((vector_size(32), aligned(2)));

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

static inline float bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}

static inline uint16_t f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return (uint16_t)((u + 0x7FFF + ((u >> 16) & 1)) >> 16); /* to nearest, ties to even */
}

static inline vf load_bf16(const uint16_t *p)
{
    vu u = __builtin_convertvector(*(const vh_u *)p, vu) << 16;
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
    return bf16 ? bf16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static inline void store1(void *p, size_t i, float x, bool bf16)
{
    if (bf16)
        ((uint16_t *)p)[i] = f32_to_bf16(x);
    else
        ((float *)p)[i] = x;
}

/* A fixed tree, so that a sum does not depend on the instruction set's reduction order. */
static inline float sum_lanes(vf x)
{
    float t[LANES];
    memcpy(t, &x, sizeof(t));
    for (int w = LANES / 2; w > 0; w /= 2) {
        for (int i = 0; i < w; i++)
            t[i] += t[i + w];
    }
    return t[0];
}

static inline vf select_lanes(vi mask, vf yes, vf no)
{
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

static inline vf max_lanewise(vf a, vf b)
{
    return select_lanes(a > b, a, b);
}

static inline float max_lanes(vf x)
{
    float t[LANES];
    memcpy(t, &x, sizeof(t));
    float m = t[0];
    for (int i = 1; i < LANES; i++)
        m = t[i] > m ? t[i] : m;
    return m;
}

/* exp(x) to 2 ulp: 2^n e^r with Cephes' polynomial for e^r, |r| <= ln 2 / 2. */
static inline vf exp_lanes(vf x)
{
    const vf hi = splat(88.0f), lo = splat(-87.0f);
    x = select_lanes(x > hi, hi, x);
    x = select_lanes(x < lo, lo, x);
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

static inline vf silu_lanes(vf x)
{
    return x / (1.0f + exp_lanes(-x));
}

/* ---- Norms ---- */

static void rms_norm(void *dst, bool dst_bf16, const float *src, const float *weight, int C,
                     float eps)
{
    vf acc = splat(0);
    int c = 0;
    for (; c + LANES <= C; c += LANES) {
        vf x = load_f32(src + c);
        acc += x * x;
    }
    float sum = sum_lanes(acc);
    for (; c < C; c++)
        sum += src[c] * src[c];
    float scale = 1.0f / sqrtf(sum / (float)C + eps);
    for (c = 0; c + LANES <= C; c += LANES) {
        vf y = load_f32(src + c) * scale;
        store(dst, (size_t)c, weight ? y * load_f32(weight + c) : y, dst_bf16);
    }
    for (; c < C; c++)
        store1(dst, (size_t)c, src[c] * scale * (weight ? weight[c] : 1.0f), dst_bf16);
}

static void softmax(float *x, int T, float scale)
{
    float m = x[0];
    for (int i = 1; i < T; i++)
        m = x[i] > m ? x[i] : m;
    vf acc = splat(0);
    int i = 0;
    for (; i + LANES <= T; i += LANES) {
        vf e = exp_lanes((load_f32(x + i) - m) * scale);
        store_f32(x + i, e);
        acc += e;
    }
    float sum = sum_lanes(acc);
    for (; i < T; i++) {
        x[i] = expf((x[i] - m) * scale);
        sum += x[i];
    }
    float inv = 1.0f / sum;
    for (i = 0; i < T; i++)
        x[i] *= inv;
}

/* ---- Attention ----
 *
 * K and V of a head are packed once; then 12 query rows at a time go through scores, softmax and
 * values without leaving the first-level cache: scores (12, Tp) float32, Tp = T rounded up to 16.
 * bf16: pairs along the summed axis lie side by side, as the dot product instruction wants them:
 *     kp (HS/2, Tp, 2), vp (Tp/2, HS, 2), probabilities (12, Tp).
 * f32:  kp (HS, Tp), v in place of vp (Tp, HS). */

#define ROWS 12

static inline size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

#if defined(__AVX512BF16__)
#define DOT_BF16 1
#else
#define DOT_BF16 0
#endif

struct attention_layout {
    size_t q, k, v, s, p, total; /* byte offsets into work */
};

static struct attention_layout attention_layout(int T, bool dot_bf16)
{
    size_t Tp = round_up((size_t)T, LANES), e = dot_bf16 ? 2 : 4;
    struct attention_layout l;
    l.q = 0;
    l.k = l.q + round_up(ROWS * HS * e, 64);
    l.v = l.k + round_up(HS * Tp * e, 64);
    l.s = l.v + round_up(HS * Tp * e, 64);
    l.p = l.s + ROWS * Tp * sizeof(float);
    l.total = l.p + round_up(ROWS * Tp * e, 64);
    return l;
}

static size_t attention_work(int T, bool bf16)
{
    return attention_layout(T, bf16 && DOT_BF16).total;
}

/* y (64) = rope(rms_norm(x)) * scale. rope row t: 32 cosines at cosine, 32 sines at sine. */
static void norm_rope(float *y, const void *x, bool bf16, const float *norm, const float *cosine,
                      const float *sine, float scale)
{
    vf a[4], sum = splat(0);
    for (int i = 0; i < 4; i++) {
        a[i] = load(x, (size_t)i * LANES, bf16);
        sum += a[i] * a[i];
    }
    float r = 1.0f / sqrtf(sum_lanes(sum) / HS + 1e-6f) * scale;
    float t[HS];
    for (int i = 0; i < 4; i++)
        store_f32(t + i * LANES, a[i] * r * load_f32(norm + i * LANES));
    for (int i = 0; i < HS / 2; i++) {
        y[2 * i] = t[2 * i] * cosine[i] - t[2 * i + 1] * sine[i];
        y[2 * i + 1] = t[2 * i] * sine[i] + t[2 * i + 1] * cosine[i];
    }
}

/* Softmax of `rows` rows of s (rows, Tp) with T real columns; leaves exponentials, padded columns
 * zero, and 1 / sum in inv. */
static void exponentials(float *s, float *inv, int rows, int T, size_t Tp)
{
    for (int i = 0; i < rows; i++) {
        float *row = s + (size_t)i * Tp;
        for (size_t j = (size_t)T; j < Tp; j++)
            row[j] = -INFINITY;
        vf m = load_f32(row);
        for (size_t j = LANES; j < Tp; j += LANES)
            m = max_lanewise(m, load_f32(row + j));
        float top = max_lanes(m);
        vf sum = splat(0);
        for (size_t j = 0; j < Tp; j += LANES) {
            vf e = exp_lanes(load_f32(row + j) - top);
            sum += e;
            store_f32(row + j, e);
        }
        for (size_t j = (size_t)T; j < Tp; j++)
            row[j] = 0.0f; /* exp was clamped, not zero: e^-87 */
        inv[i] = 1.0f / sum_lanes(sum);
    }
}

struct head {
    const char *q, *k, *v; /* first row of this head's q, k, v */
    size_t stride;         /* bytes between rows */
    size_t T, Tp;
    const float *q_norm, *k_norm, *cosine, *sine; /* rope (T, 32) each */
    char *out;
    size_t out_stride;
};

#if DOT_BF16

static void pack_bf16(const struct head *h, uint16_t *kp, uint16_t *vp)
{
    memset(kp, 0, HS * h->Tp * 2);
    memset(vp, 0, HS * h->Tp * 2);
    for (size_t t = 0; t < h->T; t++) {
        float y[HS];
        uint16_t b[HS];
        norm_rope(y, h->k + t * h->stride, true, h->k_norm, h->cosine + t * 32, h->sine + t * 32,
                  1.0f);
        for (int i = 0; i < HS; i += LANES)
            store_bf16(b + i, load_f32(y + i));
        for (size_t d = 0; d < HS / 2; d++)
            memcpy(kp + (d * h->Tp + t) * 2, b + 2 * d, 4);
        const uint16_t *v = (const uint16_t *)(h->v + t * h->stride);
        uint16_t *vt = vp + (t / 2) * HS * 2 + (t & 1);
        for (int d = 0; d < HS; d++)
            vt[2 * d] = v[d];
    }
}

static inline __m512 dot(__m512 acc, uint32_t pair, __m512i b)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32((int)pair), (__m512bh)b);
}

static inline uint32_t pair_at(const uint16_t *p)
{
    uint32_t u;
    memcpy(&u, p, 4);
    return u;
}

/* c (4 rows, 6 * 16 columns) = a (4, 2 pairs) b (pairs, ldb, 2). */
#define TILE_BF16(name, R, V)                                                                      \
    static inline __attribute__((always_inline)) void name(                                        \
        float *c, size_t ldc, const uint16_t *a, size_t lda, const uint16_t *b, size_t ldb,        \
        size_t pairs)                                                                              \
    {                                                                                              \
        __m512 acc[R][V];                                                                          \
        for (int r = 0; r < R; r++)                                                                \
            for (int v = 0; v < V; v++)                                                            \
                acc[r][v] = _mm512_setzero_ps();                                                   \
        for (size_t k = 0; k < pairs; k++) {                                                       \
            __m512i bv[V];                                                                         \
            for (int v = 0; v < V; v++)                                                            \
                bv[v] = _mm512_loadu_si512(b + (k * ldb + (size_t)v * LANES) * 2);                 \
            for (int r = 0; r < R; r++) {                                                          \
                uint32_t p = pair_at(a + (size_t)r * lda + 2 * k);                                 \
                for (int v = 0; v < V; v++)                                                        \
                    acc[r][v] = dot(acc[r][v], p, bv[v]);                                          \
            }                                                                                      \
        }                                                                                          \
        for (int r = 0; r < R; r++)                                                                \
            for (int v = 0; v < V; v++)                                                            \
                _mm512_storeu_ps(c + (size_t)r * ldc + v * LANES, acc[r][v]);                      \
    }
TILE_BF16(tile_bf16_4x6, 4, 6)
TILE_BF16(tile_bf16_12x1, 12, 1)
TILE_BF16(tile_bf16_6x4, 6, 4)

static void attention_bf16(const struct head *h, char *work)
{
    struct attention_layout l = attention_layout((int)h->T, true);
    uint16_t *q = (uint16_t *)(work + l.q), *kp = (uint16_t *)(work + l.k);
    uint16_t *vp = (uint16_t *)(work + l.v), *p = (uint16_t *)(work + l.p);
    float *s = (float *)(work + l.s), inv[ROWS], o[ROWS * HS];
    size_t Tp = h->Tp;
    pack_bf16(h, kp, vp);
    for (size_t t0 = 0; t0 < h->T; t0 += ROWS) {
        int rows = h->T - t0 < ROWS ? (int)(h->T - t0) : ROWS;
        for (int i = 0; i < rows; i++) {
            float y[HS];
            size_t t = t0 + (size_t)i;
            norm_rope(y, h->q + t * h->stride, true, h->q_norm, h->cosine + t * 32,
                      h->sine + t * 32, 0.125f);
            for (int d = 0; d < HS; d += LANES)
                store_bf16(q + i * HS + d, load_f32(y + d));
        }
        memset(q + rows * HS, 0, (size_t)(ROWS - rows) * HS * 2);
        size_t j = 0;
        for (; j + 6 * LANES <= Tp; j += 6 * LANES)
            for (size_t i = 0; i < ROWS; i += 4)
                tile_bf16_4x6(s + i * Tp + j, Tp, q + i * HS, HS, kp + 2 * j, Tp, HS / 2);
        for (; j < Tp; j += LANES)
            tile_bf16_12x1(s + j, Tp, q, HS, kp + 2 * j, Tp, HS / 2);
        exponentials(s, inv, ROWS, (int)h->T, Tp);
        for (size_t i = 0; i < ROWS * Tp; i += LANES)
            store_bf16(p + i, load_f32(s + i));
        for (size_t i = 0; i < ROWS; i += 6)
            tile_bf16_6x4(o + i * HS, HS, p + i * Tp, Tp, vp, HS, Tp / 2);
        for (int i = 0; i < rows; i++)
            for (int d = 0; d < HS; d += LANES)
                store_bf16((uint16_t *)(h->out + (t0 + (size_t)i) * h->out_stride) + d,
                           load_f32(o + i * HS + d) * inv[i]);
    }
}
#endif

#define TILE_F32(name, R, V)                                                                       \
    static inline __attribute__((always_inline)) void name(                                        \
        float *c, size_t ldc, const float *a, size_t lda, const float *b, size_t ldb, size_t K)    \
    {                                                                                              \
        vf acc[R][V];                                                                              \
        for (int r = 0; r < R; r++)                                                                \
            for (int v = 0; v < V; v++)                                                            \
                acc[r][v] = splat(0);                                                              \
        for (size_t k = 0; k < K; k++) {                                                           \
            vf bv[V];                                                                              \
            for (int v = 0; v < V; v++)                                                            \
                bv[v] = load_f32(b + k * ldb + (size_t)v * LANES);                                 \
            for (int r = 0; r < R; r++)                                                            \
                for (int v = 0; v < V; v++)                                                        \
                    acc[r][v] += a[(size_t)r * lda + k] * bv[v];                                   \
        }                                                                                          \
        for (int r = 0; r < R; r++)                                                                \
            for (int v = 0; v < V; v++)                                                            \
                store_f32(c + (size_t)r * ldc + v * LANES, acc[r][v]);                             \
    }
#if defined(__AVX512F__)
TILE_F32(tile_f32_wide, 4, 6)
#define WIDE_V 6
#else
TILE_F32(tile_f32_wide, 4, 1)
#define WIDE_V 1
#endif
TILE_F32(tile_f32_narrow, 4, 1)
TILE_F32(tile_f32_values, 4, 4)

static void attention_f32(const struct head *h, bool bf16, char *work)
{
    struct attention_layout l = attention_layout((int)h->T, false);
    float *q = (float *)(work + l.q), *kp = (float *)(work + l.k), *vp = (float *)(work + l.v);
    float *s = (float *)(work + l.s), inv[ROWS], o[ROWS * HS];
    size_t Tp = h->Tp;
    memset(kp, 0, HS * Tp * sizeof(float));
    memset(vp, 0, HS * Tp * sizeof(float));
    for (size_t t = 0; t < h->T; t++) {
        float y[HS];
        norm_rope(y, h->k + t * h->stride, bf16, h->k_norm, h->cosine + t * 32, h->sine + t * 32,
                  1.0f);
        for (size_t d = 0; d < HS; d++)
            kp[d * Tp + t] = y[d];
        for (size_t d = 0; d < HS; d += LANES)
            store_f32(vp + t * HS + d, load(h->v + t * h->stride, d, bf16));
    }
    for (size_t t0 = 0; t0 < h->T; t0 += ROWS) {
        int rows = h->T - t0 < ROWS ? (int)(h->T - t0) : ROWS;
        memset(q, 0, ROWS * HS * sizeof(float));
        for (int i = 0; i < rows; i++) {
            size_t t = t0 + (size_t)i;
            norm_rope(q + i * HS, h->q + t * h->stride, bf16, h->q_norm, h->cosine + t * 32,
                      h->sine + t * 32, 0.125f);
        }
        for (size_t i = 0; i < ROWS; i += 4) {
            size_t j = 0;
            for (; j + WIDE_V * LANES <= Tp; j += WIDE_V * LANES)
                tile_f32_wide(s + i * Tp + j, Tp, q + i * HS, HS, kp + j, Tp, HS);
            for (; j < Tp; j += LANES)
                tile_f32_narrow(s + i * Tp + j, Tp, q + i * HS, HS, kp + j, Tp, HS);
        }
        exponentials(s, inv, ROWS, (int)h->T, Tp);
        for (size_t i = 0; i < ROWS; i += 4)
            tile_f32_values(o + i * HS, HS, s + i * Tp, Tp, vp, HS, Tp);
        for (int i = 0; i < rows; i++)
            for (size_t d = 0; d < HS; d += LANES)
                store(h->out + (t0 + (size_t)i) * h->out_stride, d,
                      load_f32(o + (size_t)i * HS + d) * inv[i], bf16);
    }
}

static void attention_head(void *dst, const void *qkv, bool bf16, const float *q_norm,
                           const float *k_norm, const float *rope, int T, int NH, int head,
                           void *work)
{
    size_t e = bf16 ? 2 : 4, width = (size_t)NH * HS;
    struct head h = {
        .q = (const char *)qkv + (size_t)head * HS * e,
        .stride = 3 * width * e,
        .T = (size_t)T,
        .Tp = round_up((size_t)T, LANES),
        .q_norm = q_norm,
        .k_norm = k_norm,
        .cosine = rope,
        .sine = rope + (size_t)T * (HS / 2),
        .out = (char *)dst + (size_t)head * HS * e,
        .out_stride = width * e,
    };
    h.k = h.q + width * e;
    h.v = h.k + width * e;
#if DOT_BF16
    if (bf16) {
        attention_bf16(&h, work);
        return;
    }
#endif
    attention_f32(&h, bf16, work);
}

/* ---- Pictures ---- */

/* float32 partial sums over a short run, then double: exact enough for any picture, and fast. */
#define SUM_RUN 64

static inline __attribute__((always_inline)) void
channel_sums_typed(double *sums, const void *src, bool bf16, size_t pixels, size_t stride, int C)
{
    for (size_t p0 = 0; p0 < pixels; p0 += SUM_RUN) {
        size_t p1 = p0 + SUM_RUN < pixels ? p0 + SUM_RUN : pixels;
        int c = 0;
        for (; c + LANES <= C; c += LANES) {
            vf s = splat(0), q = splat(0);
            for (size_t p = p0; p < p1; p++) {
                vf x = load(src, p * stride + (size_t)c, bf16);
                s += x;
                q += x * x;
            }
            for (int i = 0; i < LANES; i++) {
                sums[c + i] += (double)s[i];
                sums[C + c + i] += (double)q[i];
            }
        }
        for (; c < C; c++) {
            for (size_t p = p0; p < p1; p++) {
                double x = (double)load1(src, p * stride + (size_t)c, bf16);
                sums[c] += x;
                sums[C + c] += x * x;
            }
        }
    }
}

static void channel_sums(double *sums, const void *src, bool bf16, size_t pixels, size_t stride,
                         int C)
{
    if (bf16)
        channel_sums_typed(sums, src, true, pixels, stride, C);
    else
        channel_sums_typed(sums, src, false, pixels, stride, C);
}

static inline __attribute__((always_inline)) void scale_shift_typed(void *dst, const void *src,
                                                                    bool bf16, const float *a,
                                                                    const float *b, size_t pixels,
                                                                    size_t stride, int C, bool silu)
{
    for (size_t p = 0; p < pixels; p++) {
        int c = 0;
        for (; c + LANES <= C; c += LANES) {
            vf y = load(src, p * stride + (size_t)c, bf16) * load_f32(a + c) + load_f32(b + c);
            store(dst, p * stride + (size_t)c, silu ? silu_lanes(y) : y, bf16);
        }
        for (; c < C; c++) {
            float y = load1(src, p * stride + (size_t)c, bf16) * a[c] + b[c];
            store1(dst, p * stride + (size_t)c, silu ? y / (1.0f + expf(-y)) : y, bf16);
        }
    }
}

static void scale_shift(void *dst, const void *src, bool bf16, const float *a, const float *b,
                        size_t pixels, size_t stride, int C, bool silu)
{
    if (bf16)
        scale_shift_typed(dst, src, true, a, b, pixels, stride, C, silu);
    else
        scale_shift_typed(dst, src, false, a, b, pixels, stride, C, silu);
}

static void to_bf16(uint16_t *dst, const float *src, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store_bf16(dst + i, load_f32(src + i));
    for (; i < n; i++)
        dst[i] = f32_to_bf16(src[i]);
}

static void to_f32(float *dst, const uint16_t *src, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store_f32(dst + i, load_bf16(src + i));
    for (; i < n; i++)
        dst[i] = bf16_to_f32(src[i]);
}

#define TABLE_NAME2(isa) imf__cpu_kernels_##isa
#define TABLE_NAME(isa) TABLE_NAME2(isa)
#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)

const struct imf__cpu_kernels TABLE_NAME(IMF__ISA) = {
    .isa = TEXT(IMF__ISA),
    .rms_norm = rms_norm,
    .attention_head = attention_head,
    .attention_work = attention_work,
    .softmax = softmax,
    .channel_sums = channel_sums,
    .scale_shift = scale_shift,
    .to_bf16 = to_bf16,
    .to_f32 = to_f32,
};
