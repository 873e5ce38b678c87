/* Which work is done next, and what becomes of it.
 *
 * Order of candidates, the same for evaluations and decodings:
 *   1. priority, improved by one for every ageing_us since the request was last served
 *   2. service its tenant has received
 *   3. service the request itself has received
 *   4. order of arrival
 * Service is counted in network evaluations, one lane at a time; a decoding counts as many as it
 * costs. So tenants share evenly, and a tenant's requests share its part evenly: a request for 64
 * pictures is as far after two batches as one for 1 picture is after one evaluation, and waits.
 *
 * Service that nobody else had to wait for is not counted: who uses an idle engine owes nothing.
 *
 * The best candidates decide whether a device steps or decodes, and for which model. At equal
 * priority it decodes, because that finishes pictures and lets the next step batch grow meanwhile,
 * unless the one that waits for a step is behind by more than two pictures. The batch is then
 * filled with the next best ones that fit it. */
#include "scheduler/state.h"

#include <assert.h>
#include <stdio.h>

/* ---- Ranking --------------------------------------------------------------------------------- */

static struct candidate rank(const struct sched_core *c, struct sched_request *r, uint64_t now)
{
    uint64_t ageing = c->options.ageing_us, waited = now - r->served_at;
    uint64_t better = ageing > 0 ? waited / ageing : 0;
    return (struct candidate){
        .priority = better >= (uint64_t)r->spec.priority ? 0 : r->spec.priority - (int)better,
        .tenant_service = r->tenant->service,
        .request_service = r->service,
        .sequence = r->sequence,
        .request = r,
    };
}

static bool before(const struct candidate *a, const struct candidate *b)
{
    if (a->priority != b->priority)
        return a->priority < b->priority;
    if (a->tenant_service != b->tenant_service)
        return a->tenant_service < b->tenant_service;
    if (a->request_service != b->request_service)
        return a->request_service < b->request_service;
    return a->sequence < b->sequence;
}

/* Whether a step must not wait for a decoding. */
static bool step_first(const struct sched_core *c, const struct candidate *step,
                       const struct candidate *decode)
{
    if (step->priority != decode->priority)
        return step->priority < decode->priority;
    const struct sched_request *r = decode->request;
    uint64_t picture =
        (uint64_t)r->spec.sampling.steps * CORE_EVALUATION + c->model[r->spec.model].decode_cost;
    if (step->request->tenant != r->tenant)
        return step->tenant_service + 2 * picture < decode->tenant_service;
    return step->request_service + 2 * picture < decode->request_service;
}

static void charge(struct sched_request *r, uint64_t cost, uint64_t now)
{
    r->service += cost;
    r->tenant->service += cost;
    r->served_at = now;
}

static void refund(struct sched_request *r, uint64_t cost)
{
    r->service -= cost;
    r->tenant->service -= cost;
}

/* Min-heap of candidates in core.heap. Serving a request only makes its candidate worse, so the top
 * is refreshed and sifted down in place. */
static void sift_down(struct candidate *heap, size_t n, size_t i)
{
    for (;;) {
        size_t least = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < n; child++) {
            if (before(&heap[child], &heap[least]))
                least = child;
        }
        if (least == i)
            return;
        struct candidate swap = heap[i];
        heap[i] = heap[least];
        heap[least] = swap;
        i = least;
    }
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* The request's next picture that a device can evaluate: one that has begun before one that has
 * not, so that pictures come out one by one. NULL when there is none. */
static struct picture *next_step(struct sched_core *c, int device, struct sched_request *r)
{
    struct core_device *d = &c->device[device];
    bool room = d->lanes[r->spec.model] < d->lane_limit[r->spec.model];
    struct picture *queued = NULL;
    LIST_EACH(it, &r->waiting)
    {
        struct picture *p = LIST_OF(it, struct waiter, of_request)->picture;
        if (p->in_hand)
            continue;
        if (p->state == PICTURE_RUNNING && p->device == device)
            return p;
        if (p->state == PICTURE_QUEUED && room && !queued)
            queued = p;
    }
    return queued;
}

static bool serves(const struct sched_core *c, int device, int model)
{
    return (c->model[model].devices >> device & 1) != 0;
}

/* Best candidate for a step on this device, over all its models. */
static bool best_step(struct sched_core *c, int device, uint64_t now, struct candidate *best)
{
    bool found = false;
    for (int m = 0; m < c->model_count; m++) {
        if (!serves(c, device, m))
            continue;
        LIST_EACH(it, &c->model[m].requests)
        {
            struct sched_request *r = LIST_OF(it, struct sched_request, of_model);
            if ((r->deadline != 0 && r->deadline <= now) || !next_step(c, device, r))
                continue;
            struct candidate this = rank(c, r, now);
            if (!found || before(&this, best))
                *best = this;
            found = true;
        }
    }
    return found;
}

