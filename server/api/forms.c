/* Writing pictures out in each reply form. */
#include "api/forms.h"
#include "http/text.h"
#include "files/npy.h"

#include <stdio.h>
#include <string.h>

/* ---- Parts that several forms share ---------------------------------------------------------- */

static bool is_null_class(const struct api *a, const struct picture_params *params, int32_t label)
{
    return label >= a->models[params->model].info->classes;
}

static void write_class(struct json_writer *w, const struct api *a,
                        const struct picture_params *params, int32_t label)
{
    json_key(w, "class");
    if (is_null_class(a, params, label))
        json_string(w, "none");
    else
        json_int(w, label);
    json_key(w, "class_name");
    json_string(w, api_class_name(a, params->model, label));
}

static void append_class(const struct api *a, const struct picture_params *params, int32_t label,
                         struct buffer *out)
{
    if (is_null_class(a, params, label))
        buffer_append_text(out, "none");
    else
        buffer_append_u64(out, (uint64_t)label);
}

void form_resource_path(const struct api *a, const struct picture_params *params, uint32_t i,
                        struct buffer *out)
{
    char omega[32], low[32], high[32];
    format_float(omega, params->sampling.omega);
    format_float(low, params->sampling.t_min);
    format_float(high, params->sampling.t_max);
    buffer_printf(out, "/v1/images/%s/", api_model_id(a, params->model));
    append_class(a, params, picture_label(params, i), out);
    /* "+" of an exponent would read as a blank, but omega is the only one that could be that large.
     */
    buffer_printf(out, "/%llu.%s?steps=%d&omega=", (unsigned long long)picture_seed(params, i),
                  picture_format_suffix(params->encoding.format), params->sampling.steps);
    char encoded[96];
    percent_encode(encoded, sizeof(encoded), omega);
    buffer_append_text(out, encoded);
    buffer_printf(out, "&t_min=%s&t_max=%s", low, high);
    if (params->encoding.format != PICTURE_PNG)
        buffer_printf(out, "&output_compression=%d", params->encoding.quality);
}

void form_server_timing(struct api_call *c)
{
    const struct sched_timings *t = &c->timings;
    if (t->queue + t->denoise + t->decode + t->encode == 0) { /* from the cache, the fast way */
        http_header(c->http, "Server-Timing",
                    "queue;dur=0, denoise;dur=0, decode;dur=0, encode;dur=0");
        return;
    }
    http_headerf(c->http, "Server-Timing",
                 "queue;dur=%.3f, denoise;dur=%.3f, decode;dur=%.3f, encode;dur=%.3f",
                 (double)t->queue * 1e-3, (double)t->denoise * 1e-3, (double)t->decode * 1e-3,
                 (double)t->encode * 1e-3);
}

/* "none" or the index; at least 12 bytes. */
static void class_text(const struct api *a, const struct picture_params *params, int32_t label,
                       char *out)
{
    if (is_null_class(a, params, label))
        strcpy(out, "none");
    else
        format_u64(out, (uint64_t)label);
}

/* Lists are cut short ("1,2,...") where they would outgrow a header. */
static void list_headers(struct api_call *c, const struct picture_params *params)
{
    enum { LONGEST = 400 };
    struct buffer seeds, classes;
    if (params->n == 1) { /* what most replies are */
        char text[24];
        format_u64(text, picture_seed(params, 0));
        http_header(c->http, "X-Imfd-Seed", text);
        class_text(c->api, params, picture_label(params, 0), text);
        http_header(c->http, "X-Imfd-Class", text);
        return;
    }
    buffer_init(&seeds, 2 * LONGEST);
    buffer_init(&classes, 2 * LONGEST);
    for (uint32_t i = 0; i < params->n; i++) {
        const char *comma = i > 0 ? "," : "";
        if (seeds.size > LONGEST || classes.size > LONGEST) {
            buffer_append_text(&seeds, ",...");
            buffer_append_text(&classes, ",...");
            break;
        }
        buffer_append_text(&seeds, comma);
        buffer_append_u64(&seeds, picture_seed(params, i));
        buffer_append_text(&classes, comma);
        append_class(c->api, params, picture_label(params, i), &classes);
    }
    if (!seeds.failed && !classes.failed) {
        http_headerf(c->http, "X-Imfd-Seed", "%.*s", (int)seeds.size, seeds.data);
        http_headerf(c->http, "X-Imfd-Class", "%.*s", (int)classes.size, classes.data);
    }
    buffer_free(&seeds);
    buffer_free(&classes);
}

