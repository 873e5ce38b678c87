/* The case table, second half: operations on pictures. */
#include "reference/op_run.h"
#include "common/error.h"

#include <math.h>
#include <string.h>

#define N(x) ((size_t)(x))

enum { WEIGHT_SEED = 1000 };

/* An image of r->B seeded samples. */
static imf_status seeded_image(struct imf__op_run *r, struct imf__image *img, int tag, int h, int w,
                               int c)
{
    float *x;
    *img = (struct imf__image){.n = r->B, .h = h, .w = w, .c = c};
    IMF_TRY(imf__op_samples(r, &x, tag, N(h) * N(w) * N(c), 1, true));
    return imf__op_image_load(r, img, x);
}

/* ---- conv2d ---- */

static imf_status load_conv(struct imf__op_run *r, const struct imf__conv_desc *k, bool with_bias)
{
    float *w, *bias = NULL;
    int fan_in = k->in * k->kh * k->kw;
    IMF_TRY(imf__op_values(r, &w, WEIGHT_SEED, 1, N(k->out) * N(fan_in), 1 / sqrtf((float)fan_in),
                           false));
    if (with_bias)
        IMF_TRY(imf__op_values(r, &bias, WEIGHT_SEED, 2, N(k->out), 0.5f, false));
    return r->d->ops->conv_load(r->d, &r->conv, k, w, bias);
}

/* gamma and beta of a GroupNorm. */
static imf_status norm_weights(struct imf__op_run *r, void **gamma, void **beta, int c)
{
    float *g, *b;
    IMF_TRY(imf__op_values(r, &g, WEIGHT_SEED, 3, N(c), 1, false));
    IMF_TRY(imf__op_values(r, &b, WEIGHT_SEED, 4, N(c), 1, false));
    IMF_TRY(imf__op_upload(r, gamma, g, N(c), IMF__F32));
    return imf__op_upload(r, beta, b, N(c), IMF__F32);
}

static imf_status run_conv2d(struct imf__op_run *r, const int *p)
{
    struct imf__conv_desc k = {.in = p[0],
                               .out = p[1],
                               .kh = p[2],
                               .kw = p[3],
                               .stride = p[4],
                               .pad_h = p[5],
                               .pad_w = p[6],
                               .in_h = p[7],
                               .in_w = p[8],
                               .upsample2x = p[9],
                               .relu = p[10],
                               .residual = p[11] != 0};
    struct imf__device *d = r->d;
    struct imf__image src, dst, other;
    int up = k.upsample2x ? 2 : 1;
    dst = (struct imf__image){.n = r->B,
                              .c = k.out,
                              .h = (k.in_h * up + 2 * k.pad_h - k.kh) / k.stride + 1,
                              .w = (k.in_w * up + 2 * k.pad_w - k.kw) / k.stride + 1};
    IMF_TRY(load_conv(r, &k, p[12]));
    IMF_TRY(seeded_image(r, &src, 3, k.in_h, k.in_w, k.in));
    if (k.residual)
        IMF_TRY(seeded_image(r, &other, 4, dst.h, dst.w, dst.c));
    if (p[11] == 2) /* onto the residual itself */
        dst = other;
    else
        IMF_TRY(imf__op_image(r, &dst));
    OP_CALL(r, d->ops->conv2d(d, &dst, &src, r->conv, k.residual ? &other : NULL));
    return imf__op_image_take(r, &dst);
}

/* A convolution and the GroupNorm that reads its result, which may have been told in advance. */
static imf_status run_conv_norm(struct imf__op_run *r, const int *p)
{
    struct imf__conv_desc k = {.in = p[0],
                               .out = p[1],
                               .kh = 3,
                               .kw = 3,
                               .stride = 1,
                               .pad_h = 1,
                               .pad_w = 1,
                               .in_h = p[2],
                               .in_w = p[3],
                               .upsample2x = p[5],
                               .residual = p[6] != 0,
                               .norm_groups = p[4]};
    struct imf__device *d = r->d;
    int up = k.upsample2x ? 2 : 1;
    struct imf__image src, other, dst = {.n = r->B, .h = p[2] * up, .w = p[3] * up, .c = k.out};
    void *gamma, *beta;
    IMF_TRY(load_conv(r, &k, true));
    IMF_TRY(seeded_image(r, &src, 3, k.in_h, k.in_w, k.in));
    if (k.residual)
        IMF_TRY(seeded_image(r, &other, 4, dst.h, dst.w, dst.c));
    IMF_TRY(norm_weights(r, &gamma, &beta, k.out));
    IMF_TRY(imf__op_image(r, &dst));
    struct imf__image normed = dst;
    IMF_TRY(imf__op_image(r, &normed));
    OP_CALL(r, d->ops->conv2d(d, &dst, &src, r->conv, k.residual ? &other : NULL));
    if (p[7]) /* in place */
        normed = dst;
    OP_CALL(r, d->ops->group_norm(d, &normed, &dst, gamma, beta, p[4], 1e-6f, true));
    return imf__op_image_take(r, &normed);
}

