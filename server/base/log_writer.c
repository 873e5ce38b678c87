/* The thread that writes the log, and the buffers between it and those who log. */
#include "base/log_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Lines waiting beyond MAX_PENDING are lost; the thread is woken at WAKE_AT at the latest. */
enum { MAX_PENDING = 1 << 20, WAKE_AT = 1 << 15, STACK_BYTES = 256 << 10, LAST_WAIT_MS = 1000 };

struct log_writer {
    char *path; /* "" for stderr */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work, idle;
    /* Under the lock: */
    struct buffer pending;
    size_t line_at; /* of pending: where the line under way began */
    size_t for_old; /* of pending: bytes that go to the old file */
    int next_fd;    /* replaces fd; -1: none */
    bool wanted, writing, stop;
    uint64_t lost, told;
    bool failing;
    char why[128];
    /* The thread's: */
    int fd;
    bool torn; /* the last line written lacks its end */
    struct buffer chunk;
};

static int open_file(const char *path)
{
    /* A pipe without a reader is an error here, and not a wait without end. */
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0640);
    int flags = fd >= 0 ? fcntl(fd, F_GETFL) : -1;
    if (flags >= 0)
        (void)fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
    return fd;
}

static imf_status fail(struct imf_error *err, const char *path, int error)
{
    if (err) {
        err->status = error == ENOMEM ? IMF_ENOMEM : IMF_EIO;
        snprintf(err->message, sizeof(err->message), "log_file %.300s: %s", path,
                 error == ENXIO ? "nobody reads this pipe" : strerror(error));
    }
    return error == ENOMEM ? IMF_ENOMEM : IMF_EIO;
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* Returns how many of the bytes were written; errno says why not all. */
static size_t write_all(int fd, const char *data, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = write(fd, data + done, size - done);
        if (n > 0) {
            done += (size_t)n;
        } else if (n < 0 && errno == EAGAIN) { /* somebody made our stderr so */
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            (void)poll(&p, 1, -1);
        } else if (n == 0 || errno != EINTR) {
            break;
        }
    }
    return done;
}

static uint64_t count_lines(const char *data, size_t size)
{
    uint64_t lines = 0;
    for (size_t i = 0; i < size; i++)
        lines += data[i] == '\n';
    return lines;
}

/* Returns the lines lost; *error why. */
static uint64_t write_lines(struct log_writer *w, const char *data, size_t size, int *error)
{
    if (size == 0)
        return 0;
    errno = 0;
    /* What remains of a line cut off by a full disk must not run into the next one. */
    if (w->torn && write_all(w->fd, "\n", 1) == 1)
        w->torn = false;
    size_t done = w->torn ? 0 : write_all(w->fd, data, size);
    if (done > 0)
        w->torn = data[done - 1] != '\n';
    if (done == size)
        return 0;
    *error = errno;
    return count_lines(data + done, size - done);
}

static void switch_file(struct log_writer *w, int fd)
{
    if (fd < 0)
        return;
    if (w->fd != STDERR_FILENO)
        close(w->fd);
    w->fd = fd;
    w->torn = false;
}

/* Under the lock, which is given up while writing. */
static void write_pending(struct log_writer *w)
{
    struct buffer taken = w->pending;
    size_t for_old = w->for_old;
    int fd = w->next_fd, error = 0;
    w->pending = w->chunk;
    w->chunk = taken;
    w->for_old = 0;
    w->next_fd = -1;
    w->wanted = false;
    w->writing = true;
    pthread_mutex_unlock(&w->lock);
    uint64_t lost = write_lines(w, taken.data, for_old, &error);
    switch_file(w, fd);
    lost += write_lines(w, taken.data + for_old, taken.size - for_old, &error);
    pthread_mutex_lock(&w->lock);
    w->writing = false;
    w->chunk.size = 0;
    w->lost += lost;
    w->failing = error != 0;
    if (error != 0)
        snprintf(w->why, sizeof(w->why), "%s", strerror(error));
}

