/* HTTP as clients send it, to the real server in this process: settings, API, scheduler and a fake
 * engine, on one loop. An input is one to eight connections, open together, with BETWEEN between
 * them. The first byte of each says how it behaves, its second in what pieces it sends; the rest
 * goes over its socket. Whatever it was, the loop must come to rest, nothing of the connections may
 * be left when the clients have gone, what came back must be replies, and the server must still
 * answer. At exit it says how many connections there were. */
#include "api/api.h"
#include "http/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size,
                                 uint8_t *out, size_t max, unsigned seed);

#define BETWEEN "\xff\xfe"

enum {
    PIECES = 1,   /* sends in pieces of the second byte's size */
    READS = 2,    /* reads replies as they come */
    WAITS = 4,    /* waits until nothing of it is under way */
    HALF = 8,     /* shuts down its sending side first */
    METRICS = 16, /* at the listener for metrics */
    NARROW = 32,  /* its socket takes little at a time */
    MOST_CLIENTS = 8,
    MOST_PIECES = 8, /* of one connection: then they grow */
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
    engine.device = "fake:size=16";
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
    char *arguments[] = {(char *)"serve",
                         (char *)"--device",
                         (char *)"fake:size=16",
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
    check(settings_load(&server.settings, 11, arguments, environment) == SETTINGS_RUN, "settings");
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

/* ---- The clients ----------------------------------------------------------------------------- */

struct client {
    const uint8_t *data; /* to be sent */
    size_t left, piece, got;
    int fd, server_fd, flags, stuck;
    char first[12]; /* of what came back */
};

static uint64_t n_clients; /* of all runs */

static void at_exit(void)
{
    fprintf(stderr, "fuzz_wire: %llu connections\n", (unsigned long long)n_clients);
}

static void connect_client(struct client *c, const uint8_t *data, size_t size)
{
    static const unsigned char address[16];
    int pair[2], narrow = 1;
    *c = (struct client){.data = data + 2, .left = size - 2, .flags = data[0]};
    c->piece = c->flags & PIECES ? data[1] + (size_t)1 : size;
    if (c->piece < size / MOST_PIECES)
        c->piece = size / MOST_PIECES;
    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0, "sockets");
    if (c->flags & NARROW)
        setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &narrow, sizeof(narrow));
    check(http__prepare(server.http) &&
              http__open(&server.listeners[c->flags & METRICS ? 1 : 0], pair[1], "unix", address),
          "out of memory");
    c->fd = pair[0];
    c->server_fd = pair[1];
    n_clients++;
}

static void receive(struct client *c)
{
    static char got[1 << 16];
    ssize_t n = recv(c->fd, got, sizeof(got), MSG_DONTWAIT);
    for (ssize_t i = 0; i < n && c->got + (size_t)i < sizeof(c->first); i++)
        c->first[c->got + (size_t)i] = got[i];
    c->got += n > 0 ? (size_t)n : 0;
}

/* A piece, unless the server has stopped reading. True while there is more. */
static bool send_piece(struct client *c)
{
    if (c->left == 0)
        return false;
    ssize_t n =
        send(c->fd, c->data, c->piece < c->left ? c->piece : c->left, MSG_DONTWAIT | MSG_NOSIGNAL);
    c->data += n > 0 ? n : 0;
    c->left -= n > 0 ? (size_t)n : 0;
    if (n < 0 && ++c->stuck == 20)
        c->left = 0;
    if (c->left == 0 && c->flags & HALF)
        shutdown(c->fd, SHUT_WR);
    return c->left > 0;
}

/* A turn of the loop, and those that read do. */
static void turn(struct client *clients, int n, int reads)
{
    uv_run(&server.loop, UV_RUN_NOWAIT);
    for (int i = 0; i < n; i++)
        if (clients[i].flags & reads)
            receive(&clients[i]);
}

/* Whether the server is at a request of a client that waits for it. */
static bool waiting(const struct client *clients, int n)
{
    for (const struct http_conn *c = server.http->first; c; c = c->next)
        for (int i = 0; i < n; i++)
            if (c->fd == clients[i].server_fd && clients[i].flags & WAITS &&
                (c->phase == PHASE_WAITING || c->phase == PHASE_SENDING))
                return true;
    return false;
}

static void talk(struct client *clients, int n)
{
    bool more = true;
    for (int turns = 0; more; turns++) {
        more = false;
        for (int i = 0; i < n; i++)
            more |= send_piece(&clients[i]);
        turn(clients, n, turns % 4 == 0 ? READS : 0);
    }
    for (int i = 0; i < 4; i++)
        turn(clients, n, i % 2 == 0 ? 0 : READS);
    for (int i = 0; i < 12 && waiting(clients, n); i++) {
        uv_run(&server.loop, UV_RUN_ONCE); /* pictures are made by other threads */
        turn(clients, n, READS | WAITS);
    }
    log_flush(server.log);
}

static void leave(struct client *clients, int n)
{
    for (int i = 0; i < n; i++) {
        if (clients[i].flags & READS && clients[i].got > 0)
            check(clients[i].got >= 9 && memcmp(clients[i].first, "HTTP/1.1 ", 9) == 0,
                  "what came back is no reply");
        close(clients[i].fd);
    }
    for (int i = 0; server.http->n_conns > 0; i++) {
        check(i < MOST_TURNS, "a connection is left after its client has gone");
        uv_run(&server.loop, UV_RUN_NOWAIT);
    }
    check(http_server_active(server.http) == 0, "a request is left");
    check(server.http->n_ready == 0, "the queue is not empty");
}

static void still_answers(void)
{
    static const char ask[] = "\2 GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    struct client client;
    connect_client(&client, (const uint8_t *)ask, sizeof(ask) - 1);
    talk(&client, 1);
    for (int i = 0; i < 100 && client.got == 0; i++)
        turn(&client, 1, READS);
    check(client.got > 12 && memcmp(client.first, "HTTP/1.1 200", 12) == 0,
          "the server does not answer");
    leave(&client, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint64_t runs;
    struct client clients[MOST_CLIENTS];
    int n = 0;
    if (!server.http) {
        start();
        atexit(at_exit);
    }
    for (const uint8_t *end = data + size; n < MOST_CLIENTS && end - data >= 2;) {
        const uint8_t *stop = memmem(data, (size_t)(end - data), BETWEEN, 2);
        size_t length = (size_t)((stop ? stop : end) - data);
        if (length >= 2)
            connect_client(&clients[n++], data, length);
        data = stop ? stop + 2 : end;
    }
    talk(clients, n);
    leave(clients, n);
    if (++runs % 256 == 0)
        still_answers();
    return 0;
}

/* The clients of both inputs, together. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size,
                                 uint8_t *out, size_t max, unsigned seed)
{
    (void)seed;
    if (a_size + 2 + b_size > max)
        return 0;
    memcpy(out, a, a_size);
    memcpy(out + a_size, BETWEEN, 2);
    memcpy(out + a_size + 2, b, b_size);
    return a_size + 2 + b_size;
}
