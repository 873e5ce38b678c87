/* Rows of an option table, see base/options.h, that mean the same in every command: which model, how
 * it samples, and on what. */
#ifndef MODEL_OPTIONS_H
#define MODEL_OPTIONS_H

#include "base/options.h"
#include "imf.h"

#include <math.h>

#define OPTION_CHECKPOINT(at)                                                                      \
    {                                                                                              \
        .name = "ckpt-path", .aliases = "checkpoint", .type = IMFD_OPTION_STRING, .value = (at),   \
        .argument = "FILE", .help = "weights: .pth, .pt, .bin, .safetensors or a sharded index"    \
    }

#define OPTIONS_CHECKPOINT_MORE(key_at, noise_scale_at)                                            \
    {.name = "checkpoint-key",                                                                     \
     .type = IMFD_OPTION_STRING,                                                                   \
     .value = (key_at),                                                                            \
     .argument = "KEY",                                                                            \
     .help = "which state dict of a file with several, such as model_ema (default: model)"},       \
    {                                                                                              \
        .name = "noise-scale", .type = IMFD_OPTION_FLOAT, .value = (noise_scale_at),               \
        .argument = "X", .min = 1e-3, .max = 1e3,                                                  \
        .help = "what the noise is multiplied by (default: the model's)"                           \
    }

#define OPTION_DECODER(at)                                                                         \
    {                                                                                              \
        .name = "decoder", .type = IMFD_OPTION_STRING, .value = (at), .argument = "FILE",          \
        .help = "sd-vae or taesd file or folder; none (the default) for a model that draws pixels" \
    }

/* How a command says it in `help`: what it does with a model that has this name. */
#define OPTION_MODEL(at, does)                                                                     \
    {                                                                                              \
        .name = "model", .type = IMFD_OPTION_STRING, .value = (at), .argument = "NAME",            \
        .help = (does)                                                                             \
    }
#define OPTION_MODEL_HELP "fail unless the checkpoint holds this model, such as MiT_B_2 or pMF-B/16"

/* What was not given is left to the model: sampling_complete. */
#define SAMPLING_UNSET                                                                             \
    {                                                                                              \
        .steps = 0, .omega = NAN, .t_min = NAN, .t_max = NAN                                       \
    }
#define OPTIONS_SAMPLING(s)                                                                        \
    {.name = "steps",                                                                              \
     .aliases = "num-sampling-steps",                                                              \
     .type = IMFD_OPTION_INT,                                                                      \
     .value = &(s).steps,                                                                          \
     .argument = "N",                                                                              \
     .min = 1,                                                                                     \
     .max = IMF_MAX_STEPS,                                                                         \
     .help = "network evaluations per picture (default: the model's)"},                            \
        {.name = "omega",                                                                          \
         .aliases = "cfg-omega",                                                                   \
         .type = IMFD_OPTION_FLOAT,                                                                \
         .value = &(s).omega,                                                                      \
         .argument = "X",                                                                          \
         .min = 1,                                                                                 \
         .max = IMF_MAX_OMEGA,                                                                     \
         .help = "guidance scale (default: the model's)"},                                         \
        {.name = "t-min",                                                                          \
         .aliases = "interval-min",                                                                \
         .type = IMFD_OPTION_FLOAT,                                                                \
         .value = &(s).t_min,                                                                      \
         .argument = "X",                                                                          \
         .min = 0,                                                                                 \
         .max = 1,                                                                                 \
         .help = "start of the guidance interval (default: the model's)"},                         \
    {                                                                                              \
        .name = "t-max", .aliases = "interval-max", .type = IMFD_OPTION_FLOAT,                     \
        .value = &(s).t_max, .argument = "X", .min = 0, .max = 1,                                  \
        .help = "end of the guidance interval (default: the model's)"                              \
    }

static inline void sampling_complete(struct imf_sampling *s, const struct imf_sampling *defaults)
{
    s->steps = s->steps ? s->steps : defaults->steps;
    s->omega = isnan(s->omega) ? defaults->omega : s->omega;
    s->t_min = isnan(s->t_min) ? defaults->t_min : s->t_min;
    s->t_max = isnan(s->t_max) ? defaults->t_max : s->t_max;
}

#define OPTION_MAX_BATCH(at, says)                                                                 \
    {                                                                                              \
        .name = "max-batch", .aliases = "gen-bsz batch", .type = IMFD_OPTION_INT, .value = (at),   \
        .argument = "N", .min = 1, .max = IMF_MAX_BATCH, .help = (says)                            \
    }

struct device_options {
    const char *device, *precision;
    int threads;
};
#define DEVICE_OPTIONS_INIT                                                                        \
    {                                                                                              \
        .device = "auto", .precision = "auto", .threads = 0                                        \
    }
#define OPTIONS_DEVICE(o)                                                                          \
    {.name = "device",                                                                             \
     .type = IMFD_OPTION_STRING,                                                                   \
     .value = &(o).device,                                                                         \
     .argument = "NAME",                                                                           \
     .help = DEVICE_HELP " (default: auto)"},                                                      \
        {.name = "precision",                                                                      \
         .type = IMFD_OPTION_STRING,                                                               \
         .value = &(o).precision,                                                                  \
         .argument = "NAME",                                                                       \
         .help = "auto, fp32 or bf16 (default: auto, bf16 where the device has it)"},              \
    {                                                                                              \
        .name = "threads", .type = IMFD_OPTION_INT, .value = &(o).threads, .argument = "N",        \
        .min = 0, .max = MAX_THREADS,                                                              \
        .help = "threads of the CPU device (default: 0, all processors)"                           \
    }
#define DEVICE_HELP                                                                                \
    "auto (GPUs, or the CPU where there is none), cpu, cuda or cuda:N; evaluate takes several"
#define MAX_THREADS 1024

/* ---- What --device means --------------------------------------------------------------------- */

enum { MAX_DEVICES = 32 };

struct device_list {
    char names[MAX_DEVICES][256]; /* of imf_engine_params.device: "cpu", "cuda:0" */
    int n;
};

/* "auto": every GPU, or the CPU where there is none. "cuda": every GPU. "cuda:0,1": these. Whether
 * there are such devices, whoever opens them says. A command that runs on one device gives
 * the text to imf_engine_create instead, which takes the first GPU. */
IMF_MUST_CHECK imf_status devices_parse(struct device_list *out, const char *text,
                                        struct imf_error *err);

#endif
