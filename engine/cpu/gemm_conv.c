/* Loading a convolution for our own products (gemm_conv.h). A convolution behind a
 * nearest x2 upsampling runs as four 2x2 convolutions of the small picture, one for each parity of
 * the output pixel, with the 3x3 kernel's taps that meet the same pixel summed. */
#include "cpu/gemm_conv.h"
#include "common/error.h"

#include <stdlib.h>
#include <string.h>

#define BAND_BYTES (832 << 10) /* of a band's pixels, as they are read */
#define BAND_ROWS 8
#define RING_BYTES (640 << 10) /* of B that is read again with each row of output */

static int ceil_div(int n, int by)
{
    return (n + by - 1) / by;
}

void imf__gemm_conv_free(struct gemm_conv *w)
{
    if (!w)
        return;
    for (int i = 0; i < w->phases; i++) {
        cpu_weights_free(w->phase[i].data);
        free(w->phase[i].offsets);
    }
    free(w->strips);
    free(w->bias);
    free(w);
}

/* Taps of the kernel that a phase has, and how many zeros its first window sees. */
struct window {
    int kh, kw, pad_h, pad_w;
};

static struct window window_of(const struct gemm_conv *w, int phase)
{
    const struct imf__conv_desc *d = &w->desc;
    if (w->phases == 4)
        return (struct window){2, 2, 1 - phase / 2, 1 - phase % 2};
    return (struct window){d->kh, d->kw, d->pad_h, d->pad_w};
}

/* The 2x2 kernel of output parity (py, px): rows of the 3x3 kernel that meet the same input row are
 * added. Parity 0 sees rows {0}, {1, 2}; parity 1 sees {0, 1}, {2}. */
static void fold_upsample(float *dst /* (2, 2) */, const float *src /* (3, 3) */, int py, int px)
{
    memset(dst, 0, 4 * sizeof(float));
    for (int y = 0; y < 3; y++) {
        for (int x = 0; x < 3; x++)
            dst[(y + 1 - py) / 2 * 2 + (x + 1 - px) / 2] += src[y * 3 + x];
    }
}

/* row (blocks, taps, 32): the weights of one output channel in the order of the steps. All taps of a
 * block follow each other: they see the same pixels, which stay in the first-level cache. */
static void gather(const struct gemm_conv *w, float *row, const float *weight, int phase, int taps)
{
    const struct imf__conv_desc *d = &w->desc;
    const size_t width = blocks_of(d->in) * BLOCK, all = (size_t)d->kh * (size_t)d->kw;
    memset(row, 0, (size_t)taps * width * sizeof(*row));
    for (size_t i = 0; i < (size_t)d->in; i++) {
        float folded[4];
        const float *from = weight + i * all;
        if (w->phases == 4) {
            fold_upsample(folded, from, phase / 2, phase % 2);
            from = folded;
        }
        for (int t = 0; t < taps; t++)
            row[(i / BLOCK * (size_t)taps + (size_t)t) * BLOCK + i % BLOCK] = from[t];
    }
}

static imf_status pack_phase(struct cpu_device *cpu, struct gemm_conv *w, int index,
                             const float *weight)
{
    struct phase *p = &w->phase[index];
    const struct window win = window_of(w, index);
    const int taps = win.kh * win.kw, K = w->steps * BLOCK;
    const size_t in = (size_t)w->desc.in * (size_t)w->desc.kh * (size_t)w->desc.kw;
    const size_t size = gemm_packed(1, K), bytes = size * (size_t)w->panels * sizeof(*p->data);
    p->data = cpu_weights_alloc(bytes);
    const int firsts = w->ring ? w->ring : 1;
    p->offsets = calloc((size_t)w->steps * (size_t)(1 + firsts), sizeof(*p->offsets));
    p->band_offsets = p->offsets + w->steps;
    float *rows = malloc((size_t)GEMM_PANEL * (size_t)K * sizeof(*rows));
    if (!p->data || !p->offsets || !rows) {
        free(rows);
        return IMF_ENOMEM;
    }
    for (int panel = 0; panel < w->panels; panel++) {
        const float *from[GEMM_PANEL];
        for (int c = 0; c < GEMM_PANEL; c++) {
            int o = panel * GEMM_PANEL + c;
            from[c] = o < w->desc.out ? rows + (size_t)c * (size_t)K : NULL;
            if (from[c])
                gather(w, rows + (size_t)c * (size_t)K, weight + (size_t)o * in, index, taps);
        }
        imf__gemm_pack_b(p->data + (size_t)panel * size, from, K);
    }
    free(rows);
    for (int step = 0; step < w->steps; step++) {
        const size_t block = (size_t)(step / taps), x = (size_t)(step % taps % win.kw) * BLOCK;
        const int y = step % taps / win.kw;
        p->offsets[step] = block * w->src_plane + (size_t)y * w->src_row + x;
        for (int first = 0; first < firsts; first++) {
            const int row = w->ring ? (first + y) % w->ring : y;
            p->band_offsets[first * w->steps + step] =
                block * w->band_plane + (size_t)row * w->src_row + x;
        }
    }
    p->first =
        (size_t)(GEMM_BORDER - win.pad_h) * w->src_row + (size_t)(GEMM_BORDER - win.pad_w) * BLOCK;
    cpu->base.weights_bytes += bytes;
    return IMF_OK;
}

