/* Requests, pictures and events of the scheduler's state machine: who asked for what, who waits for
 * whom, what to tell them. Which work is done next is scheduler_pick.c's. */
#include "scheduler_core.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Set-up ---------------------------------------------------------------------------------- */

imf_status core_init(struct sched_core *c, const struct sched_options *o)
{
    memset(c, 0, sizeof(*c));
    c->options = *o;
    c->bucket_count = 256;
    c->bucket = calloc(c->bucket_count, sizeof(struct picture *));
    c->cache = image_cache_new(o->cache_bytes);
    if (c->bucket == NULL || c->cache == NULL) {
        free(c->bucket);
        image_cache_free(c->cache);
        return IMF_ENOMEM;
    }
    list_init(&c->tenants);
    list_init(&c->to_encode);
    list_init(&c->events);
    return IMF_OK;
}

void core_destroy(struct sched_core *c)
{
    assert(c->requests == 0 && c->picture_count == 0 && list_empty(&c->events));
    for (size_t i = 0; i < sizeof(c->tenant_bucket) / sizeof(c->tenant_bucket[0]); i++) {
        while (c->tenant_bucket[i] != NULL) {
            struct tenant *t = c->tenant_bucket[i];
            c->tenant_bucket[i] = t->next;
            free(t);
        }
    }
    for (int d = 0; d < c->device_count; d++) {
        for (int m = 0; m < c->model_count; m++)
            free(c->device[d].spare[m]);
    }
    image_cache_free(c->cache);
    free(c->bucket);
    free(c->heap);
}

int core_add_model(struct sched_core *c)
{
    if (c->model_count == SCHED_MAX_MODELS)
        return -1;
    struct core_model *m = &c->model[c->model_count];
    m->state = SCHED_MODEL_LOADING;
    m->max_batch = m->decode_batch = 1;
    list_init(&m->requests);
    return c->model_count++;
}

int core_add_device(struct sched_core *c)
{
    if (c->device_count == SCHED_MAX_DEVICES)
        return -1;
    list_init(&c->device[c->device_count].denoised);
    return c->device_count++;
}

static int clamp(int v, int low, int high)
{
    return v < low ? low : v > high ? high : v;
}

bool core_model_ready(struct sched_core *c, int model, int device,
                      const struct imf_model_info *info)
{
    struct core_model *m = &c->model[model];
    struct core_device *d = &c->device[device];
    m->max_batch = clamp(info->max_batch, 1, CORE_MAX_BATCH);
    m->decode_batch = clamp(info->decode_batch, 1, m->max_batch);
    double ratio = info->step_flops > 0 ? info->decode_flops / info->step_flops : 1;
    m->decode_cost = (uint64_t)(CORE_EVALUATION * (ratio < 64 ? ratio : 64));
    /* More lanes than a batch: those of long requests wait here while others take their turn. */
    d->lane_limit[model] = 4 * (uint32_t)m->max_batch > 64 ? 4 * (uint32_t)m->max_batch : 64;
    d->spare[model] = calloc(d->lane_limit[model], sizeof(struct backend_lane *));
    if (d->spare[model] == NULL)
        return false;
    m->devices |= 1u << device;
    m->state = SCHED_MODEL_READY;
    return true;
}

void core_model_failed(struct sched_core *c, int model, const char *message, uint64_t now)
{
    struct core_model *m = &c->model[model];
    m->state = m->state == SCHED_MODEL_LOADING ? SCHED_MODEL_FAILED : SCHED_MODEL_SICK;
    snprintf(m->message, sizeof(m->message), "%s", message);
    while (!list_empty(&m->requests)) {
        core__request_end(c, LIST_OF(m->requests.next, struct sched_request, of_model),
                          SCHED_FAILED, message, now);
    }
}

/* ---- Pictures in flight ---------------------------------------------------------------------- */

static struct picture *picture_find(const struct sched_core *c, const struct picture_key *key,
                                    uint64_t hash)
{
    struct picture *p = c->bucket[hash & (c->bucket_count - 1)];
    while (p != NULL && (p->hash != hash || !picture_key_equal(&p->key, key)))
        p = p->next;
    return p;
}

