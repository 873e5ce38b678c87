/* Everything that is not a picture: models, classes, health, metrics. */
#include "api/internal.h"
#include "http/text.h"
#include "base/png.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BODY = 8 << 20 };

/* ---- Models ---------------------------------------------------------------------------------- */

/* Every reply here is an object; this writes its first member. */
static void begin_object(struct json_writer *w, struct buffer *body, const char *key,
                         const char *value)
{
    buffer_init(body, MAX_BODY);
    json_init(w, body);
    json_object_begin(w);
    json_key(w, key);
    json_string(w, value);
}

static const char *state_name(enum sched_model_state state)
{
    static const char *const names[] = {"loading", "ready", "failed", "sick"};
    return names[state];
}

struct named_model {
    struct scheduler *scheduler;
    int model;
};

static const char *name_of(void *user, int label)
{
    const struct named_model *m = user;
    return sched_class_name(m->scheduler, m->model, label);
}

/* A model became ready (or changed its state): learn its sizes and the names of its classes. */
bool api_on_model(void *user, struct scheduler *s, int model)
{
    struct api *a = user;
    struct api_model *m = &a->models[model];
    struct sched_model_status status;
    sched_model_get(s, model, &status);
    log_write(a->log, status.message[0] != '\0' ? LOG_ERROR : LOG_DEBUG, "model %s: %s%s%s",
              status.id, state_name(status.state), status.message[0] != '\0' ? ": " : "",
              status.message);
    if (m->info || !status.info)
        return true;
    m->classes = a->imagenet;
    if (status.info->classes != CLASSES_IMAGENET) {
        struct named_model named = {s, model};
        m->classes = classes_create_named(status.info->classes, name_of, &named);
        m->owns_classes = true;
        if (!m->classes)
            return false;
    }
    m->own = *status.info;
    m->info = &m->own;
    const struct imf_model_info *info = status.info;
    log_write(a->log, LOG_INFO, "model %s: ready, %s, decoder %s, fingerprint %s", status.id,
              info->name, info->decoder, info->fingerprint);
    log_write(a->log, LOG_INFO,
              "model %s: pictures of %d x %d, %zu MB of weights, %zu MB reserved for batches of %d",
              status.id, info->image_width, info->image_height, info->weights_bytes >> 20,
              info->arena_bytes >> 20, info->max_batch);
    if (info->checkpoint_others[0] != '\0')
        log_write(a->log, LOG_INFO, "model %s: state dict %s was taken; also there: %s", status.id,
                  info->checkpoint_key, info->checkpoint_others);
    return true;
}

static void write_model_details(struct api *a, struct json_writer *w,
                                const struct sched_model_status *status)
{
    const struct imf_model_info *info = status->info;
    json_key(w, "imfd");
    json_object_begin(w);
    json_key(w, "state");
    json_string(w, state_name(status->state));
    if (info) {
        json_key(w, "architecture");
        json_string(w, info->name);
        json_key(w, "size");
        json_object_begin(w);
        json_key(w, "width");
        json_int(w, info->image_width);
        json_key(w, "height");
        json_int(w, info->image_height);
        json_object_end(w);
        json_key(w, "parameters");
        json_u64(w, info->parameters);
        json_key(w, "classes");
        json_int(w, info->classes);
        json_key(w, "max_steps");
        json_int(w, a->settings->max_steps);
        json_key(w, "max_n");
        json_int(w, a->settings->max_n);
        json_key(w, "defaults");
        json_object_begin(w);
        api_write_sampling(w, &info->defaults);
        json_object_end(w);
        json_key(w, "noise_scale");
        json_fixed(w, (double)info->noise_scale, 3);
        json_key(w, "decoder");
        json_string(w, info->decoder);
        json_key(w, "fingerprint");
        json_string(w, info->fingerprint);
    } else if (status->state == SCHED_MODEL_LOADING) {
        json_key(w, "loaded");
        json_fixed(w, status->load_fraction, 3);
    }
    if (status->device) {
        json_key(w, "precision");
        json_string(w, imf_precision_name(status->device->precision));
        json_key(w, "device");
        json_string(w, status->device->device);
    }
    json_object_end(w);
}