/* A GroupNorm and the convolution that reads its result, which may do the norm on the way. */
static imf_status run_norm_conv(struct imf__op_run *r, const int *p)
{
    struct imf__conv_desc k = {.in = p[0],
                               .out = p[1],
                               .kh = p[2],
                               .kw = p[2],
                               .stride = p[3],
                               .pad_h = p[2] / 2,
                               .pad_w = p[2] / 2,
                               .in_h = p[4],
                               .in_w = p[5],
                               .upsample2x = p[7]};
    struct imf__device *d = r->d;
    int up = k.upsample2x ? 2 : 1;
    struct imf__image src, normed,
        dst = {.n = r->B,
               .h = (p[4] * up - 1) / k.stride + 1,
               .w = (p[5] * up - 1) / k.stride + 1,
               .c = k.out};
    void *gamma, *beta;
    IMF_TRY(load_conv(r, &k, true));
    IMF_TRY(seeded_image(r, &src, 3, k.in_h, k.in_w, k.in));
    IMF_TRY(norm_weights(r, &gamma, &beta, k.in));
    normed = src;
    if (!p[8]) /* else in place */
        IMF_TRY(imf__op_image(r, &normed));
    IMF_TRY(imf__op_image(r, &dst));
    for (int dry = 1; dry >= 0; dry--) {
        d->dry = dry != 0;
        imf_status status = d->ops->group_norm(d, &normed, &src, gamma, beta, p[6], 1e-6f, true);
        if (status == IMF_OK)
            status = d->ops->conv2d(d, &dst, &normed, r->conv, NULL);
        d->dry = false;
        IMF_TRY(status);
    }
    return imf__op_image_take(r, &dst);
}

/* The last convolution writes float32 in every precision, which only to_rgb8 reads. */
static imf_status run_conv_to_rgb(struct imf__op_run *r, const int *p)
{
    struct imf__conv_desc k = {.in = p[0],
                               .out = 3,
                               .kh = 3,
                               .kw = 3,
                               .stride = 1,
                               .pad_h = 1,
                               .pad_w = 1,
                               .in_h = p[1],
                               .in_w = p[2],
                               .f32_out = true};
    struct imf__device *d = r->d;
    struct imf__image src, dst = {.n = r->B, .h = p[1], .w = p[2], .c = 3, .f32 = true};
    void *rgb;
    size_t count = N(r->B) * N(p[1]) * N(p[2]) * 3;
    IMF_TRY(load_conv(r, &k, true));
    IMF_TRY(seeded_image(r, &src, 3, p[1], p[2], k.in));
    IMF_TRY(imf__op_image(r, &dst));
    IMF_TRY(imf__op_output(r, &rgb, (count + 3) / 4, IMF__F32));
    OP_CALL(r, d->ops->conv2d(d, &dst, &src, r->conv, NULL));
    OP_CALL(r, d->ops->to_rgb8(d, rgb, &dst, 127.5f, 127.5f));
    return imf__op_take_levels(r, rgb, count);
}

/* ---- Normalisation, pooling, copies ---- */

static imf_status run_group_norm(struct imf__op_run *r, const int *p)
{
    int h = p[0], w = p[1], c = p[2];
    struct imf__device *d = r->d;
    struct imf__image src, dst = {.n = r->B, .h = h, .w = w, .c = c};
    void *gamma, *beta;
    IMF_TRY(seeded_image(r, &src, 0, h, w, c));
    IMF_TRY(norm_weights(r, &gamma, &beta, c));
    IMF_TRY(imf__op_image(r, &dst));
    OP_CALL(r, d->ops->group_norm(d, &dst, &src, gamma, beta, p[3], 1e-6f, p[4]));
    return imf__op_image_take(r, &dst);
}