static void grow_buckets(struct sched_core *c)
{
    size_t count = 2 * c->bucket_count;
    struct picture **bucket = calloc(count, sizeof(struct picture *));
    if (bucket == NULL)
        return; /* longer chains, nothing worse */
    for (size_t i = 0; i < c->bucket_count; i++) {
        while (c->bucket[i] != NULL) {
            struct picture *p = c->bucket[i];
            c->bucket[i] = p->next;
            p->next = bucket[p->hash & (count - 1)];
            bucket[p->hash & (count - 1)] = p;
        }
    }
    free(c->bucket);
    c->bucket = bucket;
    c->bucket_count = count;
}

static struct picture *picture_new(struct sched_core *c, const struct picture_key *key,
                                   uint64_t hash, uint64_t now)
{
    struct picture *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return NULL;
    if (c->picture_count >= c->bucket_count)
        grow_buckets(c);
    p->hash = hash;
    p->key = *key;
    p->state = PICTURE_QUEUED;
    p->device = -1;
    p->queued_at = now;
    list_init(&p->waiters);
    list_init(&p->place);
    p->next = c->bucket[hash & (c->bucket_count - 1)];
    c->bucket[hash & (c->bucket_count - 1)] = p;
    c->picture_count++;
    c->stats.queue_images++;
    return p;
}

void core__lane_free(struct sched_core *c, struct picture *p)
{
    if (p->device < 0)
        return;
    struct core_device *d = &c->device[p->device];
    int m = p->key.model;
    assert(d->lanes[m] > 0);
    d->lanes[m]--;
    if (p->lane != NULL) {
        assert(d->spare_count[m] < d->lane_limit[m]);
        d->spare[m][d->spare_count[m]++] = p->lane;
    }
    p->lane = NULL;
    p->device = -1;
}

/* Forgets a picture that nobody waits for and no thread holds. */
void core__picture_drop(struct sched_core *c, struct picture *p)
{
    assert(!p->in_hand && list_empty(&p->waiters));
    struct picture **link = &c->bucket[p->hash & (c->bucket_count - 1)];
    while (*link != p)
        link = &(*link)->next;
    *link = p->next;
    list_remove(&p->place);
    core__lane_free(c, p);
    if (p->state == PICTURE_QUEUED)
        c->stats.queue_images--;
    if (p->state == PICTURE_ENCODING)
        c->encoding--;
    blob_drop(p->rgb);
    c->picture_count--;
    free(p);
}

/* ---- Waiters --------------------------------------------------------------------------------- */

static void key_of(const struct sched_request *r, uint32_t index, struct picture_key *key)
{
    /* Field by field: keys are compared so, and never as bytes. */
    key->model = r->model;
    key->label = r->samples.labels != NULL ? r->samples.labels[index] : r->samples.label;
    key->seed = r->samples.seeds != NULL ? r->samples.seeds[index] : r->samples.seed + index;
    key->sampling = r->sampling;
}

static void push_event(struct sched_core *c, struct ready *ready, struct waiter *waiter)
{
    ready->waiter = waiter;
    list_append(&c->events, &ready->link);
}

static void end_when_complete(struct sched_core *c, struct sched_request *r, uint64_t now)
{
    if (!r->ended && r->done == r->n)
        core__request_end(c, r, SCHED_DONE, "", now);
}

/* Takes the waiter off its picture's list; the picture may be left without any. */
static void detach(struct waiter *w)
{
    list_remove(&w->of_picture);
    list_remove(&w->of_request);
    w->picture = NULL;
    w->request->unfinished--;
}

/* The result's blobs are filled in; the waiter belongs to the events now. */
static void make_ready(struct sched_core *c, struct waiter *w, uint64_t now)
{
    struct sched_request *r = w->request;
    r->undelivered++;
    r->done++;
    push_event(c, &w->ready, w);
    end_when_complete(c, r, now);
}

/* Part of the span that lies after `from`. */
static uint64_t span(uint64_t begin, uint64_t end, uint64_t from)
{
    if (begin < from)
        begin = from;
    return end > begin ? end - begin : 0;
}