static void write_model(struct api *a, struct json_writer *w, int model)
{
    struct sched_model_status status;
    sched_model_get(a->scheduler, model, &status);
    json_object_begin(w);
    json_key(w, "id");
    json_string(w, status.id);
    json_key(w, "object");
    json_string(w, "model");
    json_key(w, "created");
    json_int(w, 0); /* when a checkpoint was made is not known */
    json_key(w, "owned_by");
    json_string(w, "imfd");
    write_model_details(a, w, &status);
    json_object_end(w);
}

void api_get_models(struct api_call *c)
{
    struct buffer body;
    struct json_writer w;
    begin_object(&w, &body, "object", "list");
    json_key(&w, "data");
    json_array_begin(&w);
    for (int i = 0; i < sched_model_count(c->api->scheduler); i++)
        write_model(c->api, &w, i);
    json_array_end(&w);
    json_object_end(&w);
    http_header(c->http, "Cache-Control", "no-cache");
    api_reply_json(c, 200, &body);
}

void api_get_model(struct api_call *c, const char *id)
{
    int model = api_find_model(c->api, id);
    if (model < 0) {
        struct api_problem p;
        api_problem_set(&p, API_NO_MODEL, "model", "there is no model \"%.100s\"", id);
        api_fail(c, &p);
        return;
    }
    struct buffer body;
    struct json_writer w;
    buffer_init(&body, MAX_BODY);
    json_init(&w, &body);
    write_model(c->api, &w, model);
    http_header(c->http, "Cache-Control", "no-cache");
    api_reply_json(c, 200, &body);
}

/* ---- Classes --------------------------------------------------------------------------------- */

static void write_class(struct json_writer *w, const struct classes *classes, int index)
{
    const struct class_info *info = classes_get(classes, index);
    json_object_begin(w);
    json_key(w, "index");
    json_int(w, index);
    json_key(w, "wordnet_id");
    json_string(w, info->wordnet_id[0] != '\0' ? info->wordnet_id : NULL);
    json_key(w, "name");
    json_string(w, info->name);
    json_key(w, "names");
    json_array_begin(w);
    for (int i = 0; i < info->n_names; i++)
        json_string(w, info->names[i]);
    json_array_end(w);
    json_object_end(w);
}

/* The classes of a model by id, of the default one where id is "", ImageNet's while it loads. */
static const struct classes *classes_of(struct api *a, const char *id, struct api_problem *p)
{
    int model = id[0] == '\0' ? 0 : api_find_model(a, id);
    if (model < 0) {
        api_problem_set(p, API_NO_MODEL, "model", "there is no model \"%.100s\"", id);
        return NULL;
    }
    return a->models[model].classes ? a->models[model].classes : a->imagenet;
}

struct class_query {
    char q[CLASSES_MAX_QUERY + 56];
    char model[256];
    int limit;
};

static bool parse_class_query(const char *query, bool search, struct class_query *out,
                              struct api_problem *p)
{
    struct query_pair pair;
    int more;
    *out = (struct class_query){.limit = INT32_MAX};
    while ((more = query_next(&query, &pair)) > 0) {
        if (search && strcmp(pair.key, "q") == 0) {
            strcpy(out->q, pair.value);
        } else if (strcmp(pair.key, "model") == 0) {
            strcpy(out->model, pair.value);
        } else if (search && strcmp(pair.key, "limit") == 0) {
            char *end;
            long limit = strtol(pair.value, &end, 10);
            if (pair.value[0] < '0' || pair.value[0] > '9' || *end != '\0' || limit < 1 ||
                limit > 100000)
                return api_problem_set(p, API_INVALID, "limit",
                                       "limit: a whole number from 1 to 100000 is expected");
            out->limit = (int)limit;
        } else {
            return api_problem_unknown(p, "query parameter", pair.key);
        }
    }
    if (more < 0)
        return api_problem_set(p, API_BAD_REQUEST, NULL, "the query is badly encoded or too long");
    return true;
}

