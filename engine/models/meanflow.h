/* The networks of the MeanFlow family, written once over the device table: MiT of Improved Mean
 * Flows (arXiv 2512.02012) and pMF of Pixel MeanFlow (arXiv 2601.22158). mit.c and pmf.c have what
 * is theirs alone. Shapes: B samples, T = 20 + P tokens, D features, NH heads of HS, M = MLP width.
 */
#ifndef IMF__MEANFLOW_H
#define IMF__MEANFLOW_H

#include "models/activations.h"
#include "models/loader.h"

#define IMF__PREFIX 20 /* 8 class, 4 omega, 2 t_min, 2 t_max, 4 time tokens */

struct imf__meanflow_block {
    struct imf__linear *qkv;  /* (3 D, D), norm1 folded into its columns */
    struct imf__linear *out;  /* (D, D), attn_scale folded into its rows */
    struct imf__swiglu *up;   /* w1, w3 (M, D), norm2 folded into their columns */
    struct imf__linear *down; /* w2 (D, M), mlp_scale folded into its rows */
    float *q_norm, *k_norm;   /* (HS) on the device */
};

enum imf__meanflow_scalar { IMF__OMEGA, IMF__T_MIN, IMF__T_MAX, IMF__H, IMF__SCALARS };

/* Called with the residual stream x (B, T, D) on the device after a stage: "sequence" (layer 0),
 * "attention" and "block" (layer 0..depth-1). Only tests set it. */
typedef imf_status (*imf__meanflow_tap)(void *user, const char *stage, int layer, const float *x,
                                        int B);

struct imf__meanflow {
    struct imf__device *dev;
    struct imf__meanflow_shape shape;
    int depth, shared_depth, D, NH, HS, M,
        classes;               /* of the shape; classes without the null class */
    int Mp;                    /* M padded with zero rows and columns to what the device likes */
    int channels, size, patch; /* of z */
    int bottleneck;            /* 0: one patch embedding */
    int P, T;
    bool predicts_x;                    /* the last layer gives the picture, not the velocity u */
    enum imf__dtype end_type;           /* of patches going in and features coming out */
    struct imf__meanflow_block *blocks; /* depth: shared blocks, then u heads */
    float *tokens;                      /* (20, D) */
    float *class_table;                 /* (classes + 1, D) */
    float *positions;                   /* (P, D) added to the patches, or NULL */
    float *rope;                        /* (2, T, HS / 2) */
    struct imf__linear *patch_embed[2]; /* (D, C p p); or (bottleneck, C p p), (D,
                                           bottleneck) */
    struct imf__linear *scalar_embed[IMF__SCALARS][2]; /* (D, 256), (D, D) */
    struct imf__scalars_known *known; /* what they gave last (scalars.c), or NULL */
    struct imf__linear *final;        /* (p p C, D), final norm folded in */
    imf__meanflow_tap tap;
    void *tap_user;
};

/* Device memory a forward pass works on; fixed addresses, room for max_batch. */
struct imf__meanflow_input {
    float *z;        /* (B, C, S, S), updated in place */
    float *scalars;  /* (4, max_batch): 1 - 1/omega, t_min, t_max, h; a row holds B values */
    float *dt;       /* (B): t - r, over max(t, 0.05) where the network predicts x */
    int32_t *labels; /* (B) */
    int max_batch;
};

/* Reads the sizes off the shapes, then every tensor. */
imf_status imf__meanflow_load(struct imf__meanflow *m, struct imf__loader *ld);
void imf__meanflow_unload(struct imf__meanflow *m);
/* One network evaluation and Euler step of B samples; borrows from the arena and gives back. */
imf_status imf__meanflow_forward(struct imf__meanflow *m, struct imf__activations *arena,
                                 const struct imf__meanflow_input *in, int B);

/* scalars.c: dst (IMF__SCALARS, B, D) of in's scalars, by m->scalar_embed. */
imf_status imf__scalars_load(struct imf__meanflow *m); /* room to remember */
imf_status imf__scalars_embed(struct imf__meanflow *m, struct imf__activations *a, float *dst,
                              const struct imf__meanflow_input *in, int B);

double imf__meanflow_flops(const struct imf__meanflow *m); /* of one sample */

#endif
