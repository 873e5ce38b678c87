/* Devices that fail, and lanes that cannot be started. */
#include "scheduler_case.h"

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
    sim.device[0].fail_with = IMF_EDEVICE;
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

/* Memory that was short once: the requests of that batch are told so, what is cached is given back,
 * and the device is as good as before. */
START_TEST(test_memory_is_short)
{
    struct sched_options o = defaults();
    o.cache_bytes = 1 << 20;
    sim_init(&sim, &o, 1, 1, 4, 4);
    submit(1, 1, 4, 1, "a");
    sim_run_all(&sim);
    ENSURE_EQ(image_cache_entries(sim.core.cache), 4);
    sim.device[0].fail_with = IMF_ENOMEM;
    struct sim_request *poor[4], *later;
    for (int i = 0; i < 4; i++)
        poor[i] = submit(2, (uint64_t)i, 1, 2, "b");
    sim_run(&sim, sim.now + 1);
    later = submit(3, 1, 2, 2, "b");
    sim_run(&sim, sim.now + 15000);
    ENSURE_EQ(image_cache_entries(sim.core.cache), 0);
    sim_run_all(&sim);
    for (int i = 0; i < 4; i++)
        ENSURE_EQ(poor[i]->result, SCHED_MEMORY);
    ENSURE_EQ(later->result, SCHED_DONE);
    ENSURE_EQ(sim.core.stats.memory_shortages, 1);
    ENSURE_EQ(sim.core.model[0].state, SCHED_MODEL_READY);
    sim_finish(&sim);
}
END_TEST

/* The driver's watch: idle devices pick in between. */
static void watch(uint64_t seconds)
{
    for (uint64_t i = 0; i < seconds; i++) {
        sim_run(&sim, sim.now + 1000000);
        sim_run_all(&sim);
        core_watch(&sim.core, 1000000);
    }
}

START_TEST(test_stuck)
{
    struct sched_options o = defaults();
    o.stall_us = 60000000;
    sim_init(&sim, &o, 2, 2, 4, 4);
    sim.core.model[1].devices = 1;
    struct sched_refusal why;
    struct sched_spec spec = sim_spec(1, 1, 1, 1);
    submit(9, 9, 4, 1, "a");
    watch(100);
    ENSURE(core_answers(&sim.core, 0) && core_answers(&sim.core, 1)); /* idle is not stuck */
    sim.device[0].hangs = true;
    spec.model = 1;
    struct sim_request *q = sim_submit(&sim, &spec, NULL);
    watch(60);
    ENSURE(core_answers(&sim.core, 1));
    watch(3);
    ENSURE(!core_answers(&sim.core, 1));
    ENSURE(core_answers(&sim.core, 0)); /* on the other device */
    spec.seed = 2;
    ENSURE(!sim_submit(&sim, &spec, &why));
    ENSURE_EQ(why.why, SCHED_REJECT_STUCK);
    ENSURE_EQ(q->result, SCHED_DONE); /* not ended: no other result */
    ENSURE(!q->ended);
    /* It comes back after all. */
    sim.device[0].hangs = false;
    sim_run_all(&sim);
    watch(1);
    ENSURE(q->ended && core_answers(&sim.core, 1));
    ENSURE(sim_submit(&sim, &spec, &why));
    sim_finish(&sim);
}
END_TEST

/* Work that has always taken long is given ten times that. */
START_TEST(test_slow_is_not_stuck)
{
    struct sched_options o = defaults();
    o.stall_us = 60000000;
    sim_init(&sim, &o, 1, 1, 1, 1);
    sim.step_us = 20000000;
    submit(1, 1, 1, 1, "a");
    sim_run_all(&sim);
    sim.device[0].hangs = true;
    submit(1, 2, 1, 1, "a");
    watch(190);
    ENSURE(core_answers(&sim.core, 0));
    watch(20);
    ENSURE(!core_answers(&sim.core, 0));
    sim.device[0].hangs = false;
    sim_finish(&sim);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, test_device_fails);
    tcase_add_test(tc, test_one_lane_is_bad);
    tcase_add_test(tc, test_memory_is_short);
    tcase_add_test(tc, test_stuck);
    tcase_add_test(tc, test_slow_is_not_stuck);
}

int main(void)
{
    return run_case("scheduler failures", add_tests);
}
