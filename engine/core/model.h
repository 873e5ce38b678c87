/* Inside the engine: a network with its decoder, planned memory and staging buffers. */
#ifndef IMF__MODEL_H
#define IMF__MODEL_H

#include "core/engine.h"
#include "models/decoder.h"
#include "models/meanflow.h"

struct imf_model {
    struct imf_engine *engine;
    struct imf__meanflow net;
    struct imf__decoder decoder;
    struct imf_model_info info;
    struct imf__activations arena;
    size_t z_count; /* floats of one latent */
    char *input;    /* device: latents, then parameters (struct imf__meanflow_input points in) */
    uint8_t *rgb;   /* device: (decode_batch, H, W, 3) */
    char *staging;  /* host mirror of input */
    char *slots;    /* device: (slot_count) z of lanes between evaluations; slots.c. NULL: none */
    struct imf_lane **slot_owner;
    int slot_count;
    struct imf__transfer *latents_out;               /* these NULL where the device computes */
    struct imf__transfer *pictures_out[IMF_DECODES]; /* before it returns */
    int stepping; /* lanes of the evaluation begun and not ended; 0: none */
    int decoding[IMF_DECODES], first_decode,
        decodes;                    /* ring of decodings begun: pictures of each */
    size_t params_at, params_bytes; /* of the parameters in input */
    struct imf__meanflow_input net_input;
    struct imf__graph **step_graphs;   /* by B - 1: max_batch of them */
    struct imf__graph **decode_graphs; /* by n - 1: decode_batch of them */
    size_t *planned;                   /* by B - 1: bytes beside the weights for batches up to B */
    char **class_names;                /* classes, or NULL */
};

static inline size_t imf__model_latent_count(const struct imf_model *m)
{
    return m->z_count;
}

/* slots.c: z that stays on the device. */
size_t imf__slots_bytes(const struct imf_model *m, int max_batch);
imf_status imf__slots_create(struct imf_model *m);
void imf__slots_destroy(struct imf_model *m);
/* The input's z from the lanes' slots, or from the host for those that were just started. */
imf_status imf__slots_gather(struct imf_model *m, struct imf_lane *const *lanes, int n);
/* And back into slots, taken where a lane has none. */
imf_status imf__slots_scatter(struct imf_model *m, struct imf_lane *const *lanes, int n);
void imf__slot_leave(struct imf_lane *lane);

/* The forward passes as graph_run takes them: ctx is the model. */
imf_status imf__model_step_forward(void *ctx, int B);
imf_status imf__model_decode_forward(void *ctx, int n);

/* model_info.c: what a checkpoint says about itself, in its metadata and by its sizes. */
/* noise_scale: what was asked for, or 0. */
imf_status imf__model_describe(struct imf_model *m, struct imf__loader *ld, float noise_scale);
void imf__model_fingerprint(struct imf_model *m, const uint64_t net[2], const uint64_t decoder[2]);

#endif
