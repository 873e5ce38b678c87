/* libtriton_imfd.so: a Triton backend around one scheduler per instance. Execute submits all requests
 * it is given, so that they share batches, and runs the loop until they have ended. */
#include "triton/internal.h"

#include "common/error.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        TRITONSERVER_Error *error_ = (call);                                                       \
        if (error_)                                                                                \
            return error_;                                                                         \
    } while (0)

/* ---- Configuration --------------------------------------------------------------------------- */

struct config {
    char checkpoint[4096], decoder[4096], device[64];
    int max_batch;
    bool decoupled;
};

/* parameters { key: "NAME" value: { string_value: "..." } } of config.pbtxt. */
static const char *parameter(const cJSON *root, const char *name)
{
    const cJSON *p = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(root, "parameters"), name);
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(p, "string_value");
    return cJSON_IsString(text) ? text->valuestring : NULL;
}

static void set_path(char out[4096], const char *folder, uint64_t version, const char *name)
{
    if (name[0] == '/' || strcmp(name, "none") == 0 || strcmp(name, "fake") == 0)
        snprintf(out, 4096, "%s", name);
    else
        snprintf(out, 4096, "%s/%llu/%s", folder, (unsigned long long)version, name);
}

static TRITONSERVER_Error *read_config(struct config *out, TRITONBACKEND_Model *model)
{
    TRITONSERVER_Message *message;
    TRITONBACKEND_ArtifactType type;
    const char *text, *folder;
    size_t size;
    uint64_t version;
    TRY(TRITONBACKEND_ModelRepository(model, &type, &folder));
    TRY(TRITONBACKEND_ModelVersion(model, &version));
    TRY(TRITONBACKEND_ModelConfig(model, 1, &message));
    TRITONSERVER_Error *error = TRITONSERVER_MessageSerializeToJson(message, &text, &size);
    cJSON *root = !error ? cJSON_ParseWithLength(text, size) : NULL;
    const char *checkpoint = parameter(root, "checkpoint"), *decoder = parameter(root, "decoder");
    const char *device = parameter(root, "device"), *batch = parameter(root, "max_batch");
    if (!error && !checkpoint)
        error = triton_error(TRITONSERVER_ERROR_INVALID_ARG,
                             "config.pbtxt: parameters have no \"checkpoint\"");
    if (!error) {
        set_path(out->checkpoint, folder, version, checkpoint);
        set_path(out->decoder, folder, version, decoder ? decoder : "none");
        snprintf(out->device, sizeof(out->device), "%s", device ? device : "auto");
        out->max_batch = batch ? atoi(batch) : 8;
        out->decoupled = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(
            cJSON_GetObjectItemCaseSensitive(root, "model_transaction_policy"), "decoupled"));
        if (out->max_batch < 1 || out->max_batch > 256)
            error = triton_error(TRITONSERVER_ERROR_INVALID_ARG,
                                 "config.pbtxt: max_batch is outside 1 to 256");
    }
    cJSON_Delete(root);
    TRITONSERVER_Error *deleted = TRITONSERVER_MessageDelete(message);
    if (deleted)
        TRITONSERVER_ErrorDelete(deleted);
    return error;
}

/* ---- Instances ------------------------------------------------------------------------------- */

static void on_model(void *user, struct scheduler *s, int model)
{
    struct triton_instance *t = user;
    struct sched_model_status status;
    sched_model_get(s, model, &status);
    if (status.message[0] != '\0')
        snprintf(t->message, sizeof(t->message), "%s", status.message);
}

static imf_status start(struct triton_instance *t, const struct config *config,
                        struct imf_error *err)
{
    struct sched_options o;
    struct imf_engine_params engine;
    struct imf_model_params model;
    sched_options_init(&o);
    t->decoupled = config->decoupled;
    o.cache_bytes = 0; /* Triton has a cache of its own */
    o.on_model = on_model;
    o.on_model_user = t;
    IMF_TRY(sched_create(&t->scheduler, &t->loop, &o, err));
    imf_engine_params_init(&engine);
    engine.device = config->device;
    imf_model_params_init(&model);
    model.checkpoint = config->checkpoint;
    model.decoder = config->decoder;
    model.max_batch = config->max_batch;
    int device = sched_add_device(t->scheduler, &engine, err);
    if (device < 0 || sched_add_model(t->scheduler, "model", &model, &device, 1, err) < 0)
        return IMF_EINVAL;
    IMF_TRY(sched_start(t->scheduler, err));
    struct sched_model_status status;
    do {
        uv_run(&t->loop, UV_RUN_ONCE);
        sched_model_get(t->scheduler, 0, &status);
    } while (status.state == SCHED_MODEL_LOADING);
    if (status.state != SCHED_MODEL_READY) {
        snprintf(err->message, sizeof(err->message), "%s", status.message);
        return IMF_EINVAL;
    }
    t->info = *status.info;
    return IMF_OK;
}

