/* One request's reply: headers and a body that is there, or a stream of segments that the
 * application pushes while libmicrohttpd takes them. A stream that has run out suspends its
 * connection until more is pushed. */
#include "http/internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A piece of a streamed reply: bytes, or base64 of bytes, made while they are sent. */
struct http_segment {
    struct http_segment *next;
    struct blob *blob; /* whose bytes these are; NULL: `copy` */
    const uint8_t *data;
    size_t size, offset;
    bool base64, marked;
    uint8_t copy[];
};

/* ---- Reply ----------------------------------------------------------------------------------- */

static char *reply_text(struct http_request *r, size_t size)
{
    if (size > sizeof(r->text) - r->text_used)
        return NULL;
    char *at = r->text + r->text_used;
    r->text_used += size;
    return at;
}

void http_header(struct http_request *r, const char *name, const char *value)
{
    size_t size = strlen(value) + 1;
    char *at = r->n_reply_headers < HTTP_MAX_REPLY_HEADERS ? reply_text(r, size) : NULL;
    if (at == NULL)
        return;
    memcpy(at, value, size);
    r->reply_headers[r->n_reply_headers].name = name;
    r->reply_headers[r->n_reply_headers++].value = at;
}

void http_headerf(struct http_request *r, const char *name, const char *format, ...)
{
    char value[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(value, sizeof(value), format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof(value))
        http_header(r, name, value);
}

void http_clear_headers(struct http_request *r)
{
    r->n_reply_headers = 0;
    r->text_used = 0;
}

static void set_reply(struct http_request *r, int status, struct MHD_Response *response,
                      uint64_t size)
{
    assert(!r->has_reply);
    r->has_reply = true;
    r->status = status;
    r->body_bytes = size;
    r->response = response; /* NULL when memory is short: the connection is closed */
    http__resume(r);
}

void http_reply_static(struct http_request *r, int status, const void *data, size_t size)
{
    set_reply(
        r, status,
        MHD_create_response_from_buffer(size, (void *)(uintptr_t)data, MHD_RESPMEM_PERSISTENT),
        size);
}

void http_reply_copy(struct http_request *r, int status, const void *data, size_t size)
{
    set_reply(r, status,
              MHD_create_response_from_buffer(size, (void *)(uintptr_t)data, MHD_RESPMEM_MUST_COPY),
              size);
}

void http_reply_buffer(struct http_request *r, int status, struct buffer *b)
{
    struct MHD_Response *response = NULL;
    if (!b->failed)
        response = MHD_create_response_from_buffer(b->size, b->data, MHD_RESPMEM_MUST_FREE);
    size_t size = b->size;
    if (response == NULL)
        free(b->data);
    b->data = NULL;
    buffer_free(b);
    set_reply(r, status, response, size);
}

static void drop_blob(void *cls)
{
    blob_drop(cls);
}

void http_reply_blob(struct http_request *r, int status, struct blob *b)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback_cls(b->size, b->data, drop_blob, b);
    size_t size = b->size;
    if (response == NULL)
        blob_drop(b);
    set_reply(r, status, response, size);
}

static ssize_t no_body(void *cls, uint64_t at, char *out, size_t max)
{
    (void)cls;
    (void)at;
    (void)out;
    (void)max;
    return MHD_CONTENT_READER_END_OF_STREAM;
}

void http_reply_head(struct http_request *r, int status)
{
    set_reply(r, status,
              MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 1024, no_body, NULL, NULL), 0);
}

/* ---- Streams --------------------------------------------------------------------------------- */

void http__segments_free(struct http_request *r)
{
    while (r->first != NULL) {
        struct http_segment *segment = r->first;
        r->first = segment->next;
        blob_drop(segment->blob);
        free(segment);
    }
    r->last = NULL;
}

static size_t take_bytes(struct http_segment *segment, uint8_t *out, size_t room)
{
    size_t left = segment->size - segment->offset;
    if (!segment->base64) {
        size_t n = left < room ? left : room;
        memcpy(out, segment->data + segment->offset, n);
        segment->offset += n;
        return n;
    }
    size_t n = room / 4 * 3; /* whole groups, so that padding comes only at the very end */
    if (n > left)
        n = left;
    size_t written = base64_encode((char *)out, segment->data + segment->offset, n);
    segment->offset += n;
    return written;
}

