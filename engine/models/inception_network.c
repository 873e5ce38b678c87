/* InceptionV3's network: see inception.h. Blocks are named as in the original (Szegedy 2015) and in
 * torchvision: A, B, C, D, E. */
#include "models/inception.h"

#include "common/error.h"

#include <stdio.h>

enum { ALIGN = 256 };

/* State of one walk. */
struct walk {
    struct imf_inception *net;
    struct imf__inception_source *source; /* while loading */
    int conv, block;                      /* next ones */
    enum imf__inception_region last;      /* of the last block's output */
};

/* How a convolution treats the edges. */
enum edges {
    SAME,   /* padding k/2 per axis, stride 1 */
    VALID,  /* no padding, stride 1 */
    REDUCE, /* no padding, stride 2 */
};

struct step {
    const char *name;
    enum edges edges;
};

/* ---- Memory -------------------------------------------------------------------------------- */

static struct imf__image image_in(struct walk *w, enum imf__inception_region region, int h,
                                  int width, int c)
{
    struct imf__device *d = w->net->device;
    struct imf__region *r = &w->net->regions[region];
    struct imf__image image = {.n = w->net->batch, .h = h, .w = width, .c = c};
    size_t bytes = d->ops->image_bytes(d, &image);
    image.data = r->base ? r->base + r->used : NULL;
    r->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (r->used > r->peak)
        r->peak = r->used;
    return image;
}

static struct imf__image output_image(struct walk *w, int side, int c)
{
    w->net->regions[w->last].used = 0;
    return image_in(w, w->last, side, side, c);
}

/* The next block's output; the last one's stays valid until the block after this. While loading,
 * its channels are known only at the end. */
static struct imf__image block_begin(struct walk *w, int side)
{
    w->last = w->last == IMF__ODD ? IMF__EVEN : IMF__ODD;
    w->net->regions[IMF__INSIDE].used = 0;
    struct imf__image none = {.n = w->net->batch, .h = side, .w = side};
    return w->source ? none : output_image(w, side, w->net->block_channels[w->block]);
}

static imf_status block_end(struct walk *w, struct imf__image *x, const struct imf__image *dst,
                            int channels)
{
    w->net->block_channels[w->block++] = channels;
    *x = w->source ? output_image(w, dst->h, channels) : *dst;
    return IMF_OK;
}

/* ---- Layers -------------------------------------------------------------------------------- */

static int out_size(int in, int k, int stride, int pad)
{
    return (in + 2 * pad - k) / stride + 1;
}

static imf_status conv_in(struct walk *w, enum imf__inception_region region, const char *prefix,
                          struct step s, const struct imf__image *src, struct imf__image *dst)
{
    struct imf_inception *net = w->net;
    struct imf__inception_conv *c = &net->convs[w->conv++];
    char name[96];
    snprintf(name, sizeof(name), "%s%s", prefix, s.name);
    if (w->source)
        IMF_TRY(imf__inception_measure(c, w->source, name));
    struct imf__conv_desc desc = {.in = src->c,
                                  .out = c->out,
                                  .kh = c->kh,
                                  .kw = c->kw,
                                  .stride = s.edges == REDUCE ? 2 : 1,
                                  .pad_h = s.edges == SAME ? c->kh / 2 : 0,
                                  .pad_w = s.edges == SAME ? c->kw / 2 : 0,
                                  .in_h = src->h,
                                  .in_w = src->w,
                                  .relu = true};
    int h = out_size(src->h, c->kh, desc.stride, desc.pad_h);
    int width = out_size(src->w, c->kw, desc.stride, desc.pad_w);
    *dst = image_in(w, region, h, width, c->out);
    if (!w->source)
        return net->device->ops->conv2d(net->device, dst, src, c->weights, NULL);
    net->flops += 2.0 * c->out * src->c * c->kh * c->kw * h * width;
    return imf__inception_load_conv(c, w->source, name, &desc);
}

static imf_status pool_in(struct walk *w, enum imf__inception_region region, enum imf__pool kind,
                          enum edges edges, const struct imf__image *src, struct imf__image *dst)
{
    struct imf__device *d = w->net->device;
    int stride = edges == REDUCE ? 2 : 1, pad = edges == SAME ? 1 : 0;
    *dst = image_in(w, region, out_size(src->h, 3, stride, pad), out_size(src->w, 3, stride, pad),
                    src->c);
    return w->source ? IMF_OK : d->ops->pool2d(d, dst, src, kind, 3, stride, pad);
}