/* Hands the picture to those of its waiters that want something in `wanting` at most. */
void core__picture_ready(struct sched_core *c, struct picture *p, struct blob *png,
                         unsigned wanting, uint64_t now)
{
    LIST_EACH(it, &p->waiters)
    {
        struct waiter *w = LIST_OF(it, struct waiter, of_picture);
        struct sched_request *r = w->request;
        if ((r->want & ~wanting) != 0)
            continue;
        struct sched_picture *out = &w->result;
        out->png = (r->want & SCHED_PNG) != 0 && png != NULL ? blob_take(png) : NULL;
        out->rgb = (r->want & SCHED_RGB) != 0 ? blob_take(p->rgb) : NULL;
        out->timings = (struct sched_timings){
            .queue = span(0, p->started_at, w->joined_at),
            .denoise = span(p->started_at, p->denoised_at, w->joined_at),
            .decode = span(p->denoised_at, p->decoded_at, w->joined_at),
            .encode = (r->want & SCHED_PNG) != 0 ? span(p->decoded_at, now, w->joined_at) : 0,
        };
        detach(w);
        make_ready(c, w, now);
    }
}

/* Every request that waits for this picture ends. */
void core__picture_fail(struct sched_core *c, struct picture *p, const char *message, uint64_t now)
{
    assert(!p->in_hand);
    if (list_empty(&p->waiters)) {
        core__picture_drop(c, p);
        return;
    }
    /* Ending the last of them drops the picture: it must not be looked at after that. */
    bool last;
    do {
        struct waiter *w = LIST_OF(p->waiters.next, struct waiter, of_picture);
        last = true;
        LIST_EACH(it, &p->waiters)
        last = last && LIST_OF(it, struct waiter, of_picture)->request == w->request;
        core__request_end(c, w->request, SCHED_FAILED, message, now);
    } while (!last);
}

static bool join_or_queue(struct sched_core *c, struct waiter *w, uint64_t now)
{
    struct sched_request *r = w->request;
    uint64_t hash = picture_key_hash(&w->result.key);
    struct picture *p = picture_find(c, &w->result.key, hash);
    if (p != NULL) {
        w->result.source = SCHED_COALESCED;
        c->stats.coalesced++;
    } else {
        p = picture_new(c, &w->result.key, hash, now);
        if (p == NULL)
            return false;
        w->result.source = SCHED_COMPUTED;
    }
    w->picture = p;
    w->joined_at = now;
    list_append(&p->waiters, &w->of_picture);
    list_append(&r->waiting, &w->of_request);
    r->unfinished++;
    /* Pixels are there already and no PNG is asked: no need to wait for the encoder. */
    if (p->state == PICTURE_ENCODING && r->want == SCHED_RGB)
        core__picture_ready(c, p, NULL, SCHED_RGB, now);
    return true;
}

/* Gives waiters to as many of the request's pictures as the window allows. */
static void materialise(struct sched_core *c, struct sched_request *r, uint64_t now)
{
    while (!r->ended && r->next < r->n && r->outstanding < r->window) {
        struct waiter *w = LIST_OF(r->spare.next, struct waiter, of_request);
        assert(!list_empty(&r->spare));
        struct sched_picture *out = &w->result;
        memset(out, 0, sizeof(*out));
        out->index = r->next;
        key_of(r, r->next, &out->key);
        if (r->want == SCHED_PNG)
            out->png = image_cache_get(c->cache, &out->key);
        list_remove(&w->of_request);
        r->next++;
        r->outstanding++;
        c->stats.queue_images--; /* picture_new counts it again if it is to be computed */
        if (out->png != NULL) {
            c->stats.cache_hits++;
            out->source = SCHED_CACHED;
            make_ready(c, w, now);
            continue;
        }
        c->stats.cache_misses++;
        if (!join_or_queue(c, w, now)) {
            list_append(&r->spare, &w->of_request);
            core__request_end(c, r, SCHED_FAILED, "out of memory", now);
        }
    }
}

/* ---- Tenants --------------------------------------------------------------------------------- */

static unsigned tenant_hash(const char *id)
{
    unsigned h = 2166136261u; /* FNV-1a */
    for (; *id != '\0'; id++)
        h = (h ^ (unsigned char)*id) * 16777619u;
    return (h ^ h >> 16) & 255;
}

/* Least service among those that compete; what a newcomer is credited with, so that it neither
 * waits for old debts of others nor gets arrears for the time it was away. */
static uint64_t least_tenant(const struct sched_core *c)
{
    uint64_t least = UINT64_MAX;
    LIST_EACH(it, &c->tenants)
    {
        const struct tenant *t = LIST_OF(it, struct tenant, active);
        if (t->service < least)
            least = t->service;
    }
    return least == UINT64_MAX ? 0 : least;
}

