/* From JSON, or a URL, to what is to be drawn. Every field is checked here; the scheduler asserts.
 */
#include "api/fields.h"
#include "http/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void picture_params_free(struct picture_params *params)
{
    free(params->labels);
    free(params->seeds);
    free(params->samplings);
    params->labels = NULL;
    params->samplings = NULL;
    params->seeds = NULL;
}

void picture_params_format(struct picture_params *params, int format)
{
    params->encoding.format = (uint8_t)format;
    params->encoding.quality = format == PICTURE_PNG ? 0 : params->quality;
}

int32_t picture_label(const struct picture_params *params, uint32_t i)
{
    return params->labels ? params->labels[i] : params->label;
}

uint64_t picture_seed(const struct picture_params *params, uint32_t i)
{
    return params->seeds ? params->seeds[i] : params->seed + i;
}

int api_find_model(const struct api *a, const char *id)
{
    const struct imfd_strings *aliases = &a->settings->aliases;
    size_t n = strlen(id);
    int model = sched_model_find(a->scheduler, id);
    for (int i = 0; i < aliases->n && model < 0; i++) {
        if (strncmp(aliases->items[i], id, n) == 0 && aliases->items[i][n] == '=')
            model = sched_model_find(a->scheduler, aliases->items[i] + n + 1);
    }
    return model;
}

const char *api_model_id(const struct api *a, int model)
{
    struct sched_model_status status;
    sched_model_get(a->scheduler, model, &status);
    return status.id;
}

const char *api_class_name(const struct api *a, int model, int32_t label)
{
    const struct classes *classes = a->models[model].classes;
    return label < classes_count(classes) ? classes_get(classes, label)->name : "none";
}

static uint64_t random_below(uint64_t limit)
{
    uint64_t value = 0;
    if (getrandom(&value, sizeof(value), 0) != (ssize_t)sizeof(value))
        value = uv_hrtime();
    return value % limit; /* the bias is below 2^-10 even for seeds */
}

/* ---- Model and class ------------------------------------------------------------------------- */

/* A model by id (NULL: the default) that can be used now, or at least described. */
static bool find_model(struct api *a, const char *id, struct picture_params *out,
                       struct api_problem *p)
{
    out->model = !id ? 0 : api_find_model(a, id);
    if (out->model < 0)
        return api_problem_set(p, API_NO_MODEL, "model",
                               "there is no model \"%.100s\"; GET /v1/models "
                               "lists them",
                               id);
    if (!a->models[out->model].info) {
        struct sched_model_status status;
        sched_model_get(a->scheduler, out->model, &status);
        if (status.state == SCHED_MODEL_FAILED)
            return api_problem_set(p, API_ENGINE, NULL, "the model could not be loaded");
        p->retry_us = 0;
        api_problem_set(p, API_LOADING, NULL, "the model is being loaded");
        p->retry_us = sched_retry_us(a->scheduler, out->model, 1);
        return false;
    }
    out->sampling = a->models[out->model].info->defaults;
    return true;
}

static bool class_problem(const struct classes *classes, const char *text, enum class_match match,
                          const struct class_lookup *found, const char *param,
                          struct api_problem *p)
{
    char names[400] = "";
    size_t used = 0;
    for (int i = 0; i < found->n_candidates && used < sizeof(names) - 1; i++) {
        const struct class_info *info = classes_get(classes, found->candidates[i]);
        int n = snprintf(names + used, sizeof(names) - used, "%s%d (%s%s%s)", i > 0 ? ", " : "",
                         found->candidates[i], info->wordnet_id, info->wordnet_id[0] ? ", " : "",
                         info->name);
        used += n > 0 ? (size_t)n : 0;
    }
    if (match == CLASS_AMBIGUOUS)
        return api_problem_set(p, API_AMBIGUOUS_CLASS, param, "\"%.80s\" names several classes: %s",
                               text, names);
    return api_problem_set(p, API_UNKNOWN_CLASS, param,
                           "no class \"%.80s\"%s%s; GET /v1/classes lists them", text,
                           found->n_candidates > 0 ? "; near: " : "", names);
}

