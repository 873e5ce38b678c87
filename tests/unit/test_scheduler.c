/* The scheduler's state machine on a simulated clock: who is served when, what is shared, what is
 * refused, what cancelling and failing leave behind. sim.c checks the invariants at every event. */
#include "sim.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static struct sim sim;

static struct sched_options defaults(void)
{
    return (struct sched_options){.max_queue = 2000,
                                  .ageing_us = 5000000,
                                  .return_gap_percent = 10,
                                  .cache_bytes = 0,
                                  .max_encoding = 64};
}

static void begin(int devices, int models, int max_batch, int decode_batch)
{
    struct sched_options o = defaults();
    sim_init(&sim, &o, devices, models, max_batch, decode_batch);
}

static struct sim_request *submit(int label, uint64_t seed, uint32_t n, int steps,
                                  const char *tenant)
{
    struct sched_spec spec = sim_spec(label, seed, n, steps);
    spec.tenant = tenant;
    struct sim_request *q = sim_submit(&sim, &spec, NULL);
    ENSURE(NULL != q);
    return q;
}

/* ---- One request ----------------------------------------------------------------------------- */

START_TEST(test_one)
{
    begin(1, 1, 8, 1);
    struct sim_request *q = submit(1, 2, 1, 3, "a");
    sim_run_all(&sim);
    ENSURE(q->ended && q->result == SCHED_DONE);
    ENSURE_EQ(q->last_timings.queue, 0);
    ENSURE_EQ(q->last_timings.denoise, 3 * 11000);
    ENSURE_EQ(q->last_timings.decode, 2000);
    ENSURE_EQ(q->last_timings.encode, 300);
    ENSURE_EQ(q->ended_at - q->submitted_at, 3 * 11000 + 2000 + 300);
    ENSURE_EQ(sim.core.stats.network_evaluations, 3);
    ENSURE_EQ(sim.core.stats.images[0][3], 1);
    sim_finish(&sim);
}
END_TEST

START_TEST(test_lists)
{
    begin(1, 1, 8, 8);
    int32_t labels[3] = {5, 5, 6};
    uint64_t seeds[3] = {1, 1, 1}; /* the first two are the same picture */
    struct sched_spec spec = sim_spec(0, 0, 3, 1);
    spec.labels = labels;
    spec.seeds = seeds;
    spec.want = SCHED_PNG | SCHED_RGB;
    struct sim_request *q = sim_submit(&sim, &spec, NULL);
    labels[0] = 99; /* copied */
    sim_run_all(&sim);
    ENSURE(q->ended && q->got == 3);
    ENSURE_EQ(sim.core.stats.images[0][1], 2);
    ENSURE_EQ(sim.core.stats.coalesced, 1);
    sim_finish(&sim);
}
END_TEST

/* ---- Batching -------------------------------------------------------------------------------- */

START_TEST(test_joins_every_evaluation)
{
    begin(1, 1, 8, 8);
    submit(1, 1, 1, 4, "a");
    sim_run(&sim, sim.now + 5000); /* within the first evaluation */
    submit(2, 2, 1, 2, "b");       /* other class, other steps */
    sim_run(&sim, sim.now + 10000);
    submit(3, 3, 1, 1, "c"); /* within the second */
    sim_run_all(&sim);
    /* Evaluations: a | a b | a b c | a, where b and c leave after the third. */
    ENSURE_EQ(sim.core.stats.network_evaluations, 7);
    ENSURE_EQ(sim.core.stats.batch[SCHED_STEP].count, 4);
    sim_finish(&sim);
}
END_TEST

START_TEST(test_models_apart)
{
    begin(1, 2, 8, 8);
    for (int i = 0; i < 6; i++) {
        struct sched_spec spec = sim_spec(i, 1, 1, 2);
        spec.model = i % 2;
        sim_submit(&sim, &spec, NULL);
    }
    sim_run_all(&sim);
    ENSURE_EQ(sim.core.stats.batch[SCHED_STEP].count, 4);
    ENSURE_EQ(sim.core.stats.images[0][2], 3);
    ENSURE_EQ(sim.core.stats.images[1][2], 3);
    sim_finish(&sim);
}
END_TEST

START_TEST(test_two_devices)
{
    begin(2, 1, 4, 4);
    struct sim_request *q = submit(1, 1, 8, 4, "a");
    sim_run_all(&sim);
    /* Both work at the same time: 4 evaluations of 4 lanes each, one decoding each. */
    ENSURE_EQ(q->ended_at - q->submitted_at, 4 * 14000 + 5000 + 2 * 300 + 600);
    sim_finish(&sim);
}
END_TEST

