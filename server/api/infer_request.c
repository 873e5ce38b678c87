/* An inference request: its tensors become the fields of the native call, which checks them. */
#include "api/fields.h"
#include "api/inference.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *type;
} outputs[INFER_OUTPUTS] = {
    [INFER_IMAGE] = {"image", "BYTES"},
    [INFER_PIXELS] = {"pixels", "UINT8"},
    [INFER_SEED] = {"seed", "INT64"},
};

const char *infer_output_name(enum infer_tensor what)
{
    return outputs[what].name;
}

const char *infer_output_type(enum infer_tensor what)
{
    return outputs[what].type;
}

bool infer_wants(const struct infer_ask *ask, enum infer_tensor what)
{
    bool found = false;
    for (int i = 0; i < ask->n_outputs; i++)
        found |= ask->output[i].what == what;
    return found;
}

void infer_ask_free(struct infer_ask *ask)
{
    if (ask)
        free(ask->id);
    free(ask);
}

/* ---- Outputs --------------------------------------------------------------------------------- */

/* Adds an output by name; binary as its own parameters say, else as the request's do. */
static bool add_output(struct infer_ask *ask, const char *name, const cJSON *parameters,
                       bool binary, struct api_problem *p)
{
    const cJSON *own = cJSON_GetObjectItemCaseSensitive(parameters, "binary_data");
    for (int i = 0; i < INFER_OUTPUTS; i++) {
        if (strcmp(outputs[i].name, name) != 0)
            continue;
        if (infer_wants(ask, (enum infer_tensor)i))
            break;
        ask->output[ask->n_outputs].what = (enum infer_tensor)i;
        ask->output[ask->n_outputs++].binary = own ? cJSON_IsTrue(own) : binary;
        return true;
    }
    return api_problem_set(p, API_INVALID, NULL,
                           "outputs: \"%.40s\" is none of image, pixels, seed, or there twice",
                           name);
}

static bool parse_outputs(const cJSON *list, bool binary, struct infer_ask *ask,
                          struct api_problem *p)
{
    if (!list || (cJSON_IsArray(list) && !list->child))
        return add_output(ask, "image", NULL, binary, p) &&
               add_output(ask, "seed", NULL, binary, p);
    const cJSON *item;
    if (!cJSON_IsArray(list))
        return api_problem_set(p, API_INVALID, NULL, "outputs: a list is expected");
    cJSON_ArrayForEach(item, list)
    {
        const cJSON *name = cJSON_GetObjectItemCaseSensitive(item, "name");
        if (!cJSON_IsString(name))
            return api_problem_set(p, API_INVALID, NULL, "outputs: an output has no name");
        if (!add_output(ask, name->valuestring,
                        cJSON_GetObjectItemCaseSensitive(item, "parameters"), binary, p))
            return false;
    }
    return true;
}

/* ---- Inputs ---------------------------------------------------------------------------------- */

enum { IN_CLASS, IN_SEED, IN_STEPS, IN_OMEGA, IN_T_MIN, IN_T_MAX, IN_COUNT };
static const char *const inputs[IN_COUNT] = {"class", "seed", "steps", "omega", "t_min", "t_max"};

static bool parse_inputs(const cJSON *list, const char *binary, const char *end,
                         cJSON *values[IN_COUNT], struct api_problem *p)
{
    const cJSON *tensor;
    if (!cJSON_IsArray(list))
        return api_problem_set(p, API_INVALID, NULL, "inputs: a list of tensors is expected");
    cJSON_ArrayForEach(tensor, list)
    {
        const cJSON *name = cJSON_GetObjectItemCaseSensitive(tensor, "name");
        int i = 0;
        if (!cJSON_IsString(name))
            return api_problem_set(p, API_INVALID, NULL, "inputs: a tensor has no name");
        while (i < IN_COUNT && strcmp(inputs[i], name->valuestring) != 0)
            i++;
        if (i == IN_COUNT || values[i])
            return api_problem_set(
                p, API_INVALID, NULL,
                "inputs: \"%.40s\" is none of class, seed, steps, omega, t_min, t_max, or there "
                "twice",
                name->valuestring);
        if (!(values[i] = infer_values(tensor, &binary, end, p)))
            return false;
    }
    if (!values[IN_CLASS])
        return api_problem_set(p, API_INVALID, NULL, "inputs: class is required");
    if (binary != end)
        return api_problem_set(p, API_INVALID, NULL, "bytes are left behind the last tensor");
    return true;
}

