/* Tensors of a request in, tensors of its response out. */
#include "triton/internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { MAX_N = 256, MAX_VALUE = 8 };
#define MAX_SEED ((INT64_C(1) << 53) - 1)

TRITONSERVER_Error *triton_error(TRITONSERVER_Error_Code code, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return TRITONSERVER_ErrorNew(code, text);
}

static bool refuse(struct triton_call *c, TRITONSERVER_Error *error)
{
    if (error && !c->error)
        c->error = error;
    else if (error)
        TRITONSERVER_ErrorDelete(error);
    return !error;
}

#define INVALID(...) refuse(c, triton_error(TRITONSERVER_ERROR_INVALID_ARG, __VA_ARGS__))

/* The values of an input of this type, *n of them; 0 where it is not there. */
static bool read_input(struct triton_call *c, const char *name, TRITONSERVER_DataType want,
                       size_t size, void *values, uint32_t *n)
{
    TRITONBACKEND_Input *input;
    TRITONSERVER_Error *missing = TRITONBACKEND_RequestInput(c->request, name, &input);
    TRITONSERVER_DataType type;
    const int64_t *shape;
    uint32_t dims, buffers;
    uint64_t bytes;
    *n = 0;
    if (missing) {
        TRITONSERVER_ErrorDelete(missing);
        return true;
    }
    if (!refuse(c,
                TRITONBACKEND_InputProperties(input, NULL, &type, &shape, &dims, &bytes, &buffers)))
        return false;
    uint64_t count = 1;
    for (uint32_t d = 0; d < dims; d++) {
        if (shape[d] < 1 || shape[d] > MAX_N || (count > 1 && shape[d] != 1))
            return INVALID("%s: a shape [n] of at most %d is expected", name, MAX_N);
        count *= (uint64_t)shape[d];
    }
    if (type != want || bytes != count * size)
        return INVALID("%s: another datatype is expected", name);
    uint64_t used = 0;
    for (uint32_t b = 0; b < buffers; b++) {
        const void *at;
        uint64_t part;
        TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
        int64_t id = 0;
        if (!refuse(c, TRITONBACKEND_InputBuffer(input, b, &at, &part, &memory, &id)))
            return false;
        if (memory > TRITONSERVER_MEMORY_CPU_PINNED || part > bytes - used)
            return INVALID("%s: its bytes are not in this machine's memory", name);
        memcpy((char *)values + used, at, part);
        used += part;
    }
    *n = (uint32_t)count;
    return used == bytes || INVALID("%s: bytes are missing", name);
}

static bool read_classes(struct triton_call *c)
{
    int64_t values[MAX_N];
    if (!read_input(c, "class", TRITONSERVER_TYPE_INT64, 8, values, &c->n))
        return false;
    if (c->n == 0)
        return INVALID("class: required, INT64 [n]");
    c->labels = calloc(c->n, sizeof(*c->labels));
    c->seeds = calloc(c->n, sizeof(*c->seeds));
    c->samplings = calloc(c->n, sizeof(*c->samplings));
    c->files = calloc(c->n, sizeof(struct blob *));
    c->rgb = calloc(c->n, sizeof(struct blob *));
    if (!c->labels || !c->seeds || !c->samplings || !c->files || !c->rgb)
        return refuse(c, triton_error(TRITONSERVER_ERROR_UNAVAILABLE, "out of memory"));
    for (uint32_t i = 0; i < c->n; i++) { /* the number of classes is the unconditional one */
        if (values[i] < 0 || values[i] > c->instance->info.classes)
            return INVALID("class: %lld is none of 0 to %d", (long long)values[i],
                           c->instance->info.classes);
        c->labels[i] = (int32_t)values[i];
    }
    return true;
}

static bool read_seeds(struct triton_call *c)
{
    int64_t values[MAX_N];
    uint32_t n;
    if (!read_input(c, "seed", TRITONSERVER_TYPE_INT64, 8, values, &n))
        return false;
    if (n != 0 && n != c->n)
        return INVALID("seed: %u values for %u pictures", n, c->n);
    for (uint32_t i = 0; i < c->n; i++) {
        if (n == 0 && getrandom(&values[i], sizeof(values[i]), 0) != (ssize_t)sizeof(values[i]))
            values[i] = (int64_t)uv_hrtime();
        if (n == 0)
            values[i] &= MAX_SEED;
        if (values[i] < 0 || values[i] > MAX_SEED)
            return INVALID("seed: %lld is outside 0 to 2^53-1", (long long)values[i]);
        c->seeds[i] = (uint64_t)values[i];
    }
    return true;
}

