/* Attention of one head on tiles: the norms of q and k and the rotary embedding while they are
 * packed, then 32 query rows at a time through scores, softmax and values.
 *     k: B panels of 32 keys over the head size; v: tiles of 32 keys x 16 features, by key;
 *     q, and the probabilities in bfloat16: A panels of 32 rows.
 * Keys are padded with zeros to a multiple of 32, whose probabilities are zero. */
#include "cpu/gemm/tiles_attention.h"
#include "cpu/gemm/gemm.h"
#include "cpu/gemm/tiles.h"
#include "common/vector.h"

#define MAX_HS 80
#define INLINE static inline __attribute__((always_inline))

struct layout {
    size_t keys, steps;             /* keys padded to 32; of the head size, by 32 */
    size_t q, k, v, s, p, o, total; /* byte offsets into work */
};

static struct layout layout_of(int T, int HS)
{
    struct layout l = {.keys = ((size_t)T + 31) / 32 * 32, .steps = gemm_steps(HS)};
    const size_t tile = GEMM_TILE * sizeof(uint16_t);
    l.k = 2 * l.steps * tile;
    l.v = l.k + l.keys / 16 * l.steps * tile;
    l.s = l.v + l.keys / 32 * (size_t)(HS / 16) * tile;
    l.p = l.s + 32 * (l.keys + 16) * sizeof(float); /* rows an odd number of cache lines apart */
    l.o = l.p + l.keys / 16 * tile;
    l.total = l.o + 32 * 32 * sizeof(float);
    return l;
}

size_t IMF__TILES_NAME(imf__tiles_attention_work)(int T, int HS)
{
    return layout_of(T, HS).total;
}

struct head {
    const uint16_t *q, *k, *v; /* first rows; `stride` elements apart */
    size_t stride;
    int T;
    const float *q_norm, *k_norm, *cosine, *sine; /* rope (T, HS / 2) each */
    uint16_t *out;
    size_t first, width, column; /* of out: the sample's first row, and this head's columns */
};

