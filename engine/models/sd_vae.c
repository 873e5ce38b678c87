/* sd-vae: the decoder half of diffusers' AutoencoderKL. Sizes are read off the shapes; the number
 * of normalisation groups, which shapes do not tell, from config.json beside the file (32 without
 * one).
 *
 * A forward pass needs three images: x, the running one, and two to work in. */
#include "models/decoder.h"
#include "common/error.h"
#include "common/json.h"
#include "files/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_STAGES 8
#define MAX_RESNETS 8
#define NORM_EPS 1e-6f
#define ATTENTION "decoder.mid_block.attentions.0"

struct norm {
    float *gamma, *beta; /* (channels) on the device */
};

struct resnet {
    int in, out;
    struct norm norm1, norm2;
    struct imf__conv *conv1, *conv2, *shortcut; /* shortcut NULL where in == out */
};

struct attention {
    struct norm norm;
    struct imf__linear *q, *k, *v,
        *proj;                   /* (C, C) float32; or, where the device attends pictures: */
    struct imf__conv *qkv, *out; /* 1x1: C to 3 C channels, and C to C */
};

struct stage {
    int resnets;
    struct resnet resnet[MAX_RESNETS];
    struct imf__conv *upsample; /* NULL at the last stage */
    int channels;
};

struct imf__sd_vae {
    int groups, channels; /* of the middle block */
    struct imf__conv *post_quant, *conv_in, *conv_out;
    struct resnet middle[2];
    struct attention attention;
    int stages;
    struct stage stage[MAX_STAGES];
    struct norm norm_out;
};

/* ---- Loading ---- */

/* config.json's norm_num_groups. */
static imf_status read_groups(struct imf__sd_vae *v, struct imf__loader *ld)
{
    const char *weights = imf__checkpoint_path(ld->ckpt);
    struct stat st;
    char path[4096];
    const char *slash = strrchr(weights, '/');
    if (stat(weights, &st) == 0 && S_ISDIR(st.st_mode))
        snprintf(path, sizeof(path), "%s/config.json", weights);
    else
        snprintf(path, sizeof(path), "%.*sconfig.json", slash ? (int)(slash + 1 - weights) : 0,
                 weights);
    v->groups = 32;
    size_t size = 0;
    char *text = NULL;
    if (access(path, F_OK) != 0)
        return IMF_OK;
    IMF_TRY(imf__file_load(&text, &size, path, 1 << 20, ld->err));
    struct imf__json j;
    imf__json_init(&j, text, size);
    bool ok = imf__json_next(&j) == IMF__JSON_OBJECT;
    while (ok) {
        enum imf__json_event e = imf__json_next(&j);
        if (e == IMF__JSON_OBJECT_END)
            break;
        bool wanted = e == IMF__JSON_KEY && strcmp(j.string, "norm_num_groups") == 0;
        ok = e == IMF__JSON_KEY;
        e = ok ? imf__json_next(&j) : IMF__JSON_ERROR;
        if (wanted && e == IMF__JSON_NUMBER && j.is_integer && j.integer > 0 && j.integer <= 4096)
            v->groups = (int)j.integer;
        else if (wanted || !imf__json_skip(&j, e))
            ok = false;
    }
    free(text);
    return ok ? IMF_OK
              : imf__fail(ld->err, IMF_EFORMAT,
                          "%s: not a decoder configuration with a valid "
                          "norm_num_groups",
                          path);
}

static imf_status load_vector(struct imf__loader *ld, float **out, const char *name,
                              const char *part, int n)
{
    float *host = NULL;
    IMF_TRY(imf__loader_read(ld, &host, IMF__SHAPE(n), "%s.%s", name, part));
    imf_status status = imf__loader_vector(ld, out, host, (size_t)n);
    free(host);
    return status;
}