/* `inline; filename="207_42.png"`; out has room for 80 bytes. */
static void file_name(struct api_call *c, const struct picture_params *params, uint32_t i,
                      const char *suffix, char *out)
{
    char text[24];
    class_text(c->api, params, picture_label(params, i), text);
    char *at = stpcpy(stpcpy(out, "inline; filename=\""), text);
    *at++ = '_';
    format_u64(text, picture_seed(params, i));
    at = stpcpy(at, text);
    *at++ = '.';
    strcpy(stpcpy(at, suffix), "\"");
}

void form_binary_headers(struct api_call *c, const struct picture_params *params)
{
    char disposition[80];
    file_name(c, params, 0, picture_format_suffix(params->encoding.format), disposition);
    list_headers(c, params);
    http_header(c->http, "X-Imfd-Fingerprint", c->api->models[params->model].info->fingerprint);
    http_header(c->http, "Content-Disposition", disposition);
}

void form_reply_file(struct picture_job *job, struct blob *file)
{
    struct api_call *c = job->call;
    form_binary_headers(c, &job->params);
    form_server_timing(c);
    http_header(c->http, "Content-Type", picture_format_type(job->params.encoding.format));
    if (job->form == FORM_FILE)
        http_header(c->http, "Cache-Control", "no-store");
    api_common_headers(c);
    http_reply_blob(c->http, 200, file);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

/* "id", "created", "model" */
static void write_head(struct picture_job *job, struct json_writer *w)
{
    char id[140];
    snprintf(id, sizeof(id), "img-%s", job->call->id);
    json_key(w, "id");
    json_string(w, id);
    json_key(w, "created");
    json_int(w, job->created);
    json_key(w, "model");
    json_string(w, api_model_id(job->call->api, job->params.model));
}

/* {"id":...,"data":[ */
static void json_head(struct picture_job *job, struct buffer *out)
{
    struct json_writer w;
    json_init(&w, out);
    json_object_begin(&w);
    if (job->form == FORM_JSON) {
        write_head(job, &w);
    } else {
        json_key(&w, "created");
        json_int(&w, job->created);
    }
    json_key(&w, "data");
    json_array_begin(&w);
}

/* One element up to where its base64 goes. */
static void json_item(struct picture_job *job, uint32_t index, struct buffer *out)
{
    struct json_writer w;
    const struct api *a = job->call->api;
    int32_t label = picture_label(&job->params, index);
    json_init(&w, out);
    json_object_begin(&w);
    json_key(&w, "index");
    json_u64(&w, index);
    write_class(&w, a, &job->params, label);
    json_key(&w, "seed");
    json_u64(&w, picture_seed(&job->params, index));
    if (job->form == FORM_OPENAI_JSON) {
        json_key(&w, "revised_prompt");
        json_string(&w, api_class_name(a, job->params.model, label));
    }
    json_key(&w, "b64_json");
    buffer_append(out, "\"", 1);
}

static void write_imfd(struct picture_job *job, struct json_writer *w)
{
    const struct imf_sampling *s = &job->params.sampling;
    const struct sched_timings *t = &job->call->timings;
    json_key(w, "imfd");
    json_object_begin(w);
    json_key(w, "fingerprint");
    json_string(w, job->call->api->models[job->params.model].info->fingerprint);
    api_write_sampling(w, s);
    json_key(w, "timings_ms");
    json_object_begin(w);
    json_key(w, "queue");
    json_fixed(w, (double)t->queue * 1e-3, 3);
    json_key(w, "denoise");
    json_fixed(w, (double)t->denoise * 1e-3, 3);
    json_key(w, "decode");
    json_fixed(w, (double)t->decode * 1e-3, 3);
    json_key(w, "encode");
    json_fixed(w, (double)t->encode * 1e-3, 3);
    json_object_end(w);
    json_object_end(w);
}

/* What the OpenAI contract asks beside the picture. Nothing is metered in tokens here. */
static void write_openai_facts(struct picture_job *job, struct json_writer *w)
{
    const struct imf_model_info *info = job->call->api->models[job->params.model].info;
    json_key(w, "background");
    json_string(w, "opaque");
    json_key(w, "output_format");
    json_string(w, picture_format_name(job->params.encoding.format));
    json_key(w, "quality");
    json_string(w, "high");
    char size[32];
    snprintf(size, sizeof(size), "%dx%d", info->image_width, info->image_height);
    json_key(w, "size");
    json_string(w, size);
    json_key(w, "usage");
    static const char usage[] = "{\"input_tokens\":0,\"input_tokens_details\":{\"image_tokens\":0,"
                                "\"text_tokens\":0},\"output_tokens\":0,\"total_tokens\":0}";
    json_raw(w, usage, sizeof(usage) - 1);
}

/* ],"imfd":{...}} */
static void json_tail(struct picture_job *job, struct buffer *out)
{
    struct json_writer w;
    json_init(&w, out);
    buffer_append(out, "]", 1);
    w.comma[0] = true; /* inside the object whose list ends here */
    if (job->form == FORM_OPENAI_JSON)
        write_openai_facts(job, &w);
    write_imfd(job, &w);
    buffer_append(out, "}", 1);
}

/* ---- Server-sent events ---------------------------------------------------------------------- */

static void sse_item(struct picture_job *job, uint32_t index, struct buffer *out)
{
    struct json_writer w;
    if (job->form == FORM_SSE) {
        buffer_append_text(out, "event: image\ndata: ");
        json_item(job, index, out);
        return;
    }
    buffer_append_text(out, "event: image_generation.completed\ndata: ");
    json_init(&w, out);
    json_object_begin(&w);
    json_key(&w, "type");
    json_string(&w, "image_generation.completed");
    json_key(&w, "created_at");
    json_int(&w, job->created);
    write_openai_facts(job, &w);
    json_key(&w, "index");
    json_u64(&w, index);
    write_class(&w, job->call->api, &job->params, picture_label(&job->params, index));
    json_key(&w, "seed");
    json_u64(&w, picture_seed(&job->params, index));
    json_key(&w, "b64_json");
    buffer_append(out, "\"", 1);
}

static void sse_done(struct picture_job *job, struct buffer *out)
{
    struct json_writer w;
    buffer_append_text(out, "event: done\ndata: ");
    json_init(&w, out);
    json_object_begin(&w);
    write_head(job, &w);
    write_imfd(job, &w);
    json_object_end(&w);
    buffer_append_text(out, "\n\n");
}

/* ---- multipart and npy ----------------------------------------------------------------------- */

static void part_head(struct picture_job *job, uint32_t index, size_t size, struct buffer *out)
{
    char disposition[80];
    int format = job->params.encoding.format;
    file_name(job->call, &job->params, index, picture_format_suffix(format), disposition);
    buffer_printf(out, "--%s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n", job->boundary,
                  picture_format_type(format), size);
    buffer_printf(out, "Content-Disposition: %s\r\nX-Imfd-Index: %u\r\nX-Imfd-Seed: %llu\r\n",
                  disposition, index, (unsigned long long)picture_seed(&job->params, index));
    buffer_append_text(out, "X-Imfd-Class: ");
    append_class(job->call->api, &job->params, picture_label(&job->params, index), out);
    buffer_append_text(out, "\r\n\r\n");
}

static void npy_head(struct picture_job *job, struct buffer *out)
{
    const struct imf_model_info *info = job->call->api->models[job->params.model].info;
    const int64_t shape[] = {job->params.n, info->image_height, info->image_width, 3};
    char head[IMF__NPY_HEADER];
    buffer_append(out, head, imf__npy_header(head, IMF__NPY_U8, 4, shape));
}

/* ---- The stream ------------------------------------------------------------------------------ */

static void push_scratch(struct picture_job *job)
{
    struct http_request *r = job->call->http;
    if (job->scratch.failed)
        http_stream_starve(r);
    else if (job->scratch.size > 0)
        http_push_copy(r, job->scratch.data, job->scratch.size);
    job->scratch.size = 0;
    job->scratch.failed = false;
}

static const char *type_of(struct picture_job *job, char *text, size_t size)
{
    switch (job->form) {
    case FORM_MULTIPART:
        snprintf(job->boundary, sizeof(job->boundary), "imfd-%016llx%08x",
                 (unsigned long long)(job->call->api->id_prefix ^ uv_hrtime()),
                 (unsigned)job->created);
        snprintf(text, size, "multipart/mixed; boundary=%s", job->boundary);
        return text;
    case FORM_SSE:
    case FORM_OPENAI_SSE:
        return "text/event-stream";
    case FORM_NPY:
        return "application/x-npy";
    default:
        return "application/json";
    }
}

/* One JSON picture: everything is known, so the reply has a length. */
static uint64_t json_size(struct picture_job *job, const struct blob *first)
{
    struct buffer *b = &job->scratch;
    json_head(job, b);
    json_item(job, 0, b);
    buffer_append_text(b, "\"}");
    json_tail(job, b);
    uint64_t size = b->failed ? UINT64_MAX : b->size + base64_length(first->size);
    b->size = 0;
    return size;
}

void form_begin(struct picture_job *job, struct blob *first)
{
    struct api_call *c = job->call;
    struct http_request *r = c->http;
    char type[96];
    uint64_t size = UINT64_MAX;
    bool json = job->form == FORM_JSON || job->form == FORM_OPENAI_JSON;
    http_header(r, "Content-Type", type_of(job, type, sizeof(type)));
    http_header(r, "Cache-Control", "no-store");
    if (json && job->params.n == 1) {
        form_server_timing(c);
        size = json_size(job, first);
    } else {
        http_header(r, "X-Accel-Buffering", "no");
    }
    if (job->form == FORM_NPY) {
        list_headers(c, &job->params);
        http_header(r, "X-Imfd-Fingerprint", c->api->models[job->params.model].info->fingerprint);
        char disposition[80];
        file_name(c, &job->params, 0, "npy", disposition);
        http_header(r, "Content-Disposition", disposition);
        if (job->params.n == 1)
            form_server_timing(c);
        npy_head(job, &job->scratch);
        size = job->scratch.size + (uint64_t)first->size * job->params.n;
    } else if (job->form == FORM_MULTIPART) {
        http_header(r, "X-Imfd-Fingerprint", c->api->models[job->params.model].info->fingerprint);
    } else if (json) {
        json_head(job, &job->scratch);
    }
    api_common_headers(c);
    http_reply_stream(r, 200, size);
    push_scratch(job);
}

void form_picture(struct picture_job *job, uint32_t index, struct blob *b)
{
    struct http_request *r = job->call->http;
    struct buffer *text = &job->scratch;
    if (http_reply_over(r))
        return;
    job->last_write = uv_now(job->call->api->loop);
    switch (job->form) {
    case FORM_JSON:
    case FORM_OPENAI_JSON:
        if (index > 0)
            buffer_append(text, ",", 1);
        json_item(job, index, text);
        push_scratch(job);
        http_push_blob(r, b, 0, b->size, true, true);
        buffer_append_text(text, "\"}");
        break;
    case FORM_SSE:
    case FORM_OPENAI_SSE:
        sse_item(job, index, text);
        push_scratch(job);
        http_push_blob(r, b, 0, b->size, true, true);
        buffer_append_text(text, "\"}\n\n");
        break;
    case FORM_MULTIPART:
        part_head(job, index, b->size, text);
        push_scratch(job);
        http_push_blob(r, b, 0, b->size, false, true);
        buffer_append_text(text, "\r\n");
        break;
    case FORM_NPY:
        http_push_blob(r, b, 0, b->size, false, true);
        break;
    case FORM_FILE:
    case FORM_RESOURCE:
    case FORM_INFER:
        break; /* form_reply_file, infer_reply */
    }
    push_scratch(job);
}

void form_end(struct picture_job *job)
{
    struct http_request *r = job->call->http;
    struct buffer *text = &job->scratch;
    if (http_reply_over(r))
        return;
    if (job->form == FORM_JSON || job->form == FORM_OPENAI_JSON)
        json_tail(job, text);
    else if (job->form == FORM_SSE)
        sse_done(job, text);
    else if (job->form == FORM_MULTIPART)
        buffer_printf(text, "--%s--\r\n", job->boundary);
    push_scratch(job);
    http_stream_end(r);
}

void form_fail(struct picture_job *job, const struct api_problem *p)
{
    struct http_request *r = job->call->http;
    struct buffer *text = &job->scratch;
    struct json_writer w;
    job->broken = true;
    job->call->failure = api_status(p);
    if (http_reply_over(r))
        return; /* the reply is complete already */
    if (!http_has_reply(r) || http_stream_withdraw(r)) {
        api_fail(job->call, p);
        return;
    }
    if (job->form != FORM_SSE && job->form != FORM_OPENAI_SSE) {
        /* The status line said 200: only a cut connection still tells the client. */
        http_stream_fail(r);
        return;
    }
    buffer_append_text(text, "event: error\ndata: ");
    json_init(&w, text);
    api_error_json(&w, p);
    buffer_append_text(text, "\n\n");
    push_scratch(job);
    http_stream_end(r);
}
