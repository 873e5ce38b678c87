/* Building lists, and the decoders'. The MeanFlow family's are in meanflow_names.c, InceptionV3's
 * long table in model_names_inception.c. */
#include "models/model_names_list.h"

#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Lists ----------------------------------------------------------------------------------- */

void imf__list_add(struct list *l, int ndim, const int64_t shape[4], const char *format, ...)
{
    struct imf__names *n = l->names;
    if (l->status == IMF_OK && n->count == n->capacity) {
        size_t capacity = n->capacity ? 2 * n->capacity : 128;
        struct imf__name *grown = realloc(n->items, capacity * sizeof(*grown));
        if (grown) {
            n->items = grown;
            n->capacity = capacity;
        } else {
            l->status = IMF_ENOMEM;
        }
    }
    if (l->status != IMF_OK)
        return;
    struct imf__name *item = &n->items[n->count++];
    *item = (struct imf__name){.ndim = ndim, .needed = !l->unneeded && ndim > 0};
    uint64_t count = ndim > 0;
    for (int i = 0; i < ndim; i++) {
        item->shape[i] = shape[i];
        count *= (uint64_t)shape[i];
    }
    n->parameters += count;
    char rest[sizeof(item->name)];
    va_list ap;
    va_start(ap, format);
    vsnprintf(rest, sizeof(rest), format, ap);
    va_end(ap);
    snprintf(item->name, sizeof(item->name), "%.63s%.64s", l->prefix, rest);
}

imf_status imf__list_end(struct list *l)
{
    if (l->status != IMF_OK)
        imf__names_free(l->names);
    return l->status;
}

/* ---- sd-vae ---------------------------------------------------------------------------------- */

void imf__vae_shape_init(struct imf__vae_shape *s)
{
    *s = (struct imf__vae_shape){4, 4, {512, 512, 256, 128}};
}

/* weight and bias of a normalisation. */
static void norm(struct list *l, int64_t channels, const char *name)
{
    imf__list_add(l, D1(channels), "%s.weight", name);
    imf__list_add(l, D1(channels), "%s.bias", name);
}

static void conv(struct list *l, int64_t out, int64_t in, int64_t side, const char *name)
{
    imf__list_add(l, D4(out, in, side, side), "%s.weight", name);
    imf__list_add(l, D1(out), "%s.bias", name);
}

static void resnet(struct list *l, int64_t in, int64_t out)
{
    norm(l, in, "norm1");
    conv(l, out, in, 3, "conv1");
    norm(l, out, "norm2");
    conv(l, out, out, 3, "conv2");
    if (in != out)
        conv(l, out, in, 1, "conv_shortcut");
}

imf_status imf__vae_names(struct imf__names *out, const struct imf__vae_shape *s)
{
    static const char *const attention[] = {"query", "key", "value", "proj_attn"};
    struct list l = {.names = out, .prefix = "decoder."};
    int64_t mid = s->channels[0], in = mid, last = s->channels[s->blocks - 1];
    *out = (struct imf__names){0};
    conv(&l, mid, s->latent_channels, 3, "conv_in");
    for (int b = 0; b < s->blocks; b++) {
        for (int r = 0; r < 3; r++) {
            snprintf(l.prefix, sizeof(l.prefix), "decoder.up_blocks.%d.resnets.%d.", b, r);
            resnet(&l, in, s->channels[b]);
            in = s->channels[b];
        }
        snprintf(l.prefix, sizeof(l.prefix), "decoder.up_blocks.%d.upsamplers.0.", b);
        if (b + 1 < s->blocks)
            conv(&l, in, in, 3, "conv");
    }
    snprintf(l.prefix, sizeof(l.prefix), "decoder.mid_block.attentions.0.");
    norm(&l, mid, "group_norm");
    for (int i = 0; i < 4; i++) {
        imf__list_add(&l, D2(mid, mid), "%s.weight", attention[i]);
        imf__list_add(&l, D1(mid), "%s.bias", attention[i]);
    }
    for (int r = 0; r < 2; r++) {
        snprintf(l.prefix, sizeof(l.prefix), "decoder.mid_block.resnets.%d.", r);
        resnet(&l, mid, mid);
    }
    snprintf(l.prefix, sizeof(l.prefix), "decoder.");
    norm(&l, last, "conv_norm_out");
    conv(&l, 3, last, 3, "conv_out");
    l.prefix[0] = '\0';
    conv(&l, s->latent_channels, s->latent_channels, 1, "post_quant_conv");
    return imf__list_end(&l);
}

imf_status imf__vae_shape_read(struct imf__vae_shape *out, const struct imf__checkpoint *c,
                               struct imf_error *err)
{
    const struct imf__tensor *t;
    imf_status status = imf__model_shaped(&t, c, "decoder.conv_in.weight", 4, err);
    if (status != IMF_OK)
        return status;
    struct imf__vae_shape s = {.latent_channels = (int)t->shape[1]};
    int64_t mid = t->shape[0];
    for (;; s.blocks++) {
        char name[80];
        snprintf(name, sizeof(name), "decoder.up_blocks.%d.resnets.0.conv1.weight", s.blocks);
        if (!imf__checkpoint_find(c, name))
            break;
        if (s.blocks == IMF__VAE_MAX_BLOCKS)
            return imf__fail(err, IMF_EMODEL, "%s: more than %d up-blocks", imf__checkpoint_path(c),
                             IMF__VAE_MAX_BLOCKS);
        status = imf__model_shaped(&t, c, name, 4, err);
        if (status != IMF_OK)
            return status;
        s.channels[s.blocks] = (int)t->shape[0];
    }
    if (s.blocks == 0 || s.channels[0] != mid)
        return imf__fail(err, IMF_EMODEL,
                         "%s: decoder.conv_in has %lld channels, the first of %d up-blocks %d",
                         imf__checkpoint_path(c), (long long)mid, s.blocks, s.channels[0]);
    for (int b = 0; b < s.blocks; b++) {
        if (s.channels[b] > 16384 || s.latent_channels > 64)
            return imf__fail(err, IMF_EMODEL, "%s: an up-block of %d channels",
                             imf__checkpoint_path(c), s.channels[b]);
    }
    *out = s;
    return IMF_OK;
}

/* ---- taesd ----------------------------------------------------------------------------------- */

imf_status imf__taesd_names(struct imf__names *out)
{
    /* Layers by their index: c a convolution of 64 channels without bias, b a block; the others
     * (clamp, ReLU, upsampling) have no weights. */
    static const char layers[] = "-C-bbb-cbbb-cbbb-cbO";
    struct list l = {.names = out};
    *out = (struct imf__names){0};
    for (int i = 0; layers[i]; i++) {
        snprintf(l.prefix, sizeof(l.prefix), "%d.", i);
        if (layers[i] == 'c')
            imf__list_add(&l, D4(64, 64, 3, 3), "weight");
        for (int k = 0; layers[i] == 'b' && k <= 4; k += 2) {
            imf__list_add(&l, D4(64, 64, 3, 3), "conv.%d.weight", k);
            imf__list_add(&l, D1(64), "conv.%d.bias", k);
        }
        if (layers[i] == 'C' || layers[i] == 'O') {
            int64_t to = layers[i] == 'C' ? 64 : 3, from = layers[i] == 'C' ? 4 : 64;
            imf__list_add(&l, D4(to, from, 3, 3), "weight");
            imf__list_add(&l, D1(to), "bias");
        }
    }
    return imf__list_end(&l);
}