static imf_status load_norm(struct imf__sd_vae *v, struct imf__loader *ld, struct norm *norm,
                            const char *name, int n)
{
    if (n % v->groups != 0)
        return imf__fail(ld->err, IMF_EMODEL,
                         "%s: %s has %d channels, no multiple of %d groups (norm_num_groups of "
                         "config.json)",
                         imf__checkpoint_path(ld->ckpt), name, n, v->groups);
    IMF_TRY(load_vector(ld, &norm->gamma, name, "weight", n));
    return load_vector(ld, &norm->beta, name, "bias", n);
}

static struct imf__conv_desc conv_desc(int in, int out, int k, int size)
{
    return (struct imf__conv_desc){.in = in,
                                   .out = out,
                                   .kh = k,
                                   .kw = k,
                                   .stride = 1,
                                   .pad_h = k / 2,
                                   .pad_w = k / 2,
                                   .in_h = size,
                                   .in_w = size};
}

/* Output channels of the named convolution, or -1 when the file has none. */
static int conv_outputs(struct imf__loader *ld, const char *name)
{
    const struct imf__tensor *t = imf__loader_find(ld, "%s.weight", name);
    return t && t->ndim == 4 && t->shape[0] > 0 && t->shape[0] <= 8192 ? (int)t->shape[0] : -1;
}

static imf_status load_resnet(struct imf__decoder *dec, struct imf__loader *ld, struct resnet *r,
                              const char *at, int in, int size)
{
    char name[160];
    r->in = in;
    snprintf(name, sizeof(name), "%s.conv1", at);
    r->out = conv_outputs(ld, name);
    if (r->out < 0)
        return imf__fail(ld->err, IMF_EMODEL, "%s: tensor \"%s.weight\" is missing or no 4-D one",
                         imf__checkpoint_path(ld->ckpt), name);
    struct imf__conv_desc conv1 = conv_desc(in, r->out, 3, size);
    struct imf__conv_desc conv2 = conv_desc(r->out, r->out, 3, size);
    conv2.residual = true;
    conv1.norm_groups = conv2.norm_groups = dec->sd_vae->groups;
    IMF_TRY(imf__decoder_conv(dec, ld, &r->conv1, &conv1, true, name));
    snprintf(name, sizeof(name), "%s.conv2", at);
    IMF_TRY(imf__decoder_conv(dec, ld, &r->conv2, &conv2, true, name));
    if (in != r->out) {
        struct imf__conv_desc shortcut = conv_desc(in, r->out, 1, size);
        snprintf(name, sizeof(name), "%s.conv_shortcut", at);
        IMF_TRY(imf__decoder_conv(dec, ld, &r->shortcut, &shortcut, true, name));
    }
    snprintf(name, sizeof(name), "%s.norm1", at);
    IMF_TRY(load_norm(dec->sd_vae, ld, &r->norm1, name, in));
    snprintf(name, sizeof(name), "%s.norm2", at);
    return load_norm(dec->sd_vae, ld, &r->norm2, name, r->out);
}

static imf_status load_projection(struct imf__decoder *dec, struct imf__loader *ld,
                                  struct imf__linear **out, const char *name)
{
    int C = dec->sd_vae->channels;
    float *w = NULL, *b = NULL;
    imf_status status = imf__loader_read(ld, &w, IMF__SHAPE(C, C), ATTENTION ".%s.weight", name);
    if (status == IMF_OK)
        status = imf__loader_read(ld, &b, IMF__SHAPE(C), ATTENTION ".%s.bias", name);
    if (status == IMF_OK)
        status = imf__loader_fail(
            ld, dec->dev->ops->linear_load(dec->dev, out, IMF__F32, w, b, C, C), name);
    free(w);
    free(b);
    return status;
}

