/* The product on tiles: 2 x 2 tiles of sums, two of A, two of B. While a block is multiplied, the
 * rows of the one before it are finished. */
#include "cpu/gemm/epilogue.h"
#include "cpu/gemm/feed.h"
#include "cpu/gemm/tiles.h"
#include "cpu/gemm/tiles_attention.h"

#define MOST_LINES 6 /* more would be in the way of the tiles' own */

/* Through K, of one strip and one panel. */
struct walk {
    const uint16_t *a, *b;
    const size_t *offset;
    size_t row;     /* bytes between rows of A */
    int left, past; /* steps; the last `past` do not keep A */
};

/* The next job's B on its way into the second-level cache, some lines a step. */
struct fetch {
    const char *at, *end;
    int lines;
};

static inline struct fetch fetch_of(const struct gemm_job *job)
{
    const int lines = 2 * GEMM_TILE * (int)sizeof(*job->b) / 64; /* of B's in a step */
    struct fetch f = {.lines = (lines + job->n_strips - 1) / job->n_strips};
    if (f.lines > MOST_LINES)
        f.lines = MOST_LINES;
    if (job->next) {
        f.at = (const char *)job->next;
        f.end = f.at + job->next_size * sizeof(*job->next);
    }
    return f;
}

static inline __attribute__((always_inline)) void fetch(struct fetch *f)
{
    if (f->at >= f->end)
        return;
    for (int i = 0; i < f->lines; i++, f->at += 64)
        __builtin_prefetch(f->at, 0, 2);
}

/* In a block's first step a tile of sums begins anew when it is wanted, so that the multiplications
 * do not wait for all of them; what it has of the block before goes to `sums`, unless that is NULL. */
#define RENEW(t, sums, at)                                                                         \
    do {                                                                                           \
        if (sums)                                                                                  \
            TILE_STORE(t, (sums) + (at), 64);                                                      \
        TILE_ZERO(t);                                                                              \
    } while (0)

/* `both`: the strip has more than 16 rows. `right`: the panel has more than 16 columns. `keep`: A's
 * tiles are to stay in the first-level cache. `first`: the sums begin anew. */
static inline __attribute__((always_inline)) void step(struct walk *w, bool both, bool right,
                                                       bool keep, bool first, float *sums)
{
    const uint16_t *a = w->a + *w->offset++;
    TILE_STREAM(6, w->b, 64);
    if (keep)
        TILE_LOAD(4, a, w->row);
    else
        TILE_STREAM(4, a, w->row);
    if (first)
        RENEW(0, sums, 0);
    TILE_DOT(0, 4, 6);
    if (both) {
        if (keep)
            TILE_LOAD(5, a + 8 * w->row, w->row);
        else
            TILE_STREAM(5, a + 8 * w->row, w->row);
        if (first)
            RENEW(2, sums, 512);
        TILE_DOT(2, 5, 6);
    }
    if (right) {
        TILE_STREAM(7, w->b + GEMM_TILE, 64);
        if (first)
            RENEW(1, sums, 256);
        TILE_DOT(1, 4, 7);
        if (both && first)
            RENEW(3, sums, 768);
        if (both)
            TILE_DOT(3, 5, 7);
    }
    w->b += GEMM_STEP;
    w->left--;
}

/* What goes on beside a block's tiles. */
struct beside {
    struct fetch next;
    struct feeding fed;
};

static inline __attribute__((always_inline)) void advance(struct walk *w, bool both, bool right,
                                                          bool keep, struct beside *s)
{
    step(w, both, right, keep, false, NULL);
    fetch(&s->next);
    feed(&s->fed, s->fed.f.step);
}

static void put_tiles(float *sums, bool both, bool right)
{
    TILE_STORE(0, sums, 64);
    if (right)
        TILE_STORE(1, sums + 256, 64);
    if (both)
        TILE_STORE(2, sums + 512, 64);
    if (both && right)
        TILE_STORE(3, sums + 768, 64);
}

/* A block of sums, which stay in the tiles, while the rows of the one before it are finished; `held`:
 * the tiles have its sums still. */
