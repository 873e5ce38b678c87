/* The tensors each model is made of: names as in the checkpoint, and shapes. One list serves the
 * loaders, `imfd inspect` (missing and extra tensors) and `imfd synth`.
 *
 * The engine's own, and its tools': a program that serves needs imf.h alone. */
#ifndef IMF__MODEL_NAMES_H
#define IMF__MODEL_NAMES_H

#include "files/checkpoint.h"
#include "files/names.h"

/* ---- The MeanFlow family: MiT and pMF -------------------------------------------------------- */

enum imf__family {
    IMF__MIT, /* Improved Mean Flows, arXiv 2512.02012: latents, or pixels of small models */
    IMF__PMF  /* Pixel MeanFlow, arXiv 2601.22158 */
};

struct imf__meanflow_shape {
    enum imf__family family;
    int depth, shared_depth; /* u blocks = depth - shared_depth */
    int hidden;              /* D, a multiple of the head size */
    int head_size;           /* one of IMF__HEAD_SIZES */
    int mlp_hidden;          /* M */
    int classes;             /* without the null class */
    int channels, patch_size;
    int input_size;    /* side of z; of a MiT not in the tensors */
    int bottleneck;    /* pMF's, between the two patch embeddings; 0 in a MiT */
    bool post_trained; /* FD-Loss: prefix tokens without a leading dimension of 1 (pMF only) */
};

/* What goes with a published size: sampling settings of the release, and what noise is multiplied
 * by. */
struct imf__meanflow_defaults {
    struct imf_sampling sampling;
    float noise_scale;
};

/* "MiT_B_2", "imfDiT_B_2", "iMF-B/2", "pmfDiT_H_32", "pMF-H/32", "pMF-H-32" and the like. False
 * when it is none. */
bool imf__meanflow_named(struct imf__meanflow_shape *out, const char *name);
/* Whether two names are one, or of one published model. */
bool imf__meanflow_same_name(const char *a, const char *b);
/* The published name of a size, or NULL. */
const char *imf__meanflow_name(const struct imf__meanflow_shape *s);
/* The published name, or one made of sizes: "pmfDiT_d4_h160". */
void imf__meanflow_title(char title[64], const struct imf__meanflow_shape *s);
/* Those of the family's B for sizes nobody listed, but no noise scale other than 1. */
struct imf__meanflow_defaults imf__meanflow_defaults(const struct imf__meanflow_shape *s);
/* The MLP's width of a family at a hidden size. */
int imf__meanflow_mlp_hidden(enum imf__family family, int hidden);
/* Reads the size off the shapes in a checkpoint (and a MiT's input size off its metadata).
 * IMF_EMODEL when it holds no such network. */
IMF_MUST_CHECK imf_status imf__meanflow_shape_read(struct imf__meanflow_shape *out,
                                                   const struct imf__checkpoint *c,
                                                   struct imf_error *err);
/* IMF_EINVAL, saying which, when a dimension is out of range. */
IMF_MUST_CHECK imf_status imf__meanflow_shape_check(const struct imf__meanflow_shape *s,
                                                    struct imf_error *err);
IMF_MUST_CHECK imf_status imf__meanflow_names(struct imf__names *out,
                                              const struct imf__meanflow_shape *s);

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
    IMF__MODEL_PMF,
    IMF__MODEL_SD_VAE,
    IMF__MODEL_TAESD,
    IMF__MODEL_INCEPTION
};

const char *imf__model_kind_name(enum imf__model_kind kind); /* "MiT", "pMF", "sd-vae", ... */
/* By the names that only one kind has. */
enum imf__model_kind imf__model_kind_of(const struct imf__checkpoint *c);

/* The tensor under any spelling, checked against the list's shape; a dimension of 1 more or less at
 * the end is fine (linear layers once were 1x1 convolutions). Errors name tensor, expected and
 * found shape. */
IMF_MUST_CHECK imf_status imf__model_require(const struct imf__tensor **out,
                                             const struct imf__checkpoint *c,
                                             const struct imf__name *name, struct imf_error *err);

/* The tensor, when it has `ndim` dimensions of sizes that fit an int; what sizes are read off. */
IMF_MUST_CHECK imf_status imf__model_shaped(const struct imf__tensor **out,
                                            const struct imf__checkpoint *c, const char *name,
                                            int ndim, struct imf_error *err);

#endif