/* A class by text. "random" draws one when `random_too`. */
static bool class_from_text(struct api *a, int model, const char *text, const char *param,
                            bool random_too, int32_t *label, struct api_problem *p)
{
    const struct classes *classes = a->models[model].classes;
    if (strcmp(text, "none") == 0) {
        *label = classes_count(classes);
        return true;
    }
    if (random_too && strcmp(text, "random") == 0) {
        *label = (int32_t)random_below((uint64_t)classes_count(classes));
        return true;
    }
    struct class_lookup found;
    enum class_match match = classes_find(classes, text, strlen(text), &found);
    if (match != CLASS_FOUND)
        return class_problem(classes, text, match, &found, param, p);
    *label = found.index;
    return true;
}

static bool class_from_json(struct api *a, int model, const cJSON *value, const char *param,
                            int32_t *label, struct api_problem *p)
{
    int count = classes_count(a->models[model].classes);
    if (cJSON_IsString(value))
        return class_from_text(a, model, value->valuestring, param, true, label, p);
    if (!cJSON_IsNumber(value))
        return api_problem_set(p, API_INVALID, param,
                               "%s: an index, a WordNet id or a name is expected", param);
    double v = value->valuedouble;
    if (v != floor(v) || v < 0 || v >= count)
        return api_problem_set(p, API_UNKNOWN_CLASS, param, "%s: %g is no class; they are 0 to %d",
                               param, v, count - 1);
    *label = (int32_t)v;
    return true;
}

/* ---- Seeds and classes ----------------------------------------------------------------------- */

static bool set_classes(struct api *a, const cJSON *one, const cJSON *list,
                        struct picture_params *out, struct api_problem *p)
{
    bool random_each = one && cJSON_IsString(one) && strcmp(one->valuestring, "random") == 0;
    if (!list && !random_each)
        return class_from_json(a, out->model, one, "class", &out->label, p);
    out->labels = calloc(out->n, sizeof(*out->labels));
    if (!out->labels)
        return api_problem_memory(p);
    const cJSON *item = list ? list->child : NULL;
    for (uint32_t i = 0; i < out->n; i++) {
        if (!class_from_json(a, out->model, list ? item : one, list ? "classes" : "class",
                             &out->labels[i], p))
            return false;
        item = item ? item->next : NULL;
    }
    return true;
}

static bool set_seeds(const cJSON *one, const cJSON *list, struct picture_params *out,
                      struct api_problem *p)
{
    if (!list) {
        out->seed = random_below(API_MAX_SEED - out->n);
        return !one ||
               api_field_integer(one, "seed", 0, API_MAX_SEED - (out->n - 1), &out->seed, p);
    }
    out->seeds = calloc(out->n, sizeof(*out->seeds));
    if (!out->seeds)
        return api_problem_memory(p);
    const cJSON *item = list->child;
    for (uint32_t i = 0; i < out->n; i++, item = item->next) {
        if (!api_field_integer(item, "seeds", 0, API_MAX_SEED, &out->seeds[i], p))
            return false;
    }
    return true;
}

/* n, and the lists that imply it. */
static bool set_count(const struct api *a, const cJSON *n, const cJSON *classes, const cJSON *seeds,
                      struct picture_params *out, struct api_problem *p)
{
    const struct {
        const cJSON *list;
        const char *name;
    } lists[] = {{classes, "classes"}, {seeds, "seeds"}};
    uint64_t most = (uint64_t)a->settings->max_n, count = 1;
    bool fixed = n != NULL;
    if (n && !api_field_integer(n, "n", 1, most, &count, p))
        return false;
    for (size_t i = 0; i < 2; i++) {
        if (!lists[i].list)
            continue;
        const char *name = lists[i].name;
        int length = cJSON_IsArray(lists[i].list) ? cJSON_GetArraySize(lists[i].list) : 0;
        if (length == 0)
            return api_problem_set(p, API_INVALID, name, "%s: a list that is not empty is expected",
                                   name);
        if ((uint64_t)length > most)
            return api_problem_set(p, API_INVALID, name, "%s: %d pictures are more than %llu", name,
                                   length, (unsigned long long)most);
        if (fixed && (uint64_t)length != count)
            return api_problem_set(p, API_INVALID, name, "%s: %d entries for %llu pictures", name,
                                   length, (unsigned long long)count);
        count = (uint64_t)length;
        fixed = true;
    }
    out->n = (uint32_t)count;
    return true;
}

static void params_init(const struct api *a, struct picture_params *out)
{
    memset(out, 0, sizeof(*out));
    out->n = 1;
    out->priority = 5;
    out->timeout_ms = (uint64_t)a->settings->request_timeout_ms;
    out->quality = API_QUALITY;
    out->embed = true;
}