static imf_status run_pool2d(struct imf__op_run *r, const int *p)
{
    int h = p[0], w = p[1], c = p[2], k = p[4], stride = p[5], pad = p[6];
    struct imf__device *d = r->d;
    struct imf__image src, dst = {.n = r->B,
                                  .h = (h + 2 * pad - k) / stride + 1,
                                  .w = (w + 2 * pad - k) / stride + 1,
                                  .c = c};
    IMF_TRY(seeded_image(r, &src, 0, h, w, c));
    IMF_TRY(imf__op_image(r, &dst));
    OP_CALL(r, d->ops->pool2d(d, &dst, &src, (enum imf__pool)p[3], k, stride, pad));
    return imf__op_image_take(r, &dst);
}

/* Three images of c0, c1, c2 channels into one. */
static imf_status run_concat(struct imf__op_run *r, const int *p)
{
    struct imf__device *d = r->d;
    struct imf__image src, dst = {.n = r->B, .h = p[0], .w = p[1], .c = p[2] + p[3] + p[4]};
    int c0 = 0;
    IMF_TRY(imf__op_image(r, &dst));
    for (int i = 0; i < 3; i++) {
        IMF_TRY(seeded_image(r, &src, i, p[0], p[1], p[2 + i]));
        OP_CALL(r, d->ops->concat(d, &dst, &src, c0));
        c0 += p[2 + i];
    }
    return imf__op_image_take(r, &dst);
}

/* q, k and v as channels of one picture. */
static imf_status run_attention_picture(struct imf__op_run *r, const int *p)
{
    struct imf__device *d = r->d;
    struct imf__image qkv, dst = {.n = r->B, .h = p[0], .w = p[1], .c = p[2]};
    if (!d->ops->attention_picture)
        return IMF_EUNSUPPORTED;
    IMF_TRY(seeded_image(r, &qkv, 0, p[0], p[1], 3 * p[2]));
    IMF_TRY(imf__op_image(r, &dst));
    OP_CALL(r, d->ops->attention_picture(d, &dst, &qkv));
    return imf__op_image_take(r, &dst);
}

static imf_status run_tokens(struct imf__op_run *r, const int *p)
{
    int h = p[0], w = p[1], c = p[2];
    struct imf__image img;
    float *x;
    void *tokens;
    IMF_TRY(seeded_image(r, &img, 0, h, w, c));
    if (p[3]) {
        IMF_TRY(imf__op_samples(r, &x, 1, N(h) * N(w) * N(c), 1, false));
        IMF_TRY(imf__op_upload(r, &tokens, x, N(r->B) * N(h) * N(w) * N(c), IMF__F32));
        r->d->dry = true; /* not OP_CALL: adding twice would be wrong, and dry must not add */
        imf_status status = r->d->ops->tokens_to_image(r->d, &img, tokens, true);
        r->d->dry = false;
        IMF_TRY(status);
        IMF_TRY(r->d->ops->tokens_to_image(r->d, &img, tokens, true));
    }
    return imf__op_image_take(r, &img);
}

static imf_status run_global_mean(struct imf__op_run *r, const int *p)
{
    struct imf__device *d = r->d;
    struct imf__image src;
    void *dst;
    IMF_TRY(seeded_image(r, &src, 0, p[0], p[1], p[2]));
    IMF_TRY(imf__op_output(r, &dst, N(r->B) * N(p[2]), IMF__F32));
    OP_CALL(r, d->ops->global_mean(d, dst, &src));
    return imf__op_take(r, dst, N(r->B) * N(p[2]), IMF__F32);
}

/* ---- In and out ---- */

static imf_status run_from_latent(struct imf__op_run *r, const int *p)
{
    int C = p[0], S = p[1];
    struct imf__device *d = r->d;
    struct imf__image dst = {.n = r->B, .h = S, .w = S, .c = C};
    float *z, *a, *b;
    void *dz, *scale, *shift;
    IMF_TRY(imf__op_samples(r, &z, 0, N(C) * N(S) * N(S), 1, false));
    IMF_TRY(imf__op_values(r, &a, WEIGHT_SEED, 1, N(C), 4, false));
    IMF_TRY(imf__op_values(r, &b, WEIGHT_SEED, 2, N(C), 1, false));
    IMF_TRY(imf__op_upload(r, &dz, z, N(r->B) * N(C) * N(S) * N(S), IMF__F32));
    IMF_TRY(imf__op_upload(r, &scale, a, N(C), IMF__F32));
    IMF_TRY(imf__op_upload(r, &shift, b, N(C), IMF__F32));
    IMF_TRY(imf__op_image(r, &dst));
    OP_CALL(r, d->ops->image_from_latent(d, &dst, dz, scale, shift, p[2]));
    return imf__op_image_take(r, &dst);
}

