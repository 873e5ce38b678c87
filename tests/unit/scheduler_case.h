/* What the tests of the scheduler's state machine share: one simulated world, short ways to fill
 * it, and running them. */
#ifndef SCHEDULER_CASE_H
#define SCHEDULER_CASE_H

#include "sim.h"

extern struct sim sim; /* the test's world; sim_finish ends it */

struct sched_options defaults(void);
/* Makes the world, with the default options. */
void begin(int devices, int models, int max_batch, int decode_batch);
/* A request that must be accepted. `tenant` is kept. */
struct sim_request *submit(int label, uint64_t seed, uint32_t n, int steps, const char *tenant);

/* Runs the tests that `add` adds. Returns what main returns. */
int run_case(const char *name, void (*add)(TCase *tc));

#endif