/* The same as 1x1 convolutions; q already divided by sqrt(C). */
static imf_status load_attention_picture(struct imf__decoder *dec, struct imf__loader *ld)
{
    static const char *const names[] = {"query", "key", "value"};
    struct imf__sd_vae *v = dec->sd_vae;
    const int C = v->channels;
    const size_t width = (size_t)C, size = width * width;
    struct imf__conv_desc qkv = conv_desc(C, 3 * C, 1, dec->size);
    struct imf__conv_desc out = conv_desc(C, C, 1, dec->size);
    out.residual = true;
    out.norm_groups = v->groups;
    float *w = malloc(3 * size * sizeof(*w)), *b = malloc(3 * width * sizeof(*b));
    float *proj = NULL, *bias = NULL;
    imf_status status =
        w && b ? IMF_OK : imf__fail(ld->err, IMF_ENOMEM, "no memory to load " ATTENTION);
    for (size_t i = 0; i < 3 && status == IMF_OK; i++) {
        float *weight = NULL, *added = NULL;
        status = imf__loader_read(ld, &weight, IMF__SHAPE(C, C), ATTENTION ".%s.weight", names[i]);
        if (status == IMF_OK)
            status = imf__loader_read(ld, &added, IMF__SHAPE(C), ATTENTION ".%s.bias", names[i]);
        if (status == IMF_OK) {
            memcpy(w + i * size, weight, size * sizeof(*w));
            memcpy(b + i * width, added, width * sizeof(*b));
        }
        free(weight);
        free(added);
    }
    const float scale = 1.0f / sqrtf((float)C);
    for (size_t i = 0; i < size && status == IMF_OK; i++)
        w[i] *= scale;
    for (size_t i = 0; i < width && status == IMF_OK; i++)
        b[i] *= scale;
    if (status == IMF_OK)
        status = imf__decoder_conv_of(dec, ld, &v->attention.qkv, &qkv, w, b, ATTENTION);
    if (status == IMF_OK)
        status = imf__loader_read(ld, &proj, IMF__SHAPE(C, C), ATTENTION ".proj_attn.weight");
    if (status == IMF_OK)
        status = imf__loader_read(ld, &bias, IMF__SHAPE(C), ATTENTION ".proj_attn.bias");
    if (status == IMF_OK)
        status = imf__decoder_conv_of(dec, ld, &v->attention.out, &out, proj, bias, ATTENTION);
    free(w);
    free(b);
    free(proj);
    free(bias);
    return status;
}

static imf_status load_attention(struct imf__decoder *dec, struct imf__loader *ld)
{
    struct imf__sd_vae *v = dec->sd_vae;
    struct attention *a = &v->attention;
    double T = (double)dec->size * dec->size, C = v->channels;
    IMF_TRY(load_norm(v, ld, &a->norm, ATTENTION ".group_norm", v->channels));
    dec->flops += 4 * T * T * C;
    if (dec->dev->attends_pictures && v->channels % 32 == 0)
        return load_attention_picture(dec, ld);
    IMF_TRY(load_projection(dec, ld, &a->q, "query"));
    IMF_TRY(load_projection(dec, ld, &a->k, "key"));
    IMF_TRY(load_projection(dec, ld, &a->v, "value"));
    IMF_TRY(load_projection(dec, ld, &a->proj, "proj_attn"));
    dec->flops += 2 * T * 4 * C * C;
    return IMF_OK;
}

static imf_status load_middle(struct imf__decoder *dec, struct imf__loader *ld)
{
    struct imf__sd_vae *v = dec->sd_vae;
    IMF_TRY(
        load_resnet(dec, ld, &v->middle[0], "decoder.mid_block.resnets.0", v->channels, dec->size));
    IMF_TRY(load_attention(dec, ld));
    IMF_TRY(load_resnet(dec, ld, &v->middle[1], "decoder.mid_block.resnets.1", v->middle[0].out,
                        dec->size));
    if (v->middle[0].out != v->channels || v->middle[1].out != v->channels)
        return imf__fail(ld->err, IMF_EMODEL, "%s: the middle block changes its number of channels",
                         imf__checkpoint_path(ld->ckpt));
    return IMF_OK;
}