/* libmicrohttpd wants up to `max` bytes more of a streamed reply. */
static ssize_t on_read(void *cls, uint64_t at, char *out, size_t max)
{
    struct http_request *r = cls;
    struct http_server *s = r->server;
    (void)at;
    if (r->gone || r->stream_failed)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = 0;
    uint32_t marks = 0;
    while (r->first != NULL) {
        struct http_segment *segment = r->first;
        size_t taken = take_bytes(segment, (uint8_t *)out + n, max - n);
        n += taken;
        if (segment->offset < segment->size)
            break;
        marks += segment->marked;
        r->first = segment->next;
        if (r->first == NULL)
            r->last = NULL;
        blob_drop(segment->blob);
        free(segment);
    }
    if (marks > 0)
        s->app.on_drained(s->app.user, r, marks);
    if (n > 0) {
        r->body_bytes += n;
        http__set_deadline(r, s->limits.send_timeout_ms);
        return (ssize_t)n;
    }
    if (r->stream_failed)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (r->stream_ended && r->first == NULL)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (r->first != NULL)
        return 0; /* on_drained pushed more: called again at once */
    if (s->stopping)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    http__set_deadline(r, 0);
    http__suspend(r);
    return 0;
}

void http_reply_stream(struct http_request *r, int status, uint64_t size)
{
    r->streaming = true;
    struct MHD_Response *response = MHD_create_response_from_callback(
        size == UINT64_MAX ? MHD_SIZE_UNKNOWN : size, 4096, on_read, r, NULL);
    set_reply(r, status, response, 0);
}

static void push(struct http_request *r, struct http_segment *segment)
{
    if (segment == NULL) {
        http_stream_fail(r);
        return;
    }
    segment->next = NULL;
    segment->offset = 0;
    if (r->last != NULL)
        r->last->next = segment;
    else
        r->first = segment;
    r->last = segment;
    http__resume(r);
}

void http_push_copy(struct http_request *r, const void *data, size_t size)
{
    assert(r->streaming && !r->stream_ended);
    struct http_segment *segment = malloc(sizeof(*segment) + size);
    if (segment != NULL) {
        memcpy(segment->copy, data, size);
        segment->blob = NULL;
        segment->data = segment->copy;
        segment->size = size;
        segment->base64 = segment->marked = false;
    }
    push(r, segment);
}

void http_push_blob(struct http_request *r, struct blob *b, size_t offset, size_t size, bool base64,
                    bool marked)
{
    assert(r->streaming && !r->stream_ended);
    assert(offset <= b->size && size <= b->size - offset);
    struct http_segment *segment = malloc(sizeof(*segment));
    if (segment != NULL) {
        segment->blob = blob_take(b);
        segment->data = b->data + offset;
        segment->size = size;
        segment->base64 = base64;
        segment->marked = marked;
    }
    push(r, segment);
}

void http_stream_end(struct http_request *r)
{
    r->stream_ended = true;
    http__resume(r);
}

void http_stream_fail(struct http_request *r)
{
    r->stream_failed = true;
    http__segments_free(r);
    http__resume(r);
}

bool http_stream_idle(const struct http_request *r)
{
    return r->first == NULL;
}

enum MHD_Result http__send_reply(struct http_request *r)
{
    struct MHD_Response *response = r->response;
    r->response = NULL;
    if (response == NULL)
        return MHD_NO;
    for (int i = 0; i < r->n_reply_headers; i++)
        MHD_add_response_header(response, r->reply_headers[i].name, r->reply_headers[i].value);
    if (r->server->draining || r->close_after)
        MHD_add_response_header(response, "Connection", "close");
    r->phase = PHASE_SENDING;
    uint64_t pieces = r->streaming ? 1 : 1 + r->body_bytes / 32768;
    http__set_deadline(r, r->server->limits.send_timeout_ms * pieces);
    enum MHD_Result result = http__queue_response(r->mhd, (unsigned)r->status, response);
    MHD_destroy_response(response);
    return result;
}
