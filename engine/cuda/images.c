/* Picture operations of the CUDA device: NHWC with channels padded to a multiple of 8 by zeros, in
 * the running precision, or float32 where an image says so (the last convolution's result). */
#include "cuda/internal.h"

#include <stdlib.h>

struct imf__conv {
    struct imf__conv_desc desc;
    enum k_conv_path path;
    struct k_conv shape; /* n is set per call */
    int norm_strips;     /* of the statistics that it leaves for group_norm; 0: none */
    void *weight;
    float *bias; /* (K_PAD(out)), zeros where there is none */
};

static enum k_type image_type(const struct cuda_device *c, const struct imf__image *img)
{
    return img->f32 ? K_F32 : c->act;
}

static size_t pixels_of(const struct imf__image *img)
{
    return (size_t)img->n * (size_t)img->h * (size_t)img->w;
}

/* An image's pixels, and behind them room for the statistics that a convolution may leave: one
 * strip a tile of 16 x 16 pixels, also of each parity of an upsampled picture. */
static size_t pixel_bytes(const struct cuda_device *c, const struct imf__image *img)
{
    size_t bytes = pixels_of(img) * (size_t)K_PAD(img->c) * cuda_type_size(image_type(c, img));
    return (bytes + 255) / 256 * 256;
}

static float *statistics_of(const struct cuda_device *c, const struct imf__image *img)
{
    return (float *)((char *)img->data + pixel_bytes(c, img));
}

size_t cuda_image_bytes(const struct imf__device *d, const struct imf__image *img)
{
    const struct cuda_device *c = (const struct cuda_device *)d;
    size_t bytes = pixel_bytes(c, img);
    int strips = 4 * ((img->h + 31) / 32) * ((img->w + 31) / 32);
    if (c->act == K_BF16 && !img->f32 && img->c >= 4)
        bytes += k_group_norm_statistics(img->n, strips, img->c / 4) * sizeof(float);
    return (bytes + 255) / 256 * 256;
}

/* What every operation says that writes pixels and no statistics. */
static void forget_statistics(struct imf__image *img)
{
    img->norm_groups = img->norm_strips = 0;
}

static imf_status pack_weight(struct cuda_device *c, struct imf__conv *w, const float *weight)
{
    const struct k_conv *s = &w->shape;
    int taps = s->kh * s->kw, packed = k_conv_weight_taps(w->path, s);
    enum k_type type = w->path == K_CONV_F32 ? K_F32 : K_BF16;
    size_t count = k_conv_weight_count(w->path, s), element = cuda_type_size(type);
    char *host = calloc(count, element);
    if (!host)
        return IMF_ENOMEM;
    for (int o = 0; o < s->out; o++) {
        for (int i = 0; i < s->in; i++, weight += taps) {
            float sums[16];
            if (packed != taps)
                k_conv_up_taps(sums, weight);
            const float *values = packed != taps ? sums : weight;
            for (int t = 0; t < packed; t++)
                cuda_pack(host + k_conv_weight_index(w->path, s, o, i, t) * element, type,
                          values + t, 1);
        }
    }
    imf_status status = cuda_weight_upload(c, &w->weight, host, count * element);
    free(host);
    return status;
}

static imf_status pack_bias(struct cuda_device *c, struct imf__conv *w, const float *bias)
{
    size_t count = (size_t)K_PAD(w->shape.out);
    float *host = calloc(count, sizeof(*host));
    void *p = NULL;
    if (!host)
        return IMF_ENOMEM;
    if (bias)
        cuda_pack(host, K_F32, bias, (size_t)w->shape.out);
    imf_status status = cuda_weight_upload(c, &p, host, count * sizeof(*host));
    w->bias = p;
    free(host);
    return status;
}

static bool desc_is_sane(const struct imf__conv_desc *s)
{
    return s->in > 0 && s->out > 0 && s->kh > 0 && s->kw > 0 && s->stride > 0 && s->pad_h >= 0 &&
           s->pad_w >= 0 && s->in_h > 0 && s->in_w > 0 && s->in <= 1 << 14 && s->out <= 1 << 14 &&
           s->kh <= 64 && s->kw <= 64 && s->in_h <= 1 << 14 && s->in_w <= 1 << 14;
}

