/* The scheduler: requests of n pictures in, pictures out, one by one, each as soon as it is ready.
 *
 * Work moves one network evaluation at a time. At every evaluation each device fills its batch anew
 * from everything that waits: lanes of different requests, classes, guidance and step counts run
 * together, finished lanes leave, new ones join. Decoding is batched apart from the steps, encoding
 * has threads of its own. docs/scheduler.md says who comes first and why.
 *
 * Threads: every function here is called on the loop thread, and every callback arrives there, from
 * the loop, never from inside a call into the scheduler. Engine threads (one per device) and
 * those that encode are internal; docs/threads.md has the table.
 *
 * Time: all durations are microseconds, of the monotonic clock. */
#ifndef SCHEDULER_H
#define SCHEDULER_H

#include "scheduler/backend.h"
#include "base/blob.h"
#include "base/format.h"

#include <uv.h>

struct scheduler;     /* opaque */
struct sched_request; /* opaque; see sched_submit for its lifetime */

/* ---- Set-up ---------------------------------------------------------------------------------- */

#define SCHED_MAX_MODELS 64
#define SCHED_MAX_DEVICES 32
#define SCHED_PRIORITIES 10 /* 0 is served first */

struct picture_text; /* base/metadata.h */

/* Everything that makes a picture's file: same key, same bytes. Keys are compared as bytes: they
 * hold no padding and are normalised before they are handed to anybody. */
struct picture_key {
    int32_t model; /* index given by sched_add_model */
    int32_t label;
    uint64_t seed;
    struct imf_sampling sampling;
    struct picture_encoding encoding;
    uint8_t reserved[6]; /* 0 */
};

/* Different numbers that mean the same picture become the same. */
void picture_key_normalise(struct picture_key *key);

struct sched_options {
    uint32_t max_queue; /* pictures waiting, all requests together; 1024 */
    uint32_t window;    /* pictures of one request that may exist at once; 0: by batch, devices */
    uint64_t max_delay_us; /* how long a batch that is not full may be held; 0: see below */
    uint64_t ageing_us;    /* a waiting request gains one priority per this time; 5 s */
    /* With max_delay_us 0 engines never idle while there is work, with one exception: a batch that
     * is not full may wait for clients which have just got their answer and are known, by what
     * they did before, to ask again at once. It waits at most this share of the time that the
     * batch will take, plus what a batch costs whatever its size, at most 20 ms in all.
     * 10; 0: never. */
    int return_gap_percent;
    size_t cache_bytes;    /* finished files kept; 0: none; 64 MiB */
    int png_level;         /* 0, 1 or 9; see base/png.h; 1 */
    uint32_t max_encoding; /* decoded pictures not yet encoded before engines pause; 64 */
    /* Fills the metadata of a picture; NULL: none. Called on an encoder thread, so it may read only
     * what never changes. Must depend on the key alone: bytes are deterministic. */
    void (*describe)(void *user, const struct picture_key *key, struct picture_text *text);
    void *describe_user;
    /* A model became ready, sick or failed to load, or made progress in loading; may be NULL. */
    void (*on_model)(void *user, struct scheduler *s, int model);
    void *on_model_user;
    /* A device failed, or could not be opened; may be NULL. */
    void (*on_device_lost)(void *user, struct scheduler *s, int device);
    void *on_device_lost_user;
    /* A device has given no sign of life for stall_us and ten times what its batch should take, or
     * gives one again; may be NULL. 0: nobody looks. */
    uint64_t stall_us; /* 60 s */
    void (*on_device_stuck)(void *user, struct scheduler *s, int device, bool stuck);
    void *on_device_stuck_user;
};

void sched_options_init(struct sched_options *o); /* sets every default */

/* `o` is copied. The loop must outlive the scheduler. */
IMF_MUST_CHECK imf_status sched_create(struct scheduler **out, uv_loop_t *loop,
                                       const struct sched_options *o, struct imf_error *err);
/* Adds a device; its engine thread opens it after sched_start. Strings are copied. Returns its
 * index, or -1 with err. */
int sched_add_device(struct scheduler *s, const struct imf_engine_params *p, struct imf_error *err);
/* Adds a model, resident on each of the devices listed (one queue, served by all of them). `id` is
 * the name of requests and metrics; strings are copied, p->progress is ignored. Returns its index,
 * or -1 with err. Warm-up: after loading, one picture is generated and thrown away, which proves
 * that the model works and gives the first measured speed. */
