/* The addresses below /v2. */
#include "api/forms.h"
#include "api/inference.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BODY = 1 << 16 };

static bool check_version(const char *version, struct api_problem *p)
{
    return version[0] == '\0' || strcmp(version, "1") == 0 ||
           api_problem_set(p, API_NO_MODEL, NULL, "there is no version \"%.40s\", only \"1\"",
                           version);
}

/* How much of the body is JSON. */
static bool json_length(const struct http_request *r, size_t *out, struct api_problem *p)
{
    const char *text = r->headers[HTTP_INFERENCE_HEADER_CONTENT_LENGTH];
    *out = r->body.size;
    if (!text)
        return true;
    size_t digits = strspn(text, "0123456789");
    unsigned long long n = digits > 0 && digits < 19 ? strtoull(text, NULL, 10) : 0;
    if (digits == 0 || digits >= 19 || text[digits] != '\0' || n > r->body.size)
        return api_problem_set(p, API_BAD_REQUEST, NULL,
                               "Inference-Header-Content-Length is not a length within the body");
    *out = (size_t)n;
    return true;
}

void api_infer(struct api_call *c, const char *model, const char *version)
{
    struct picture_params params;
    struct api_problem p;
    size_t json = 0;
    struct infer_ask *ask = calloc(1, sizeof(*ask));
    bool good = ask ? check_version(version, &p) && json_length(c->http, &json, &p)
                    : api_problem_memory(&p);
    if (good)
        good = infer_parse(c->api, model, c->http->body.data, c->http->body.size, json, &params,
                           ask, &p);
    if (good) {
        pictures_submit(c, FORM_INFER, &params, ask);
        return;
    }
    infer_ask_free(ask);
    api_fail(c, &p);
}

/* ---- What there is --------------------------------------------------------------------------- */

static void begin(struct json_writer *w, struct buffer *body)
{
    buffer_init(body, MAX_BODY);
    json_init(w, body);
    json_object_begin(w);
}

static void reply(struct api_call *c, int status, struct json_writer *w, struct buffer *body)
{
    json_object_end(w);
    http_header(c->http, "Cache-Control", "no-store");
    if (status == 503)
        http_header(c->http, "Retry-After", "1");
    api_reply_json(c, status, body);
}

static void write_text(struct json_writer *w, const char *key, const char *text)
{
    json_key(w, key);
    json_string(w, text);
}

void api_infer_server(struct api_call *c)
{
    struct buffer body;
    struct json_writer w;
    begin(&w, &body);
    write_text(&w, "name", "imfd");
    write_text(&w, "version", imf_version());
    json_key(&w, "extensions");
    json_array_begin(&w);
    json_string(&w, "binary_tensor_data");
    json_array_end(&w);
    reply(c, 200, &w, &body);
}

void api_infer_health(struct api_call *c)
{
    bool live = c->route == ROUTE_V2_LIVE;
    bool good = live ? sched_answers(c->api->scheduler)
                     : !c->api->draining && sched_ready(c->api->scheduler);
    struct buffer body;
    struct json_writer w;
    begin(&w, &body);
    json_key(&w, live ? "live" : "ready");
    json_bool(&w, good);
    reply(c, good ? 200 : 503, &w, &body);
}

/* Shape -1: any number. */
static void write_tensor(struct json_writer *w, const char *name, const char *type,
                         const struct imf_model_info *info)
{
    json_object_begin(w);
    write_text(w, "name", name);
    write_text(w, "datatype", type);
    json_key(w, "shape");
    json_array_begin(w);
    json_int(w, -1);
    if (info) {
        json_int(w, info->image_height);
        json_int(w, info->image_width);
        json_int(w, 3);
    }
    json_array_end(w);
    json_object_end(w);
}

static void write_tensors(struct json_writer *w, const struct imf_model_info *info)
{
    static const struct {
        const char *name, *type;
    } inputs[] = {{"class", "INT64"}, {"seed", "INT64"}, {"steps", "INT32"},
                  {"omega", "FP32"},  {"t_min", "FP32"}, {"t_max", "FP32"}};
    json_key(w, "inputs");
    json_array_begin(w);
    for (size_t i = 0; i < sizeof(inputs) / sizeof(inputs[0]); i++)
        write_tensor(w, inputs[i].name, inputs[i].type, NULL);
    json_array_end(w);
    json_key(w, "outputs");
    json_array_begin(w);
    for (int i = 0; i < INFER_OUTPUTS; i++)
        write_tensor(w, infer_output_name((enum infer_tensor)i),
                     infer_output_type((enum infer_tensor)i), i == INFER_PIXELS ? info : NULL);
    json_array_end(w);
}

void api_infer_model(struct api_call *c, const char *model, const char *version)
{
    struct sched_model_status status;
    struct api_problem p;
    struct buffer body;
    struct json_writer w;
    int index = api_find_model(c->api, model);
    bool good = index >= 0 ||
                api_problem_set(&p, API_NO_MODEL, NULL, "there is no model \"%.100s\"", model);
    if (!good || !check_version(version, &p)) {
        api_fail(c, &p);
        return;
    }
    sched_model_get(c->api->scheduler, index, &status);
    bool ready = status.state == SCHED_MODEL_READY && !c->api->draining &&
                 sched_model_answers(c->api->scheduler, index);
    begin(&w, &body);
    write_text(&w, "name", status.id);
    if (c->route == ROUTE_V2_MODEL_READY) {
        json_key(&w, "ready");
        json_bool(&w, ready);
        reply(c, ready ? 200 : 503, &w, &body);
        return;
    }
    json_key(&w, "versions");
    json_array_begin(&w);
    json_string(&w, "1");
    json_array_end(&w);
    write_text(&w, "platform", "imfd");
    write_tensors(&w, c->api->models[index].info);
    reply(c, 200, &w, &body);
}
