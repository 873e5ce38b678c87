/* Batches of the scheduler on a simulated clock: who joins them and when, how full they are, and
 * when they are held. */
#include "scheduler_case.h"

#include <stdio.h>
#include <string.h>

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

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, test_one);
    tcase_add_test(tc, test_lists);
    tcase_add_test(tc, test_joins_every_evaluation);
    tcase_add_test(tc, test_models_apart);
    tcase_add_test(tc, test_two_devices);
    tcase_add_loop_test(tc, test_mean_batch, 0, 9);
    tcase_add_test(tc, test_held_by_max_delay);
}

int main(void)
{
    return run_case("scheduler batching", add_tests);
}