int sched_add_model(struct scheduler *s, const char *id, const struct imf_model_params *p,
                    const int *devices, int device_count, struct imf_error *err);
/* Starts the engine threads, which open their devices and load their models in the order added,
 * while the loop runs. */
IMF_MUST_CHECK imf_status sched_start(struct scheduler *s, struct imf_error *err);

enum sched_model_state {
    SCHED_MODEL_LOADING,
    SCHED_MODEL_READY,  /* at least one device serves it */
    SCHED_MODEL_FAILED, /* it could not be loaded, or its self-check failed */
    SCHED_MODEL_SICK,   /* it was ready, and its last device failed */
};

struct sched_model_status {
    const char *id;
    enum sched_model_state state;
    double load_fraction;              /* 0..1 while loading */
    const char *message;               /* why it failed or is sick, else "" */
    const struct imf_model_info *info; /* NULL until ready the first time */
    const struct imf_engine_info
        *device; /* of the first device that serves or served it, or NULL */
};

int sched_model_count(const struct scheduler *s);
/* Pointers stay valid until sched_destroy; `message` until the loop is next entered. */
void sched_model_get(struct scheduler *s, int model, struct sched_model_status *out);
int sched_model_find(const struct scheduler *s, const char *id); /* index, or -1 */
/* Class name stored in the checkpoint, or NULL. */
const char *sched_class_name(struct scheduler *s, int model, int label);
/* True when every model is READY on a device that answers, and the scheduler is not draining. */
bool sched_ready(struct scheduler *s);
/* False when devices are stuck and no other one is left. */
bool sched_answers(struct scheduler *s);
bool sched_model_answers(struct scheduler *s, int model);

struct sched_device_status {
    const char *name; /* as asked */
    bool open, failed;
    bool stuck;                         /* gives no sign of life */
    const char *message;                /* why it failed, else "" */
    const struct imf_engine_info *info; /* NULL until open */
    size_t weights_bytes, arena_bytes;  /* of the models loaded so far */
    uint64_t busy_us;                   /* time spent in step and decode */
};
int sched_device_count(const struct scheduler *s);
void sched_device_get(struct scheduler *s, int device, struct sched_device_status *out);

/* ---- Requests -------------------------------------------------------------------------------- */

/* How a picture came to be, microseconds. All zero for a picture out of the cache. */
struct sched_timings {
    uint64_t queue; /* from the request's turn to wait until its first evaluation starts */
    uint64_t
        denoise;     /* first evaluation's start to last one's end, waiting between them included */
    uint64_t decode; /* end of denoising to pixels, waiting included */
    uint64_t encode; /* pixels to PNG, waiting included; 0 when no PNG was made */
};

enum sched_source { SCHED_COMPUTED, SCHED_COALESCED, SCHED_CACHED };

struct sched_picture {
    uint32_t index; /* 0..n-1 */
    struct picture_key key;
    struct blob *png; /* the file, PNG or not; NULL unless wanted; borrowed: blob_take to keep it */
    struct blob *rgb; /* (image_height, image_width, 3); NULL unless wanted; borrowed */
    enum sched_source source;
    struct sched_timings timings;
};

enum sched_result {
    SCHED_DONE,    /* every picture was handed out */
    SCHED_TIMEOUT, /* 504: the time was up */
    SCHED_FAILED,  /* 500: the engine failed; message says why */
    SCHED_STOPPED, /* 503: the scheduler is being destroyed */
    SCHED_MEMORY,  /* 503: out of memory, which may pass */
};

struct sched_callbacks {
    /* One picture, in the order they become ready, which need not be index order. */
    void (*on_picture)(void *user, struct sched_request *r, const struct sched_picture *p);
    /* Exactly once, last, unless sched_close was called before. `message` is fit for a client and
     * valid during the call. */
    void (*on_end)(void *user, struct sched_request *r, enum sched_result result,
                   const char *message);
};

enum sched_want { SCHED_PNG = 1 /* the file, as `encoding` says */, SCHED_RGB = 2 };

