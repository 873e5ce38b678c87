/* How long what is accepted will take: what a router that chooses among replicas, or whoever adds
 * them, wants to know. All of it is played forward at the measured speed, batch by batch: a device
 * that is free takes what the scheduler would give it, and a picture stays where it began. */
#include "scheduler/state.h"

#include <math.h>
#include <stdlib.h>

/* More evaluations than this are not played one by one: so many of each kind stand for all. */
#define MAX_EVALUATIONS 4096.0

/* A device's pictures of one model, by the evaluations they still need; at 0 they wait for their
 * decoding. */
struct share {
    int left[IMF_MAX_STEPS + 1];
    int lanes; /* those that need any */
};

/* Pictures of one model and number of steps that no device has begun. */
struct kind {
    int model, steps;
    double waiting, requests, service;
};

struct play {
    const struct sched_core *core;
    struct share *share; /* (devices, models) */
    struct kind *kinds;
    int n_kinds, capacity;
    double free_at[SCHED_MAX_DEVICES]; /* microseconds from now */
    double served[SCHED_MAX_MODELS], requests[SCHED_MAX_MODELS];
    double done_at[SCHED_MAX_DEVICES]; /* the files of its pictures, too */
    double encoder_at[CORE_ENCODERS], file_at[SCHED_MAX_MODELS]; /* of what is decoded already */
};

static struct share *share_of(const struct play *p, int device, int model)
{
    return &p->share[device * p->core->model_count + model];
}

static bool serves(const struct sched_core *c, int device, int model)
{
    const struct core_model *m = &c->model[model];
    return (m->devices >> device & 1) != 0 && m->step.lane.us > 0 && m->decode.lane.us > 0;
}

/* ---- What there is ----------------------------------------------------------------------------- */

/* NULL when memory is out. */
static struct kind *kind_of(struct play *p, int model, int steps)
{
    for (int i = 0; i < p->n_kinds; i++) {
        if (p->kinds[i].model == model && p->kinds[i].steps == steps)
            return &p->kinds[i];
    }
    if (p->n_kinds == p->capacity) {
        int more = p->capacity ? 2 * p->capacity : 16;
        struct kind *kinds = realloc(p->kinds, (size_t)more * sizeof(*kinds));
        if (!kinds)
            return NULL;
        p->kinds = kinds;
        p->capacity = more;
    }
    p->kinds[p->n_kinds] = (struct kind){.model = model, .steps = steps};
    return &p->kinds[p->n_kinds++];
}

static bool add_waiting(struct play *p, int model, int steps, double pictures, double requests)
{
    struct kind *k = kind_of(p, model, steps);
    if (k) {
        k->waiting += pictures;
        k->requests += requests;
    }
    return k != NULL;
}

/* Pictures in flight, each once however many wait for it. What is in hand is done when its device is
 * free. */
static bool add_pictures(struct play *p)
{
    for (const struct picture *at = p->core->pictures; at; at = at->hh.next) {
        if (at->state == PICTURE_QUEUED &&
            !add_waiting(p, at->key.model, at->key.sampling.steps, 1, 0))
            return false;
        if (at->device < 0 || (at->in_hand && at->state == PICTURE_DENOISED))
            continue;
        struct share *s = share_of(p, at->device, at->key.model);
        int left = at->key.sampling.steps - at->step - at->in_hand;
        s->left[left]++;
        s->lanes += left > 0;
    }
    return true;
}

/* Places of requests that have no picture yet, and who shares the devices. */
static bool add_requests(struct play *p)
{
    const struct sched_core *c = p->core;
    for (int m = 0; m < c->model_count; m++) {
        LIST_EACH(it, &c->model[m].requests)
        {
            const struct sched_request *r = LIST_OF(it, struct sched_request, of_model);
            const struct sched_spec *s = &r->spec;
            p->requests[m]++;
            if (!add_waiting(p, m, s->sampling.steps, 0, 1))
                return false;
            for (uint32_t i = r->next; s->samplings && i < s->n; i++) {
                if (!add_waiting(p, m, s->samplings[i].steps, 1, 0))
                    return false;
            }
            if (!s->samplings && !add_waiting(p, m, s->sampling.steps, s->n - r->next, 0))
                return false;
        }
    }
    return true;
}