static void start_lane(struct sched_core *c, int device, struct picture *p, uint64_t now)
{
    struct core_device *d = &c->device[device];
    int m = p->key.model;
    p->state = PICTURE_RUNNING;
    p->device = device;
    p->started_at = now;
    p->lane = d->spare_count[m] > 0 ? d->spare[m][--d->spare_count[m]] : NULL;
    d->lanes[m]++;
    c->stats.queue_images--;
    histogram_add(&c->stats.queue_wait, sched_duration_bounds, SCHED_DURATION_BUCKETS,
                  (double)(now - p->queued_at) * 1e-6);
}

static void pick_steps(struct sched_core *c, int device, int model, bool contended,
                       struct sched_work *work, uint64_t now)
{
    struct sched_request *served[IMF_MAX_BATCH];
    size_t n = 0;
    LIST_EACH(it, &c->model[model].requests)
    {
        struct sched_request *r = LIST_OF(it, struct sched_request, of_model);
        if ((r->deadline == 0 || r->deadline > now) && next_step(c, device, r)) {
            assert(n < c->heap_capacity);
            c->heap[n++] = rank(c, r, now);
        }
    }
    for (size_t i = n / 2; i-- > 0;)
        sift_down(c->heap, n, i);
    work->kind = WORK_STEP;
    work->model = model;
    while (n > 0) {
        struct sched_request *r = c->heap[0].request;
        /* A tenant's service may have grown through another of its requests. */
        struct candidate fresh = rank(c, r, now);
        struct picture *p = next_step(c, device, r);
        if (!p) {
            c->heap[0] = c->heap[--n];
        } else if (work->n == c->model[model].max_batch) {
            contended = true;
            break;
        } else if (before(&c->heap[0], &fresh)) {
            c->heap[0] = fresh;
        } else {
            if (p->state == PICTURE_QUEUED)
                start_lane(c, device, p, now);
            p->in_hand = true;
            work->bad[work->n] = false;
            served[work->n] = r;
            work->picture[work->n++] = p;
            charge(r, CORE_EVALUATION, now);
            c->heap[0] = rank(c, r, now);
        }
        sift_down(c->heap, n, 0);
    }
    for (int i = 0; !contended && i < work->n; i++)
        refund(served[i], CORE_EVALUATION);
}

/* Until when to hold the batch that a step of this model would be now; 0: do it. A full batch is
 * never held, and max_delay_us does not hold lanes that are under way. */
static uint64_t hold_step(struct sched_core *c, int device, int model, uint64_t now)
{
    struct core_model *m = &c->model[model];
    int n = 0;
    uint64_t oldest = UINT64_MAX;
    bool under_way = false;
    LIST_EACH(r_it, &m->requests)
    {
        struct sched_request *r = LIST_OF(r_it, struct sched_request, of_model);
        LIST_EACH(it, &r->waiting)
        {
            const struct picture *p = LIST_OF(it, struct waiter, of_request)->picture;
            if (p->in_hand || (p->device >= 0 && p->device != device))
                continue;
            if (p->state != PICTURE_RUNNING && p->state != PICTURE_QUEUED)
                continue;
            under_way |= p->state == PICTURE_RUNNING;
            if (++n >= m->max_batch)
                return 0;
            if (p->queued_at < oldest)
                oldest = p->queued_at;
        }
    }
    uint64_t until = core_hold_until(c, m, n, now);
    if (!under_way && c->options.max_delay_us > 0 && oldest + c->options.max_delay_us > until)
        until = oldest + c->options.max_delay_us;
    return until > now ? until : 0;
}

/* ---- Decodings ------------------------------------------------------------------------------- */

/* The best of the picture's requests; its waiters are never none here. */
static struct candidate rank_picture(const struct sched_core *c, const struct picture *p,
                                     uint64_t now)
{
    struct candidate best = {0};
    assert(!list_empty(&p->waiters));
    LIST_EACH(it, &p->waiters)
    {
        struct candidate this = rank(c, LIST_OF(it, struct waiter, of_picture)->request, now);
        if (!best.request || before(&this, &best))
            best = this;
    }
    return best;
}

