/* The scheduler as a state machine: no threads, no clock, no engine. Whoever drives it holds a lock
 * if there are threads (threads.c does), passes the time in, and does the work that comes out.
 * Tests drive it with a simulated clock.
 *
 *   submit      a request: admission, then as many of its pictures as its window allows
 *   pick        the next batch for a device: a network evaluation, or a decoding
 *   complete    that batch is done, or failed
 *   encode_next, encoded   a picture wants its PNG; here it is
 *   next_event  what to tell the owner of a request
 *
 * A picture is work, known by its key; a waiter is one place of one request that wants it. Several
 * waiters share a picture: that is how identical requests are computed once. A picture without
 * waiters is dropped as soon as no thread has it in hand.
 *
 * Times are microseconds of any clock that does not run backwards. */
#ifndef SCHEDULER_CORE_H
#define SCHEDULER_CORE_H

#include "scheduler/image_cache.h"
#include "base/hash_table.h"
#include "base/list.h"
#include "scheduler/scheduler.h"

/* Service is charged in these units, so that ties are exact. */
#define CORE_EVALUATION 1024

enum picture_state {
    PICTURE_QUEUED,   /* no evaluation has started */
    PICTURE_RUNNING,  /* in a lane, between its first evaluation and its last */
    PICTURE_DENOISED, /* in a lane, waiting for or in decoding */
    PICTURE_ENCODING, /* pixels there, waiting for or in encoding */
};

struct picture {
    UT_hash_handle hh; /* in core.pictures, by key */
    struct picture_key key;
    enum picture_state state;
    int step;              /* evaluations done */
    int device;            /* once started, else -1 */
    struct imf_lane *lane; /* once started; the driver's */
    bool in_hand;          /* part of a batch that runs, or being encoded now */
    struct list waiters;   /* waiter.of_picture */
    struct list place;     /* in a device's denoised list, or in core.to_encode */
    struct blob *rgb;      /* from decoding on */
    uint64_t queued_at, started_at, denoised_at, decoded_at, encoded_at;
};

struct tenant {
    UT_hash_handle hh;  /* in core.tenant_table, by id */
    struct list active; /* in core.tenants while it has requests */
    struct list requests;
    uint64_t service; /* received, or credited when it arrived; what fairness compares */
    uint64_t scratch; /* of core_estimate */
    char id[];
};

struct ready { /* what next_event takes out */
    struct list link;
    struct waiter *waiter; /* NULL: the request's end */
};

struct waiter {
    struct sched_request *request;
    struct picture *picture; /* NULL once ready */
    struct list of_picture, of_request;
    struct ready ready;
    uint64_t joined_at;
    struct sched_picture result; /* holds references on png and rgb while ready */
};

struct sched_request {
    struct scheduler *scheduler; /* the shell's; the core does not look */
    struct sched_callbacks callbacks;
    void *user;

    struct list of_model, of_tenant;
    struct tenant *tenant;
    struct sched_spec spec; /* what was asked; its lists are copies, its tenant is not kept */
    uint32_t next;          /* of spec.n pictures: given a waiter so far */
    uint64_t arrived_at, served_at, deadline; /* deadline 0: none */
    uint64_t service, sequence;
    uint32_t window, outstanding; /* given a waiter and not yet released */
    uint32_t unfinished;          /* given a waiter and not ready */
    uint32_t undelivered;         /* ready and not taken by next_event */
    uint32_t done;                /* made ready */
    struct list waiting;          /* waiter.of_request */
    struct list spare;            /* waiters not in use */
    bool ended;                   /* nothing more will become ready */
    bool end_taken;               /* and its end was handed out by next_event */
    enum sched_result result;
    struct ready end;
    char message[200];
    struct waiter waiters[]; /* window */
};

/* A running mean of durations; us 0: never measured. */
struct core_speed {
    double us;
    uint64_t at; /* of the last measurement */
};

struct core_stage_speed {
    struct core_speed batch[IMF_MAX_BATCH + 1]; /* of a batch of that size */
    struct core_speed lane;                     /* a lane's share of a batch, as batches are */
};

struct core_model {
    int max_batch, decode_batch;
    uint64_t decode_cost; /* of a picture, in CORE_EVALUATION units */
    enum sched_model_state state;
    uint32_t devices; /* bit set: loaded and healthy */
    struct list requests;
    char message[200]; /* why it is sick */
    struct core_stage_speed step, decode;
    bool guessed; /* these are the warm-up's, which the first real batch replaces */
};

enum work_kind { WORK_NONE, WORK_STEP, WORK_DECODE };

struct core_device {
    bool failed;
    struct list denoised;
    uint32_t lanes[SCHED_MAX_MODELS]; /* lanes that hold a sample */
    uint32_t lane_limit[SCHED_MAX_MODELS];
    /* Lanes without a sample, for reuse; capacity is lane_limit. */
    struct imf_lane **spare[SCHED_MAX_MODELS];
    uint32_t spare_count[SCHED_MAX_MODELS];
    uint64_t held_since; /* a batch is being held since then; 0: none */
    /* Batches picked and not completed, and the last of them. */
    int in_hand, hand_model, hand_n;
    enum work_kind hand_kind;
    uint64_t hand_since;
    /* The watchdog: the last sign of life (0: work has not begun), as seen last, and since when. */
    uint64_t progress_at, watched_at, stalled_us;
    bool stuck;
};