/* Stage i of size `size`; *channels and *size are updated to what it puts out. */
static imf_status load_stage(struct imf__decoder *dec, struct imf__loader *ld, int i, int *channels,
                             int *size)
{
    struct stage *s = &dec->sd_vae->stage[i];
    char name[160];
    while (s->resnets < MAX_RESNETS &&
           imf__loader_find(ld, "decoder.up_blocks.%d.resnets.%d.conv1.weight", i, s->resnets)) {
        struct resnet *r = &s->resnet[s->resnets++];
        snprintf(name, sizeof(name), "decoder.up_blocks.%d.resnets.%d", i, s->resnets - 1);
        IMF_TRY(load_resnet(dec, ld, r, name, *channels, *size));
        *channels = r->out;
    }
    s->channels = *channels;
    snprintf(name, sizeof(name), "decoder.up_blocks.%d.upsamplers.0.conv", i);
    if (conv_outputs(ld, name) < 0)
        return IMF_OK;
    struct imf__conv_desc d = conv_desc(*channels, *channels, 3, *size);
    d.upsample2x = true;
    d.norm_groups = dec->sd_vae->groups;
    *size *= 2;
    return imf__decoder_conv(dec, ld, &s->upsample, &d, true, name);
}

static imf_status load_ends(struct imf__decoder *dec, struct imf__loader *ld)
{
    struct imf__sd_vae *v = dec->sd_vae;
    v->channels = conv_outputs(ld, "decoder.conv_in");
    if (v->channels < 0)
        return imf__fail(ld->err, IMF_EMODEL, "%s: tensor \"decoder.conv_in.weight\" is no kernel",
                         imf__checkpoint_path(ld->ckpt));
    struct imf__conv_desc quant = conv_desc(4, 4, 1, dec->size);
    struct imf__conv_desc in = conv_desc(4, v->channels, 3, dec->size);
    in.norm_groups = v->groups;
    IMF_TRY(imf__decoder_conv(dec, ld, &v->post_quant, &quant, true, "post_quant_conv"));
    return imf__decoder_conv(dec, ld, &v->conv_in, &in, true, "decoder.conv_in");
}

/* The middle attention's x, q, k and v, of one picture; they lie in an image that it does not need.
 */
#define TOKEN_MATRICES 4

static size_t token_bytes(const struct imf__decoder *dec)
{
    size_t n = (size_t)dec->size * (size_t)dec->size * (size_t)dec->sd_vae->channels;
    return (n * sizeof(float) + 255) / 256 * 256;
}

imf_status imf__sd_vae_load(struct imf__decoder *dec, struct imf__loader *ld)
{
    static const char *const skipped[] = {"encoder.", "quant_conv.", NULL};
    struct imf__sd_vae *v = dec->sd_vae = calloc(1, sizeof(*v));
    if (!v)
        return imf__fail(ld->err, IMF_ENOMEM, "no memory for the decoder");
    IMF_TRY(read_groups(v, ld));
    dec->norm_groups = v->groups;
    IMF_TRY(load_ends(dec, ld));
    IMF_TRY(load_middle(dec, ld));
    int channels = v->channels, size = dec->size;
    while (v->stages < MAX_STAGES &&
           imf__loader_find(ld, "decoder.up_blocks.%d.resnets.0.conv1.weight", v->stages))
        IMF_TRY(load_stage(dec, ld, v->stages++, &channels, &size));
    IMF_TRY(load_norm(v, ld, &v->norm_out, "decoder.conv_norm_out", channels));
    struct imf__conv_desc out = conv_desc(channels, 3, 3, size);
    out.f32_out = true;
    IMF_TRY(imf__decoder_conv(dec, ld, &v->conv_out, &out, true, "decoder.conv_out"));
    dec->height = dec->width = size;
    if (!v->attention.qkv && dec->slot_bytes < TOKEN_MATRICES * token_bytes(dec))
        dec->slot_bytes = TOKEN_MATRICES * token_bytes(dec);
    return imf__loader_finish(ld, skipped);
}