/* N clients that ask again some time after each answer. */
struct closed_loop {
    uint64_t think_us;
    uint64_t seed;
    int steps[4];
};

static void ask_again(struct sim *s, struct sim_request *q)
{
    struct closed_loop *loop = s->user;
    ENSURE_EQ(q->result, SCHED_DONE);
    loop->seed++;
    struct sched_spec spec = sim_spec(1, loop->seed, 1, loop->steps[loop->seed % 4]);
    static char tenants[64][8]; /* plans keep the pointer */
    snprintf(tenants[q->client], sizeof(tenants[0]), "t%d", q->client);
    spec.tenant = tenants[q->client];
    sim_later(s, s->now + loop->think_us + loop->seed % 7 * loop->think_us / 10, &spec, q->client);
}

static double mean_batch(int clients, int max_batch, int decode_batch, const int *steps,
                         bool work_conserving)
{
    struct sched_options o = defaults();
    if (work_conserving)
        o.return_gap_percent = 0;
    sim_init(&sim, &o, 1, 1, max_batch, decode_batch);
    struct closed_loop loop = {.think_us = 400};
    memcpy(loop.steps, steps, sizeof(loop.steps));
    sim.user = &loop;
    sim.on_end = ask_again;
    sim.unchecked = true;
    for (int i = 0; i < clients; i++) {
        loop.seed++;
        struct sim_request *q = submit(1, loop.seed, 1, steps[i % 4], "t");
        q->client = i;
    }
    sim_run(&sim, sim.now + 20000000);
    const struct sched_histogram *h = &sim.core.stats.batch[SCHED_STEP];
    double mean = h->sum / (double)h->count;
    double busy = (double)sim.core.stats.engine_busy_us / 20000000;
    printf("closed loop: %2d clients, max_batch %d, decode_batch %d, steps %d%s: mean batch %.2f, "
           "engine busy %.1f %%\n",
           clients, max_batch, decode_batch, steps[0] == steps[1] ? steps[0] : 0,
           work_conserving ? ", never held" : "", mean, 100 * busy);
    sim_finish(&sim);
    return mean;
}

START_TEST(test_mean_batch)
{
    static const int clients[] = {1, 2, 3, 5, 8, 9, 12, 16, 32};
    static const int steps[3][4] = {{1, 1, 1, 1}, {4, 4, 4, 4}, {1, 2, 4, 8}};
    int n = clients[_i];
    for (int decode_batch = 1; decode_batch <= 8; decode_batch += 7) {
        for (int k = 0; k < 3; k++)
            ck_assert_double_gt(mean_batch(n, 8, decode_batch, steps[k], false),
                                0.9 * (n < 8 ? n : 8));
    }
}
END_TEST

/* ---- Fairness -------------------------------------------------------------------------------- */

START_TEST(test_large_does_not_hold_up_small)
{
    for (int same_tenant = 0; same_tenant < 2; same_tenant++) {
        for (int steps = 1; steps <= 16; steps *= 16) {
            begin(1, 1, 8, 1);
            struct sim_request *large = submit(1, 1, 64, steps, "large");
            sim_run(&sim, sim.now + 25000);
            struct sim_request *small = submit(2, 1, 1, steps, same_tenant ? "large" : "small");
            sim_run_all(&sim);
            uint64_t alone = (uint64_t)steps * 18000 + 2000 + 300;
            /* The batch in hand, then its turn at every evaluation; the other's decodings may slip
             * in between now and then. */
            ENSURE_LE(small->ended_at - small->submitted_at, 18000 + 8 * 2000 + 2 * alone);
            ENSURE_LT(small->ended_at, large->ended_at - 2 * 18000);
            sim_finish(&sim);
        }
    }
}
END_TEST

START_TEST(test_tenants_share)
{
    begin(1, 1, 8, 8);
    /* One with many requests, one with a single large one, one with few. */
    for (int i = 0; i < 20; i++)
        submit(1, 1000u * (unsigned)i, 10, 1, "many");
    submit(2, 1, 200, 1, "large");
    for (int i = 0; i < 100; i++)
        submit(3, 1000u * (unsigned)i, 2, 1, "few");
    sim_run(&sim, sim.now + 500000);
    uint32_t got[4] = {0}, total = 0;
    for (int i = 0; i < sim.request_count; i++) {
        const struct sim_request *q = sim.requests[i];
        got[q->n == 10 ? 1 : q->n == 200 ? 2 : 3] += q->got;
        total += q->got;
    }
    ENSURE_GT(total, 90);
    for (int i = 1; i < 4; i++) {
        ENSURE_GE(got[i] + 8, total / 3);
        ENSURE_LE(got[i], total / 3 + 8);
    }
    sim_finish(&sim);
}
END_TEST