imf_status cuda_conv_load(struct imf__device *d, struct imf__conv **out,
                          const struct imf__conv_desc *desc, const float *weight, const float *bias)
{
    CUDA_ENTER(d);
    if (!desc_is_sane(desc))
        return cuda_refuse(c, "a convolution of %d to %d channels over %d x %d is out of range",
                           desc->in, desc->out, desc->in_h, desc->in_w);
    int up = desc->upsample2x ? 2 : 1;
    struct k_conv shape = {
        .n = 1,
        .h = desc->in_h,
        .w = desc->in_w,
        .in = desc->in,
        .out = desc->out,
        .oh = (desc->in_h * up + 2 * desc->pad_h - desc->kh) / desc->stride + 1,
        .ow = (desc->in_w * up + 2 * desc->pad_w - desc->kw) / desc->stride + 1,
        .kh = desc->kh,
        .kw = desc->kw,
        .stride = desc->stride,
        .pad_h = desc->pad_h,
        .pad_w = desc->pad_w,
        .upsample2x = desc->upsample2x,
        .relu = desc->relu,
        .out_f32 = desc->f32_out,
        .groups = desc->norm_groups,
    };
    struct imf__conv *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    w->desc = *desc;
    w->shape = shape;
    w->path = k_conv_path(c->act, &shape);
    if (w->path == K_CONV_3X3 || w->path == K_CONV_UP)
        w->norm_strips = k_conv3x3_strips(&shape);
    if (w->path == K_CONV_SM90 || w->path == K_CONV_SM90_UP)
        w->norm_strips = k_conv_sm90_strips(&shape);
    imf_status status = pack_weight(c, w, weight);
    if (status == IMF_OK)
        status = pack_bias(c, w, bias);
    if (status != IMF_OK) {
        cuda_conv_free(d, w);
        return status;
    }
    *out = w;
    return IMF_OK;
}

void cuda_conv_free(struct imf__device *d, struct imf__conv *w)
{
    if (!w)
        return;
    cuda_free(d, w->weight);
    cuda_free(d, w->bias);
    free(w);
}

imf_status cuda_conv2d(struct imf__device *d, struct imf__image *dst, const struct imf__image *src,
                       const struct imf__conv *w, const struct imf__image *residual)
{
    CUDA_ENTER(d);
    struct k_conv s = w->shape;
    s.n = src->n;
    if (src->h != s.h || src->w != s.w || src->c != s.in || dst->h != s.oh || dst->w != s.ow ||
        dst->c != s.out || dst->n != src->n || dst->f32 != w->desc.f32_out || src->f32 ||
        (residual != NULL) != w->desc.residual)
        return cuda_refuse(c, "a convolution of %d x %d x %d was given %d x %d x %d", s.in, s.h,
                           s.w, src->c, src->h, src->w);
    dst->norm_groups = w->norm_strips ? s.groups : 0;
    dst->norm_strips = w->norm_strips;
    CUDA_DRY_STOPS_HERE(c);
    const void *add = residual ? residual->data : NULL;
    float *statistics = w->norm_strips ? statistics_of(c, dst) : NULL;
    if (w->path == K_CONV_F32)
        CUDA_TRY(c, k_conv_f32(dst->data, src->data, w->weight, w->bias, add, &s, c->stream));
    else if (w->path == K_CONV_3X3 || w->path == K_CONV_UP)
        CUDA_TRY(
            c, k_conv3x3(dst->data, src->data, w->weight, w->bias, add, statistics, &s, c->stream));
    else if (w->path == K_CONV_SM90 || w->path == K_CONV_SM90_UP)
        CUDA_TRY(c, k_conv_sm90(dst->data, src->data, w->weight, w->bias, add, statistics, &s,
                                c->stream));
    else
        CUDA_TRY(c, k_conv_gemm(dst->data, src->data, w->weight, w->bias, add, &s, c->stream));
    return IMF_OK;
}

imf_status cuda_image_from_latent(struct imf__device *d, struct imf__image *dst, const float *z,
                                  const float *scale, const float *shift, bool clamp3)
{
    CUDA_ENTER(d);
    forget_statistics(dst);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c, k_image_from_latent(dst->data, image_type(c, dst), z, scale, shift, clamp3, dst->n,
                                    dst->c, dst->h, dst->w, c->stream));
    return IMF_OK;
}

