/* Whom the scheduler serves first: tenants and requests share, priorities count, nobody starves. */
#include "scheduler_case.h"

#include <stdlib.h>

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

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, test_large_does_not_hold_up_small);
    tcase_add_test(tc, test_tenants_share);
    tcase_add_test(tc, test_newcomer_owes_nothing);
    tcase_add_test(tc, test_priority);
    tcase_add_test(tc, test_no_starvation);
}

int main(void)
{
    return run_case("scheduler fairness", add_tests);
}
