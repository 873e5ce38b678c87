/* Running a convolution on our own products (gemm_conv.h). */
#include "cpu/gemm_conv.h"
#include "cpu/images.h"
#include "common/error.h"

#include <omp.h>
#include <string.h>

#define GROUP_BYTES (300 << 10) /* of B at a time: they stay in the second-level cache */
#define FEED_MOST 3             /* pixels a step: more would take longer than the step itself */

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
    bool ahead; /* the next one is most likely the band below: a row is normalised for it */
};

static size_t band_bytes(const struct gemm_conv *w)
{
    size_t elements = w->band_plane * blocks_of(w->desc.in) + IMAGE_SLACK_PIXELS * BLOCK;
    return cpu_round_up(elements * sizeof(uint16_t), 4096);
}

/* Row `i` of those that a task's rows see: whether the picture has it. */
static bool has_row(const struct run *r, const struct task *t, int i)
{
    const int y = t->y0 - r->w->desc.pad_h + i;
    return y >= 0 && y < r->w->desc.in_h;
}

/* Where in its buffer a band's row `i` lies. */
static uint16_t *band_row(const struct run *r, uint16_t *band, const struct task *t, int i)
{
    const int row = r->w->ring ? (t->y0 + i) % r->w->ring : i;
    return band + (size_t)row * r->w->src_row;
}

/* The normalising of a band's row `i`, which the picture has, over so many steps. */
static struct gemm_feed feed_of(const struct run *r, uint16_t *band, const struct task *t, int i,
                                int steps)
{
    const struct gemm_conv *w = r->w;
    const int row = t->y0 - w->desc.pad_h + i + GEMM_BORDER;
    const size_t y = (size_t)row;
    const size_t run = (size_t)w->desc.in_w * BLOCK, edge = GEMM_BORDER * BLOCK;
    struct gemm_feed f = {
        .src = (const uint16_t *)r->raw + (size_t)t->n * w->src_picture + y * w->src_row + edge,
        .dst = band_row(r, band, t, i) + edge,
        .a = r->scales + (size_t)t->n * r->scales_sample,
        .planes = (int)blocks_of(w->desc.in),
        .pixels = w->desc.in_w,
        .src_gap = w->src_plane - run,
        .dst_gap = w->band_plane - run,
        .silu = r->src->unnormed_silu,
    };
    f.b = f.a + r->scales_sample / 2;
    f.step = (f.planes * f.pixels + steps - 1) / steps;
    f.step = f.step < FEED_MOST ? f.step : FEED_MOST;
    return f;
}

static void normalise_row(const struct run *r, const struct gemm_feed *f)
{
    const size_t run = (size_t)f->pixels * BLOCK;
    for (size_t p = 0; p < (size_t)f->planes; p++)
        r->cpu->k->scale_shift(f->dst + p * (run + f->dst_gap), f->src + p * (run + f->src_gap),
                               true, f->a + p * BLOCK, f->b + p * BLOCK, (size_t)f->pixels, BLOCK,
                               BLOCK, f->silu);
}

/* Zeros for a row that no picture has. */
static void clear_row(const struct run *r, uint16_t *row)
{
    const struct gemm_conv *w = r->w;
    for (size_t plane = 0; plane < blocks_of(w->desc.in); plane++, row += w->band_plane)
        memset(row, 0, w->src_row * sizeof(*row));
}

static bool follows(const struct task *t, const struct task *before)
{
    return before->panels > 0 && before->n == t->n && before->y1 == t->y0;
}

/* Panels that go together. */
static int group_of(const struct gemm_conv *w)
{
    const size_t size = (size_t)w->steps * GEMM_STEP * sizeof(uint16_t);
    return size < GROUP_BYTES ? (int)(GROUP_BYTES / size) : 1;
}

/* Rows that this thread's task before, the band above, has left: they move to the top. */
static int keep_rows(const struct run *r, uint16_t *band, const struct task *t,
                     const struct task *before)
{
    const struct gemm_conv *w = r->w;
    const size_t row = w->src_row;
    size_t kept = (size_t)w->desc.kh - 1;
    if (!follows(t, before) || kept == 0)
        return 0;
    kept += before->ahead && has_row(r, t, w->desc.kh - 1);
    for (size_t plane = 0; plane < blocks_of(w->desc.in); plane++, band += w->band_plane)
        memmove(band, band + (size_t)(before->y1 - before->y0) * row, kept * row * sizeof(*band));
    return (int)kept;
}

/* The normalised pixels that a task's first row sees, and zeros around the picture. */
static void begin_band(const struct run *r, uint16_t *band, const struct task *t,
                       const struct task *before)
{
    const struct gemm_conv *w = r->w;
    const size_t edge = GEMM_BORDER * BLOCK, row = w->src_row;
    const int rows = w->ring ? w->ring : t->y1 - t->y0 - 1 + w->desc.kh + w->ahead;
    if (w->ring && before->ahead && follows(t, before))
        return;
    for (int i = w->ring ? 0 : keep_rows(r, band, t, before); i < rows; i++) {
        const bool there = has_row(r, t, i);
        uint16_t *to = band_row(r, band, t, i);
        if (!there)
            clear_row(r, to);
        for (size_t plane = 0; there && plane < blocks_of(w->desc.in); plane++) {
            memset(to + plane * w->band_plane, 0, edge * sizeof(*to));
            memset(to + plane * w->band_plane + row - edge, 0, edge * sizeof(*to));
        }
        if (there && i < w->desc.kh) {
            const struct gemm_feed f = feed_of(r, band, t, i, 1);
            normalise_row(r, &f);
        }
    }
}

