/* The part of `imfd selfcheck --full` that draws with a model of full size. */
#ifndef IMFD_SELFCHECK_FULL_H
#define IMFD_SELFCHECK_FULL_H

#include "imf.h"

struct imfd_full_check {
    const char *device; /* as imf_engine_create takes it */
    enum imf_precision precision;
    const char *checkpoint, *decoder;
    int batch;
};

/* Draws a whole batch and some of its samples alone, again beside a larger model, and on a second
 * engine of the same device: the bits must be the same, of latents and of pictures. Then one sample
 * on the CPU in float32, which must be near. Prints a line each; the number of misses. */
int imfd_selfcheck_full(const struct imfd_full_check *check);

#endif
