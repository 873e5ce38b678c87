/* One request's reply: headers and a body that is there, or a stream of segments that the
 * application pushes while they are sent (send.c). */
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
    if (!at || strpbrk(value, "\r\n")) {
        r->broken = true;
        return;
    }
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
    else
        r->broken = true;
}

void http_clear_headers(struct http_request *r)
{
    r->n_reply_headers = 0;
    r->text_used = 0;
    r->broken = false;
}

/* Has the connection go on when its turn comes, unless it is at it or its socket takes no more. */
static void wake(struct http_request *r)
{
    struct http_conn *c = r->conn;
    if (!c->stepping && !c->pending && c->phase >= PHASE_WAITING)
        http__ready(c);
}

static void set_reply(struct http_request *r, int status, const void *data, uint64_t size)
{
    assert(!r->has_reply);
    r->has_reply = true;
    r->status = status;
    r->data = data;
    r->size = size;
    r->no_body = r->method == HTTP_HEAD || status == 204 || status == 304;
    if (!r->streaming && size != UINT64_MAX)
        r->body_bytes = size;
    wake(r);
}

void http_reply_static(struct http_request *r, int status, const void *data, size_t size)
{
    set_reply(r, status, data, size);
}

void http_reply_buffer(struct http_request *r, int status, struct buffer *b)
{
    r->broken |= b->failed;
    r->owned = b->data;
    b->data = NULL;
    set_reply(r, status, r->owned, b->size);
    buffer_free(b);
}

void http_reply_blob(struct http_request *r, int status, struct blob *b)
{
    r->blob = b;
    set_reply(r, status, b->data, b->size);
}

void http_reply_head(struct http_request *r, int status)
{
    assert(r->method == HTTP_HEAD || status == 204 || status == 304);
    set_reply(r, status, NULL, UINT64_MAX);
}

/* ---- Streams --------------------------------------------------------------------------------- */

static void segments_free(struct http_request *r)
{
    while (r->first) {
        struct http_segment *segment = r->first;
        r->first = segment->next;
        blob_drop(segment->blob);
        free(segment);
    }
    r->last = NULL;
}

void http__reply_free(struct http_request *r)
{
    segments_free(r);
    free(r->owned);
    blob_drop(r->blob);
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

/* Up to HTTP_PIECE bytes of what was pushed. */
static size_t take_segments(struct http_request *r, char *out)
{
    struct http_server *s = r->server;
    size_t n = 0;
    uint32_t marks = 0;
    while (r->first) {
        struct http_segment *segment = r->first;
        n += take_bytes(segment, (uint8_t *)out + n, HTTP_PIECE - n);
        if (segment->offset < segment->size)
            break;
        marks += segment->marked;
        r->first = segment->next;
        if (!r->first)
            r->last = NULL;
        blob_drop(segment->blob);
        free(segment);
    }
    r->body_bytes += n;
    if (marks > 0)
        s->app.on_drained(s->app.user, r, marks);
    return n;
}

/* A chunk of its own is made of each piece where the size is not known. */
size_t http__take_piece(struct http_request *r, char *out)
{
    enum { ROOM = 8 }; /* for the chunk's size */
    size_t n = take_segments(r, out + (r->chunked ? ROOM : 0));
    if (!r->chunked)
        return n;
    size_t size = 0;
    if (n > 0) {
        char line[ROOM + 1];
        size = (size_t)snprintf(line, sizeof(line), "%zx\r\n", n);
        memmove(out + size, out + ROOM, n);
        memcpy(out, line, size);
        size += n;
        memcpy(out + size, "\r\n", 2);
        size += 2;
    }
    if (r->stream_ended && !r->first && !r->stream_failed) {
        memcpy(out + size, "0\r\n\r\n", 5);
        size += 5;
        r->chunked = false; /* that was its end */
    }
    return size;
}

void http_reply_stream(struct http_request *r, int status, uint64_t size)
{
    r->streaming = true;
    r->chunked = size == UINT64_MAX && !r->http10;
    set_reply(r, status, NULL, size);
}

static void push(struct http_request *r, struct http_segment *segment)
{
    if (!segment) {
        http_stream_starve(r);
        return;
    }
    segment->next = NULL;
    segment->offset = 0;
    if (r->last)
        r->last->next = segment;
    else
        r->first = segment;
    r->last = segment;
    wake(r);
}

void http_push_copy(struct http_request *r, const void *data, size_t size)
{
    if (!r->streaming) /* another reply took its place: memory was short */
        return;
    assert(!r->stream_ended);
    struct http_segment *segment = malloc(sizeof(*segment) + size);
    if (segment) {
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
    if (!r->streaming)
        return;
    assert(!r->stream_ended);
    assert(offset <= b->size && size <= b->size - offset);
    struct http_segment *segment = malloc(sizeof(*segment));
    if (segment) {
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
    wake(r);
}

void http_stream_fail(struct http_request *r)
{
    r->stream_failed = true;
    segments_free(r);
    wake(r);
}

void http_stream_starve(struct http_request *r)
{
    r->broken = true; /* send.c gives another reply where that can be done */
    http_stream_fail(r);
}

bool http_stream_withdraw(struct http_request *r)
{
    assert(r->streaming);
    if (r->head_sent)
        return false;
    segments_free(r);
    http_clear_headers(r);
    r->has_reply = r->streaming = r->stream_ended = r->stream_failed = r->chunked = false;
    r->status = 0;
    r->size = r->body_bytes = 0;
    return true;
}

bool http_stream_idle(const struct http_request *r)
{
    return !r->first;
}
