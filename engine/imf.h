/* libimf: images from "Improved Mean Flows" models (MiT, arXiv 2512.02012), one network evaluation
 * at a time. A program that judges pictures includes
 * imf_metrics.h too; nothing else here is public.
 *
 *   engine  one device (a CPU with its threads, or one GPU)
 *   model   a MiT checkpoint and a picture decoder, resident on an engine
 *   lane    one sample in flight: label, guidance, step i of n, and its latent z
 *
 * imf_step() advances lanes by one network evaluation, imf_decode() makes pictures of them. Lanes
 * with different labels, guidance and step counts share one call, and a lane's result does not
 * depend on the lanes around it, bit for bit: that is all a batching scheduler needs.
 *
 * Threads: an engine with its models is used by one thread at a time, best always the same one
 * (each thread that computes owns a team of OpenMP threads). Lanes may be prepared on any thread.
 * Errors: every fallible call returns an imf_status; results come through out-parameters, which
 * are untouched on failure. Nothing here exits, prints, or keeps mutable globals. */
#ifndef IMF_H
#define IMF_H

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define IMF_MUST_CHECK __attribute__((warn_unused_result))

/* X(code, sentence). IMF_OK is 0. */
#define IMF_STATUS_MAP(X)                                                                          \
    X(OK, "success")                                                                               \
    X(ENOMEM, "out of memory")                                                                     \
    X(EINVAL, "invalid argument")                                                                  \
    X(EIO, "a file cannot be read or written")                                                     \
    X(EFORMAT, "the file is damaged or in no supported format")                                    \
    X(EMODEL, "the file does not hold a model of this family")                                     \
    X(EUNSUPPORTED, "not supported by this build or device")                                       \
    X(EDEVICE, "the device failed")

typedef enum imf_status {
#define IMF_STATUS_ENUM(code, sentence) IMF_##code,
    IMF_STATUS_MAP(IMF_STATUS_ENUM)
#undef IMF_STATUS_ENUM
} imf_status;

const char *imf_status_name(imf_status status);     /* "IMF_EIO" */
const char *imf_status_sentence(imf_status status); /* static text, no trailing full stop */

/* What a person reads: file, tensor, expected and found. Written on failure only; NULL may be
 * passed wherever an error is taken. */
struct imf_error {
    imf_status status;
    char message[504];
};

const char *imf_version(void); /* "0.2.0": major, minor, patch */

/* ---- Engine -------------------------------------------------------------------------------- */

enum imf_precision {
    IMF_PRECISION_AUTO, /* bf16 where the device has fast bfloat16, else fp32 */
    IMF_PRECISION_FP32,
    IMF_PRECISION_BF16, /* bfloat16 matrices; float32 accumulation, norms, softmax, residual */
};

const char *imf_precision_name(enum imf_precision precision); /* "auto", "fp32", "bf16" */
/* False when `name` is none of them. */
bool imf_precision_parse(enum imf_precision *out, const char *name);

struct imf_engine; /* opaque; one device */
struct imf_model;  /* opaque; borrowed engine, owned weights */

struct imf_engine_params {
    const char *device; /* "auto" (a GPU if there is one, else the CPU), "cpu", "cuda", "cuda:N" */
    enum imf_precision precision;
    int threads;       /* of the CPU device; 0: all processors of this process's affinity mask */
    bool reproducible; /* the same bits whatever the number of threads, at some cost in speed of
                          float32 decoding on the CPU; what evaluation over machines needs */
};

struct imf_engine_info {
    char device[32];              /* "cpu", "cuda:0" */
    char description[256];        /* "AMD EPYC, 2 threads, avx512 kernels, oneDNN 2.6.3" */
    enum imf_precision precision; /* never AUTO */
    int threads;
    size_t memory_total, memory_free; /* bytes, when the engine was created; 0 where unknown */
    bool overlaps; /* imf_step_begin and imf_decode_begin return before the work is done */
};

void imf_engine_params_init(struct imf_engine_params *p); /* sets every default */
IMF_MUST_CHECK imf_status imf_engine_create(struct imf_engine **out,
                                            const struct imf_engine_params *p,
                                            struct imf_error *err);
/* Valid until the engine is destroyed. */
const struct imf_engine_info *imf_engine_get_info(const struct imf_engine *e);
/* Number of GPUs the CUDA engine could use here; 0 without a driver or the plugin. `reason`
 * (may be NULL) gets a sentence saying why there is none. */
int imf_cuda_device_count(char *reason, size_t reason_size);
void imf_engine_destroy(struct imf_engine *e); /* after its models; NULL is fine */

/* ---- Model --------------------------------------------------------------------------------- */