/* ---- The native call ------------------------------------------------------------------------- */

enum {
    F_MODEL,
    F_CLASS,
    F_CLASSES,
    F_N,
    F_SEED,
    F_SEEDS,
    F_TIMEOUT,
    F_PRIORITY,
    F_FORMAT,
    F_COMPRESSION,
    F_EMBED,
    F_COUNT
};
static const char *const generate_fields[] = {"model",          "class",
                                              "classes",        "n",
                                              "seed",           "seeds",
                                              "timeout_ms",     "priority",
                                              "output_format",  "output_compression",
                                              "embed_metadata", NULL};

/* Model first, as defaults and class names depend on it; then what the request sets over them. */
static bool start_params(struct api *a, const cJSON *root, const char *const *names,
                         const cJSON **slots, int model_slot, const char *otherwise,
                         struct picture_params *out, struct api_problem *p)
{
    struct imf_sampling sampling = {0};
    unsigned given = 0;
    const char *model = otherwise;
    if (!api_collect_fields(a, root, names, slots, &sampling, &given, p) ||
        !api_field_text(slots[model_slot], "model", &model, p) || !find_model(a, model, out, p))
        return false;
    if (given & GIVEN_STEPS)
        out->sampling.steps = sampling.steps;
    if (given & GIVEN_OMEGA)
        out->sampling.omega = sampling.omega;
    if (given & GIVEN_T_MIN)
        out->sampling.t_min = sampling.t_min;
    if (given & GIVEN_T_MAX)
        out->sampling.t_max = sampling.t_max;
    return api_check_interval(&out->sampling, p);
}

static bool generate_from(struct api *a, const cJSON *root, struct picture_params *out,
                          struct api_problem *p)
{
    const cJSON *f[F_COUNT] = {NULL};
    if (!start_params(a, root, generate_fields, f, F_MODEL, NULL, out, p) ||
        !api_field_encoding(f[F_FORMAT], f[F_COMPRESSION], out, p) ||
        !api_field_bool(f[F_EMBED], "embed_metadata", &out->embed, p))
        return false;
    if (f[F_CLASS] && f[F_CLASSES])
        return api_problem_set(p, API_INVALID, "classes", "class and classes exclude each other");
    if (!f[F_CLASS] && !f[F_CLASSES])
        return api_problem_set(p, API_INVALID, "class", "class: required");
    if (f[F_SEED] && f[F_SEEDS])
        return api_problem_set(p, API_INVALID, "seeds", "seed and seeds exclude each other");
    uint64_t priority = 5, timeout_ms = out->timeout_ms;
    if ((f[F_PRIORITY] &&
         !api_field_integer(f[F_PRIORITY], "priority", 0, SCHED_PRIORITIES - 1, &priority, p)) ||
        (f[F_TIMEOUT] &&
         !api_field_integer(f[F_TIMEOUT], "timeout_ms", 1, 86400000, &timeout_ms, p)))
        return false;
    out->priority = (int)priority;
    if (timeout_ms < out->timeout_ms)
        out->timeout_ms = timeout_ms;
    return set_count(a, f[F_N], f[F_CLASSES], f[F_SEEDS], out, p) &&
           set_classes(a, f[F_CLASS], f[F_CLASSES], out, p) &&
           set_seeds(f[F_SEED], f[F_SEEDS], out, p);
}

static bool parse_with(bool (*from)(struct api *, const cJSON *, struct picture_params *,
                                    struct api_problem *),
                       struct api *a, const char *body, size_t length, struct picture_params *out,
                       struct api_problem *p)
{
    params_init(a, out);
    cJSON *root = api_parse_body(body, length, p);
    bool good = root && from(a, root, out, p);
    cJSON_Delete(root);
    if (!good)
        picture_params_free(out);
    return good;
}

bool api_parse_generate(struct api *a, const char *body, size_t length, struct picture_params *out,
                        struct api_problem *p)
{
    return parse_with(generate_from, a, body, length, out, p);
}

bool api_params_from_lists(struct api *a, const char *model, const cJSON *classes,
                           const cJSON *seeds, struct picture_params *out, struct api_problem *p)
{
    params_init(a, out);
    return find_model(a, model, out, p) && set_count(a, NULL, classes, seeds, out, p) &&
           set_classes(a, NULL, classes, out, p) && set_seeds(NULL, seeds, out, p);
}

