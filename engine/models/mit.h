/* MiT, the network of Improved Mean Flows (arXiv 2512.02012), written once over the device table.
 * Shapes: B samples, T = 20 + P tokens, D features, heads of 64, M = MLP width. */
#ifndef IMF__MODELS_MIT_H
#define IMF__MODELS_MIT_H

#include "models/activations.h"
#include "models/loader.h"

#define IMF__MIT_PREFIX 20 /* 8 class, 4 omega, 2 t_min, 2 t_max, 4 time tokens */

struct imf__mit_block {
    struct imf__linear *qkv;  /* (3 D, D), norm1 folded into its columns */
    struct imf__linear *out;  /* (D, D), attn_scale folded into its rows */
    struct imf__swiglu *up;   /* w1, w3 (M, D), norm2 folded into their columns */
    struct imf__linear *down; /* w2 (D, M), mlp_scale folded into its rows */
    float *q_norm, *k_norm;   /* (64) on the device */
};

enum imf__mit_scalar {
    IMF__MIT_OMEGA,
    IMF__MIT_T_MIN,
    IMF__MIT_T_MAX,
    IMF__MIT_H,
    IMF__MIT_SCALARS
};

/* Called with the residual stream x (B, T, D) on the device after a stage: "sequence" (layer 0),
 * "attention" and "block" (layer 0..depth-1). Only tests set it. */
typedef imf_status (*imf__mit_tap)(void *user, const char *stage, int layer, const float *x, int B);

struct imf__mit {
    struct imf__device *dev;
    int depth, shared_depth, D, NH, M, classes; /* classes without the null class */
    int Mp;                    /* M padded with zero rows and columns to what the device likes */
    int channels, size, patch; /* of the latent */
    int P, T;
    struct imf__mit_block *blocks;                         /* depth: shared blocks, then u heads */
    float *tokens;                                         /* (20, D) */
    float *class_table;                                    /* (classes + 1, D) */
    float *rope;                                           /* (2, T, 32) */
    struct imf__linear *patch_embed;                       /* (D, C p p) */
    struct imf__linear *scalar_embed[IMF__MIT_SCALARS][2]; /* (D, 256), (D, D) */
    struct imf__linear *final;                             /* (p p C, D), final norm folded in */
    imf__mit_tap tap;
    void *tap_user;
};

/* Device memory a forward pass works on; fixed addresses, room for max_batch. */
struct imf__mit_input {
    float *z;        /* (B, C, S, S), updated in place */
    float *scalars;  /* (4, max_batch): 1 - 1/omega, t_min, t_max, h; a row holds B values */
    float *dt;       /* (B): t - r */
    int32_t *labels; /* (B) */
    int max_batch;
};

/* Reads the sizes off the shapes, then every tensor. */
imf_status imf__mit_load(struct imf__mit *m, struct imf__loader *ld);
void imf__mit_unload(struct imf__mit *m);
/* One network evaluation and Euler step of B samples; borrows from the arena and gives back. */
imf_status imf__mit_forward(struct imf__mit *m, struct imf__activations *arena,
                            const struct imf__mit_input *in, int B);
double imf__mit_flops(const struct imf__mit *m); /* of one sample */

#endif
