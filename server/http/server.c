/* The libmicrohttpd daemons (one per address) inside the libuv loop, the connections, and the clock
 * that cuts those which take too long. libmicrohttpd's own timeout restarts at every byte, so one
 * byte a second would hold a connection for ever; ours are deadlines per phase. */
#include "common/error.h"
#include "http/internal.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Not larger: libmicrohttpd maps and unmaps bigger pools for every connection. */
enum { CONNECTION_MEMORY = 32768 };

/* ---- Driving libmicrohttpd ------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer);

/* Never called from inside a callback of libmicrohttpd. */
static void run_listener(struct http_listener *l)
{
    /* A closed connection makes room at the connection limit, but the listening socket returns to
     * the epoll set only at the start of a later MHD_run: run again. */
    do {
        l->rerun = false;
        MHD_run(l->daemon);
    } while (l->rerun);
    MHD_UNSIGNED_LONG_LONG ms;
    if (MHD_get_timeout(l->daemon, &ms) == MHD_YES)
        uv_timer_start(&l->timer, on_timer, ms, 0);
    else
        uv_timer_stop(&l->timer);
}

static void on_timer(uv_timer_t *timer)
{
    run_listener(timer->data);
}

static void on_epoll(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    run_listener(poll->data);
}

/* Replies that became ready in this turn of the loop go out before it sleeps. */
static void on_prepare(uv_prepare_t *prepare)
{
    struct http_server *s = prepare->data;
    if (!s->dirty)
        return;
    s->dirty = false;
    for (int i = 0; i < s->n_listeners; i++)
        run_listener(s->listeners[i]);
}

static void on_log(void *cls, const char *format, va_list args)
{
    struct http_server *s = cls;
    char line[400];
    vsnprintf(line, sizeof(line), format, args);
    size_t n = strlen(line);
    while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
        line[--n] = '\0';
    if (s->app.on_log != NULL)
        s->app.on_log(s->app.user, line);
}

/* libmicrohttpd found itself inconsistent; nothing can be saved. */
static void on_panic(void *cls, const char *file, unsigned int line, const char *reason)
{
    (void)cls;
    fprintf(stderr, "imfd: libmicrohttpd: %s:%u: %s\n", file, line, reason != NULL ? reason : "");
    abort();
}

/* ---- Connections ----------------------------------------------------------------------------- */

static void set_peer(struct http_conn *c, const struct sockaddr *a)
{
    strcpy(c->peer, "unix");
    if (a != NULL && a->sa_family == AF_INET) {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)a)->sin_addr, c->peer, sizeof(c->peer));
    } else if (a != NULL && a->sa_family == AF_INET6) {
        const struct in6_addr *v6 = &((const struct sockaddr_in6 *)a)->sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(v6)) /* an IPv4 client of a dual-stack socket */
            inet_ntop(AF_INET, &v6->s6_addr[12], c->peer, sizeof(c->peer));
        else
            inet_ntop(AF_INET6, v6, c->peer, sizeof(c->peer));
    }
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct http_listener *l = cls;
    struct http_server *s = l->server;
    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        struct http_conn *c = *context;
        l->rerun = true;
        if (c == NULL)
            return;
        if (c->previous != NULL)
            c->previous->next = c->next;
        else
            s->conns = c->next;
        if (c->next != NULL)
            c->next->previous = c->previous;
        free(c);
        return;
    }
    struct http_conn *c = calloc(1, sizeof(*c));
    *context = c;
    if (c == NULL)
        return; /* its requests are refused */
    c->server = s;
    c->listener = l;
    c->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    set_peer(c, MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr);
    c->deadline = uv_now(s->loop) + s->limits.header_timeout_ms;
    c->next = s->conns;
    if (s->conns != NULL)
        s->conns->previous = c;
    s->conns = c;
    s->counts.accepted++;
}

/* The client's request, or its first one, is not complete. */
static bool reading(const struct http_conn *c)
{
    return c->request != NULL ? c->request->phase < PHASE_WAITING : !c->served;
}

static void cut(struct http_server *s, struct http_conn *c)
{
    if (reading(c)) {
        http__send_error(c, 408);
        s->counts.timed_out++;
    } else if (c->request != NULL) {
        s->counts.slow_readers++;
    }
    if (c->request != NULL)
        c->request->shed = true;
    c->cut = true;
    c->deadline = 0;
    shutdown(c->fd, SHUT_RDWR); /* libmicrohttpd sees the end and closes */
}

/* libmicrohttpd does not notice an end of input that arrives together with the last bytes of half a
 * request: its edge-triggered epoll tells it once, and it reads once. */