/* ---- The OpenAI call ------------------------------------------------------------------------- */

enum {
    O_MODEL,
    O_PROMPT,
    O_N,
    O_SIZE,
    O_RESPONSE,
    O_STREAM,
    O_SEED,
    O_FORMAT,
    O_COMPRESSION,
    O_COUNT = 15
};
static const char *const openai_fields[] = {"model", "prompt", "n", "size", "response_format",
                                            "stream", "seed", "output_format", "output_compression",
                                            /* accepted, without effect */
                                            "quality", "style", "background", "moderation", "user",
                                            "partial_images", NULL};

static bool parse_size(const char *text, int *width, int *height)
{
    int length = 0;
    return sscanf(text, "%5dx%5d%n", width, height, &length) == 2 && text[length] == '\0' &&
           *width > 0 && *height > 0;
}

/* "strict", "nearest" or "ignore"; see the setting. */
static bool size_policy_is(const struct api *a, const char *policy)
{
    return strcmp(a->settings->size_policy, policy) == 0;
}

/* The model for a request that names none: under "nearest" the one whose pictures have the size
 * nearest to what is asked; else NULL, the default. */
static const char *model_of_size(struct api *a, const cJSON *root)
{
    const cJSON *size = cJSON_GetObjectItemCaseSensitive(root, "size");
    int width, height, best = -1;
    long least = 0;
    if (!size_policy_is(a, "nearest") || !cJSON_IsString(size) ||
        !parse_size(size->valuestring, &width, &height))
        return NULL;
    for (int i = 0; i < sched_model_count(a->scheduler); i++) {
        const struct imf_model_info *info = a->models[i].info;
        if (!info)
            continue;
        long far = labs((long)info->image_width - width) + labs((long)info->image_height - height);
        if (best < 0 || far < least) {
            best = i;
            least = far;
        }
    }
    struct sched_model_status status;
    if (best < 0)
        return NULL;
    sched_model_get(a->scheduler, best, &status);
    return status.id;
}

static bool openai_size(const struct api *a, const cJSON *value, const struct picture_params *out,
                        struct api_problem *p)
{
    const struct imf_model_info *info = a->models[out->model].info;
    const char *size = "auto";
    int width, height;
    if (size_policy_is(a, "ignore") || cJSON_IsNull(value))
        return true;
    if (!api_field_text(value, "size", &size, p))
        return false;
    if (strcmp(size, "auto") == 0)
        return true;
    bool parsed = parse_size(size, &width, &height);
    if (size_policy_is(a, "nearest"))
        return parsed || api_problem_set(p, API_INVALID, "size",
                                         "size: \"auto\" or WIDTHxHEIGHT is expected");
    if (parsed && width == info->image_width && height == info->image_height)
        return true;
    return api_problem_set(p, API_INVALID, "size",
                           "size: only \"%dx%d\" and \"auto\" are supported", info->image_width,
                           info->image_height);
}

static bool openai_from(struct api *a, const cJSON *root, struct picture_params *out,
                        struct api_problem *p)
{
    const cJSON *f[O_COUNT] = {NULL};
    const char *prompt = NULL, *model = NULL;
    if (!start_params(a, root, openai_fields, f, O_MODEL, model_of_size(a, root), out, p) ||
        !api_field_text(f[O_MODEL], "model", &model, p) ||
        !api_field_bool(f[O_STREAM], "stream", &out->stream, p))
        return false;
    /* As OpenAI's own: clients that ask DALL-E expect addresses. */
    const char *response =
        model && strncmp(model, "dall-e-", 7) == 0 && !out->stream ? "url" : "b64_json";
    if (!api_field_text(f[O_PROMPT], "prompt", &prompt, p) || !openai_size(a, f[O_SIZE], out, p) ||
        !api_field_text(f[O_RESPONSE], "response_format", &response, p) ||
        !api_field_encoding(f[O_FORMAT], f[O_COMPRESSION], out, p))
        return false;
    if (!prompt)
        return api_problem_set(p, API_INVALID, "prompt", "prompt: required; it names the class");
    if (strcmp(response, "b64_json") != 0 && strcmp(response, "url") != 0)
        return api_problem_set(p, API_INVALID, "response_format",
                               "response_format: \"b64_json\" or \"url\" is expected");
    out->url = response[0] == 'u';
    if (out->url && out->stream)
        return api_problem_set(p, API_INVALID, "response_format",
                               "response_format: a stream carries b64_json only");
    if (!set_count(a, f[O_N], NULL, NULL, out, p) || !set_seeds(f[O_SEED], NULL, out, p))
        return false;
    if (strncmp(prompt, "class:", 6) == 0)
        prompt += 6 + strspn(prompt + 6, " ");
    cJSON *text = cJSON_CreateString(prompt);
    bool good = text ? set_classes(a, text, NULL, out, p) : api_problem_memory(p);
    cJSON_Delete(text);
    if (!good && p->param)
        p->param = "prompt";
    return good;
}

