/* Requests: from submission through the places that its window allows to their end, and the events
 * that tell their owner. */
#include "scheduler/state.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bounds of what a request may hold, the upper one for every device. */
enum { MIN_WINDOW = 16, MAX_WINDOW = 64 };

/* ---- Events ---------------------------------------------------------------------------------- */

static void push_event(struct sched_core *c, struct ready *ready, struct waiter *waiter)
{
    ready->waiter = waiter;
    list_append(&c->events, &ready->link);
}

static void end_when_complete(struct sched_core *c, struct sched_request *r, uint64_t now)
{
    if (!r->ended && r->done == r->spec.n)
        core__request_end(c, r, SCHED_DONE, "", now);
}

void core__waiter_ready(struct sched_core *c, struct waiter *w, uint64_t now)
{
    struct sched_request *r = w->request;
    r->undelivered++;
    r->done++;
    push_event(c, &w->ready, w);
    end_when_complete(c, r, now);
}

bool core_next_event(struct sched_core *c, struct core_event *event)
{
    if (list_empty(&c->events))
        return false;
    struct ready *ready = LIST_OF(c->events.next, struct ready, link);
    list_remove(&ready->link);
    struct waiter *w = ready->waiter;
    if (!w) {
        event->request = LIST_OF(ready, struct sched_request, end);
        event->is_end = true;
        event->request->end_taken = true;
        c->requests--;
        return true;
    }
    event->request = w->request;
    event->is_end = false;
    event->picture = w->result;
    w->request->undelivered--;
    list_append(&w->request->spare, &w->of_request);
    return true;
}

/* ---- Places ---------------------------------------------------------------------------------- */

struct picture_key core__sample_key(const struct sched_spec *s, uint32_t index)
{
    struct picture_key key = {
        .model = s->model,
        .label = s->labels ? s->labels[index] : s->label,
        .seed = s->seeds ? s->seeds[index] : s->seed + index,
        .sampling = s->samplings ? s->samplings[index] : s->sampling,
        .encoding = s->encoding,
    };
    picture_key_normalise(&key);
    return key;
}

/* Gives waiters to as many of the request's pictures as the window allows. */
static void materialise(struct sched_core *c, struct sched_request *r, uint64_t now)
{
    while (!r->ended && r->next < r->spec.n && r->outstanding < r->window) {
        struct waiter *w = LIST_OF(r->spare.next, struct waiter, of_request);
        assert(!list_empty(&r->spare));
        struct sched_picture *out = &w->result;
        memset(out, 0, sizeof(*out));
        out->index = r->next;
        out->key = core__sample_key(&r->spec, r->next);
        if (r->spec.want == SCHED_PNG)
            out->png = image_cache_get(c->cache, &out->key);
        list_remove(&w->of_request);
        r->next++;
        r->outstanding++;
        c->stats.queue_images--; /* a picture to be computed counts again */
        if (out->png) {
            c->stats.cache_hits++;
            out->source = SCHED_CACHED;
            core__waiter_ready(c, w, now);
            continue;
        }
        c->stats.cache_misses++;
        if (!core__picture_join(c, w, now)) {
            list_append(&r->spare, &w->of_request);
            core_shed(c);
            core__request_end(c, r, SCHED_MEMORY, "out of memory", now);
        }
    }
}

/* ---- Requests -------------------------------------------------------------------------------- */

static void request_free(struct sched_request *r)
{
    if (!r)
        return;
    free((void *)(uintptr_t)r->spec.labels);
    free((void *)(uintptr_t)r->spec.seeds);
    free((void *)(uintptr_t)r->spec.samplings);
    free(r);
}

/* NULL when there is none, or no memory. */
static void *copy_list(const void *list, size_t size)
{
    void *copy = list ? malloc(size) : NULL;
    if (copy)
        memcpy(copy, list, size);
    return copy;
}

static bool copy_spec(struct sched_request *r, const struct sched_spec *s)
{
    r->spec = *s;
    r->spec.tenant = NULL; /* r->tenant knows it */
    r->spec.labels = copy_list(s->labels, s->n * sizeof(*s->labels));
    r->spec.seeds = copy_list(s->seeds, s->n * sizeof(*s->seeds));
    r->spec.samplings = copy_list(s->samplings, s->n * sizeof(*s->samplings));
    return (r->spec.labels != NULL) == (s->labels != NULL) &&
           (r->spec.seeds != NULL) == (s->seeds != NULL) &&
           (r->spec.samplings != NULL) == (s->samplings != NULL);
}

