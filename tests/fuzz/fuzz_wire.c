/* HTTP as clients send it, to the real server in this process: settings, API, scheduler and a fake
 * engine, on one loop. Each input is one connection. Its first byte says how it behaves, its second
 * in what pieces it sends; the rest goes over the socket. Whatever it was, the loop must come to
 * rest, nothing of the connection may be left when the client has gone, what came back must be
 * replies, and the server must still answer. */
#include "api/api.h"
#include "http/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    PIECES = 1,   /* sends in pieces of the second byte's size */
    READS = 2,    /* reads replies as they come */
    WAITS = 4,    /* waits until nothing of it is under way */
    HALF = 8,     /* shuts down its sending side first */
    METRICS = 16, /* at the listener for metrics */
    MOST_TURNS = 100000
};

static struct {
    uv_loop_t loop;
    struct settings settings;
    struct log *log;
    struct api *api;
    struct scheduler *scheduler;
    struct http_server *http;
    struct http_listener listeners[2];
    bool ready;
} server;

static void check(bool condition, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "fuzz_wire: %s\n", what);
    abort();
}

static void on_model(void *user, struct scheduler *s, int model)
{
    (void)user;
    api_on_model(server.api, s, model);
    server.ready = sched_ready(s);
}

static void start_scheduler(struct imf_error *err)
{
    struct sched_options o;
    struct imf_engine_params engine;
    struct imf_model_params model;
    int device = 0;
    sched_options_init(&o);
    o.describe = api_describe;
    o.describe_user = server.api;
    o.on_model = on_model;
    check(sched_create(&server.scheduler, &server.loop, &o, err) == IMF_OK, err->message);
    api_set_scheduler(server.api, server.scheduler);
    imf_engine_params_init(&engine);
    engine.device = "fake";
    check(sched_add_device(server.scheduler, &engine, err) == 0, err->message);
    imf_model_params_init(&model);
    model.checkpoint = "fake";
    model.decoder = "none";
    check(sched_add_model(server.scheduler, "fake", &model, &device, 1, err) == 0, err->message);
    check(sched_start(server.scheduler, err) == IMF_OK, err->message);
    while (!server.ready)
        uv_run(&server.loop, UV_RUN_ONCE);
}

static void start(void)
{
    struct imf_error err = {0};
    enum settings_action action;
    char *arguments[] = {(char *)"serve",
                         (char *)"--device",
                         (char *)"fake",
                         (char *)"--max-body",
                         (char *)"4096",
                         (char *)"--cors-origins",
                         (char *)"https://a.example",
                         (char *)"--trusted-proxies",
                         (char *)"unix",
                         (char *)"--log-file",
                         (char *)"/dev/null",
                         NULL};
    char *environment[] = {NULL};
    check(uv_loop_init(&server.loop) == 0, "no loop");
    check(settings_load(&server.settings, &action, 11, arguments, environment, &err) == IMF_OK,
          err.message);
    check(settings_add_model(&server.settings, "fake", "fake", "none") == IMF_OK, "out of memory");
    check(log_create(&server.log, server.settings.log_file, true, LOG_INFO, &err) == IMF_OK,
          err.message);
    check(api_create(&server.api, &server.loop, &server.settings, server.log, NULL, &err) == IMF_OK,
          err.message);
    start_scheduler(&err);
    const struct http_app app = api_http_app(server.api);
    const struct http_limits limits = {.max_body = 4096,
                                       .max_connections = 64,
                                       .header_timeout_ms = 60000,
                                       .body_timeout_ms = 60000,
                                       .send_timeout_ms = 60000,
                                       .idle_timeout_ms = 60000};
    check(http_server_create(&server.http, &server.loop, &limits, &app, &err) == IMF_OK,
          err.message);
    api_set_http(server.api, server.http);
    for (int i = 0; i < 2; i++)
        server.listeners[i] = (struct http_listener){.server = server.http, .tag = i};
}

/* ---- The client ------------------------------------------------------------------------------ */

static char got[1 << 20];
static size_t n_got;

static void turn(int fd, bool reads)
{
    uv_run(&server.loop, UV_RUN_NOWAIT);
    while (reads && n_got < sizeof(got)) {
        ssize_t n = recv(fd, got + n_got, sizeof(got) - n_got, MSG_DONTWAIT);
        if (n <= 0)
            return;
        n_got += (size_t)n;
    }
    log_flush(server.log);
}

/* Sends all of it unless the server stops reading. */
static void send_all(int fd, const uint8_t *data, size_t size, size_t piece, bool reads)
{
    int stuck = 0;
    while (size > 0 && stuck < 100) {
        ssize_t n = send(fd, data, piece < size ? piece : size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
            stuck++;
        data += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
        turn(fd, reads);
    }
}

static int connect_client(int tag)
{
    static const unsigned char address[16];
    int pair[2];
    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0, "sockets");
    check(http__open(&server.listeners[tag], pair[1], "unix", address), "out of memory");
    return pair[0];
}

static void close_client(int fd)
{
    close(fd);
    for (int i = 0; server.http->n_conns > 0; i++) {
        check(i < MOST_TURNS, "a connection is left after its client has gone");
        uv_run(&server.loop, UV_RUN_NOWAIT);
    }
    check(http_server_active(server.http) == 0, "a request is left");
    check(server.http->n_ready == 0, "the queue is not empty");
}

static void still_answers(void)
{
    static const char ask[] = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    int fd = connect_client(0);
    n_got = 0;
    send_all(fd, (const uint8_t *)ask, sizeof(ask) - 1, sizeof(ask), true);
    for (int i = 0; i < 100 && n_got == 0; i++)
        turn(fd, true);
    check(n_got > 12 && memcmp(got, "HTTP/1.1 200", 12) == 0, "the server does not answer");
    close_client(fd);
}

static bool waiting(void)
{
    const struct http_conn *c = server.http->first;
    return c && (c->phase == PHASE_WAITING || c->phase == PHASE_SENDING) && n_got < sizeof(got);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint64_t runs;
    if (!server.http)
        start();
    if (size < 2)
        return 0;
    int flags = data[0];
    bool reads = flags & READS;
    int fd = connect_client(flags & METRICS ? 1 : 0);
    n_got = 0;
    send_all(fd, data + 2, size - 2, flags & PIECES ? data[1] + (size_t)1 : size, reads);
    if (flags & HALF)
        shutdown(fd, SHUT_WR);
    for (int i = 0; i < 4; i++)
        turn(fd, reads);
    for (int i = 0; i < 200 && flags & WAITS && waiting(); i++) {
        usleep(20); /* pictures are made by other threads */
        turn(fd, true);
    }
    if (reads && n_got > 0)
        check(n_got >= 9 && memcmp(got, "HTTP/1.1 ", 9) == 0, "what came back is no reply");
    close_client(fd);
    if (++runs % 256 == 0)
        still_answers();
    return 0;
}
