/* Picture operations of the CPU device that are neither convolutions nor norms. */
#include "cpu/images.h"
#include "common/bfloat16.h"
#include "common/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void cpu_image_clear_border(const struct cpu_device *cpu, struct imf__image *img)
{
    const struct layout l = layout_of(cpu, img);
    const size_t size = l.bf16 ? 2 : 4, pixel = (size_t)l.run * size;
    const size_t edge = (size_t)l.border * pixel, whole = (size_t)l.border * l.row * pixel;
    if (!l.border)
        return;
    for (int p = 0; p < img->n * l.planes; p++) {
        char *plane = (char *)img->data + (size_t)p * l.plane * pixel;
        memset(plane, 0, whole);
        memset(plane + l.plane * pixel - whole, 0, whole);
        for (size_t y = (size_t)l.border; y < (size_t)l.border + (size_t)l.h; y++) {
            memset(plane + y * l.row * pixel, 0, edge);
            memset(plane + (y + 1) * l.row * pixel - edge, 0, edge);
        }
    }
}

static inline float load1(const void *data, size_t i, bool bf16)
{
    return bf16 ? imf__from_bf16(((const uint16_t *)data)[i]) : ((const float *)data)[i];
}

static inline void store1(void *data, size_t i, float x, bool bf16)
{
    if (bf16)
        ((uint16_t *)data)[i] = imf__to_bf16(x);
    else
        ((float *)data)[i] = x;
}

size_t cpu_image_bytes(const struct imf__device *d, const struct imf__image *img)
{
    const struct layout l = layout_of(cpu_of((struct imf__device *)d), img);
    return image_pixel_bytes(&l, img->n) + norm_room_bytes(&l, img->n);
}

imf_status cpu_image_from_latent(struct imf__device *d, struct imf__image *dst, const float *z,
                                 const float *scale, const float *shift, bool clamp3)
{
    struct layout l = layout_of(cpu_of(d), dst);
    image_written(dst);
    if (d->dry)
        return IMF_OK;
    memset(dst->data, 0, cpu_image_bytes(d, dst)); /* padded channels */
    for (int n = 0; n < dst->n; n++) {
        for (int c = 0; c < dst->c; c++) {
            for (int p = 0; p < dst->h * dst->w; p++) {
                float x = *z++ * scale[c] + shift[c];
                store1(dst->data, element(&l, n, p / dst->w, p % dst->w, c),
                       clamp3 ? 3.0f * tanhf(x / 3.0f) : x, l.bf16);
            }
        }
    }
    return IMF_OK;
}

/* ---- InceptionV3's small operations ---- */

imf_status cpu_pool2d(struct imf__device *d, struct imf__image *dst, const struct imf__image *src,
                      enum imf__pool kind, int k, int stride, int pad)
{
    struct cpu_device *cpu = cpu_of(d);
    struct layout from = layout_of(cpu, src), to = layout_of(cpu, dst);
    if (from.run > IMAGE_RUN_MAX)
        return IMF_EUNSUPPORTED;
    IMF_TRY(cpu_image_settle(cpu, src));
    image_written(dst);
    if (d->dry)
        return IMF_OK;
    cpu_image_clear_border(cpu, dst);
#pragma omp parallel for collapse(3) schedule(static)
    for (int n = 0; n < dst->n; n++) {
        for (int plane = 0; plane < from.planes; plane++) {
            for (int y = 0; y < dst->h; y++) {
                int y0 = y * stride - pad, y1 = y0 + k < src->h ? y0 + k : src->h;
                float acc[IMAGE_RUN_MAX];
                for (int x = 0; x < dst->w; x++) {
                    int x0 = x * stride - pad, x1 = x0 + k < src->w ? x0 + k : src->w, count = 0;
                    for (int c = 0; c < from.run; c++)
                        acc[c] = kind == IMF__POOL_MAX ? -INFINITY : 0.0f;
                    for (int yy = y0 > 0 ? y0 : 0; yy < y1; yy++) {
                        for (int xx = x0 > 0 ? x0 : 0; xx < x1; xx++, count++) {
                            size_t i = element(&from, n, yy, xx, plane * from.run);
                            for (int c = 0; c < from.run; c++) {
                                float v = load1(src->data, i + (size_t)c, from.bf16);
                                acc[c] = kind == IMF__POOL_AVG ? acc[c] + v
                                         : v > acc[c]          ? v
                                                               : acc[c];
                            }
                        }
                    }
                    float f = kind == IMF__POOL_AVG ? 1.0f / (float)count : 1.0f;
                    size_t i = element(&to, n, y, x, plane * to.run);
                    for (int c = 0; c < to.run; c++)
                        store1(dst->data, i + (size_t)c, acc[c] * f, to.bf16);
                }
            }
        }
    }
    return IMF_OK;
}