static bool read_samplings(struct triton_call *c)
{
    static const struct {
        const char *name;
        size_t offset;
        float low, high;
    } floats[] = {{"omega", offsetof(struct imf_sampling, omega), 1, 3e38f},
                  {"t_min", offsetof(struct imf_sampling, t_min), 0, 1},
                  {"t_max", offsetof(struct imf_sampling, t_max), 0, 1}};
    int32_t steps[MAX_N];
    float values[MAX_N];
    uint32_t n;
    if (!read_input(c, "steps", TRITONSERVER_TYPE_INT32, 4, steps, &n))
        return false;
    if (n > 1 && n != c->n)
        return INVALID("steps: %u values for %u pictures", n, c->n);
    for (uint32_t i = 0; i < c->n; i++) {
        c->samplings[i] = c->instance->info.defaults;
        int32_t given = n > 0 ? steps[n == 1 ? 0 : i] : c->samplings[i].steps;
        if (given < 1 || given > IMF_MAX_STEPS)
            return INVALID("steps: %d is outside 1 to %d", given, IMF_MAX_STEPS);
        c->samplings[i].steps = given;
    }
    for (size_t f = 0; f < sizeof(floats) / sizeof(floats[0]); f++) {
        if (!read_input(c, floats[f].name, TRITONSERVER_TYPE_FP32, 4, values, &n))
            return false;
        if (n > 1 && n != c->n)
            return INVALID("%s: %u values for %u pictures", floats[f].name, n, c->n);
        for (uint32_t i = 0; i < c->n && n > 0; i++) {
            float v = values[n == 1 ? 0 : i];
            if (!(v >= floats[f].low && v <= floats[f].high))
                return INVALID("%s: %g is out of range", floats[f].name, (double)v);
            *(float *)((char *)&c->samplings[i] + floats[f].offset) = v + 0.0f;
        }
    }
    for (uint32_t i = 0; i < c->n; i++) {
        if (c->samplings[i].t_min > c->samplings[i].t_max)
            return INVALID("t_min is above t_max");
    }
    return true;
}

static bool read_outputs(struct triton_call *c)
{
    uint32_t count = 0;
    if (!refuse(c, TRITONBACKEND_RequestOutputCount(c->request, &count)))
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const char *name;
        if (!refuse(c, TRITONBACKEND_RequestOutputName(c->request, i, &name)))
            return false;
        c->image |= strcmp(name, "image") == 0;
        c->pixels |= strcmp(name, "pixels") == 0;
        c->seed |= strcmp(name, "seed") == 0;
        c->index |= strcmp(name, "index") == 0;
    }
    return true;
}

bool triton_read(struct triton_call *c)
{
    if (c->instance->decoupled &&
        !refuse(c, TRITONBACKEND_ResponseFactoryNew(&c->factory, c->request)))
        return false;
    return read_classes(c) && read_seeds(c) && read_samplings(c) && read_outputs(c);
}

/* ---- Responses ------------------------------------------------------------------------------- */

/* Room for an output in this machine's memory, or NULL with c->error. */
static uint8_t *add_output(struct triton_call *c, TRITONBACKEND_Response *response,
                           const char *name, TRITONSERVER_DataType type, const int64_t *shape,
                           uint32_t dims, uint64_t bytes)
{
    TRITONBACKEND_Output *output;
    TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
    int64_t id = 0;
    void *buffer = NULL;
    if (!refuse(c, TRITONBACKEND_ResponseOutput(response, &output, name, type, shape, dims)) ||
        !refuse(c, TRITONBACKEND_OutputBuffer(output, &buffer, bytes, &memory, &id)))
        return NULL;
    if (memory > TRITONSERVER_MEMORY_CPU_PINNED) {
        refuse(c, triton_error(TRITONSERVER_ERROR_INTERNAL, "%s: no room in memory", name));
        return NULL;
    }
    return buffer;
}

