/* The yardstick for the server's own cost: a libmicrohttpd daemon in a libuv loop that answers
 * every request with the same few bytes, or the bytes of a file, and does nothing else. usage:
 * trivial_server PORT [FILE] */
#include <microhttpd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

static struct MHD_Daemon *server;
static uv_poll_t poll_handle;
static uv_timer_t timer;
static bool rerun;
static char *content;
static size_t content_size;

static enum MHD_Result answer(void *cls, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *data,
                              size_t *data_size, void **state)
{
    (void)cls, (void)url, (void)method, (void)version, (void)data, (void)data_size;
    if (!*state) { /* the header; the request is complete at the next call */
        *state = &server;
        return MHD_YES;
    }
    struct MHD_Response *r =
        MHD_create_response_from_buffer(content_size, content, MHD_RESPMEM_PERSISTENT);
    enum MHD_Result result = MHD_queue_response(connection, MHD_HTTP_OK, r);
    MHD_destroy_response(r);
    return result;
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    (void)cls, (void)connection, (void)context;
    rerun = rerun || what == MHD_CONNECTION_NOTIFY_CLOSED;
}

static void run(void);

static void on_timer(uv_timer_t *handle)
{
    (void)handle;
    run();
}

static void run(void)
{
    do {
        rerun = false;
        MHD_run(server);
    } while (rerun);
    MHD_UNSIGNED_LONG_LONG ms;
    if (MHD_get_timeout(server, &ms) == MHD_YES)
        uv_timer_start(&timer, on_timer, ms, 0);
    else
        uv_timer_stop(&timer);
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
    (void)handle, (void)status, (void)events;
    run();
}

static bool read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return false;
    content = malloc(1 << 24);
    content_size = content ? fread(content, 1, 1 << 24, f) : 0;
    fclose(f);
    return content_size > 0;
}

int main(int argc, char **argv)
{
    static char text[] = "hello, world\n";
    if (argc < 2)
        return 2;
    content = text;
    content_size = sizeof(text) - 1;
    if (argc > 2 && !read_file(argv[2]))
        return 1;
    signal(SIGPIPE, SIG_IGN);
    server = MHD_start_daemon(MHD_USE_EPOLL, (uint16_t)atoi(argv[1]), NULL, NULL, answer, NULL,
                              MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)32768,
                              MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_NOTIFY_CONNECTION,
                              on_connection, NULL, MHD_OPTION_END);
    if (!server)
        return 1;
    uv_loop_t *loop = uv_default_loop();
    uv_timer_init(loop, &timer);
    uv_poll_init(loop, &poll_handle,
                 MHD_get_daemon_info(server, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd);
    uv_poll_start(&poll_handle, UV_READABLE, on_poll);
    return uv_run(loop, UV_RUN_DEFAULT);
}
