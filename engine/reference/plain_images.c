/* The plain device's operations on pictures, kept as (n, h, w, c) in act elements. */
#include "reference/plain.h"

#include <math.h>
#include <stdlib.h>

/* ---- Pixels ---- */

static size_t pixel(const struct imf__image *im, int n, int y, int x, int c)
{
    return (((size_t)n * (size_t)im->h + (size_t)y) * (size_t)im->w + (size_t)x) * (size_t)im->c +
           (size_t)c;
}

static enum imf__dtype type_of(const struct imf__image *im)
{
    return im->f32 ? IMF__F32 : IMF__ACT;
}

static float get(const struct imf__device *d, const struct imf__image *im, int n, int y, int x,
                 int c)
{
    return imf__plain_get(d, type_of(im), im->data, pixel(im, n, y, x, c));
}

static void set(const struct imf__device *d, struct imf__image *im, int n, int y, int x, int c,
                double v)
{
    imf__plain_set(d, type_of(im), im->data, pixel(im, n, y, x, c), v);
}

static size_t image_bytes(const struct imf__device *d, const struct imf__image *img)
{
    return (size_t)img->n * (size_t)img->h * (size_t)img->w * (size_t)img->c *
           (img->f32 ? sizeof(float) : d->act_size);
}

static imf_status image_from_latent(struct imf__device *d, struct imf__image *dst, const float *z,
                                    const float *scale, const float *shift, bool clamp3)
{
    if (d->dry)
        return IMF_OK;
    size_t i = 0;
    for (int n = 0; n < dst->n; n++)
        for (int c = 0; c < dst->c; c++)
            for (int y = 0; y < dst->h; y++)
                for (int x = 0; x < dst->w; x++) {
                    double v = (double)z[i++] * scale[c] + shift[c];
                    set(d, dst, n, y, x, c, clamp3 ? 3 * tanh(v / 3) : v);
                }
    return IMF_OK;
}

/* ---- Convolution ---- */

static void conv_free(struct imf__device *d, struct imf__conv *w)
{
    (void)d;
    if (!w)
        return;
    free(w->weight);
    free(w->bias);
    free(w);
}

static imf_status conv_load(struct imf__device *d, struct imf__conv **out,
                            const struct imf__conv_desc *desc, const float *weight,
                            const float *bias)
{
    struct imf__conv *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    w->desc = *desc;
    size_t count = (size_t)desc->out * (size_t)desc->in * (size_t)desc->kh * (size_t)desc->kw;
    w->weight = imf__plain_copy(d, weight, count, true);
    w->bias = bias ? imf__plain_copy(d, bias, (size_t)desc->out, false) : NULL;
    if (!w->weight || (bias && !w->bias)) {
        conv_free(d, w);
        return IMF_ENOMEM;
    }
    /* (out, in, kh, kw) to (out, kh, kw, in), the order in which the input is gathered. */
    int in = desc->in, taps = desc->kh * desc->kw;
    for (size_t i = 0; i < count; i++) {
        size_t o = i / (size_t)(in * taps), tap = i / (size_t)in % (size_t)taps, c = i % (size_t)in;
        float x = weight[(o * (size_t)in + c) * (size_t)taps + tap];
        w->weight[i] = (float)imf__plain_act(d, x);
    }
    *out = w;
    return IMF_OK;
}

/* The input values under the kernel at one place, (kh, kw, in); padding is zero. */
static void gather(const struct imf__device *d, float *patch, const struct imf__image *src,
                   const struct imf__conv_desc *k, int n, int oy, int ox)
{
    int up = k->upsample2x ? 2 : 1;
    for (int i = 0; i < k->kh * k->kw * k->in; i++) {
        int ky = i / k->in / k->kw, kx = i / k->in % k->kw;
        int y = oy * k->stride + ky - k->pad_h, x = ox * k->stride + kx - k->pad_w;
        bool inside = y >= 0 && x >= 0 && y < src->h * up && x < src->w * up;
        patch[i] = inside ? get(d, src, n, y / up, x / up, i % k->in) : 0;
    }
}