imf_status cpu_concat(struct imf__device *d, struct imf__image *dst, const struct imf__image *src,
                      int c0)
{
    struct cpu_device *cpu = cpu_of(d);
    struct layout from = layout_of(cpu, src), to = layout_of(cpu, dst);
    IMF_TRY(cpu_image_settle(cpu, src));
    image_written(dst);
    if (d->dry)
        return IMF_OK;
    const size_t size = from.bf16 ? 2 : 4;
    const bool blocks = to.planes > 1 || to.run != dst->c;
    /* Whole planes and whole pixels move as one; blocks that are shifted against each other do not.
     */
    const bool whole = blocks && c0 % to.run == 0 && src->c % from.run == 0;
    const int run = blocks ? 1 : src->c;
    if (c0 == 0 && to.border) {
        cpu_image_clear_border(cpu, dst);
        if (dst->c % to.run)
            memset(dst->data, 0, cpu_image_bytes(d, dst)); /* padded channels */
    }
    for (int n = 0; n < dst->n; n++) {
        const char *x = (const char *)src->data;
        char *y = (char *)dst->data;
        if (whole) {
            memcpy(y + ((size_t)n * to.sample + (size_t)(c0 / to.run) * to.plane * (size_t)to.run) *
                           size,
                   x + (size_t)n * from.sample * size, from.sample * size);
            continue;
        }
        for (int p = 0; p < src->h * src->w; p++) {
            for (int c = 0; c < src->c; c += run)
                memcpy(y + element(&to, n, p / src->w, p % src->w, c0 + c) * size,
                       x + element(&from, n, p / src->w, p % src->w, c) * size, (size_t)run * size);
        }
    }
    return IMF_OK;
}

imf_status cpu_image_to_tokens(struct imf__device *d, float *dst, const struct imf__image *src)
{
    struct layout l = layout_of(cpu_of(d), src);
    IMF_TRY(cpu_image_settle(cpu_of(d), src));
    if (d->dry)
        return IMF_OK;
#pragma omp parallel for schedule(static)
    for (int i = 0; i < src->n * src->h; i++) {
        float *to = dst + (size_t)i * (size_t)src->w * (size_t)src->c;
        for (int x = 0; x < src->w; x++, to += src->c) {
            for (int c = 0; c < src->c; c += l.run) {
                size_t from = element(&l, i / src->h, i % src->h, x, c);
                for (int k = 0; k < l.run && c + k < src->c; k++)
                    to[c + k] = load1(src->data, from + (size_t)k, l.bf16);
            }
        }
    }
    return IMF_OK;
}

imf_status cpu_tokens_to_image(struct imf__device *d, struct imf__image *dst, const float *src,
                               bool add)
{
    struct layout l = layout_of(cpu_of(d), dst);
    IMF_TRY(cpu_image_settle(cpu_of(d), dst));
    image_written(dst);
    if (d->dry)
        return IMF_OK;
    if (!add)
        memset(dst->data, 0, cpu_image_bytes(d, dst)); /* padded channels */
#pragma omp parallel for schedule(static)
    for (int i = 0; i < dst->n * dst->h; i++) {
        const float *from = src + (size_t)i * (size_t)dst->w * (size_t)dst->c;
        for (int x = 0; x < dst->w; x++, from += dst->c) {
            for (int c = 0; c < dst->c; c += l.run) {
                size_t at = element(&l, i / dst->h, i % dst->h, x, c);
                for (int k = 0; k < l.run && c + k < dst->c; k++) {
                    float y = add ? load1(dst->data, at + (size_t)k, l.bf16) : 0.0f;
                    store1(dst->data, at + (size_t)k, from[c + k] + y, l.bf16);
                }
            }
        }
    }
    return IMF_OK;
}