/* Eight numbers, each twice. */
INLINE vf twice(const float *p)
{
#if defined(__AVX512F__)
    const __m512i lanes = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return (vf)_mm512_permutexvar_ps(lanes, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
#else
    vf x = {0};
    for (int i = 0; i < LANES; i++)
        x[i] = p[i / 2];
    return x;
#endif
}

/* Pairs of neighbours (a, b) become (a cos - b sin, b cos + a sin). */
INLINE vf turn(vf x, vf cosine, vf sine)
{
    const vi other = {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14};
    vf y = __builtin_shuffle(x, other) * sine;
#if defined(__AVX512F__)
    return (vf)_mm512_fmaddsub_ps((__m512)x, (__m512)cosine, (__m512)y);
#else
    return x * cosine + y * (vf){-1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1};
#endif
}

/* rope(rms_norm(x)) * scale of position t, in pieces of 32 elements that lie `step` apart. */
INLINE void norm_rope(uint16_t *y, size_t step, const uint16_t *x, int HS, const float *norm,
                      const struct head *h, size_t t, float scale)
{
    const float *cosine = h->cosine + t * (size_t)(HS / 2);
    const float *sine = h->sine + t * (size_t)(HS / 2);
    vf a[MAX_HS / LANES], sum = splat(0);
    for (int i = 0; i < HS / LANES; i++) {
        a[i] = load_bf16(x + i * LANES);
        sum += a[i] * a[i];
    }
    float r = 1.0f / sqrtf(sum_lanes(sum) / (float)HS + 1e-6f) * scale;
    for (int i = 0; i < HS / LANES; i++)
        store_bf16(y + (size_t)(i / 2) * step + i % 2 * LANES,
                   turn(a[i] * r * load_f32(norm + i * LANES), twice(cosine + i * 8),
                        twice(sine + i * 8)));
}

/* Sixteen rows of sixteen pairs, `stride` elements apart, become rows of B (gemm.h): pair i of each.
 * In four rounds, rows i and i + w exchange every other group of w lanes. */
INLINE void transpose(uint16_t *to, const uint16_t *from, size_t stride)
{
    static const vi lanes[4][2] = {
        {{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
         {8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31}},
        {{0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27},
         {4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31}},
        {{0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29},
         {2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31}},
        {{0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30},
         {1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31}},
    };
    vu r[16];
    for (size_t i = 0; i < 16; i++)
        memcpy(&r[i], from + i * stride, 64);
    for (int round = 0, w = 8; w > 0; round++, w /= 2) {
        for (int i = 0; i < 16; i++) {
            if (i & w)
                continue;
            vu x = r[i], y = r[i + w];
            r[i] = __builtin_shuffle(x, y, lanes[round][0]);
            r[i + w] = __builtin_shuffle(x, y, lanes[round][1]);
        }
    }
    for (size_t i = 0; i < 16; i++)
        memcpy(to + i * 32, &r[i], 64);
}

/* Positions [t, t + n) of q, k or v, on their way into the cache: lines of a head lie too far apart
 * for the processor to see it coming. */
INLINE void fetch(const struct head *h, const uint16_t *x, size_t t, size_t n, int HS)
{
    for (; n > 0 && t < (size_t)h->T; t++, n--)
        for (int d = 0; d < HS; d += 32)
            __builtin_prefetch(x + t * h->stride + d);
}

INLINE void pack_keys(const struct head *h, const struct layout *l, int HS, uint16_t *k)
{
    uint16_t y[16][MAX_HS + 16] __attribute__((aligned(64))) = {{0}}; /* up to a multiple of 32 */
    for (size_t t = 0; t < l->keys; t += 16) {
        if (t + 16 > (size_t)h->T)
            memset(y, 0, sizeof(y));
        fetch(h, h->k, t + 32, 16, HS);
        for (size_t i = 0; i < 16 && t + i < (size_t)h->T; i++)
            norm_rope(y[i], 32, h->k + (t + i) * h->stride, HS, h->k_norm, h, t + i, 1.0f);
        uint16_t *to = k + t / 32 * l->steps * GEMM_STEP + t % 32 / 16 * GEMM_TILE;
        for (size_t s = 0; s < l->steps; s++)
            transpose(to + s * GEMM_STEP, &y[0][s * 32], MAX_HS + 16);
    }
}

INLINE void pack_values(const struct head *h, const struct layout *l, int HS, uint16_t *v)
{
    for (size_t t = 0; t < l->keys; t += 2) {
        fetch(h, h->v, t + 32, 2, HS);
        uint16_t *to = v + t / 32 * (size_t)(HS / 16) * GEMM_TILE + t % 32 / 2 * 32;
        const uint16_t *even = h->v + t * h->stride, *odd = even + h->stride;
        for (int d = 0; d < HS; d += LANES, to += GEMM_TILE) {
            vu x = {0}, y = {0};
            if (t < (size_t)h->T)
                x = __builtin_convertvector(*(const vh_u *)(even + d), vu);
            if (t + 1 < (size_t)h->T)
                y = __builtin_convertvector(*(const vh_u *)(odd + d), vu);
            x |= y << 16;
            memcpy(to, &x, 64);
        }
    }
}

INLINE void pack_queries(const struct head *h, const struct layout *l, int HS, uint16_t *q,
                         size_t first, size_t rows, float scale)
{
    if (rows < 32 || HS % 32)
        memset(q, 0, l->steps * GEMM_STEP * sizeof(*q));
    for (size_t i = 0; i < rows; i++)
        norm_rope(q + i / 16 * GEMM_TILE + i % 16 * 32, GEMM_STEP, h->q + (first + i) * h->stride,
                  HS, h->q_norm, h, first + i, scale);
}

#define DOTS(a, b)                                                                                 \
    do {                                                                                           \
        TILE_LOAD(4, a, 64);                                                                       \
        TILE_LOAD(6, b, 64);                                                                       \
        TILE_DOT(0, 4, 6);                                                                         \
        TILE_LOAD(7, (b) + GEMM_TILE, 64);                                                         \
        TILE_DOT(1, 4, 7);                                                                         \
        TILE_LOAD(5, (a) + GEMM_TILE, 64);                                                         \
        TILE_DOT(2, 5, 6);                                                                         \
        TILE_DOT(3, 5, 7);                                                                         \
    } while (0)

#define DOTS_OF_ONE(a, b)                                                                          \
    do {                                                                                           \
        TILE_LOAD(4, a, 64);                                                                       \
        TILE_LOAD(6, b, 64);                                                                       \
        TILE_DOT(0, 4, 6);                                                                         \
        TILE_LOAD(5, (a) + GEMM_TILE, 64);                                                         \
        TILE_DOT(2, 5, 6);                                                                         \
    } while (0)

#define ZERO()                                                                                     \
    do {                                                                                           \
        TILE_ZERO(0);                                                                              \
        TILE_ZERO(1);                                                                              \
        TILE_ZERO(2);                                                                              \
        TILE_ZERO(3);                                                                              \
    } while (0)

/* s (32, keys) = q k^T. */
INLINE void scores(const struct layout *l, float *s, const uint16_t *q, const uint16_t *k)
{
    const size_t row = (l->keys + 16) * sizeof(float);
    for (size_t t = 0; t < l->keys; t += 32, k += l->steps * GEMM_STEP) {
        ZERO();
        for (size_t i = 0; i < l->steps; i++)
            DOTS(q + i * GEMM_STEP, k + i * GEMM_STEP);
        TILE_STORE(0, s + t, row);
        TILE_STORE(1, s + t + 16, row);
        TILE_STORE(2, s + 16 * (l->keys + 16) + t, row);
        TILE_STORE(3, s + 16 * (l->keys + 16) + t + 16, row);
    }
}

/* Probabilities, not yet divided by their sum, into p; 1 / sum into inv. s is in units of ln 2. Some
 * rows at a time, since each waits for its largest score. */
INLINE void softmax(const struct layout *l, int T, const float *s, uint16_t *p, float *inv)
{
    enum { ROWS = 4 };
    const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const size_t whole = (size_t)T / 16 * 16, row = l->keys + 16;
    const vi rest = (vi)(lane < T % 16);
    for (size_t i = 0; i < 32; i += ROWS, s += ROWS * row) {
        uint16_t *to = p + i / 16 * GEMM_TILE + i % 16 * 32;
        vf most[ROWS], sum[ROWS];
        for (size_t r = 0; r < ROWS; r++) {
            most[r] = splat(-INFINITY);
            sum[r] = splat(0);
        }
        for (size_t t = 0; t < whole; t += 16)
            for (size_t r = 0; r < ROWS; r++)
                most[r] = max_lanewise(most[r], load_f32(s + r * row + t));
        for (size_t r = 0; whole < (size_t)T && r < ROWS; r++) {
            vi x = (vi)load_f32(s + r * row + whole);
            most[r] = max_lanewise(most[r], (vf)((x & rest) | ((vi)splat(-INFINITY) & ~rest)));
        }
        for (size_t r = 0; r < ROWS; r++)
            most[r] = splat(max_lanes(most[r]));
        for (size_t t = 0; t < whole; t += 16) {
            for (size_t r = 0; r < ROWS; r++) {
                vf e = exp2_below(load_f32(s + r * row + t) - most[r]);
                sum[r] += e;
                store_bf16(to + r * 32 + t / 32 * GEMM_STEP + t % 32, e);
            }
        }
        for (size_t t = whole; t < l->keys; t += 16) {
            for (size_t r = 0; r < ROWS; r++) {
                vf e = exp2_below(load_f32(s + r * row + t) - most[r]);
                e = t < (size_t)T ? (vf)((vi)e & rest) : splat(0);
                sum[r] += e;
                store_bf16(to + r * 32 + t / 32 * GEMM_STEP + t % 32, e);
            }
        }
        for (size_t r = 0; r < ROWS; r++)
            inv[i + r] = 1.0f / sum_lanes(sum[r]);
    }
}

/* Sixteen features of a row's result, from feature d on; and zeros behind the last head's where they
 * fill no whole step. */
INLINE void put(const struct head *h, size_t row, size_t d, vf x)
{
    const size_t column = h->column + d, steps = (h->width + 31) / 32;
    uint16_t *to = h->out + gemm_place(h->first + row, column, steps);
    store_bf16(to, x);
    if (column + 16 == h->width && h->width % 32)
        store_bf16(to + 16, splat(0));
}

/* 16 or 32 features of the rows' results, from feature d on. */
INLINE void values(const struct head *h, const struct layout *l, int HS, float *o,
                   const uint16_t *p, const uint16_t *v, const float *inv, size_t first,
                   size_t rows, int d)
{
    const size_t step = (size_t)(HS / 16) * GEMM_TILE;
    const bool two = HS - d >= 32;
    v += (size_t)(d / 16) * GEMM_TILE;
    ZERO();
    for (size_t i = 0; i < l->keys / 32; i++) {
        if (two)
            DOTS(p + i * GEMM_STEP, v + i * step);
        else
            DOTS_OF_ONE(p + i * GEMM_STEP, v + i * step);
    }
    TILE_STORE(0, o, 128);
    TILE_STORE(1, o + 16, 128);
    TILE_STORE(2, o + 512, 128);
    TILE_STORE(3, o + 528, 128);
    for (size_t i = 0; i < rows; i++) {
        put(h, first + i, (size_t)d, load_f32(o + i * 32) * inv[i]);
        if (two)
            put(h, first + i, (size_t)d + 16, load_f32(o + i * 32 + 16) * inv[i]);
    }
}

INLINE void attend(const struct head *h, int HS, char *work)
{
    const struct layout l = layout_of(h->T, HS);
    uint16_t *q = (uint16_t *)(work + l.q), *k = (uint16_t *)(work + l.k);
    uint16_t *v = (uint16_t *)(work + l.v), *p = (uint16_t *)(work + l.p);
    float *s = (float *)(work + l.s), *o = (float *)(work + l.o), inv[32];
    const float scale = 1.44269504088896341f / sqrtf((float)HS); /* exponentials are of 2 */
    fetch(h, h->k, 0, 32, HS);
    pack_keys(h, &l, HS, k);
    fetch(h, h->v, 0, 32, HS);
    pack_values(h, &l, HS, v);
    tiles_begin(32);
    for (size_t t = 0; t < (size_t)h->T; t += 32) {
        size_t rows = (size_t)h->T - t < 32 ? (size_t)h->T - t : 32;
        pack_queries(h, &l, HS, q, t, rows, scale);
        fetch(h, h->q, t + 32, 32, HS);
        scores(&l, s, q, k);
        softmax(&l, h->T, s, p, inv);
        for (int d = 0; d < HS; d += 32)
            values(h, &l, HS, o, p, v, inv, t, rows, d);
    }
    tiles_end();
}

void IMF__TILES_NAME(imf__tiles_attention_head)(uint16_t *dst, size_t first, const uint16_t *qkv,
                                                const float *q_norm, const float *k_norm,
                                                const float *rope, int T, int NH, int HS, int head,
                                                void *work)
{
    const size_t width = (size_t)NH * (size_t)HS, at = (size_t)head * (size_t)HS;
    struct head h = {
        .q = qkv + at,
        .stride = 3 * width,
        .T = T,
        .q_norm = q_norm,
        .k_norm = k_norm,
        .cosine = rope,
        .sine = rope + (size_t)T * (size_t)(HS / 2),
        .out = dst,
        .first = first,
        .width = width,
        .column = at,
    };
    h.k = h.q + width;
    h.v = h.k + width;
    if (HS == 80)
        attend(&h, 80, work);
    else
        attend(&h, 64, work);
}
