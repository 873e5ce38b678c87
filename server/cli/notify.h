/* Talking to the service manager (systemd): readiness, stopping, watchdog. Without systemd, that is
 * without NOTIFY_SOCKET in the environment, every call does nothing.
 *
 * Threads: the loop's only. */
#ifndef IMFD_NOTIFY_H
#define IMFD_NOTIFY_H

#include <stdbool.h>
#include <uv.h>

/* Zeroed, it is one that does nothing. */
struct notify {
    uv_timer_t watchdog;
    int fd; /* connected to the manager's socket; valid when open */
    bool open;
    bool quiet; /* no heartbeat: what is to be watched is not well */
};

/* Connects, and starts the watchdog's heartbeat on the loop where the manager asks for one. The
 * variables are removed from the environment: they are for this process, not for its children. */
void notify_open(struct notify *n, uv_loop_t *loop);

/* One state, as in sd_notify(3): "READY=1", "STOPPING=1", "STATUS=...". Never blocks. */
void notify_send(struct notify *n, const char *state);

/* Closes the timer's handle: the loop has to run once more before it is closed. */
void notify_close(struct notify *n);

#endif
