/* Attention of one head on tiles: the norms of q and k and the rotary embedding while they are
 * packed, then 32 query rows at a time through scores, exponentials and values.
 *     k: B panels of 32 keys over the head size; v: tiles of 32 keys x 16 features, by key;
 *     q, and the exponentials in bfloat16: A panels of 32 rows.
 * What the vectors have to do is done between the tiles' instructions: a block's exponentials while
 * the next 32 keys are multiplied, the next rows' q while values are summed.
 * Keys are padded with zeros to a multiple of 32, whose probabilities are zero. */
#include "cpu/gemm/tiles_attention.h"
#include "cpu/gemm/gemm.h"
#include "cpu/gemm/tiles.h"
#include "common/vector.h"

#define MAX_HS 80
#define MAX_PAIRS 48 /* of MAX_HS, up to a multiple of 16 */
#define BLOCK 1024   /* 32 x 32 sums */
#define INLINE static inline __attribute__((always_inline))

struct layout {
    size_t keys, steps;          /* keys padded to 32; of the head size, by 32 */
    size_t q, k, v, s, p, total; /* byte offsets into work */
};

static struct layout layout_of(int T, int HS)
{
    struct layout l = {.keys = ((size_t)T + 31) / 32 * 32, .steps = gemm_steps(HS)};
    const size_t tile = GEMM_TILE * sizeof(uint16_t);
    l.q = 0;
    l.s = 2 * l.steps * tile;
    l.p = l.s + 2 * BLOCK * sizeof(float);
    l.k = l.p + l.keys / 16 * tile;
    l.v = l.k + l.keys / 16 * l.steps * tile;
    l.total = l.v + l.keys / 32 * (size_t)(HS / 16) * tile;
    return l;
}

size_t IMF__TILES_NAME(imf__tiles_attention_work)(int T, int HS)
{
    return layout_of(T, HS).total;
}

/* Of a norm: the weights of even and of odd elements. */
struct weights {
    float even[MAX_PAIRS], odd[MAX_PAIRS];
};

struct head {
    const uint16_t *in; /* q, k and v of all heads, side by side, in panels */
    size_t in_steps;
    size_t q, k, v; /* this head's first columns of them */
    int T;
    const float *q_norm, *k_norm, *cosine, *sine; /* rope (T, HS / 2) each */
    uint16_t *out;
    size_t first;         /* the sample's first row, of in and out */
    size_t width, column; /* of out: this head's columns */
};

/* Of the head's position t: column `first`, which is its q, k or v, and d more, a multiple of 16. */
INLINE const uint16_t *at(const struct head *h, size_t first, size_t t, int d)
{
    return h->in + gemm_place(h->first + t, first + (size_t)d, h->in_steps);
}

/* The first `n` (8 or 16) of sixteen numbers of four bytes; zeros in place of the others. */
INLINE vu load_some(const void *p, int n)
{
#if defined(__AVX512F__)
    return (vu)_mm512_maskz_loadu_epi32(n < LANES ? 0xFF : 0xFFFF, p);
#else
    vu x = {0};
    memcpy(&x, p, n < LANES ? 32 : 64);
    return x;
#endif
}

/* Elements d .. d + 31 of position t, or the last 16 and zeros. */
INLINE vu load_pairs(const struct head *h, size_t first, size_t t, int d, int HS)
{
    vu x = {0};
    const uint16_t *left = at(h, first, t, d);
    if (HS % 32 == 0) { /* every head begins with a step */
        memcpy(&x, left, 64);
        return x;
    }
#if defined(__AVX512F__)
    __m512i both = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)left));
    if (HS - d > 16)
        both = _mm512_inserti64x4(both,
                                  _mm256_loadu_si256((const __m256i *)at(h, first, t, d + 16)), 1);
    return (vu)both;
#else
    memcpy(&x, left, 32);
    if (HS - d > 16)
        memcpy((char *)&x + 32, at(h, first, t, d + 16), 32);
    return x;
#endif
}

static void separate(struct weights *w, const float *norm, int HS, float scale)
{
    memset(w, 0, sizeof(*w));
    for (int i = 0; i < HS / 2; i++) {
        w->even[i] = norm[2 * i] * scale;
        w->odd[i] = norm[2 * i + 1] * scale;
    }
}

/* rope(rms_norm(x)) of position t, x the columns from `first` on, in pieces of 32 elements that lie
 * `step` apart: of 16 pairs of neighbours, all the first ones before the second ones. That is an
 * order like any other to the scores, since q and k have the same. */