void api_get_classes(struct api_call *c)
{
    struct api_problem p;
    struct class_query query;
    const struct classes *classes = NULL;
    if (parse_class_query(c->query, true, &query, &p))
        classes = classes_of(c->api, query.model, &p);
    int count = classes ? classes_count(classes) : 0;
    int *found = classes ? malloc((size_t)count * sizeof(*found) + 1) : NULL;
    if (classes && !found)
        api_problem_memory(&p);
    if (!found) {
        api_fail(c, &p);
        return;
    }
    int n = classes_search(classes, query.q, strlen(query.q), found,
                           query.limit < count ? query.limit : count);
    struct buffer body;
    struct json_writer w;
    begin_object(&w, &body, "object", "list");
    json_key(&w, "data");
    json_array_begin(&w);
    for (int i = 0; i < n; i++)
        write_class(&w, classes, found[i]);
    json_array_end(&w);
    json_object_end(&w);
    free(found);
    http_header(c->http, "Cache-Control", "no-cache");
    api_reply_json(c, 200, &body);
}

void api_get_class(struct api_call *c, const char *name)
{
    struct api_problem p;
    struct class_query query;
    struct class_lookup found;
    const struct classes *classes = NULL;
    if (parse_class_query(c->query, false, &query, &p))
        classes = classes_of(c->api, query.model, &p);
    enum class_match match =
        classes ? classes_find(classes, name, strlen(name), &found) : CLASS_UNKNOWN;
    if (classes && match == CLASS_UNKNOWN)
        api_problem_set(&p, API_NO_CLASS, "class", "there is no class \"%.100s\"", name);
    if (match == CLASS_AMBIGUOUS)
        api_problem_set(&p, API_AMBIGUOUS_CLASS, "class",
                        "\"%.100s\" names several classes: %d and %d%s", name, found.candidates[0],
                        found.candidates[1], found.n_candidates > 2 ? " and more" : "");
    if (match != CLASS_FOUND) {
        api_fail(c, &p);
        return;
    }
    struct buffer body;
    struct json_writer w;
    buffer_init(&body, MAX_BODY);
    json_init(&w, &body);
    write_class(&w, classes, found.index);
    http_header(c->http, "Cache-Control", "no-cache");
    api_reply_json(c, 200, &body);
}

/* ---- Health, metrics, version ---------------------------------------------------------------- */

static void write_checks(struct api *a, struct json_writer *w)
{
    struct sched_model_status status;
    json_key(w, "models");
    json_object_begin(w);
    for (int i = 0; i < sched_model_count(a->scheduler); i++) {
        sched_model_get(a->scheduler, i, &status);
        json_key(w, status.id);
        json_string(w, state_name(status.state));
    }
    json_object_end(w);
}

/* Devices are listed once one of them is lost or stuck: the server may well go on with the others.
 */
static void write_devices(struct api *a, struct json_writer *w)
{
    struct sched_device_status status;
    bool lost = false;
    for (int i = 0; i < sched_device_count(a->scheduler); i++) {
        sched_device_get(a->scheduler, i, &status);
        lost |= status.failed || status.stuck;
    }
    if (!lost)
        return;
    json_key(w, "devices");
    json_object_begin(w);
    for (int i = 0; i < sched_device_count(a->scheduler); i++) {
        sched_device_get(a->scheduler, i, &status);
        json_key(w, status.name);
        json_string(w, status.failed  ? "sick"
                       : status.stuck ? "stuck"
                       : status.open  ? "ready"
                                      : "loading");
    }
    json_object_end(w);
}

/* Why it is not ready. */
static const char *waits_for(struct api *a)
{
    struct sched_model_status status;
    for (int i = 0; i < sched_model_count(a->scheduler); i++) {
        sched_model_get(a->scheduler, i, &status);
        if (status.state == SCHED_MODEL_SICK || status.state == SCHED_MODEL_FAILED)
            return "sick";
    }
    for (int i = 0; i < sched_model_count(a->scheduler); i++) {
        sched_model_get(a->scheduler, i, &status);
        if (status.state == SCHED_MODEL_READY && !sched_model_answers(a->scheduler, i))
            return "stuck";
    }
    return "loading";
}

