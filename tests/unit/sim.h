/* A world for the scheduler's state machine: a simulated clock, devices that take simulated time,
 * encoders, and clients whose requests are followed to their end. After every event all invariants
 * of the core are checked. */
#ifndef SIM_H
#define SIM_H

#include "scheduler/state.h"

#include <check.h>

/* As ck_assert, which writes to a file each time: too slow for millions of checks. */
#define ENSURE(condition)                                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s:%d: %s", __FILE__, __LINE__, #condition);                             \
    } while (0)
#define ENSURE_OP(a, op, b)                                                                        \
    do {                                                                                           \
        if (!((a)op(b)))                                                                           \
            ck_abort_msg("%s:%d: %s %s %s: %lld, %lld", __FILE__, __LINE__, #a, #op, #b,           \
                         (long long)(intptr_t)(a), (long long)(intptr_t)(b));                      \
    } while (0)
#define ENSURE_EQ(a, b) ENSURE_OP(a, ==, b)
#define ENSURE_NE(a, b) ENSURE_OP(a, !=, b)
#define ENSURE_LE(a, b) ENSURE_OP(a, <=, b)
#define ENSURE_LT(a, b) ENSURE_OP(a, <, b)
#define ENSURE_GE(a, b) ENSURE_OP(a, >=, b)
#define ENSURE_GT(a, b) ENSURE_OP(a, >, b)

struct sim_request {
    struct sched_request *r; /* NULL once ended or cancelled */
    uint32_t n, got, window, held, most_held;
    bool *seen; /* n */
    bool manual_release, ended;
    bool keep; /* stays open after its end, until sim_close or sim_finish */
    enum sched_result result;
    char message[200];
    uint64_t submitted_at, first_at, ended_at;
    struct sched_timings last_timings;
    enum sched_source last_source;
    int client; /* index for on_end; -1: none */
};

struct sim_device {
    bool busy;
    uint64_t done_at, wake_at;
    struct sched_work work;
    imf_status fail_with; /* not IMF_OK: the batch in hand, or else the next one, fails so */
    bool hangs;           /* what it has in hand does not end */
};

struct sim {
    struct sched_core core;
    uint64_t now;
    /* Prices, microseconds. */
    uint64_t step_us, step_lane_us, decode_us, decode_lane_us, encode_us;
    int encoders, encoding;
    struct {
        struct picture *p;
        uint64_t done_at;
    } encode[8];
    struct sim_device device[SCHED_MAX_DEVICES];
    struct sim_request *requests[100000];
    int request_count;
    /* Called when a request has ended (not when cancelled); may submit. */
    void (*on_end)(struct sim *s, struct sim_request *q);
    void *user;
    /* Arrivals planned for later. */
    struct {
        uint64_t at;
        struct sched_spec spec;
        int client;
    } plan[4096];
    int plan_count;
    int lanes_made, bad_label;
    bool unchecked;          /* skips the invariants: they are slow */
    uint64_t idle_with_work; /* must stay 0 when nothing may be held */
};

void sim_init(struct sim *s, const struct sched_options *o, int devices, int models, int max_batch,
              int decode_batch);
/* Ends everything, checks that nothing is left, frees. */
void sim_finish(struct sim *s);
struct sched_spec sim_spec(int label, uint64_t seed, uint32_t n, int steps);
/* NULL when refused; *why gets the reason. */
struct sim_request *sim_submit(struct sim *s, const struct sched_spec *spec,
                               struct sched_refusal *why);
void sim_close(struct sim *s, struct sim_request *q, enum sched_outcome outcome);
void sim_later(struct sim *s, uint64_t at, const struct sched_spec *spec, int client);
/* Runs the next event; false when nothing will ever happen. */
bool sim_step(struct sim *s);
/* Runs all events until the clock shows `until`. */
void sim_run(struct sim *s, uint64_t until);
void sim_run_all(struct sim *s);
void sim_check(struct sim *s);

#endif
