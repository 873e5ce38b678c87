/* One request: gathering it, and waiting.
 *
 * libmicrohttpd calls http__on_access first with the header, then with pieces of the body, then
 * once more when all is there; while a connection waits it is suspended and calls nothing. A
 * suspended socket is out of libmicrohttpd's epoll set, so the loop watches it for the client's
 * going away (UV_DISCONNECT; asking for readability would fire for ever on pipelined bytes).
 * A client that shuts down its sending side looks the same and is treated so. */
#include "http/internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct http_watch {
    uv_poll_t poll;
    struct http_request *request; /* NULL once unwatched */
    struct http_server *server;
    struct http_watch *next_free;
};

static const char *const header_names[HTTP_HEADER_COUNT] = {
    [HTTP_ACCEPT] = "Accept",
    [HTTP_ACCEPT_ENCODING] = "Accept-Encoding",
    [HTTP_ACCESS_CONTROL_REQUEST_METHOD] = "Access-Control-Request-Method",
    [HTTP_AUTHORIZATION] = "Authorization",
    [HTTP_CONTENT_LENGTH] = "Content-Length",
    [HTTP_CONTENT_TYPE] = "Content-Type",
    [HTTP_EXPECT] = "Expect",
    [HTTP_HOST] = "Host",
    [HTTP_IF_NONE_MATCH] = "If-None-Match",
    [HTTP_ORIGIN] = "Origin",
    [HTTP_TRANSFER_ENCODING] = "Transfer-Encoding",
    [HTTP_X_FORWARDED_FOR] = "X-Forwarded-For",
    [HTTP_X_FORWARDED_HOST] = "X-Forwarded-Host",
    [HTTP_X_FORWARDED_PREFIX] = "X-Forwarded-Prefix",
    [HTTP_X_FORWARDED_PROTO] = "X-Forwarded-Proto",
    [HTTP_X_REQUEST_ID] = "X-Request-Id",
};

const char *http_method_name(enum http_method method)
{
    static const char *const names[] = {"GET", "HEAD", "POST", "OPTIONS", "other"};
    return names[method];
}

static enum http_method method_of(const char *name)
{
    for (int m = 0; m < HTTP_OTHER; m++) {
        if (strcmp(name, http_method_name((enum http_method)m)) == 0)
            return (enum http_method)m;
    }
    return HTTP_OTHER;
}

void http__set_deadline(struct http_request *r, uint64_t ms)
{
    if (!r->conn->cut)
        r->conn->deadline = ms == 0 ? 0 : uv_now(r->server->loop) + ms;
}

/* ---- Request objects ------------------------------------------------------------------------- */

static struct http_request *request_new(struct http_server *s)
{
    struct http_request *r = s->free_requests;
    if (r != NULL) {
        s->free_requests = r->next_free;
        s->n_free--;
    } else if ((r = malloc(sizeof(*r))) == NULL) {
        return NULL;
    }
    memset(r, 0, offsetof(struct http_request, short_uri));
    r->server = s;
    buffer_init(&r->body, s->limits.max_body);
    return r;
}

static void request_free(struct http_request *r)
{
    struct http_server *s = r->server;
    http__segments_free(r);
    buffer_free(&r->body);
    free(r->long_uri);
    if (s->n_free >= HTTP_FREE_REQUESTS) {
        free(r);
        return;
    }
    r->next_free = s->free_requests;
    s->free_requests = r;
    s->n_free++;
}

void http__free_pools(struct http_server *s)
{
    while (s->free_requests != NULL) {
        struct http_request *r = s->free_requests;
        s->free_requests = r->next_free;
        free(r);
    }
    while (s->free_watches != NULL) {
        struct http_watch *w = s->free_watches;
        s->free_watches = w->next_free;
        free(w);
    }
}

/* The request line is here. What this returns becomes *state of the calls below. */
void *http__on_uri(void *cls, const char *uri, struct MHD_Connection *mhd)
{
    struct http_listener *l = cls;
    struct http_server *s = l->server;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct http_conn *c = info != NULL ? info->socket_context : NULL;
    struct http_request *r = c != NULL ? request_new(s) : NULL;
    if (r == NULL)
        return NULL;
    size_t length = strlen(uri);
    char *copy = length < sizeof(r->short_uri) ? r->short_uri : malloc(length + 1);
    if (copy == NULL) {
        request_free(r);
        return NULL;
    }
    memcpy(copy, uri, length + 1);
    if (copy != r->short_uri)
        r->long_uri = copy;
    r->uri = copy;
    r->mhd = mhd;
    r->conn = c;
    r->start_ns = uv_hrtime();
    r->phase = PHASE_HEADER;
    c->request = r;
    s->active++;
    http__set_deadline(r, s->limits.header_timeout_ms);
    return r;
}

