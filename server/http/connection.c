/* One client's connection: its socket, what was read from it, and which request it is at. One
 * request at a time: the next one's bytes stay where they are until the reply before has left. */
#include "http/internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void http__set_deadline(struct http_conn *c, uint64_t ms)
{
    c->deadline = ms == 0 ? 0 : uv_now(c->server->loop) + ms;
}

/* ---- The list of all, and memory ------------------------------------------------------------- */

static void append(struct http_conn *c)
{
    struct http_server *s = c->server;
    c->previous = s->last;
    c->next = NULL;
    if (s->last)
        s->last->next = c;
    else
        s->first = c;
    s->last = c;
}

static void take_out(struct http_conn *c)
{
    struct http_server *s = c->server;
    if (c->previous)
        c->previous->next = c->next;
    else
        s->first = c->next;
    if (c->next)
        c->next->previous = c->previous;
    else
        s->last = c->previous;
}

static void leave_queue(struct http_conn *c)
{
    struct http_server *s = c->server;
    if (!c->ready)
        return;
    struct http_conn *before = NULL;
    for (struct http_conn *at = s->ready_first; at != c; at = at->next_ready)
        before = at;
    if (before)
        before->next_ready = c->next_ready;
    else
        s->ready_first = c->next_ready;
    if (s->ready_last == c)
        s->ready_last = before;
    s->n_ready--;
    c->ready = false;
}

static bool input_take(struct http_conn *c)
{
    struct http_server *s = c->server;
    if (c->input)
        return true;
    c->begin = c->end = 0;
    if (s->free_inputs) {
        c->input = s->free_inputs;
        memcpy(&s->free_inputs, c->input, sizeof(s->free_inputs));
        s->n_free_inputs--;
        return true;
    }
    c->input = malloc(HTTP_INPUT);
    return c->input != NULL;
}

static void input_give(struct http_conn *c)
{
    struct http_server *s = c->server;
    if (!c->input)
        return;
    if (s->n_free_inputs < HTTP_FREE_INPUTS) {
        memcpy(c->input, &s->free_inputs, sizeof(s->free_inputs));
        s->free_inputs = c->input;
        s->n_free_inputs++;
    } else {
        free(c->input);
    }
    c->input = NULL;
    c->begin = c->end = 0;
}

void http__free_pools(struct http_server *s)
{
    free(s->spare);
    while (s->free_requests) {
        struct http_request *r = s->free_requests;
        s->free_requests = r->next_free;
        free(r);
    }
    while (s->free_inputs) {
        char *input = s->free_inputs;
        memcpy(&s->free_inputs, input, sizeof(s->free_inputs));
        free(input);
    }
}

