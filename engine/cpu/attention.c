/* Attention of one head, with the norms of q and k and the rotary embedding.
 *
 * K and V of a head are packed once; then 12 query rows at a time go through scores, softmax and
 * values without leaving the first-level cache: scores (12, Tp) float32, Tp = T rounded up to 16.
 * The head size HS is a constant in every function here: they are inlined into one version of
 * attention_head for each of IMF__HEAD_SIZES.
 * bf16: pairs along the summed axis lie side by side, as the dot product instruction wants them:
 *     kp (HS/2, Tp, 2), vp (Tp/2, HS, 2), probabilities (12, Tp).
 * f32:  kp (HS, Tp), v in place of vp (Tp, HS). */
#include "cpu/attention.h"
#include "cpu/attention_tiles.h"
#include "cpu/gemm/gemm.h"
#include "device.h"

#define ROWS 12
#define MAX_HS 80
#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512BF16__)
#define DOT_BF16 1
#else
#define DOT_BF16 0
#endif

struct attention_layout {
    size_t q, k, v, s, p, total; /* byte offsets into work */
};

static struct attention_layout attention_layout(int T, int head_size, bool dot_bf16)
{
    size_t HS = (size_t)head_size;
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

size_t IMF__ISA_NAME(imf__attention_work)(int T, int HS, bool bf16)
{
    return attention_layout(T, HS, bf16 && DOT_BF16).total;
}

struct head {
    const char *in;           /* q, k and v of all heads, side by side */
    size_t in_width, q, k, v; /* elements: of a row; this head's first columns */
    size_t T, Tp;
    const float *q_norm, *k_norm, *cosine, *sine; /* rope (T, HS / 2) each */
    float scale;                                  /* 1 / sqrt(HS) */
    void *out;
    size_t width, column; /* of out, and this head's first */
    size_t first;         /* row of in and out */
    bool packed;          /* they lie in panels; else row by row */
};

/* Where a column of row t lies, in elements. */
INLINE size_t place_of(const struct head *h, size_t t, size_t column, size_t width)
{
    const size_t row = h->first + t;
    return h->packed ? gemm_place(row, column, (width + 31) / 32) : row * width + column;
}

/* Sixteen elements of in from d on, behind column `first`. */
INLINE vf load_in(const struct head *h, size_t t, size_t first, size_t d, bool bf16)
{
    return load(h->in, place_of(h, t, first + d, h->in_width), bf16);
}

/* y (HS) = rope(rms_norm(x)) * scale, x row t of in from column `first` on. */
INLINE void norm_rope(float *y, const struct head *h, size_t t, size_t first, int HS, bool bf16,
                      const float *norm, float scale)
{
    const float *cosine = h->cosine + t * (size_t)(HS / 2);
    const float *sine = h->sine + t * (size_t)(HS / 2);
    vf a[MAX_HS / LANES], sum = splat(0);
    for (int i = 0; i < HS / LANES; i++) {
        a[i] = load_in(h, t, first, (size_t)i * LANES, bf16);
        sum += a[i] * a[i];
    }
    float r = 1.0f / sqrtf(sum_lanes(sum) / (float)HS + 1e-6f) * scale;
    float x[MAX_HS];
    for (int i = 0; i < HS / LANES; i++)
        store_f32(x + i * LANES, a[i] * r * load_f32(norm + i * LANES));
    for (int i = 0; i < HS / 2; i++) {
        y[2 * i] = x[2 * i] * cosine[i] - x[2 * i + 1] * sine[i];
        y[2 * i + 1] = x[2 * i] * sine[i] + x[2 * i + 1] * cosine[i];
    }
}

/* Where element d of the head's row t goes, in elements. */
INLINE size_t place(const struct head *h, size_t t, size_t d)
{
    return place_of(h, t, h->column + d, h->width);
}

/* Zeros behind the last head's columns where they fill no whole step. */
INLINE void fill(const struct head *h, size_t HS, bool bf16)
{
    if (!h->packed || h->column + HS < h->width || h->width % 32 == 0)
        return;
    for (size_t t = 0; t < h->T; t++)
        store(h->out, place(h, t, HS), splat(0), bf16);
}

#if DOT_BF16

INLINE void pack_bf16(const struct head *h, int head_size, uint16_t *kp, uint16_t *vp)
{
    const size_t HS = (size_t)head_size;
    memset(kp, 0, HS * h->Tp * 2);
    memset(vp, 0, HS * h->Tp * 2);
    for (size_t t = 0; t < h->T; t++) {
        float y[MAX_HS];
        uint16_t b[MAX_HS];
        norm_rope(y, h, t, h->k, head_size, true, h->k_norm, 1.0f);
        for (size_t i = 0; i < HS; i += LANES)
            store_bf16(b + i, load_f32(y + i));
        for (size_t d = 0; d < HS / 2; d++)
            memcpy(kp + (d * h->Tp + t) * 2, b + 2 * d, 4);
        uint16_t *vt = vp + (t / 2) * HS * 2 + (t & 1);
        for (size_t d = 0; d < HS; d += LANES) {
            const uint16_t *v = (const uint16_t *)h->in + place_of(h, t, h->v + d, h->in_width);
            for (size_t i = 0; i < LANES; i++)
                vt[2 * (d + i)] = v[i];
        }
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
TILE_BF16(tile_bf16_4x5, 4, 5)

/* o (12, HS) = p (12, Tp) vp. */
INLINE void values_bf16(float *o, int HS, const uint16_t *p, const uint16_t *vp, size_t Tp)
{
    size_t ldo = (size_t)HS;
    if (HS == 64)
        for (size_t i = 0; i < ROWS; i += 6)
            tile_bf16_6x4(o + i * ldo, ldo, p + i * Tp, Tp, vp, ldo, Tp / 2);
    else
        for (size_t i = 0; i < ROWS; i += 4)
            tile_bf16_4x5(o + i * ldo, ldo, p + i * Tp, Tp, vp, ldo, Tp / 2);
}

INLINE void attention_bf16(const struct head *h, int head_size, char *work)
{
    const size_t HS = (size_t)head_size;
    struct attention_layout l = attention_layout((int)h->T, head_size, true);
    uint16_t *q = (uint16_t *)(work + l.q), *kp = (uint16_t *)(work + l.k);
    uint16_t *vp = (uint16_t *)(work + l.v), *p = (uint16_t *)(work + l.p);
    float *s = (float *)(work + l.s), inv[ROWS], o[ROWS * MAX_HS];
    size_t Tp = h->Tp;
    pack_bf16(h, head_size, kp, vp);
    for (size_t t0 = 0; t0 < h->T; t0 += ROWS) {
        size_t rows = h->T - t0 < ROWS ? h->T - t0 : ROWS;
        for (size_t i = 0; i < rows; i++) {
            float y[MAX_HS];
            norm_rope(y, h, t0 + i, h->q, head_size, true, h->q_norm, h->scale);
            for (size_t d = 0; d < HS; d += LANES)
                store_bf16(q + i * HS + d, load_f32(y + d));
        }
        memset(q + rows * HS, 0, (ROWS - rows) * HS * 2);
        size_t j = 0;
        for (; j + 6 * LANES <= Tp; j += 6 * LANES)
            for (size_t i = 0; i < ROWS; i += 4)
                tile_bf16_4x6(s + i * Tp + j, Tp, q + i * HS, HS, kp + 2 * j, Tp, HS / 2);
        for (; j < Tp; j += LANES)
            tile_bf16_12x1(s + j, Tp, q, HS, kp + 2 * j, Tp, HS / 2);
        exponentials(s, inv, ROWS, (int)h->T, Tp);
        for (size_t i = 0; i < ROWS * Tp; i += LANES)
            store_bf16(p + i, load_f32(s + i));
        values_bf16(o, head_size, p, vp, Tp);
        for (size_t i = 0; i < rows; i++)
            for (size_t d = 0; d < HS; d += LANES)
                store(h->out, place(h, t0 + i, d), load_f32(o + i * HS + d) * inv[i], true);
    }
}
#endif

TILE_F32(tile_f32_scores, TILE_R, SCORE_V)
TILE_F32(tile_f32_narrow, TILE_R, 1)
#if NATIVE == 16
TILE_F32(tile_f32_values80, TILE_R, 5)
#endif

/* o (12, HS) = s (12, Tp) vp (Tp, HS). */
INLINE void values_f32(float *o, size_t HS, const float *s, const float *vp, size_t Tp)
{
    for (size_t i = 0; i < ROWS; i += TILE_R) {
#if NATIVE == 16
        if (HS == 80) {
            tile_f32_values80(o + i * HS, HS, s + i * Tp, Tp, vp, HS, Tp);
            continue;
        }
#endif
        for (size_t d = 0; d < HS; d += VALUE_V * NATIVE)
            tile_f32_values(o + i * HS + d, HS, s + i * Tp, Tp, vp + d, HS, Tp);
    }
}

INLINE void attention_f32(const struct head *h, int head_size, bool bf16, char *work)
{
    const size_t HS = (size_t)head_size;
    struct attention_layout l = attention_layout((int)h->T, head_size, false);
    float *q = (float *)(work + l.q), *kp = (float *)(work + l.k), *vp = (float *)(work + l.v);
    float *s = (float *)(work + l.s), inv[ROWS], o[ROWS * MAX_HS];
    size_t Tp = h->Tp;
    memset(kp, 0, HS * Tp * sizeof(float));
    memset(vp, 0, HS * Tp * sizeof(float));
    for (size_t t = 0; t < h->T; t++) {
        float y[MAX_HS];
        norm_rope(y, h, t, h->k, head_size, bf16, h->k_norm, 1.0f);
        for (size_t d = 0; d < HS; d++)
            kp[d * Tp + t] = y[d];
        for (size_t d = 0; d < HS; d += LANES)
            store_f32(vp + t * HS + d, load_in(h, t, h->v, d, bf16));
    }
    for (size_t t0 = 0; t0 < h->T; t0 += ROWS) {
        size_t rows = h->T - t0 < ROWS ? h->T - t0 : ROWS;
        memset(q, 0, ROWS * HS * sizeof(float));
        for (size_t i = 0; i < rows; i++)
            norm_rope(q + i * HS, h, t0 + i, h->q, head_size, bf16, h->q_norm, h->scale);
        for (size_t i = 0; i < ROWS; i += TILE_R) {
            size_t j = 0;
            for (; j + SCORE_V * NATIVE <= Tp; j += SCORE_V * NATIVE)
                tile_f32_scores(s + i * Tp + j, Tp, q + i * HS, HS, kp + j, Tp, HS);
            for (; j < Tp; j += NATIVE)
                tile_f32_narrow(s + i * Tp + j, Tp, q + i * HS, HS, kp + j, Tp, HS);
        }
        exponentials(s, inv, ROWS, (int)h->T, Tp);
        values_f32(o, HS, s, vp, Tp);
        for (size_t i = 0; i < rows; i++)
            for (size_t d = 0; d < HS; d += LANES)
                store(h->out, place(h, t0 + i, d), load_f32(o + i * HS + d) * inv[i], bf16);
    }
}

INLINE void attention_of(const struct head *h, int HS, bool bf16, char *work)
{
    fill(h, (size_t)HS, bf16);
#if DOT_BF16
    if (bf16) {
        attention_bf16(h, HS, work);
        return;
    }
#endif
    attention_f32(h, HS, bf16, work);
}

void IMF__ISA_NAME(imf__attention_head)(void *dst, const void *qkv, size_t first, bool packed,
                                        bool bf16, const float *q_norm, const float *k_norm,
                                        const float *rope, int T, int NH, int HS, int head,
                                        void *work)
{
    const size_t size = (size_t)HS, width = (size_t)NH * size, column = (size_t)head * size;
    const struct head h = {
        .in = qkv,
        .in_width = 3 * width,
        .q = column,
        .k = width + column,
        .v = 2 * width + column,
        .T = (size_t)T,
        .Tp = round_up((size_t)T, LANES),
        .q_norm = q_norm,
        .k_norm = k_norm,
        .cosine = rope,
        .sine = rope + (size_t)T * (size / 2),
        .scale = 1.0f / sqrtf((float)HS),
        .out = dst,
        .width = width,
        .column = column,
        .first = first,
        .packed = packed,
    };
    switch (HS) {
#define ATTENTION_OF(size)                                                                         \
    case size:                                                                                     \
        attention_of(&h, size, bf16, work);                                                        \
        break;
        IMF__HEAD_SIZES(ATTENTION_OF)
#undef ATTENTION_OF
    default:
        break; /* the device has checked it */
    }
}
