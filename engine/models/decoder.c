/* What the decoders share: telling them apart, denormalisation, and the one without a network. */
#include "models/decoder.h"
#include "common/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Statistics of Stable Diffusion's latents on ImageNet that the published models were trained with.
 */
static const float latent_mean[4] = {0.86488f, -0.27787343f, 0.21616915f, 0.3738409f};
static const float latent_std[4] = {4.85503674f, 5.31922414f, 3.93725398f, 3.9870003f};
#define TAESD_SCALE 0.18215f

const char *imf__decoder_name(enum imf__decoder_kind kind)
{
    static const char *const names[] = {"none", "sd-vae", "taesd"};
    return names[kind];
}

imf_status imf__decoder_conv_of(struct imf__decoder *dec, struct imf__loader *ld,
                                struct imf__conv **out, const struct imf__conv_desc *desc,
                                const float *w, const float *b, const char *name)
{
    IMF_TRY(imf__loader_fail(ld, dec->dev->ops->conv_load(dec->dev, out, desc, w, b), name));
    int up = desc->upsample2x ? 2 : 1;
    const struct imf__image images[] = {
        {.n = 1, .h = desc->in_h, .w = desc->in_w, .c = desc->in},
        {.n = 1, .h = desc->in_h * up, .w = desc->in_w * up, .c = desc->out, .f32 = desc->f32_out},
    };
    for (int i = 0; i < 2; i++) {
        size_t bytes = dec->dev->ops->image_bytes(dec->dev, &images[i]);
        dec->slot_bytes = bytes > dec->slot_bytes ? bytes : dec->slot_bytes;
    }
    dec->flops += 2.0 * desc->in * desc->out * desc->kh * desc->kw * (double)images[1].h *
                  (double)images[1].w;
    return IMF_OK;
}

imf_status imf__decoder_conv(struct imf__decoder *dec, struct imf__loader *ld,
                             struct imf__conv **out, const struct imf__conv_desc *desc, bool bias,
                             const char *name)
{
    float *w = NULL, *b = NULL;
    imf_status status = imf__loader_read(
        ld, &w, IMF__SHAPE(desc->out, desc->in, desc->kh, desc->kw), "%s.weight", name);
    if (status == IMF_OK && bias)
        status = imf__loader_read(ld, &b, IMF__SHAPE(desc->out), "%s.bias", name);
    if (status == IMF_OK)
        status = imf__decoder_conv_of(dec, ld, out, desc, w, b, name);
    free(w);
    free(b);
    return status;
}

static imf_status load_statistics(struct imf__decoder *dec, struct imf__loader *ld)
{
    float scale[64], shift[64];
    float f = dec->kind == IMF__DECODER_TAESD ? TAESD_SCALE : 1.0f;
    for (int c = 0; c < dec->channels; c++) {
        bool latent = dec->kind != IMF__DECODER_NONE;
        scale[c] = latent ? latent_std[c] * f : 1.0f;
        shift[c] = latent ? latent_mean[c] * f : 0.0f;
    }
    IMF_TRY(imf__loader_vector(ld, &dec->scale, scale, (size_t)dec->channels));
    return imf__loader_vector(ld, &dec->shift, shift, (size_t)dec->channels);
}

static imf_status load_none(struct imf__decoder *dec, struct imf_error *err)
{
    struct imf__loader ld = {.dev = dec->dev, .err = err};
    if (dec->channels != 3)
        return IMF_OK; /* latents only: there is no picture to make */
    struct imf__image img = {.n = 1, .h = dec->size, .w = dec->size, .c = 3, .f32 = true};
    dec->height = dec->width = dec->size;
    dec->slot_bytes = dec->dev->ops->image_bytes(dec->dev, &img);
    return load_statistics(dec, &ld);
}

static imf_status load_file(struct imf__decoder *dec, struct imf__loader *ld)
{
    const char *path = imf__checkpoint_path(ld->ckpt);
    enum imf__model_kind kind = imf__model_kind_of(ld->ckpt);
    if (kind == IMF__MODEL_SD_VAE)
        dec->kind = IMF__DECODER_SD_VAE;
    else if (kind == IMF__MODEL_TAESD)
        dec->kind = IMF__DECODER_TAESD;
    else
        return imf__fail(ld->err, IMF_EMODEL,
                         "%s: neither an sd-vae (tensor \"decoder.conv_in.weight\") nor a taesd "
                         "decoder (tensor \"3.conv.0.weight\")",
                         path);
    if (dec->channels != 4)
        return imf__fail(ld->err, IMF_EMODEL,
                         "%s: decodes latents of 4 channels; the model makes %d", path,
                         dec->channels);
    if (dec->kind == IMF__DECODER_SD_VAE)
        IMF_TRY(imf__sd_vae_load(dec, ld));
    else
        IMF_TRY(imf__taesd_load(dec, ld));
    return load_statistics(dec, ld);
}

imf_status imf__decoder_load(struct imf__decoder *dec, struct imf__device *dev, const char *path,
                             int channels, int size, uint64_t fingerprint[2], struct imf_error *err)
{
    memset(dec, 0, sizeof(*dec));
    dec->dev = dev;
    dec->channels = channels;
    dec->size = size;
    fingerprint[0] = fingerprint[1] = 0;
    imf_status status;
    if (strcmp(path, "none") == 0) {
        status = load_none(dec, err);
    } else {
        struct imf__loader ld;
        IMF_TRY(imf__loader_open(&ld, path, NULL, dev, err));
        status = load_file(dec, &ld);
        dec->parameters = ld.parameters;
        imf__checkpoint_fingerprint(ld.ckpt, fingerprint);
        imf__loader_close(&ld);
    }
    if (status != IMF_OK)
        imf__decoder_unload(dec);
    return status;
}

void imf__decoder_unload(struct imf__decoder *dec)
{
    if (!dec->dev)
        return;
    imf__sd_vae_unload(dec);
    imf__taesd_unload(dec);
    dec->dev->ops->free(dec->dev, dec->scale);
    dec->dev->ops->free(dec->dev, dec->shift);
    memset(dec, 0, sizeof(*dec));
}

static imf_status forward_none(struct imf__decoder *dec, struct imf__activations *arena,
                               uint8_t *rgb, const float *z, int n)
{
    if (!dec->width)
        return IMF_EUNSUPPORTED;
    size_t mark = imf__activations_mark(arena);
    struct imf__image img = {.data = imf__activations_alloc(arena, dec->slot_bytes * (size_t)n),
                             .n = n,
                             .h = dec->size,
                             .w = dec->size,
                             .c = 3,
                             .f32 = true};
    if (!img.data)
        return IMF_ENOMEM;
    IMF_TRY(dec->dev->ops->image_from_latent(dec->dev, &img, z, dec->scale, dec->shift, false));
    IMF_TRY(dec->dev->ops->to_rgb8(dec->dev, rgb, &img, 127.5f, 127.5f));
    imf__activations_reset(arena, mark);
    return IMF_OK;
}

imf_status imf__decoder_forward(struct imf__decoder *dec, struct imf__activations *arena,
                                uint8_t *rgb, const float *z, int n)
{
    switch (dec->kind) {
    case IMF__DECODER_SD_VAE:
        return imf__sd_vae_forward(dec, arena, rgb, z, n);
    case IMF__DECODER_TAESD:
        return imf__taesd_forward(dec, arena, rgb, z, n);
    case IMF__DECODER_NONE:
        break;
    }
    return forward_none(dec, arena, rgb, z, n);
}
