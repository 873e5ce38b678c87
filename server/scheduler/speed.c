/* Measured speed, and what follows from it: when a request would be finished, and whether a batch
 * that is not full should wait for clients about to return. */
#include "scheduler/state.h"

#include <math.h>
#include <string.h>

#define WEIGHT 0.2 /* of a new measurement in the running mean */
/* A speed measured this long ago counts for half in what a request is thought to need. */
#define SPEED_HALF_LIFE_US 30e6
/* After this long without work the next request is let in whatever it is thought to need: it is the
 * measurement. */
#define SPEED_STALE_US 5000000
/* An answer to which no new request came within this time counts as not returned. */
#define RETURN_WITHIN_US 50000
#define HOLD_MAX_US 20000

static void average(double *mean, double value)
{
    *mean = *mean == 0 ? value : *mean + WEIGHT * (value - *mean);
}

/* A speed follows what is measured: at once where it was less than half as fast before (the machine
 * was busy with something else), else smoothly. */
static void speed_follow(struct core_speed *s, double us, uint64_t now)
{
    if (us < s->us / 2)
        s->us = us;
    else
        average(&s->us, us);
    s->at = now;
}

/* What the model's measurements are still worth when nothing of it has run since: half as much
 * every SPEED_HALF_LIFE_US, for a machine that was busy then need not be so now. */
static double worth(const struct core_model *m, uint64_t now)
{
    return exp2(-(double)(now - m->step.lane.at) / SPEED_HALF_LIFE_US);
}

void core_measure(struct core_model *m, enum work_kind kind, int n, uint64_t us, uint64_t now)
{
    double duration = us > 0 ? (double)us : 0.5; /* 0 means not measured */
    if (m->guessed) { /* so far only the warm-up's picture, the slowest there is */
        memset(&m->step, 0, sizeof(m->step));
        memset(&m->decode, 0, sizeof(m->decode));
        m->guessed = false;
    }
    struct core_stage_speed *s = kind == WORK_STEP ? &m->step : &m->decode;
    speed_follow(&s->batch[n], duration, now);
    speed_follow(&s->lane, duration / n, now);
}

void core_measure_encode(struct sched_core *c, uint64_t us)
{
    average(&c->encode_us, us > 0 ? (double)us : 0.5);
}

void core_guess(struct core_model *m, uint64_t step_us, uint64_t decode_us, uint64_t now)
{
    if (m->step.lane.us > 0)
        return; /* another device has measured it */
    core_measure(m, WORK_STEP, 1, step_us, now);
    core_measure(m, WORK_DECODE, 1, decode_us, now);
    m->guessed = true;
}

bool core_speed_unknown(const struct core_model *m, uint64_t now)
{
    return m->step.lane.us == 0 || m->decode.lane.us == 0 || m->guessed ||
           now - m->step.lane.at > SPEED_STALE_US;
}

/* Whether batches of that size are among those seen lately: others say more than one that is old.
 */
static bool seen(const struct core_stage_speed *s, int n)
{
    return s->batch[n].us > 0 && (double)(s->lane.at - s->batch[n].at) < SPEED_HALF_LIFE_US;
}

double core__batch_us(const struct core_stage_speed *s, int n, int max)
{
    if (seen(s, n))
        return s->batch[n].us;
    double best = n * s->lane.us;
    for (int b = n + 1; b <= max; b++) {
        double us = seen(s, b) ? s->batch[b].us : best;
        if (us < best)
            best = us;
    }
    return best;
}

/* The least that a batch of n can be thought to take: no less than a smaller one. */
static double least_us(const struct core_stage_speed *s, int n, int max)
{
    double guess = core__batch_us(s, n, max);
    for (int b = n; b >= 1; b--) {
        if (seen(s, b))
            return s->batch[b].us < guess ? s->batch[b].us : guess;
    }
    return guess;
}

/* Engine time of a picture when batches are as they have been lately. */
static double picture_us(const struct core_model *m, int steps)
{
    return steps * m->step.lane.us + m->decode.lane.us;
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

/* If the request were alone, at best: its batches one after the other. */
static double own_us(const struct core_model *m, int steps, uint32_t n)
{
    int devices = healthy_devices(m);
    double on_one = ceil((double)n / devices);
    int batch = on_one < m->max_batch ? (int)on_one : m->max_batch;
    int decode_batch = on_one < m->decode_batch ? (int)on_one : m->decode_batch;
    return ceil(on_one / batch) * steps * least_us(&m->step, batch, m->max_batch) +
           ceil(on_one / decode_batch) * least_us(&m->decode, decode_batch, m->max_batch);
}

/* Among requests of equal priority service is shared evenly, first between tenants, then between a
 * tenant's requests: while w microseconds of ours are served, any other one gets no more than w.
 * Requests of better priority go first, those of worse one wait. */
uint64_t core_estimate(const struct sched_core *c, const struct sched_spec *s, uint32_t fresh,
                       uint64_t now)
{
    const struct core_model *m = &c->model[s->model];
    if (fresh == 0 || m->step.lane.us == 0 || m->decode.lane.us == 0)
        return 0;
    double w = fresh * picture_us(m, s->sampling.steps) * worth(m, now), ahead = 0, ours = w;
    LIST_EACH(t_it, &c->tenants)
    {
        const struct tenant *t = LIST_OF(t_it, struct tenant, active);
        bool same = strcmp(t->id, s->tenant ? s->tenant : "") == 0;
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
    double total = (ahead + ours - w) / healthy_devices(m) +
                   own_us(m, s->sampling.steps, fresh) * worth(m, now);
    return total < 1e15 ? (uint64_t)total : (uint64_t)1e15;
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
    const struct core_speed *batch = m->step.batch;
    while (small < large && batch[small].us == 0)
        small++;
    while (large > small && batch[large].us == 0)
        large--;
    if (large == small)
        return 0;
    double slope = (batch[large].us - batch[small].us) / (large - small);
    double fixed = batch[small].us - small * (slope > 0 ? slope : 0);
    return fixed > 0 ? fixed : 0;
}

uint64_t core_hold_until(const struct sched_core *c, const struct core_model *m, int n,
                         uint64_t now)
{
    if (c->departure_count == 0 || c->return_rate < 0.5)
        return 0;
    int full =
        n + (int)c->departure_count < m->max_batch ? n + (int)c->departure_count : m->max_batch;
    double batch = core__batch_us(&m->step, full, m->max_batch) + full * m->decode.lane.us;
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