static uint64_t least_request(const struct tenant *t)
{
    uint64_t least = UINT64_MAX;
    LIST_EACH(it, &t->requests)
    {
        const struct sched_request *r = LIST_OF(it, struct sched_request, of_tenant);
        if (r->service < least)
            least = r->service;
    }
    return least == UINT64_MAX ? 0 : least;
}

/* Tenants without requests are remembered for as long as they are ahead of the others: forgetting
 * them earlier would let a client reset its account by pausing. */
static void forget_tenants(struct sched_core *c)
{
    bool all = list_empty(&c->tenants);
    uint64_t least = least_tenant(c);
    for (size_t i = 0; i < sizeof(c->tenant_bucket) / sizeof(c->tenant_bucket[0]); i++) {
        struct tenant **link = &c->tenant_bucket[i];
        while (*link != NULL) {
            struct tenant *t = *link;
            if (list_empty(&t->requests) && (all || t->service <= least)) {
                *link = t->next;
                c->tenant_count--;
                free(t);
            } else {
                link = &t->next;
            }
        }
    }
}

static struct tenant *tenant_get(struct sched_core *c, const char *id)
{
    struct tenant **bucket = &c->tenant_bucket[tenant_hash(id)];
    for (struct tenant *t = *bucket; t != NULL; t = t->next) {
        if (strcmp(t->id, id) == 0)
            return t;
    }
    if (c->tenant_count >= 64)
        forget_tenants(c);
    size_t size = strlen(id) + 1;
    struct tenant *t = calloc(1, sizeof(*t) + size);
    if (t == NULL)
        return NULL;
    memcpy(t->id, id, size);
    list_init(&t->active);
    list_init(&t->requests);
    t->next = *bucket;
    *bucket = t;
    c->tenant_count++;
    return t;
}

/* ---- Requests -------------------------------------------------------------------------------- */

uint32_t core_queue_images(const struct sched_core *c)
{
    return c->stats.queue_images;
}

/* How many of the pictures would need the engine: neither cached nor in flight. */
static uint32_t count_new(const struct sched_core *c, const struct sched_spec *s)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        struct picture_key key = {
            .model = s->model,
            .label = s->labels != NULL ? s->labels[i] : s->label,
            .seed = s->seeds != NULL ? s->seeds[i] : s->seed + i,
            .sampling = s->sampling,
        };
        bool known = (s->want == SCHED_PNG && image_cache_has(c->cache, &key)) ||
                     picture_find(c, &key, picture_key_hash(&key)) != NULL;
        count += !known;
    }
    return count;
}

static bool refuse(struct sched_core *c, struct sched_refusal *out, enum sched_reject why,
                   uint64_t retry_us, const char *message)
{
    c->stats.rejected[why]++;
    out->why = why;
    out->retry_us = retry_us;
    snprintf(out->message, sizeof(out->message), "%s", message);
    return false;
}

static bool admit(struct sched_core *c, const struct sched_spec *s, struct sched_refusal *out)
{
    const struct core_model *m = &c->model[s->model];
    char text[160];
    if (c->draining)
        return refuse(c, out, SCHED_REJECT_DRAINING, 0, "the server is shutting down");
    if (m->state == SCHED_MODEL_LOADING)
        return refuse(c, out, SCHED_REJECT_LOADING, 0, "the model is still loading");
    if (m->state != SCHED_MODEL_READY) {
        return refuse(c, out, SCHED_REJECT_SICK, 0,
                      m->state == SCHED_MODEL_FAILED ? "the model could not be loaded"
                                                     : "the model's device has failed");
    }
    uint32_t capacity = c->options.max_queue, queued = c->stats.queue_images;
    bool fits = s->n <= capacity && queued <= capacity - s->n;
    if (!fits) {
        uint32_t fresh = count_new(c, s);
        if (fresh > capacity) {
            snprintf(text, sizeof(text), "%u pictures are more than the queue of %u holds", s->n,
                     capacity);
            return refuse(c, out, SCHED_REJECT_SIZE, 0, text);
        }
        if (fresh > 0 && queued + fresh > capacity) {
            snprintf(text, sizeof(text), "the queue is full: %u of %u pictures are waiting", queued,
                     capacity);
            return refuse(c, out, SCHED_REJECT_QUEUE, core_retry_us(c, s->model, fresh), text);
        }
    }
    if (s->timeout_us != 0) {
        uint64_t need = core_estimate(c, s, count_new(c, s));
        if (need > s->timeout_us) {
            snprintf(text, sizeof(text),
                     "the deadline of %.3f s cannot be met: at the measured speed this needs at "
                     "least %.3f s",
                     (double)s->timeout_us * 1e-6, (double)need * 1e-6);
            return refuse(c, out, SCHED_REJECT_DEADLINE, need - s->timeout_us, text);
        }
    }
    return true;
}

