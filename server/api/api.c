/* What the HTTP layer calls: who may ask what, the call that answers, the line in the log; and the
 * life of the API. */
#include "api/inference.h"
#include "api/internal.h"
#include "base/encode.h"
#include "http/text.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

enum { PING_MS = 1000 };

/* Who the client is and what to call this request. */
static void identify(struct api_call *c)
{
    struct api *a = c->api;
    const struct http_request *r = c->http;
    c->trusted = proxy_trusted(a->trust, http_peer(r));
    if (c->trusted)
        proxy_client(a->trust, http_peer(r), r->headers[HTTP_X_FORWARDED_FOR], c->client);
    else
        strcpy(c->client, http_peer(r));
    proxy_group(c->client, c->group);
    const char *id = r->headers[HTTP_X_REQUEST_ID];
    if (id && request_id_valid(id)) {
        strcpy(c->id, id);
        return;
    }
    static const char digits[] = "0123456789abcdef";
    uint64_t parts[2] = {a->id_prefix, ++a->id_counter};
    for (int i = 0; i < 32; i++)
        c->id[i] = digits[parts[i / 16] >> (60 - 4 * (i % 16)) & 15];
    c->id[32] = '\0';
}

/* Everything that can be said before the body is read. */
static bool check_headers(struct api_call *c, struct api_problem *p)
{
    struct http_request *r = c->http;
    if (!api_check_host(c, p))
        return false;
    if (strcmp(r->uri, "*") == 0) { /* OPTIONS of the server as a whole */
        http_header(r, "Allow", "GET, HEAD, POST, OPTIONS");
        api_common_headers(c);
        http_reply_static(r, 200, "", 0);
        return true;
    }
    if (c->route == ROUTE_UNKNOWN)
        return api_problem_set(p, API_NOT_FOUND, NULL, "there is nothing at this address");
    const char *allow;
    unsigned methods = api_route_methods(c->route, &allow);
    if (r->method == HTTP_OPTIONS) {
        api_reply_options(c, allow);
        return true;
    }
    if ((methods & 1u << r->method) == 0) {
        api_problem_set(p, API_METHOD, NULL, "this address takes %s", allow);
        api_fail(c, p);
        http_header(r, "Allow", allow);
        return true;
    }
    if (!api_check_key(c, p) || (r->method == HTTP_POST && !api_check_media_type(c, p)))
        return false;
    if (c->route == ROUTE_GENERATE && !api_generate_acceptable(c))
        return api_problem_set(p, API_ACCEPT, NULL,
                               "Accept names none of application/json, image/png, image/jpeg, "
                               "image/webp, multipart/mixed, "
                               "text/event-stream, application/x-npy");
    return true;
}

/* ---- The HTTP layer's callbacks -------------------------------------------------------------- */

static struct api_call *call_new(struct api *a, struct http_request *r)
{
    struct api_call *c = a->free_calls;
    if (c)
        a->free_calls = c->next_free;
    else if (!(c = malloc(sizeof(*c))))
        return NULL;
    memset(c, 0, sizeof(*c));
    c->api = a;
    c->http = r;
    c->cancelled = -1;
    r->user = c;
    identify(c);
    api_find_route(c);
    return c;
}