static imf_status conv2d(struct imf__device *d, struct imf__image *dst,
                         const struct imf__image *src, const struct imf__conv *w,
                         const struct imf__image *residual)
{
    const struct imf__conv_desc *k = &w->desc;
    int up = k->upsample2x ? 2 : 1;
    if (src->c != k->in || dst->c != k->out || src->h != k->in_h || src->w != k->in_w ||
        dst->n != src->n || k->residual != (residual != NULL) || k->f32_out != dst->f32 ||
        dst->h != (src->h * up + 2 * k->pad_h - k->kh) / k->stride + 1 ||
        dst->w != (src->w * up + 2 * k->pad_w - k->kw) / k->stride + 1)
        return IMF_EINVAL;
    if (d->dry)
        return IMF_OK;
    int count = k->kh * k->kw * k->in;
    float *patch = malloc((size_t)count * sizeof(*patch));
    if (!patch)
        return IMF_ENOMEM;
    for (int n = 0; n < dst->n; n++)
        for (int y = 0; y < dst->h; y++)
            for (int x = 0; x < dst->w; x++) {
                gather(d, patch, src, k, n, y, x);
                for (int o = 0; o < dst->c; o++) {
                    double v = w->bias ? w->bias[o] : 0;
                    for (int i = 0; i < count; i++)
                        v += (double)patch[i] * w->weight[(size_t)o * (size_t)count + (size_t)i];
                    if (residual)
                        v += get(d, residual, n, y, x, o);
                    set(d, dst, n, y, x, o, k->relu && v < 0 ? 0 : v);
                }
            }
    free(patch);
    return IMF_OK;
}

/* ---- Normalisation and pooling ---- */

static imf_status group_norm(struct imf__device *d, struct imf__image *dst,
                             const struct imf__image *src, const float *gamma, const float *beta,
                             int groups, float eps, bool silu)
{
    if (groups < 1 || src->c % groups)
        return IMF_EINVAL;
    if (d->dry)
        return IMF_OK;
    int width = src->c / groups;
    double count = (double)src->h * src->w * width;
    for (int n = 0; n < src->n; n++) {
        for (int g = 0; g < groups; g++) {
            double sum = 0, squares = 0;
            for (int i = 0; i < src->h * src->w * width; i++)
                sum +=
                    get(d, src, n, i / width / src->w, i / width % src->w, g * width + i % width);
            double mean = sum / count;
            for (int i = 0; i < src->h * src->w * width; i++) {
                double v =
                    get(d, src, n, i / width / src->w, i / width % src->w, g * width + i % width);
                squares += (v - mean) * (v - mean);
            }
            double scale = 1 / sqrt(squares / count + eps);
            for (int i = 0; i < src->h * src->w * width; i++) {
                int y = i / width / src->w, x = i / width % src->w, c = g * width + i % width;
                double v = (get(d, src, n, y, x, c) - mean) * scale * gamma[c] + beta[c];
                set(d, dst, n, y, x, c, silu ? v / (1 + exp(-v)) : v);
            }
        }
    }
    return IMF_OK;
}

static double pool(const struct imf__device *d, const struct imf__image *src, enum imf__pool kind,
                   int n, int y0, int x0, int c, int k)
{
    double best = -INFINITY, sum = 0;
    int count = 0;
    for (int y = y0; y < y0 + k; y++) {
        for (int x = x0; x < x0 + k; x++) {
            if (y < 0 || x < 0 || y >= src->h || x >= src->w)
                continue;
            double v = get(d, src, n, y, x, c);
            best = v > best ? v : best;
            sum += v;
            count++;
        }
    }
    return kind == IMF__POOL_MAX ? best : sum / count;
}

static imf_status pool2d(struct imf__device *d, struct imf__image *dst,
                         const struct imf__image *src, enum imf__pool kind, int k, int stride,
                         int pad)
{
    if (dst->n != src->n || dst->c != src->c || dst->h != (src->h + 2 * pad - k) / stride + 1 ||
        dst->w != (src->w + 2 * pad - k) / stride + 1)
        return IMF_EINVAL;
    if (d->dry)
        return IMF_OK;
    for (int n = 0; n < dst->n; n++)
        for (int y = 0; y < dst->h; y++)
            for (int x = 0; x < dst->w; x++)
                for (int c = 0; c < dst->c; c++)
                    set(d, dst, n, y, x, c,
                        pool(d, src, kind, n, y * stride - pad, x * stride - pad, c, k));
    return IMF_OK;
}

static imf_status concat(struct imf__device *d, struct imf__image *dst,
                         const struct imf__image *src, int c0)
{
    if (c0 < 0 || c0 + src->c > dst->c || dst->n != src->n || dst->h != src->h || dst->w != src->w)
        return IMF_EINVAL;
    if (d->dry)
        return IMF_OK;
    for (int n = 0; n < src->n; n++)
        for (int y = 0; y < src->h; y++)
            for (int x = 0; x < src->w; x++)
                for (int c = 0; c < src->c; c++)
                    set(d, dst, n, y, x, c0 + c, get(d, src, n, y, x, c));
    return IMF_OK;
}

static imf_status global_mean(struct imf__device *d, float *dst, const struct imf__image *src)
{
    for (int n = 0; !d->dry && n < src->n; n++)
        for (int c = 0; c < src->c; c++) {
            double sum = 0;
            for (int i = 0; i < src->h * src->w; i++)
                sum += get(d, src, n, i / src->w, i % src->w, c);
            dst[(size_t)n * (size_t)src->c + (size_t)c] = (float)(sum / (src->h * src->w));
        }
    return IMF_OK;
}