struct sched_spec {
    int model;
    uint32_t n; /* >= 1 */
    /* Picture i is of class labels[i], or `label` where labels is NULL, and of seed seeds[i], or
     * seed + i where seeds is NULL. The lists are copied. */
    int32_t label;
    uint64_t seed;
    const int32_t *labels;
    const uint64_t *seeds;
    /* Of picture i: samplings[i], or `sampling` where that is NULL; with the list, sampling.steps
     * is what a picture is thought to need. The list is copied. */
    struct imf_sampling sampling;
    const struct imf_sampling *samplings;
    struct picture_encoding encoding; /* of the files wanted */
    unsigned want;                    /* SCHED_PNG, SCHED_RGB or both */
    int priority;                     /* 0..9 */
    uint64_t timeout_us;              /* from now, queue included; 0: none */
    const char *tenant; /* API key id or address: who shares fairly with whom; copied; NULL: "" */
    uint32_t window;    /* 0: the options' */
};

void sched_spec_init(
    struct sched_spec *s); /* n 1, PNG, priority 5, no timeout; set model and rest */

enum sched_reject {
    SCHED_ACCEPTED,
    SCHED_REJECT_QUEUE,    /* 503 overloaded: the queue has no room for n pictures */
    SCHED_REJECT_DEADLINE, /* 504: cannot be met at the measured speed */
    SCHED_REJECT_DRAINING, /* 503 */
    SCHED_REJECT_LOADING,  /* 503 */
    SCHED_REJECT_SICK,     /* 503: the model failed to load or lost its last device */
    SCHED_REJECT_SIZE,     /* 400: n is more than the whole queue holds */
    SCHED_REJECT_MEMORY,   /* 503 overloaded: no memory */
    SCHED_REJECT_STUCK,    /* 503 overloaded: its devices do not answer */
    SCHED_REJECT_COUNT,
};
const char *sched_reject_name(enum sched_reject why); /* metric label: "queue", "deadline" ... */

struct sched_refusal {
    enum sched_reject why;
    uint64_t retry_us; /* when to try again, from queue depth and measured speed; 0: unknown */
    char message[200]; /* a sentence for the client */
};

/* The window of a request for this model that does not say. */
uint32_t sched_window(struct scheduler *s, int model);

/* Admission, decided now. The spec's class, seed and sampling must have been checked against the
 * model's info already (asserted). On success returns the request, which lives until sched_close;
 * on refusal NULL and *refusal is filled. `user` is given to the callbacks.
 *
 * Window: at most `window` pictures of a request are being made or have been handed out and not
 * yet given back with sched_release. A consumer that cannot write on stops releasing, and its
 * request stops being scheduled: memory per request does not depend on n. A consumer that needs
 * index order may hold what came early: pictures are started in index order, so the first one
 * missing is always within the window. */
struct sched_request *sched_submit(struct scheduler *s, const struct sched_spec *spec,
                                   const struct sched_callbacks *callbacks, void *user,
                                   struct sched_refusal *refusal);
/* `count` pictures handed out earlier have been consumed, which counts them as sent. May be called
 * from the callbacks. No picture is released twice; what is not released when the request is closed
 * is counted then. */
void sched_release(struct sched_request *r, uint32_t count);

enum sched_outcome {
    SCHED_SENT,   /* all of it reached its client */
    SCHED_GONE,   /* the client went away, or was sent away, before that */
    SCHED_BROKEN, /* the reply failed on our side */
};
/* Gives the request back: exactly once for each, before or after its end; no callback follows. What
 * is left of it is dropped; pictures that others wait for go on. May be called from the callbacks,
 * also for the request being delivered. Every request and each of its pictures is counted here at
 * the latest, as sent, failed or cancelled (see sched_stats); a request that ended by anything but
 * SCHED_DONE has failed, whatever `outcome` says. Returns the phase it was cancelled in, or -1 when
 * it was not. */
int sched_close(struct sched_request *r, enum sched_outcome outcome);

/* The file of a picture if the cache holds it, with a reference for the caller, else NULL. The
 * short way for GET; counts as hit (a miss is counted by the sched_submit that follows). */
struct blob *sched_cached_png(struct scheduler *s, const struct picture_key *key);
/* Memory is short somewhere: what the scheduler can do without is given back. From any thread. */
void sched_shed(struct scheduler *s);
/* What a request of n pictures refused now would be told to wait. */
uint64_t sched_retry_us(struct scheduler *s, int model, uint32_t n);

/* ---- Statistics ------------------------------------------------------------------------------ */

