/* How much is accepted and not done, and how long that takes at the measured speed: what a router
 * that chooses among replicas, or whoever adds them, wants to know. */
#include "scheduler/state.h"

#include <math.h>

/* What is left of the pictures of one model, lane by lane. */
struct rest {
    double steps, decodes;
    int longest; /* evaluations that one picture still needs, one after the other */
};

static void rest_add(struct rest *rest, int steps, double pictures)
{
    rest->steps += steps * pictures;
    rest->decodes += pictures;
    if (steps > rest->longest && pictures > 0)
        rest->longest = steps;
}

/* Pictures in flight, each once however many wait for it, and places that have none yet. */
static struct rest rest_of(const struct sched_core *c, int model)
{
    struct rest rest = {0};
    for (const struct picture *p = c->pictures; p; p = p->hh.next) {
        bool waits = p->state == PICTURE_QUEUED || p->state == PICTURE_RUNNING;
        if (p->key.model == model && p->state != PICTURE_ENCODING)
            rest_add(&rest, waits ? p->key.sampling.steps - p->step : 0, 1);
    }
    LIST_EACH(it, &c->model[model].requests)
    {
        const struct sched_request *r = LIST_OF(it, struct sched_request, of_model);
        rest_add(&rest, r->spec.sampling.steps, r->spec.n - r->next);
    }
    return rest;
}

/* Expected duration of a batch of `n` lanes: on the line between the nearest sizes that were seen.
 * (core__batch_us is the least it may take, for deadlines.) */
static double batch_us(const struct core_stage_speed *speed, double n, int max)
{
    int low = n < 1 ? 1 : (int)n, high = (int)ceil(n);
    while (low > 0 && speed->batch[low].us == 0)
        low--;
    while (high <= max && (high < 1 || speed->batch[high].us == 0))
        high++;
    if (low == 0 && high > max)
        return n * speed->lane.us;
    if (low == 0)
        return speed->batch[high].us;
    if (high > max) /* no larger one was: it costs what lanes cost, and no less than the smaller */
        return fmax(speed->batch[low].us, n * speed->lane.us);
    double share = high > low ? (n - low) / (high - low) : 0;
    return speed->batch[low].us + share * (speed->batch[high].us - speed->batch[low].us);
}

/* So many lanes in batches as full as they can be, which devices take one at a time; `chain` of
 * them follow one another whatever there is of devices. */
static double stage_us(const struct core_stage_speed *speed, double lanes, int max, int devices,
                       int chain)
{
    double batches = fmax(ceil(lanes / max), chain);
    double rounds = fmax(ceil(batches / devices), chain);
    return batches > 0 ? rounds * batch_us(speed, lanes / batches, max) : 0;
}

/* What the engine needs for one model's rest, spread over its devices. */
static double model_us(const struct sched_core *c, int model)
{
    const struct core_model *m = &c->model[model];
    int devices = __builtin_popcount(m->devices);
    if (devices == 0 || m->step.lane.us == 0 || m->decode.lane.us == 0)
        return 0;
    struct rest rest = rest_of(c, model);
    return stage_us(&m->step, rest.steps, m->max_batch, devices, rest.longest) +
           stage_us(&m->decode, rest.decodes, m->decode_batch, devices, 0);
}

double core_backlog_us(const struct sched_core *c, int model)
{
    double us = 0;
    for (int i = 0; i < c->model_count; i++) {
        if ((c->model[i].devices & c->model[model].devices) != 0)
            us += model_us(c, i);
    }
    return us;
}