static void *run(void *user)
{
    struct log_writer *w = user;
    pthread_mutex_lock(&w->lock);
    while (!w->stop || w->wanted) {
        if (w->wanted)
            write_pending(w);
        if (!w->wanted)
            pthread_cond_broadcast(&w->idle);
        if (!w->wanted && !w->stop)
            pthread_cond_wait(&w->work, &w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* ---- Life ------------------------------------------------------------------------------------ */

static void release(struct log_writer *w)
{
    if (w->next_fd >= 0)
        close(w->next_fd);
    if (w->fd >= 0 && w->fd != STDERR_FILENO)
        close(w->fd);
    pthread_cond_destroy(&w->idle);
    pthread_cond_destroy(&w->work);
    pthread_mutex_destroy(&w->lock);
    buffer_free(&w->pending);
    buffer_free(&w->chunk);
    free(w->path);
    free(w);
}

/* Signals are for the loop's thread. */
static int start_thread(struct log_writer *w)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    sigfillset(&all);
    int error = pthread_attr_init(&attributes);
    if (error != 0)
        return error;
    (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&w->thread, &attributes, run, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return error;
}

imf_status log_writer_create(struct log_writer **out, const char *path, struct imf_error *err)
{
    struct log_writer *w = calloc(1, sizeof(*w));
    if (!w || !(w->path = strdup(path))) {
        free(w);
        return fail(err, path, ENOMEM);
    }
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->work, NULL);
    pthread_cond_init(&w->idle, &monotonic);
    pthread_condattr_destroy(&monotonic);
    buffer_init(&w->pending, MAX_PENDING);
    buffer_init(&w->chunk, MAX_PENDING);
    /* Lines about a lack of memory need none. */
    if (!buffer_reserve(&w->pending, WAKE_AT) || !buffer_reserve(&w->chunk, WAKE_AT)) {
        w->fd = w->next_fd = -1;
        release(w);
        return fail(err, path, ENOMEM);
    }
    w->next_fd = -1;
    w->fd = path[0] != '\0' ? open_file(path) : STDERR_FILENO;
    int error = w->fd < 0 ? errno : start_thread(w);
    if (error != 0) {
        release(w);
        if (error != EAGAIN)
            return fail(err, path, error);
        if (err) {
            err->status = IMF_ENOMEM;
            snprintf(
                err->message, sizeof(err->message),
                "the log's thread could not be started: too little memory, or too many threads "
                "(ulimit -v, ulimit -u)");
        }
        return IMF_ENOMEM;
    }
    *out = w;
    return IMF_OK;
}

void log_writer_destroy(struct log_writer *w)
{
    if (!w)
        return;
    bool idle = log_writer_wait(w, LAST_WAIT_MS);
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
    if (!idle) {
        pthread_detach(w->thread);
        return;
    }
    pthread_join(w->thread, NULL);
    release(w);
}

imf_status log_writer_reopen(struct log_writer *w, struct imf_error *err)
{
    if (w->path[0] == '\0')
        return IMF_OK;
    int fd = open_file(w->path);
    if (fd < 0)
        return fail(err, w->path, errno);
    pthread_mutex_lock(&w->lock);
    if (w->next_fd >= 0)
        close(w->next_fd); /* opened anew twice before the thread came to it */
    w->next_fd = fd;
    w->for_old = w->pending.size;
    w->wanted = true;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
    return IMF_OK;
}

/* ---- Lines ----------------------------------------------------------------------------------- */

struct buffer *log_writer_begin(struct log_writer *w)
{
    pthread_mutex_lock(&w->lock);
    w->line_at = w->pending.size;
    return &w->pending;
}

void log_writer_end(struct log_writer *w)
{
    struct buffer *b = &w->pending;
    if (b->failed) {
        bool full = b->size + 1024 > b->max;
        b->failed = false;
        b->size = w->line_at;
        w->lost++;
        snprintf(w->why, sizeof(w->why), "%s", full ? "nobody reads it" : "out of memory");
    }
    if (b->size >= WAKE_AT && !w->wanted) {
        w->wanted = true;
        pthread_cond_signal(&w->work);
    }
    pthread_mutex_unlock(&w->lock);
}

void log_writer_wake(struct log_writer *w)
{
    pthread_mutex_lock(&w->lock);
    if (w->pending.size > 0 && !w->wanted) {
        w->wanted = true;
        pthread_cond_signal(&w->work);
    }
    pthread_mutex_unlock(&w->lock);
}

bool log_writer_wait(struct log_writer *w, int ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    log_writer_wake(w);
    int error = 0;
    pthread_mutex_lock(&w->lock);
    while ((w->wanted || w->writing) && error == 0)
        error = pthread_cond_timedwait(&w->idle, &w->lock, &until);
    bool idle = !w->wanted && !w->writing;
    pthread_mutex_unlock(&w->lock);
    return idle;
}

uint64_t log_writer_lost(struct log_writer *w)
{
    pthread_mutex_lock(&w->lock);
    uint64_t lost = w->lost;
    pthread_mutex_unlock(&w->lock);
    return lost;
}

uint64_t log_writer_untold(struct log_writer *w, char why[128])
{
    uint64_t lost = 0;
    pthread_mutex_lock(&w->lock);
    /* While nothing can be written there is no use in telling. */
    if (w->lost > w->told && !w->failing && w->pending.size < MAX_PENDING / 2) {
        lost = w->told = w->lost;
        memcpy(why, w->why, sizeof(w->why));
    }
    pthread_mutex_unlock(&w->lock);
    return lost;
}