static imf_status run_resize(struct imf__op_run *r, const int *p)
{
    int H = p[0], W = p[1];
    struct imf__device *d = r->d;
    struct imf__image dst = {.n = r->B, .h = p[2], .w = p[3], .c = 3};
    float *x;
    void *rgb;
    size_t per_sample = N(H) * N(W) * 3;
    IMF_TRY(imf__op_samples(r, &x, 0, per_sample, 1, false));
    uint8_t *levels = (uint8_t *)x; /* the floats' own bytes: any levels will do */
    for (int b = 0; b < r->B; b++)
        memmove(levels + N(b) * per_sample, x + N(b) * per_sample, per_sample);
    IMF_TRY(imf__op_upload_bytes(r, &rgb, levels, N(r->B) * per_sample));
    IMF_TRY(imf__op_image(r, &dst));
    OP_CALL(r, d->ops->resize_rgb8(d, &dst, rgb, r->B, H, W));
    return imf__op_image_take(r, &dst);
}

static imf_status run_to_rgb8(struct imf__op_run *r, const int *p)
{
    struct imf__device *d = r->d;
    struct imf__image src = {.n = r->B, .h = p[0], .w = p[1], .c = 3};
    float *x;
    void *rgb;
    size_t count = N(r->B) * N(p[0]) * N(p[1]) * 3;
    IMF_TRY(imf__op_samples(r, &x, 0, N(p[0]) * N(p[1]) * 3, 1, true));
    if (p[2]) { /* every half level from -4 to 259.5: ties and clipping */
        for (size_t i = 0; i < count; i++)
            x[i] = (float)(i % 528) / 2 - 4;
    }
    IMF_TRY(imf__op_image_load(r, &src, x));
    IMF_TRY(imf__op_output(r, &rgb, (count + 3) / 4, IMF__F32));
    OP_CALL(r, d->ops->to_rgb8(d, rgb, &src, p[2] ? 1 : 127.5f, p[2] ? 0 : 127.5f));
    return imf__op_take_levels(r, rgb, count);
}

/* ---- The table ---- */

static const struct imf__op conv2d = {
    "conv2d", "in out kh kw stride pad_h pad_w h w up relu residual bias", run_conv2d, false};
static const struct imf__op conv_norm = {
    "conv2d+group_norm", "in out h w groups up residual in_place", run_conv_norm, false};
static const struct imf__op norm_conv = {
    "group_norm+conv2d", "in out k stride h w groups up in_place", run_norm_conv, false};
static const struct imf__op conv_to_rgb = {"conv2d+to_rgb8", "in h w", run_conv_to_rgb, true};
static const struct imf__op group_norm = {"group_norm", "h w c groups silu", run_group_norm, false};
static const struct imf__op pool2d = {"pool2d", "h w c avg k stride pad", run_pool2d, false};
static const struct imf__op concat = {"concat", "h w c0 c1 c2", run_concat, false};
static const struct imf__op attention_picture = {"attention_picture", "h w c",
                                                 run_attention_picture, false};
static const struct imf__op tokens = {"image_tokens", "h w c add", run_tokens, false};
static const struct imf__op global_mean = {"global_mean", "h w c", run_global_mean, false};
static const struct imf__op from_latent = {"image_from_latent", "C S clamp3", run_from_latent,
                                           false};
static const struct imf__op resize = {"resize_rgb8", "H W h w", run_resize, false};
static const struct imf__op to_rgb8 = {"to_rgb8", "h w ties", run_to_rgb8, true};