/* model < 0: any. */
static struct picture *best_decode(struct sched_core *c, int device, int model, uint64_t now,
                                   struct candidate *best)
{
    struct picture *found = NULL;
    LIST_EACH(it, &c->device[device].denoised)
    {
        struct picture *p = LIST_OF(it, struct picture, place);
        if (model >= 0 && p->key.model != model)
            continue;
        struct candidate this = rank_picture(c, p, now);
        if (!found || before(&this, best)) {
            found = p;
            *best = this;
        }
    }
    return found;
}

static void pick_decodes(struct sched_core *c, int device, int model, bool contended,
                         struct sched_work *work, uint64_t now)
{
    uint64_t cost = c->model[model].decode_cost;
    work->kind = WORK_DECODE;
    work->model = model;
    while (work->n < c->model[model].decode_batch &&
           (work->n == 0 || c->encoding < c->options.max_encoding)) {
        struct candidate best;
        struct picture *p = best_decode(c, device, model, now, &best);
        if (!p)
            break;
        list_remove(&p->place);
        p->in_hand = true;
        c->encoding++;
        work->bad[work->n] = false;
        work->picture[work->n++] = p;
        charge(best.request, cost, now);
        if (!contended && list_empty(&c->device[device].denoised))
            refund(best.request, cost);
    }
}

/* ---- Pick ------------------------------------------------------------------------------------ */

static void choose(struct sched_core *c, int device, struct sched_work *work, uint64_t now)
{
    struct core_device *d = &c->device[device];
    struct candidate step = {0}, decode = {0};
    if (d->held_since != 0) {
        c->stats.held_us += now - d->held_since;
        d->held_since = 0;
    }
    if (d->failed)
        return;
    bool can_step = best_step(c, device, now, &step);
    /* Encoding that cannot keep up holds decoding back, so pixels do not pile up. */
    bool can_decode =
        c->encoding < c->options.max_encoding && best_decode(c, device, -1, now, &decode);
    if (can_step && (!can_decode || step_first(c, &step, &decode))) {
        int model = step.request->spec.model;
        uint64_t until = hold_step(c, device, model, now);
        if (until == 0) {
            pick_steps(c, device, model, can_decode, work, now);
            return;
        }
        if (!can_decode) {
            work->wake_at = until;
            d->held_since = now;
        }
    }
    if (can_decode)
        pick_decodes(c, device, decode.request->spec.model, can_step, work, now);
}

void core_pick(struct sched_core *c, int device, struct sched_work *work, uint64_t now)
{
    struct core_device *d = &c->device[device];
    work->kind = WORK_NONE;
    work->short_of_memory = false;
    work->device = device;
    work->n = 0;
    work->wake_at = 0;
    work->started_at = now;
    choose(c, device, work, now);
    d->progress_at = now;
    if (work->kind == WORK_NONE)
        return;
    d->in_hand++;
    d->hand_kind = work->kind;
    d->hand_model = work->model;
    d->hand_n = work->n;
    d->hand_since = now;
}

/* ---- Complete -------------------------------------------------------------------------------- */

static void stepped(struct sched_core *c, struct picture *p, uint64_t now)
{
    p->step++;
    if (list_empty(&p->waiters)) {
        core__picture_drop(c, p);
    } else if (p->step == p->key.sampling.steps) {
        p->state = PICTURE_DENOISED;
        p->denoised_at = now;
        list_append(&c->device[p->device].denoised, &p->place);
    }
}

static void decoded(struct sched_core *c, struct picture *p, uint64_t now)
{
    core__lane_free(c, p);
    p->state = PICTURE_ENCODING;
    p->decoded_at = now;
    c->stats.images[p->key.model][p->key.sampling.steps]++;
    LIST_EACH(it, &p->waiters)
    {
        const struct sched_request *r = LIST_OF(it, struct waiter, of_picture)->request;
        if (r->next == r->spec.n && r->unfinished == 1)
            core_departed(c, now);
    }
    core__picture_ready(c, p, NULL, SCHED_RGB, now);
    if (list_empty(&p->waiters))
        core__picture_drop(c, p);
    else
        list_append(&c->to_encode, &p->place);
}

static void add_statistics(struct sched_core *c, const struct sched_work *work, uint64_t now)
{
    enum sched_stage stage = work->kind == WORK_STEP ? SCHED_STEP : SCHED_DECODE;
    struct sched_stats *s = &c->stats;
    uint64_t us = now - work->started_at;
    s->engine_busy_us += us;
    if (work->kind == WORK_STEP)
        s->network_evaluations += (uint64_t)work->n;
    histogram_add(&s->duration[stage], sched_duration_bounds, SCHED_DURATION_BUCKETS,
                  (double)us * 1e-6);
    histogram_add(&s->batch[stage], sched_batch_bounds, SCHED_BATCH_BUCKETS, work->n);
    core_measure(&c->model[work->model], work->kind, work->n, us, now);
}

