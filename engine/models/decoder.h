/* Latent to picture: sd-vae (diffusers' AutoencoderKL, decoder half), taesd, or none (the latent is
 * the picture). Each is written once over the device table; formulas: docs/model.md, section 6. */
#ifndef IMF__DECODER_H
#define IMF__DECODER_H

#include "models/activations.h"
#include "models/loader.h"

enum imf__decoder_kind { IMF__DECODER_NONE, IMF__DECODER_SD_VAE, IMF__DECODER_TAESD };

struct imf__sd_vae;
struct imf__taesd;

struct imf__decoder {
    enum imf__decoder_kind kind;
    struct imf__device *dev;
    int channels, size;   /* of the latent */
    int height, width;    /* of the picture; 0 when there is none: latents without a decoder */
    int norm_groups;      /* sd-vae's, which no shape tells: part of the fingerprint; else 0 */
    float *scale, *shift; /* (channels) on the device: denormalisation of the latent */
    struct imf__sd_vae *sd_vae;
    struct imf__taesd *taesd;
    size_t slot_bytes; /* the largest image of one picture */
    double flops;      /* of one picture */
    uint64_t parameters;
};

const char *imf__decoder_name(enum imf__decoder_kind kind);

/* path: a weights file, a folder that holds one under its published name, or "none".
 * fingerprint gets the decoder's weights' (zero for none). */
imf_status imf__decoder_load(struct imf__decoder *dec, struct imf__device *dev, const char *path,
                             int channels, int size, uint64_t fingerprint[2],
                             struct imf_error *err);
void imf__decoder_unload(struct imf__decoder *dec);
/* rgb (n, height, width, 3) uint8 on the device, of z (n, channels, size, size) f32. */
imf_status imf__decoder_forward(struct imf__decoder *dec, struct imf__activations *arena,
                                uint8_t *rgb, const float *z, int n);

/* ---- Shared by the decoders ---- */

/* A named convolution: reads NAME.weight (and NAME.bias unless desc says otherwise), loads it, and
 * accounts for its work, parameters and output size. Shape (out, in, kh, kw) comes from desc. */
imf_status imf__decoder_conv(struct imf__decoder *dec, struct imf__loader *ld,
                             struct imf__conv **out, const struct imf__conv_desc *desc, bool bias,
                             const char *name);

/* The same with weights from anywhere; name: for messages. */
imf_status imf__decoder_conv_of(struct imf__decoder *dec, struct imf__loader *ld,
                                struct imf__conv **out, const struct imf__conv_desc *desc,
                                const float *w, const float *b, const char *name);

imf_status imf__sd_vae_load(struct imf__decoder *dec, struct imf__loader *ld);
void imf__sd_vae_unload(struct imf__decoder *dec);
imf_status imf__sd_vae_forward(struct imf__decoder *dec, struct imf__activations *arena,
                               uint8_t *rgb, const float *z, int n);
imf_status imf__taesd_load(struct imf__decoder *dec, struct imf__loader *ld);
void imf__taesd_unload(struct imf__decoder *dec);
imf_status imf__taesd_forward(struct imf__decoder *dec, struct imf__activations *arena,
                              uint8_t *rgb, const float *z, int n);

#endif
