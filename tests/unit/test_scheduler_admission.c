/* What the scheduler lets in and what it refuses, by queue, deadline and state; and how much may
 * pile up of what was let in. */
#include "scheduler_case.h"

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
    while (!sim_submit(&sim, &spec, &why))
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

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, test_queue_bound);
    tcase_add_test(tc, test_deadline_refused);
    tcase_add_test(tc, test_deadline_passes);
    tcase_add_test(tc, test_states);
    tcase_add_test(tc, test_window);
    tcase_add_test(tc, test_slow_encoder);
}

int main(void)
{
    return run_case("scheduler admission", add_tests);
}