static bool client_left(const struct http_conn *c)
{
    char byte;
    return recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static void on_sweep(uv_timer_t *timer)
{
    struct http_server *s = timer->data;
    uint64_t now = uv_now(s->loop);
    for (struct http_conn *c = s->conns; c != NULL; c = c->next) {
        if (c->deadline != 0 && now >= c->deadline) {
            cut(s, c);
        } else if (!c->cut && reading(c) && client_left(c)) {
            c->cut = true;
            shutdown(c->fd, SHUT_RDWR);
        }
    }
}

void http_server_counts(const struct http_server *s, struct http_counts *out)
{
    *out = s->counts;
    out->idle = out->reading = out->waiting = out->writing = 0;
    for (const struct http_conn *c = s->conns; c != NULL; c = c->next) {
        if (c->request == NULL)
            out->idle++;
        else if (c->request->phase < PHASE_WAITING)
            out->reading++;
        else if (c->request->phase == PHASE_WAITING)
            out->waiting++;
        else
            out->writing++;
    }
}

unsigned http_server_active(const struct http_server *s)
{
    return s->active;
}

/* ---- Set-up and end -------------------------------------------------------------------------- */

imf_status http_server_create(struct http_server **out, uv_loop_t *loop,
                              const struct http_limits *limits, const struct http_app *app,
                              struct imf_error *err)
{
    struct http_server *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    s->loop = loop;
    s->limits = *limits;
    s->app = *app;
    MHD_set_panic_func(on_panic, NULL);
    uv_timer_init(loop, &s->sweep);
    uv_prepare_init(loop, &s->prepare);
    s->sweep.data = s->prepare.data = s;
    s->open_handles = 2;
    uv_timer_start(&s->sweep, on_sweep, HTTP_SWEEP_MS, HTTP_SWEEP_MS);
    uv_prepare_start(&s->prepare, on_prepare);
    *out = s;
    return IMF_OK;
}

static struct MHD_Daemon *start_daemon(struct http_listener *l, int fd)
{
    struct http_server *s = l->server;
    return MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        http__on_access, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, s, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_LIMIT,
        s->limits.max_connections, MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_STRICT_FOR_CLIENT,
        1, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_URI_LOG_CALLBACK, http__on_uri, l,
        MHD_OPTION_NOTIFY_COMPLETED, http__on_completed, s, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, l, MHD_OPTION_END);
}

imf_status http_server_listen(struct http_server *s, const char *address, int tag, char *bound,
                              size_t bound_size, struct imf_error *err)
{
    if (s->n_listeners == HTTP_MAX_LISTENERS)
        return imf__fail(err, IMF_EINVAL, "too many addresses to listen on");
    struct http_listener *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    l->server = s;
    l->tag = tag;
    int fd = http_listen_socket(address, l->unix_path, bound, bound_size, err);
    if (fd < 0) {
        free(l);
        return IMF_EINVAL;
    }
    l->daemon = start_daemon(l, fd);
    if (l->daemon == NULL) {
        close(fd);
        free(l);
        return imf__fail(err, IMF_EIO, "libmicrohttpd could not start");
    }
    int epoll_fd = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    l->poll.data = l->timer.data = l;
    if (uv_poll_init(s->loop, &l->poll, epoll_fd) != 0) {
        MHD_stop_daemon(l->daemon);
        free(l);
        return imf__fail(err, IMF_EIO, "the event loop does not take libmicrohttpd's descriptor");
    }
    uv_timer_init(s->loop, &l->timer);
    s->open_handles += 2;
    uv_poll_start(&l->poll, UV_READABLE, on_epoll);
    s->listeners[s->n_listeners++] = l;
    return IMF_OK;
}

void http_server_quiesce(struct http_server *s)
{
    if (s->draining)
        return;
    for (int i = 0; i < s->n_listeners; i++) {
        struct http_listener *l = s->listeners[i];
        run_listener(l); /* whoever connected before now is served */
        MHD_socket fd = MHD_quiesce_daemon(l->daemon);
        if (fd != MHD_INVALID_SOCKET)
            close(fd);
        if (l->unix_path[0] != '\0')
            unlink(l->unix_path);
        l->unix_path[0] = '\0';
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
    if (s == NULL)
        return;
    http_server_quiesce(s);
    s->stopping = true;
    /* libmicrohttpd panics when it is stopped while a connection is suspended. */
    for (struct http_conn *c = s->conns; c != NULL; c = c->next) {
        if (c->request != NULL)
            http__cut_waiting(c->request);
    }
    for (int i = 0; i < s->n_listeners; i++) {
        struct http_listener *l = s->listeners[i];
        run_listener(l);
        uv_poll_stop(&l->poll);
        uv_close((uv_handle_t *)&l->poll, on_listener_closed);
        uv_close((uv_handle_t *)&l->timer, on_listener_closed);
    }
    uv_close((uv_handle_t *)&s->sweep, on_closed);
    uv_close((uv_handle_t *)&s->prepare, on_closed);
    while (s->open_handles > 0)
        uv_run(s->loop, UV_RUN_ONCE);
    for (int i = 0; i < s->n_listeners; i++) {
        MHD_stop_daemon(s->listeners[i]->daemon);
        free(s->listeners[i]);
    }
    while (s->open_handles > 0) /* watches of connections that ended just now */
        uv_run(s->loop, UV_RUN_ONCE);
    assert(s->active == 0);
    http__free_pools(s);
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
