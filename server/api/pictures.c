/* Picture requests: submitting the work and writing the replies, each picture as soon as it may go.
 *
 * What a request holds does not grow with n: the scheduler makes at most a window of pictures ahead
 * of what the client has read, a file goes to the socket from the memory the cache shares, and
 * base64 is made piece by piece while it is sent. */
#include "api/internal.h"
#include "api/forms.h"
#include "api/inference.h"
#include "base/encode.h"
#include "http/text.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PING_AFTER_MS = 5000 };

/* ---- Form by Accept -------------------------------------------------------------------------- */

static const struct {
    enum form form;
    const char *type;
    int format; /* of FORM_FILE */
} generate_forms[] = {
    {FORM_JSON, "application/json", 0},      {FORM_FILE, "image/png", PICTURE_PNG},
    {FORM_FILE, "image/jpeg", PICTURE_JPEG}, {FORM_FILE, "image/webp", PICTURE_WEBP},
    {FORM_MULTIPART, "multipart/mixed", 0},  {FORM_SSE, "text/event-stream", 0},
    {FORM_NPY, "application/x-npy", 0}};

/* The acceptable form of highest quality; between equals the one named most exactly, then the
 * first. One picture only fits image/...; a format that the body names is the only one then. */
static bool choose_form(const char *accept, struct picture_params *params, enum form *out)
{
    int format = params->encoding.format;
    double best = 0;
    int best_specificity = -1;
    for (size_t i = 0; i < sizeof(generate_forms) / sizeof(generate_forms[0]); i++) {
        int specificity;
        double quality = accept_quality(accept, generate_forms[i].type, &specificity);
        if (quality <= 0)
            continue;
        if (generate_forms[i].form == FORM_FILE &&
            (params->n > 1 ||
             (params->format_given && generate_forms[i].format != params->encoding.format)))
            continue;
        if (quality > best || (quality == best && specificity > best_specificity)) {
            best = quality;
            best_specificity = specificity;
            *out = generate_forms[i].form;
            format = *out == FORM_FILE ? generate_forms[i].format : params->encoding.format;
        }
    }
    if (best > 0)
        picture_params_format(params, format);
    return best > 0;
}

bool api_generate_acceptable(const struct api_call *c)
{
    enum form form;
    struct picture_params any = {.n = 1};
    return choose_form(c->http->headers[HTTP_ACCEPT], &any, &form);
}

/* ---- The job --------------------------------------------------------------------------------- */

static struct picture_job *job_new(struct api_call *c, enum form form,
                                   struct picture_params *params)
{
    uint32_t window = sched_window(c->api->scheduler, params->model);
    if (window > params->n || form == FORM_INFER)
        window = params->n;
    uint32_t held = form == FORM_INFER ? 2 * window : window;
    struct picture_job *job = calloc(1, sizeof(*job) + held * sizeof(job->held[0]));
    if (!job)
        return NULL;
    job->n_held = held;
    job->call = c;
    job->form = form;
    job->params = *params;
    job->window = window;
    job->ordered = form == FORM_JSON || form == FORM_NPY || form == FORM_OPENAI_JSON;
    job->created = time(NULL);
    buffer_init(&job->scratch, 1 << 20);
    c->job = job;
    c->n = (int)params->n;
    return job;
}

static void sse_list_add(struct picture_job *job)
{
    struct api *a = job->call->api;
    job->in_sse_list = true;
    job->next_sse = a->sse_jobs;
    if (a->sse_jobs)
        a->sse_jobs->previous_sse = job;
    a->sse_jobs = job;
}

static void close_request(struct picture_job *job, enum sched_outcome outcome)
{
    if (job->sched)
        job->call->cancelled = sched_close(job->sched, outcome);
    job->sched = NULL;
}

static void job_free(struct picture_job *job)
{
    struct api *a = job->call->api;
    if (job->counted)
        client_counts_remove(&a->addresses, job->call->group);
    if (job->in_sse_list) {
        if (job->previous_sse)
            job->previous_sse->next_sse = job->next_sse;
        else
            a->sse_jobs = job->next_sse;
        if (job->next_sse)
            job->next_sse->previous_sse = job->previous_sse;
    }
    for (uint32_t i = 0; i < job->n_held; i++)
        blob_drop(job->held[i]);
    infer_ask_free(job->infer);
    buffer_free(&job->scratch);
    picture_params_free(&job->params);
    job->call->job = NULL;
    free(job);
}

/* ---- Pictures as they come ------------------------------------------------------------------- */

static void note_timings(struct sched_timings *all, const struct sched_timings *one)
{
    all->queue = one->queue > all->queue ? one->queue : all->queue;
    all->denoise = one->denoise > all->denoise ? one->denoise : all->denoise;
    all->decode = one->decode > all->decode ? one->decode : all->decode;
    all->encode = one->encode > all->encode ? one->encode : all->encode;
}

