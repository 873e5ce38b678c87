/* Plays Triton: exports the functions of its C API that the backend calls, loads libtriton_imfd.so,
 * hands it requests and looks at the responses. The pictures are the fake engine's. */
#include "base/encode.h"
#include "run_suite.h"
#include "triton/triton_api.h"

#include <check.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* ---- What the server has --------------------------------------------------------------------- */

struct TRITONSERVER_Error {
    TRITONSERVER_Error_Code code;
    char message[512];
};
struct TRITONSERVER_Message {
    const char *json;
};
struct TRITONBACKEND_Model {
    struct TRITONSERVER_Message config;
};
struct TRITONBACKEND_ModelInstance {
    TRITONBACKEND_Model model;
    void *state;
};
struct TRITONBACKEND_Input {
    const char *name;
    TRITONSERVER_DataType type;
    int64_t shape[4];
    uint32_t dims;
    const void *data;
    uint64_t bytes;
};
struct TRITONBACKEND_Output {
    char name[16];
    TRITONSERVER_DataType type;
    int64_t shape[4];
    uint32_t dims;
    uint8_t *data;
    uint64_t bytes;
};
struct TRITONBACKEND_Response {
    TRITONBACKEND_Request *request;
    TRITONBACKEND_Output output[4];
    int n;
    bool sent;
    char error[512];
};
enum { MAX_RESPONSES = 8 };
struct TRITONBACKEND_Request {
    TRITONBACKEND_Input input[6];
    int n_inputs;
    const char *outputs[4];
    uint32_t n_outputs;
    bool released;
    TRITONBACKEND_Response response[MAX_RESPONSES];
    int n_responses;
    bool finished; /* the final flag came: with a response, or alone */
};
struct TRITONBACKEND_ResponseFactory {
    TRITONBACKEND_Request *request;
};

static int factories_alive;

static int errors_alive;

TRITONSERVER_Error *TRITONSERVER_ErrorNew(TRITONSERVER_Error_Code code, const char *message)
{
    TRITONSERVER_Error *e = calloc(1, sizeof(*e));
    e->code = code;
    strncpy(e->message, message, sizeof(e->message) - 1);
    errors_alive++;
    return e;
}

void TRITONSERVER_ErrorDelete(TRITONSERVER_Error *error)
{
    errors_alive--;
    free(error);
}

TRITONSERVER_Error *TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message *message,
                                                        const char **base, size_t *size)
{
    *base = message->json;
    *size = strlen(message->json);
    return NULL;
}

