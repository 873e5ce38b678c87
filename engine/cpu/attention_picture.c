/* Attention of a single wide head on our own products: the sd-vae's middle block, 1024 pixels of 512
 * channels. Queries are tiles of A as they lie in the picture; keys and values are packed once, as
 * panels of B. Then some runs of pixels at a time go through scores, softmax and values; the scores
 * of all pixels are never whole. A pixel's bits are its own, whoever computes it. */
#include "cpu/images.h"
#include "common/error.h"

#include <omp.h>
#include <string.h>

#define MOST_STRIPS 4 /* that share keys and values while they are cached */

struct plan {
    struct layout l;     /* of queries, keys and values; the result's planes are as large */
    size_t pixels, keys; /* keys: pixels, padded to whole panels */
    size_t blocks;       /* of channels of each of the three */
    int row_strips, strips, each; /* strips of a row, in all and of a task */
    size_t values, packed;        /* elements: where values are packed, and all of it */
    size_t scores, piece;         /* bytes: of a task's scores, and of its work */
};

static struct plan plan_of(const struct cpu_device *cpu, const struct imf__image *qkv)
{
    struct plan p = {.l = layout_of(cpu, qkv), .pixels = (size_t)qkv->h * (size_t)qkv->w};
    p.keys = gemm_panels((int)p.pixels) * GEMM_PANEL;
    p.blocks = (size_t)qkv->c / 3 / GEMM_PANEL;
    p.row_strips = (qkv->w + GEMM_PANEL - 1) / GEMM_PANEL;
    p.strips = p.row_strips * qkv->h;
    p.each = p.strips / (2 * cpu->threads);
    p.each = p.each < 1 ? 1 : p.each > MOST_STRIPS ? MOST_STRIPS : p.each;
    p.values = p.keys * p.blocks * GEMM_PANEL;
    p.packed = 2 * p.values;
    p.scores = (size_t)p.each * GEMM_PANEL * p.keys * sizeof(float);
    p.piece = cpu_round_up(p.scores + (size_t)p.each * GEMM_PANEL * p.keys * 2, 4096);
    return p;
}

/* Pixel t of a block of channels; zeros behind the last. */
static const uint16_t *pixel_of(const struct plan *p, const uint16_t *picture, size_t block,
                                size_t t)
{
    static const uint16_t zeros[GEMM_PANEL];
    const int w = p->l.w;
    return t < p->pixels ? picture + pixel_at(&p->l, (int)block, (int)t / w, (int)t % w) : zeros;
}

/* A panel of 32 keys. */
static void pack_keys(const struct plan *p, uint16_t *to, const uint16_t *picture, size_t first)
{
    for (size_t b = 0; b < p->blocks; b++, to += GEMM_STEP) {
        for (size_t k = 0; k < GEMM_PANEL; k++) {
            const uint16_t *from = pixel_of(p, picture, p->blocks + b, first + k);
            uint16_t *at = to + k / 16 * GEMM_TILE + k % 16 * 2;
            for (size_t i = 0; i < 16; i++)
                memcpy(at + i * 32, from + 2 * i, 2 * sizeof(*at));
        }
    }
}

/* A panel of 32 channels of the values. */
static void pack_values(const struct plan *p, uint16_t *to, const uint16_t *picture, size_t block)
{
    for (size_t t = 0; t < p->keys; t += 2) {
        const uint16_t *even = pixel_of(p, picture, 2 * p->blocks + block, t);
        const uint16_t *odd = pixel_of(p, picture, 2 * p->blocks + block, t + 1);
        uint16_t *at = to + t / 32 * GEMM_STEP + t % 32 / 2 * 32;
        for (size_t c = 0; c < 16; c++) {
            at[2 * c] = even[c];
            at[2 * c + 1] = odd[c];
            at[GEMM_TILE + 2 * c] = even[16 + c];
            at[GEMM_TILE + 2 * c + 1] = odd[16 + c];
        }
    }
}

/* All a thread does: what is shared, of one picture. */
struct share {
    const struct plan *p;
    const uint16_t *picture, *packed;
    const size_t *of_blocks, *of_keys; /* offsets of the steps of both products */
    uint16_t *dst;
};