/* Sends picture `index`; takes the blob's reference. */
static void send_picture(struct picture_job *job, uint32_t index, struct blob *b)
{
    struct http_request *r = job->call->http;
    job->sent++;
    if (!job->params.embed && job->form != FORM_NPY && b->text_size > 0) {
        struct blob *plain = picture_without_text(b, job->params.encoding.format);
        blob_drop(b);
        b = plain;
    }
    if (!b) {
        struct api_problem p;
        api_problem_memory(&p);
        form_fail(job, &p);
        return;
    }
    if (job->form == FORM_FILE || job->form == FORM_RESOURCE) {
        form_reply_file(job, b);
        return;
    }
    if (!http_has_reply(r))
        form_begin(job, b);
    form_picture(job, index, b);
    blob_drop(b);
}

static void on_picture(void *user, struct sched_request *sr, const struct sched_picture *p)
{
    struct picture_job *job = user;
    (void)sr;
    note_timings(&job->call->timings, &p->timings);
    if (job->form == FORM_INFER) {
        job->held[p->index] = p->png ? blob_take(p->png) : NULL;
        job->held[job->window + p->index] = p->rgb ? blob_take(p->rgb) : NULL;
        return;
    }
    struct blob *b = blob_take(job->form == FORM_NPY ? p->rgb : p->png);
    if (!job->ordered) {
        send_picture(job, p->index, b);
        return;
    }
    assert(!job->held[p->index % job->window]);
    job->held[p->index % job->window] = b;
    for (;;) {
        struct blob **next = &job->held[job->sent % job->window];
        if (job->sent == job->params.n || !*next)
            break;
        b = *next;
        *next = NULL;
        send_picture(job, job->sent, b);
    }
}

static void on_end(void *user, struct sched_request *sr, enum sched_result result,
                   const char *message)
{
    struct picture_job *job = user;
    struct api_problem p;
    (void)sr;
    switch (result) {
    case SCHED_DONE:
        if (job->form == FORM_INFER)
            infer_reply(job);
        else if (http_has_reply(job->call->http))
            form_end(job);
        return;
    case SCHED_TIMEOUT:
        api_problem_set(&p, API_DEADLINE, NULL, "%s", message);
        break;
    case SCHED_FAILED:
        api_problem_set(&p, API_ENGINE, NULL, "%s", message);
        log_write(job->call->api->log, LOG_ERROR, "engine: %s", message);
        break;
    case SCHED_MEMORY:
        api_problem_set(&p, API_OVERLOADED, NULL, "%s", message);
        break;
    case SCHED_STOPPED:
        api_problem_set(&p, API_DRAINING, NULL, "the server is stopping");
        break;
    }
    form_fail(job, &p);
}

static const struct sched_callbacks callbacks = {on_picture, on_end};

void pictures_on_gone(struct api_call *c)
{
    if (c->job) /* at once: what is left of the work is dropped */
        close_request(c->job, c->job->broken ? SCHED_BROKEN : SCHED_GONE);
}

void pictures_on_drained(struct api_call *c, uint32_t count)
{
    if (c->job && c->job->sched)
        sched_release(c->job->sched, count);
}

void pictures_on_done(struct api_call *c, enum http_end end)
{
    close_request(c->job, c->job->broken     ? SCHED_BROKEN
                          : end == HTTP_SENT ? SCHED_SENT
                                             : SCHED_GONE);
    job_free(c->job);
}

void pictures_ping(struct api *a)
{
    uint64_t now = uv_now(a->loop);
    for (struct picture_job *job = a->sse_jobs; job; job = job->next_sse) {
        struct http_request *r = job->call->http;
        if (http_has_reply(r) && !http_reply_over(r) && http_stream_idle(r) &&
            now - job->last_write >= PING_AFTER_MS) {
            http_push_copy(r, ": ping\n\n", 8);
            job->last_write = now;
        }
    }
}

/* ---- Submitting ------------------------------------------------------------------------------ */

static void refuse(const struct sched_refusal *refusal, struct api_problem *p)
{
    static const enum api_error kinds[SCHED_REJECT_COUNT] = {
        [SCHED_REJECT_QUEUE] = API_OVERLOADED,  [SCHED_REJECT_DEADLINE] = API_DEADLINE,
        [SCHED_REJECT_DRAINING] = API_DRAINING, [SCHED_REJECT_LOADING] = API_LOADING,
        [SCHED_REJECT_SICK] = API_ENGINE,       [SCHED_REJECT_SIZE] = API_INVALID,
        [SCHED_REJECT_MEMORY] = API_OVERLOADED, [SCHED_REJECT_STUCK] = API_OVERLOADED,
    };
    api_problem_set(p, kinds[refusal->why], refusal->why == SCHED_REJECT_SIZE ? "n" : NULL, "%s",
                    refusal->message);
    p->retry_us = refusal->retry_us;
}