/* ---- Beginning and end ----------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
    struct http_conn *c = handle->data;
    struct http_server *s = c->server;
    s->open_handles--;
    if (s->spare)
        free(c);
    else
        s->spare = c;
}

/* 503 without anything that would take memory. */
static void send_no_memory(int fd)
{
    static const char text[] =
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nRetry-After: 1\r\n"
        "Connection: close\r\n\r\n{\"error\":{\"message\":\"out of "
        "memory\",\"type\":\"overloaded\","
        "\"param\":null,\"code\":\"overloaded\"}}";
    (void)!send(fd, text, sizeof(text) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

bool http__prepare(struct http_server *s)
{
    if (!s->spare)
        s->spare = malloc(sizeof(*s->spare));
    return s->spare != NULL;
}

bool http__open(struct http_listener *l, int fd, const char *peer, const unsigned char address[16])
{
    struct http_server *s = l->server;
    struct http_conn *c = s->spare;
    memset(c, 0, sizeof(*c));
    if (uv_poll_init(s->loop, &c->poll, fd) != 0) {
        send_no_memory(fd);
        close(fd);
        return false;
    }
    s->spare = NULL;
    (void)http__prepare(s); /* while there is memory */
    c->poll.data = c;
    c->server = s;
    c->listener = l;
    c->fd = fd;
    c->hungry = true;
    strcpy(c->peer, peer);
    memcpy(c->address, address, sizeof(c->address));
    s->open_handles++;
    s->n_conns++;
    append(c);
    http__set_deadline(c, s->limits.header_timeout_ms);
    http__watch(c, UV_READABLE);
    return true;
}

void http__close(struct http_conn *c, enum http_end end)
{
    struct http_server *s = c->server;
    if (c->request)
        http__request_end(c->request, end);
    c->phase = PHASE_CLOSED;
    leave_queue(c);
    take_out(c);
    input_give(c);
    free(c->pending);
    s->n_conns--;
    uv_close((uv_handle_t *)&c->poll, on_closed); /* stops polling: the socket may be closed */
    close(c->fd);
    http__resume_accepting(s);
}

/* The end of a connection whose reply has left. Unread bytes would turn the close into a reset,
 * which may overtake the reply: what still comes is read for a while. */
static void finish(struct http_conn *c)
{
    shutdown(c->fd, SHUT_WR);
    if (!c->linger) {
        char byte;
        ssize_t n = recv(c->fd, &byte, 1, MSG_DONTWAIT);
        if (n <= 0) {
            http__close(c, HTTP_SENT);
            return;
        }
    }
    input_give(c);
    c->phase = PHASE_LINGER;
    http__set_deadline(c, HTTP_LINGER_MS);
    http__watch(c, UV_READABLE);
}

static void next_request(struct http_conn *c)
{
    c->phase = PHASE_HEAD;
    c->served++;
    memset(&c->head, 0, sizeof(c->head));
    http__set_deadline(c, c->server->limits.idle_timeout_ms);
    take_out(c);
    append(c);
    http__watch(c, UV_READABLE);
    c->hungry = c->begin == c->end;
    if (c->hungry) {
        input_give(c);
        return;
    }
    if (c->begin > HEAD_MAX_SIZE) { /* room for the longest head and a piece of its body */
        memmove(c->input, c->input + c->begin, c->end - c->begin);
        c->end -= c->begin;
        c->begin = 0;
    }
    http__ready(c);
}

void http__sent(struct http_conn *c)
{
    struct http_request *r = c->request;
    bool close_after = r->close_after || r->broken;
    http__request_end(r, r->broken ? HTTP_ABORTED : HTTP_SENT);
    if (close_after)
        finish(c);
    else
        next_request(c);
}

/* ---- Events ---------------------------------------------------------------------------------- */

static void on_gone(struct http_conn *c)
{
    struct http_server *s = c->server;
    if (c->request && c->phase >= PHASE_WAITING)
        s->app.on_gone(s->app.user, c->request);
    http__close(c, HTTP_GONE);
}

static void on_event(uv_poll_t *poll, int status, int events)
{
    struct http_conn *c = poll->data;
    if (status < 0) /* a reset arrives as an error without events, and polling has stopped */
        on_gone(c);
    else if (events & (UV_READABLE | UV_WRITABLE))
        http__ready(c);
    else if (events & UV_DISCONNECT)
        on_gone(c);
}

void http__watch(struct http_conn *c, int events)
{
    if (events == c->events)
        return;
    c->events = events;
    if (events == 0)
        uv_poll_stop(&c->poll);
    else
        uv_poll_start(&c->poll, events, on_event);
}

/* ---- Requests -------------------------------------------------------------------------------- */

void http__refuse_bare(struct http_conn *c)
{
    send_no_memory(c->fd);
    if (c->request)
        http__request_end(c->request, HTTP_SENT);
    c->linger = true;
    finish(c);
}

/* Answers `status`, and the connection ends with that. */
static void refuse(struct http_conn *c, int status, const char *message)
{
    struct http_server *s = c->server;
    struct http_request *r = c->request ? c->request : http__request_new(c);
    if (!r) {
        http__refuse_bare(c);
        return;
    }
    r->close_after = c->linger = true;
    if (!r->has_reply) /* else it was refused before, and its body is at fault */
        s->app.on_refuse(s->app.user, r, status, message);
    http__send(c);
}

static void body_complete(struct http_conn *c)
{
    struct http_server *s = c->server;
    struct http_request *r = c->request;
    c->phase = PHASE_WAITING;
    if (!r->has_reply)
        s->app.on_request(s->app.user, r);
    if (r->has_reply) {
        http__send(c);
        return;
    }
    http__set_deadline(c, 0);
    http__watch(c, UV_DISCONNECT);
}

/* The head says what is to be done about the body. */
static void head_complete(struct http_conn *c)
{
    struct http_server *s = c->server;
    struct http_head *h = &c->head;
    c->begin += h->size;
    struct http_request *r = http__request_new(c);
    if (!r) {
        http__refuse_bare(c);
        return;
    }
    if (!http_head_join(h, c->input + c->begin - h->size, &r->joined)) {
        refuse(c, 503, "out of memory");
        return;
    }
    memcpy(r->headers, h->headers, sizeof(r->headers));
    r->close_after = h->close || (h->http10 && !h->keep_alive);
    if (h->length > s->limits.max_body) {
        refuse(c, 413, "the body is larger than max_body");
        return;
    }
    s->app.on_headers(s->app.user, r);
    if (!h->chunked && h->length == 0) {
        body_complete(c);
        return;
    }
    if (r->has_reply && h->expects_continue) { /* the body stays where it is */
        r->close_after = c->linger = true;
        http__send(c);
        return;
    }
    /* A refused body is read all the same, and dropped: the connection can go on. */
    r->discard = r->has_reply;
    c->phase = PHASE_BODY;
    memset(&c->chunks, 0, sizeof(c->chunks));
    http__set_deadline(c, s->limits.body_timeout_ms);
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (h->expects_continue && c->begin == c->end)
        (void)!send(c->fd, go_on, sizeof(go_on) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    c->hungry = c->begin == c->end;
}

static void read_head(struct http_conn *c)
{
    if (c->head.scanned == 0) /* its first bytes */
        http__set_deadline(c, c->server->limits.header_timeout_ms);
    switch (http_head_read(&c->head, c->input + c->begin, c->end - c->begin)) {
    case HEAD_MORE:
        c->hungry = true;
        break;
    case HEAD_BAD:
        refuse(c, c->head.status, c->head.message);
        break;
    case HEAD_DONE:
        head_complete(c);
        break;
    }
}

/* A piece of the body; false when it is over the limit. */
static bool body_append(struct http_conn *c, const char *data, size_t size)
{
    struct http_request *r = c->request;
    r->received += size;
    if (r->received > c->server->limits.max_body)
        return false;
    if (size > 0 && !r->discard)
        buffer_append(&r->body, data, size);
    return true;
}

/* Takes what is there of the body. All of it is taken, up to the body's end. */
static void read_body(struct http_conn *c)
{
    struct http_request *r = c->request;
    enum head_result result = HEAD_MORE;
    size_t place = c->begin; /* of the body in the input; behind the head, which stays */
    while (result == HEAD_MORE && c->begin < c->end) {
        const char *data = c->input + c->begin;
        size_t size = c->end - c->begin, used = size;
        if (c->head.chunked) {
            result = http_chunks_read(&c->chunks, data, size, &used, &data, &size);
        } else {
            uint64_t left = c->head.length - r->received;
            if (left <= size)
                result = HEAD_DONE;
            size = used = left < size ? (size_t)left : size;
        }
        c->begin += used;
        if (!body_append(c, data, size)) {
            refuse(c, 413, "the body is larger than max_body");
            return;
        }
    }
    if (result == HEAD_BAD) {
        refuse(c, 400, c->chunks.message);
    } else if (result == HEAD_DONE && r->body.failed) {
        refuse(c, 503, "out of memory");
    } else if (result == HEAD_DONE) {
        body_complete(c);
    } else {
        c->begin = c->end = place;
        c->hungry = true;
    }
}

/* Reads what there is room for. False when there is nothing, or the connection is closed. */
static bool receive(struct http_conn *c)
{
    if (!input_take(c)) {
        http__refuse_bare(c);
        return false;
    }
    ssize_t n = recv(c->fd, c->input + c->end, HTTP_INPUT - c->end, MSG_DONTWAIT);
    if (n > 0) {
        c->end += (size_t)n;
        c->hungry = false;
        return true;
    }
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        if (c->begin == c->end && !c->request)
            input_give(c);
        return false;
    }
    on_gone(c);
    return false;
}

static void drop_input(struct http_conn *c)
{
    struct http_server *s = c->server;
    ssize_t n = recv(c->fd, s->piece, sizeof(s->piece), MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
        http__close(c, HTTP_SENT);
}

void http__step(struct http_conn *c)
{
    c->stepping = true;
    switch (c->phase) {
    case PHASE_HEAD:
        if (!c->hungry || receive(c))
            read_head(c);
        if (c->phase == PHASE_BODY && !c->hungry)
            read_body(c);
        break;
    case PHASE_BODY:
        if (!c->hungry || receive(c))
            read_body(c);
        break;
    case PHASE_WAITING:
        if (c->request->has_reply)
            http__send(c);
        break;
    case PHASE_SENDING:
        http__send(c);
        break;
    case PHASE_LINGER:
        drop_input(c);
        break;
    case PHASE_CLOSED:
        break;
    }
    c->stepping = false; /* also of one that was closed: the loop frees it later */
}

void http__overdue(struct http_conn *c)
{
    struct http_server *s = c->server;
    c->deadline = 0;
    if (c->phase == PHASE_BODY || (c->phase == PHASE_HEAD && c->head.scanned > 0)) {
        s->counts.timed_out++;
        refuse(c, 408, "the request took too long to arrive");
        return;
    }
    if (c->phase == PHASE_SENDING)
        s->counts.slow_readers++;
    http__close(c, HTTP_SHED);
}
