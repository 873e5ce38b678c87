/* Replies to inference: JSON, and behind it the tensors that were asked for in binary. */
#include "api/forms.h"
#include "api/inference.h"

#include <string.h>

static const struct blob *image_of(const struct picture_job *job, uint32_t i)
{
    return job->held[i];
}

static const struct blob *pixels_of(const struct picture_job *job, uint32_t i)
{
    return job->held[job->window + i];
}

static size_t binary_size(const struct picture_job *job, enum infer_tensor what)
{
    size_t size = 0;
    for (uint32_t i = 0; i < job->params.n; i++) {
        size += what == INFER_IMAGE    ? 4 + image_of(job, i)->size
                : what == INFER_PIXELS ? pixels_of(job, i)->size
                                       : 8;
    }
    return size;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void write_base64(struct json_writer *w, struct buffer *out, const struct blob *b)
{
    json_string(w, "");
    out->size--; /* its closing quote */
    size_t n = base64_length(b->size);
    char *at = buffer_reserve(out, n);
    if (at) {
        base64_encode(at, b->data, b->size);
        out->size += n;
    }
    buffer_append(out, "\"", 1);
}

static void write_pixels(struct buffer *out, const struct blob *b, bool first)
{
    for (size_t i = 0; i < b->size; i++) {
        if (!first || i > 0)
            buffer_append(out, ",", 1);
        buffer_append_u64(out, b->data[i]);
    }
}

static void write_data(struct picture_job *job, struct json_writer *w, struct buffer *out,
                       enum infer_tensor what)
{
    json_key(w, "data");
    json_array_begin(w);
    for (uint32_t i = 0; i < job->params.n; i++) {
        if (what == INFER_IMAGE)
            write_base64(w, out, image_of(job, i));
        else if (what == INFER_PIXELS)
            write_pixels(out, pixels_of(job, i), i == 0);
        else
            json_u64(w, picture_seed(&job->params, i));
    }
    json_array_end(w);
}

static void write_output(struct picture_job *job, struct json_writer *w, struct buffer *out,
                         enum infer_tensor what, bool binary)
{
    const struct imf_model_info *info = job->call->api->models[job->params.model].info;
    json_object_begin(w);
    json_key(w, "name");
    json_string(w, infer_output_name(what));
    json_key(w, "datatype");
    json_string(w, infer_output_type(what));
    json_key(w, "shape");
    json_array_begin(w);
    json_u64(w, job->params.n);
    if (what == INFER_PIXELS) {
        json_int(w, info->image_height);
        json_int(w, info->image_width);
        json_int(w, 3);
    }
    json_array_end(w);
    if (what == INFER_IMAGE || binary) {
        json_key(w, "parameters");
        json_object_begin(w);
        if (what == INFER_IMAGE) {
            json_key(w, "content_type");
            json_string(w, picture_format_type(job->params.encoding.format));
        }
        if (binary) {
            json_key(w, "binary_data_size");
            json_u64(w, binary_size(job, what));
        }
        json_object_end(w);
    }
    if (!binary)
        write_data(job, w, out, what);
    json_object_end(w);
}

static void write_json(struct picture_job *job, struct buffer *out)
{
    const struct infer_ask *ask = job->infer;
    struct json_writer w;
    json_init(&w, out);
    json_object_begin(&w);
    json_key(&w, "model_name");
    json_string(&w, api_model_id(job->call->api, job->params.model));
    json_key(&w, "model_version");
    json_string(&w, "1");
    if (ask->id) {
        json_key(&w, "id");
        json_string(&w, ask->id);
    }
    json_key(&w, "outputs");
    json_array_begin(&w);
    for (int i = 0; i < ask->n_outputs; i++)
        write_output(job, &w, out, ask->output[i].what, ask->output[i].binary);
    json_array_end(&w);
    json_object_end(&w);
}

/* ---- Binary tensors -------------------------------------------------------------------------- */

static void push_number(struct http_request *r, uint64_t value, size_t size)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    http_push_copy(r, bytes, size);
}

static void push_binary(struct picture_job *job, enum infer_tensor what)
{
    struct http_request *r = job->call->http;
    for (uint32_t i = 0; i < job->params.n; i++) {
        if (what == INFER_SEED) {
            push_number(r, picture_seed(&job->params, i), 8);
            continue;
        }
        struct blob *b = job->held[what == INFER_IMAGE ? i : job->window + i];
        if (what == INFER_IMAGE)
            push_number(r, b->size, 4);
        http_push_blob(r, b, 0, b->size, false, false);
    }
}

void infer_reply(struct picture_job *job)
{
    struct api_call *c = job->call;
    const struct infer_ask *ask = job->infer;
    struct buffer text;
    uint64_t binary = 0;
    bool any = false;
    for (int i = 0; i < ask->n_outputs; i++) {
        any |= ask->output[i].binary;
        binary += ask->output[i].binary ? binary_size(job, ask->output[i].what) : 0;
    }
    buffer_init(&text, INFER_MAX_REPLY);
    write_json(job, &text);
    if (text.failed) {
        struct api_problem p;
        buffer_free(&text);
        api_problem_memory(&p);
        form_fail(job, &p);
        return;
    }
    http_header(c->http, "Cache-Control", "no-store");
    form_server_timing(c);
    if (!any) {
        api_reply_json(c, 200, &text);
        return;
    }
    http_header(c->http, "Content-Type", "application/octet-stream");
    http_headerf(c->http, "Inference-Header-Content-Length", "%zu", text.size);
    api_common_headers(c);
    http_reply_stream(c->http, 200, text.size + binary);
    http_push_copy(c->http, text.data, text.size);
    buffer_free(&text);
    for (int i = 0; i < ask->n_outputs; i++) {
        if (ask->output[i].binary)
            push_binary(job, ask->output[i].what);
    }
    http_stream_end(c->http);
}
