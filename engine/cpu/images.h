/* How pictures lie in the CPU device's memory.
 *
 * All layouts are "planes of pixels with a run of channels each": NHWC is one plane whose run is
 * all C channels; nChw16c is C/16 planes with runs of 16, the last one padded with zeros; and our
 * own convolutions (cpu/gemm) want runs of 32 within a border of zeros. Behind the pixels of the
 * latter lies what a GroupNorm needs (struct norm_room). */
#ifndef IMF__CPU_IMAGES_H
#define IMF__CPU_IMAGES_H

#include "cpu/gemm_multiply.h"
#include "cpu/internal.h"

#define IMAGE_BLOCK 16     /* channels of nChw16c */
#define IMAGE_RUN_MAX 2048 /* channels of an NHWC pixel */
#define IMAGE_SLACK_PIXELS                                                                         \
    128 /* tiles of pixels may be read past a row's end, and the last one's */

struct layout {
    int planes, run; /* run: channels a pixel of a plane holds */
    int h, w, border;
    size_t row, plane; /* pixels, border included */
    size_t sample;     /* elements of one picture */
    bool bf16;
};

static inline struct layout layout_of(const struct cpu_device *cpu, const struct imf__image *img)
{
    const bool ours = cpu->gemm && !img->f32;
    struct layout l = {.h = img->h, .w = img->w, .border = ours ? GEMM_BORDER : 0};
    l.run = ours ? GEMM_PANEL : cpu->blocked ? IMAGE_BLOCK : img->c;
    l.planes = (img->c + l.run - 1) / l.run;
    l.row = (size_t)img->w + 2 * (size_t)l.border;
    l.plane = l.row * ((size_t)img->h + 2 * (size_t)l.border);
    l.sample = (size_t)l.planes * (size_t)l.run * l.plane;
    l.bf16 = cpu_bf16(cpu) && !img->f32;
    return l;
}

/* Pixel (y, x) of a plane, in elements from the picture's first. */
static inline size_t pixel_at(const struct layout *l, int plane, int y, int x)
{
    return ((size_t)plane * l->plane + (size_t)(y + l->border) * l->row + (size_t)(x + l->border)) *
           (size_t)l->run;
}

static inline size_t element(const struct layout *l, int n, int y, int x, int c)
{
    return (size_t)n * l->sample + pixel_at(l, c / l->run, y, x) + (size_t)(c % l->run);
}

/* Behind a picture's pixels: for each of its samples and rows what each channel's pixels add up to
 * and their squares, (n, h, 2, channels), as a convolution leaves it; and (n, 2, channels): what a
 * GroupNorm multiplies by and adds. */
struct norm_room {
    float *sums, *scales;
    size_t row, sample; /* of the sums, floats; the scales of a sample are a row */
};

static inline size_t image_pixel_bytes(const struct layout *l, int n)
{
    size_t slack = l->border ? (size_t)IMAGE_SLACK_PIXELS * (size_t)l->run : 0;
    return cpu_round_up(((size_t)n * l->sample + slack) * (l->bf16 ? 2 : 4), 64);
}

static inline size_t norm_room_bytes(const struct layout *l, int n)
{
    size_t row = 2 * (size_t)l->planes * (size_t)l->run;
    return l->border ? (size_t)n * row * ((size_t)l->h + 1) * sizeof(float) : 0;
}

static inline struct norm_room norm_room_of(const struct layout *l, const struct imf__image *img)
{
    struct norm_room r = {.row = 2 * (size_t)l->planes * (size_t)l->run};
    r.sample = r.row * (size_t)l->h;
    r.sums = (float *)((char *)img->data + image_pixel_bytes(l, img->n));
    r.scales = r.sums + r.sample * (size_t)img->n;
    return r;
}

/* What every operation says that writes pixels. */
static inline void image_written(struct imf__image *img)
{
    img->norm_groups = img->norm_strips = 0;
    img->unnormed = NULL;
}

/* A picture whose GroupNorm is still to come gets it now; every operation that cannot do it on the
 * way calls this before it reads one. */
imf_status cpu_image_settle(struct cpu_device *cpu, const struct imf__image *img);

#endif
