/* Running a convolution on our own products (gemm_conv.h). */
#include "cpu/gemm_conv.h"
#include "cpu/images.h"
#include "common/error.h"

#include <omp.h>
#include <string.h>

#define GROUP_BYTES (800 << 10) /* of B at a time: they stay in the second-level cache */

struct run {
    struct cpu_device *cpu;
    const struct gemm_conv *w;
    struct imf__image *dst;
    const struct imf__image *src, *residual;
    const char *raw;     /* pixels that are still to be normalised; NULL: src's as they are */
    const float *scales; /* of them */
    float *sums;         /* of each row of dst, or NULL */
    size_t scales_sample, sums_sample;
    size_t buffer_bytes; /* of a thread */
};

struct task {
    int n, y0, y1, panel, panels;
};

static size_t band_bytes(const struct gemm_conv *w)
{
    size_t elements = w->band_plane * blocks_of(w->desc.in) + IMAGE_SLACK_PIXELS * BLOCK;
    return cpu_round_up(elements * sizeof(uint16_t), 4096);
}

/* The normalised pixels that a task's rows see, zeros around the picture. */
static void fill_band(const struct run *r, uint16_t *band, const struct task *t)
{
    const struct gemm_conv *w = r->w;
    const struct imf__conv_desc *d = &w->desc;
    const size_t edge = GEMM_BORDER * BLOCK, row = w->src_row;
    const int first = t->y0 * d->stride - d->pad_h;
    const int rows = (t->y1 - t->y0 - 1) * d->stride + d->kh;
    const float *a = r->scales + (size_t)t->n * r->scales_sample, *b = a + r->scales_sample / 2;
    const uint16_t *picture = (const uint16_t *)r->raw + (size_t)t->n * w->src_picture;
    for (size_t plane = 0; plane < blocks_of(d->in); plane++) {
        for (int i = 0; i < rows; i++) {
            uint16_t *to = band + plane * w->band_plane + (size_t)i * row;
            const int y = first + i;
            if (y < 0 || y >= d->in_h) {
                memset(to, 0, row * sizeof(*to));
                continue;
            }
            const uint16_t *from =
                picture + plane * w->src_plane + (size_t)(y + GEMM_BORDER) * row + edge;
            memset(to, 0, edge * sizeof(*to));
            memset(to + row - edge, 0, edge * sizeof(*to));
            r->cpu->k->scale_shift(to + edge, from, true, a + plane * BLOCK, b + plane * BLOCK,
                                   (size_t)d->in_w, BLOCK, BLOCK, r->src->unnormed_silu);
        }
    }
}

/* Zeros around the part of dst that a task writes. */
static void clear_edges(const struct run *r, const struct task *t)
{
    const struct gemm_conv *w = r->w;
    const size_t row = w->dst_row * sizeof(uint16_t), edge = GEMM_BORDER * BLOCK * sizeof(uint16_t);
    const int up = w->phases == 4 ? 2 : 1;
    for (int p = t->panel; p < t->panel + t->panels; p++) {
        char *plane = (char *)r->dst->data +
                      ((size_t)t->n * w->dst_picture + (size_t)p * w->dst_plane) * sizeof(uint16_t);
        if (t->y0 == 0)
            memset(plane, 0, GEMM_BORDER * row);
        for (int y = t->y0 * up; y < t->y1 * up; y++) {
            char *at = plane + (size_t)(y + GEMM_BORDER) * row;
            memset(at, 0, edge);
            memset(at + row - edge, 0, edge);
        }
        if (t->y1 == w->out_h)
            memset(plane + (size_t)(w->out_h * up + GEMM_BORDER) * row, 0, GEMM_BORDER * row);
    }
}

