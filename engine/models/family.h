/* What MiT and pMF differ in: how patches come in and where tokens are. Everything else of the
 * MeanFlow family is in meanflow*.c. Between these files only. */
#ifndef IMF__FAMILY_H
#define IMF__FAMILY_H

#include "models/meanflow.h"
#include "models/model_names_list.h"

struct imf__published {
    const char *names[3]; /* the first is ours */
    struct imf__meanflow_shape shape;
    struct imf__meanflow_defaults defaults;
};

struct imf__family_ends {
    const char *title; /* of sizes nobody listed: "MiT" in "MiT_d4_h128" */
    const struct imf__published *published;
    size_t published_count;
    /* Adds the tensors of patch embedding and positions to a list of names. */
    void (*list)(struct list *l, const struct imf__meanflow_shape *s);
    /* Reads hidden, channels, patch_size, input_size and bottleneck off a file. */
    imf_status (*read)(struct imf__meanflow_shape *s, const struct imf__checkpoint *c,
                       struct imf_error *err);
    /* Loads patch embedding, positions and rotary table; tokens (20, D) are on the host still. */
    imf_status (*load)(struct imf__meanflow *m, struct imf__loader *ld, float *tokens);
};

extern const struct imf__family_ends imf__mit_ends, imf__pmf_ends;

static inline const struct imf__family_ends *imf__ends_of(enum imf__family family)
{
    return family == IMF__PMF ? &imf__pmf_ends : &imf__mit_ends;
}

/* ---- meanflow_load.c: shared loading ---- */

/* NAME.weight of `shape`, as a matrix (N, K), and NAME.bias (N). */
imf_status imf__meanflow_load_named(struct imf__loader *ld, struct imf__linear **out,
                                    enum imf__dtype type, const int64_t shape[5], int N, int K,
                                    const char *name);
/* The rotary table (2, T, HS / 2) of angle(t, i), in float32 as the published code computes it. */
imf_status imf__meanflow_make_rope(struct imf__meanflow *m, struct imf__loader *ld,
                                   float (*angle)(const struct imf__meanflow *m, int t, int i));

#endif
