/* Measured speed, and what follows from it: when a request would be finished, when to try again,
 * and whether a batch that is not full should wait for clients about to return. */
#include "scheduler/state.h"

#include <math.h>
#include <string.h>

#define WEIGHT 0.2 /* of a new measurement in the running mean */
/* An answer to which no new request came within this time counts as not returned. */
#define RETURN_WITHIN_US 50000
#define HOLD_MAX_US 20000

static void average(double *mean, double value)
{
    *mean = *mean == 0 ? value : *mean + WEIGHT * (value - *mean);
}

void core_measure(struct core_model *m, enum work_kind kind, int n, uint64_t us)
{
    double duration = us > 0 ? (double)us : 0.5; /* 0 means not measured */
    if (kind == WORK_STEP) {
        average(&m->step_us[n], duration);
        average(&m->step_lane_us, duration / n);
    } else {
        average(&m->decode_us[n], duration);
        average(&m->decode_lane_us, duration / n);
    }
}

/* Duration of a batch of n: measured at that size, or else no more than any bigger batch took, and
 * never more than a guess from the mean time per lane. */
static double batch_us(const double *measured, double lane_us, int n, int max)
{
    double best = n * lane_us;
    for (int b = n; b <= max; b++) {
        if (measured[b] > 0 && (b == n || measured[b] < best)) {
            best = measured[b];
            if (b == n)
                break;
        }
    }
    return best;
}

/* Engine time of a picture when batches are as they have been lately. */
static double picture_us(const struct core_model *m, int steps)
{
    return steps * m->step_lane_us + m->decode_lane_us;
}

static int healthy_devices(const struct core_model *m)
{
    int count = __builtin_popcount(m->devices);
    return count > 0 ? count : 1;
}

static double remaining_us(const struct sched_core *c, const struct sched_request *r)
{
    return (r->spec.n - r->done) * picture_us(&c->model[r->spec.model], r->spec.sampling.steps);
}

/* If the request were alone: its batches one after the other. */
static double own_us(const struct core_model *m, int steps, uint32_t n)
{
    int devices = healthy_devices(m);
    double on_one = ceil((double)n / devices);
    int batch = on_one < m->max_batch ? (int)on_one : m->max_batch;
    int decode_batch = on_one < m->decode_batch ? (int)on_one : m->decode_batch;
    return ceil(on_one / batch) * steps *
               batch_us(m->step_us, m->step_lane_us, batch, m->max_batch) +
           ceil(on_one / decode_batch) *
               batch_us(m->decode_us, m->decode_lane_us, decode_batch, m->max_batch);
}

/* Among requests of equal priority service is shared evenly, first between tenants, then between a
 * tenant's requests: while w microseconds of ours are served, any other one gets no more than w.
 * Requests of better priority go first, those of worse one wait. */
uint64_t core_estimate(const struct sched_core *c, const struct sched_spec *s, uint32_t fresh)
{
    const struct core_model *m = &c->model[s->model];
    if (fresh == 0 || m->step_lane_us == 0 || m->decode_lane_us == 0)
        return 0;
    double w = fresh * picture_us(m, s->sampling.steps), ahead = 0, ours = w;
    LIST_EACH(t_it, &c->tenants)
    {
        const struct tenant *t = LIST_OF(t_it, struct tenant, active);
        bool same = strcmp(t->id, s->tenant != NULL ? s->tenant : "") == 0;
        double theirs = 0;
        LIST_EACH(it, &t->requests)
        {
            const struct sched_request *r = LIST_OF(it, struct sched_request, of_tenant);
            if ((c->model[r->spec.model].devices & m->devices) == 0)
                continue;
            double rest = remaining_us(c, r);
            if (r->spec.priority < s->priority)
                ahead += rest;
            else if (r->spec.priority == s->priority && same)
                ours += rest < w ? rest : w;
            else if (r->spec.priority == s->priority)
                theirs += rest;
        }
        ahead += theirs < w ? theirs : w;
    }
    double total = (ahead + ours - w) / healthy_devices(m) + own_us(m, s->sampling.steps, fresh);
    return total < 1e15 ? (uint64_t)total : (uint64_t)1e15;
}