/* Out of memory for the call itself. */
static void reply_bare(struct http_request *r)
{
    static const char text[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"overloaded\","
                               "\"param\":null,\"code\":\"overloaded\"}}";
    http_header(r, "Retry-After", "1");
    http_reply_static(r, 503, text, sizeof(text) - 1);
}

static void on_headers(void *user, struct http_request *r)
{
    struct api_problem p;
    struct api_call *c = call_new(user, r);
    if (!c)
        reply_bare(r);
    else if (!check_headers(c, &p))
        api_fail(c, &p);
}

/* The errors that the HTTP layer finds. */
static enum api_error refusal_kind(int status)
{
    switch (status) {
    case 408:
        return API_SLOW;
    case 413:
        return API_TOO_LARGE;
    case 414:
        return API_URI;
    case 431:
        return API_HEADER;
    case 503:
        return API_OVERLOADED;
    case 505:
        return API_VERSION;
    default:
        return API_BAD_REQUEST;
    }
}

static void on_refuse(void *user, struct http_request *r, int status, const char *message)
{
    struct api_problem p;
    struct api_call *c = r->user ? r->user : call_new(user, r);
    if (!c) {
        reply_bare(r);
        return;
    }
    api_problem_set(&p, refusal_kind(status), NULL, "%s", message);
    api_fail(c, &p);
}

static bool is_proxy(void *user, const char *peer)
{
    struct api *a = user;
    return proxy_trusted(a->trust, peer);
}

static void run_image(struct api_call *c)
{
    char text[3][CLASSES_MAX_QUERY + 1];
    struct api_problem p;
    for (int i = 0; i < 3; i++) {
        if (!api_decode(text[i], sizeof(text[i]), c->part[i].text, c->part[i].length)) {
            api_problem_set(&p, API_NOT_FOUND, NULL, "the path is badly encoded or too long");
            api_fail(c, &p);
            return;
        }
    }
    api_image(c, text[0], text[1], text[2]);
}

/* Routes with one variable part. */
static void run_named(struct api_call *c, void (*get)(struct api_call *, const char *))
{
    char text[CLASSES_MAX_QUERY + 1];
    struct api_problem p;
    if (api_decode(text, sizeof(text), c->part[0].text, c->part[0].length)) {
        get(c, text);
        return;
    }
    api_problem_set(&p, API_NOT_FOUND, NULL, "the path is badly encoded or too long");
    api_fail(c, &p);
}

/* Models of /v2, with or without a version. */
static void run_inference(struct api_call *c)
{
    char model[CLASSES_MAX_QUERY + 1], version[64];
    struct api_problem p;
    if (!api_decode(model, sizeof(model), c->part[0].text, c->part[0].length) ||
        !api_decode(version, sizeof(version), c->part[2].text, c->part[2].length)) {
        api_problem_set(&p, API_NOT_FOUND, NULL, "the path is badly encoded or too long");
        api_fail(c, &p);
    } else if (c->route == ROUTE_V2_INFER) {
        api_infer(c, model, version);
    } else {
        api_infer_model(c, model, version);
    }
}

/* The page's links are relative: they hold below "/images/" and not at "/images". So is the
 * address given here, which thereby holds below a proxy's own prefix too. */
static void redirect_to_slash(struct api_call *c)
{
    char location[256];
    snprintf(location, sizeof(location), "%s/", strrchr(c->api->settings->root_path, '/') + 1);
    http_header(c->http, "Location", location);
    api_common_headers(c);
    http_reply_static(c->http, 308, "", 0);
}

static void on_request(void *user, struct http_request *r)
{
    struct api_call *c = r->user;
    (void)user;
    switch (c->route) {
    case ROUTE_GENERATE:
        api_generate(c);
        break;
    case ROUTE_IMAGE:
        run_image(c);
        break;
    case ROUTE_OPENAI:
        api_openai(c);
        break;
    case ROUTE_V2_INFER:
    case ROUTE_V2_MODEL:
    case ROUTE_V2_MODEL_READY:
        run_inference(c);
        break;
    case ROUTE_V2_SERVER:
        api_infer_server(c);
        break;
    case ROUTE_V2_LIVE:
    case ROUTE_V2_READY:
        api_infer_health(c);
        break;
    case ROUTE_MODELS:
        api_get_models(c);
        break;
    case ROUTE_MODEL:
        run_named(c, api_get_model);
        break;
    case ROUTE_CLASSES:
        api_get_classes(c);
        break;
    case ROUTE_CLASS:
        run_named(c, api_get_class);
        break;
    case ROUTE_LIVEZ:
    case ROUTE_READYZ:
    case ROUTE_HEALTH:
        api_get_health(c);
        break;
    case ROUTE_METRICS:
        api_get_metrics(c);
        break;
    case ROUTE_VERSION:
        api_get_version(c);
        break;
    case ROUTE_OPENAPI:
        api_get_openapi(c);
        break;
    case ROUTE_PAGE:
        if (c->bare_root)
            redirect_to_slash(c);
        else
            api_get_asset(c, "index.html");
        break;
    case ROUTE_ASSET:
        run_named(c, api_get_asset);
        break;
    case ROUTE_UNKNOWN:
    case ROUTE_COUNT:
        assert(!"refused in on_headers");
        break;
    }
}

static void on_gone(void *user, struct http_request *r)
{
    (void)user;
    pictures_on_gone(r->user);
}

static void on_drained(void *user, struct http_request *r, uint32_t count)
{
    (void)user;
    pictures_on_drained(r->user, count);
}

/* What became of the request. A reply that broke on our side after its status line has that fault's
 * status; 499 is for clients that went away, and for slow ones that were sent away. */
static int status_of(const struct api_call *c, enum http_end end)
{
    if (end == HTTP_SENT)
        return c->http->status;
    return c->failure != 0 ? c->failure : 499;
}

static void on_done(void *user, struct http_request *r, enum http_end end)
{
    struct api *a = user;
    struct api_call *c = r->user;
    if (!c)
        c = call_new(a, r); /* its header never became complete: log it all the same */
    if (!c)
        return;
    if (c->job)
        pictures_on_done(c, end);
    int status = status_of(c, end);
    double seconds = (double)(uv_hrtime() - r->start_ns) * 1e-9;
    metrics_request(a->metrics, c->route, r->method, status, seconds);
    if (log_enabled(a->log, LOG_INFO)) {
        const struct log_request line = {
            .id = c->id,
            .client = c->client,
            .key = c->key,
            .method = r->method_name,
            .uri = r->uri,
            .status = status,
            .bytes = r->method == HTTP_HEAD ? 0 : r->body_bytes,
            .ms = seconds * 1e3,
            .n = c->n,
            .queue_ms = (double)c->timings.queue * 1e-3,
            .denoise_ms = (double)c->timings.denoise * 1e-3,
            .decode_ms = (double)c->timings.decode * 1e-3,
            .encode_ms = (double)c->timings.encode * 1e-3,
            .refused = c->refused,
            .endpoint = r->headers[HTTP_X_GATEWAY_DESTINATION_ENDPOINT],
            .objective = r->headers[HTTP_X_LLM_D_INFERENCE_OBJECTIVE],
            .fairness = r->headers[HTTP_X_LLM_D_INFERENCE_FAIRNESS_ID],
            .cancelled =
                c->cancelled >= 0 ? sched_phase_name((enum sched_phase)c->cancelled) : NULL,
        };
        log_access(a->log, &line);
    }
    c->next_free = a->free_calls;
    a->free_calls = c;
}

struct http_app api_http_app(struct api *a)
{
    return (struct http_app){
        .user = a,
        .on_headers = on_headers,
        .on_request = on_request,
        .on_refuse = on_refuse,
        .on_gone = on_gone,
        .on_drained = on_drained,
        .on_done = on_done,
        .is_proxy = is_proxy,
    };
}

/* ---- Life ------------------------------------------------------------------------------------ */

static void on_ping(uv_timer_t *timer)
{
    pictures_ping(timer->data);
}

static imf_status name_encoders(struct api *a)
{
    struct picture_encoder *e = NULL;
    imf_status status = picture_encoder_create(&e, (int)a->settings->png_level);
    for (int i = 0; i < PICTURE_FORMATS && status == IMF_OK; i++)
        status = picture_encoder_print(e, i, &a->encoders[i]);
    picture_encoder_destroy(e);
    return status;
}

imf_status api_create(struct api **out, uv_loop_t *loop, const struct settings *settings,
                      struct log *log, struct keys *keys, struct imf_error *err)
{
    struct api *a = calloc(1, sizeof(*a));
    if (!a)
        return IMF_ENOMEM;
    a->loop = loop;
    a->settings = settings;
    a->log = log;
    a->metrics = metrics_create();
    a->imagenet = classes_create_imagenet();
    a->assets = assets_create(settings->root_path);
    if (settings->rate_limit > 0)
        a->rate = rate_limit_create(settings->rate_limit);
    imf_status status = proxy_trust_create(&a->trust, settings->trusted_proxies.items,
                                           settings->trusted_proxies.n, err);
    imf_status named = name_encoders(a);
    if (status == IMF_OK && (named != IMF_OK || !a->metrics || !a->imagenet || !a->assets ||
                             (settings->rate_limit > 0 && !a->rate))) {
        status = IMF_ENOMEM;
        if (err)
            *err = (struct imf_error){IMF_ENOMEM, "out of memory"};
    }
    if (status != IMF_OK) {
        api_free(a);
        return status;
    }
    a->keys = keys;
    if (getrandom(&a->id_prefix, sizeof(a->id_prefix), 0) != (ssize_t)sizeof(a->id_prefix))
        a->id_prefix = uv_hrtime();
    uv_timer_init(loop, &a->ping);
    a->ping.data = a;
    uv_timer_start(&a->ping, on_ping, PING_MS, PING_MS);
    uv_unref((uv_handle_t *)&a->ping);
    *out = a;
    return IMF_OK;
}

void api_set_scheduler(struct api *a, struct scheduler *s)
{
    a->scheduler = s;
}

void api_set_http(struct api *a, struct http_server *http)
{
    a->http = http;
}

void api_set_keys(struct api *a, struct keys *keys)
{
    keys_free(a->keys);
    a->keys = keys;
}

void api_drain(struct api *a)
{
    a->draining = true;
}

void api_close(struct api *a)
{
    uv_close((uv_handle_t *)&a->ping, NULL);
}

void api_free(struct api *a)
{
    if (!a)
        return;
    while (a->free_calls) {
        struct api_call *c = a->free_calls;
        a->free_calls = c->next_free;
        free(c);
    }
    for (int i = 0; i < SCHED_MAX_MODELS; i++) {
        if (a->models[i].owns_classes)
            classes_destroy(a->models[i].classes);
    }
    keys_free(a->keys);
    proxy_trust_destroy(a->trust);
    rate_limit_destroy(a->rate);
    metrics_destroy(a->metrics);
    classes_destroy(a->imagenet);
    assets_destroy(a->assets);
    free(a);
}