struct imf_model_params {
    const char *checkpoint; /* .pth, .bin, .safetensors, or a sharded .safetensors.index.json */
    /* Which state dict of a file with several ("model_ema"); NULL: as docs/checkpoints.md tells. */
    const char *checkpoint_key;
    const char *decoder; /* sd-vae or taesd file or folder, or "none" for pixel-space models */
    float noise_scale;   /* what the noise is multiplied by; 0: what the file or its size says */
    int max_batch;       /* lanes per imf_step, at most IMF_MAX_BATCH; 0: 8 */
    int decode_batch;    /* pictures per decoder pass; 0: the device's choice, 1 on the CPU */
    void (*progress)(void *user, double fraction); /* called by imf_model_load; may be NULL */
    void *progress_user;
};

struct imf_sampling {   /* guidance and steps; what a checkpoint recommends, or a request asks */
    int steps;          /* network evaluations, 1..IMF_MAX_STEPS */
    float omega;        /* guidance scale, 1..IMF_MAX_OMEGA */
    float t_min, t_max; /* guidance interval, 0 <= t_min <= t_max <= 1 */
};

#define IMF_MAX_STEPS 64
#define IMF_MAX_OMEGA 3.0e38 /* any float32, in short */
#define IMF_MAX_BATCH 1024

struct imf_model_info {
    char name[64];           /* "MiT_B_2", "pmfDiT_H_32"; "MiT_d4_h128" for a size nobody listed */
    char decoder[16];        /* "sd-vae", "taesd", "none" */
    char checkpoint_key[64]; /* the state dict that was taken; "" for a file of tensors only */
    char checkpoint_others[128]; /* what else could have been: "ema, model_ema1", or "" */
    int depth, shared_depth, hidden, heads, mlp_hidden; /* u blocks = depth - shared_depth */
    int classes; /* without the null class, whose label is `classes` */
    int channels, input_size, patch_size;
    int image_width, image_height; /* pixels; 0 for a latent model with decoder "none" */
    int max_batch, decode_batch;
    struct imf_sampling defaults;
    float noise_scale;   /* z before the first step = noise times this */
    uint64_t parameters; /* of the network as stored, decoder excluded */
    uint64_t decoder_parameters;
    size_t weights_bytes;   /* as held on the device, MiT and decoder */
    size_t arena_bytes;     /* activations, planned for max_batch and decode_batch */
    size_t graph_bytes;     /* device memory that captured passes and their kernels took */
    int plain_matrices;     /* multiplied by a plain kernel, a hundred times slower than the
                             * library, which has no algorithm for them; 0 is as it should be */
    char plain_reason[128]; /* about the first of them */
    double step_flops, decode_flops; /* one picture, one network evaluation / one decoding */
    double load_seconds;
    char fingerprint[33]; /* names the bytes: weights, decoder, precision, device, engine build */
};

/* What a file holds, told by the names of its tensors; their values are not read. `name` gets the
 * model's ("MiT_B_2"), "" where it has no published size. Whatever cannot be read is other. */
enum imf_file_kind { IMF_FILE_OTHER, IMF_FILE_MODEL, IMF_FILE_DECODER };
enum imf_file_kind imf_file_identify(const char *path, char name[64]);

void imf_model_params_init(struct imf_model_params *p);
/* Reads, checks, packs and uploads the weights and plans all memory; nothing is allocated by
 * imf_step and imf_decode afterwards. On failure `err` names file, tensor and cause, and nothing
 * is left behind. */
IMF_MUST_CHECK imf_status imf_model_load(struct imf_model **out, struct imf_engine *e,
                                         const struct imf_model_params *p, struct imf_error *err);
const struct imf_model_info *imf_model_get_info(const struct imf_model *m);
/* Class name from the checkpoint's metadata, or NULL; the text belongs to the model. */
const char *imf_model_class_name(const struct imf_model *m, int label);
void imf_model_destroy(struct imf_model *m); /* NULL is fine */

/* ---- Lanes --------------------------------------------------------------------------------- */

/* One sample in flight. Fields above the line are set by imf_lane_start and may be read by anyone
 * who owns the lane; `z` is the latent (channels, input_size, input_size) in float32, C order,
 * normalised; it is pure noise before the first step and the finished latent when step == steps. */
struct imf_lane {
    int32_t label; /* 0..classes; `classes` is the null (unconditional) class */
    uint64_t seed; /* the noise is torch.manual_seed(seed mod 2^32)'s */
    struct imf_sampling sampling;
    int step; /* network evaluations done */
    /* -------- */
    float *z;
    size_t z_count;
    bool
        z_away; /* what z was before the last step; imf_lane_fetch brings it here from the device */
    int slot;   /* the engine's own */
    struct imf_model *slot_model;
};