const struct imf__op_case imf__op_image_cases[] = {
    /* Copies in and out first: every other case stands on them. */
    CASE(tokens, 16, 16, 64, 0),
    CASE(tokens, 7, 5, 3, 0),
    CASE(tokens, 9, 9, 20, 1),
    CASE(from_latent, 4, 32, 0),
    CASE(from_latent, 4, 16, 1),
    RARE(from_latent, 3, 9, 0),
    CASE(to_rgb8, 16, 16, 0),
    CASE(to_rgb8, 16, 11, 1),
    CASE(conv_to_rgb, 64, 16, 16),
    CASE(conv_to_rgb, 24, 9, 7),
    /* sd-vae and taesd. */
    CASE(conv2d, 64, 64, 3, 3, 1, 1, 1, 16, 16, 0, 0, 0, 1),
    CASE(conv2d, 64, 64, 3, 3, 1, 1, 1, 32, 32, 0, 1, 1, 1),
    CASE(conv2d, 64, 64, 3, 3, 1, 1, 1, 16, 16, 1, 0, 0, 0),
    CASE(conv2d, 64, 64, 3, 3, 1, 1, 1, 16, 16, 0, 0, 2, 1),
    CASE(conv2d, 32, 96, 3, 3, 1, 1, 1, 8, 8, 1, 0, 0, 1),
    CASE(conv2d, 128, 32, 1, 1, 1, 0, 0, 16, 16, 0, 0, 0, 1),
    CASE(conv2d, 256, 128, 3, 3, 1, 1, 1, 16, 16, 0, 0, 1, 1),
    CASE(conv2d, 4, 64, 3, 3, 1, 1, 1, 16, 16, 0, 1, 0, 1),
    CASE(conv2d, 4, 4, 1, 1, 1, 0, 0, 16, 16, 0, 0, 0, 1),
    CASE(conv2d, 64, 3, 3, 3, 1, 1, 1, 16, 16, 0, 0, 0, 1),
    /* InceptionV3. */
    CASE(conv2d, 3, 32, 3, 3, 2, 0, 0, 39, 39, 0, 1, 0, 1),
    CASE(conv2d, 32, 32, 3, 3, 1, 0, 0, 19, 19, 0, 1, 0, 1),
    CASE(conv2d, 48, 64, 5, 5, 1, 2, 2, 13, 13, 0, 1, 0, 1),
    CASE(conv2d, 48, 64, 1, 7, 1, 0, 3, 9, 9, 0, 1, 0, 1),
    CASE(conv2d, 48, 64, 7, 1, 1, 3, 0, 9, 9, 0, 1, 0, 1),
    CASE(conv2d, 80, 24, 1, 1, 1, 0, 0, 17, 17, 0, 1, 0, 1),
    CASE(conv2d, 64, 96, 3, 3, 2, 0, 0, 17, 17, 0, 1, 0, 1),
    /* Sizes that divide nothing, and that no model has: a device may decline them. */
    RARE(conv2d, 20, 12, 3, 3, 1, 1, 1, 11, 7, 0, 0, 1, 1),
    RARE(conv2d, 5, 7, 3, 3, 1, 1, 1, 5, 9, 1, 0, 0, 1),
    RARE(conv2d, 64, 3, 1, 1, 1, 0, 0, 4, 4, 0, 0, 0, 1),
    CASE(group_norm, 16, 16, 64, 16, 1),
    CASE(group_norm, 32, 32, 128, 32, 1),
    CASE(group_norm, 8, 8, 64, 32, 0),
    RARE(group_norm, 9, 5, 24, 8, 1),
    CASE(group_norm, 16, 16, 512, 32, 1),
    CASE(conv_norm, 64, 128, 16, 16, 32, 0, 1, 0),
    CASE(conv_norm, 32, 64, 24, 17, 8, 0, 0, 1),
    CASE(conv_norm, 64, 64, 9, 11, 16, 1, 0, 0),
    CASE(conv_norm, 16, 256, 16, 20, 32, 1, 0, 0),
    RARE(conv_norm, 8, 40, 7, 9, 5, 0, 1, 0),
    CASE(norm_conv, 64, 96, 3, 1, 16, 16, 32, 0, 0),
    CASE(norm_conv, 128, 64, 3, 1, 24, 40, 32, 0, 1),
    CASE(norm_conv, 64, 32, 1, 1, 9, 11, 16, 0, 0),
    CASE(norm_conv, 64, 64, 3, 1, 9, 16, 16, 1, 0),
    CASE(norm_conv, 256, 192, 3, 1, 26, 5, 32, 0, 0),
    RARE(norm_conv, 40, 24, 3, 2, 11, 13, 8, 0, 0),
    CASE(pool2d, 15, 15, 64, IMF__POOL_MAX, 3, 2, 0),
    CASE(pool2d, 9, 9, 40, IMF__POOL_MAX, 3, 1, 1),
    CASE(pool2d, 9, 9, 40, IMF__POOL_AVG, 3, 1, 1),
    RARE(pool2d, 8, 7, 5, IMF__POOL_AVG, 3, 1, 1),
    CASE(concat, 9, 9, 64, 32, 96),
    RARE(concat, 5, 7, 24, 40, 8),
    RARE(concat, 5, 7, 20, 12, 5),
    RARE(attention_picture, 8, 8, 64), /* not every device attends pictures */
    RARE(attention_picture, 7, 5, 32),
    RARE(attention_picture, 3, 37, 96),
    RARE(attention_picture, 16, 16, 128),
    CASE(global_mean, 8, 8, 96),
    CASE(global_mean, 5, 3, 20),
    CASE(resize, 32, 32, 39, 39),
    CASE(resize, 40, 28, 19, 23),
    {.op = NULL},
};
