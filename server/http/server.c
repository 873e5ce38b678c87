/* The server as a whole: its queue of connections that have work to do, its clock, its life. The
 * loop gives every connection its turn: events only put connections into the queue, and a turn of
 * the loop runs a bounded number of them, a bounded step each. So no client, however fast it asks,
 * holds up engine results, timers, signals or the others for longer than that. */
#include "common/error.h"
#include "http/internal.h"

#include <assert.h>
#include <stdlib.h>
#include <unistd.h>

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* its being active is all: the loop polls without waiting */
}

void http__ready(struct http_conn *c)
{
    struct http_server *s = c->server;
    if (c->ready)
        return;
    c->ready = true;
    c->next_ready = NULL;
    if (s->ready_last)
        s->ready_last->next_ready = c;
    else
        s->ready_first = c;
    s->ready_last = c;
    if (s->n_ready++ == 0)
        uv_idle_start(&s->idle, on_idle);
}

/* Those that become ready on the way have their turn next time. */
static void on_check(uv_check_t *check)
{
    struct http_server *s = check->data;
    unsigned steps = s->n_ready < HTTP_TURN_STEPS ? s->n_ready : HTTP_TURN_STEPS;
    for (; steps > 0 && s->ready_first; steps--) {
        struct http_conn *c = s->ready_first;
        s->ready_first = c->next_ready;
        if (!s->ready_first)
            s->ready_last = NULL;
        s->n_ready--;
        c->ready = false;
        http__step(c);
    }
    if (s->n_ready == 0)
        uv_idle_stop(&s->idle);
}

static void on_sweep(uv_timer_t *timer)
{
    struct http_server *s = timer->data;
    uint64_t now = uv_now(s->loop);
    for (struct http_conn *c = s->first, *next; c; c = next) {
        next = c->next;
        if (c->deadline != 0 && now >= c->deadline)
            http__overdue(c);
    }
    http__resume_accepting(s);
}

void http_server_counts(const struct http_server *s, struct http_counts *out)
{
    *out = s->counts;
    out->idle = out->reading = out->waiting = out->writing = 0;
    for (const struct http_conn *c = s->first; c; c = c->next) {
        if (c->phase == PHASE_WAITING)
            out->waiting++;
        else if (c->phase >= PHASE_SENDING)
            out->writing++;
        else if (c->phase == PHASE_BODY || c->head.scanned > 0)
            out->reading++;
        else
            out->idle++;
    }
}

unsigned http_server_active(const struct http_server *s)
{
    return s->active;
}

imf_status http_server_create(struct http_server **out, uv_loop_t *loop,
                              const struct http_limits *limits, const struct http_app *app,
                              struct imf_error *err)
{
    struct http_server *s = calloc(1, sizeof(*s));
    if (!s)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    s->loop = loop;
    s->limits = *limits;
    s->app = *app;
    s->writer = http__writer_create();
    if (!s->writer) {
        free(s);
        return imf__fail(err, IMF_ENOMEM,
                         "libmicrohttpd could not start: no memory or descriptors");
    }
    uv_timer_init(loop, &s->sweep);
    uv_check_init(loop, &s->check);
    uv_idle_init(loop, &s->idle);
    s->sweep.data = s->check.data = s->idle.data = s;
    s->open_handles = 3;
    uv_timer_start(&s->sweep, on_sweep, HTTP_SWEEP_MS, HTTP_SWEEP_MS);
    uv_check_start(&s->check, on_check);
    *out = s;
    return IMF_OK;
}

imf_status http_server_listen(struct http_server *s, const char *address, int tag, char *bound,
                              size_t bound_size, struct imf_error *err)
{
    if (s->n_listeners == HTTP_MAX_LISTENERS)
        return imf__fail(err, IMF_EINVAL, "too many addresses to listen on");
    struct http_listener *l = calloc(1, sizeof(*l));
    if (!l)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    l->server = s;
    l->tag = tag;
    l->fd = http_listen_socket(address, l->unix_path, bound, bound_size, err);
    if (l->fd < 0) {
        free(l);
        return IMF_EINVAL;
    }
    l->poll.data = l;
    if (uv_poll_init(s->loop, &l->poll, l->fd) != 0) {
        close(l->fd);
        free(l);
        return imf__fail(err, IMF_EIO, "the event loop does not take the listening socket");
    }
    s->open_handles++;
    s->listeners[s->n_listeners++] = l;
    uv_poll_start(&l->poll, UV_READABLE, http__on_listen);
    return IMF_OK;
}

void http_server_quiesce(struct http_server *s)
{
    if (s->draining)
        return;
    for (int i = 0; i < s->n_listeners; i++) {
        struct http_listener *l = s->listeners[i];
        /* Whoever connected before now is served. */
        for (unsigned k = 0; k < s->limits.max_connections && !s->paused; k++) {
            uint64_t before = s->counts.accepted;
            http__on_listen(&l->poll, 0, UV_READABLE);
            if (s->counts.accepted == before)
                break;
        }
        uv_poll_stop(&l->poll);
        close(l->fd);
        if (l->unix_path[0] != '\0')
            unlink(l->unix_path);
    }
    s->draining = true;
}

static void on_closed(uv_handle_t *handle)
{
    struct http_server *s = handle->data;
    s->open_handles--;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct http_listener *l = handle->data;
    l->server->open_handles--;
}

void http_server_destroy(struct http_server *s)
{
    if (!s)
        return;
    http_server_quiesce(s);
    while (s->first)
        http__close(s->first, HTTP_ABORTED);
    for (int i = 0; i < s->n_listeners; i++)
        uv_close((uv_handle_t *)&s->listeners[i]->poll, on_listener_closed);
    uv_close((uv_handle_t *)&s->sweep, on_closed);
    uv_close((uv_handle_t *)&s->check, on_closed);
    uv_close((uv_handle_t *)&s->idle, on_closed);
    while (s->open_handles > 0)
        uv_run(s->loop, UV_RUN_ONCE);
    for (int i = 0; i < s->n_listeners; i++)
        free(s->listeners[i]);
    assert(s->active == 0);
    http__free_pools(s);
    http__writer_destroy(s->writer);
    free(s);
}

const char *http_peer(const struct http_request *r)
{
    return r->conn->peer;
}

int http_request_tag(const struct http_request *r)
{
    return r->conn->listener->tag;
}
