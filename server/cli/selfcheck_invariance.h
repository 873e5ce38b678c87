/* The part of `imfd selfcheck` about one promise: a sample's bits do not depend on its batch. */
#ifndef IMFD_SELFCHECK_INVARIANCE_H
#define IMFD_SELFCHECK_INVARIANCE_H

#include "cli/common.h"

/* Draws the same samples in batches of 1, 2, 3 and 5, with 1 to 4 threads and as many as `o` asks
 * for, through layers of published widths (MiT-B with taesd, MiT-XL with sd-vae, pMF-B), and prints
 * a table of what has the same bits. Thread counts whose fingerprint differs may differ. 1 on a
 * miss. CPU only. */
int imfd_selfcheck_invariance(const struct imfd_usage *usage, const struct device_options *o);

#endif