/* The limits per client. What is taken from the rate is given back when the scheduler refuses. */
static bool check_limits(struct picture_job *job, const char *tenant, struct api_problem *p)
{
    struct api_call *c = job->call;
    struct api *a = c->api;
    uint64_t retry_ms = 0;
    int64_t most = a->settings->max_per_address;
    if (most > 0) {
        enum client_counted counted = client_counts_add(&a->addresses, c->group, (uint32_t)most);
        if (counted == CLIENT_NO_MEMORY)
            return api_problem_memory(p);
        if (counted == CLIENT_AT_LIMIT) {
            metrics_rejected(a->metrics, REJECTED_ADDRESS);
            api_problem_set(p, API_ADDRESS, NULL,
                            "%lld requests of this address wait or run already", (long long)most);
            p->retry_us = sched_retry_us(a->scheduler, job->params.model, job->params.n);
            return false;
        }
        job->counted = true;
    }
    if (a->rate && !rate_limit_take(a->rate, tenant, job->params.n, uv_now(a->loop), &retry_ms)) {
        metrics_rejected(a->metrics, REJECTED_RATE);
        api_problem_set(p, API_RATE, NULL, "more than %lld pictures a minute",
                        (long long)a->settings->rate_limit);
        p->retry_us = retry_ms * 1000;
        return false;
    }
    return true;
}

/* What the form is made of. */
static unsigned wants(enum form form, const struct infer_ask *ask)
{
    if (!ask)
        return form == FORM_NPY ? SCHED_RGB : SCHED_PNG;
    unsigned want = (infer_wants(ask, INFER_IMAGE) ? SCHED_PNG : 0u) |
                    (infer_wants(ask, INFER_PIXELS) ? SCHED_RGB : 0u);
    return want != 0 ? want : SCHED_RGB;
}

void pictures_submit(struct api_call *c, enum form form, struct picture_params *params,
                     struct infer_ask *ask)
{
    struct api *a = c->api;
    struct api_problem p;
    struct picture_job *job = job_new(c, form, params);
    if (!job) {
        picture_params_free(params);
        infer_ask_free(ask);
        api_problem_memory(&p);
        api_fail(c, &p);
        return;
    }
    job->infer = ask;
    const char *tenant = c->key[0] != '\0' ? c->key : c->group;
    if (!check_limits(job, tenant, &p)) {
        api_fail(c, &p);
        return;
    }
    struct sched_spec spec;
    struct sched_refusal refusal;
    sched_spec_init(&spec);
    spec.model = params->model;
    spec.n = params->n;
    spec.label = params->label;
    spec.seed = params->seed;
    spec.labels = params->labels;
    spec.seeds = params->seeds;
    spec.sampling = params->sampling;
    spec.samplings = params->samplings;
    spec.encoding = params->encoding;
    spec.want = wants(form, ask);
    spec.priority = params->priority;
    spec.timeout_us = params->timeout_ms * 1000;
    spec.tenant = tenant;
    spec.window = job->window;
    job->sched = sched_submit(a->scheduler, &spec, &callbacks, job, &refusal);
    if (!job->sched) {
        if (a->rate)
            rate_limit_return(a->rate, tenant, params->n, uv_now(a->loop));
        refuse(&refusal, &p);
        api_fail(c, &p);
        return;
    }
    job->last_write = uv_now(a->loop);
    if (form == FORM_SSE || form == FORM_OPENAI_SSE) {
        sse_list_add(job);
        form_begin(job,
                   NULL); /* the header goes out now: the client sees that it is being served */
    }
}

void api_generate(struct api_call *c)
{
    struct picture_params params;
    struct api_problem p;
    enum form form = FORM_JSON;
    if (!api_parse_generate(c->api, c->http->body.data, c->http->body.size, &params, &p)) {
        api_fail(c, &p);
        return;
    }
    if (!choose_form(c->http->headers[HTTP_ACCEPT], &params, &form)) {
        if (params.n > 1)
            api_problem_set(&p, API_ACCEPT, "n", "an image holds one picture; %u were asked for",
                            params.n);
        else
            api_problem_set(&p, API_ACCEPT, "output_format", "Accept does not name %s",
                            picture_format_type(params.encoding.format));
        picture_params_free(&params);
        api_fail(c, &p);
        return;
    }
    pictures_submit(c, form, &params, NULL);
}

/* ---- OpenAI ---------------------------------------------------------------------------------- */

