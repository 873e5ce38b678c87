/* The threads around the scheduler's state machine. One lock protects the core and everything here
 * that more than one thread touches; it is never held while an engine computes, a picture is
 * encoded, or a callback runs. */
#ifndef SCHEDULER_SHELL_H
#define SCHEDULER_SHELL_H

#include "base/encode.h"
#include "scheduler/noise.h"
#include "scheduler/state.h"

#include <uv.h>

#define SHELL_ENCODERS 4
/* How often engines are looked at, and the most that one look counts: time in which the whole
 * process did not run says nothing about an engine. */
#define SHELL_WATCH_MS 1000
#define SHELL_WATCH_MOST_US 2000000

struct shell_model {
    char *id;
    struct imf_model_params params; /* strings owned */
    uint32_t asked;                 /* devices that shall serve it; set before sched_start */
    /* Under the lock: */
    int pending; /* devices that have not finished loading it */
    double load_fraction;
    char message[504];
    const struct imf_model_info *info;
    const struct imf_engine_info *device;
    const struct backend_ops *ops;
    const struct imf_model *backend; /* of the first device that loaded it */
    bool changed;                    /* on_model is due */
};

struct flight; /* a batch on its way */

struct engine_thread {
    struct scheduler *scheduler;
    int index;
    struct imf_engine_params params; /* string owned */
    const struct backend_ops *ops;
    uv_thread_t thread;
    bool started; /* the loop's */
    uv_cond_t wake;
    /* The thread's own: */
    struct flight *flights; /* two */
    struct imf_engine *backend;
    struct imf_model *model[SCHED_MAX_MODELS];
    struct noise *noise; /* NULL before the first model */
    /* Under the lock: */
    bool waiting;
    uint64_t busy_us, busy_until;
    size_t weights_bytes, arena_bytes;
    const struct imf_engine_info *info;
    char message[504]; /* why it failed */
    bool lost;         /* on_device_lost is due */
    bool told_stuck;   /* the loop's: what on_device_stuck was told last */
};

struct encoder {
    struct scheduler *scheduler;
    struct picture_encoder *files;
    uv_thread_t thread;
    bool started; /* the loop's */
};

struct scheduler {
    uv_loop_t *loop;
    uv_async_t wake;
    uv_timer_t timer, watch;
    struct encoder encoder[SHELL_ENCODERS];
    int encoder_count, open_handles;
    struct engine_thread *device[SCHED_MAX_DEVICES];
    struct shell_model *model[SCHED_MAX_MODELS];
    bool started;
    uint64_t timer_at; /* when the deadline timer fires; 0: not armed */
    uint64_t watched_at;

    uv_mutex_t lock;
    uv_cond_t to_encode; /* pictures wait for an encoder, or stop */
    uv_cond_t ended;     /* a thread has ended */
    int running;         /* threads that have not */
    bool stop;
    struct sched_core core;
};

uint64_t shell_now(void); /* microseconds */

/* Starts the thread of a device: opens it, loads its models, works until scheduler.stop. */
imf_status engine_thread_start(struct engine_thread *t);
void engine_thread_join(struct engine_thread *t);
/* Under the lock: there may be work for idle engines. */
void engine_threads_wake(struct scheduler *s);

/* A thread that sched_stop waits for starts and ends. */
imf_status shell_thread_start(struct scheduler *s, uv_thread_t *thread, size_t stack_bytes,
                              void (*run)(void *), void *arg);
void shell_thread_ended(struct scheduler *s);

/* Encoders, as many as there are processors, up to SHELL_ENCODERS; encoders.c. */
imf_status encoders_create(struct scheduler *s);
imf_status encoders_start(struct scheduler *s);
void encoders_join(struct scheduler *s);
void encoders_destroy(struct scheduler *s);

#endif
