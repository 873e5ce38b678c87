/* Rows of an option table, see base/options.h, that mean the same in every command: which model, how
 * it samples, and on what. */
#ifndef MODEL_OPTIONS_H
#define MODEL_OPTIONS_H

#include "base/options.h"
#include "imf.h"

#include <math.h>

/* `at` is the place of the variable in the command's record, see there. */
#define OPTION_CHECKPOINT(at_)                                                                     \
    IMFD_OPTION(STRING, "ckpt-path", at_, .aliases = "checkpoint", .argument = "FILE",             \
                .help = "weights: .pth, .pt, .bin, .safetensors or a sharded index")
#define OPTION_CHECKPOINT_KEY(at_)                                                                 \
    IMFD_OPTION(STRING, "checkpoint-key", at_, .argument = "KEY",                                  \
                .help = "which state dict of a file with several, such as model_ema (default: "    \
                        "model)")
#define OPTION_NOISE_SCALE(at_)                                                                    \
    IMFD_OPTION(FLOAT, "noise-scale", at_, .argument = "X", .min = 1e-3, .max = 1e3,               \
                .help = "what the noise is multiplied by, instead of the model's")
#define OPTION_DECODER(at_)                                                                        \
    IMFD_OPTION(STRING, "decoder", at_, .argument = "FILE",                                        \
                .help = "sd-vae or taesd file or folder; none (the default) for a model that "     \
                        "draws pixels")
/* How a command says it in `help`: what it does with a model that has this name. */
#define OPTION_MODEL(at_, does)                                                                    \
    IMFD_OPTION(STRING, "model", at_, .argument = "NAME", .help = (does))
#define OPTION_MODEL_HELP "fail unless the checkpoint holds this model, such as MiT_B_2 or pMF-B/16"

/* What was not given is left to the model: sampling_complete. */
#define SAMPLING_UNSET                                                                             \
    {                                                                                              \
        .steps = 0, .omega = NAN, .t_min = NAN, .t_max = NAN                                       \
    }
#define OPTIONS_SAMPLING(at_)                                                                      \
    IMFD_OPTION(INT, "steps", (at_) + offsetof(struct imf_sampling, steps),                        \
                .aliases = "num-sampling-steps", .argument = "N", .min = 1, .max = IMF_MAX_STEPS,  \
                .help = "network evaluations per picture, instead of the model's"),                \
        IMFD_OPTION(FLOAT, "omega", (at_) + offsetof(struct imf_sampling, omega),                  \
                    .aliases = "cfg-omega", .argument = "X", .min = 1, .max = IMF_MAX_OMEGA,       \
                    .help = "guidance scale, instead of the model's"),                             \
        IMFD_OPTION(FLOAT, "t-min", (at_) + offsetof(struct imf_sampling, t_min),                  \
                    .aliases = "interval-min", .argument = "X", .min = 0, .max = 1,                \
                    .help = "start of the guidance interval, instead of the model's"),             \
        IMFD_OPTION(FLOAT, "t-max", (at_) + offsetof(struct imf_sampling, t_max),                  \
                    .aliases = "interval-max", .argument = "X", .min = 0, .max = 1,                \
                    .help = "end of the guidance interval, instead of the model's")

static inline void sampling_complete(struct imf_sampling *s, const struct imf_sampling *defaults)
{
    s->steps = s->steps ? s->steps : defaults->steps;
    s->omega = isnan(s->omega) ? defaults->omega : s->omega;
    s->t_min = isnan(s->t_min) ? defaults->t_min : s->t_min;
    s->t_max = isnan(s->t_max) ? defaults->t_max : s->t_max;
}

#define OPTION_MAX_BATCH(at_, default_, says)                                                      \
    IMFD_OPTION(INT, "max-batch", at_, .aliases = "gen-bsz batch", .argument = "N", .min = 1,      \
                .max = IMF_MAX_BATCH, .initial = (default_), .help = (says))

struct device_options {
    const char *device, *precision;
    int threads;
};
#define OPTION_PRECISION(at_)                                                                      \
    IMFD_OPTION(CHOICE, "precision", at_, .argument = "NAME", .initial = "auto",                   \
                .choices = "auto|fp32|bf16",                                                       \
                .help = "auto takes bf16 where the device is fast at it, else fp32")
#define OPTIONS_DEVICE(at_)                                                                        \
    IMFD_OPTION(STRING, "device", (at_) + offsetof(struct device_options, device),                 \
                .argument = "NAME", .initial = "auto",                                             \
                .help = "auto (GPUs, or the CPU where there is none), cpu, cuda or cuda:N; serve " \
                        "and evaluate take several, as cuda:0,1, and by themselves every GPU"),    \
        OPTION_PRECISION((at_) + offsetof(struct device_options, precision)),                      \
        IMFD_OPTION(INT, "threads", (at_) + offsetof(struct device_options, threads),              \
                    .argument = "N", .min = 0, .max = 1024, .initial = "0",                        \
                    .help = "threads of the CPU device; 0: all processors this process may use")

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
