/* What the api_*.c files share. */
#ifndef API_INTERNAL_H
#define API_INTERNAL_H

#include "api/api.h"
#include "api/classes.h"
#include "base/embed.h"
#include "http/proxy.h"
#include "api/ratelimit.h"

/* Of JPEG and WebP where a request names none: OpenAI's default. */
#define API_QUALITY 100
#define API_MAX_SEED ((UINT64_C(1) << 53) - 1)

/* ---- problem.c: errors; kind, status, type, code ----------------------------------------- */

#define API_ERROR_MAP(X)                                                                           \
    X(INVALID, 400, "invalid_request_error", "invalid_value")                                      \
    X(BAD_JSON, 400, "invalid_request_error", "invalid_json")                                      \
    X(UNKNOWN_FIELD, 400, "invalid_request_error", "unknown_field")                                \
    X(AMBIGUOUS_CLASS, 400, "invalid_request_error", "ambiguous_class")                            \
    X(UNKNOWN_CLASS, 400, "invalid_request_error", "unknown_class")                                \
    X(BAD_REQUEST, 400, "invalid_request_error", "bad_request")                                    \
    X(NO_KEY, 401, "authentication_error", "invalid_api_key")                                      \
    X(HOST, 403, "invalid_request_error", "host_not_allowed")                                      \
    X(CROSS_SITE, 403, "invalid_request_error", "cross_site")                                      \
    X(NOT_FOUND, 404, "not_found_error", "not_found")                                              \
    X(NO_MODEL, 404, "not_found_error", "model_not_found")                                         \
    X(NO_CLASS, 404, "not_found_error", "class_not_found")                                         \
    X(METHOD, 405, "invalid_request_error", "method_not_allowed")                                  \
    X(ACCEPT, 406, "invalid_request_error", "not_acceptable")                                      \
    X(SLOW, 408, "invalid_request_error", "request_timeout")                                       \
    X(TOO_LARGE, 413, "invalid_request_error", "body_too_large")                                   \
    X(URI, 414, "invalid_request_error", "uri_too_long")                                           \
    X(MEDIA_TYPE, 415, "invalid_request_error", "unsupported_media_type")                          \
    X(HEADER, 431, "invalid_request_error", "header_too_large")                                    \
    X(RATE, 429, "rate_limit_error", "rate_limit_exceeded")                                        \
    X(ADDRESS, 429, "rate_limit_error", "too_many_requests_from_address")                          \
    X(ENGINE, 500, "engine_error", "engine_error")                                                 \
    X(OVERLOADED, 503, "overloaded", "overloaded")                                                 \
    X(LOADING, 503, "loading", "loading")                                                          \
    X(DRAINING, 503, "draining", "draining")                                                       \
    X(DEADLINE, 504, "deadline_exceeded", "deadline_exceeded")                                     \
    X(VERSION, 505, "server_error", "http_version")

enum api_error {
#define API_ERROR_ENUM(kind, status, type, code) API_##kind,
    API_ERROR_MAP(API_ERROR_ENUM)
#undef API_ERROR_ENUM
};

struct api_problem {
    enum api_error kind;
    const char *param; /* the field's name, static or in `field`, or NULL */
    char field[64];    /* holds a name that came from outside */
    uint64_t retry_us; /* with 429 and 503 */
    bool memory;       /* for want of memory: what can be done without is given back */
    char message[640];
};

/* Fills *p and returns false, so that parsers can write `return problem(...)`. */
__attribute__((format(printf, 4, 5))) bool api_problem_set(struct api_problem *p,
                                                           enum api_error kind, const char *param,
                                                           const char *format, ...);
/* 503 for want of memory. Returns false. */
bool api_problem_memory(struct api_problem *p);
/* An unknown field or query parameter, which becomes `param`. */
bool api_problem_unknown(struct api_problem *p, const char *what, const char *name);
void api_problem_twice(struct api_problem *p, const char *name);
int api_status(const struct api_problem *p);
const char *api_code(const struct api_problem *p); /* "overloaded" */
/* Error object as JSON: {"error": {...}}. */
void api_error_json(struct json_writer *w, const struct api_problem *p);

/* ---- Models ---------------------------------------------------------------------------------- */

struct api_model {
    const struct imf_model_info *info; /* &own, or NULL until ready the first time */
    struct imf_model_info own;         /* a copy: encoders may outlive the model at the end */
    struct classes *classes;           /* with info */
    bool owns_classes;
};

/* ---- Calls ----------------------------------------------------------------------------------- */

struct picture_job;

/* The application's side of one HTTP request; lives from on_headers to on_done. */
struct api_call {
    struct api *api;
    struct http_request *http;
    enum route route;
    const char *query; /* still encoded; "" when absent */
    struct {
        const char *text; /* still encoded, not terminated */
        size_t length;
    } part[3];      /* the variable parts of the path */
    bool inference; /* below /v2, whose errors have a form of their own */
    bool bare_root; /* the target is root_path without the slash behind it */
    bool trusted;   /* the peer is a trusted proxy */
    char client[PROXY_ADDRESS_SIZE], group[PROXY_ADDRESS_SIZE]; /* what its limits are kept under */
    char key[KEYS_MAX_NAME + 1];  /* name of the API key, "" without */
    char id[129];                 /* X-Request-Id */
    struct picture_job *job;      /* or NULL */
    int n;                        /* pictures asked for, for the log */
    struct sched_timings timings; /* of the slowest picture */
    const char *refused;          /* code of what sent it away for want of room or time, or NULL */
    int cancelled;                /* enum sched_phase in which the client went away, or -1 */
    int failure;                  /* status of what broke the reply, or 0 */
    struct api_call *next_free;
};

