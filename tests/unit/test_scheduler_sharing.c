/* Pictures that several requests want, or the cache has; and what cancelling leaves of them. */
#include "scheduler_case.h"

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
    const struct picture *p = sim.core.pictures;
    while (p && p->key.label != label)
        p = p->hh.next;
    return p;
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
    ENSURE(q->ended && q->got == 4 && q->r);
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

static void add_tests(TCase *tc)
{
    tcase_add_loop_test(tc, test_coalesce, 0, 4);
    tcase_add_loop_test(tc, test_cancel, 0, 4);
    tcase_add_test(tc, test_cancel_and_return);
    tcase_add_test(tc, test_cancel_sending);
    tcase_add_test(tc, test_cancel_large);
    tcase_add_test(tc, test_cache);
}

int main(void)
{
    return run_case("scheduler sharing", add_tests);
}