/* Runs of up to 32 output pixels of one row, for the rows of a band. */
static imf_status lay_strips(struct gemm_conv *w)
{
    const int per_row = (w->out_w + GEMM_PANEL - 1) / GEMM_PANEL, step = w->phases == 4 ? 2 : 1;
    const size_t stride = (size_t)w->desc.stride, out = (size_t)w->desc.out;
    w->row_strips = per_row;
    w->strips = calloc((size_t)per_row * (size_t)w->band, sizeof(*w->strips));
    if (!w->strips)
        return IMF_ENOMEM;
    struct gemm_strip *s = w->strips;
    for (int y = 0; y < w->band; y++) {
        for (int x = 0; x < w->out_w; x += GEMM_PANEL, s++) {
            s->a = (size_t)y * stride * w->src_row + (size_t)x * stride * BLOCK;
            s->rows = w->out_w - x < GEMM_PANEL ? w->out_w - x : GEMM_PANEL;
            s->sums = (size_t)(y * step) * w->sums_row;
            s->goes_on = x > 0;
            if (w->desc.f32_out)
                s->dst = ((size_t)y * (size_t)w->out_w + (size_t)x) * out;
            else
                s->dst = (size_t)(y * step) * w->dst_row + (size_t)(x * step) * BLOCK;
        }
    }
    return IMF_OK;
}

/* Rows of a band, and panels of columns that go with them in one task: as many rows as leave room in
 * the second-level cache for the normalised pixels below them, fewer where threads would have
 * nothing to do. */
static void lay_bands(const struct cpu_device *cpu, struct gemm_conv *w)
{
    const struct imf__conv_desc *d = &w->desc;
    const size_t row = w->src_row * blocks_of(d->in) * sizeof(uint16_t);
    const int rows = (int)(BAND_BYTES / row);
    w->band = (rows - d->kh) / d->stride + 1;
    w->band = w->band < 1 ? 1 : w->band > BAND_ROWS ? BAND_ROWS : w->band;
    w->band = w->band > w->out_h ? w->out_h : w->band;
    w->task_panels = w->panels;
    while (cpu->threads > 1 &&
           ceil_div(w->out_h, w->band) * ceil_div(w->panels, w->task_panels) < 2 * cpu->threads) {
        if (w->band > BAND_ROWS / 2 || (w->band > 1 && w->task_panels <= 2))
            w->band = ceil_div(w->band, 2);
        else if (w->task_panels > 1)
            w->task_panels = ceil_div(w->task_panels, 2);
        else
            break;
    }
    w->ahead = w->phases == 1 && d->stride == 1 && d->kh > 1;
    if (w->ahead &&
        gemm_packed((size_t)w->panels, w->steps * BLOCK) * sizeof(uint16_t) <= RING_BYTES)
        w->ring = d->kh + 1;
    w->band_rows = w->ring ? w->ring : (w->band - 1) * d->stride + d->kh;
    if (!w->ring) {
        w->ahead = w->ahead && w->band_rows < rows; /* where there is room */
        w->band_rows += w->ahead;
    }
    w->band_plane = w->src_row * (size_t)w->band_rows;
}

static void size_up(struct gemm_conv *w)
{
    const struct imf__conv_desc *d = &w->desc;
    const int up = d->upsample2x ? 2 : 1;
    w->phases = up * up;
    w->out_h = d->upsample2x ? d->in_h : (d->in_h + 2 * d->pad_h - d->kh) / d->stride + 1;
    w->out_w = d->upsample2x ? d->in_w : (d->in_w + 2 * d->pad_w - d->kw) / d->stride + 1;
    const int taps = d->upsample2x ? 4 : d->kh * d->kw;
    w->steps = taps * (int)blocks_of(d->in);
    w->panels = (int)blocks_of(d->out);
    w->src_row = (size_t)(d->in_w + 2 * GEMM_BORDER) * BLOCK;
    w->src_plane = w->src_row * (size_t)(d->in_h + 2 * GEMM_BORDER);
    w->src_picture = w->src_plane * blocks_of(d->in);
    w->dst_row = (size_t)(w->out_w * up + 2 * GEMM_BORDER) * BLOCK;
    w->dst_plane = w->dst_row * (size_t)(w->out_h * up + 2 * GEMM_BORDER);
    w->dst_picture = w->dst_plane * blocks_of(d->out);
    w->sums_row = 2 * blocks_of(d->out) * BLOCK;
    if (d->f32_out)
        w->dst_picture = (size_t)w->out_h * (size_t)w->out_w * (size_t)d->out;
}

imf_status imf__gemm_conv_load(struct cpu_device *cpu, struct gemm_conv **out,
                               const struct imf__conv_desc *desc, const float *weight,
                               const float *bias)
{
    if (desc->pad_h > GEMM_BORDER || desc->pad_w > GEMM_BORDER || desc->stride > 2)
        return IMF_EUNSUPPORTED;
    struct gemm_conv *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    w->desc = *desc;
    size_up(w);
    lay_bands(cpu, w);
    imf_status status = lay_strips(w);
    const size_t bias_bytes = (size_t)w->panels * GEMM_PANEL * sizeof(float);
    w->bias = cpu_memory_alloc(bias_bytes);
    if (!w->bias)
        status = IMF_ENOMEM;
    else if (bias)
        memcpy(w->bias, bias, (size_t)desc->out * sizeof(float));
    cpu->base.weights_bytes += bias_bytes;
    for (int i = 0; i < w->phases && status == IMF_OK; i++)
        status = pack_phase(cpu, w, i, weight);
    if (status != IMF_OK) {
        imf__gemm_conv_free(w);
        return status;
    }
    *out = w;
    return IMF_OK;
}