uint32_t core_window(const struct sched_core *c, int model)
{
    const struct core_model *m = &c->model[model];
    uint32_t devices = (uint32_t)__builtin_popcount(m->devices);
    devices = devices > 0 ? devices : 1;
    uint32_t window = (devices + 1) * (uint32_t)m->max_batch, most = MAX_WINDOW * devices;
    return window < MIN_WINDOW ? MIN_WINDOW : window > most ? most : window;
}

static struct sched_request *request_new(const struct sched_core *c, const struct sched_spec *s,
                                         uint64_t now)
{
    uint32_t window = s->window != 0 ? s->window : c->options.window;
    if (window == 0)
        window = core_window(c, s->model);
    if (window > s->n)
        window = s->n;
    struct sched_request *r = calloc(1, sizeof(*r) + window * sizeof(struct waiter));
    if (!r)
        return NULL;
    list_init(&r->of_model);
    list_init(&r->of_tenant);
    list_init(&r->waiting);
    list_init(&r->spare);
    list_init(&r->end.link);
    for (uint32_t i = 0; i < window; i++) {
        struct waiter *w = &r->waiters[i];
        w->request = r;
        list_init(&w->of_picture);
        list_init(&w->ready.link);
        list_append(&r->spare, &w->of_request);
    }
    r->window = window;
    r->arrived_at = r->served_at = now;
    r->deadline = s->timeout_us != 0 ? now + s->timeout_us : 0;
    if (!copy_spec(r, s)) {
        request_free(r);
        return NULL;
    }
    return r;
}

/* pick() must not allocate: its scratch holds every request. */
static bool reserve_heap(struct sched_core *c)
{
    if (c->requests + 1 <= c->heap_capacity)
        return true;
    size_t capacity = c->heap_capacity == 0 ? 64 : 2 * c->heap_capacity;
    struct candidate *grown = realloc(c->heap, capacity * sizeof(*grown));
    if (!grown)
        return false;
    c->heap = grown;
    c->heap_capacity = capacity;
    return true;
}

struct sched_request *core_submit(struct sched_core *c, const struct sched_spec *s, uint64_t now,
                                  struct sched_refusal *refusal)
{
    assert(s->model >= 0 && s->model < c->model_count && s->n >= 1);
    assert(s->priority >= 0 && s->priority < SCHED_PRIORITIES);
    assert((s->want & (SCHED_PNG | SCHED_RGB)) != 0);
    assert(s->sampling.steps >= 1 && s->sampling.steps <= IMF_MAX_STEPS);
    core_arrived(c, now);
    if (!core__admit(c, s, now, refusal))
        return NULL;
    struct tenant *t = core__tenant_get(c, s->tenant ? s->tenant : "");
    struct sched_request *r = t && reserve_heap(c) ? request_new(c, s, now) : NULL;
    if (!r) {
        core_shed(c);
        core__refuse(c, refusal, SCHED_REJECT_MEMORY, 1000000, "out of memory");
        return NULL;
    }
    core__tenant_join(c, t, r);
    r->sequence = c->sequence++;
    list_append(&c->model[s->model].requests, &r->of_model);
    c->requests++;
    c->stats.accepted++;
    c->stats.accepted_images += r->spec.n;
    c->stats.queue_images += r->spec.n;
    refusal->why = SCHED_ACCEPTED;
    materialise(c, r, now);
    return r;
}

void core_release(struct sched_core *c, struct sched_request *r, uint32_t count, uint64_t now)
{
    assert(count <= r->outstanding - r->unfinished - r->undelivered);
    r->outstanding -= count;
    c->stats.sent_images += count;
    materialise(c, r, now);
}

/* The phase that a picture is in, for the statistics of cancellations. */
static enum sched_phase phase_of(const struct picture *p)
{
    switch (p->state) {
    case PICTURE_QUEUED:
        return SCHED_PHASE_QUEUED;
    case PICTURE_RUNNING:
        return SCHED_PHASE_RUNNING;
    case PICTURE_DENOISED:
        return SCHED_PHASE_DECODING;
    default:
        return SCHED_PHASE_ENCODING;
    }
}