static void request_free(struct sched_request *r)
{
    if (r == NULL)
        return;
    free(r->samples.labels);
    free(r->samples.seeds);
    free(r);
}

static bool copy_lists(struct sched_request *r, const struct sched_spec *s)
{
    r->samples.label = s->label;
    r->samples.seed = s->seed;
    if (s->labels != NULL) {
        r->samples.labels = malloc(s->n * sizeof(*s->labels));
        if (r->samples.labels == NULL)
            return false;
        memcpy(r->samples.labels, s->labels, s->n * sizeof(*s->labels));
    }
    if (s->seeds != NULL) {
        r->samples.seeds = malloc(s->n * sizeof(*s->seeds));
        if (r->samples.seeds == NULL)
            return false;
        memcpy(r->samples.seeds, s->seeds, s->n * sizeof(*s->seeds));
    }
    return true;
}

static struct sched_request *request_new(const struct sched_core *c, const struct sched_spec *s,
                                         uint64_t now)
{
    /* Two batches: one in the engine, one being encoded and sent, so a single large request keeps
     * an engine busy. */
    uint32_t window = s->window != 0 ? s->window : c->options.window;
    if (window == 0)
        window = 2 * (uint32_t)c->model[s->model].max_batch;
    if (window > s->n)
        window = s->n;
    struct sched_request *r = calloc(1, sizeof(*r) + window * sizeof(struct waiter));
    if (r == NULL)
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
    r->model = s->model;
    r->priority = s->priority;
    r->n = s->n;
    r->window = window;
    r->sampling = s->sampling;
    r->want = s->want;
    r->arrived_at = r->served_at = now;
    r->deadline = s->timeout_us != 0 ? now + s->timeout_us : 0;
    if (!copy_lists(r, s)) {
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
    if (grown == NULL)
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
    if (!admit(c, s, refusal))
        return NULL;
    struct tenant *t = tenant_get(c, s->tenant != NULL ? s->tenant : "");
    struct sched_request *r = t != NULL && reserve_heap(c) ? request_new(c, s, now) : NULL;
    if (r == NULL) {
        refuse(c, refusal, SCHED_REJECT_MEMORY, 1000000, "out of memory");
        return NULL;
    }
    if (list_empty(&t->requests)) {
        uint64_t least = least_tenant(c);
        if (t->service < least)
            t->service = least;
        list_append(&c->tenants, &t->active);
    }
    r->tenant = t;
    r->service = least_request(t);
    r->sequence = c->sequence++;
    list_append(&t->requests, &r->of_tenant);
    list_append(&c->model[s->model].requests, &r->of_model);
    c->requests++;
    c->stats.accepted++;
    c->stats.accepted_images += r->n;
    c->stats.queue_images += r->n;
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
        detach(w);
        list_append(&r->spare, &w->of_request);
        if (list_empty(&p->waiters) && !p->in_hand)
            core__picture_drop(c, p);
    }
    if (!r->ended)
        c->stats.queue_images -= r->n - r->next;
    r->ended = true;
    list_remove(&r->of_model);
    list_remove(&r->of_tenant);
    if (list_empty(&r->tenant->requests))
        list_remove(&r->tenant->active);
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
    images[SCHED_PHASE_QUEUED] += r->n - r->next;
    images[SCHED_PHASE_SENDING] += r->outstanding - r->unfinished;
    c->stats.cancelled_requests[furthest]++;
    return furthest;
}

int core_close(struct sched_core *c, struct sched_request *r, enum sched_outcome outcome)
{
    int phase = -1;
    bool failed = outcome == SCHED_BROKEN || (r->ended && r->result != SCHED_DONE);
    uint32_t unsent = r->n - (r->next - r->outstanding); /* neither sent nor given up so far */
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

bool core_next_event(struct sched_core *c, struct core_event *event)
{
    if (list_empty(&c->events))
        return false;
    struct ready *ready = LIST_OF(c->events.next, struct ready, link);
    list_remove(&ready->link);
    struct waiter *w = ready->waiter;
    if (w == NULL) {
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