imf_status cuda_group_norm(struct imf__device *d, struct imf__image *dst,
                           const struct imf__image *src, const float *gamma, const float *beta,
                           int groups, float eps, bool silu)
{
    CUDA_ENTER(d);
    if (groups < 1 || src->c % groups != 0)
        return cuda_refuse(c, "%d channels do not make %d groups", src->c, groups);
    bool gathered = src->norm_groups == groups;
    int strips = gathered ? src->norm_strips : k_group_norm_strips(src->h * src->w, src->c);
    size_t scales = (size_t)src->n * 2 * (size_t)K_PAD(src->c);
    size_t partial = gathered ? 0 : k_group_norm_statistics(src->n, strips, groups);
    void *work = NULL;
    IMF_TRY(cuda_scratch(c, &work, (scales + partial) * sizeof(float)));
    forget_statistics(dst);
    CUDA_DRY_STOPS_HERE(c);
    const float *statistics = gathered ? statistics_of(c, src) : (float *)work + scales;
    if (!gathered)
        CUDA_TRY(c, k_group_norm_gather((float *)work + scales, src->data, c->act, src->n, src->h,
                                        src->w, src->c, groups, c->stream));
    CUDA_TRY(c, k_group_norm(dst->data, src->data, c->act, gamma, beta, statistics, strips, work,
                             src->n, src->h, src->w, src->c, groups, eps, silu, c->stream));
    return IMF_OK;
}

imf_status cuda_pool2d(struct imf__device *d, struct imf__image *dst, const struct imf__image *src,
                       enum imf__pool kind, int k, int stride, int pad)
{
    CUDA_ENTER(d);
    if (dst->n != src->n || dst->c != src->c || stride < 1 ||
        dst->h != (src->h + 2 * pad - k) / stride + 1 ||
        dst->w != (src->w + 2 * pad - k) / stride + 1)
        return cuda_refuse(c, "a %d/%d pool of %d x %d cannot give %d x %d", k, stride, src->h,
                           src->w, dst->h, dst->w);
    forget_statistics(dst);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c, k_pool2d(dst->data, src->data, c->act, kind == IMF__POOL_MAX, k, stride, pad,
                         src->n, src->h, src->w, src->c, dst->h, dst->w, c->stream));
    return IMF_OK;
}

imf_status cuda_concat(struct imf__device *d, struct imf__image *dst, const struct imf__image *src,
                       int c0)
{
    CUDA_ENTER(d);
    if (pixels_of(dst) != pixels_of(src) || c0 < 0 || c0 + src->c > dst->c)
        return cuda_refuse(c, "%d channels at %d do not fit %d", src->c, c0, dst->c);
    forget_statistics(dst);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c,
             k_concat(dst->data, src->data, c->act, pixels_of(src), src->c, dst->c, c0, c->stream));
    return IMF_OK;
}

imf_status cuda_image_to_tokens(struct imf__device *d, float *dst, const struct imf__image *src)
{
    CUDA_ENTER(d);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c, k_image_to_tokens(dst, src->data, image_type(c, src), pixels_of(src), src->c,
                                  c->stream));
    return IMF_OK;
}

imf_status cuda_tokens_to_image(struct imf__device *d, struct imf__image *dst, const float *src,
                                bool add)
{
    CUDA_ENTER(d);
    forget_statistics(dst);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c, k_tokens_to_image(dst->data, src, image_type(c, dst), pixels_of(dst), dst->c, add,
                                  c->stream));
    return IMF_OK;
}

imf_status cuda_global_mean(struct imf__device *d, float *dst, const struct imf__image *src)
{
    CUDA_ENTER(d);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c, k_global_mean(dst, src->data, image_type(c, src), src->n, src->h * src->w, src->c,
                              c->stream));
    return IMF_OK;
}

imf_status cuda_resize_rgb8(struct imf__device *d, struct imf__image *dst, const uint8_t *rgb,
                            int n, int H, int W)
{
    CUDA_ENTER(d);
    if (dst->c != 3 || dst->n != n)
        return cuda_refuse(c, "a picture has 3 channels, not %d", dst->c);
    forget_statistics(dst);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c,
             k_resize_rgb8(dst->data, image_type(c, dst), rgb, n, H, W, dst->h, dst->w, c->stream));
    return IMF_OK;
}

imf_status cuda_to_rgb8(struct imf__device *d, uint8_t *rgb, const struct imf__image *src,
                        float scale, float shift)
{
    CUDA_ENTER(d);
    if (src->c != 3)
        return cuda_refuse(c, "a picture has 3 channels, not %d", src->c);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(
        c, k_to_rgb8(rgb, src->data, image_type(c, src), scale, shift, pixels_of(src), c->stream));
    return IMF_OK;
}
