/* The tensors each model is made of: names as in the checkpoint, and shapes. One list serves the
 * loaders, `imfd inspect` (missing and extra tensors) and `imfd synth`. */
#ifndef IMF__MODEL_NAMES_H
#define IMF__MODEL_NAMES_H

#include "files/checkpoint.h"
#include "files/names.h"

/* ---- MiT ------------------------------------------------------------------------------------- */

struct imf__mit_shape {
    int depth, shared_depth; /* u blocks = depth - shared_depth */
    int hidden;              /* D, a multiple of 64 */
    int mlp_hidden;          /* M, floor(8/3 D) in every published model */
    int classes;             /* without the null class */
    int channels, patch_size;
};

/* "MiT_B_2", "imfDiT_B_2" or "iMF-B/2", and the same for M, L, XL. False when it is none. */
bool imf__mit_shape_named(struct imf__mit_shape *out, const char *name);
/* The published name of a size, or NULL. */
const char *imf__mit_shape_name(const struct imf__mit_shape *s);
/* What sampling settings the release recommends for a size; those of B for sizes nobody listed. */
struct imf_sampling imf__mit_defaults(const struct imf__mit_shape *s);
/* Reads the size off the shapes in a checkpoint. IMF_EMODEL when it holds no MiT. */
IMF_MUST_CHECK imf_status imf__mit_shape_read(struct imf__mit_shape *out,
                                              const struct imf__checkpoint *c,
                                              struct imf_error *err);
/* IMF_EINVAL, saying which, when a dimension is out of range. */
IMF_MUST_CHECK imf_status imf__mit_shape_check(const struct imf__mit_shape *s,
                                               struct imf_error *err);
IMF_MUST_CHECK imf_status imf__mit_names(struct imf__names *out, const struct imf__mit_shape *s);

/* ---- Decoders and InceptionV3 ---------------------------------------------------------------- */

#define IMF__VAE_MAX_BLOCKS 8

struct imf__vae_shape {
    int latent_channels, blocks;
    int channels[IMF__VAE_MAX_BLOCKS]; /* of the up-blocks, in order: block_out_channels reversed */
};

void imf__vae_shape_init(struct imf__vae_shape *s); /* sd-vae-ft-mse: 512, 512, 256, 128 */
IMF_MUST_CHECK imf_status imf__vae_shape_read(struct imf__vae_shape *out,
                                              const struct imf__checkpoint *c,
                                              struct imf_error *err);
IMF_MUST_CHECK imf_status imf__vae_names(struct imf__names *out, const struct imf__vae_shape *s);
IMF_MUST_CHECK imf_status imf__taesd_names(struct imf__names *out);
/* InceptionV3 for FID, its channels `narrow` (1, 2, 4, 8 or 16) times fewer than published;
 * features and logits keep their size. */
IMF_MUST_CHECK imf_status imf__inception_names(struct imf__names *out, int narrow);
static inline bool imf__inception_narrow_valid(int64_t narrow)
{
    return narrow >= 1 && narrow <= 16 && (narrow & (narrow - 1)) == 0;
}
/* How narrow a checkpoint's network is. IMF_EMODEL when it holds none. */
IMF_MUST_CHECK imf_status imf__inception_narrow(int *out, const struct imf__checkpoint *c,
                                                struct imf_error *err);

/* ---- Checkpoints against lists --------------------------------------------------------------- */

enum imf__model_kind {
    IMF__MODEL_UNKNOWN,
    IMF__MODEL_MIT,
    IMF__MODEL_SD_VAE,
    IMF__MODEL_TAESD,
    IMF__MODEL_INCEPTION
};

const char *imf__model_kind_name(enum imf__model_kind kind); /* "MiT", "sd-vae", ... */
/* By the names that only one kind has. */
enum imf__model_kind imf__model_kind_of(const struct imf__checkpoint *c);

/* The tensor under any spelling, checked against the list's shape; a dimension of 1 more or less at
 * the end is fine (linear layers once were 1x1 convolutions). Errors name tensor, expected and
 * found shape. */
IMF_MUST_CHECK imf_status imf__model_require(const struct imf__tensor **out,
                                             const struct imf__checkpoint *c,
                                             const struct imf__name *name, struct imf_error *err);

#endif