INLINE void norm_rope(uint16_t *y, size_t step, size_t first, int HS, const struct weights *w,
                      const struct head *h, size_t t)
{
    const float *cosine = h->cosine + t * (size_t)(HS / 2);
    const float *sine = h->sine + t * (size_t)(HS / 2);
    vf even[MAX_PAIRS / LANES], odd[MAX_PAIRS / LANES], sum = splat(0);
    for (int i = 0; i < HS / 2; i += LANES) {
        vu pairs = load_pairs(h, first, t, 2 * i, HS);
        vf a = (vf)(pairs << 16), b = (vf)(pairs & 0xFFFF0000);
        sum += a * a;
        sum += b * b;
        even[i / LANES] = a * load_f32(w->even + i);
        odd[i / LANES] = b * load_f32(w->odd + i);
    }
    vf r = splat(1.0f / sqrtf(sum_lanes(sum) / (float)HS + 1e-6f));
    for (int i = 0; i < HS / 2; i += LANES, y += step) {
        vf c = (vf)load_some(cosine + i, HS / 2 - i) * r,
           s = (vf)load_some(sine + i, HS / 2 - i) * r;
        vf a = even[i / LANES], b = odd[i / LANES];
        store_bf16_two(y, a * c - b * s, b * c + a * s);
    }
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

INLINE void pack_keys(const struct head *h, const struct layout *l, int HS, uint16_t *k)
{
    uint16_t y[16][2 * MAX_PAIRS] __attribute__((aligned(64)));
    struct weights w;
    separate(&w, h->k_norm, HS, 1);
    for (size_t t = 0; t < l->keys; t += 16) {
        if (t + 16 > (size_t)h->T)
            memset(y, 0, sizeof(y));
        for (size_t i = 0; i < 16 && t + i < (size_t)h->T; i++)
            norm_rope(y[i], 32, h->k, HS, &w, h, t + i);
        uint16_t *to = k + t / 32 * l->steps * GEMM_STEP + t % 32 / 16 * GEMM_TILE;
        for (size_t s = 0; s < l->steps; s++)
            transpose(to + s * GEMM_STEP, &y[0][s * 32], 2 * MAX_PAIRS);
    }
}

INLINE void pack_values(const struct head *h, const struct layout *l, int HS, uint16_t *v)
{
    for (size_t t = 0; t < l->keys; t += 2) {
        uint16_t *to = v + t / 32 * (size_t)(HS / 16) * GEMM_TILE + t % 32 / 2 * 32;
        for (int d = 0; d < HS; d += LANES, to += GEMM_TILE) {
            vu x = {0}, y = {0};
            if (t < (size_t)h->T)
                x = __builtin_convertvector(*(const vh_u *)at(h, h->v, t, d), vu);
            if (t + 1 < (size_t)h->T)
                y = __builtin_convertvector(*(const vh_u *)at(h, h->v, t + 1, d), vu);
            x |= y << 16;
            memcpy(to, &x, 64);
        }
    }
}

/* Rows of q that are still to be packed. */
struct queries {
    uint16_t *to;
    const struct head *h;
    const struct weights *w;
    size_t first, rows, done;
};

/* Of the strip of up to 32 rows from t on. */
INLINE void begin_queries(struct queries *q, size_t t)
{
    const size_t T = (size_t)q->h->T;
    q->first = t;
    q->rows = t >= T ? 0 : T - t < 32 ? T - t : 32;
    q->done = 0;
}

INLINE void pack_queries(struct queries *q, int HS, size_t n)
{
    for (; n > 0 && q->done < q->rows; n--, q->done++)
        norm_rope(q->to + q->done / 16 * GEMM_TILE + q->done % 16 * 32, GEMM_STEP, q->h->q, HS,
                  q->w, q->h, q->first + q->done);
}

/* 2 x 2 tiles; `beside` is done behind each of their products. */
#define DOTS_BESIDE(a, b, beside)                                                                  \
    do {                                                                                           \
        TILE_LOAD(4, a, 64);                                                                       \
        TILE_STREAM(6, b, 64);                                                                     \
        TILE_DOT(0, 4, 6);                                                                         \
        beside;                                                                                    \
        TILE_STREAM(7, (b) + GEMM_TILE, 64);                                                       \
        TILE_DOT(1, 4, 7);                                                                         \
        beside;                                                                                    \
        TILE_LOAD(5, (a) + GEMM_TILE, 64);                                                         \
        TILE_DOT(2, 5, 6);                                                                         \
        beside;                                                                                    \
        TILE_DOT(3, 5, 7);                                                                         \
        beside;                                                                                    \
    } while (0)
#define DOTS(a, b) DOTS_BESIDE(a, b, (void)0)

#define DOTS_OF_ONE(a, b)                                                                          \
    do {                                                                                           \
        TILE_LOAD(4, a, 64);                                                                       \
        TILE_STREAM(6, b, 64);                                                                     \
        TILE_DOT(0, 4, 6);                                                                         \
        TILE_LOAD(5, (a) + GEMM_TILE, 64);                                                         \
        TILE_DOT(2, 5, 6);                                                                         \
    } while (0)

#define STORE(to)                                                                                  \
    do {                                                                                           \
        TILE_STORE(0, to, 128);                                                                    \
        TILE_STORE(1, (to) + 16, 128);                                                             \
        TILE_STORE(2, (to) + 512, 128);                                                            \
        TILE_STORE(3, (to) + 528, 128);                                                            \
    } while (0)

#define ZERO()                                                                                     \
    do {                                                                                           \
        TILE_ZERO(0);                                                                              \
        TILE_ZERO(1);                                                                              \
        TILE_ZERO(2);                                                                              \
        TILE_ZERO(3);                                                                              \
    } while (0)

/* Scores of 32 rows and keys whose exponentials are still to be taken. */
struct scored {
    const float *s;
    uint16_t *p;
    size_t done, rows;
    int columns; /* keys that are there; the others' exponentials are 0 */
};

struct rows {
    vf sum[32];
    float most[32], inv[32];
};

INLINE void exponentials(struct scored *e, struct rows *r, size_t n, bool whole, bool shifted)
{
    const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (; n > 0 && e->done < e->rows; n--, e->done++) {
        const size_t i = e->done;
        vf x = load_f32(e->s + i * 32), y = load_f32(e->s + i * 32 + 16);
        if (shifted) {
            x = max_lanewise(splat(-125.0f), x - r->most[i]);
            y = max_lanewise(splat(-125.0f), y - r->most[i]);
        }
        if (shifted && !whole) { /* keys that are not there may be above the largest score */
            x = min_lanewise(splat(0), x);
            y = min_lanewise(splat(0), y);
        }
        x = exp2_coarse(x);
        y = exp2_coarse(y);
        if (!whole) {
            x = (vf)((vi)x & (lane < e->columns));
            y = (vf)((vi)y & (lane < e->columns - LANES));
        }
        r->sum[i] += x + y;
        store_bf16_two(e->p + i / 16 * GEMM_TILE + i % 16 * 32, x, y);
    }
}

/* The largest score of each row. */
INLINE void find_most(const struct layout *l, int T, size_t rows, float *s, const uint16_t *q,
                      const uint16_t *k, struct rows *r)
{
    const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vf most[32];
    for (size_t i = 0; i < rows; i++)
        most[i] = splat(-INFINITY);
    for (size_t t = 0; t < l->keys; t += 32, k += l->steps * GEMM_STEP) {
        ZERO();
        for (size_t i = 0; i < l->steps; i++)
            DOTS(q + i * GEMM_STEP, k + i * GEMM_STEP);
        STORE(s);
        for (size_t i = 0; i < rows; i++) {
            for (int half = 0; half < 2; half++) {
                vi there = lane < T - (int)t - half * LANES;
                vi x = (vi)load_f32(s + i * 32 + half * LANES);
                most[i] =
                    max_lanewise(most[i], (vf)((x & there) | ((vi)splat(-INFINITY) & ~there)));
            }
        }
    }
    for (size_t i = 0; i < rows; i++)
        r->most[i] = max_lanes(most[i]);
}

/* p = exponentials of q k^T; their sums. */
INLINE void scores(const struct layout *l, int T, size_t rows, float *s, const uint16_t *q,
                   const uint16_t *k, uint16_t *p, struct rows *r, bool shifted)
{
    struct scored e = {.rows = 0};
    if (shifted)
        find_most(l, T, rows, s, q, k, r);
    for (size_t i = 0; i < rows; i++)
        r->sum[i] = splat(0);
    for (size_t t = 0; t < l->keys; t += 32, k += l->steps * GEMM_STEP, p += GEMM_STEP) {
        ZERO();
        for (size_t i = 0; i < l->steps; i++)
            DOTS_BESIDE(q + i * GEMM_STEP, k + i * GEMM_STEP,
                        exponentials(&e, r, 2, true, shifted));
        float *to = s + t / 32 % 2 * BLOCK;
        TILE_STORE(0, to, 128);
        exponentials(&e, r, 4, true, shifted);
        TILE_STORE(1, to + 16, 128);
        exponentials(&e, r, 4, true, shifted);
        TILE_STORE(2, to + 512, 128);
        exponentials(&e, r, 4, true, shifted);
        TILE_STORE(3, to + 528, 128);
        exponentials(&e, r, 32, true, shifted);
        e = (struct scored){.s = to, .p = p, .rows = rows, .columns = T - (int)t};
    }
    exponentials(&e, r, 32, false, shifted);
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

/* 32 features of the rows' results, or the last 16, from feature d on. */
INLINE void finish(const struct head *h, int HS, const float *o, const float *inv, size_t first,
                   size_t rows, int d)
{
    for (size_t i = 0; i < rows; i++) {
        const size_t column = h->column + (size_t)d, steps = (h->width + 31) / 32;
        vf x = load_f32(o + i * 32) * inv[i], y = load_f32(o + i * 32 + 16) * inv[i];
        if (HS % 32 == 0) { /* every head begins with a step */
            store_bf16_two(h->out + gemm_place(h->first + first + i, column, steps), x, y);
            continue;
        }
        put(h, first + i, (size_t)d, x);
        if (HS - d >= 32)
            put(h, first + i, (size_t)d + 16, y);
    }
}

INLINE void values(const struct layout *l, int HS, float *o, const uint16_t *p, const uint16_t *v,
                   int d, struct queries *next)
{
    const size_t step = (size_t)(HS / 16) * GEMM_TILE;
    v += (size_t)(d / 16) * GEMM_TILE;
    ZERO();
    for (size_t i = 0; i < l->keys / 32; i++) {
        if (HS - d >= 32)
            DOTS_BESIDE(p + i * GEMM_STEP, v + i * step, pack_queries(next, HS, 1));
        else
            DOTS_OF_ONE(p + i * GEMM_STEP, v + i * step);
    }
    STORE(o);
}

INLINE void attend(const struct head *h, int HS, char *work, bool shifted)
{
    const struct layout l = layout_of(h->T, HS);
    uint16_t *q = (uint16_t *)(work + l.q), *k = (uint16_t *)(work + l.k);
    uint16_t *v = (uint16_t *)(work + l.v), *p = (uint16_t *)(work + l.p);
    float *s = (float *)(work + l.s);
    struct rows r;
    struct weights w;
    size_t rows = 0; /* that the tiles have */
    pack_keys(h, &l, HS, k);
    pack_values(h, &l, HS, v);
    struct queries next = {.to = q, .h = h, .w = &w};
    separate(&w, h->q_norm, HS, 1.44269504f / sqrtf((float)HS)); /* exponentials are of 2 */
    begin_queries(&next, 0);
    pack_queries(&next, HS, 32);
    for (size_t t = 0; t < (size_t)h->T; t += 32) {
        if (rows != next.rows)
            tiles_begin((int)(rows = next.rows));
        scores(&l, h->T, rows, s, q, k, p, &r, shifted);
        begin_queries(&next, t + 32);
        for (size_t i = 0; i < rows; i++)
            r.inv[i] = 1.0f / sum_lanes(r.sum[i]);
        for (int d = 0; d < HS; d += 32) {
            values(&l, HS, s, p, v, d, &next);
            finish(h, HS, s, r.inv, t, rows, d);
        }
        pack_queries(&next, HS, 32);
    }
    tiles_end();
}

/* No score, in units of ln 2, is larger than this, with a little to spare: a rotated pair is as long
 * as before, and after the norms all pairs of a row together sqrt(HS) times their weights at most. */
static float bound(const struct head *h, int HS)
{
    float most = 0;
    for (int i = 0; i < HS; i += 2) {
        float q = fmaxf(fabsf(h->q_norm[i]), fabsf(h->q_norm[i + 1]));
        float k = fmaxf(fabsf(h->k_norm[i]), fabsf(h->k_norm[i + 1]));
        most = q * k > most ? q * k : most;
    }
    return most * sqrtf((float)HS) * 1.5f;
}

void IMF__TILES_NAME(imf__tiles_attention_head)(uint16_t *dst, const uint16_t *qkv, size_t first,
                                                const float *q_norm, const float *k_norm,
                                                const float *rope, int T, int NH, int HS, int head,
                                                void *work)
{
    const size_t width = (size_t)NH * (size_t)HS, column = (size_t)head * (size_t)HS;
    const struct head h = {
        .in = qkv,
        .in_steps = gemm_steps(3 * NH * HS),
        .q = column,
        .k = width + column,
        .v = 2 * width + column,
        .T = T,
        .q_norm = q_norm,
        .k_norm = k_norm,
        .cosine = rope,
        .sine = rope + (size_t)T * (size_t)(HS / 2),
        .out = dst,
        .first = first,
        .width = width,
        .column = column,
    };
    /* Beyond, a row's largest score is subtracted from all: no exponential is too large, nor are all
     * of them too small, for a float32 sum. */
    const bool shifted = !(bound(&h, HS) <= 64);
    if (HS == 80 && shifted)
        attend(&h, 80, work, true);
    else if (HS == 80)
        attend(&h, 80, work, false);
    else if (shifted)
        attend(&h, 64, work, true);
    else
        attend(&h, 64, work, false);
}