/* livez: the loop answers, and an engine does. readyz: every model ready, not draining. health:
 * readyz with details. */
void api_get_health(struct api_call *c)
{
    struct api *a = c->api;
    struct buffer body;
    struct json_writer w;
    bool ready = !a->draining && sched_ready(a->scheduler);
    bool live = sched_answers(a->scheduler);
    bool good = c->route == ROUTE_LIVEZ ? live : ready;
    begin_object(&w, &body, "status",
                 c->route == ROUTE_LIVEZ ? (live ? "live" : "stuck")
                 : ready                 ? "ready"
                 : a->draining           ? "draining"
                                         : waits_for(a));
    if (c->route == ROUTE_HEALTH)
        write_checks(a, &w);
    if (c->route != ROUTE_LIVEZ)
        write_devices(a, &w);
    json_object_end(&w);
    if (!good)
        http_header(c->http, "Retry-After", "1");
    http_header(c->http, "Cache-Control", "no-store");
    api_reply_json(c, good ? 200 : 503, &body);
}

void api_get_metrics(struct api_call *c)
{
    struct api *a = c->api;
    struct buffer body;
    buffer_init(&body, MAX_BODY);
    metrics_write(a->metrics, &body, a->scheduler, a->http, log_lost(a->log),
                  !a->draining && sched_ready(a->scheduler),
                  (double)a->settings->request_timeout_ms * 1e-3);
    http_header(c->http, "Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    http_header(c->http, "Cache-Control", "no-store");
    api_common_headers(c);
    http_reply_buffer(c->http, 200, &body);
}

void api_get_version(struct api_call *c)
{
    struct buffer body;
    struct json_writer w;
    begin_object(&w, &body, "name", "imfd");
    json_key(&w, "version");
    json_string(&w, imf_version());
    json_key(&w, "api");
    json_string(&w, "v1");
    json_object_end(&w);
    http_header(c->http, "Cache-Control", "no-cache");
    api_reply_json(c, 200, &body);
}

/* ---- Metadata of pictures ---------------------------------------------------------------------
 */

/* On an encoder thread: reads only what was set before the first picture was asked for. The form of
 * "parameters" is the one that image tools read. */
void api_describe(void *user, const struct picture_key *key, struct picture_text *text)
{
    struct api *a = user;
    const struct imf_model_info *info = a->models[key->model].info;
    const char *id = a->settings->models.items[key->model].id;
    text->parameters[0] = text->imfd[0] = text->software[0] = '\0';
    if (!info)
        return; /* the warm-up's picture */
    char omega[32], low[32], high[32];
    const char *name = api_class_name(a, key->model, key->label);
    format_float(omega, key->sampling.omega);
    format_float(low, key->sampling.t_min);
    format_float(high, key->sampling.t_max);
    snprintf(text->parameters, sizeof(text->parameters),
             "%s\nSteps: %d, Sampler: iMF, CFG scale: %s, Seed: %llu, Size: %dx%d, Model: %s, "
             "Version: imfd %s",
             name, key->sampling.steps, omega, (unsigned long long)key->seed, info->image_width,
             info->image_height, id, imf_version());

    snprintf(text->software, sizeof(text->software), "imfd %s", imf_version());

    struct buffer b;
    struct json_writer w;
    buffer_init(&b, sizeof(text->imfd) - 1);
    json_init(&w, &b);
    json_object_begin(&w);
    json_key(&w, "model");
    json_string(&w, id);
    json_key(&w, "class");
    if (key->label < info->classes)
        json_int(&w, key->label);
    else
        json_string(&w, "none");
    json_key(&w, "class_name");
    json_string(&w, name);
    json_key(&w, "seed");
    json_u64(&w, key->seed);
    api_write_sampling(&w, &key->sampling);
    json_key(&w, "fingerprint");
    json_string(&w, info->fingerprint);
    json_object_end(&w);
    if (!b.failed) {
        memcpy(text->imfd, b.data, b.size);
        text->imfd[b.size] = '\0';
    }
    buffer_free(&b);
}