/* The queue must shrink until n pictures fit; it shrinks at the measured speed. */
uint64_t core_retry_us(const struct sched_core *c, int model, uint32_t n)
{
    const struct core_model *m = &c->model[model];
    double pictures = 0, us = 0;
    for (int i = 0; i < c->model_count; i++) {
        if ((c->model[i].devices & m->devices) == 0)
            continue;
        LIST_EACH(it, &c->model[i].requests)
        {
            const struct sched_request *r = LIST_OF(it, struct sched_request, of_model);
            pictures += r->spec.n - r->done;
            us += remaining_us(c, r);
        }
    }
    uint64_t need = (uint64_t)c->stats.queue_images + n;
    double excess = need > c->options.max_queue ? (double)(need - c->options.max_queue) : 0;
    double each = pictures > 0 ? us / pictures : picture_us(m, 1);
    if (each == 0)
        return 1000000; /* nothing measured yet */
    return (uint64_t)(excess * each / healthy_devices(m)) + 1000;
}

/* ---- Clients about to return ----------------------------------------------------------------- */

static void forget_departures(struct sched_core *c, uint64_t now)
{
    while (c->departure_count > 0 && now - c->departure[c->departure_head] > RETURN_WITHIN_US) {
        c->departure_head = (c->departure_head + 1) % CORE_DEPARTURES;
        c->departure_count--;
        c->return_rate *= 1 - WEIGHT;
    }
}

void core_departed(struct sched_core *c, uint64_t now)
{
    forget_departures(c, now);
    if (c->departure_count < CORE_DEPARTURES)
        c->departure[(c->departure_head + c->departure_count++) % CORE_DEPARTURES] = now;
}

void core_arrived(struct sched_core *c, uint64_t now)
{
    forget_departures(c, now);
    if (c->departure_count == 0)
        return;
    average(&c->return_us, (double)(now - c->departure[c->departure_head]) + 1);
    c->return_rate += WEIGHT * (1 - c->return_rate);
    c->departure_head = (c->departure_head + 1) % CORE_DEPARTURES;
    c->departure_count--;
}

/* What a step batch costs whatever its size: the part that one fuller batch saves over two. From
 * the smallest and the largest batch measured. */
static double fixed_us(const struct core_model *m)
{
    int small = 1, large = m->max_batch;
    while (small < large && m->step_us[small] == 0)
        small++;
    while (large > small && m->step_us[large] == 0)
        large--;
    if (large == small)
        return 0;
    double slope = (m->step_us[large] - m->step_us[small]) / (large - small);
    double fixed = m->step_us[small] - small * (slope > 0 ? slope : 0);
    return fixed > 0 ? fixed : 0;
}

uint64_t core_hold_until(const struct sched_core *c, const struct core_model *m, int n,
                         uint64_t now)
{
    if (c->departure_count == 0 || c->return_rate < 0.5)
        return 0;
    int full =
        n + (int)c->departure_count < m->max_batch ? n + (int)c->departure_count : m->max_batch;
    double batch =
        batch_us(m->step_us, m->step_lane_us, full, m->max_batch) + full * m->decode_lane_us;
    /* On a processor, where time grows with the batch, waiting gains nothing and the bound is the
     * small share allowed. On a GPU, where it hardly does, clients that fall into two groups cost
     * one fixed part more a round: so much may be spent, as far as they can be relied on. */
    double bound = batch * c->options.return_gap_percent / 100;
    if (c->options.return_gap_percent > 0)
        bound += fixed_us(m) * c->return_rate;
    if (bound > HOLD_MAX_US)
        bound = HOLD_MAX_US;
    if (c->return_us > bound)
        return 0;
    /* Twice the mean: most of those who return are there by then. */
    double wait = 2 * c->return_us < bound ? 2 * c->return_us : bound;
    unsigned newest = (c->departure_head + c->departure_count - 1) % CORE_DEPARTURES;
    uint64_t until = c->departure[newest] + (uint64_t)wait;
    return until > now ? until : 0;
}