/* Returns how many times more there is than what is left in the play. */
static double thin_out(struct play *p)
{
    double evaluations = 0;
    for (int i = 0; i < p->n_kinds; i++)
        evaluations += p->kinds[i].steps * p->kinds[i].waiting;
    if (evaluations <= MAX_EVALUATIONS)
        return 1;
    double kept = 0;
    for (int i = 0; i < p->n_kinds; i++) {
        struct kind *k = &p->kinds[i];
        k->waiting = ceil(k->waiting * MAX_EVALUATIONS / evaluations);
        kept += k->steps * k->waiting;
    }
    return evaluations / kept;
}

/* ---- How long a batch takes -------------------------------------------------------------------- */

/* Expected duration of a batch of `n` lanes: on the line between the nearest sizes that were seen.
 * (core__batch_us is the least it may take, for deadlines.) */
static double batch_us(const struct core_stage_speed *speed, int n, int max)
{
    int low = n, high = n;
    while (low > 0 && speed->batch[low].us == 0)
        low--;
    while (high <= max && speed->batch[high].us == 0)
        high++;
    if (low == 0 && high > max)
        return n * speed->lane.us;
    if (low == 0)
        return speed->batch[high].us;
    if (high > max) /* no larger one was: it costs what lanes cost, and no less than the smaller */
        return fmax(speed->batch[low].us, n * speed->lane.us);
    double share = high > low ? (double)(n - low) / (high - low) : 0;
    return speed->batch[low].us + share * (speed->batch[high].us - speed->batch[low].us);
}

/* ---- Playing ----------------------------------------------------------------------------------- */

/* The waiting kind of the model whose requests have had least so far. */
static struct kind *next_kind(const struct play *p, int model)
{
    struct kind *best = NULL;
    for (int i = 0; i < p->n_kinds; i++) {
        struct kind *k = &p->kinds[i];
        if (k->model == model && k->waiting > 0 && (!best || k->service < best->service))
            best = k;
    }
    return best;
}

/* The model that the device evaluates next, -1: none. *alone: no other one waits for it. */
static int next_model(const struct play *p, int device, bool *alone)
{
    int best = -1, found = 0;
    for (int m = 0; m < p->core->model_count; m++) {
        if (!serves(p->core, device, m) || (share_of(p, device, m)->lanes == 0 && !next_kind(p, m)))
            continue;
        found++;
        if (best < 0 || p->served[m] < p->served[best])
            best = m;
    }
    *alone = found == 1;
    return best;
}

/* New pictures for the rest of a batch. */
static void start_pictures(struct play *p, struct share *s, int model, int room)
{
    struct kind *k;
    for (; room > 0 && (k = next_kind(p, model)); room--) {
        k->waiting -= 1;
        k->service += k->steps / fmax(k->requests, 1);
        s->left[k->steps]++;
        s->lanes++;
    }
}

/* One batch, as often as it stays the same. */
static void play_step(struct play *p, int device, int model, bool alone)
{
    const struct core_model *m = &p->core->model[model];
    struct share *s = share_of(p, device, model);
    int taken[IMF_MAX_STEPS + 1] = {0}, n = 0, times = IMF_MAX_STEPS;
    start_pictures(p, s, model, m->max_batch - s->lanes);
    for (int left = 1; left <= IMF_MAX_STEPS && n < m->max_batch; left++) {
        taken[left] = s->left[left] < m->max_batch - n ? s->left[left] : m->max_batch - n;
        n += taken[left];
        if (taken[left] > 0 && left < times)
            times = left;
    }
    if (!alone)
        times = 1;
    for (int left = 1; left <= IMF_MAX_STEPS; left++) {
        if (taken[left] == 0)
            continue;
        s->left[left] -= taken[left];
        s->left[left - times] += taken[left];
    }
    s->lanes -= taken[times];
    p->served[model] += n * times / fmax(p->requests[model], 1);
    p->free_at[device] += times * batch_us(&m->step, n, m->max_batch);
}