static void unload_norm(struct imf__device *dev, struct norm *n)
{
    dev->ops->free(dev, n->gamma);
    dev->ops->free(dev, n->beta);
}

static void unload_resnet(struct imf__device *dev, struct resnet *r)
{
    dev->ops->conv_free(dev, r->conv1);
    dev->ops->conv_free(dev, r->conv2);
    dev->ops->conv_free(dev, r->shortcut);
    unload_norm(dev, &r->norm1);
    unload_norm(dev, &r->norm2);
}

void imf__sd_vae_unload(struct imf__decoder *dec)
{
    struct imf__sd_vae *v = dec->sd_vae;
    struct imf__device *dev = dec->dev;
    if (!v)
        return;
    dev->ops->conv_free(dev, v->post_quant);
    dev->ops->conv_free(dev, v->conv_in);
    dev->ops->conv_free(dev, v->conv_out);
    unload_norm(dev, &v->norm_out);
    for (int i = 0; i < 2; i++)
        unload_resnet(dev, &v->middle[i]);
    unload_norm(dev, &v->attention.norm);
    dev->ops->linear_free(dev, v->attention.q);
    dev->ops->linear_free(dev, v->attention.k);
    dev->ops->linear_free(dev, v->attention.v);
    dev->ops->linear_free(dev, v->attention.proj);
    dev->ops->conv_free(dev, v->attention.qkv);
    dev->ops->conv_free(dev, v->attention.out);
    for (int i = 0; i < v->stages; i++) {
        for (int k = 0; k < v->stage[i].resnets; k++)
            unload_resnet(dev, &v->stage[i].resnet[k]);
        dev->ops->conv_free(dev, v->stage[i].upsample);
    }
    free(v);
    dec->sd_vae = NULL;
}

/* ---- Forward ---- */

struct images {
    struct imf__image x, a, b; /* x is the running picture; a and b are to work in */
};

static void swap(struct imf__image *p, struct imf__image *q)
{
    struct imf__image t = *p;
    *p = *q;
    *q = t;
}

/* Gives a working image the size of another, with `c` channels. */
static void shape_like(struct imf__image *dst, const struct imf__image *src, int c)
{
    dst->h = src->h;
    dst->w = src->w;
    dst->c = c;
}

static imf_status norm_silu(struct imf__decoder *dec, struct imf__image *dst,
                            const struct imf__image *src, const struct norm *n, bool silu)
{
    return dec->dev->ops->group_norm(dec->dev, dst, src, n->gamma, n->beta, dec->sd_vae->groups,
                                     NORM_EPS, silu);
}

static imf_status resnet(struct imf__decoder *dec, const struct resnet *r, struct images *im)
{
    const struct imf__device_ops *ops = dec->dev->ops;
    shape_like(&im->a, &im->x, r->in);
    shape_like(&im->b, &im->x, r->out);
    IMF_TRY(norm_silu(dec, &im->a, &im->x, &r->norm1, true));
    IMF_TRY(ops->conv2d(dec->dev, &im->b, &im->a, r->conv1, NULL));
    IMF_TRY(norm_silu(dec, &im->b, &im->b, &r->norm2, true));
    if (r->shortcut) {
        shape_like(&im->a, &im->x, r->out);
        IMF_TRY(ops->conv2d(dec->dev, &im->a, &im->x, r->shortcut, NULL));
        swap(&im->x, &im->a);
    }
    return ops->conv2d(dec->dev, &im->x, &im->b, r->conv2, &im->x); /* added in place */
}