struct api {
    uv_loop_t *loop;
    const struct settings *settings;
    struct log *log;
    struct keys *keys;
    struct proxy_trust *trust;
    struct rate_limit *rate;
    struct client_count *addresses; /* requests in hand, by address */
    struct metrics *metrics;
    struct scheduler *scheduler;
    struct http_server *http;
    struct classes *imagenet;
    struct assets *assets;
    struct api_model models[SCHED_MAX_MODELS];
    uint64_t encoders[PICTURE_FORMATS]; /* picture_encoder_print */
    struct api_call *free_calls;
    struct picture_job *sse_jobs; /* that may want a ping */
    uv_timer_t ping;
    bool draining;
    uint64_t id_prefix, id_counter;
};

/* ---- api/reply.c: the common parts of replies ------------------------------------------------ */

void api_fail(struct api_call *c, const struct api_problem *p);
void api_common_headers(struct api_call *c); /* that every reply carries */
void api_reply_json(struct api_call *c, int status, struct buffer *body); /* takes the bytes */
void api_base_url(const struct api_call *c, struct buffer *out); /* "https://host/prefix" */
/* steps, omega, t_min and t_max, into the object being written. */
void api_write_sampling(struct json_writer *w, const struct imf_sampling *s);

/* ---- access.c: who may ask; each false with *p ------------------------------------------------ */

bool api_check_host(const struct api_call *c, struct api_problem *p);
bool api_check_key(struct api_call *c, struct api_problem *p); /* sets the call's key */
bool api_check_media_type(const struct api_call *c, struct api_problem *p);
/* Before work is started for a GET. */
bool api_check_site(const struct api_call *c, struct api_problem *p);
/* The origin as Access-Control-Allow-Origin is to name it; NULL when its pages may not call. */
const char *api_allowed_origin(const struct api *a, const char *origin);
/* OPTIONS: what may be done here, and to a listed origin's page the leave to do it. */
void api_reply_options(struct api_call *c, const char *allow);

/* ---- routes.c: addresses ----------------------------------------------------------------- */

/* Sets the call's route, query and parts from its request's target. */
void api_find_route(struct api_call *c);
/* Bit set of enum http_method, OPTIONS apart, and the same as the header Allow. */
unsigned api_route_methods(enum route route, const char **allow);
/* Decodes encoded[0..n), a part of a path, into text. */
bool api_decode(char *text, size_t capacity, const char *encoded, size_t n);

/* ---- info.c: models, classes, health, metrics, documents --------------------------------- */

void api_get_models(struct api_call *c);
void api_get_model(struct api_call *c, const char *id);
void api_get_classes(struct api_call *c);
void api_get_class(struct api_call *c, const char *name);
void api_get_health(struct api_call *c);
void api_get_metrics(struct api_call *c);
void api_get_version(struct api_call *c);

/* ---- assets.c: the page and /openapi.json ------------------------------------------------ */

struct assets;                                       /* opaque */
struct assets *assets_create(const char *root_path); /* NULL when out of memory */
void assets_destroy(struct assets *a);               /* NULL is fine */
void api_get_openapi(struct api_call *c);
void api_get_asset(struct api_call *c, const char *name);

/* ---- params.c: what a picture request asks for ------------------------------------------- */

struct picture_params {
    int model;
    struct imf_sampling sampling;
    struct imf_sampling *samplings; /* each picture's own; owned, or NULL */
    uint32_t n;
    int32_t label;
    int32_t *labels; /* owned, or NULL */
    uint64_t seed;
    uint64_t *seeds; /* owned, or NULL */
    int priority;
    uint64_t timeout_ms;
    uint8_t quality; /* of formats that have one */
    struct picture_encoding encoding;
    bool format_given; /* by output_format: then Accept chooses no other */
    bool embed;
    bool url, stream; /* OpenAI */
};

bool api_parse_generate(struct api *a, const char *body, size_t length, struct picture_params *out,
                        struct api_problem *p);
bool api_parse_openai(struct api *a, const char *body, size_t length, struct picture_params *out,
                      struct api_problem *p);
/* From lists of classes and (or NULL) seeds; everything else as by default. */
struct cJSON;
bool api_params_from_lists(struct api *a, const char *model, const struct cJSON *classes,
                           const struct cJSON *seeds, struct picture_params *out,
                           struct api_problem *p);
/* GET /v1/images/...: decoded path parts and the encoded query. */
bool api_parse_resource(struct api *a, const char *model, const char *class_name, const char *file,
                        const char *query, struct picture_params *out, struct api_problem *p);
/* Sets the encoding: that format at the quality asked for. */
void picture_params_format(struct picture_params *params, int format);
void picture_params_free(struct picture_params *params);
/* Picture i's class and seed. */
int32_t picture_label(const struct picture_params *params, uint32_t i);
uint64_t picture_seed(const struct picture_params *params, uint32_t i);
/* Display name; "none" for the null class. */
const char *api_class_name(const struct api *a, int model, int32_t label);
/* A model by id or alias; -1 when there is none. */
int api_find_model(const struct api *a, const char *id);
const char *api_model_id(const struct api *a, int model);

/* ---- pictures.c: the work and its reply forms -------------------------------------------- */

void api_generate(struct api_call *c);
void api_openai(struct api_call *c);
/* Whether some form the client accepts exists at all, before the body is read. */
bool api_generate_acceptable(const struct api_call *c);
void api_image(struct api_call *c, const char *model, const char *class_name, const char *file);
void pictures_on_gone(struct api_call *c);
void pictures_on_drained(struct api_call *c, uint32_t count);
void pictures_on_done(struct api_call *c, enum http_end end);
void pictures_ping(struct api *a);

#endif