/* Takes the request out of everything but the events. Pictures that nobody else wants are dropped,
 * or will be when the batch they are in completes. */
static void withdraw(struct sched_core *c, struct sched_request *r)
{
    while (!list_empty(&r->waiting)) {
        struct waiter *w = LIST_OF(r->waiting.next, struct waiter, of_request);
        struct picture *p = w->picture;
        core__waiter_detach(w);
        list_append(&r->spare, &w->of_request);
        if (list_empty(&p->waiters) && !p->in_hand)
            core__picture_drop(c, p);
    }
    if (!r->ended)
        c->stats.queue_images -= r->spec.n - r->next;
    r->ended = true;
    list_remove(&r->of_model);
    core__tenant_leave(r);
}

void core__request_end(struct sched_core *c, struct sched_request *r, enum sched_result result,
                       const char *message, uint64_t now)
{
    (void)now;
    if (r->ended)
        return;
    withdraw(c, r);
    r->result = result;
    snprintf(r->message, sizeof(r->message), "%s", message);
    if (result == SCHED_TIMEOUT)
        c->stats.deadline_missed++;
    push_event(c, &r->end, NULL);
}

/* A request whose client has gone: each picture is counted by the phase it is in, the request by
 * the furthest of them, which is returned. */
static enum sched_phase count_cancelled(struct sched_core *c, const struct sched_request *r)
{
    uint64_t *images = c->stats.cancelled_images;
    enum sched_phase furthest = SCHED_PHASE_QUEUED;
    LIST_EACH(it, &r->waiting)
    {
        enum sched_phase phase = phase_of(LIST_OF(it, struct waiter, of_request)->picture);
        images[phase]++;
        if (phase > furthest)
            furthest = phase;
    }
    if (r->done > 0)
        furthest = SCHED_PHASE_SENDING;
    images[SCHED_PHASE_QUEUED] += r->spec.n - r->next;
    images[SCHED_PHASE_SENDING] += r->outstanding - r->unfinished;
    c->stats.cancelled_requests[furthest]++;
    return furthest;
}

int core_close(struct sched_core *c, struct sched_request *r, enum sched_outcome outcome)
{
    int phase = -1;
    bool failed = outcome == SCHED_BROKEN || (r->ended && r->result != SCHED_DONE);
    uint32_t unsent = r->spec.n - (r->next - r->outstanding); /* neither sent nor given up so far */
    assert(failed || outcome != SCHED_SENT || (r->ended && r->undelivered == 0));
    if (failed) {
        c->stats.failed_requests++;
        c->stats.failed_images += unsent;
    } else if (outcome == SCHED_SENT) {
        c->stats.sent_requests++;
        c->stats.sent_images += unsent;
    } else {
        phase = (int)count_cancelled(c, r);
    }
    if (!r->ended)
        withdraw(c, r);
    list_remove(&r->end.link);
    for (uint32_t i = 0; i < r->window; i++) {
        struct waiter *w = &r->waiters[i];
        if (!list_empty(&w->ready.link)) {
            list_remove(&w->ready.link);
            blob_drop(w->result.png);
            blob_drop(w->result.rgb);
        }
    }
    if (!r->end_taken)
        c->requests--;
    request_free(r);
    return phase;
}

uint64_t core_expire(struct sched_core *c, uint64_t now)
{
    uint64_t next = 0;
    for (int m = 0; m < c->model_count; m++) {
        LIST_EACH(it, &c->model[m].requests)
        {
            struct sched_request *r = LIST_OF(it, struct sched_request, of_model);
            if (r->deadline == 0)
                continue;
            if (r->deadline <= now)
                core__request_end(c, r, SCHED_TIMEOUT, "the request's time is up", now);
            else if (next == 0 || r->deadline < next)
                next = r->deadline;
        }
    }
    return next;
}

void core_stop(struct sched_core *c, uint64_t now)
{
    c->draining = true;
    for (int m = 0; m < c->model_count; m++) {
        struct list *requests = &c->model[m].requests;
        while (!list_empty(requests)) {
            core__request_end(c, LIST_OF(requests->next, struct sched_request, of_model),
                              SCHED_STOPPED, "the server is shutting down", now);
        }
    }
}