/* URLs are addresses of the resource: nothing is computed and nothing is stored. */
static void reply_urls(struct api_call *c, const struct picture_params *params)
{
    struct buffer body, url;
    struct json_writer w;
    buffer_init(&body, 8 << 20);
    buffer_init(&url, 4096);
    json_init(&w, &body);
    json_object_begin(&w);
    json_key(&w, "created");
    json_int(&w, time(NULL));
    json_key(&w, "data");
    json_array_begin(&w);
    for (uint32_t i = 0; i < params->n; i++) {
        url.size = 0;
        api_base_url(c, &url);
        form_resource_path(c->api, params, i, &url);
        json_object_begin(&w);
        json_key(&w, "url");
        json_string_n(&w, url.data, url.failed ? 0 : url.size);
        json_key(&w, "revised_prompt");
        json_string(&w, api_class_name(c->api, params->model, picture_label(params, i)));
        json_object_end(&w);
    }
    json_array_end(&w);
    json_object_end(&w);
    buffer_free(&url);
    http_header(c->http, "Cache-Control", "no-store");
    api_reply_json(c, 200, &body);
}

void api_openai(struct api_call *c)
{
    struct picture_params params;
    struct api_problem p;
    if (!api_parse_openai(c->api, c->http->body.data, c->http->body.size, &params, &p)) {
        api_fail(c, &p);
        return;
    }
    if (params.url) {
        reply_urls(c, &params);
        picture_params_free(&params);
        return;
    }
    pictures_submit(c, params.stream ? FORM_OPENAI_SSE : FORM_OPENAI_JSON, &params, NULL);
}

/* ---- The resource ---------------------------------------------------------------------------- */

/* Names the bytes of a picture: all they depend on goes into the hash. That is what draws the pixels
 * (the fingerprint, the key), what encodes them (settings and libraries), and the text that is
 * embedded, as it is. */
static void make_etag(struct api *a, const struct picture_params *params,
                      const struct picture_key *key, char etag[40])
{
    const struct imf_model_info *info = a->models[params->model].info;
    struct {
        char fingerprint[sizeof(info->fingerprint)], version[31];
        struct picture_text text;
        struct imf_sampling sampling;
        uint64_t seed, encoder;
        int32_t label, level, format, quality;
    } parts;
    memset(&parts, 0, sizeof(parts));
    memcpy(parts.fingerprint, info->fingerprint, sizeof(parts.fingerprint));
    memcpy(parts.version, imf_version(), strnlen(imf_version(), sizeof(parts.version) - 1));
    if (params->embed)
        api_describe(a, key, &parts.text);
    parts.sampling = key->sampling;
    parts.seed = key->seed;
    parts.encoder = a->encoders[params->encoding.format];
    parts.label = key->label;
    parts.format = params->encoding.format;
    parts.quality = params->encoding.quality;
    parts.level = parts.format == PICTURE_PNG ? (int32_t)a->settings->png_level : 0;
    XXH128_hash_t h = XXH3_128bits(&parts, sizeof(parts));
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 16; i++) {
        etag[1 + i] = digits[h.high64 >> (60 - 4 * i) & 15];
        etag[17 + i] = digits[h.low64 >> (60 - 4 * i) & 15];
    }
    etag[0] = etag[33] = '"';
    etag[34] = '\0';
}

/* With API keys a shared cache must not hand the picture to others. */
static const char *cache_control(const struct api *a)
{
    return !a->keys ? "public, max-age=31536000, immutable"
                    : "private, max-age=31536000, immutable";
}

void api_image(struct api_call *c, const char *model, const char *class_name, const char *file)
{
    struct http_request *r = c->http;
    struct api *a = c->api;
    struct picture_params params;
    struct api_problem p;
    char etag[40];
    if (!api_parse_resource(a, model, class_name, file, c->query, &params, &p)) {
        api_fail(c, &p);
        return;
    }
    struct picture_key key = {
        .model = params.model,
        .label = params.label,
        .seed = params.seed,
        .sampling = params.sampling,
        .encoding = params.encoding,
    };
    picture_key_normalise(&key);
    make_etag(a, &params, &key, etag);
    http_header(r, "ETag", etag);
    http_header(r, "Cache-Control", cache_control(a));
    if (r->headers[HTTP_IF_NONE_MATCH] && etag_matches(r->headers[HTTP_IF_NONE_MATCH], etag)) {
        api_common_headers(c);
        http_reply_static(r, 304, "", 0);
        return;
    }
    struct blob *cached = sched_cached_png(a->scheduler, &key);
    if (!cached && r->method == HTTP_GET) {
        if (api_check_site(c, &p))
            pictures_submit(c, FORM_RESOURCE, &params, NULL);
        else
            api_fail(c, &p);
        return;
    }
    form_binary_headers(c, &params);
    form_server_timing(c);
    http_header(r, "Content-Type", picture_format_type(params.encoding.format));
    api_common_headers(c);
    if (cached)
        http_reply_blob(r, 200, cached);
    else
        http_reply_head(r, 200); /* HEAD starts no work */
}