/* The device's account of what it has in hand. */
static void give_back(struct sched_core *c, const struct sched_work *work, uint64_t now)
{
    struct core_device *d = &c->device[work->device];
    d->in_hand--;
    d->progress_at = now;
}

void core_abandon(struct sched_core *c, struct sched_work *work, uint64_t now)
{
    if (work->kind != WORK_NONE)
        give_back(c, work, now);
    for (int i = 0; i < work->n && work->kind != WORK_NONE; i++)
        work->picture[i]->in_hand = false;
    if (work->kind == WORK_DECODE)
        c->encoding -= (uint32_t)work->n;
    work->kind = WORK_NONE;
}

void core_complete(struct sched_core *c, int device, struct sched_work *work, imf_status status,
                   const char *message, uint64_t now)
{
    assert(work->kind != WORK_NONE && work->n > 0);
    if (status == IMF_ENOMEM) {
        for (int i = 0; i < work->n; i++)
            work->bad[i] = true;
        work->short_of_memory = true;
    } else if (status != IMF_OK) {
        core_abandon(c, work, now);
        core_device_failed(c, device, message, now);
        return;
    }
    give_back(c, work, now);
    for (int i = 0; i < work->n; i++)
        work->picture[i]->in_hand = false;
    if (status == IMF_OK)
        add_statistics(c, work, now);
    if (work->short_of_memory)
        core_shed(c);
    /* First the good ones: failing a picture ends requests, which may drop pictures of this batch
     * that are no longer in hand. So those are taken one by one, and looked up no more. */
    bool any_bad = false;
    for (int i = 0; i < work->n; i++) {
        if (work->bad[i]) {
            any_bad = true;
            work->picture[i]->in_hand = true; /* keeps it until its turn below */
            if (work->kind == WORK_DECODE)
                c->encoding--;
        } else if (work->kind == WORK_STEP) {
            stepped(c, work->picture[i], now);
        } else {
            decoded(c, work->picture[i], now);
        }
    }
    for (int i = 0; any_bad && i < work->n; i++) {
        if (work->bad[i]) {
            work->picture[i]->in_hand = false;
            core__picture_fail(c, work->picture[i],
                               work->short_of_memory ? SCHED_MEMORY : SCHED_FAILED, message, now);
        }
    }
    work->kind = WORK_NONE;
}

static struct picture *any_picture_on(struct sched_core *c, int device)
{
    struct picture *p = c->pictures;
    while (p && p->device != device)
        p = p->hh.next;
    return p;
}

void core_device_failed(struct sched_core *c, int device, const char *message, uint64_t now)
{
    struct picture *p;
    c->device[device].failed = true;
    /* Failing one may drop others with it, so each is looked up afresh. */
    while ((p = any_picture_on(c, device)))
        core__picture_fail(c, p, SCHED_FAILED, message, now);
    for (int m = 0; m < c->model_count; m++) {
        if (!serves(c, device, m))
            continue;
        c->model[m].devices &= ~(1u << device);
        if (c->model[m].devices == 0)
            core_model_failed(c, m, message, now);
    }
}

/* ---- Encoding -------------------------------------------------------------------------------- */

struct picture *core_encode_next(struct sched_core *c)
{
    if (list_empty(&c->to_encode))
        return NULL;
    struct picture *p = LIST_OF(c->to_encode.next, struct picture, place);
    list_remove(&p->place);
    p->in_hand = true;
    return p;
}

void core_encoded(struct sched_core *c, struct picture *p, struct blob *png, uint64_t duration_us,
                  uint64_t now)
{
    p->in_hand = false;
    if (!png) {
        core_shed(c);
        core__picture_fail(c, p, SCHED_MEMORY, "out of memory while encoding the picture", now);
        return;
    }
    core_measure_encode(c, duration_us);
    histogram_add(&c->stats.duration[SCHED_ENCODE], sched_duration_bounds, SCHED_DURATION_BUCKETS,
                  (double)duration_us * 1e-6);
    histogram_add(&c->stats.batch[SCHED_ENCODE], sched_batch_bounds, SCHED_BATCH_BUCKETS, 1);
    image_cache_put(c->cache, &p->key, png);
    core__picture_ready(c, p, png, SCHED_PNG | SCHED_RGB, now);
    core__picture_drop(c, p);
    blob_drop(png);
}
