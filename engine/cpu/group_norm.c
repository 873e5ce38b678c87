/* GroupNorm. Where pictures are our own convolutions' (cpu/gemm_conv.c), the sums come from the
 * convolution that wrote the picture, and normalising waits for the one that reads it: only the
 * scales are found here. Sums are taken over fixed pieces of a picture and added in order, so that
 * the result does not depend on how many threads share them. */
#include "cpu/images.h"
#include "common/error.h"

#include <math.h>
#include <string.h>

#define CHUNK 1024 /* pixels */

struct norm {
    const float *gamma, *beta;
    int channels, groups;
    float eps;
};

/* a and b of y = a x + b, from a picture's sums (2, stored) of each channel. */
static void scales_from(float *a, float *b, const double *sums, int stored, const struct norm *w,
                        size_t pixels)
{
    const int size = w->channels / w->groups;
    memset(a, 0, (size_t)stored * sizeof(*a)); /* padded channels stay zero */
    memset(b, 0, (size_t)stored * sizeof(*b));
    for (int g = 0; g < w->groups; g++) {
        double s = 0, q = 0;
        for (int c = g * size; c < (g + 1) * size; c++) {
            s += sums[c];
            q += sums[stored + c];
        }
        double count = (double)pixels * size, mean = s / count, var = q / count - mean * mean;
        double r = 1.0 / sqrt((var > 0 ? var : 0) + (double)w->eps);
        for (int c = g * size; c < (g + 1) * size; c++) {
            a[c] = (float)(r * (double)w->gamma[c]);
            b[c] = (float)((double)w->beta[c] - mean * r * (double)w->gamma[c]);
        }
    }
}

/* Rows [y0, y1) of a plane, as runs of pixels: rows without a border between them are one. */
#define EACH_RUN(l, r, y0, y1) for (int r = (y0); r < (y1); r += (l).border ? 1 : (y1) - (y0))

static size_t run_pixels(const struct layout *l, int y0, int y1)
{
    return (size_t)(l->border ? 1 : y1 - y0) * (size_t)l->w;
}

/* sums (2, stored) of sample n; parts (chunks, 2, stored) is work memory. */
static void sum_up(struct cpu_device *cpu, double *sums, double *parts, const struct layout *l,
                   const char *x, int rows, int chunks)
{
    const size_t size = l->bf16 ? 2 : 4, run = (size_t)l->run, stored = (size_t)l->planes * run;
#pragma omp parallel for schedule(static)
    for (int t = 0; t < chunks * l->planes; t++) {
        const int plane = t / chunks, k = t % chunks, y0 = k * rows;
        const int y1 = y0 + rows < l->h ? y0 + rows : l->h;
        double local[2 * IMAGE_RUN_MAX]; /* (2, run), as channel_sums wants it */
        double *part = parts + (size_t)k * 2 * stored + (size_t)plane * run;
        memset(local, 0, 2 * run * sizeof(double));
        EACH_RUN(*l, r, y0, y1)
        cpu->k->channel_sums(local, x + pixel_at(l, plane, r, 0) * size, l->bf16,
                             run_pixels(l, y0, y1), run, l->run);
        memcpy(part, local, run * sizeof(double));
        memcpy(part + stored, local + run, run * sizeof(double));
    }
    memset(sums, 0, 2 * stored * sizeof(*sums));
    for (int k = 0; k < chunks; k++)
        for (size_t i = 0; i < 2 * stored; i++)
            sums[i] += parts[(size_t)k * 2 * stored + i];
}

/* The same from what a convolution has left of each row. */
static void sum_up_rows(double *sums, const float *rows, size_t row, int h)
{
    memset(sums, 0, row * sizeof(*sums));
    for (int y = 0; y < h; y++)
        for (size_t i = 0; i < row; i++)
            sums[i] += (double)rows[(size_t)y * row + i];
}

