/* Sending a reply: its head and what there is of its body leave in one call; what the socket does
 * not take waits. Bodies go from the memory that holds them, streams piece by piece. */
#include "http/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* Sends; returns the bytes taken, or -1 when the client is gone. */
static ssize_t put(struct http_conn *c, struct iovec *parts, int n)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)n};
    ssize_t taken = sendmsg(c->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (taken < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
    /* A deadline for each 32 KiB: whoever takes less in that time is too slow. */
    c->progress += (uint64_t)taken;
    if (c->progress >= HTTP_PIECE) {
        c->progress = 0;
        c->deadline = 0;
    }
    return taken;
}

/* Keeps what was not taken of these parts. */
static bool keep(struct http_conn *c, const struct iovec *parts, int n, size_t taken)
{
    size_t size = 0, at = 0;
    for (int i = 0; i < n; i++)
        size += parts[i].iov_len;
    if (taken >= size)
        return true;
    c->pending = malloc(size - taken);
    if (!c->pending)
        return false;
    c->pending_size = size - taken;
    c->pending_sent = 0;
    for (int i = 0; i < n; i++) {
        size_t skip = taken < parts[i].iov_len ? taken : parts[i].iov_len;
        taken -= skip;
        memcpy(c->pending + at, (const char *)parts[i].iov_base + skip, parts[i].iov_len - skip);
        at += parts[i].iov_len - skip;
    }
    return true;
}

/* Waits until the socket takes more. */
static void blocked(struct http_conn *c)
{
    if (c->deadline == 0)
        http__set_deadline(c, c->server->limits.send_timeout_ms);
    http__watch(c, UV_WRITABLE);
}

static enum http_end end_of(const struct http_request *r)
{
    return r->stream_failed || r->broken ? HTTP_ABORTED : HTTP_GONE;
}

/* What was kept goes first. True when nothing is left of it. */
static bool send_pending(struct http_conn *c)
{
    struct iovec part = {c->pending + c->pending_sent, c->pending_size - c->pending_sent};
    ssize_t taken = put(c, &part, 1);
    if (taken < 0) {
        http__close(c, end_of(c->request));
        return false;
    }
    c->pending_sent += (size_t)taken;
    if (c->pending_sent < c->pending_size) {
        blocked(c);
        return false;
    }
    free(c->pending);
    c->pending = NULL;
    return true;
}

/* A reply that cannot be made as it should be, and of which nothing was sent. */
static void fall_back(struct http_request *r)
{
    static const char text[] =
        "{\"error\":{\"message\":\"out of memory\",\"type\":\"overloaded\",\"param\":null,"
        "\"code\":\"overloaded\"}}";
    http__reply_free(r);
    r->owned = NULL;
    r->blob = NULL;
    http_clear_headers(r);
    http_header(r, "Content-Type", "application/json");
    http_header(r, "X-Content-Type-Options", "nosniff");
    http_header(r, "Cache-Control", "no-store");
    http_header(r, "Retry-After", "1");
    r->status = 503;
    r->streaming = r->chunked = r->stream_failed = false;
    r->data = text;
    r->size = r->body_bytes = sizeof(text) - 1;
    r->no_body = r->method == HTTP_HEAD;
    r->close_after = true;
}

/* Head and body, as far as the socket takes them now. */
static bool send_parts(struct http_conn *c)
{
    struct http_server *s = c->server;
    struct http_request *r = c->request;
    struct iovec parts[3];
    int kept = 0, n;
    if (!r->head_sent) {
        if (r->broken)
            fall_back(r);
        r->close_after |= s->draining || (r->size == UINT64_MAX && r->http10 && !r->no_body);
        size_t size = http__write_head(s->writer, r, s->head_out, sizeof(s->head_out));
        if (size == 0) {
            r->status = 503;
            http__refuse_bare(c);
            return false;
        }
        parts[kept++] = (struct iovec){s->head_out, size};
        r->head_sent = true;
    }
    if (r->streaming && !r->no_body) {
        size_t size = http__take_piece(r, s->piece);
        if (r->stream_failed && kept == 0) {
            http__close(c, HTTP_ABORTED);
            return false;
        }
        if (size > 0)
            parts[kept++] = (struct iovec){s->piece, size};
    }
    n = kept;
    size_t whole = r->streaming || r->no_body ? 0 : (size_t)r->size - r->sent;
    if (whole > 0)
        parts[n++] = (struct iovec){(void *)(uintptr_t)(r->data + r->sent), whole};
    if (n == 0)
        return true;
    size_t first = 0;
    for (int i = 0; i < kept; i++)
        first += parts[i].iov_len;
    ssize_t taken = put(c, parts, n);
    if (taken < 0 || !keep(c, parts, kept, (size_t)taken)) {
        http__close(c, end_of(r));
        return false;
    }
    if ((size_t)taken > first)
        r->sent += (size_t)taken - first;
    if (c->pending || (size_t)taken < first + whole) {
        blocked(c);
        return false;
    }
    return true;
}

void http__send(struct http_conn *c)
{
    struct http_request *r = c->request;
    if (c->phase != PHASE_SENDING) {
        c->phase = PHASE_SENDING;
        c->progress = 0;
        c->deadline = 0;
    }
    if (c->pending && !send_pending(c))
        return;
    if (!send_parts(c))
        return;
    if (!r->streaming || r->no_body) {
        http__sent(c);
    } else if (r->stream_failed) {
        http__close(c, HTTP_ABORTED);
    } else if (r->first || (r->stream_ended && r->chunked)) {
        http__ready(c); /* the rest when its turn comes */
    } else if (!r->stream_ended) {
        http__set_deadline(c, 0);
        http__watch(c, UV_DISCONNECT); /* until the application pushes more */
    } else if (r->size != UINT64_MAX && r->size != r->body_bytes) {
        http__close(c, HTTP_ABORTED); /* fewer or more than announced */
    } else {
        http__sent(c);
    }
}
