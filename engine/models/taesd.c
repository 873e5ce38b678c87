/* taesd: Ollin Boer Bohan's tiny decoder. The file numbers its layers as torch.nn.Sequential does:
 * 0 clamp, 1 convolution, 2 ReLU, 3-5 blocks, 6 upsampling, 7 convolution, 8-10 blocks, ... */
#include "models/decoder.h"
#include "common/error.h"

#include <stdio.h>
#include <stdlib.h>

#define WIDTH 64
#define BLOCKS 10
#define UPSAMPLINGS 3

struct block {
    struct imf__conv *conv[3]; /* ReLU after each; the third adds the block's input first */
};

struct imf__taesd {
    struct imf__conv *first, *last;
    struct block block[BLOCKS]; /* three before each upsampling, one after the last */
    struct imf__conv *upsample[UPSAMPLINGS];
};

static imf_status load_conv(struct imf__decoder *dec, struct imf__loader *ld,
                            struct imf__conv **out, struct imf__conv_desc d, int size, bool bias,
                            const char *name)
{
    d.kh = d.kw = 3;
    d.stride = d.pad_h = d.pad_w = 1;
    d.in_h = d.in_w = size;
    return imf__decoder_conv(dec, ld, out, &d, bias, name);
}

static imf_status load_block(struct imf__decoder *dec, struct imf__loader *ld, struct block *b,
                             int layer, int size)
{
    for (int i = 0; i < 3; i++) {
        char name[32];
        struct imf__conv_desc d = {.in = WIDTH, .out = WIDTH, .relu = true, .residual = i == 2};
        snprintf(name, sizeof(name), "%d.conv.%d", layer, 2 * i);
        IMF_TRY(load_conv(dec, ld, &b->conv[i], d, size, true, name));
    }
    return IMF_OK;
}

imf_status imf__taesd_load(struct imf__decoder *dec, struct imf__loader *ld)
{
    static const char *const skipped[] = {"encoder.", NULL};
    struct imf__taesd *t = dec->taesd = calloc(1, sizeof(*t));
    if (!t)
        return imf__fail(ld->err, IMF_ENOMEM, "no memory for the decoder");
    int size = dec->size, layer = 3, block = 0;
    struct imf__conv_desc first = {.in = dec->channels, .out = WIDTH, .relu = true};
    IMF_TRY(load_conv(dec, ld, &t->first, first, size, true, "1"));
    for (int up = 0; up < UPSAMPLINGS; up++) {
        for (int i = 0; i < 3; i++)
            IMF_TRY(load_block(dec, ld, &t->block[block++], layer++, size));
        struct imf__conv_desc d = {.in = WIDTH, .out = WIDTH, .upsample2x = true};
        char name[16];
        snprintf(name, sizeof(name), "%d", layer + 1);
        IMF_TRY(load_conv(dec, ld, &t->upsample[up], d, size, false, name));
        layer += 2;
        size *= 2;
    }
    IMF_TRY(load_block(dec, ld, &t->block[block], layer, size));
    struct imf__conv_desc last = {.in = WIDTH, .out = 3, .f32_out = true};
    char name[16];
    snprintf(name, sizeof(name), "%d", layer + 1);
    IMF_TRY(load_conv(dec, ld, &t->last, last, size, true, name));
    dec->height = dec->width = size;
    return imf__loader_finish(ld, skipped);
}

void imf__taesd_unload(struct imf__decoder *dec)
{
    struct imf__taesd *t = dec->taesd;
    struct imf__device *dev = dec->dev;
    if (!t)
        return;
    dev->ops->conv_free(dev, t->first);
    dev->ops->conv_free(dev, t->last);
    for (int i = 0; i < BLOCKS; i++) {
        for (int k = 0; k < 3; k++)
            dev->ops->conv_free(dev, t->block[i].conv[k]);
    }
    for (int i = 0; i < UPSAMPLINGS; i++)
        dev->ops->conv_free(dev, t->upsample[i]);
    free(t);
    dec->taesd = NULL;
}

/* x = relu(conv2(relu(conv1(relu(conv0 x)))) + x), in place. */
static imf_status run_block(struct imf__decoder *dec, const struct block *w, struct imf__image *x,
                            struct imf__image *a, struct imf__image *b)
{
    const struct imf__device_ops *ops = dec->dev->ops;
    a->h = b->h = x->h;
    a->w = b->w = x->w;
    IMF_TRY(ops->conv2d(dec->dev, a, x, w->conv[0], NULL));
    IMF_TRY(ops->conv2d(dec->dev, b, a, w->conv[1], NULL));
    return ops->conv2d(dec->dev, x, b, w->conv[2], x);
}

imf_status imf__taesd_forward(struct imf__decoder *dec, struct imf__activations *arena,
                              uint8_t *rgb, const float *z, int n)
{
    const struct imf__device_ops *ops = dec->dev->ops;
    struct imf__taesd *t = dec->taesd;
    size_t mark = imf__activations_mark(arena), bytes = dec->slot_bytes * (size_t)n;
    struct imf__image blank = {.n = n, .h = dec->size, .w = dec->size, .c = WIDTH};
    struct imf__image x = blank, a = blank, b = blank;
    x.data = imf__activations_alloc(arena, bytes);
    a.data = imf__activations_alloc(arena, bytes);
    b.data = imf__activations_alloc(arena, bytes);
    if (!b.data)
        return IMF_ENOMEM;
    a.c = dec->channels;
    IMF_TRY(ops->image_from_latent(dec->dev, &a, z, dec->scale, dec->shift, true));
    IMF_TRY(ops->conv2d(dec->dev, &x, &a, t->first, NULL));
    a.c = WIDTH;
    for (int i = 0; i < BLOCKS; i++) {
        IMF_TRY(run_block(dec, &t->block[i], &x, &a, &b));
        if (i % 3 != 2)
            continue;
        a.h = 2 * x.h;
        a.w = 2 * x.w;
        IMF_TRY(ops->conv2d(dec->dev, &a, &x, t->upsample[i / 3], NULL));
        struct imf__image swap = x;
        x = a;
        a = swap;
    }
    b.h = x.h;
    b.w = x.w;
    b.c = 3;
    b.f32 = true;
    IMF_TRY(ops->conv2d(dec->dev, &b, &x, t->last, NULL));
    IMF_TRY(ops->to_rgb8(dec->dev, rgb, &b, 255.0f, 0.0f));
    imf__activations_reset(arena, mark);
    return IMF_OK;
}
