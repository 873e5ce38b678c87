/* Noise of large pictures, drawn beside the engine thread. A small model's latent takes 40 us to
 * draw; 3 x 512 x 512 numbers take 8 ms, which a GPU would wait for. Two threads draw them, or four
 * where there are more than four processors, most of the time while the batch before computes; they
 * share the work on one drawing, as a lone request waits for it.
 *
 * Threads: want and take are called by one thread, the engine's; the drawing threads touch nothing
 * but this object and models that stay loaded until noise_destroy. Its lock is a leaf. */
#ifndef SCHEDULER_NOISE_H
#define SCHEDULER_NOISE_H

#include "imf.h"

/* Numbers from which on it is worth it. */
#define NOISE_LARGE ((size_t)1 << 16)
/* Drawings kept; memory is this times the largest z at most. */
#define NOISE_KEPT 16

struct noise; /* opaque */

/* draw, shape: imf_model_noise in the two steps of common/noise.h. */
IMF_MUST_CHECK imf_status
noise_create(struct noise **out, void (*draw)(const struct imf_model *m, float *z, uint64_t seed),
             void (*shape)(const struct imf_model *m, float *z, size_t n));
void noise_destroy(struct noise *n); /* NULL is fine */
/* Has it drawn, as what will be taken next. What was wanted longest ago gives its place. */
void noise_want(struct noise *n, const struct imf_model *m, uint64_t seed, size_t count);
/* Copies it to z, once it is drawn; wanted or not. IMF_ENOMEM. */
IMF_MUST_CHECK imf_status noise_take(struct noise *n, const struct imf_model *m, uint64_t seed,
                                     float *z, size_t count);

#endif