/* Where a cancelled picture was. */
enum sched_phase {
    SCHED_PHASE_QUEUED,
    SCHED_PHASE_RUNNING, /* between its first evaluation and its last */
    SCHED_PHASE_DECODING,
    SCHED_PHASE_ENCODING,
    SCHED_PHASE_SENDING, /* finished, on its way to the client */
    SCHED_PHASE_COUNT,
};
const char *sched_phase_name(enum sched_phase phase);

enum sched_stage { SCHED_STEP, SCHED_DECODE, SCHED_ENCODE, SCHED_STAGE_COUNT };
const char *sched_stage_name(enum sched_stage stage); /* "step", "decode", "encode" */

#define SCHED_DURATION_BUCKETS 16
#define SCHED_BATCH_BUCKETS 9
extern const double sched_duration_bounds[SCHED_DURATION_BUCKETS]; /* seconds, upper, ascending */
extern const double sched_batch_bounds[SCHED_BATCH_BUCKETS];       /* 1, 2, 4 ... 256 */

/* Prometheus histogram: bucket[i] counts values <= bounds[i] and > bounds[i-1] (not cumulative);
 * values above the last bound are in count only. */
struct sched_histogram {
    uint64_t count;
    double sum;
    uint64_t bucket[SCHED_DURATION_BUCKETS];
};

struct sched_stats {
    uint32_t queue_images; /* waiting for their first evaluation */
    uint32_t queue_capacity;
    uint32_t running_images; /* in lanes, being decoded or encoded */
    uint32_t requests;       /* accepted and not ended */
    struct {
        uint32_t waiting; /* requests accepted and not ended, no picture of which has begun */
        uint32_t running; /* and with a picture past the queue */
        /* Until the model's devices have done all that is accepted for them, other models' work
         * too, at the speed measured; 0 where none is yet. */
        double backlog_us;
    } model[SCHED_MAX_MODELS];
    uint32_t lanes; /* lanes that hold a sample now */
    uint64_t rejected[SCHED_REJECT_COUNT];
    /* Everything accepted ends in exactly one of sent, failed, cancelled: requests when they are
     * closed, pictures when they are released or, at the latest, closed with their request. */
    uint64_t accepted, accepted_images;
    uint64_t sent_requests, sent_images;
    uint64_t failed_requests, failed_images;
    uint64_t cancelled_requests[SCHED_PHASE_COUNT]; /* by the furthest phase any picture was in */
    uint64_t cancelled_images[SCHED_PHASE_COUNT];   /* each by its own */
    uint64_t deadline_missed; /* requests accepted and ended by SCHED_TIMEOUT */
    uint64_t coalesced;       /* pictures that joined one in flight */
    uint64_t cache_hits, cache_misses, cache_bytes, cache_entries;
    uint64_t network_evaluations; /* lane by lane: a batch of 8 counts 8 */
    uint64_t engine_busy_us;      /* all devices */
    uint64_t memory_shortages;    /* times that memory was short, and the cache was given back */
    uint64_t held_us;             /* time batches were held to fill */
    struct sched_histogram queue_wait;                  /* seconds */
    struct sched_histogram duration[SCHED_STAGE_COUNT]; /* seconds per batch; encode per picture */
    struct sched_histogram batch[SCHED_STAGE_COUNT];    /* lanes per batch; encode: always 1 */
    uint64_t images[SCHED_MAX_MODELS][IMF_MAX_STEPS + 1]; /* computed, by model and steps */
};
void sched_get_stats(struct scheduler *s,
                     struct sched_stats *out); /* about 35 KB: keep it static */

/* ---- Drain and stop -------------------------------------------------------------------------- */

/* From now on sched_submit answers SCHED_REJECT_DRAINING; accepted work goes on. */
void sched_drain(struct scheduler *s);
/* Accepted requests that have not ended. A drained scheduler is done when this is 0. */
uint32_t sched_pending(struct scheduler *s);
/* The first part of sched_destroy, for at most `ms`: false when threads are still at work then,
 * which sched_destroy would wait for. Do not call it from a callback of the scheduler's. */
bool sched_stop(struct scheduler *s, uint64_t ms);
/* Stops: requests that have not ended get on_end(SCHED_STOPPED) from inside this call, engine
 * threads finish the batch in hand and are joined, the loop is run until the scheduler's own
 * handles are closed (uv_run is called: do not call this from a callback of the loop's). */
void sched_destroy(struct scheduler *s);

#endif