START_TEST(test_newcomer_owes_nothing)
{
    begin(1, 1, 4, 4);
    struct sim_request *old = submit(1, 1, 900, 1, "old");
    sim_run(&sim, sim.now + 1000000);
    uint32_t before = old->got;
    ENSURE_GT(before, 50);
    struct sim_request *new = submit(2, 1, 900, 1, "new");
    sim_run(&sim, sim.now + 1000000);
    /* From now on both get the same: the newcomer neither catches up nor waits. */
    ENSURE_LE(abs((int)(old->got - before) - (int)new->got), 8);
    sim_finish(&sim);
}
END_TEST

START_TEST(test_priority)
{
    begin(1, 1, 4, 4);
    struct sched_spec spec = sim_spec(1, 1, 40, 1);
    spec.priority = 9;
    struct sim_request *late = sim_submit(&sim, &spec, NULL);
    sim_run(&sim, sim.now + 20000);
    spec = sim_spec(2, 1, 20, 1);
    spec.priority = 0;
    struct sim_request *first = sim_submit(&sim, &spec, NULL);
    uint32_t got = late->got;
    while (!first->ended)
        sim_step(&sim);
    ENSURE_LE(late->got, got + 8); /* no more than was under way, and gaps in batches */
    sim_run_all(&sim);
    ENSURE(late->ended);
    sim_finish(&sim);
}
END_TEST

/* Urgent requests keep the engine saturated for ever; the least urgent one still gets through. */
static void again_urgent(struct sim *s, struct sim_request *q)
{
    if (q->client < 0)
        return;
    struct sched_spec spec = sim_spec(1, (uint64_t)s->request_count, 4, 2);
    spec.priority = 0;
    sim_later(s, s->now, &spec, 1);
}

START_TEST(test_no_starvation)
{
    begin(1, 1, 4, 4);
    sim.unchecked = true;
    sim.on_end = again_urgent;
    for (int i = 0; i < 8; i++) {
        struct sched_spec spec = sim_spec(1, 100000 + (uint64_t)i * 100, 4, 2);
        spec.priority = 0;
        sim_submit(&sim, &spec, NULL)->client = 1;
    }
    struct sched_spec spec = sim_spec(2, 1, 2, 2);
    spec.priority = 9;
    spec.tenant = "patient";
    struct sim_request *q = sim_submit(&sim, &spec, NULL);
    /* 9 levels of 5 s for each time it is served: 2 evaluations and a decoding of a batch. */
    sim_run(&sim, sim.now + 3 * 9 * 5000000 + 5000000);
    ENSURE(q->ended);
    ENSURE_GE(q->ended_at - q->submitted_at, 9 * 5000000);
    sim_finish(&sim);
}
END_TEST

/* ---- Admission ------------------------------------------------------------------------------- */

START_TEST(test_queue_bound)
{
    struct sched_options o = defaults();
    o.max_queue = 20;
    sim_init(&sim, &o, 1, 1, 4, 4);
    struct sched_refusal why;
    struct sched_spec spec = sim_spec(1, 1, 21, 1);
    ENSURE(NULL == sim_submit(&sim, &spec, &why));
    ENSURE_EQ(why.why, SCHED_REJECT_SIZE);
    submit(1, 1, 20, 1, "a");
    spec = sim_spec(2, 1, 1, 1);
    ENSURE(NULL == sim_submit(&sim, &spec, &why));
    ENSURE_EQ(why.why, SCHED_REJECT_QUEUE);
    /* What is in flight already needs no place. */
    spec = sim_spec(1, 1, 4, 1);
    ENSURE(NULL != sim_submit(&sim, &spec, &why));
    /* Once the speed is known, the advice is true: refused a little earlier, accepted then. */
    sim_run(&sim, sim.now + 50000);
    while (sim.core.stats.queue_images < 20) {
        spec = sim_spec(3, (uint64_t)sim.request_count * 100, 1, 1);
        ENSURE(NULL != sim_submit(&sim, &spec, &why));
    }
    spec = sim_spec(4, 1, 10, 1);
    ENSURE(NULL == sim_submit(&sim, &spec, &why));
    uint64_t advice = why.retry_us, asked = sim.now;
    ENSURE_GT(advice, 10000);
    while (sim_submit(&sim, &spec, &why) == NULL)
        sim_run(&sim, sim.now + 1000);
    uint64_t took = sim.now - asked;
    ENSURE_LE(took, advice * 2);
    ENSURE_GE(took * 2, advice);
    ENSURE_GT(sim.core.stats.rejected[SCHED_REJECT_QUEUE], 1);
    sim_finish(&sim);
}
END_TEST

