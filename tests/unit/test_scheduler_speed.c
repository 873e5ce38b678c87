/* What is concluded from measured speed: when a refused request is told to come again, and which
 * deadlines are thought impossible. */
#include "scheduler_case.h"

/* ---- When to come again ---------------------------------------------------------------------- */

struct retry_case {
    uint64_t step_us, step_lane_us;
    int devices, max_batch, decode_batch, steps;
    uint32_t n;       /* of the request that is refused */
    uint32_t fill_by; /* the queue is filled with requests of so many pictures */
};

static const struct retry_case retry_cases[] = {
    {300000, 0, 1, 8, 8, 1, 1, 1},     {300000, 0, 1, 8, 8, 1, 4, 1},
    {300000, 0, 1, 8, 1, 1, 1, 1},     {300000, 0, 1, 8, 8, 1, 1, 4},
    {10000, 20000, 1, 8, 8, 1, 1, 1},  {300000, 0, 1, 4, 4, 2, 1, 1},
    {300000, 0, 1, 8, 8, 8, 1, 1},     {300000, 0, 2, 8, 8, 1, 1, 1},
    {300000, 0, 3, 4, 2, 1, 5, 1},     {2000, 100, 1, 8, 8, 1, 1, 1},
    {20000000, 0, 1, 8, 8, 1, 1, 1},   {300000, 0, 1, 1, 1, 1, 3, 1},
    {100000, 5000, 1, 32, 8, 1, 1, 1}, {300000, 0, 1, 8, 8, 1, 12, 16},
};

/* Fills the queue to the last place. */
static void fill(const struct retry_case *k, int label)
{
    struct sched_refusal why;
    for (uint64_t seed = 0; sim.core.stats.queue_images < sim.core.options.max_queue; seed++) {
        uint32_t room = sim.core.options.max_queue - sim.core.stats.queue_images;
        struct sched_spec spec =
            sim_spec(label, seed * 100, room < k->fill_by ? room : k->fill_by, k->steps);
        ENSURE(sim_submit(&sim, &spec, &why));
    }
}

/* Refused at this moment, a request is told a time after which it fits, and not much longer than it
 * must wait: at most the way of one batch. */
static void check_advice(const struct retry_case *k, uint64_t seed)
{
    struct sched_refusal why;
    struct sched_spec spec = sim_spec(7, seed, k->n, k->steps);
    spec.tenant = "late";
    ENSURE(!sim_submit(&sim, &spec, &why));
    ENSURE_EQ(why.why, SCHED_REJECT_QUEUE);
    uint64_t asked = sim.now, advice = why.retry_us, fitted = 0;
    while (sim.now < asked + advice) {
        if (fitted == 0 && sim.core.stats.queue_images + k->n <= sim.core.options.max_queue)
            fitted = sim.now - asked;
        uint64_t rest = asked + advice - sim.now;
        sim_run(&sim, sim.now + (rest < 1000 ? rest : 1000));
    }
    uint64_t way = (uint64_t)k->steps * (k->step_us + (uint64_t)k->max_batch * k->step_lane_us) +
                   (uint64_t)k->max_batch * 2000;
    ENSURE(sim_submit(&sim, &spec, &why));
    if (fitted > 0)
        ENSURE_LE(advice, fitted + way + advice / 8 + 2000);
}

START_TEST(test_retry_is_when_it_fits)
{
    const struct retry_case *k = &retry_cases[_i];
    struct sched_options o = defaults();
    o.max_queue = 24;
    o.return_gap_percent = 0;
    sim_init(&sim, &o, k->devices, 1, k->max_batch, k->decode_batch);
    sim.step_us = k->step_us;
    sim.step_lane_us = k->step_lane_us;
    /* Full batches teach the speed. */
    fill(k, 1);
    sim_run_all(&sim);
    for (int round = 0; round < 5; round++) {
        fill(k, 2 + round);
        /* At different moments of the batch in hand. */
        sim_run(&sim, sim.now + (uint64_t)round * k->step_us / 5 + 1);
        fill(k, 20 + round);
        check_advice(k, 1000 * (uint64_t)(round + 1));
        sim_run_all(&sim);
    }
    sim_finish(&sim);
}
END_TEST

/* A queue full of another device's work shrinks at that device's speed. */
START_TEST(test_retry_counts_every_device)
{
    struct sched_options o = defaults();
    o.max_queue = 8;
    sim_init(&sim, &o, 2, 2, 4, 4);
    sim.core.model[0].devices = 1;
    sim.core.model[1].devices = 2;
    struct sched_spec spec = sim_spec(1, 1, 1, 1);
    for (int m = 0; m < 2; m++) {
        spec.model = m;
        ENSURE(sim_submit(&sim, &spec, NULL));
        sim_run_all(&sim);
    }
    for (uint64_t seed = 10; sim.core.stats.queue_images < 8; seed++) {
        spec = sim_spec(1, seed, 1, 64);
        ENSURE(sim_submit(&sim, &spec, NULL));
    }
    sim_run(&sim, sim.now + 1);
    for (uint64_t seed = 100; sim.core.stats.queue_images < 8; seed++) {
        spec = sim_spec(1, seed, 1, 64);
        ENSURE(sim_submit(&sim, &spec, NULL));
    }
    struct sched_refusal why;
    spec = sim_spec(2, 1, 1, 1);
    spec.model = 1; /* whose device idles */
    ENSURE(!sim_submit(&sim, &spec, &why));
    ENSURE_GT(why.retry_us, 63 * 10000);
    sim_run(&sim, sim.now + why.retry_us);
    ENSURE(sim_submit(&sim, &spec, &why));
    sim_finish(&sim);
}
END_TEST