/* dst channels from *c0 on. */
static imf_status put(struct walk *w, struct imf__image *dst, const struct imf__image *src, int *c0)
{
    struct imf__device *d = w->net->device;
    int at = *c0;
    *c0 += src->c;
    return w->source ? IMF_OK : d->ops->concat(d, dst, src, at);
}

/* A chain of convolutions. */
static imf_status chain(struct walk *w, const char *prefix, const struct imf__image *x,
                        struct imf__image *end, const struct step *steps, int n)
{
    *end = *x;
    for (int i = 0; i < n; i++) {
        struct imf__image next;
        IMF_TRY(conv_in(w, IMF__INSIDE, prefix, steps[i], end, &next));
        *end = next;
    }
    return IMF_OK;
}

/* A chain of convolutions from x into dst's next channels. */
static imf_status branch(struct walk *w, const char *prefix, const struct imf__image *x,
                         struct imf__image *dst, int *c0, const struct step *steps, int n)
{
    size_t mark = w->net->regions[IMF__INSIDE].used;
    struct imf__image end;
    IMF_TRY(chain(w, prefix, x, &end, steps, n));
    IMF_TRY(put(w, dst, &end, c0));
    w->net->regions[IMF__INSIDE].used = mark; /* operations are in order: it can be reused */
    return IMF_OK;
}

#define STEPS(...)                                                                                 \
    (const struct step[]){__VA_ARGS__},                                                            \
        (int)(sizeof((const struct step[]){__VA_ARGS__}) / sizeof(struct step))
#define BRANCH(...) IMF_TRY(branch(w, prefix, x, &dst, &c0, STEPS(__VA_ARGS__)))

/* Steps in a chain, then two convolutions side by side on its end. */
static imf_status fork_branch(struct walk *w, const char *prefix, const struct imf__image *x,
                              struct imf__image *dst, int *c0, const char *left, const char *right,
                              const struct step *steps, int n)
{
    size_t mark = w->net->regions[IMF__INSIDE].used;
    struct imf__image end;
    IMF_TRY(chain(w, prefix, x, &end, steps, n));
    IMF_TRY(branch(w, prefix, &end, dst, c0, STEPS({left, SAME})));
    IMF_TRY(branch(w, prefix, &end, dst, c0, STEPS({right, SAME})));
    w->net->regions[IMF__INSIDE].used = mark;
    return IMF_OK;
}

/* The branch that pools first and then convolves 1x1. */
static imf_status pool_branch(struct walk *w, const char *prefix, const struct imf__image *x,
                              struct imf__image *dst, int *c0, enum imf__pool kind)
{
    struct imf__image pooled;
    IMF_TRY(pool_in(w, IMF__INSIDE, kind, SAME, x, &pooled));
    return branch(w, prefix, &pooled, dst, c0, STEPS({"branch_pool", SAME}));
}

/* The branch of a block that halves the picture which only pools. */
static imf_status reduce_branch(struct walk *w, const struct imf__image *x, struct imf__image *dst,
                                int *c0)
{
    struct imf__image pooled;
    IMF_TRY(pool_in(w, IMF__INSIDE, IMF__POOL_MAX, REDUCE, x, &pooled));
    return put(w, dst, &pooled, c0);
}

/* ---- Blocks; *x becomes the block's output --------------------------------------------------- */

static imf_status block_a(struct walk *w, const char *prefix, struct imf__image *x)
{
    struct imf__image dst = block_begin(w, x->h);
    int c0 = 0;
    BRANCH({"branch1x1", SAME});
    BRANCH({"branch5x5_1", SAME}, {"branch5x5_2", SAME});
    BRANCH({"branch3x3dbl_1", SAME}, {"branch3x3dbl_2", SAME}, {"branch3x3dbl_3", SAME});
    IMF_TRY(pool_branch(w, prefix, x, &dst, &c0, IMF__POOL_AVG));
    return block_end(w, x, &dst, c0);
}

static imf_status block_b(struct walk *w, const char *prefix, struct imf__image *x)
{
    struct imf__image dst = block_begin(w, out_size(x->h, 3, 2, 0));
    int c0 = 0;
    BRANCH({"branch3x3", REDUCE});
    BRANCH({"branch3x3dbl_1", SAME}, {"branch3x3dbl_2", SAME}, {"branch3x3dbl_3", REDUCE});
    IMF_TRY(reduce_branch(w, x, &dst, &c0));
    return block_end(w, x, &dst, c0);
}