static void stop(struct triton_instance *t)
{
    sched_destroy(t->scheduler);
    uv_run(&t->loop, UV_RUN_DEFAULT);
    uv_loop_close(&t->loop);
    free(t);
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance *instance)
{
    TRITONBACKEND_Model *model;
    struct config config;
    struct imf_error err = {0};
    TRY(TRITONBACKEND_ModelInstanceModel(instance, &model));
    TRY(read_config(&config, model));
    struct triton_instance *t = calloc(1, sizeof(*t));
    if (!t || uv_loop_init(&t->loop) != 0) {
        free(t);
        return triton_error(TRITONSERVER_ERROR_UNAVAILABLE, "out of memory");
    }
    TRITONSERVER_Error *error = NULL;
    if (start(t, &config, &err) != IMF_OK)
        error = triton_error(TRITONSERVER_ERROR_INVALID_ARG, "imfd: %s", err.message);
    else
        error = TRITONBACKEND_ModelInstanceSetState(instance, t);
    if (error)
        stop(t);
    return error;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance *instance)
{
    void *state;
    TRY(TRITONBACKEND_ModelInstanceState(instance, &state));
    if (state)
        stop(state);
    return NULL;
}

/* ---- Requests -------------------------------------------------------------------------------- */

static void on_picture(void *user, struct sched_request *r, const struct sched_picture *p)
{
    struct triton_call *c = user;
    (void)r;
    c->files[p->index] = p->png ? blob_take(p->png) : NULL;
    c->rgb[p->index] = p->rgb ? blob_take(p->rgb) : NULL;
    if (c->instance->decoupled)
        triton_send_picture(c, p->index);
}

static void on_end(void *user, struct sched_request *r, enum sched_result result,
                   const char *message)
{
    struct triton_call *c = user;
    (void)r;
    c->ended = true;
    if (result != SCHED_DONE)
        c->error = triton_error(TRITONSERVER_ERROR_INTERNAL, "imfd: %s", message);
}

static void submit(struct triton_call *c)
{
    static const struct sched_callbacks callbacks = {on_picture, on_end};
    struct sched_refusal refusal;
    struct sched_spec spec;
    sched_spec_init(&spec);
    spec.n = spec.window = c->n;
    spec.labels = c->labels;
    spec.seeds = c->seeds;
    spec.samplings = c->samplings;
    spec.sampling = c->samplings[0];
    spec.want = (c->image ? SCHED_PNG : 0u) | (c->pixels ? SCHED_RGB : 0u);
    if (spec.want == 0)
        spec.want = SCHED_RGB;
    c->sched = sched_submit(c->instance->scheduler, &spec, &callbacks, c, &refusal);
    c->ended = !c->sched;
    if (!c->sched)
        c->error = triton_error(TRITONSERVER_ERROR_UNAVAILABLE, "imfd: %s", refusal.message);
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance *instance,
                                                       TRITONBACKEND_Request **requests,
                                                       uint32_t count)
{
    void *state;
    TRY(TRITONBACKEND_ModelInstanceState(instance, &state));
    struct triton_call *calls = calloc(count, sizeof(*calls));
    if (!calls)
        return triton_error(TRITONSERVER_ERROR_UNAVAILABLE, "out of memory");
    /* From here on the requests are ours: each gets its response. */
    for (uint32_t i = 0; i < count; i++) {
        calls[i].instance = state;
        calls[i].request = requests[i];
        if (triton_read(&calls[i]))
            submit(&calls[i]);
        else
            calls[i].ended = true;
    }
    for (uint32_t i = 0; i < count; i++) {
        while (!calls[i].ended)
            uv_run(&calls[i].instance->loop, UV_RUN_ONCE);
        if (calls[i].sched)
            sched_close(calls[i].sched, SCHED_SENT);
        triton_send(&calls[i]);
    }
    free(calls);
    return NULL;
}