START_TEST(test_deadline_refused)
{
    begin(1, 1, 8, 8);
    submit(1, 1, 32, 4, "a"); /* teaches the speed */
    submit(2, 1, 1, 4, "a");
    sim_run_all(&sim);
    struct sched_refusal why;
    struct sched_spec spec = sim_spec(3, 1, 1, 4);
    spec.timeout_us = 10000; /* alone it takes 4 x 11 ms */
    ENSURE(NULL == sim_submit(&sim, &spec, &why));
    ENSURE_EQ(why.why, SCHED_REJECT_DEADLINE);
    spec.timeout_us = 100000;
    struct sim_request *q = sim_submit(&sim, &spec, &why);
    ENSURE(NULL != q);
    sim_run_all(&sim);
    ENSURE_EQ(q->result, SCHED_DONE);
    /* A long queue of others of the same priority is shared with, not waited for... */
    submit(4, 1, 400, 4, "a");
    sim_run(&sim, sim.now + 20000);
    spec = sim_spec(5, 1, 1, 4);
    spec.tenant = "b";
    spec.timeout_us = 300000;
    q = sim_submit(&sim, &spec, &why);
    ENSURE(NULL != q);
    /* ...but what is more urgent is waited for. */
    spec.seed = 9;
    spec.priority = 6;
    ENSURE(NULL == sim_submit(&sim, &spec, &why));
    ENSURE_EQ(why.why, SCHED_REJECT_DEADLINE);
    ENSURE_GT(why.retry_us, 0);
    sim_run(&sim, sim.now + 300000);
    ENSURE_EQ(q->result, SCHED_DONE);
    sim_finish(&sim);
}
END_TEST

START_TEST(test_deadline_passes)
{
    begin(1, 1, 2, 2);
    struct sched_spec spec = sim_spec(1, 1, 10, 8);
    spec.timeout_us = 150000; /* speed unknown: accepted */
    struct sim_request *q = sim_submit(&sim, &spec, NULL);
    sim_run_all(&sim);
    ENSURE(q->ended && q->result == SCHED_TIMEOUT);
    ENSURE_EQ(q->ended_at, q->submitted_at + 150000);
    ENSURE_GT(q->got, 0);
    ENSURE_EQ(sim.core.stats.deadline_missed, 1);
    ENSURE_EQ(sim.core.stats.sent_images, q->got);
    ENSURE_EQ(sim.core.stats.failed_images, q->n - q->got);
    sim_finish(&sim);
}
END_TEST

START_TEST(test_states)
{
    begin(1, 1, 2, 2);
    ENSURE_EQ(core_add_model(&sim.core), 1);
    struct sched_refusal why;
    struct sched_spec spec = sim_spec(1, 1, 1, 1);
    spec.model = 1;
    ENSURE(NULL == sim_submit(&sim, &spec, &why));
    ENSURE_EQ(why.why, SCHED_REJECT_LOADING);
    core_model_failed(&sim.core, 1, "no such file", sim.now);
    ENSURE(NULL == sim_submit(&sim, &spec, &why));
    ENSURE_EQ(why.why, SCHED_REJECT_SICK);
    ENSURE_EQ(sim.core.model[1].state, SCHED_MODEL_FAILED);
    spec.model = 0;
    sim.core.draining = true;
    ENSURE(NULL == sim_submit(&sim, &spec, &why));
    ENSURE_EQ(why.why, SCHED_REJECT_DRAINING);
    sim_finish(&sim);
}
END_TEST

/* ---- Sharing --------------------------------------------------------------------------------- */

/* The phases of a single picture: the time at which it is surely in each, from its submission. */
static const struct {
    uint64_t after;
    enum picture_state state;
    enum sched_phase phase;
    bool in_hand;
} phases[] = {
    {0, PICTURE_QUEUED, SCHED_PHASE_QUEUED, false},
    {30000, PICTURE_RUNNING, SCHED_PHASE_RUNNING, true},
    {30000 + 2 * 11000 + 100, PICTURE_DENOISED, SCHED_PHASE_DECODING, true},
    {30000 + 2 * 11000 + 2000 + 100, PICTURE_ENCODING, SCHED_PHASE_ENCODING, true},
};

