/* The predicted time to drain agrees with what then happens, within a fifth, whatever waits: few or
 * many pictures, one step or dozens, several devices, models that share one. */
#include "scheduler_case.h"

#include <stdlib.h>

static void teach(int steps)
{
    static uint64_t seed = 1000000;
    for (int n = 1; n <= 64; n *= 2) {
        submit(7, seed, (uint32_t)n, steps, "teacher");
        seed += 1000;
        sim_run_all(&sim);
    }
}

/* Runs everything accepted; the time it took over the time predicted. */
static double agreement(int model)
{
    struct sched_stats *stats = malloc(sizeof(*stats));
    core_get_stats(&sim.core, stats);
    double predicted = stats->model[model].backlog_us;
    free(stats);
    uint64_t begin = sim.now;
    while (sim.core.pictures && sim_step(&sim))
        continue;
    double took = (double)(sim.now - begin);
    fflush(stdout);
    printf("predicted %8.1f ms, took %8.1f ms\n", predicted * 1e-3, took * 1e-3);
    fflush(stdout);
    return took / predicted;
}

#define ENSURE_AGREES(model)                                                                       \
    do {                                                                                           \
        double ratio = agreement(model);                                                           \
        ENSURE(ratio > 0.8 && ratio < 1.2);                                                        \
    } while (0)

START_TEST(test_drain)
{
    static const struct {
        int requests;
        uint32_t n;
        int steps;
    } cases[] = {{1, 1, 1},  {1, 1, 60}, {1, 5, 1},   {4, 50, 1},  {8, 1, 2},
                 {40, 1, 1}, {40, 1, 4}, {12, 16, 8}, {3, 64, 30}, {100, 3, 1}};
    for (int devices = 1; devices <= 2; devices++) {
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            begin(devices, 1, 8, 8);
            sim.encode_us = 1;
            teach(cases[i].steps);
            for (int k = 0; k < cases[i].requests; k++)
                submit(k, 1, cases[i].n, cases[i].steps, "a");
            ENSURE_AGREES(0);
            sim_finish(&sim);
        }
    }
}
END_TEST

START_TEST(test_mixed)
{
    uint64_t state = (uint64_t)_i + 1;
    begin(1, 1, 8, 4);
    sim.encode_us = 1;
    teach(1);
    teach(5);
    for (int k = 0; k < 60; k++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        submit(k, 5, 1 + (uint32_t)(state >> 33) % 12, 1 + (int)(state >> 50) % 20, "a");
        if (k % 7 == 0)
            sim_run(&sim, sim.now + (state >> 40) % 90000); /* some of it is half done */
    }
    ENSURE_AGREES(0);
    sim_finish(&sim);
}
END_TEST

/* Equal pictures count once, those in the cache not at all. */
START_TEST(test_shared)
{
    begin(1, 1, 8, 8);
    sim.encode_us = 1;
    teach(2);
    submit(1, 1, 16, 2, "a");
    sim_run_all(&sim);
    for (int k = 0; k < 10; k++) {
        submit(1, 1, 16, 2, "a");
        submit(2, 1, 16, 2, "b");
    }
    ENSURE_AGREES(0);
    sim_finish(&sim);
}
END_TEST

/* Two models on one device: each waits for both. */
START_TEST(test_two_models)
{
    begin(1, 2, 8, 8);
    sim.encode_us = 1;
    for (int m = 0; m < 2; m++) {
        struct sched_spec spec = sim_spec(3, 77, 32, 3);
        spec.model = m;
        ENSURE(sim_submit(&sim, &spec, NULL));
        sim_run_all(&sim);
        spec.seed = 5000;
        spec.n = 48;
        ENSURE(sim_submit(&sim, &spec, NULL));
        if (m == 0)
            sim_run_all(&sim);
    }
    struct sched_spec spec = sim_spec(4, 1, 48, 3);
    ENSURE(sim_submit(&sim, &spec, NULL));
    ENSURE_EQ((int)core_backlog_us(&sim.core, 0), (int)core_backlog_us(&sim.core, 1));
    ENSURE_AGREES(1);
    sim_finish(&sim);
}
END_TEST

/* Nothing accepted, nothing ahead; nothing measured, nothing said. Waiting turns to running. */
START_TEST(test_counts)
{
    struct sched_stats *stats = malloc(sizeof(*stats));
    begin(1, 1, 4, 4);
    submit(1, 1, 3, 1, "a");
    core_get_stats(&sim.core, stats);
    ENSURE_EQ((int)stats->model[0].backlog_us, 0);
    ENSURE_EQ(stats->model[0].waiting, 1);
    ENSURE_EQ(stats->model[0].running, 0);
    sim_step(&sim);
    core_get_stats(&sim.core, stats);
    ENSURE_EQ(stats->model[0].waiting, 0);
    ENSURE_EQ(stats->model[0].running, 1);
    sim_run_all(&sim);
    core_get_stats(&sim.core, stats);
    ENSURE_EQ(stats->model[0].waiting + stats->model[0].running, 0);
    ENSURE_EQ((int)stats->model[0].backlog_us, 0);
    free(stats);
    sim_finish(&sim);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, test_drain);
    tcase_add_loop_test(tc, test_mixed, 0, 10);
    tcase_add_test(tc, test_shared);
    tcase_add_test(tc, test_two_models);
    tcase_add_test(tc, test_counts);
}

int main(void)
{
    return run_case("backlog", add);
}
