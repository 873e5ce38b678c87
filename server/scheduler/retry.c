/* When a request that does not fit would: the queue is played forward at the measured speed. */
#include "scheduler/state.h"

#include <math.h>

/* Nobody's queue is played further than this; beyond it the rest is taken to go on alike. */
#define MAX_ROUNDS 1024
#define UNKNOWN_US 1000000

/* What waits for its first evaluation, by model. */
struct backlog {
    double pictures, evaluations;
};

struct play {
    double
        free_at[SCHED_MAX_DEVICES]; /* from now; under way or a round of new pictures until then */
    int turn[SCHED_MAX_DEVICES];    /* model whose pictures it took last */
    struct backlog backlog[SCHED_MAX_MODELS];
};

/* Time to take `pictures` all the way, in batches: evaluations in all, and the longest's. */
static double way_us(const struct core_model *m, double pictures, double evaluations,
                     double longest)
{
    int n = pictures < m->max_batch ? (int)pictures : m->max_batch;
    int d = pictures < m->decode_batch ? (int)pictures : m->decode_batch;
    if (n < 1)
        return 0;
    double batches = evaluations / n > longest ? ceil(evaluations / n) : longest;
    return batches * core__batch_us(&m->step, n, m->max_batch) +
           ceil(pictures / d) * core__batch_us(&m->decode, d, m->max_batch);
}

double core__hand_us(const struct sched_core *c, const struct core_device *d, uint64_t now)
{
    if (d->in_hand == 0)
        return 0;
    const struct core_model *m = &c->model[d->hand_model];
    double takes =
        core__batch_us(d->hand_kind == WORK_STEP ? &m->step : &m->decode, d->hand_n, m->max_batch);
    double since = (double)(now - d->hand_since);
    /* Late already: as long again as it is over its time. */
    return since < takes ? takes - since : since - takes;
}

/* Lanes under way are finished before new pictures start, so far as this goes. That is late where a
 * newcomer's turn comes sooner, and never early. */
static void play_lanes(const struct sched_core *c, struct play *p, uint64_t now)
{
    struct {
        double pictures, evaluations, longest;
    } lanes[SCHED_MAX_DEVICES][SCHED_MAX_MODELS] = {{{0}}};
    for (const struct picture *at = c->pictures; at; at = at->hh.next) {
        int m = at->key.model;
        if (at->state == PICTURE_QUEUED) {
            p->backlog[m].pictures++;
            p->backlog[m].evaluations += at->key.sampling.steps;
        }
        if (at->device < 0 || (at->in_hand && at->state == PICTURE_DENOISED))
            continue;
        double left = at->key.sampling.steps - at->step - at->in_hand;
        lanes[at->device][m].pictures++;
        lanes[at->device][m].evaluations += left;
        if (left > lanes[at->device][m].longest)
            lanes[at->device][m].longest = left;
    }
    for (int d = 0; d < c->device_count; d++) {
        p->free_at[d] = core__hand_us(c, &c->device[d], now);
        for (int m = 0; m < c->model_count; m++)
            p->free_at[d] += way_us(&c->model[m], lanes[d][m].pictures, lanes[d][m].evaluations,
                                    lanes[d][m].longest);
    }
}

/* Places of requests that have no picture yet. */
static void play_places(const struct sched_core *c, struct play *p)
{
    for (int m = 0; m < c->model_count; m++) {
        LIST_EACH(it, &c->model[m].requests)
        {
            const struct sched_request *r = LIST_OF(it, struct sched_request, of_model);
            double places = r->spec.n - r->next;
            p->backlog[m].pictures += places;
            p->backlog[m].evaluations += places * r->spec.sampling.steps;
        }
    }
}

/* The model that the device starts pictures of next, -1: none. */
static int next_model(const struct sched_core *c, const struct play *p, int device)
{
    for (int i = 1; i <= c->model_count; i++) {
        int m = (p->turn[device] + i) % c->model_count;
        if ((c->model[m].devices >> device & 1) != 0 && p->backlog[m].pictures > 0)
            return m;
    }
    return -1;
}

/* A device starts as many new pictures as fit its batch and is busy with them. Returns how many; 0
 * when there are none that any device can start. */
static double play_round(const struct sched_core *c, struct play *p, double *at)
{
    int device = -1, model = -1;
    for (int d = 0; d < c->device_count; d++) {
        int m = device < 0 || p->free_at[d] < p->free_at[device] ? next_model(c, p, d) : -1;
        if (m >= 0) {
            device = d;
            model = m;
        }
    }
    if (device < 0)
        return 0;
    const struct core_model *m = &c->model[model];
    struct backlog *b = &p->backlog[model];
    double n = b->pictures < m->max_batch ? b->pictures : m->max_batch;
    double steps = b->evaluations / b->pictures;
    *at = p->free_at[device];
    p->free_at[device] += way_us(m, n, n * steps, steps);
    p->turn[device] = model;
    b->pictures -= n;
    b->evaluations -= n * steps;
    return n;
}

/* Until a device that serves the model has nothing under way. */
static double soonest_us(const struct sched_core *c, const struct play *p, int model)
{
    double best = -1;
    for (int d = 0; d < c->device_count; d++) {
        if ((c->model[model].devices >> d & 1) != 0 && (best < 0 || p->free_at[d] < best))
            best = p->free_at[d];
    }
    return best;
}

uint64_t core_retry_us(const struct sched_core *c, int model, uint32_t n, uint64_t now)
{
    const struct core_model *m = &c->model[model];
    if (m->step.lane.us == 0 || m->decode.lane.us == 0)
        return UNKNOWN_US;
    struct play p = {0};
    play_lanes(c, &p, now);
    play_places(c, &p);
    uint64_t need = (uint64_t)c->stats.queue_images + n;
    double excess = need > c->options.max_queue ? (double)(need - c->options.max_queue) : 0;
    double at = soonest_us(c, &p, model), left = 0;
    for (int i = 0; left < excess; i++) {
        double started = i < MAX_ROUNDS ? play_round(c, &p, &at) : 0;
        if (started == 0) {
            at = left > 0 ? at * excess / left : UNKNOWN_US;
            break;
        }
        left += started;
    }
    if (at <= 0)
        return UNKNOWN_US;
    /* A little later than calculated: who comes too early waits a whole turn more. */
    at += at / 16 + 1000;
    return at < 1e12 ? (uint64_t)at : (uint64_t)1e12;
}
