/* Who gets a connection. At the limit the connection that has been idle longest makes room; when
 * all are busy, newcomers wait in the kernel. An address (an IPv6 /64: one subscriber has that
 * many) has a limit of its own, so that no single client fills all places. */
#include "http/internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char refusal[] =
    "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n"
    "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nRetry-After: 1\r\n"
    "Content-Length: 144\r\nConnection: close\r\n\r\n"
    "{\"error\":{\"message\":\"this address has too many connections\","
    "\"type\":\"rate_limit_error\",\"param\":null,"
    "\"code\":\"too_many_connections_from_address\"}}\n";

/* The peer in text, and what its connections are counted under. */
static void describe(const struct sockaddr *a, char peer[INET6_ADDRSTRLEN],
                     unsigned char address[16])
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
    strcpy(peer, "unix");
    memset(address, 0, 16);
    if (a->sa_family == AF_INET) {
        const struct in_addr *v4 = &((const struct sockaddr_in *)a)->sin_addr;
        memcpy(address, mapped, 12);
        memcpy(address + 12, v4, 4);
        inet_ntop(AF_INET, v4, peer, INET6_ADDRSTRLEN);
    } else if (a->sa_family == AF_INET6) {
        const struct in6_addr *v6 = &((const struct sockaddr_in6 *)a)->sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(v6)) { /* an IPv4 client of a dual-stack socket */
            memcpy(address, v6, 16);
            inet_ntop(AF_INET, &v6->s6_addr[12], peer, INET6_ADDRSTRLEN);
        } else {
            memcpy(address, v6, 8);
            address[15] = 1; /* "::" is not the unix socket */
            inet_ntop(AF_INET6, v6, peer, INET6_ADDRSTRLEN);
        }
    }
}

/* Part of a body is there, and the rest has not come for a while. */
static bool owes_body(const struct http_conn *c)
{
    const struct http_server *s = c->server;
    return c->phase == PHASE_BODY && !c->ready && c->deadline != 0 &&
           uv_now(s->loop) + s->limits.body_timeout_ms >= c->deadline + HTTP_BODY_PATIENCE_MS;
}

/* The connection, of this address or of any (NULL), that has waited longest for a request or for the
 * rest of one. One that was used often goes only when there is no other: many connections opened at
 * once do not push out those that work. What lingers has had its reply. */
static struct http_conn *idle_longest(struct http_server *s, const unsigned char *address)
{
    struct http_conn *regular = NULL;
    for (struct http_conn *c = s->first; c; c = c->next) {
        bool idle = (c->phase == PHASE_HEAD && !c->ready) || c->phase == PHASE_LINGER;
        if ((!idle && !owes_body(c)) || (address && memcmp(c->address, address, 16) != 0))
            continue;
        if (c->served < HTTP_REGULAR)
            return c;
        if (!regular)
            regular = c;
    }
    return regular;
}

static bool evict(struct http_server *s, const unsigned char *address)
{
    struct http_conn *c = idle_longest(s, address);
    if (!c)
        return false;
    s->counts.evicted++;
    http__close(c, HTTP_SHED);
    return true;
}

static unsigned count(const struct http_server *s, const unsigned char *address)
{
    unsigned n = 0;
    for (const struct http_conn *c = s->first; c; c = c->next)
        n += memcmp(c->address, address, 16) == 0;
    return n;
}

static bool address_has_room(struct http_server *s, const char *peer,
                             const unsigned char address[16])
{
    static const unsigned char unix_socket[16];
    /* Counting starts when there could be that many. */
    if (s->limits.max_per_address == 0 || s->n_conns < s->limits.max_per_address ||
        memcmp(address, unix_socket, 16) == 0 || s->app.is_proxy(s->app.user, peer))
        return true;
    return count(s, address) < s->limits.max_per_address || evict(s, address);
}

static void pause_accepting(struct http_server *s)
{
    s->paused = true;
    for (int i = 0; i < s->n_listeners; i++)
        uv_poll_stop(&s->listeners[i]->poll);
}

void http__resume_accepting(struct http_server *s)
{
    if (!s->paused || s->draining)
        return;
    if (s->n_conns >= s->limits.max_connections && !idle_longest(s, NULL))
        return;
    s->paused = false;
    for (int i = 0; i < s->n_listeners; i++)
        uv_poll_start(&s->listeners[i]->poll, UV_READABLE, http__on_listen);
}

void http__on_listen(uv_poll_t *poll, int status, int events)
{
    struct http_listener *l = poll->data;
    struct http_server *s = l->server;
    (void)status;
    (void)events;
    for (int i = 0; i < HTTP_TURN_ACCEPTS; i++) {
        bool full = s->n_conns >= s->limits.max_connections;
        if (full && !idle_longest(s, NULL)) {
            pause_accepting(s);
            return;
        }
        if (!http__prepare(s)) { /* newcomers wait: the next sweep tries again */
            pause_accepting(s);
            return;
        }
        struct sockaddr_storage from = {0};
        socklen_t length = sizeof(from);
        int fd = accept4(l->fd, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
            (void)evict(s, NULL);
            pause_accepting(s); /* the next sweep tries again */
            return;
        }
        if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (fd < 0)
            continue; /* that client has gone already */
        char peer[INET6_ADDRSTRLEN];
        unsigned char address[16];
        describe((const struct sockaddr *)&from, peer, address);
        s->counts.accepted++;
        if (full)
            (void)evict(s, NULL);
        if (!address_has_room(s, peer, address)) {
            s->counts.refused++;
            (void)!send(fd, refusal, sizeof(refusal) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
            close(fd);
        } else if (!http__open(l, fd, peer, address)) {
            pause_accepting(s);
            return;
        }
    }
}