/* A two-step picture that has come as far as phase i; a blocker in front makes it wait first. */
static struct sim_request *bring_to(int i, struct sim_request **blocker)
{
    begin(1, 1, 1, 1);
    *blocker = submit(9, 9, 1, 1, "blocker");
    sim_run(&sim, sim.now);
    struct sim_request *q = submit(1, 1, 1, 2, "a");
    uint64_t after = phases[i].after;
    if (i > 0) { /* the blocker's own 11 ms and 2 ms come first */
        while (!(*blocker)->ended)
            sim_step(&sim);
        after = i == 1 ? 15000 : i == 2 ? 2 * 11000 + 13000 + 500 : 2 * 11000 + 13000 + 2000 + 100;
        sim_run(&sim, q->submitted_at + after);
    }
    return q;
}

static const struct picture *only_picture(int label)
{
    for (size_t i = 0; i < sim.core.bucket_count; i++) {
        for (const struct picture *p = sim.core.bucket[i]; p != NULL; p = p->next) {
            if (p->key.label == label)
                return p;
        }
    }
    return NULL;
}

START_TEST(test_coalesce)
{
    for (int cancel = 0; cancel < 3; cancel++) {
        struct sim_request *blocker, *first = bring_to(_i, &blocker);
        ENSURE_EQ(only_picture(1)->state, phases[_i].state);
        struct sim_request *second = submit(1, 1, 1, 2, "b");
        ENSURE_EQ(sim.core.stats.coalesced, 1);
        struct sched_spec spec = sim_spec(1, 1, 1, 2);
        spec.want = SCHED_RGB; /* wants something else of the same picture */
        struct sim_request *third = sim_submit(&sim, &spec, NULL);
        if (cancel == 1)
            sim_close(&sim, first, SCHED_GONE);
        if (cancel == 2)
            sim_close(&sim, second, SCHED_GONE);
        sim_run_all(&sim);
        ENSURE_EQ(first->ended, cancel != 1);
        ENSURE_EQ(second->ended, cancel != 2);
        ENSURE(third->ended);
        if (cancel != 2) {
            ENSURE_EQ(second->last_source, SCHED_COALESCED);
            ENSURE_LE(second->last_timings.queue + second->last_timings.denoise +
                          second->last_timings.decode + second->last_timings.encode,
                      second->ended_at - second->submitted_at);
        }
        ENSURE_EQ(sim.core.stats.images[0][2], 1); /* computed once */
        sim_finish(&sim);
    }
}
END_TEST

START_TEST(test_cancel)
{
    struct sim_request *blocker, *q = bring_to(_i, &blocker);
    const struct picture *p = only_picture(1);
    ENSURE_EQ(p->state, phases[_i].state);
    ENSURE_EQ(p->in_hand, phases[_i].in_hand);
    sim_close(&sim, q, SCHED_GONE);
    for (int phase = 0; phase < SCHED_PHASE_COUNT; phase++) {
        uint64_t expected = phase == (int)phases[_i].phase;
        ENSURE_EQ(sim.core.stats.cancelled_images[phase], expected);
        ENSURE_EQ(sim.core.stats.cancelled_requests[phase], expected);
    }
    ENSURE_EQ(only_picture(1) != NULL, phases[_i].in_hand);
    uint64_t evaluations = sim.core.stats.network_evaluations;
    sim_run_all(&sim);
    ENSURE(!q->ended);
    /* Nothing more was done for it than the batch in hand. */
    ENSURE_LE(sim.core.stats.network_evaluations, evaluations + 1);
    ENSURE(blocker->ended);
    sim_finish(&sim);
}
END_TEST

/* A picture whose only request was cancelled while it was in hand, and is asked again before that
 * batch ends: the work is not lost. */
START_TEST(test_cancel_and_return)
{
    struct sim_request *blocker, *q = bring_to(1, &blocker);
    sim_close(&sim, q, SCHED_GONE);
    struct sim_request *again = submit(1, 1, 1, 2, "b");
    sim_run_all(&sim);
    ENSURE(again->ended && again->result == SCHED_DONE);
    ENSURE_EQ(sim.core.stats.network_evaluations, 3);
    sim_finish(&sim);
}
END_TEST