TRITONSERVER_Error *TRITONSERVER_MessageDelete(TRITONSERVER_Message *message)
{
    (void)message;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelConfig(TRITONBACKEND_Model *model, uint32_t version,
                                              TRITONSERVER_Message **config)
{
    ck_assert_uint_eq(version, 1);
    *config = &model->config;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelRepository(TRITONBACKEND_Model *model,
                                                  TRITONBACKEND_ArtifactType *type,
                                                  const char **location)
{
    (void)model;
    *type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
    *location = "/nowhere/model";
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelVersion(TRITONBACKEND_Model *model, uint64_t *version)
{
    (void)model;
    *version = 1;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance *instance,
                                                     TRITONBACKEND_Model **model)
{
    *model = &instance->model;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceState(TRITONBACKEND_ModelInstance *instance,
                                                     void **state)
{
    *state = instance->state;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceSetState(TRITONBACKEND_ModelInstance *instance,
                                                        void *state)
{
    instance->state = state;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_RequestInput(TRITONBACKEND_Request *request, const char *name,
                                               TRITONBACKEND_Input **input)
{
    for (int i = 0; i < request->n_inputs; i++) {
        if (strcmp(request->input[i].name, name) == 0) {
            *input = &request->input[i];
            return NULL;
        }
    }
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, "no such input");
}

TRITONSERVER_Error *TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request *request,
                                                     uint32_t *count)
{
    *count = request->n_outputs;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_RequestOutputName(TRITONBACKEND_Request *request, uint32_t index,
                                                    const char **name)
{
    *name = request->outputs[index];
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_RequestRelease(TRITONBACKEND_Request *request, uint32_t flags)
{
    ck_assert_uint_eq(flags, TRITONSERVER_REQUEST_RELEASE_ALL);
    ck_assert(!request->released && request->finished);
    request->released = true;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_InputProperties(TRITONBACKEND_Input *input, const char **name,
                                                  TRITONSERVER_DataType *type,
                                                  const int64_t **shape, uint32_t *dims,
                                                  uint64_t *bytes, uint32_t *buffers)
{
    if (name)
        *name = input->name;
    *type = input->type;
    *shape = input->shape;
    *dims = input->dims;
    *bytes = input->bytes;
    *buffers = 2; /* Triton may hand a tensor over in pieces */
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_InputBuffer(TRITONBACKEND_Input *input, uint32_t index,
                                              const void **buffer, uint64_t *bytes,
                                              TRITONSERVER_MemoryType *memory, int64_t *id)
{
    uint64_t first = input->bytes / 2;
    *buffer = (const uint8_t *)input->data + (index == 0 ? 0 : first);
    *bytes = index == 0 ? first : input->bytes - first;
    *memory = TRITONSERVER_MEMORY_CPU;
    *id = 0;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseNew(TRITONBACKEND_Response **response,
                                              TRITONBACKEND_Request *request)
{
    ck_assert_int_lt(request->n_responses, MAX_RESPONSES);
    *response = &request->response[request->n_responses++];
    (*response)->request = request;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseFactoryNew(TRITONBACKEND_ResponseFactory **factory,
                                                     TRITONBACKEND_Request *request)
{
    *factory = calloc(1, sizeof(**factory));
    (*factory)->request = request;
    factories_alive++;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseFactoryDelete(TRITONBACKEND_ResponseFactory *factory)
{
    ck_assert(factory->request->finished);
    free(factory);
    factories_alive--;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseFactorySendFlags(TRITONBACKEND_ResponseFactory *factory,
                                                           uint32_t flags)
{
    ck_assert_uint_eq(flags, TRITONSERVER_RESPONSE_COMPLETE_FINAL);
    ck_assert(!factory->request->finished);
    factory->request->finished = true;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseNewFromFactory(TRITONBACKEND_Response **response,
                                                         TRITONBACKEND_ResponseFactory *factory)
{
    return TRITONBACKEND_ResponseNew(response, factory->request);
}

TRITONSERVER_Error *TRITONBACKEND_ResponseOutput(TRITONBACKEND_Response *response,
                                                 TRITONBACKEND_Output **output, const char *name,
                                                 TRITONSERVER_DataType type, const int64_t *shape,
                                                 uint32_t dims)
{
    TRITONBACKEND_Output *o = &response->output[response->n++];
    strncpy(o->name, name, sizeof(o->name) - 1);
    o->type = type;
    o->dims = dims;
    memcpy(o->shape, shape, dims * sizeof(shape[0]));
    *output = o;
    return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_OutputBuffer(TRITONBACKEND_Output *output, void **buffer,
                                               uint64_t bytes, TRITONSERVER_MemoryType *memory,
                                               int64_t *id)
{
    output->data = malloc(bytes);
    output->bytes = bytes;
    *buffer = output->data;
    *memory = TRITONSERVER_MEMORY_CPU;
    *id = 0;
    return NULL;
}

/* The error stays the caller's. */
TRITONSERVER_Error *TRITONBACKEND_ResponseSend(TRITONBACKEND_Response *response, uint32_t flags,
                                               TRITONSERVER_Error *error)
{
    ck_assert(flags == 0 || flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL);
    ck_assert(!response->sent && !response->request->finished);
    response->sent = true;
    response->request->finished = flags != 0;
    if (error)
        strcpy(response->error, error->message);
    return NULL;
}

/* ---- The tests ------------------------------------------------------------------------------- */

static TRITONSERVER_Error *(*initialize)(TRITONBACKEND_ModelInstance *),
    *(*finalize)(TRITONBACKEND_ModelInstance *),
    *(*execute)(TRITONBACKEND_ModelInstance *, TRITONBACKEND_Request **, uint32_t);

static TRITONBACKEND_ModelInstance instance = {
    .model = {{"{\"parameters\":{\"checkpoint\":{\"string_value\":\"fake\"},\"device\":{"
               "\"string_value\":\"fake:size=16,fail_label=666\"}}}"}}};

static void load(void)
{
    void *module = dlopen(TRITON_BACKEND, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(module != NULL, "%s", dlerror());
    *(void **)&initialize = dlsym(module, "TRITONBACKEND_ModelInstanceInitialize");
    *(void **)&finalize = dlsym(module, "TRITONBACKEND_ModelInstanceFinalize");
    *(void **)&execute = dlsym(module, "TRITONBACKEND_ModelInstanceExecute");
    ck_assert(initialize && finalize && execute);
}

static void add(TRITONBACKEND_Request *r, const char *name, TRITONSERVER_DataType type, int64_t n,
                const void *data, size_t size)
{
    r->input[r->n_inputs++] = (TRITONBACKEND_Input){name, type, {n}, 1, data, (uint64_t)n * size};
}

static void drop(TRITONBACKEND_Request *r)
{
    for (int k = 0; k < r->n_responses; k++) {
        for (int i = 0; i < r->response[k].n; i++)
            free(r->response[k].output[i].data);
    }
    memset(r, 0, sizeof(*r));
}

static void start(void)
{
    load();
    TRITONSERVER_Error *e = initialize(&instance);
    ck_assert_msg(!e, "%s", e ? e->message : "");
    ck_assert_ptr_nonnull(instance.state);
}

START_TEST(test_draws)
{
    static TRITONBACKEND_Request r[2];
    TRITONBACKEND_Request *both[] = {&r[0], &r[1]};
    const int64_t classes[] = {207, 360}, seeds[] = {42, 7};
    const int32_t steps[] = {1, 3};
    const float omega[] = {4};
    start();
    for (int i = 0; i < 2; i++) {
        add(&r[i], "class", TRITONSERVER_TYPE_INT64, 2, classes, 8);
        add(&r[i], "seed", TRITONSERVER_TYPE_INT64, 2, seeds, 8);
        add(&r[i], "steps", TRITONSERVER_TYPE_INT32, 2, steps, 4);
        add(&r[i], "omega", TRITONSERVER_TYPE_FP32, 1, omega, 4);
        r[i].outputs[0] = "image";
        r[i].outputs[1] = "pixels";
        r[i].outputs[2] = "seed";
        r[i].n_outputs = i == 0 ? 3 : 1;
    }
    ck_assert_ptr_null(execute(&instance, both, 2));
    ck_assert(r[0].released && r[1].released);
    ck_assert_str_eq(r[0].response[0].error, "");
    ck_assert_int_eq(r[0].response[0].n, 3);
    ck_assert_int_eq(r[1].response[0].n, 1);
    const TRITONBACKEND_Output *image = &r[0].response[0].output[0], *pixels = image + 1;
    ck_assert_str_eq(image->name, "image");
    ck_assert_int_eq(image->type, TRITONSERVER_TYPE_BYTES);
    ck_assert_int_eq(image->shape[0], 2);
    /* The first picture's file is that of its pixels. */
    ck_assert_uint_eq(pixels->bytes, 2 * 16 * 16 * 3);
    struct picture_encoder *encoder;
    struct blob *png;
    ck_assert_int_eq(picture_encoder_create(&encoder, 1), IMF_OK);
    ck_assert_int_eq(
        picture_encode(encoder, &(struct picture_encoding){0}, pixels->data, 16, 16, NULL, &png),
        IMF_OK);
    uint32_t size;
    memcpy(&size, image->data, 4);
    ck_assert_uint_eq(size, png->size);
    ck_assert_mem_eq(image->data + 4, png->data, size);
    blob_drop(png);
    picture_encoder_destroy(encoder);
    /* The same request, the same bytes. */
    ck_assert_uint_eq(r[1].response[0].output[0].bytes, image->bytes);
    ck_assert_mem_eq(r[1].response[0].output[0].data, image->data, image->bytes);
    ck_assert_mem_eq(r[0].response[0].output[2].data, seeds, 16);
    drop(&r[0]);
    drop(&r[1]);
    ck_assert_ptr_null(finalize(&instance));
    ck_assert_int_eq(errors_alive, 0);
}
END_TEST

/* A response for every picture, then the final flag alone; a bad request ends with its sentence. */
START_TEST(test_decoupled)
{
    static TRITONBACKEND_ModelInstance streaming = {
        .model = {{"{\"model_transaction_policy\":{\"decoupled\":true},\"parameters\":{"
                   "\"checkpoint\":{\"string_value\":\"fake\"},\"device\":{\"string_value\":"
                   "\"fake:size=16,fail_label=666\"}}}"}}};
    static TRITONBACKEND_Request r[3], whole;
    TRITONBACKEND_Request *all[] = {&r[0], &r[1]}, *broken[] = {&r[2]}, *one[] = {&whole};
    const int64_t classes[] = {207, 360, 1}, seeds[] = {42, 7, 9}, large = 5000, sick[] = {1, 666};
    const int32_t steps[] = {3, 1, 2};
    load();
    ck_assert_ptr_null(initialize(&streaming));
    add(&r[0], "class", TRITONSERVER_TYPE_INT64, 3, classes, 8);
    add(&r[0], "seed", TRITONSERVER_TYPE_INT64, 3, seeds, 8);
    add(&r[0], "steps", TRITONSERVER_TYPE_INT32, 3, steps, 4);
    add(&r[1], "class", TRITONSERVER_TYPE_INT64, 1, &large, 8);
    add(&r[2], "class", TRITONSERVER_TYPE_INT64, 2, sick, 8);
    r[0].outputs[0] = "image";
    r[0].outputs[1] = "pixels";
    r[0].outputs[2] = "seed";
    r[0].outputs[3] = "index";
    r[0].n_outputs = 4;
    whole = r[0];
    ck_assert_ptr_null(execute(&streaming, all, 2));
    ck_assert(r[0].released && r[1].released);
    ck_assert_int_eq(r[1].n_responses, 1);
    ck_assert_ptr_nonnull(strstr(r[1].response[0].error, "5000"));
    /* The same pictures as in one response, each once; in which order depends on the encoders. */
    start();
    ck_assert_ptr_null(execute(&instance, one, 1));
    ck_assert_int_eq(whole.n_responses, 1);
    const TRITONBACKEND_Output *pixels = &whole.response[0].output[1];
    unsigned seen = 0;
    ck_assert_int_eq(r[0].n_responses, 3);
    for (int k = 0; k < 3; k++) {
        const TRITONBACKEND_Response *p = &r[0].response[k];
        int64_t index, seed;
        ck_assert(p->sent && p->error[0] == '\0' && p->n == 4);
        memcpy(&seed, p->output[2].data, 8);
        memcpy(&index, p->output[3].data, 8);
        ck_assert(index >= 0 && index < 3 && seed == seeds[index]);
        ck_assert_int_eq(p->output[1].shape[0], 1);
        ck_assert_mem_eq(p->output[1].data, pixels->data + index * 16 * 16 * 3, 16 * 16 * 3);
        seen |= 1u << index;
    }
    ck_assert_uint_eq(seen, 7);
    ck_assert_ptr_null(execute(&streaming, broken, 1));
    ck_assert(r[2].released && r[2].finished);
    ck_assert_ptr_nonnull(strstr(r[2].response[r[2].n_responses - 1].error, "imfd"));
    for (int i = 0; i < 3; i++)
        drop(&r[i]);
    drop(&whole);
    ck_assert_ptr_null(finalize(&streaming));
    ck_assert_ptr_null(finalize(&instance));
    ck_assert_int_eq(errors_alive + factories_alive, 0);
}
END_TEST

/* Each bad request gets a sentence; the good one beside it its picture. */
START_TEST(test_refused)
{
    static const int64_t one = 1, many[] = {1, 2}, large = 5000, negative = -1, sick = 666;
    static const int32_t none = 0;
    static const float low = 0.5f, high = 0.9f;
    static const struct {
        const char *name, *word;
        TRITONSERVER_DataType type;
        const void *data;
        int64_t n;
        size_t size;
    } bad[] = {
        {"class", "5000", TRITONSERVER_TYPE_INT64, &large, 1, 8},
        {"class", "-1", TRITONSERVER_TYPE_INT64, &negative, 1, 8},
        {"class", "datatype", TRITONSERVER_TYPE_INT32, &none, 1, 4},
        {"class", "shape", TRITONSERVER_TYPE_INT64, &one, 0, 8},
        {"class", "imfd", TRITONSERVER_TYPE_INT64, &sick, 1, 8},
        {"seed", "2 values", TRITONSERVER_TYPE_INT64, many, 2, 8},
        {"seed", "-1", TRITONSERVER_TYPE_INT64, &negative, 1, 8},
        {"steps", "outside", TRITONSERVER_TYPE_INT32, &none, 1, 4},
        {"omega", "omega", TRITONSERVER_TYPE_FP32, &low, 1, 4},
        {"t_min", "above", TRITONSERVER_TYPE_FP32, &high, 1, 4},
        {"nothing", "required", TRITONSERVER_TYPE_FP32, &low, 1, 4},
    };
    const float zero = 0.1f;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        static TRITONBACKEND_Request r[2];
        TRITONBACKEND_Request *both[] = {&r[0], &r[1]};
        bool lasting = strcmp(bad[i].word, "imfd") != 0; /* that one fails the device */
        start();
        add(&r[0], bad[i].name, bad[i].type, bad[i].n, bad[i].data, bad[i].size);
        if (strcmp(bad[i].name, "class") != 0 && strcmp(bad[i].name, "nothing") != 0)
            add(&r[0], "class", TRITONSERVER_TYPE_INT64, 1, &one, 8);
        if (strcmp(bad[i].name, "t_min") == 0)
            add(&r[0], "t_max", TRITONSERVER_TYPE_FP32, 1, &zero, 4);
        add(&r[1], "class", TRITONSERVER_TYPE_INT64, 1, &one, 8);
        r[1].outputs[0] = "seed";
        r[1].n_outputs = 1;
        ck_assert_ptr_null(execute(&instance, both, lasting ? 2 : 1));
        ck_assert(r[0].released);
        ck_assert_msg(strstr(r[0].response[0].error, bad[i].word) != NULL, "%s: \"%s\"",
                      bad[i].name, r[0].response[0].error);
        if (lasting)
            ck_assert_str_eq(r[1].response[0].error, "");
        drop(&r[0]);
        drop(&r[1]);
        ck_assert_ptr_null(finalize(&instance));
        instance.state = NULL;
    }
    ck_assert_int_eq(errors_alive, 0);
}
END_TEST

START_TEST(test_configuration)
{
    static const struct {
        const char *json, *word;
    } bad[] = {{"{}", "checkpoint"},
               {"{\"parameters\":{\"checkpoint\":{\"string_value\":\"x\"},\"device\":{"
                "\"string_value\":\"cpu\"}}}",
                "/nowhere/model/1/x"},
               {"{\"parameters\":{\"checkpoint\":{\"string_value\":\"fake\"},\"max_batch\":{"
                "\"string_value\":\"0\"}}}",
                "max_batch"}};
    load();
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        TRITONBACKEND_ModelInstance other = {.model = {{bad[i].json}}};
        TRITONSERVER_Error *e = initialize(&other);
        ck_assert_ptr_nonnull(e);
        ck_assert_msg(strstr(e->message, bad[i].word) != NULL, "%s", e->message);
        TRITONSERVER_ErrorDelete(e);
        ck_assert_ptr_null(other.state);
    }
    ck_assert_int_eq(errors_alive, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("triton");
    TCase *tc = tcase_create("triton");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_draws);
    tcase_add_test(tc, test_decoupled);
    tcase_add_test(tc, test_refused);
    tcase_add_test(tc, test_configuration);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