bool api_parse_openai(struct api *a, const char *body, size_t length, struct picture_params *out,
                      struct api_problem *p)
{
    return parse_with(openai_from, a, body, length, out, p);
}

/* ---- The resource ---------------------------------------------------------------------------- */

static bool parse_file(const char *file, struct picture_params *out, struct api_problem *p)
{
    uint64_t value = 0;
    size_t n = 0;
    for (; file[n] >= '0' && file[n] <= '9' && n < 17; n++)
        value = value * 10 + (uint64_t)(file[n] - '0');
    int format = 0;
    while (format < PICTURE_FORMATS &&
           (file[n] != '.' || strcmp(file + n + 1, picture_format_suffix(format)) != 0))
        format++;
    if (format == PICTURE_FORMATS)
        return api_problem_set(p, n > 0 && file[n] == '.' ? API_NOT_FOUND : API_INVALID, "seed",
                               "the path ends in {seed}.png, .jpg or .webp");
    if (n == 0 || value > API_MAX_SEED || (n > 1 && file[0] == '0'))
        return api_problem_set(p, API_INVALID, "seed", "seed: a number from 0 to %llu is expected",
                               (unsigned long long)API_MAX_SEED);
    out->seed = value;
    picture_params_format(out, format);
    return true;
}

static bool parse_quality(const char *text, struct picture_params *out, struct api_problem *p)
{
    size_t n = strspn(text, "0123456789");
    unsigned long value = n > 0 && n < 4 && text[n] == '\0' ? strtoul(text, NULL, 10) : 101;
    if (value > 100)
        return api_problem_set(p, API_INVALID, "output_compression",
                               "output_compression: a whole number from 0 to 100 is expected");
    out->quality = (uint8_t)value;
    picture_params_format(out, out->encoding.format);
    return true;
}

static bool parse_query(const struct api *a, const char *query, struct picture_params *out,
                        struct api_problem *p)
{
    struct query_pair pair;
    unsigned given = 0;
    bool quality = false;
    int more;
    while ((more = query_next(&query, &pair)) > 0) {
        /* strtod alone would take hexadecimal, "inf" and blanks too. */
        char *end = pair.value;
        bool plain = pair.value[strspn(pair.value, "0123456789.eE+-")] == '\0';
        double v = plain ? strtod(pair.value, &end) : NAN;
        bool number = end != pair.value && *end == '\0';
        if (strcmp(pair.key, "output_compression") == 0) {
            if (quality)
                return api_problem_set(p, API_INVALID, "output_compression",
                                       "output_compression: given twice");
            if (!parse_quality(pair.value, out, p))
                return false;
            quality = true;
            continue;
        }
        int found = api_field_sampling(a, pair.key, v, number, &out->sampling, &given, p);
        if (found < 0)
            return false;
        if (found == 0)
            return api_problem_unknown(p, "query parameter", pair.key);
    }
    if (more < 0)
        return api_problem_set(p, API_BAD_REQUEST, NULL, "the query is badly encoded or too long");
    return api_check_interval(&out->sampling, p);
}

bool api_parse_resource(struct api *a, const char *model, const char *class_name, const char *file,
                        const char *query, struct picture_params *out, struct api_problem *p)
{
    params_init(a, out);
    if (!find_model(a, model, out, p) || !parse_file(file, out, p) ||
        !parse_query(a, query, out, p))
        return false;
    if (!class_from_text(a, out->model, class_name, "class", false, &out->label, p)) {
        if (p->kind == API_UNKNOWN_CLASS)
            p->kind = API_NO_CLASS;
        return false;
    }
    return true;
}
