/* The last part of `imfd selfcheck`: the same samples again and again. */
#ifndef IMFD_SELFCHECK_SUSTAINED_H
#define IMFD_SELFCHECK_SUSTAINED_H

#include "imf.h"

/* Draws two samples for at least `seconds` and four rounds, alone and in a batch, and compares
 * every latent with the first bit for bit. On a GPU the first round runs eagerly and the others
 * replay its captured graph. Prints one line; 1 on a miss. */
int imfd_selfcheck_sustained(struct imf_engine *e, const char *checkpoint, int seconds);

#endif