/* Allocates a lane that fits the model; reuse it for any number of samples. It may outlive no
 * model it is used with. */
IMF_MUST_CHECK imf_status imf_lane_create(struct imf_lane **out, const struct imf_model *m);
/* Sets the sample and draws its noise. IMF_EINVAL, with the field named, when out of range. */
IMF_MUST_CHECK imf_status imf_lane_start(struct imf_lane *lane, const struct imf_model *m,
                                         int32_t label, uint64_t seed, const struct imf_sampling *s,
                                         struct imf_error *err);
/* The same in halves: everything but the noise, which is to be drawn into lane->z. imf_model_noise
 * draws it, z_count floats, on any thread while the model is loaded. */
IMF_MUST_CHECK imf_status imf_lane_set(struct imf_lane *lane, const struct imf_model *m,
                                       int32_t label, uint64_t seed, const struct imf_sampling *s,
                                       struct imf_error *err);
void imf_model_noise(const struct imf_model *m, float *z, uint64_t seed);
static inline bool imf_lane_finished(const struct imf_lane *lane)
{
    return lane->step >= lane->sampling.steps;
}
/* Brings z to lane->z, of a model of pixels on a GPU; elsewhere it is there. Waits. */
IMF_MUST_CHECK imf_status imf_lane_fetch(struct imf_model *m, struct imf_lane *lane);
void imf_lane_destroy(struct imf_lane *lane); /* NULL is fine */

/* Advances n lanes (1..max_batch, all unfinished) by one network evaluation:
 * z -= (t - r) u(z; t - r, omega, t_min, t_max, label), arXiv 2512.02012. On IMF_EDEVICE the lanes'
 * latents are undefined and the engine refuses further work; imf_engine_error tells why. */
IMF_MUST_CHECK imf_status imf_step(struct imf_model *m, struct imf_lane **lanes, int n);
/* Pictures of n lanes (any n >= 1; work is cut in pieces of decode_batch) into the caller's
 * rgb (n, image_height, image_width, 3). Lanes are not changed. IMF_EUNSUPPORTED without a picture.
 */
IMF_MUST_CHECK imf_status imf_decode(struct imf_model *m, struct imf_lane *const *lanes, int n,
                                     uint8_t *rgb);

/* The same in halves, for a caller that has other work while a GPU computes. A _begin enqueues; the
 * lanes must stay as they are until it returns, and imf_step_end is given those of imf_step_begin
 * again. One evaluation and IMF_DECODES decodings (of 1..decode_batch lanes) may be begun and not
 * ended; decodings end in the order in which they began. Pictures travel to the host while whatever
 * was begun later computes. Where info.overlaps is not set, a _begin does the work and must be
 * ended before the next one. A failed _begin or _end leaves nothing of its call begun. */
#define IMF_DECODES 2
IMF_MUST_CHECK imf_status imf_step_begin(struct imf_model *m, struct imf_lane *const *lanes, int n);
IMF_MUST_CHECK imf_status imf_step_end(struct imf_model *m, struct imf_lane **lanes, int n);
IMF_MUST_CHECK imf_status imf_decode_begin(struct imf_model *m, struct imf_lane *const *lanes,
                                           int n);
/* rgb[i] (image_height, image_width, 3) gets picture i of the oldest decoding that was begun. */
IMF_MUST_CHECK imf_status imf_decode_end(struct imf_model *m, uint8_t *const *rgb);
/* Returns when everything begun has been computed; pictures may still be on their way. */
IMF_MUST_CHECK imf_status imf_engine_wait(struct imf_engine *e);

/* Sentence about the last failure of step or decode on this engine; "" when none. */
const char *imf_engine_error(const struct imf_engine *e);

/* ---- Pieces that tools need ---------------------------------------------------------------- */

/* z[n] = torch.randn(n, generator=torch.Generator("cpu").manual_seed(seed mod 2^32)), to 1e-5;
 * n is a multiple of 16. */
void imf_noise(float *z, size_t n, uint64_t seed);

/* Rate of a vendor library's plain matrix multiplication in the engine's precision, in FLOP/s,
 * measured now. */
IMF_MUST_CHECK imf_status imf_engine_matmul_rate(struct imf_engine *e, double *flops_per_second);
/* What the hardware can do at most in that precision, on the engine's threads, with operands in
 * registers; measured now. IMF_EUNSUPPORTED where the device does not know. */
IMF_MUST_CHECK imf_status imf_engine_peak_rate(struct imf_engine *e, double *flops_per_second);

#ifdef __cplusplus
}
#endif
#endif