/* A client that goes away after its pictures were made, before it had them all. */
START_TEST(test_cancel_sending)
{
    begin(1, 1, 4, 4);
    struct sim_request *q = submit(1, 1, 4, 1, "a"), *broken = submit(1, 9, 4, 1, "a");
    q->keep = broken->keep = q->manual_release = true;
    sim_run_all(&sim);
    ENSURE(q->ended && q->got == 4 && q->r != NULL);
    core_release(&sim.core, q->r, 3, sim.now);
    sim_close(&sim, q, SCHED_GONE);
    sim_close(&sim, broken, SCHED_BROKEN);
    const struct sched_stats *t = &sim.core.stats;
    ENSURE_EQ(t->sent_images, 3 + 4);
    ENSURE_EQ(t->cancelled_images[SCHED_PHASE_SENDING], 1);
    ENSURE_EQ(t->cancelled_requests[SCHED_PHASE_SENDING], 1);
    ENSURE_EQ(t->failed_requests, 1);
    ENSURE_EQ(t->failed_images + t->sent_requests, 0);
    sim_finish(&sim);
}
END_TEST

START_TEST(test_cancel_large)
{
    begin(1, 1, 4, 4);
    struct sim_request *q = submit(1, 1, 50, 2, "a");
    while (q->got < 9)
        sim_step(&sim);
    sim_close(&sim, q, SCHED_GONE);
    uint64_t images = q->got;
    for (int phase = 0; phase < SCHED_PHASE_COUNT; phase++)
        images += sim.core.stats.cancelled_images[phase];
    ENSURE_EQ(images, 50);
    ENSURE_EQ(sim.core.stats.cancelled_requests[SCHED_PHASE_SENDING], 1);
    sim_run_all(&sim);
    ENSURE_LT(sim.core.stats.network_evaluations, 60);
    sim_finish(&sim);
}
END_TEST

START_TEST(test_window)
{
    begin(1, 1, 4, 4);
    struct sched_spec spec = sim_spec(1, 1, 20, 1);
    spec.window = 4;
    struct sim_request *q = sim_submit(&sim, &spec, NULL);
    q->manual_release = true;
    sim_run_all(&sim);
    ENSURE_EQ(q->got, 4); /* a reader that does not read stops its own request only */
    struct sim_request *other = submit(2, 1, 5, 1, "b");
    sim_run_all(&sim);
    ENSURE(other->ended);
    while (!q->ended) {
        q->held--;
        core_release(&sim.core, q->r, 1, sim.now);
        sim_run_all(&sim);
        ENSURE_LE(q->held, 4);
    }
    ENSURE_EQ(q->got, 20);
    ENSURE_EQ(q->most_held, 4);
    sim_finish(&sim);
}
END_TEST

START_TEST(test_cache)
{
    struct sched_options o = defaults();
    o.cache_bytes = 1 << 20;
    o.max_queue = 8;
    sim_init(&sim, &o, 1, 1, 4, 4);
    submit(1, 1, 8, 1, "a");
    sim_run_all(&sim);
    uint64_t evaluations = sim.core.stats.network_evaluations;
    struct sim_request *q = submit(1, 1, 8, 1, "b");
    sim_run_all(&sim);
    ENSURE(q->ended && q->got == 8 && q->last_source == SCHED_CACHED);
    ENSURE_EQ(q->ended_at, q->submitted_at);
    ENSURE_EQ(sim.core.stats.cache_hits, 8);
    ENSURE_EQ(sim.core.stats.network_evaluations, evaluations);
    /* Hits are served though the queue is full. */
    submit(2, 1, 8, 1, "c");
    struct sched_refusal why;
    struct sched_spec spec = sim_spec(1, 1, 8, 1);
    ENSURE(NULL != sim_submit(&sim, &spec, &why));
    spec = sim_spec(1, 1, 9, 1); /* one of them is new */
    ENSURE(NULL == sim_submit(&sim, &spec, &why));
    sim_finish(&sim);
}
END_TEST

START_TEST(test_held_by_max_delay)
{
    struct sched_options o = defaults();
    o.max_delay_us = 5000;
    sim_init(&sim, &o, 1, 1, 3, 3);
    struct sim_request *a = submit(1, 1, 1, 1, "a");
    sim_run(&sim, sim.now + 2000);
    submit(2, 1, 1, 1, "b");
    sim_run_all(&sim);
    ENSURE_EQ(a->last_timings.queue, 5000);
    ENSURE_EQ(sim.core.stats.batch[SCHED_STEP].count, 1);
    ENSURE_EQ(sim.core.stats.held_us, 5000);
    a = submit(3, 1, 3, 1, "a"); /* full: not held */
    sim_run_all(&sim);
    ENSURE_EQ(a->last_timings.queue, 0);
    sim_finish(&sim);
}
END_TEST