/* Files of n pictures that are decoded at a time; returns when the last is made. */
static double play_files(struct play *p, double at, int n)
{
    double end = at;
    for (int i = 0; i < n && p->core->encoders > 0; i++) {
        double *free_at = &p->encoder_at[0];
        for (int e = 1; e < p->core->encoders && e < CORE_ENCODERS; e++) {
            if (p->encoder_at[e] < *free_at)
                free_at = &p->encoder_at[e];
        }
        *free_at = (*free_at > 0 ? fmax(*free_at, at) : at) + p->core->encode_us;
        end = fmax(end, *free_at);
    }
    return end;
}

/* What devices and encoders have begun. */
static void play_hands(struct play *p, uint64_t now)
{
    const struct sched_core *c = p->core;
    for (int d = 0; d < c->device_count; d++)
        p->free_at[d] = p->done_at[d] = core__hand_us(c, &c->device[d], now);
    for (const struct picture *at = c->pictures; at; at = at->hh.next) {
        int m = at->key.model;
        double since = at->in_hand ? (double)(now - at->decoded_at) : 0;
        if (at->state == PICTURE_ENCODING)
            p->file_at[m] = fmax(p->file_at[m], play_files(p, -fmin(since, c->encode_us), 1));
        else if (at->state == PICTURE_DENOISED && at->in_hand)
            p->done_at[at->device] =
                fmax(p->done_at[at->device], play_files(p, p->free_at[at->device], 1));
    }
}

/* As the scheduler does: what can be decoded is. False when the device has nothing to do. */
static bool play_batch(struct play *p, int device)
{
    const struct sched_core *c = p->core;
    for (int m = 0; m < c->model_count; m++) {
        struct share *s = share_of(p, device, m);
        int batch = c->model[m].decode_batch, n = s->left[0] < batch ? s->left[0] : batch;
        if (n > 0 && serves(c, device, m)) {
            s->left[0] -= n;
            p->free_at[device] += batch_us(&c->model[m].decode, n, c->model[m].max_batch);
            p->done_at[device] = fmax(p->done_at[device], play_files(p, p->free_at[device], n));
            return true;
        }
    }
    bool alone;
    int model = next_model(p, device, &alone);
    if (model >= 0)
        play_step(p, device, model, alone);
    return model >= 0;
}

static void play(struct play *p)
{
    bool idle[SCHED_MAX_DEVICES] = {false};
    for (;;) {
        int device = -1;
        for (int d = 0; d < p->core->device_count; d++) {
            if (!idle[d] && (device < 0 || p->free_at[d] < p->free_at[device]))
                device = d;
        }
        if (device < 0)
            return;
        /* Nobody brings a device that ran out of work any: pictures stay where they began. */
        idle[device] = !play_batch(p, device);
    }
}

void core_backlog(const struct sched_core *c, uint64_t now, double us[SCHED_MAX_MODELS])
{
    size_t shares = (size_t)c->device_count * (size_t)c->model_count;
    struct play p = {.core = c, .share = calloc(shares + 1, sizeof(struct share))};
    for (int m = 0; m < c->model_count; m++)
        us[m] = 0;
    if (p.share && add_pictures(&p) && add_requests(&p)) {
        double times = thin_out(&p);
        play_hands(&p, now);
        play(&p);
        for (int m = 0; m < c->model_count; m++) {
            us[m] = p.file_at[m];
            for (int d = 0; d < c->device_count; d++) {
                if (serves(c, d, m))
                    us[m] = fmax(us[m], p.done_at[d] * times);
            }
        }
    }
    free(p.kinds);
    free(p.share);
}