/* Each picture's own sampling: tensors of n values, or of one for all. */
static bool set_samplings(const struct api *a, cJSON *values[IN_COUNT], struct picture_params *out,
                          struct api_problem *p)
{
    out->samplings = calloc(out->n, sizeof(*out->samplings));
    if (!out->samplings)
        return api_problem_memory(p);
    int most = 0;
    for (uint32_t i = 0; i < out->n; i++) {
        struct imf_sampling *s = &out->samplings[i];
        *s = out->sampling;
        for (int t = IN_STEPS; t < IN_COUNT; t++) {
            unsigned given = 0;
            int count = values[t] ? cJSON_GetArraySize(values[t]) : 0;
            if (count == 0)
                continue;
            if (count != 1 && (uint32_t)count != out->n)
                return api_problem_set(p, API_INVALID, NULL, "%s: %d values for %u pictures",
                                       inputs[t], count, out->n);
            const cJSON *v = cJSON_GetArrayItem(values[t], count == 1 ? 0 : (int)i);
            if (api_field_sampling(a, inputs[t], v->valuedouble, cJSON_IsNumber(v), s, &given, p) <
                0)
                return false;
        }
        if (!api_check_interval(s, p))
            return false;
        most = s->steps > most ? s->steps : most;
    }
    out->sampling.steps = most; /* what the request is thought to cost */
    return true;
}

/* ---- All of it ------------------------------------------------------------------------------- */

/* Microseconds, as Triton has it. */
static bool set_timeout(const cJSON *timeout, struct picture_params *out, struct api_problem *p)
{
    uint64_t us = 0;
    if (!timeout)
        return true;
    if (!api_field_integer(timeout, "timeout", 0, UINT64_C(86400000000), &us, p))
        return false;
    if (us > 0 && (us + 999) / 1000 < out->timeout_ms)
        out->timeout_ms = (us + 999) / 1000;
    return true;
}

static bool parse_with(struct api *a, const char *model, const cJSON *root, const char *binary,
                       const char *end, cJSON *values[IN_COUNT], struct picture_params *out,
                       struct infer_ask *ask, struct api_problem *p)
{
    const cJSON *parameters = cJSON_GetObjectItemCaseSensitive(root, "parameters");
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(root, "id");
    bool all = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(parameters, "binary_data_output"));
    if (id && (!cJSON_IsString(id) || strlen(id->valuestring) > 1000))
        return api_problem_set(p, API_INVALID, NULL,
                               "id: a string of at most 1000 bytes is expected");
    if (id && !(ask->id = strdup(id->valuestring)))
        return api_problem_memory(p);
    if (!parse_outputs(cJSON_GetObjectItemCaseSensitive(root, "outputs"), all, ask, p) ||
        !parse_inputs(cJSON_GetObjectItemCaseSensitive(root, "inputs"), binary, end, values, p) ||
        !api_params_from_lists(a, model, values[IN_CLASS], values[IN_SEED], out, p) ||
        !api_field_encoding(cJSON_GetObjectItemCaseSensitive(parameters, "output_format"),
                            cJSON_GetObjectItemCaseSensitive(parameters, "output_compression"), out,
                            p) ||
        !set_timeout(cJSON_GetObjectItemCaseSensitive(parameters, "timeout"), out, p) ||
        !set_samplings(a, values, out, p))
        return false;
    if (out->n > INFER_MAX_N)
        return api_problem_set(p, API_INVALID, NULL, "%u pictures are more than %d", out->n,
                               INFER_MAX_N);
    const struct imf_model_info *info = a->models[out->model].info;
    double pixels = 3.0 * info->image_width * info->image_height * out->n;
    for (int i = 0; i < ask->n_outputs; i++) {
        if (ask->output[i].what == INFER_PIXELS && !ask->output[i].binary &&
            pixels > INFER_MAX_JSON_PIXELS)
            return api_problem_set(p, API_INVALID, NULL,
                                   "outputs: %.0f bytes of pixels are too many for JSON; ask for "
                                   "binary_data",
                                   pixels);
    }
    return true;
}

bool infer_parse(struct api *a, const char *model, const char *body, size_t size, size_t json,
                 struct picture_params *out, struct infer_ask *ask, struct api_problem *p)
{
    cJSON *values[IN_COUNT] = {NULL};
    memset(out, 0, sizeof(*out));
    if (size == 0)
        body = ""; /* an empty buffer has no memory */
    cJSON *root = api_parse_body(body, json, p);
    const char *end = body + size;
    bool good = root && parse_with(a, model, root, end - (size - json), end, values, out, ask, p);
    cJSON_Delete(root);
    for (int i = 0; i < IN_COUNT; i++)
        cJSON_Delete(values[i]);
    if (!good)
        picture_params_free(out);
    return good;
}