struct sched_work {
    enum work_kind kind;
    int device, model, n;
    uint64_t wake_at; /* WORK_NONE: call pick again then, whatever happens; 0: when told */
    uint64_t started_at;
    /* Yours until complete. For a step: lane is NULL where the driver must make one, and step 0
     * asks for it to be started. For a decode: put the pixels in rgb, one reference each. */
    struct picture *picture[IMF_MAX_BATCH];
    bool bad[IMF_MAX_BATCH]; /* set by the driver: this one could not be started */
    bool short_of_memory;    /* and that was why */
};

/* A request in the order of who is served next; see pick.c. */
struct candidate {
    int priority;
    uint64_t tenant_service, request_service, sequence;
    struct sched_request *request;
};

/* More threads that encode than these are not told apart. */
#define CORE_ENCODERS 16

/* Recent departures, to learn how soon clients that got their answer ask again. */
#define CORE_DEPARTURES 256

struct sched_core {
    struct sched_options options;
    struct core_model model[SCHED_MAX_MODELS];
    struct core_device device[SCHED_MAX_DEVICES];
    int model_count, device_count;
    bool draining;

    struct picture *pictures;    /* hash table: in flight */
    struct tenant *tenant_table; /* hash table: active or remembered */
    struct list tenants;         /* active */
    struct list to_encode, events;
    double encode_us; /* mean of a picture; 0: not measured */
    int encoders;     /* threads */
    struct image_cache *cache;
    uint64_t sequence;
    uint32_t requests, encoding; /* encoding: decoded or in decoding, PNG not yet made */
    struct candidate *heap;      /* scratch of pick; room for all requests */
    size_t heap_capacity;

    uint64_t departure[CORE_DEPARTURES]; /* ring */
    unsigned departure_head, departure_count;
    double return_us, return_rate; /* how soon, and how often within the bound */

    struct sched_stats stats; /* gauges are filled in by core_get_stats */
};

struct core_event {
    struct sched_request *request;
    bool is_end;
    /* !is_end: the receiver drops the references on png and rgb. */
    struct sched_picture picture;
};

/* ---- Set-up; state.c ---- */
IMF_MUST_CHECK imf_status core_init(struct sched_core *c, const struct sched_options *o);
void core_destroy(struct sched_core *c);  /* with no request and no work in hand */
int core_add_model(struct sched_core *c); /* LOADING */
int core_add_device(struct sched_core *c);
/* The model works on that device now. False when out of memory. */
bool core_model_ready(struct sched_core *c, int model, int device,
                      const struct imf_model_info *info);
void core_model_failed(struct sched_core *c, int model, const char *message, uint64_t now);

/* ---- Requests; requests.c ---- */
struct sched_request *core_submit(struct sched_core *c, const struct sched_spec *spec, uint64_t now,
                                  struct sched_refusal *refusal);
/* Pictures of one request that may exist at once, unless it says: a batch for every device, and one
 * being encoded and sent, so that a single large request keeps them all busy. */
uint32_t core_window(const struct sched_core *c, int model);
void core_release(struct sched_core *c, struct sched_request *r, uint32_t count, uint64_t now);
/* As sched_close. Frees the request. */
int core_close(struct sched_core *c, struct sched_request *r, enum sched_outcome outcome);
/* Ends requests whose deadline has passed. Returns the next deadline, 0 when there is none. */
uint64_t core_expire(struct sched_core *c, uint64_t now);
/* Ends every request with SCHED_STOPPED. */
void core_stop(struct sched_core *c, uint64_t now);
/* False when there is none. */
bool core_next_event(struct sched_core *c, struct core_event *event);

/* ---- Work; pick.c ---- */
void core_pick(struct sched_core *c, int device, struct sched_work *work, uint64_t now);
/* status is the engine's; message is used when it is not IMF_OK, and for bad pictures. IMF_ENOMEM
 * fails the pictures of this batch. On any other status but IMF_OK the device counts as failed: all
 * its pictures fail, others go on. */
void core_complete(struct sched_core *c, int device, struct sched_work *work, imf_status status,
                   const char *message, uint64_t now);
/* Work in hand is given up, right before its device fails: that fails its pictures too. */
void core_abandon(struct sched_core *c, struct sched_work *work, uint64_t now);
/* The device is of no more use: as after a failed complete, without work in hand. */
void core_device_failed(struct sched_core *c, int device, const char *message, uint64_t now);
/* The next picture to encode, in hand until core_encoded; NULL when there is none. */
struct picture *core_encode_next(struct sched_core *c);
/* Memory is short: gives back what can be done without. */
void core_shed(struct sched_core *c);
/* png NULL: there was no memory for it. The core takes the reference. duration: the encoding
 * itself. */