static imf_status block_c(struct walk *w, const char *prefix, struct imf__image *x)
{
    struct imf__image dst = block_begin(w, x->h);
    int c0 = 0;
    BRANCH({"branch1x1", SAME});
    BRANCH({"branch7x7_1", SAME}, {"branch7x7_2", SAME}, {"branch7x7_3", SAME});
    BRANCH({"branch7x7dbl_1", SAME}, {"branch7x7dbl_2", SAME}, {"branch7x7dbl_3", SAME},
           {"branch7x7dbl_4", SAME}, {"branch7x7dbl_5", SAME});
    IMF_TRY(pool_branch(w, prefix, x, &dst, &c0, IMF__POOL_AVG));
    return block_end(w, x, &dst, c0);
}

static imf_status block_d(struct walk *w, const char *prefix, struct imf__image *x)
{
    struct imf__image dst = block_begin(w, out_size(x->h, 3, 2, 0));
    int c0 = 0;
    BRANCH({"branch3x3_1", SAME}, {"branch3x3_2", REDUCE});
    BRANCH({"branch7x7x3_1", SAME}, {"branch7x7x3_2", SAME}, {"branch7x7x3_3", SAME},
           {"branch7x7x3_4", REDUCE});
    IMF_TRY(reduce_branch(w, x, &dst, &c0));
    return block_end(w, x, &dst, c0);
}

static imf_status block_e(struct walk *w, const char *prefix, struct imf__image *x,
                          enum imf__pool kind)
{
    struct imf__image dst = block_begin(w, x->h);
    int c0 = 0;
    BRANCH({"branch1x1", SAME});
    IMF_TRY(fork_branch(w, prefix, x, &dst, &c0, "branch3x3_2a", "branch3x3_2b",
                        STEPS({"branch3x3_1", SAME})));
    IMF_TRY(fork_branch(w, prefix, x, &dst, &c0, "branch3x3dbl_3a", "branch3x3dbl_3b",
                        STEPS({"branch3x3dbl_1", SAME}, {"branch3x3dbl_2", SAME})));
    IMF_TRY(pool_branch(w, prefix, x, &dst, &c0, kind));
    return block_end(w, x, &dst, c0);
}

/* ---- Network ------------------------------------------------------------------------------- */

/* Layers before the blocks alternate as blocks do, so that only two of their large images are held.
 * A step without a name is the max pool. */
static imf_status stem(struct walk *w, struct imf__image *x, struct step s)
{
    struct imf__image next;
    w->last = w->last == IMF__ODD ? IMF__EVEN : IMF__ODD;
    w->net->regions[w->last].used = 0;
    IMF_TRY(s.name ? conv_in(w, w->last, "", s, x, &next)
                   : pool_in(w, w->last, IMF__POOL_MAX, s.edges, x, &next));
    *x = next;
    return IMF_OK;
}

static imf_status stems(struct walk *w, struct imf__image *x)
{
    static const struct step steps[] = {
        {"Conv2d_1a_3x3", REDUCE},
        {"Conv2d_2a_3x3", VALID},
        {"Conv2d_2b_3x3", SAME},
        {NULL, REDUCE},
        {"Conv2d_3b_1x1", SAME},
        {"Conv2d_4a_3x3", VALID},
        {NULL, REDUCE},
    };
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
        IMF_TRY(stem(w, x, steps[i]));
    return IMF_OK;
}

imf_status imf__inception_walk(struct imf_inception *net, struct imf__inception_source *source)
{
    struct imf__device *d = net->device;
    struct walk state = {.net = net, .source = source}, *w = &state;
    struct imf__image x = net->input;
    IMF_TRY(stems(w, &x));
    IMF_TRY(block_a(w, "Mixed_5b.", &x));
    IMF_TRY(block_a(w, "Mixed_5c.", &x));
    IMF_TRY(block_a(w, "Mixed_5d.", &x));
    IMF_TRY(block_b(w, "Mixed_6a.", &x));
    IMF_TRY(block_c(w, "Mixed_6b.", &x));
    IMF_TRY(block_c(w, "Mixed_6c.", &x));
    IMF_TRY(block_c(w, "Mixed_6d.", &x));
    if (source)
        net->spatial_channels = x.c;
    else
        IMF_TRY(d->ops->image_to_tokens(d, net->spatial, &x));
    IMF_TRY(block_c(w, "Mixed_6e.", &x));
    IMF_TRY(block_d(w, "Mixed_7a.", &x));
    IMF_TRY(block_e(w, "Mixed_7b.", &x, IMF__POOL_AVG));
    IMF_TRY(block_e(w, "Mixed_7c.", &x, IMF__POOL_MAX));
    if (source)
        return IMF_OK;
    IMF_TRY(d->ops->global_mean(d, net->features, &x));
    return d->ops->linear(d, net->logits, IMF__F32, net->features, net->fc, net->batch, IMF__STORE);
}
