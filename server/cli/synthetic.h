/* Synthetic weights in a temporary file, for `bench` and `selfcheck`, which need a model's size but
 * no training. */
#ifndef IMFD_SYNTHETIC_H
#define IMFD_SYNTHETIC_H

#include "imf.h"
#include "models/model_names.h"

#include <limits.h>

struct imfd_synthetic {
    char folder[PATH_MAX]; /* "" when there is none */
    char path[PATH_MAX];
};

/* True for what imfd_synthetic_make takes: the name of a MiT or pMF, "sd-vae" or "taesd". */
bool imfd_synthetic_known(const char *name);
/* True for the name of a network whose pictures a decoder makes. */
bool imfd_synthetic_draws_latents(const char *name);
/* Writes the weights (float32, seed 0) below TMPDIR, with a progress bar. */
IMF_MUST_CHECK imf_status imfd_synthetic_make(struct imfd_synthetic *s, const char *name,
                                              struct imf_error *err);
/* The same for any size and seed; no progress bar. */
IMF_MUST_CHECK imf_status imfd_synthetic_make_shape(struct imfd_synthetic *s,
                                                    const struct imf__meanflow_shape *shape,
                                                    uint64_t seed, struct imf_error *err);
/* Deletes the file, which a loaded model no longer needs. Harmless when nothing was made. */
void imfd_synthetic_remove(struct imfd_synthetic *s);

#endif
