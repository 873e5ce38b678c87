/* The Open Inference Protocol v2 (KServe's REST form, Triton's binary tensors): /v2. A model is a
 * function of the tensors class, seed, steps, omega, t_min, t_max to image, pixels and seed, each
 * of shape [n, ...]. */
#ifndef INFERENCE_H
#define INFERENCE_H

#include "api/internal.h"

#include <cjson/cJSON.h>

enum infer_tensor { INFER_IMAGE, INFER_PIXELS, INFER_SEED, INFER_OUTPUTS };

enum {
    INFER_MAX_N = 64,                /* all pictures of a reply are held until it can be written */
    INFER_MAX_JSON_PIXELS = 4 << 20, /* bytes of pixels in a reply that is JSON only */
    INFER_MAX_REPLY = 64 << 20,      /* its text */
};

/* What the reply is to hold. */
struct infer_ask {
    char *id; /* or NULL */
    int n_outputs;
    struct {
        enum infer_tensor what;
        bool binary;
    } output[INFER_OUTPUTS];
};

const char *infer_output_name(enum infer_tensor what);
const char *infer_output_type(enum infer_tensor what);
bool infer_wants(const struct infer_ask *ask, enum infer_tensor what);
void infer_ask_free(struct infer_ask *ask); /* NULL is fine */

/* The body, whose first `json` bytes are JSON and the rest binary tensors, into *out and *ask. */
bool infer_parse(struct api *a, const char *model, const char *body, size_t size, size_t json,
                 struct picture_params *out, struct infer_ask *ask, struct api_problem *p);
/* A tensor's values, flattened: numbers, or strings where its datatype is BYTES. `binary` is where
 * those of tensors without `data` come from; it moves on. The caller deletes the array. */
cJSON *infer_values(const cJSON *tensor, const char **binary, const char *end,
                    struct api_problem *p);

/* ---- Calls ----------------------------------------------------------------------------------- */

void api_infer(struct api_call *c, const char *model, const char *version);
void api_infer_server(struct api_call *c);
void api_infer_health(struct api_call *c);
void api_infer_model(struct api_call *c, const char *model, const char *version);

struct picture_job;
/* The reply, once every picture is there. */
void infer_reply(struct picture_job *job);

#endif
