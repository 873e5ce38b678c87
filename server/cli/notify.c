/* sd_notify(3) without libsystemd: a datagram to the socket that NOTIFY_SOCKET names. */
#include "cli/notify.h"

#include <stdlib.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void on_watchdog(uv_timer_t *timer)
{
    struct notify *n = timer->data;
    if (!n->quiet)
        notify_send(n, "WATCHDOG=1");
}

/* Milliseconds between heartbeats: a third of what the manager waits for; 0: none is asked for. */
static uint64_t heartbeat_ms(void)
{
    const char *text = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    if (!text || (pid && strtol(pid, NULL, 10) != (long)getpid()))
        return 0;
    unsigned long long us = strtoull(text, NULL, 10);
    if (us == 0)
        return 0;
    return us / 3000 > 0 ? us / 3000 : 1;
}

void notify_open(struct notify *n, uv_loop_t *loop)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t length = path ? strlen(path) : 0;
    uint64_t every_ms = heartbeat_ms();
    uv_timer_init(loop, &n->watchdog);
    n->watchdog.data = n;
    if (length > 1 && length < sizeof(a.sun_path) && (path[0] == '/' || path[0] == '@')) {
        memcpy(a.sun_path, path, length + 1);
        if (path[0] == '@')
            a.sun_path[0] = '\0'; /* the abstract namespace, where the length counts */
        n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        n->open = n->fd >= 0 &&
                  connect(n->fd, (const struct sockaddr *)&a,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)) == 0;
        if (n->fd >= 0 && !n->open)
            close(n->fd);
    }
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    if (n->open && every_ms > 0)
        uv_timer_start(&n->watchdog, on_watchdog, 0, every_ms);
}

void notify_send(struct notify *n, const char *state)
{
    if (n->open)
        (void)send(n->fd, state, strlen(state), MSG_NOSIGNAL);
}

void notify_close(struct notify *n)
{
    uv_close((uv_handle_t *)&n->watchdog, NULL);
    if (n->open)
        close(n->fd);
    n->open = false;
}