/* The product of a band's row `y` normalises what the next row will see too. */
static void run_row(const struct run *r, const struct task *t, struct gemm_job job, uint16_t *band,
                    int y)
{
    const struct gemm_conv *w = r->w;
    const int next = y + w->desc.kh, steps = w->row_strips * job.panels * job.steps;
    struct gemm_feed f;
    if ((y + 1 < t->y1 - t->y0 || (w->ring && t->ahead)) && has_row(r, t, next)) {
        f = feed_of(r, band, t, next, steps);
        job.feed = &f;
    } else if (w->ring) {
        clear_row(r, band_row(r, band, t, next));
    }
    r->cpu->gemm->run(&job);
}

/* A band over a ring: the rows of A that a row's steps see lie where they did for another one. */
static void run_ring(const struct run *r, const struct task *t, struct gemm_job job, uint16_t *band)
{
    const struct gemm_conv *w = r->w;
    const size_t *offsets = job.offsets;
    struct gemm_out out = *job.out;
    const size_t row = w->desc.f32_out ? (size_t)w->out_w * (size_t)w->desc.out * sizeof(float)
                                       : w->dst_row * sizeof(uint16_t);
    job.out = &out;
    job.n_strips = w->row_strips;
    for (int y = 0; y < t->y1 - t->y0; y++) {
        job.offsets = offsets + (t->y0 + y) % w->ring * w->steps;
        run_row(r, t, job, band, y);
        out.dst = (char *)out.dst + row;
        if (out.residual)
            out.residual += w->dst_row;
        if (out.sums)
            out.sums += w->sums_row;
    }
}

/* A band's rows one by one, with the first panels. */
static void run_rows(const struct run *r, const struct task *t, struct gemm_job job, uint16_t *band)
{
    const struct gemm_conv *w = r->w;
    const int rows = t->y1 - t->y0;
    const uint16_t *next_b = job.next;
    const size_t part = job.next_size / (size_t)rows; /* of the next panels, with each row */
    job.n_strips = w->row_strips;
    job.next_size = part;
    for (int y = 0; y < rows; y++, job.strips += w->row_strips) {
        job.next = next_b ? next_b + (size_t)y * part : NULL;
        run_row(r, t, job, band, y);
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
static void run_phase(const struct run *r, const struct task *t, int phase, uint16_t *band)
{
    const struct gemm_conv *w = r->w;
    const struct phase *p = &w->phase[phase];
    const bool f32 = w->desc.f32_out;
    const int py = phase / 2, px = phase % 2, up = w->phases == 4 ? 2 : 1;
    const int row = t->y0 * up + py;
    const size_t y = (size_t)row, size = (size_t)w->steps * GEMM_STEP;
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
        .panel_size = size,
        .steps = w->steps,
        .keep = w->steps, /* taps share pixels */
    };
    if (r->raw) {
        job.a = band + (size_t)(GEMM_BORDER - w->desc.pad_w) * BLOCK;
        job.offsets = p->band_offsets;
    } else {
        job.a = (const uint16_t *)r->src->data + (size_t)t->n * w->src_picture + p->first +
                (size_t)(t->y0 * w->desc.stride) * w->src_row;
    }
    if (r->raw && w->ring) {
        job.panel = t->panel;
        job.panels = t->panels;
        job.b = p->data + (size_t)t->panel * size;
        run_ring(r, t, job, band);
        return;
    }
    const int group = group_of(w), rows = t->y1 - t->y0, below = rows - 1 + w->desc.kh;
    for (int done = 0; done < t->panels; done += group) {
        job.panel = t->panel + done;
        job.panels = t->panels - done < group ? t->panels - done : group;
        job.b = p->data + (size_t)job.panel * size;
        const int left = t->panels - done - job.panels;
        job.next = left > 0 ? job.b + (size_t)job.panels * size : NULL;
        job.next_size = (size_t)(left < group ? left : group) * size;
        struct gemm_feed f;
        job.feed = NULL;
        if (r->raw && t->ahead && left == 0 && has_row(r, t, below)) {
            f = feed_of(r, band, t, below, job.n_strips * job.panels * job.steps);
            job.feed = &f;
        }
        if (r->raw && done == 0)
            run_rows(r, t, job, band);
        else
            r->cpu->gemm->run(&job);
    }
}

static void run_task(const struct run *r, const struct task *t, const struct task *before)
{
    uint16_t *band = NULL;
    if (!r->w->desc.f32_out)
        clear_edges(r, t);
    if (r->raw) {
        band = (uint16_t *)((char *)cpu_scratch(r->cpu, CPU_SCRATCH_THREADS) +
                            (size_t)omp_get_thread_num() * r->buffer_bytes);
        begin_band(r, band, t, before);
    }
    for (int phase = 0; phase < r->w->phases; phase++)
        run_phase(r, t, phase, band);
}

static void run_tasks(const struct run *r)
{
    const struct gemm_conv *w = r->w;
    const int bands = (w->out_h + w->band - 1) / w->band;
    const int columns = (w->panels + w->task_panels - 1) / w->task_panels;
#pragma omp parallel num_threads(r->cpu->threads)
    {
        struct cpu_turn turn = cpu_turn_of(&r->cpu->tasks, r->dst->n * columns * bands);
        struct task before = {.panels = 0};
        while (cpu_next(&turn)) {
            const int i = turn.task;
            struct task t = {.n = i / (columns * bands),
                             .y0 = i % bands * w->band,
                             .panel = i / bands % columns * w->task_panels};
            t.y1 = t.y0 + w->band < w->out_h ? t.y0 + w->band : w->out_h;
            t.panels = w->panels - t.panel < w->task_panels ? w->panels - t.panel : w->task_panels;
            t.ahead = w->ahead && i + 1 < turn.end && t.y1 < w->out_h &&
                      (w->ring || t.panels > group_of(w));
            run_task(r, &t, &before);
            before = t;
        }
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
