/* Heads of replies, written by libmicrohttpd: status line, Date, length. Our own lines follow.
 *
 * Unusual: it is driven as a function. One socketpair leads to it; a request line of our own making
 * goes in, its daemon runs until the head has come out. It is always asked with HEAD, as bodies go
 * to clients straight from the memory that holds them, and it never sees a byte that a client sent:
 * its parsers have faults that clients could use (docs/http.md). Nothing of it is left to do when
 * this function returns, so it has no part in the loop, no timers, and nothing to be unfair with.
 */
#include "http/internal.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_RUNS = 8, /* of the daemon for one head; it takes one or two */
    WRITTEN = 64
};

/* What it wrote is the same for the same status and size within a second: most heads of a busy
 * server are written once and copied. */
struct written {
    int status;
    uint64_t size; /* UINT64_MAX: without a length */
    time_t second;
    size_t length; /* of text; 0: empty */
    char text[240];
};

struct http_writer {
    struct MHD_Daemon *daemon;
    int fd; /* our end of the connection to it, or -1 */
    const struct http_request *request;
    struct written written[WRITTEN];
};

static ssize_t no_body(void *cls, uint64_t at, char *out, size_t max)
{
    (void)cls;
    (void)at;
    (void)out;
    (void)max;
    return MHD_CONTENT_READER_END_WITH_ERROR; /* never asked: the request is a HEAD */
}

static bool has_length(const struct http_request *r)
{
    return r->status != 204 && r->status != 304 && r->size != UINT64_MAX;
}

static enum MHD_Result on_access(void *cls, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version, const char *upload,
                                 size_t *upload_size, void **state)
{
    struct http_writer *w = cls;
    (void)url;
    (void)method;
    (void)version;
    (void)upload;
    (void)upload_size;
    if (!*state) { /* its first call is for the head alone */
        *state = w;
        return MHD_YES;
    }
    /* A size unknown would add a last chunk even to HEAD. */
    uint64_t size = has_length(w->request) ? w->request->size : 0;
    struct MHD_Response *response = MHD_create_response_from_callback(size, 1, no_body, NULL, NULL);
    if (!response)
        return MHD_NO;
    enum MHD_Result result = MHD_queue_response(connection, (unsigned)w->request->status, response);
    MHD_destroy_response(response);
    return result;
}

static void on_log(void *cls, const char *format, va_list args)
{
    (void)cls;
    (void)format;
    (void)args; /* a failure shows in what comes back */
}

/* libmicrohttpd found itself inconsistent; nothing can be saved. */
static void on_panic(void *cls, const char *file, unsigned int line, const char *reason)
{
    (void)cls;
    fprintf(stderr, "imfd: libmicrohttpd: %s:%u: %s\n", file, line, reason ? reason : "");
    abort();
}

static void disconnect(struct http_writer *w)
{
    if (w->fd < 0)
        return;
    close(w->fd);
    w->fd = -1;
    for (int i = 0; i < MAX_RUNS; i++)
        MHD_run(w->daemon);
}

void http__writer_destroy(struct http_writer *w)
{
    if (!w)
        return;
    disconnect(w);
    MHD_stop_daemon(w->daemon);
    free(w);
}

static bool connect_pair(struct http_writer *w)
{
    int pair[2];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0)
        return false;
    w->fd = pair[0];
    if (MHD_add_connection(w->daemon, pair[1], (const struct sockaddr *)&address,
                           sizeof(address.sun_family)) != MHD_YES) {
        disconnect(w); /* the other end was closed by the library */
        return false;
    }
    return true;
}

struct http_writer *http__writer_create(void)
{
    struct http_writer *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    w->fd = -1;
    MHD_set_panic_func(on_panic, NULL);
    w->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG, 0,
                                 NULL, NULL, on_access, w, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
                                 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)2 * HTTP_HEAD_OUT,
                                 MHD_OPTION_CONNECTION_LIMIT, 2u, MHD_OPTION_END);
    if (!w->daemon) {
        free(w);
        return NULL;
    }
    if (!connect_pair(w)) { /* now: clients may have taken all descriptors by the first reply */
        http__writer_destroy(w);
        return NULL;
    }
    return w;
}

static size_t ask(struct http_writer *w, char *out, size_t room)
{
    static const char request[] = "HEAD / HTTP/1.1\r\nHost: imfd\r\n\r\n";
    size_t size = 0;
    if (w->fd < 0 && !connect_pair(w))
        return 0;
    if (send(w->fd, request, sizeof(request) - 1, MSG_DONTWAIT | MSG_NOSIGNAL) !=
        (ssize_t)sizeof(request) - 1)
        return 0;
    for (int i = 0; i < MAX_RUNS; i++) {
        MHD_run(w->daemon);
        ssize_t n = recv(w->fd, out + size, room - size, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return 0;
        size += n > 0 ? (size_t)n : 0;
        if (size >= 4 && memcmp(out + size - 4, "\r\n\r\n", 4) == 0)
            return size;
    }
    return 0;
}

/* Adds a line; 0 when it does not fit. */
static size_t add(char *out, size_t size, size_t room, const char *name, const char *value)
{
    size_t name_size = strlen(name), value_size = strlen(value);
    if (size == 0 || name_size + value_size + 4 > room - size)
        return 0;
    char *at = mempcpy(out + size, name, name_size);
    at = mempcpy(at, ": ", 2);
    at = mempcpy(at, value, value_size);
    memcpy(at, "\r\n", 2);
    return size + name_size + value_size + 4;
}

/* Status line, Date and length, without the blank line; 0 on failure. */
static size_t first_lines(struct http_writer *w, const struct http_request *r, char *out,
                          size_t room)
{
    static const char zero[] = "Content-Length: 0\r\n"; /* the library's, where it knows none */
    const size_t zero_size = sizeof(zero) - 1;
    uint64_t announced = has_length(r) ? r->size : UINT64_MAX;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    struct written *kept = &w->written[(announced * 31 + (uint64_t)r->status) % WRITTEN];
    if (kept->length > 0 && kept->status == r->status && kept->size == announced &&
        kept->second == now.tv_sec) {
        memcpy(out, kept->text, kept->length);
        return kept->length;
    }
    w->request = r;
    size_t size = ask(w, out, room);
    w->request = NULL;
    if (size == 0) {
        disconnect(w);
        (void)connect_pair(w); /* afresh, before anybody takes its descriptors */
        return 0;
    }
    size -= 2;
    if (!has_length(r) && size > zero_size && memcmp(out + size - zero_size, zero, zero_size) == 0)
        size -= zero_size;
    if (size <= sizeof(kept->text)) {
        *kept = (struct written){r->status, announced, now.tv_sec, size, ""};
        memcpy(kept->text, out, size);
    }
    return size;
}

size_t http__write_head(struct http_writer *w, const struct http_request *r, char *out, size_t room)
{
    size_t size = first_lines(w, r, out, room);
    if (size == 0)
        return 0;
    for (int i = 0; i < r->n_reply_headers; i++)
        size = add(out, size, room, r->reply_headers[i].name, r->reply_headers[i].value);
    if (r->chunked)
        size = add(out, size, room, "Transfer-Encoding", "chunked");
    if (r->close_after || r->http10)
        size = add(out, size, room, "Connection", r->close_after ? "close" : "keep-alive");
    if (size == 0 || room - size < 2)
        return 0;
    memcpy(out + size, "\r\n", 2);
    return size + 2;
}
