/* What the commands that run the engine share: its options, opening it, and saying what failed. */
#ifndef IMFD_CLI_H
#define IMFD_CLI_H

#include "imf.h"
#include "base/options.h"
#include "base/progress.h"

struct imfd_engine_options {
    const char *device, *precision;
    int threads;
};

/* Their defaults. */
#define IMFD_ENGINE_OPTIONS_INIT                                                                   \
    {                                                                                              \
        .device = "auto", .precision = "auto", .threads = 0                                        \
    }

/* Rows of an option table for struct imfd_engine_options o. */
#define IMFD_ENGINE_OPTIONS(o)                                                                     \
    {.name = "device",                                                                             \
     .type = IMFD_OPTION_STRING,                                                                   \
     .value = &(o).device,                                                                         \
     .argument = "NAME",                                                                           \
     .help = "auto, cpu, cuda or cuda:N (default: auto, a GPU if there is one)"},                  \
        {.name = "precision",                                                                      \
         .type = IMFD_OPTION_STRING,                                                               \
         .value = &(o).precision,                                                                  \
         .argument = "NAME",                                                                       \
         .help = "auto, fp32 or bf16 (default: auto, bf16 where the device has it)"},              \
    {                                                                                              \
        .name = "threads", .type = IMFD_OPTION_INT, .value = &(o).threads, .argument = "N",        \
        .min = 0, .max = 1024, .help = "threads of the CPU device (default: 0, all processors)"    \
    }

/* Rows for what is said about a checkpoint, of struct imf_model_params p. */
#define IMFD_MODEL_OPTIONS(p)                                                                      \
    {.name = "checkpoint-key",                                                                     \
     .type = IMFD_OPTION_STRING,                                                                   \
     .value = &(p).checkpoint_key,                                                                 \
     .argument = "KEY",                                                                            \
     .help = "which state dict of a file with several, such as model_ema (default: model)"},       \
    {                                                                                              \
        .name = "noise-scale", .type = IMFD_OPTION_FLOAT, .value = &(p).noise_scale,               \
        .argument = "X", .min = 1e-3, .max = 1e3,                                                  \
        .help = "what the noise is multiplied by (default: the model's)"                           \
    }

/* Opens the engine. 0, or the exit status after having said why on stderr. */
int imfd_engine_open(struct imf_engine **out, const struct imfd_usage *usage,
                     const struct imfd_engine_options *options);
/* Loads a model with a progress bar, and says which of several state dicts was taken. 0, or the
 * exit status after having said why. */
int imfd_model_open(struct imf_model **out, struct imf_engine *e, const struct imfd_usage *usage,
                    struct imf_model_params *params);

/* "imfd COMMAND: sentence" to stderr; returns 1. */
__attribute__((format(printf, 2, 3))) int imfd_fail(const struct imfd_usage *usage,
                                                    const char *format, ...);

/* Reads a whole file, or stdin for "-", up to max bytes, with a NUL behind; *text is malloc'ed. */
IMF_MUST_CHECK imf_status imfd_read_file(char **text, size_t *size, const char *path, size_t max,
                                         struct imf_error *err);

#endif