START_TEST(test_retry_before_anything_is_known)
{
    struct sched_options o = defaults();
    o.max_queue = 1;
    sim_init(&sim, &o, 1, 1, 4, 4);
    submit(1, 1, 1, 1, "a");
    struct sched_refusal why;
    struct sched_spec spec = sim_spec(1, 2, 1, 1);
    ENSURE(!sim_submit(&sim, &spec, &why));
    ENSURE_EQ(why.retry_us, 1000000);
    sim_finish(&sim);
}
END_TEST

/* ---- Deadlines ------------------------------------------------------------------------------- */

static struct sim_request *ask(uint64_t seed, uint32_t n, uint64_t timeout_us)
{
    struct sched_refusal why;
    struct sched_spec spec = sim_spec(3, seed, n, 1);
    spec.timeout_us = timeout_us;
    struct sim_request *q = sim_submit(&sim, &spec, &why);
    if (!q)
        ENSURE_EQ(why.why, SCHED_REJECT_DEADLINE);
    return q;
}

/* The warm-up's picture took 229 s on a machine busy with something else. */
START_TEST(test_slow_start)
{
    begin(1, 1, 8, 8);
    core_guess(&sim.core.model[0], 229000000, 9000000, sim.now);
    struct sim_request *q = ask(1, 1, 2000000);
    ENSURE(q);                   /* it is the measurement */
    ENSURE(!ask(2, 1, 2000000)); /* one is enough */
    sim_run_all(&sim);
    ENSURE_EQ(q->result, SCHED_DONE);
    for (uint64_t seed = 10; seed < 20; seed++)
        ENSURE(ask(seed, 1, 2000000));
    sim_run_all(&sim);
    sim_finish(&sim);
}
END_TEST

/* So did real work: what it taught is not held against others for ever. */
START_TEST(test_slow_once)
{
    begin(1, 1, 8, 8);
    sim.step_us = 229000000;
    submit(1, 1, 1, 1, "a");
    sim_run_all(&sim);
    ENSURE(!ask(1, 1, 5000000));
    sim.step_us = 2000000; /* the machine has recovered, unseen so far */
    sim_run(&sim, sim.now + 4000000);
    ENSURE(!ask(1, 1, 5000000));
    sim_run(&sim, sim.now + 2000000);
    struct sim_request *q = ask(1, 1, 5000000);
    ENSURE(q);
    sim_run_all(&sim);
    ENSURE_EQ(q->result, SCHED_DONE);
    ENSURE(ask(2, 8, 5000000));
    ENSURE(!ask(50, 1, 1000000)); /* and what is impossible now is refused */
    sim_run_all(&sim);
    sim_finish(&sim);
}
END_TEST

/* Without work a speed counts for less and less. */
START_TEST(test_estimate_decays)
{
    begin(1, 1, 8, 8);
    sim.step_us = 10000000;
    submit(1, 1, 1, 1, "a");
    sim_run_all(&sim);
    struct sched_spec spec = sim_spec(1, 9, 1, 1);
    uint64_t fresh = core_estimate(&sim.core, &spec, 1, sim.now);
    uint64_t half = core_estimate(&sim.core, &spec, 1, sim.now + 30000000);
    ENSURE_GE(fresh, 10000000);
    ENSURE_LE(half, fresh / 2 + fresh / 50);
    ENSURE_GE(half, fresh / 2 - fresh / 50);
    ENSURE_LE(core_estimate(&sim.core, &spec, 1, sim.now + 300000000), fresh / 1000);
    sim_finish(&sim);
}
END_TEST

/* A size of batch that was slow once, and has not been seen since, while others are fast. */
START_TEST(test_one_size_was_slow)
{
    begin(1, 1, 8, 8);
    sim.step_us = 229000000;
    submit(1, 1, 1, 1, "a");
    sim_run_all(&sim);
    sim.step_us = 100000;
    for (int i = 0; i < 3000; i++) {
        submit(2, (uint64_t)i * 10 + 1000, 8, 1, "a");
        sim_run_all(&sim);
    }
    ENSURE(ask(1, 1, 2000000));
    sim_run_all(&sim);
    sim_finish(&sim);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_loop_test(tc, test_retry_is_when_it_fits, 0,
                        sizeof(retry_cases) / sizeof(retry_cases[0]));
    tcase_add_test(tc, test_retry_counts_every_device);
    tcase_add_test(tc, test_retry_before_anything_is_known);
    tcase_add_test(tc, test_slow_start);
    tcase_add_test(tc, test_slow_once);
    tcase_add_test(tc, test_estimate_decays);
    tcase_add_test(tc, test_one_size_was_slow);
}

int main(void)
{
    return run_case("scheduler speed", add_tests);
}