static enum http_end end_of(const struct http_request *r, enum MHD_RequestTerminationCode why)
{
    if (r->shed)
        return HTTP_SHED;
    if (why == MHD_REQUEST_TERMINATED_COMPLETED_OK && !r->stream_failed)
        return HTTP_SENT;
    if (why == MHD_REQUEST_TERMINATED_DAEMON_SHUTDOWN || r->stream_failed)
        return HTTP_ABORTED;
    return HTTP_GONE;
}

static void unwatch(struct http_request *r);

void http__on_completed(void *cls, struct MHD_Connection *mhd, void **state,
                        enum MHD_RequestTerminationCode why)
{
    struct http_server *s = cls;
    struct http_request *r = *state;
    (void)mhd;
    *state = NULL;
    if (r == NULL)
        return;
    unwatch(r);
    if (r->response != NULL)
        MHD_destroy_response(r->response);
    r->response = NULL;
    s->app.on_done(s->app.user, r, end_of(r, why));
    if (r->conn != NULL) {
        r->conn->request = NULL;
        r->conn->served = true;
        http__set_deadline(r, s->limits.idle_timeout_ms);
    }
    s->active--;
    request_free(r);
}

/* ---- Waiting --------------------------------------------------------------------------------- */

static void on_watch_closed(uv_handle_t *handle)
{
    struct http_watch *w = handle->data;
    struct http_server *s = w->server;
    s->open_handles--;
    w->next_free = s->free_watches;
    s->free_watches = w;
}

static void unwatch(struct http_request *r)
{
    struct http_watch *w = r->watch;
    if (w == NULL)
        return;
    r->watch = NULL;
    w->request = NULL;
    uv_poll_stop(&w->poll);
    uv_close((uv_handle_t *)&w->poll, on_watch_closed);
}

void http__resume(struct http_request *r)
{
    if (!r->suspended)
        return;
    unwatch(r);
    r->suspended = false;
    r->server->dirty = true;
    MHD_resume_connection(r->mhd);
}

static void on_disconnect(uv_poll_t *poll, int status, int events)
{
    struct http_watch *w = poll->data;
    struct http_request *r = w->request;
    (void)events; /* a reset arrives as a negative status without events */
    if (r == NULL || (status == 0 && (events & UV_DISCONNECT) == 0))
        return;
    r->gone = true;
    r->server->app.on_gone(r->server->app.user, r);
    http__resume(r);
}

void http__suspend(struct http_request *r)
{
    struct http_server *s = r->server;
    MHD_suspend_connection(r->mhd);
    r->suspended = true;
    struct http_watch *w = s->free_watches;
    if (w != NULL)
        s->free_watches = w->next_free;
    else
        w = malloc(sizeof(*w));
    if (w == NULL)
        return; /* it waits unwatched: only its own deadline ends it */
    w->server = s;
    if (uv_poll_init(s->loop, &w->poll, r->conn->fd) != 0) {
        w->next_free = s->free_watches;
        s->free_watches = w;
        return;
    }
    s->open_handles++;
    w->request = r;
    w->poll.data = w;
    r->watch = w;
    uv_poll_start(&w->poll, UV_DISCONNECT, on_disconnect);
}

void http__cut_waiting(struct http_request *r)
{
    if (r->suspended) {
        r->gone = true;
        http__resume(r);
    }
}

/* ---- Gathering ------------------------------------------------------------------------------- */

struct framing {
    struct http_request *r;
    const char *problem; /* NULL: none */
};

/* Header lookups of GETs are one pass over them; repeated ones that would let two readers see two
 * different messages are refused here, because libmicrohttpd lets them pass. */
static enum MHD_Result on_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                 const char *value)
{
    struct framing *f = cls;
    struct http_request *r = f->r;
    (void)kind;
    if (value == NULL)
        value = "";
    for (int h = 0; h < HTTP_HEADER_COUNT; h++) {
        if ((name[0] | 32) != (header_names[h][0] | 32) || strcasecmp(name, header_names[h]) != 0)
            continue;
        if (r->headers[h] != NULL) {
            if (h == HTTP_CONTENT_LENGTH || h == HTTP_TRANSFER_ENCODING || h == HTTP_HOST ||
                h == HTTP_AUTHORIZATION || h == HTTP_CONTENT_TYPE)
                f->problem = "a header that may be given once is repeated";
            if (h != HTTP_X_FORWARDED_FOR) /* whose last line is the nearest proxy's */
                return MHD_YES;
        }
        r->headers[h] = value;
        return MHD_YES;
    }
    return MHD_YES;
}