static inline __attribute__((always_inline)) void multiply(float *sums, bool held, struct walk w,
                                                           bool both, bool right, struct beside *s,
                                                           struct place *p, enum gemm_epilogue e,
                                                           bool bf16)
{
    const bool few = w.left < 16; /* steps: more rows with each */
    step(&w, both, right, true, true, held ? sums : NULL);
    while (few && w.left > w.past && p->done + 3 < p->rows) {
        advance(&w, both, right, true, s);
        finish_row(sums, p, e, bf16);
        finish_row(sums, p, e, bf16);
        finish_row(sums, p, e, bf16);
        finish_row(sums, p, e, bf16);
    }
    while (w.left > w.past && p->done + 1 < p->rows) {
        advance(&w, both, right, true, s);
        finish_row(sums, p, e, bf16);
        finish_row(sums, p, e, bf16);
    }
    while (w.left > w.past)
        advance(&w, both, right, true, s);
    while (w.left > 0)
        advance(&w, both, right, false, s);
    while (p->done < p->rows)
        finish_row(sums, p, e, bf16);
}

static inline struct walk walk_of(const struct gemm_job *job, const struct gemm_strip *s, int panel)
{
    return (struct walk){
        .a = job->a + s->a,
        .b = job->b + (size_t)panel * job->panel_size,
        .offset = job->offsets,
        .row = job->row * sizeof(uint16_t),
        .left = job->steps,
        .past = job->steps > job->keep ? job->steps - job->keep : 0,
    };
}

static inline __attribute__((always_inline)) void run_as(const struct gemm_job *job,
                                                         enum gemm_epilogue e, bool bf16)
{
    float sums[SUMS] __attribute__((aligned(64)));
    struct place before = {.rows = 0};
    struct beside beside = {.next = fetch_of(job), .fed = feeding_of(job)};
    const bool narrow = e == GEMM_STORE && !bf16; /* the last layers' kind: few columns */
    bool held = false, wide = true; /* the tiles have `before`'s sums, of 32 columns */
    int rows = 0;
    for (int i = 0; i < job->n_strips; i++) {
        const struct gemm_strip *s = &job->strips[i];
        for (int p = 0; p < job->panels; p++) {
            const struct walk w = walk_of(job, s, p);
            const bool right = !narrow || job->out->columns - (job->panel + p) * GEMM_PANEL > 16;
            if (held && (s->rows != rows || right != wide)) {
                put_tiles(sums, rows > 16, wide);
                held = false;
            }
            if (s->rows != rows)
                tiles_begin(rows = s->rows);
            if (!right && rows > 16)
                multiply(sums, held, w, true, false, &beside, &before, e, bf16);
            else if (rows > 16)
                multiply(sums, held, w, true, true, &beside, &before, e, bf16);
            else
                multiply(sums, held, w, false, true, &beside, &before, e, bf16);
            before = place_of(job->out, s, job->panel + p);
            held = true;
            wide = right || rows <= 16;
        }
    }
    if (held)
        put_tiles(sums, rows > 16, wide);
    while (before.done < before.rows)
        finish_row(sums, &before, e, bf16);
    tiles_end();
    feed_rest(&beside.fed);
}

static void run(const struct gemm_job *job)
{
    GEMM_DISPATCH(run_as, job);
}

/* On numbers as a network has them: with zeros the tiles go faster. */
static double peak(int times)
{
    uint16_t numbers[GEMM_TILE];
    for (int i = 0; i < GEMM_TILE; i++)
        numbers[i] = (uint16_t)(0x3C00 + i * 193 % 0x400 + i % 2 * 0x8000);
    tiles_begin(32);
    TILE_LOAD(4, numbers, 64);
    TILE_LOAD(5, numbers, 64);
    TILE_LOAD(6, numbers, 64);
    TILE_LOAD(7, numbers, 64);
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (int i = 0; i < times; i++) {
        TILE_DOT(0, 4, 6);
        TILE_DOT(1, 4, 7);
        TILE_DOT(2, 5, 6);
        TILE_DOT(3, 5, 7);
    }
    tiles_end();
    return (double)times * 4 * 2 * 16 * 16 * 32;
}

const struct gemm_kernel IMF__TILES_NAME(imf__gemm_tiles) = {
#if defined(IMF__TILES_EMULATED)
    .name = "AMX, emulated",
#else
    .name = "AMX",
#endif
    .run = run,
    .attention_head = IMF__TILES_NAME(imf__tiles_attention_head),
    .attention_work = IMF__TILES_NAME(imf__tiles_attention_work),
    .peak = peak,
};