static imf_status attention(struct imf__decoder *dec, struct images *im)
{
    const struct imf__device_ops *ops = dec->dev->ops;
    const struct attention *w = &dec->sd_vae->attention;
    int n = im->x.n, T = im->x.h * im->x.w, C = im->x.c, rows = n * T;
    size_t each = token_bytes(dec) / sizeof(float) * (size_t)n;
    float *x = im->b.data, *q = x + each, *k = q + each, *v = k + each; /* each (n, T, C) */
    shape_like(&im->a, &im->x, C);
    IMF_TRY(norm_silu(dec, &im->a, &im->x, &w->norm, false));
    if (w->qkv) {
        shape_like(&im->b, &im->x, 3 * C);
        IMF_TRY(ops->conv2d(dec->dev, &im->b, &im->a, w->qkv, NULL));
        IMF_TRY(ops->attention_picture(dec->dev, &im->a, &im->b));
        return ops->conv2d(dec->dev, &im->x, &im->a, w->out, &im->x);
    }
    IMF_TRY(ops->image_to_tokens(dec->dev, x, &im->a));
    IMF_TRY(ops->linear(dec->dev, q, IMF__F32, x, w->q, rows, IMF__STORE));
    IMF_TRY(ops->linear(dec->dev, k, IMF__F32, x, w->k, rows, IMF__STORE));
    IMF_TRY(ops->linear(dec->dev, v, IMF__F32, x, w->v, rows, IMF__STORE));
    IMF_TRY(ops->attention_single(dec->dev, x, q, k, v, n, T, C));
    IMF_TRY(ops->linear(dec->dev, q, IMF__F32, x, w->proj, rows, IMF__STORE));
    return ops->tokens_to_image(dec->dev, &im->x, q, true);
}

static imf_status stage(struct imf__decoder *dec, const struct stage *s, struct images *im)
{
    for (int i = 0; i < s->resnets; i++)
        IMF_TRY(resnet(dec, &s->resnet[i], im));
    if (!s->upsample)
        return IMF_OK;
    im->a.h = 2 * im->x.h;
    im->a.w = 2 * im->x.w;
    im->a.c = s->channels;
    IMF_TRY(dec->dev->ops->conv2d(dec->dev, &im->a, &im->x, s->upsample, NULL));
    swap(&im->x, &im->a);
    return IMF_OK;
}

imf_status imf__sd_vae_forward(struct imf__decoder *dec, struct imf__activations *arena,
                               uint8_t *rgb, const float *z, int n)
{
    const struct imf__device_ops *ops = dec->dev->ops;
    struct imf__sd_vae *v = dec->sd_vae;
    size_t mark = imf__activations_mark(arena), bytes = dec->slot_bytes * (size_t)n;
    struct imf__image blank = {.n = n, .h = dec->size, .w = dec->size, .c = dec->channels};
    struct images im = {blank, blank, blank};
    im.x.data = imf__activations_alloc(arena, bytes);
    im.a.data = imf__activations_alloc(arena, bytes);
    im.b.data = imf__activations_alloc(arena, bytes);
    if (!im.b.data)
        return IMF_ENOMEM;
    IMF_TRY(ops->image_from_latent(dec->dev, &im.a, z, dec->scale, dec->shift, false));
    IMF_TRY(ops->conv2d(dec->dev, &im.b, &im.a, v->post_quant, NULL));
    im.x.c = v->channels;
    IMF_TRY(ops->conv2d(dec->dev, &im.x, &im.b, v->conv_in, NULL));
    IMF_TRY(resnet(dec, &v->middle[0], &im));
    IMF_TRY(attention(dec, &im));
    IMF_TRY(resnet(dec, &v->middle[1], &im));
    for (int i = 0; i < v->stages; i++)
        IMF_TRY(stage(dec, &v->stage[i], &im));
    shape_like(&im.a, &im.x, im.x.c);
    IMF_TRY(norm_silu(dec, &im.a, &im.x, &v->norm_out, true));
    shape_like(&im.b, &im.x, 3);
    im.b.f32 = true;
    IMF_TRY(ops->conv2d(dec->dev, &im.b, &im.a, v->conv_out, NULL));
    IMF_TRY(ops->to_rgb8(dec->dev, rgb, &im.b, 127.5f, 127.5f)); /* (y + 1) / 2 * 255 */
    imf__activations_reset(arena, mark);
    return IMF_OK;
}