/* All of a task's panels, as many at a time as fit the cache. */
static void run_phase(const struct run *r, const struct task *t, int phase, const uint16_t *band)
{
    const struct gemm_conv *w = r->w;
    const struct phase *p = &w->phase[phase];
    const bool f32 = w->desc.f32_out;
    const int py = phase / 2, px = phase % 2, up = w->phases == 4 ? 2 : 1;
    const size_t y = (size_t)(t->y0 * up + py), size = (size_t)w->steps * GEMM_STEP;
    size_t at = (size_t)t->n * w->dst_picture;
    if (f32)
        at += y * (size_t)w->out_w * (size_t)w->desc.out;
    else
        at += (y + GEMM_BORDER) * w->dst_row + (size_t)(px + GEMM_BORDER) * BLOCK;
    const struct gemm_out out = {
        .dst = (char *)r->dst->data + at * (f32 ? sizeof(float) : sizeof(uint16_t)),
        .bf16 = !f32,
        .stride = f32 ? (size_t)w->desc.out : (size_t)up * BLOCK,
        .panel = f32 ? BLOCK : w->dst_plane,
        .columns = f32 ? w->desc.out : w->panels * BLOCK,
        .bias = w->bias,
        .residual = r->residual ? (const uint16_t *)r->residual->data + at : NULL,
        .relu = w->desc.relu,
        .sums = r->sums ? r->sums + (size_t)t->n * r->sums_sample + y * w->sums_row : NULL,
        .squares = w->sums_row / 2,
        .add_sums = px > 0,
        .epilogue = f32 ? GEMM_STORE : GEMM_CONV,
    };
    struct gemm_job job = {
        .out = &out,
        .strips = w->strips,
        .n_strips = (t->y1 - t->y0) * w->row_strips,
        .offsets = p->offsets,
        .row = (size_t)w->desc.stride * BLOCK,
        .steps = w->steps,
    };
    if (r->raw) {
        job.a = band + (size_t)(GEMM_BORDER - w->desc.pad_w) * BLOCK;
        job.offsets = p->band_offsets;
    } else {
        job.a = (const uint16_t *)r->src->data + (size_t)t->n * w->src_picture + p->first +
                (size_t)(t->y0 * w->desc.stride) * w->src_row;
    }
    int group = (int)(GROUP_BYTES / (size * sizeof(uint16_t)));
    group = group < 1 ? 1 : group;
    for (int done = 0; done < t->panels; done += group) {
        job.panel = t->panel + done;
        job.panels = t->panels - done < group ? t->panels - done : group;
        job.b = p->data + (size_t)job.panel * size;
        r->cpu->gemm->run(&job);
    }
}

static void run_task(const struct run *r, const struct task *t)
{
    uint16_t *band = NULL;
    if (!r->w->desc.f32_out)
        clear_edges(r, t);
    if (r->raw) {
        band = (uint16_t *)((char *)cpu_scratch(r->cpu, CPU_SCRATCH_THREADS) +
                            (size_t)omp_get_thread_num() * r->buffer_bytes);
        fill_band(r, band, t);
    }
    for (int phase = 0; phase < r->w->phases; phase++)
        run_phase(r, t, phase, band);
}

static void run_tasks(const struct run *r)
{
    const struct gemm_conv *w = r->w;
    const int bands = (w->out_h + w->band - 1) / w->band;
    const int columns = (w->panels + w->task_panels - 1) / w->task_panels;
#pragma omp parallel for num_threads(r->cpu->threads) schedule(dynamic)
    for (int i = 0; i < r->dst->n * columns * bands; i++) {
        struct task t = {.n = i / (columns * bands),
                         .y0 = i % bands * w->band,
                         .panel = i / bands % columns * w->task_panels};
        t.y1 = t.y0 + w->band < w->out_h ? t.y0 + w->band : w->out_h;
        t.panels = w->panels - t.panel < w->task_panels ? w->panels - t.panel : w->task_panels;
        run_task(r, &t);
    }
}

imf_status imf__gemm_conv_run(struct cpu_device *cpu, struct imf__image *dst,
                              const struct imf__image *src, const struct gemm_conv *w,
                              const struct imf__image *residual)
{
    struct run r = {.cpu = cpu, .w = w, .dst = dst, .src = src, .residual = residual};
    if (w->desc.f32_out && (residual || w->desc.relu))
        return IMF_EUNSUPPORTED;
    if (residual)
        IMF_TRY(cpu_image_settle(cpu, residual));
    if (w->phases == 4 || w->desc.stride != 1)
        IMF_TRY(cpu_image_settle(cpu, src));
    r.raw = src->unnormed;
    image_written(dst);
    if (w->desc.norm_groups && !w->desc.f32_out)
        dst->norm_strips = dst->h;
    if (r.raw) {
        r.buffer_bytes = band_bytes(w);
        IMF_TRY(
            cpu_scratch_reserve(cpu, CPU_SCRATCH_THREADS, r.buffer_bytes * (size_t)cpu->threads));
    }
    if (cpu->base.dry)
        return IMF_OK;
    if (r.raw) {
        const struct layout l = layout_of(cpu, src);
        const struct norm_room room = norm_room_of(&l, src);
        r.scales = room.scales;
        r.scales_sample = room.row;
    }
    if (dst->norm_strips) {
        const struct layout l = layout_of(cpu, dst);
        const struct norm_room room = norm_room_of(&l, dst);
        r.sums = room.sums;
        r.sums_sample = room.sample;
    }
    run_tasks(&r);
    return IMF_OK;
}