/* y = a x + b, all of sample n. x and y may be the same. */
static void normalise(struct cpu_device *cpu, const struct layout *l, char *y, const char *x,
                      const float *a, const float *b, bool silu)
{
    const size_t size = l->bf16 ? 2 : 4, run = (size_t)l->run;
    const int rows = CHUNK / l->w > 0 ? CHUNK / l->w : 1, chunks = (l->h + rows - 1) / rows;
#pragma omp parallel for schedule(static)
    for (int t = 0; t < chunks * l->planes; t++) {
        const int plane = t / chunks, y0 = t % chunks * rows;
        const int y1 = y0 + rows < l->h ? y0 + rows : l->h;
        EACH_RUN(*l, r, y0, y1)
        {
            const size_t at = pixel_at(l, plane, r, 0) * size;
            cpu->k->scale_shift(y + at, x + at, l->bf16, a + (size_t)plane * run,
                                b + (size_t)plane * run, run_pixels(l, y0, y1), run, l->run, silu);
        }
    }
}

imf_status cpu_image_settle(struct cpu_device *cpu, const struct imf__image *img)
{
    struct imf__image *written = (struct imf__image *)img;
    const char *x = img->unnormed;
    if (!x || cpu->base.dry)
        return IMF_OK;
    written->unnormed = NULL;
    const struct layout l = layout_of(cpu, img);
    const struct norm_room room = norm_room_of(&l, img);
    const size_t sample = l.sample * (l.bf16 ? 2 : 4);
    cpu_image_clear_border(cpu, written);
    for (int n = 0; n < img->n; n++) {
        const float *a = room.scales + (size_t)n * room.row;
        normalise(cpu, &l, (char *)img->data + (size_t)n * sample, x + (size_t)n * sample, a,
                  a + room.row / 2, img->unnormed_silu);
    }
    return IMF_OK;
}

imf_status cpu_group_norm(struct imf__device *d, struct imf__image *dst,
                          const struct imf__image *src, const float *gamma, const float *beta,
                          int groups, float eps, bool silu)
{
    struct cpu_device *cpu = cpu_of(d);
    const struct layout l = layout_of(cpu, src);
    const struct norm w = {gamma, beta, src->c, groups, eps};
    const int stored = l.planes * l.run;
    if (groups < 1 || src->c % groups != 0 || l.run > IMAGE_RUN_MAX)
        return IMF_EUNSUPPORTED;
    IMF_TRY(cpu_image_settle(cpu, src));
    const bool later = l.border != 0, gathered = later && src->norm_strips == src->h;
    const int rows = CHUNK / l.w > 0 ? CHUNK / l.w : 1, chunks = (l.h + rows - 1) / rows;
    const size_t all = 2 * (size_t)stored, parts = (gathered ? 0 : (size_t)chunks) * all;
    IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_SUMS,
                                (all + parts) * sizeof(double) + all * sizeof(float)));
    image_written(dst);
    if (later) {
        dst->unnormed = src->data;
        dst->unnormed_silu = silu;
    }
    if (d->dry)
        return IMF_OK;
    double *sums = cpu_scratch(cpu, CPU_SCRATCH_SUMS);
    const struct norm_room room = norm_room_of(&l, src);
    for (int n = 0; n < src->n; n++) {
        const size_t at = (size_t)n * l.sample * (l.bf16 ? 2 : 4);
        float *a = (float *)(sums + all + parts);
        if (later)
            a = norm_room_of(&l, dst).scales + (size_t)n * all;
        if (gathered)
            sum_up_rows(sums, room.sums + (size_t)n * room.sample, all, l.h);
        else
            sum_up(cpu, sums, sums + all, &l, (const char *)src->data + at, rows, chunks);
        scales_from(a, a + stored, sums, stored, &w, (size_t)l.h * (size_t)l.w);
        if (!later)
            normalise(cpu, &l, (char *)dst->data + at, (const char *)src->data + at, a, a + stored,
                      silu);
    }
    return IMF_OK;
}