START_TEST(test_slow_encoder)
{
    struct sched_options o = defaults();
    o.max_encoding = 8;
    sim_init(&sim, &o, 1, 1, 4, 4);
    sim.encode_us = 100000;
    for (int i = 0; i < 20; i++)
        submit(i, 1, 4, 1, "a");
    while (sim_step(&sim))
        ENSURE_LE(sim.core.encoding, 8);
    ENSURE_EQ(sim.core.stats.images[0][1], 80);
    sim_finish(&sim);
}
END_TEST

/* ---- Failures -------------------------------------------------------------------------------- */

START_TEST(test_device_fails)
{
    begin(2, 2, 4, 4);
    sim.core.model[1].devices = 1; /* model 1 lives on device 0 only */
    struct sim_request *q[40];
    for (int i = 0; i < 40; i++) {
        struct sched_spec spec = sim_spec(i, 1, 1, 3);
        spec.model = i % 2;
        q[i] = sim_submit(&sim, &spec, NULL);
    }
    sim_run(&sim, sim.now + 20000);
    sim.device[0].fail_next = true;
    sim_run_all(&sim);
    int done = 0, failed = 0;
    for (int i = 0; i < 40; i++) {
        ENSURE(q[i]->ended);
        done += q[i]->result == SCHED_DONE;
        failed += q[i]->result == SCHED_FAILED;
        if (q[i]->result == SCHED_FAILED)
            ck_assert_str_eq(q[i]->message, "it broke");
    }
    ENSURE_EQ(done + failed, 40);
    ENSURE_GE(done, 15); /* model 0 went on, on device 1 */
    ENSURE_GE(failed, 20 - 4);
    ENSURE_EQ(sim.core.model[0].state, SCHED_MODEL_READY);
    ENSURE_EQ(sim.core.model[1].state, SCHED_MODEL_SICK);
    struct sched_refusal why;
    struct sched_spec spec = sim_spec(1, 1, 1, 1);
    spec.model = 1;
    ENSURE(NULL == sim_submit(&sim, &spec, &why));
    ENSURE_EQ(why.why, SCHED_REJECT_SICK);
    spec.model = 0;
    struct sim_request *after = sim_submit(&sim, &spec, &why);
    sim_run_all(&sim);
    ENSURE_EQ(after->result, SCHED_DONE);
    sim_finish(&sim);
}
END_TEST

START_TEST(test_one_lane_is_bad)
{
    begin(1, 1, 8, 8);
    sim.bad_label = 3;
    int32_t labels[4] = {1, 3, 2, 3};
    uint64_t seeds[4] = {1, 1, 1, 1};
    struct sched_spec spec = sim_spec(0, 0, 4, 2);
    spec.labels = labels;
    spec.seeds = seeds;
    struct sim_request *bad = sim_submit(&sim, &spec, NULL), *good = submit(1, 1, 2, 2, "b");
    sim_run_all(&sim);
    ENSURE_EQ(bad->result, SCHED_FAILED);
    ENSURE_EQ(good->result, SCHED_DONE);
    ENSURE_EQ(sim.core.model[0].state, SCHED_MODEL_READY);
    sim_finish(&sim);
}
END_TEST

/* ---- Anything may happen --------------------------------------------------------------------- */

static uint32_t random_below(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % n;
}

static struct sched_spec random_spec(uint64_t *rng)
{
    static const char *const tenants[] = {"a", "b", "c", NULL, "e"};
    static const uint64_t timeouts[] = {0, 0, 0, 1000, 50000, 1000000};
    struct sched_spec spec = sim_spec((int)random_below(rng, 6), random_below(rng, 12),
                                      1 + random_below(rng, random_below(rng, 4) == 0 ? 40 : 3),
                                      1 + (int)random_below(rng, 5));
    spec.model = (int)random_below(rng, 2);
    spec.want = 1 + random_below(rng, 3);
    spec.priority = (int)random_below(rng, 10);
    spec.tenant = tenants[random_below(rng, 5)];
    spec.timeout_us = timeouts[random_below(rng, 6)];
    spec.window = random_below(rng, 3) == 0 ? 1 + random_below(rng, 5) : 0;
    return spec;
}

static struct sim_request *random_live(uint64_t *rng)
{
    for (int tries = 0; tries < 8 && sim.request_count > 0; tries++) {
        struct sim_request *q = sim.requests[random_below(rng, (uint32_t)sim.request_count)];
        if (q->r != NULL)
            return q;
    }
    return NULL;
}