/* Pictures [first, first + n) of the call. */
static void write_outputs(struct triton_call *c, TRITONBACKEND_Response *response, uint32_t first,
                          uint32_t n)
{
    const struct imf_model_info *info = &c->instance->info;
    const int64_t shape[] = {n, info->image_height, info->image_width, 3};
    uint64_t files = 0, picture = 3 * (uint64_t)info->image_height * (uint64_t)info->image_width;
    uint8_t *at;
    for (uint32_t i = 0; i < n && c->image; i++)
        files += 4 + c->files[first + i]->size;
    if (c->image &&
        (at = add_output(c, response, "image", TRITONSERVER_TYPE_BYTES, shape, 1, files))) {
        for (uint32_t i = 0; i < n; i++) { /* length, little-endian, and bytes */
            uint32_t size = (uint32_t)c->files[first + i]->size;
            for (int b = 0; b < 4; b++)
                *at++ = (uint8_t)(size >> (8 * b));
            memcpy(at, c->files[first + i]->data, size);
            at += size;
        }
    }
    if (c->pixels &&
        (at = add_output(c, response, "pixels", TRITONSERVER_TYPE_UINT8, shape, 4, n * picture))) {
        for (uint32_t i = 0; i < n; i++)
            memcpy(at + i * picture, c->rgb[first + i]->data, picture);
    }
    if (c->seed &&
        (at = add_output(c, response, "seed", TRITONSERVER_TYPE_INT64, shape, 1, 8 * (uint64_t)n)))
        memcpy(at, c->seeds + first, 8 * (size_t)n);
    if (c->index && (at = add_output(c, response, "index", TRITONSERVER_TYPE_INT64, shape, 1,
                                     8 * (uint64_t)n))) {
        for (uint32_t i = 0; i < n; i++) {
            int64_t index = first + i;
            memcpy(at + 8 * (size_t)i, &index, 8);
        }
    }
}

/* An error that nobody can be told of any more. */
static void forget(TRITONSERVER_Error *error)
{
    if (error)
        TRITONSERVER_ErrorDelete(error);
}

static void drop_picture(struct triton_call *c, uint32_t i)
{
    if (c->files)
        blob_drop(c->files[i]);
    if (c->rgb)
        blob_drop(c->rgb[i]);
    if (c->files)
        c->files[i] = NULL;
    if (c->rgb)
        c->rgb[i] = NULL;
}

void triton_send_picture(struct triton_call *c, uint32_t i)
{
    TRITONBACKEND_Response *response;
    if (!c->error && refuse(c, TRITONBACKEND_ResponseNewFromFactory(&response, c->factory))) {
        write_outputs(c, response, i, 1);
        /* A response that could not be filled goes with its error, which ends the request. */
        uint32_t flags = c->error ? TRITONSERVER_RESPONSE_COMPLETE_FINAL : 0;
        c->finished = c->error != NULL;
        refuse(c, TRITONBACKEND_ResponseSend(response, flags, c->error));
    }
    drop_picture(c, i);
}

static void send_last(struct triton_call *c)
{
    TRITONBACKEND_Response *response = NULL;
    if (c->instance->decoupled && !c->error) {
        forget(TRITONBACKEND_ResponseFactorySendFlags(c->factory,
                                                      TRITONSERVER_RESPONSE_COMPLETE_FINAL));
        return;
    }
    TRITONSERVER_Error *failed = TRITONBACKEND_ResponseNew(&response, c->request);
    if (!failed) {
        if (!c->error)
            write_outputs(c, response, 0, c->n);
        failed =
            TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, c->error);
    }
    forget(failed);
}

void triton_send(struct triton_call *c)
{
    if (!c->finished)
        send_last(c);
    forget(c->error);
    if (c->factory)
        forget(TRITONBACKEND_ResponseFactoryDelete(c->factory));
    forget(TRITONBACKEND_RequestRelease(c->request, TRITONSERVER_REQUEST_RELEASE_ALL));
    for (uint32_t i = 0; i < c->n; i++)
        drop_picture(c, i);
    free(c->files);
    free(c->rgb);
    free(c->labels);
    free(c->seeds);
    free(c->samplings);
}
