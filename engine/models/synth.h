/* Synthetic weights: values anyone can regenerate from a tensor's name, index and a seed, so that
 * golden outputs of full-size models need no gigabyte files. The formula is in synth.c.
 *
 * The engine's own, and its tools': a program that serves needs imf.h alone. */
#ifndef IMF__SYNTH_H
#define IMF__SYNTH_H

#include "files/weights_write.h"

/* values[0..n) = elements first .. first + n - 1 of the tensor; ndim >= 1. */
void imf__synth_fill(float *values, const struct imf__name *name, uint64_t seed, uint64_t first,
                     size_t n);

/* Writes the weights of every tensor of the list into a file, in pieces. */
IMF_MUST_CHECK imf_status imf__synth_write(const char *path, const struct imf__weights_params *p,
                                           uint64_t seed,
                                           void (*progress)(void *user, double fraction),
                                           void *user, struct imf_error *err);

#endif