static void attend(const struct cpu_device *cpu, const struct share *s, int task, char *work)
{
    const struct plan *p = s->p;
    const size_t panel = gemm_packed(1, (int)p->keys);
    float *scores = (float *)work;
    uint16_t *weights = (uint16_t *)(work + p->scores);
    struct gemm_strip strips[MOST_STRIPS] = {{0}};
    size_t at[MOST_STRIPS] = {0};
    int n = 0;
    for (int i = task * p->each; n < p->each && i < p->strips; n++, i++) {
        const int x = i % p->row_strips * GEMM_PANEL;
        at[n] = pixel_at(&p->l, 0, i / p->row_strips, x);
        strips[n] = (struct gemm_strip){
            .a = at[n],
            .dst = (size_t)n * GEMM_PANEL * p->keys,
            .rows = p->l.w - x < GEMM_PANEL ? p->l.w - x : GEMM_PANEL,
        };
    }
    struct gemm_out out = {
        .dst = scores,
        .stride = p->keys,
        .panel = GEMM_PANEL,
        .columns = (int)p->keys,
        .epilogue = GEMM_STORE,
    };
    struct gemm_job job = {
        .out = &out,
        .strips = strips,
        .n_strips = n,
        .a = s->picture,
        .offsets = s->of_blocks,
        .row = 32,
        .b = s->packed,
        .panel_size = p->blocks * GEMM_STEP,
        .steps = (int)p->blocks,
        .keep = GEMM_KEPT,
        .panels = (int)(p->keys / GEMM_PANEL),
    };
    cpu->gemm->run(&job);
    for (int i = 0; i < n; i++) {
        cpu->k->single->probabilities(weights + (size_t)i * panel, scores + strips[i].dst,
                                      strips[i].rows, (int)p->pixels, p->keys);
        strips[i].a = (size_t)i * panel;
        strips[i].dst = at[i];
    }
    out.dst = s->dst;
    out.bf16 = true;
    out.stride = GEMM_PANEL;
    out.panel = p->l.plane * GEMM_PANEL;
    out.columns = (int)p->blocks * GEMM_PANEL;
    job.a = weights;
    job.offsets = s->of_keys;
    job.b = s->packed + p->values;
    job.panel_size = panel;
    job.steps = (int)(p->keys / 32);
    job.panels = (int)p->blocks;
    cpu->gemm->run(&job);
}

static void attend_picture(struct cpu_device *cpu, const struct share *s)
{
    const struct plan *p = s->p;
    uint16_t *packed = cpu_scratch(cpu, CPU_SCRATCH_TENSOR);
    char *work = cpu_scratch(cpu, CPU_SCRATCH_THREADS);
    const size_t panels = p->keys / GEMM_PANEL, key_panel = p->blocks * GEMM_STEP;
    const int tasks = (p->strips + p->each - 1) / p->each;
#pragma omp parallel num_threads(cpu->threads)
    {
#pragma omp for schedule(static)
        for (size_t i = 0; i < panels + p->blocks; i++) {
            if (i < panels)
                pack_keys(p, packed + i * key_panel, s->picture, i * GEMM_PANEL);
            else
                pack_values(p, packed + p->values + (i - panels) * panels * GEMM_STEP, s->picture,
                            i - panels);
        }
        for (struct cpu_turn turn = cpu_turn_of(&cpu->tasks, tasks); cpu_next(&turn);)
            attend(cpu, s, turn.task, work + p->piece * (size_t)omp_get_thread_num());
    }
}

imf_status cpu_attention_picture(struct imf__device *d, struct imf__image *dst,
                                 const struct imf__image *qkv)
{
    struct cpu_device *cpu = cpu_of(d);
    if (!d->attends_pictures || qkv->c != 3 * dst->c || dst->c % GEMM_PANEL != 0)
        return IMF_EUNSUPPORTED;
    if (dst->n != qkv->n || dst->h != qkv->h || dst->w != qkv->w || dst->f32 || qkv->f32)
        return IMF_EINVAL;
    const struct plan p = plan_of(cpu, qkv);
    const size_t panels = p.keys / GEMM_PANEL;
    IMF_TRY(cpu_image_settle(cpu, qkv));
    image_written(dst);
    IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_TENSOR, p.packed * sizeof(uint16_t)));
    IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_THREADS, p.piece * (size_t)cpu->threads));
    IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_ROWS, (p.blocks + panels) * sizeof(size_t)));
    if (d->dry)
        return IMF_OK;
    size_t *offsets = cpu_scratch(cpu, CPU_SCRATCH_ROWS);
    for (size_t i = 0; i < p.blocks; i++)
        offsets[i] = i * p.l.plane * GEMM_PANEL;
    for (size_t i = 0; i < panels; i++)
        offsets[p.blocks + i] = i * GEMM_STEP;
    cpu_image_clear_border(cpu, dst);
    for (int n = 0; n < dst->n; n++) {
        const struct share s = {
            .p = &p,
            .picture = (const uint16_t *)qkv->data + (size_t)n * p.l.sample,
            .packed = cpu_scratch(cpu, CPU_SCRATCH_TENSOR),
            .of_blocks = offsets,
            .of_keys = offsets + p.blocks,
            .dst = (uint16_t *)dst->data + (size_t)n * (p.l.sample / 3),
        };
        attend_picture(cpu, &s);
    }
    return IMF_OK;
}