imf_status cpu_global_mean(struct imf__device *d, float *dst, const struct imf__image *src)
{
    struct layout l = layout_of(cpu_of(d), src);
    IMF_TRY(cpu_image_settle(cpu_of(d), src));
    if (d->dry)
        return IMF_OK;
    for (int n = 0; n < src->n; n++) {
        for (int c = 0; c < src->c; c++) {
            float sum = 0;
            for (int p = 0; p < src->h * src->w; p++)
                sum += load1(src->data, element(&l, n, p / src->w, p % src->w, c), l.bf16);
            dst[(size_t)n * (size_t)src->c + (size_t)c] = sum / (float)(src->h * src->w);
        }
    }
    return IMF_OK;
}

imf_status cpu_resize_rgb8(struct imf__device *d, struct imf__image *dst, const uint8_t *rgb, int n,
                           int H, int W)
{
    struct layout l = layout_of(cpu_of(d), dst);
    image_written(dst);
    if (d->dry)
        return IMF_OK;
    memset(dst->data, 0, cpu_image_bytes(d, dst));
    float sy = (float)H / (float)dst->h, sx = (float)W / (float)dst->w;
#pragma omp parallel for collapse(2) schedule(static)
    for (int i = 0; i < n; i++) {
        for (int y = 0; y < dst->h; y++) {
            float fy = (float)y * sy;
            int y0 = (int)fy, y1 = y0 + 1 < H ? y0 + 1 : H - 1;
            fy -= (float)y0;
            const uint8_t *picture = rgb + (size_t)i * (size_t)H * (size_t)W * 3;
            const uint8_t *top = picture + (size_t)y0 * (size_t)W * 3;
            const uint8_t *bottom = picture + (size_t)y1 * (size_t)W * 3;
            for (int x = 0; x < dst->w; x++) {
                float fx = (float)x * sx;
                int x0 = (int)fx, x1 = x0 + 1 < W ? x0 + 1 : W - 1;
                fx -= (float)x0;
                for (int c = 0; c < 3; c++) {
                    float a = (float)top[x0 * 3 + c], b = (float)top[x1 * 3 + c];
                    float e = (float)bottom[x0 * 3 + c], f = (float)bottom[x1 * 3 + c];
                    float upper = a + (b - a) * fx, lower = e + (f - e) * fx;
                    float v = upper + (lower - upper) * fy;
                    store1(dst->data, element(&l, i, y, x, c), (v - 128.0f) / 128.0f, l.bf16);
                }
            }
        }
    }
    return IMF_OK;
}

imf_status cpu_to_rgb8(struct imf__device *d, uint8_t *rgb, const struct imf__image *src,
                       float scale, float shift)
{
    struct cpu_device *cpu = cpu_of(d);
    struct layout l = layout_of(cpu, src);
    if (src->c != 3)
        return IMF_EINVAL;
    IMF_TRY(cpu_image_settle(cpu, src));
    if (d->dry)
        return IMF_OK;
    if (!l.bf16 && l.planes == 1 && l.run == 3) { /* as the picture will lie */
        const size_t row = (size_t)src->w * 3;
#pragma omp parallel for schedule(static)
        for (int y = 0; y < src->n * src->h; y++)
            cpu->k->to_rgb8(rgb + (size_t)y * row, (const float *)src->data + (size_t)y * row, row,
                            scale, shift);
        return IMF_OK;
    }
    for (int n = 0; n < src->n; n++) {
#pragma omp parallel for schedule(static)
        for (int p = 0; p < src->h * src->w; p++) {
            uint8_t *out = rgb + ((size_t)n * (size_t)(src->h * src->w) + (size_t)p) * 3;
            for (int c = 0; c < 3; c++) {
                size_t at = element(&l, n, p / src->w, p % src->w, c);
                float v = load1(src->data, at, l.bf16) * scale + shift;
                v = v > 0.0f ? v : 0.0f; /* a NaN becomes black */
                out[c] = (uint8_t)lrintf(v < 255.0f ? v : 255.0f);
            }
        }
    }
    return IMF_OK;
}
