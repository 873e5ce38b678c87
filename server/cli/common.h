/* What the commands that run the engine share: its options, opening it, and saying what failed. */
#ifndef IMFD_CLI_H
#define IMFD_CLI_H

#include "imf.h"
#include "settings/model_options.h"
#include "base/progress.h"

/* Opens the engine. 0, or the exit status after having said why on stderr. */
int imfd_engine_open(struct imf_engine **out, const struct imfd_usage *usage,
                     const struct device_options *options);
/* Loads a model with a progress bar, and says which of several state dicts was taken. 0, or the
 * exit status after having said why. */
int imfd_model_open(struct imf_model **out, struct imf_engine *e, const struct imfd_usage *usage,
                    struct imf_model_params *params);

/* "imfd COMMAND: sentence" to stderr; returns 1. */
__attribute__((format(printf, 2, 3))) int imfd_fail(const struct imfd_usage *usage,
                                                    const char *format, ...);

#endif