static void random_act(uint64_t *rng)
{
    struct sched_spec spec;
    struct sim_request *q;
    switch (random_below(rng, 12)) {
    case 0:
    case 1:
    case 2:
    case 3:
        spec = random_spec(rng);
        q = sim_submit(&sim, &spec, NULL);
        if (q != NULL) {
            q->manual_release = random_below(rng, 3) == 0;
            q->keep = random_below(rng, 3) == 0;
        }
        break;
    case 4:
        q = random_live(rng);
        if (q != NULL)
            sim_close(&sim, q, random_below(rng, 4) == 0 ? SCHED_BROKEN : SCHED_GONE);
        break;
    case 5:
    case 6:
        q = random_live(rng);
        if (q != NULL && q->held > 0) {
            q->held--;
            core_release(&sim.core, q->r, 1, sim.now);
        }
        break;
    case 7:
        if (random_below(rng, 40) == 0)
            sim.device[random_below(rng, 2)].fail_next = true;
        break;
    case 8:
        sim.now += random_below(rng, 3000);
        break;
    default:
        sim_step(&sim);
        break;
    }
    sim_check(&sim);
}

START_TEST(test_random)
{
    for (int round = 0; round < 100; round++) {
        uint64_t rng = (uint64_t)_i * 1000 + (uint64_t)round;
        struct sched_options o = defaults();
        o.max_queue = 5 + random_below(&rng, 100);
        o.max_delay_us = random_below(&rng, 2) * random_below(&rng, 20000);
        o.ageing_us = 1 + random_below(&rng, 100000);
        o.return_gap_percent = (int)random_below(&rng, 2) * 10;
        o.cache_bytes = random_below(&rng, 3) * 2000;
        o.max_encoding = 1 + random_below(&rng, 20);
        sim_init(&sim, &o, 2, 2, 1 + (int)random_below(&rng, 9), 1 + (int)random_below(&rng, 4));
        if (random_below(&rng, 2))
            sim.core.model[1].devices = 2;
        for (int d = 0; d < 2; d++) { /* few lanes, to run out of them */
            for (int m = 0; m < 2; m++)
                sim.core.device[d].lane_limit[m] = 1 + random_below(&rng, 20);
        }
        sim.step_us = random_below(&rng, 3) * 5000;
        sim.step_lane_us = random_below(&rng, 2000);
        sim.encode_us = random_below(&rng, 5000);
        sim.bad_label = random_below(&rng, 4) == 0 ? 3 : -1;
        for (int i = 0; i < 300; i++)
            random_act(&rng);
        /* Readers wake up: now everything must end by itself. */
        for (bool more = true; more;) {
            sim_run_all(&sim);
            more = false;
            for (int i = 0; i < sim.request_count; i++) {
                struct sim_request *q = sim.requests[i];
                if (q->r != NULL && q->held > 0) {
                    core_release(&sim.core, q->r, q->held, sim.now);
                    q->held = 0;
                    q->manual_release = false;
                    more = true;
                }
            }
        }
        for (int i = 0; i < sim.request_count; i++) {
            if (sim.requests[i]->r != NULL && !sim.requests[i]->ended)
                ck_abort_msg("seed %d: request %d never ended", _i * 1000 + round, i);
        }
        sim_finish(&sim);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("scheduler");
    TCase *tc = tcase_create("scheduler");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, test_one);
    tcase_add_test(tc, test_lists);
    tcase_add_test(tc, test_joins_every_evaluation);
    tcase_add_test(tc, test_models_apart);
    tcase_add_test(tc, test_two_devices);
    tcase_add_loop_test(tc, test_mean_batch, 0, 9);
    tcase_add_test(tc, test_large_does_not_hold_up_small);
    tcase_add_test(tc, test_tenants_share);
    tcase_add_test(tc, test_newcomer_owes_nothing);
    tcase_add_test(tc, test_priority);
    tcase_add_test(tc, test_no_starvation);
    tcase_add_test(tc, test_queue_bound);
    tcase_add_test(tc, test_deadline_refused);
    tcase_add_test(tc, test_deadline_passes);
    tcase_add_test(tc, test_states);
    tcase_add_loop_test(tc, test_coalesce, 0, 4);
    tcase_add_loop_test(tc, test_cancel, 0, 4);
    tcase_add_test(tc, test_cancel_and_return);
    tcase_add_test(tc, test_cancel_sending);
    tcase_add_test(tc, test_cancel_large);
    tcase_add_test(tc, test_window);
    tcase_add_test(tc, test_cache);
    tcase_add_test(tc, test_held_by_max_delay);
    tcase_add_test(tc, test_slow_encoder);
    tcase_add_test(tc, test_device_fails);
    tcase_add_test(tc, test_one_lane_is_bad);
    tcase_add_loop_test(tc, test_random, 0, 30);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