/* ---- In and out ---- */

static size_t count_of(const struct imf__image *im)
{
    return (size_t)im->n * (size_t)im->h * (size_t)im->w * (size_t)im->c;
}

static imf_status image_to_tokens(struct imf__device *d, float *dst, const struct imf__image *src)
{
    for (size_t i = 0; !d->dry && i < count_of(src); i++)
        dst[i] = imf__plain_get(d, type_of(src), src->data, i);
    return IMF_OK;
}

static imf_status tokens_to_image(struct imf__device *d, struct imf__image *dst, const float *src,
                                  bool add)
{
    for (size_t i = 0; !d->dry && i < count_of(dst); i++)
        imf__plain_set(d, type_of(dst), dst->data, i,
                       (double)src[i] + (add ? imf__plain_get(d, type_of(dst), dst->data, i) : 0));
    return IMF_OK;
}

static imf_status attention_picture(struct imf__device *d, struct imf__image *dst,
                                    const struct imf__image *qkv)
{
    const int C = dst->c, w = dst->w, T = dst->h * w;
    if (d->dry)
        return IMF_OK;
    double *p = malloc((size_t)T * sizeof(*p));
    if (!p)
        return IMF_ENOMEM;
    for (int i = 0; i < dst->n * T; i++) {
        const int n = i / T, y = i % T / w, x = i % w;
        double most = -INFINITY, sum = 0;
        for (int s = 0; s < T; s++) {
            p[s] = 0;
            for (int c = 0; c < C; c++)
                p[s] += (double)get(d, qkv, n, y, x, c) * get(d, qkv, n, s / w, s % w, C + c);
            most = fmax(most, p[s]);
        }
        for (int s = 0; s < T; s++)
            sum += p[s] = exp(p[s] - most);
        for (int c = 0; c < C; c++) {
            double value = 0;
            for (int s = 0; s < T; s++)
                value += p[s] * get(d, qkv, n, s / w, s % w, 2 * C + c);
            set(d, dst, n, y, x, c, value / sum);
        }
    }
    free(p);
    return IMF_OK;
}

static imf_status resize_rgb8(struct imf__device *d, struct imf__image *dst, const uint8_t *rgb,
                              int n, int H, int W)
{
    if (dst->c != 3 || dst->n != n)
        return IMF_EINVAL;
    for (int i = 0; !d->dry && i < n * dst->h * dst->w; i++) {
        int b = i / (dst->h * dst->w), oy = i / dst->w % dst->h, ox = i % dst->w;
        double fy = (double)oy * H / dst->h, fx = (double)ox * W / dst->w;
        int y0 = (int)fy, x0 = (int)fx;
        int y1 = y0 + 1 < H ? y0 + 1 : y0, x1 = x0 + 1 < W ? x0 + 1 : x0;
        const uint8_t *from = rgb + (size_t)b * (size_t)H * (size_t)W * 3;
        for (int c = 0; c < 3; c++) {
            double top = from[(y0 * W + x0) * 3 + c] * (1 - (fx - x0)) +
                         from[(y0 * W + x1) * 3 + c] * (fx - x0);
            double bottom = from[(y1 * W + x0) * 3 + c] * (1 - (fx - x0)) +
                            from[(y1 * W + x1) * 3 + c] * (fx - x0);
            double v = top * (1 - (fy - y0)) + bottom * (fy - y0);
            set(d, dst, b, oy, ox, c, (v - 128) / 128);
        }
    }
    return IMF_OK;
}

static imf_status to_rgb8(struct imf__device *d, uint8_t *rgb, const struct imf__image *src,
                          float scale, float shift)
{
    if (src->c != 3)
        return IMF_EINVAL;
    for (size_t i = 0; !d->dry && i < count_of(src); i++) {
        double v = (double)imf__plain_get(d, type_of(src), src->data, i) * scale + shift;
        rgb[i] = (uint8_t)rint(v < 0 ? 0 : v > 255 ? 255 : v); /* ties to even */
    }
    return IMF_OK;
}

void imf__plain_fill_images(struct imf__device_ops *ops)
{
    ops->conv_load = conv_load;
    ops->conv_free = conv_free;
    ops->image_bytes = image_bytes;
    ops->image_from_latent = image_from_latent;
    ops->conv2d = conv2d;
    ops->group_norm = group_norm;
    ops->pool2d = pool2d;
    ops->concat = concat;
    ops->image_to_tokens = image_to_tokens;
    ops->attention_picture = attention_picture;
    ops->tokens_to_image = tokens_to_image;
    ops->global_mean = global_mean;
    ops->resize_rgb8 = resize_rgb8;
    ops->to_rgb8 = to_rgb8;
}
