/* The shared parts of scheduler_case.h. */
#include "scheduler_case.h"
#include "run_suite.h"

struct sim sim;

struct sched_options defaults(void)
{
    return (struct sched_options){.max_queue = 2000,
                                  .ageing_us = 5000000,
                                  .return_gap_percent = 10,
                                  .cache_bytes = 0,
                                  .max_encoding = 64};
}

void begin(int devices, int models, int max_batch, int decode_batch)
{
    struct sched_options o = defaults();
    sim_init(&sim, &o, devices, models, max_batch, decode_batch);
}

struct sim_request *submit(int label, uint64_t seed, uint32_t n, int steps, const char *tenant)
{
    struct sched_spec spec = sim_spec(label, seed, n, steps);
    spec.tenant = tenant;
    struct sim_request *q = sim_submit(&sim, &spec, NULL);
    ENSURE(NULL != q);
    return q;
}

int run_case(const char *name, void (*add)(TCase *tc))
{
    Suite *s = suite_create(name);
    TCase *tc = tcase_create(name);
    tcase_set_timeout(tc, 120);
    add(tc);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