static void check_framing(struct framing *f)
{
    struct http_request *r = f->r;
    const char *length = r->headers[HTTP_CONTENT_LENGTH];
    const char *encoding = r->headers[HTTP_TRANSFER_ENCODING];
    const char *expect = r->headers[HTTP_EXPECT];
    if (encoding != NULL && strcasecmp(encoding, "chunked") != 0)
        f->problem = "the only Transfer-Encoding supported is chunked";
    else if (encoding != NULL && length != NULL)
        f->problem = "Content-Length and Transfer-Encoding exclude each other";
    else if (encoding != NULL && r->http10)
        f->problem = "HTTP/1.0 has no Transfer-Encoding";
    else if (length != NULL && length[strspn(length, "0123456789")] != '\0')
        f->problem = "Content-Length is not a number";
    else if (expect != NULL && strcasecmp(expect, "100-continue") != 0)
        f->problem = "the only Expect supported is 100-continue";
}

static enum MHD_Result headers_complete(struct http_request *r, const char *method,
                                        const char *version)
{
    struct http_server *s = r->server;
    struct framing f = {r, NULL};
    r->method = method_of(method);
    r->http10 = strcmp(version, "HTTP/1.0") == 0;
    MHD_get_connection_values(r->mhd, MHD_HEADER_KIND, on_header, &f);
    if (f.problem == NULL)
        check_framing(&f);
    const char *length = r->headers[HTTP_CONTENT_LENGTH];
    r->chunked = r->headers[HTTP_TRANSFER_ENCODING] != NULL;
    unsigned long long size = length != NULL ? strtoull(length, NULL, 10) : 0;
    r->has_body = r->chunked || size > 0;
    r->phase = PHASE_BODY;
    http__set_deadline(r, s->limits.body_timeout_ms);

    bool never_read = false; /* the body is not to be taken at all */
    if (f.problem != NULL) {
        never_read = true;
        s->app.on_refuse(s->app.user, r, 400, f.problem);
    } else if (size > s->limits.max_body) {
        never_read = true;
        s->app.on_refuse(s->app.user, r, 413, "the body is larger than max_body");
    } else if (strlen(r->uri) > HTTP_MAX_URI) {
        s->app.on_refuse(s->app.user, r, 414, "the request target is too long");
    } else {
        s->app.on_headers(s->app.user, r);
    }
    if (!r->has_reply)
        return MHD_YES;
    /* A reply ahead of the body closes the connection; a small body is read first instead, unless
     * the client waits for our permission to send it. */
    r->discard = true;
    r->close_after = never_read;
    if (never_read || !r->has_body || r->headers[HTTP_EXPECT] != NULL) {
        r->close_after = r->close_after || r->has_body;
        return http__send_reply(r);
    }
    return MHD_YES;
}

static enum MHD_Result body_arrived(struct http_request *r, const char *data, size_t *size)
{
    struct http_server *s = r->server;
    r->received += *size;
    if (r->received > s->limits.max_body && !r->discard) {
        r->discard = true;
        r->close_after = true;
        buffer_free(&r->body);
        s->app.on_refuse(s->app.user, r, 413, "the body is larger than max_body");
    }
    /* A chunked body without end: enough politeness. */
    if (r->received > 8 * (uint64_t)s->limits.max_body + (1 << 20))
        return MHD_NO;
    if (!r->discard)
        buffer_append(&r->body, data, *size);
    *size = 0;
    return MHD_YES;
}

enum MHD_Result http__on_access(void *cls, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_size, void **state)
{
    struct http_server *s = cls;
    struct http_request *r = *state;
    (void)mhd;
    (void)url;
    if (r == NULL || r->gone)
        return MHD_NO;
    if (r->phase == PHASE_HEADER)
        return headers_complete(r, method, version);
    if (*upload_size > 0)
        return body_arrived(r, upload, upload_size);
    if (r->phase == PHASE_SENDING)
        return MHD_YES; /* answered early */
    if (!r->has_reply && r->phase == PHASE_BODY) {
        r->phase = PHASE_WAITING;
        s->app.on_request(s->app.user, r);
    }
    if (r->has_reply)
        return http__send_reply(r);
    if (s->stopping)
        return MHD_NO;
    http__set_deadline(r, 0);
    http__suspend(r);
    return MHD_YES;
}