void core_encoded(struct sched_core *c, struct picture *p, struct blob *png, uint64_t duration_us,
                  uint64_t now);

/* ---- Measured speed and what follows from it; speed.c, retry.c ---- */
void core_measure(struct core_model *m, enum work_kind kind, int n, uint64_t us, uint64_t now);
void core_measure_encode(struct sched_core *c, uint64_t us);
/* The warm-up's picture: better than nothing until there is a measurement. */
void core_guess(struct core_model *m, uint64_t step_us, uint64_t decode_us, uint64_t now);
/* Whether the next request of an idle model should be let in to measure it. */
bool core_speed_unknown(const struct core_model *m, uint64_t now);
/* Microseconds until a request like this would be finished, `fresh` of whose pictures need the
 * engine; 0 when nothing is known yet. It is optimistic: a deadline before this cannot be met. */
uint64_t core_estimate(const struct sched_core *c, const struct sched_spec *spec, uint32_t fresh,
                       uint64_t now);
/* Microseconds until the queue has room for n more pictures, if nobody else comes. */
uint64_t core_retry_us(const struct sched_core *c, int model, uint32_t n, uint64_t now);
/* Until the batch that the device has in hand is over. */
double core__hand_us(const struct sched_core *c, const struct core_device *d, uint64_t now);
/* Duration of a batch of n: measured lately at that size, or else no more than any bigger batch
 * took and n lanes' share of batches as they are. */
double core__batch_us(const struct core_stage_speed *s, int n, int max);
void core_departed(struct sched_core *c, uint64_t now);
void core_arrived(struct sched_core *c, uint64_t now);
/* Until when a partial step batch of this model is worth holding for clients about to return; 0:
 * not at all. */
uint64_t core_hold_until(const struct sched_core *c, const struct core_model *m, int n,
                         uint64_t now);

/* ---- Signs of life; watch.c ---- */

/* Called now and then: idle devices must have been told to pick since. `elapsed` is since the last
 * call. */
void core_watch(struct sched_core *c, uint64_t elapsed_us);
/* Whether one of the model's devices does. */
bool core_answers(const struct sched_core *c, int model);

/* ---- Work ahead; backlog.c ---- */
/* As sched_stats.model[].backlog_us, for every model. */
void core_backlog(const struct sched_core *c, uint64_t now, double us[SCHED_MAX_MODELS]);

/* ---- Statistics; stats.c ---- */
void core_get_stats(const struct sched_core *c, struct sched_stats *out, uint64_t now);
void histogram_add(struct sched_histogram *h, const double *bounds, int count, double value);

/* ---- Between the core's files: requests.c ---- */

/* The key of picture `index` of what is asked. */
struct picture_key core__sample_key(const struct sched_spec *s, uint32_t index);
/* The result's blobs are filled in; the waiter belongs to the events now. */
void core__waiter_ready(struct sched_core *c, struct waiter *w, uint64_t now);
/* Tells the owner that nothing more will become ready. */
void core__request_end(struct sched_core *c, struct sched_request *r, enum sched_result result,
                       const char *message, uint64_t now);

/* ---- pictures.c ---- */

/* Whether it is being made. */
bool core__picture_known(const struct sched_core *c, const struct picture_key *key);
/* Makes the waiter, whose result.key is set, wait for its picture: one in flight, or a new one.
 * False when out of memory. */
bool core__picture_join(struct sched_core *c, struct waiter *w, uint64_t now);
/* Takes the waiter off its picture's list; the picture may be left without any. */
void core__waiter_detach(struct waiter *w);
/* Forgets a picture that nobody waits for and no thread holds. */
void core__picture_drop(struct sched_core *c, struct picture *p);
/* Hands the picture to those of its waiters that want something in `wanting` at most. */
void core__picture_ready(struct sched_core *c, struct picture *p, struct blob *png,
                         unsigned wanting, uint64_t now);
/* Every request that waits for this picture ends. */
void core__picture_fail(struct sched_core *c, struct picture *p, enum sched_result result,
                        const char *message, uint64_t now);
void core__lane_free(struct sched_core *c, struct picture *p);

/* ---- admission.c ---- */

/* False: *out says why not. */
bool core__admit(struct sched_core *c, const struct sched_spec *s, uint64_t now,
                 struct sched_refusal *out);
/* Fills *out, counts the refusal and returns false. */
bool core__refuse(struct sched_core *c, struct sched_refusal *out, enum sched_reject why,
                  uint64_t retry_us, const char *message);

/* ---- tenants.c ---- */

/* The tenant of that name, made when it is new. NULL when out of memory. */
struct tenant *core__tenant_get(struct sched_core *c, const char *id);
/* Counts the request among the tenant's; both start level with the least served. */
void core__tenant_join(struct sched_core *c, struct tenant *t, struct sched_request *r);
void core__tenant_leave(struct sched_request *r);
void core__tenants_free(struct sched_core *c);

#endif
