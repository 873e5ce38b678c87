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

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, test_device_fails);
    tcase_add_test(tc, test_one_lane_is_bad);
}

int main(void)
{
    return run_case("scheduler failures", add_tests);
}
