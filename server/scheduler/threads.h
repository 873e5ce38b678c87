/* The threads around the scheduler's state machine. One lock protects the core and everything here
 * that more than one thread touches; it is never held while an engine computes, a picture is
 * encoded, or a callback runs. */
#ifndef SCHEDULER_SHELL_H
#define SCHEDULER_SHELL_H

#include "base/encode.h"
#include "scheduler/state.h"

#include <uv.h>

#define SHELL_ENCODERS 4 /* the default size of libuv's pool */

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

struct engine_thread {
    struct scheduler *scheduler;
    int index;
    struct imf_engine_params params; /* string owned */
    const struct backend_ops *ops;
    uv_thread_t thread;
    bool started; /* the loop's */
    uv_cond_t wake;
    /* The thread's own: */
    struct imf_engine *backend;
    struct imf_model *model[SCHED_MAX_MODELS];
    /* Under the lock: */
    bool waiting;
    uint64_t busy_us, busy_until;
    size_t weights_bytes, arena_bytes;
    const struct imf_engine_info *info;
    char message[504]; /* why it failed */
    bool lost;         /* on_device_lost is due */
};

struct encoder {
    uv_work_t work;
    struct scheduler *scheduler;
    struct picture_encoder *files;
    bool active; /* the loop's */
};

struct scheduler {
    uv_loop_t *loop;
    uv_async_t wake;
    uv_timer_t timer;
    struct encoder encoder[SHELL_ENCODERS];
    int encoder_count, open_handles;
    struct engine_thread *device[SCHED_MAX_DEVICES];
    struct shell_model *model[SCHED_MAX_MODELS];
    bool started;
    uint64_t timer_at; /* when the deadline timer fires; 0: not armed */

    uv_mutex_t lock;
    bool stop;
    struct sched_core core;
};

uint64_t shell_now(void); /* microseconds */

/* Starts the thread of a device: opens it, loads its models, works until scheduler.stop. */
imf_status engine_thread_start(struct engine_thread *t);
void engine_thread_join(struct engine_thread *t);
/* Under the lock: there may be work for idle engines. */
void engine_threads_wake(struct scheduler *s);

/* Loop thread: keeps encoders busy. */
void encoders_start(struct scheduler *s);

#endif
