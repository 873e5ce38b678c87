/* Anything may happen: random requests, readers, failures and closings. sim.c checks the invariants
 * at every event; at the end nothing may be left. */
#include "scheduler_case.h"

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
        if (q->r)
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
        if (q) {
            q->manual_release = random_below(rng, 3) == 0;
            q->keep = random_below(rng, 3) == 0;
        }
        break;
    case 4:
        q = random_live(rng);
        if (q)
            sim_close(&sim, q, random_below(rng, 4) == 0 ? SCHED_BROKEN : SCHED_GONE);
        break;
    case 5:
    case 6:
        q = random_live(rng);
        if (q && q->held > 0) {
            q->held--;
            core_release(&sim.core, q->r, 1, sim.now);
        }
        break;
    case 7:
        if (random_below(rng, 40) == 0)
            sim.device[random_below(rng, 2)].fail_with = IMF_EDEVICE;
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
                if (q->r && q->held > 0) {
                    core_release(&sim.core, q->r, q->held, sim.now);
                    q->held = 0;
                    q->manual_release = false;
                    more = true;
                }
            }
        }
        for (int i = 0; i < sim.request_count; i++) {
            if (sim.requests[i]->r && !sim.requests[i]->ended)
                ck_abort_msg("seed %d: request %d never ended", _i * 1000 + round, i);
        }
        sim_finish(&sim);
    }
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_loop_test(tc, test_random, 0, 30);
}

int main(void)
{
    return run_case("scheduler random", add_tests);
}
