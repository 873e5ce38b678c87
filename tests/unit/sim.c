/* The simulated world of sim.h. */
#include "sim.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

void sim_init(struct sim *s, const struct sched_options *o, int devices, int models, int max_batch,
              int decode_batch)
{
    memset(s, 0, sizeof(*s));
    s->now = 1000;
    s->step_us = 10000;
    s->step_lane_us = 1000;
    s->decode_us = 1000;
    s->decode_lane_us = 1000;
    s->encode_us = 300;
    s->encoders = 2;
    s->bad_label = -1;
    ENSURE_EQ(core_init(&s->core, o), IMF_OK);
    s->core.encoders = s->encoders;
    for (int d = 0; d < devices; d++)
        ENSURE_EQ(core_add_device(&s->core), d);
    struct imf_model_info info = {.max_batch = max_batch,
                                  .decode_batch = decode_batch,
                                  .step_flops = 1000,
                                  .decode_flops = 1000};
    for (int m = 0; m < models; m++) {
        ENSURE_EQ(core_add_model(&s->core), m);
        for (int d = 0; d < devices; d++)
            ENSURE(core_model_ready(&s->core, m, d, &info));
    }
}

struct sched_spec sim_spec(int label, uint64_t seed, uint32_t n, int steps)
{
    struct sched_spec spec = {
        .n = n, .label = label, .seed = seed, .want = SCHED_PNG, .priority = 5};
    spec.sampling = (struct imf_sampling){.steps = steps, .omega = 8, .t_min = 0, .t_max = 1};
    return spec;
}

struct sim_request *sim_submit(struct sim *s, const struct sched_spec *spec,
                               struct sched_refusal *why)
{
    struct sched_refusal mine;
    struct sched_request *r = core_submit(&s->core, spec, s->now, why ? why : &mine);
    if (!r)
        return NULL;
    struct sim_request *q = calloc(1, sizeof(*q));
    q->r = r;
    q->n = spec->n;
    q->seen = calloc(spec->n, sizeof(bool));
    q->window = r->window;
    q->submitted_at = s->now;
    q->client = -1;
    r->user = q;
    ENSURE_LT(s->request_count, (int)(sizeof(s->requests) / sizeof(s->requests[0])));
    s->requests[s->request_count++] = q;
    return q;
}

void sim_close(struct sim *s, struct sim_request *q, enum sched_outcome outcome)
{
    bool failed = outcome == SCHED_BROKEN || (q->r->ended && q->r->result != SCHED_DONE);
    int phase = core_close(&s->core, q->r, outcome);
    ENSURE_EQ(phase >= 0, !failed && outcome == SCHED_GONE);
    q->r = NULL;
}

void sim_later(struct sim *s, uint64_t at, const struct sched_spec *spec, int client)
{
    ENSURE_LT(s->plan_count, (int)(sizeof(s->plan) / sizeof(s->plan[0])));
    s->plan[s->plan_count].at = at;
    s->plan[s->plan_count].spec = *spec;
    s->plan[s->plan_count++].client = client;
}

/* ---- Invariants ------------------------------------------------------------------------------ */

static void check_request(const struct sched_request *r)
{
    uint32_t waiting = 0;
    LIST_EACH(it, &r->waiting)
    {
        const struct waiter *w = LIST_OF(it, struct waiter, of_request);
        ENSURE(w->request == r && w->picture);
        waiting++;
    }
    ENSURE_EQ(waiting, r->unfinished);
    ENSURE_LE(r->outstanding, r->window);
    ENSURE_LE(r->unfinished + r->undelivered, r->outstanding);
    ENSURE_LE(r->next, r->spec.n);
    ENSURE_EQ(r->done + r->unfinished, r->next);
    ENSURE(!r->ended);
}

/* Every request accepted, and each of its pictures, is under way or has ended in exactly one way.
 */
static void check_accounts(struct sim *s)
{
    const struct sched_stats *t = &s->core.stats;
    uint64_t requests = t->sent_requests + t->failed_requests;
    uint64_t images = t->sent_images + t->failed_images;
    for (int phase = 0; phase < SCHED_PHASE_COUNT; phase++) {
        requests += t->cancelled_requests[phase];
        images += t->cancelled_images[phase];
    }
    for (int i = 0; i < s->request_count; i++) {
        const struct sched_request *r = s->requests[i]->r;
        if (!r)
            continue;
        requests++;
        images += r->spec.n - (r->next - r->outstanding); /* not released */
    }
    ENSURE_EQ(requests, t->accepted);
    ENSURE_EQ(images, t->accepted_images);
}

void sim_check(struct sim *s)
{
    const struct sched_core *c = &s->core;
    uint32_t queued = 0, encoding = 0, lanes[SCHED_MAX_DEVICES][SCHED_MAX_MODELS] = {{0}};
    for (const struct picture *p = c->pictures; p; p = p->hh.next) {
        ENSURE(p->in_hand || !list_empty(&p->waiters));
        queued += p->state == PICTURE_QUEUED;
        encoding += p->state == PICTURE_ENCODING || (p->state == PICTURE_DENOISED && p->in_hand);
        ENSURE_EQ(p->device >= 0, p->state == PICTURE_RUNNING || p->state == PICTURE_DENOISED);
        if (p->device >= 0)
            lanes[p->device][p->key.model]++;
        if (p->state == PICTURE_QUEUED)
            ENSURE(!p->in_hand && !p->lane && p->step == 0);
    }
    ENSURE_EQ(encoding, c->encoding);
    ENSURE_LE(c->encoding, c->options.max_encoding + IMF_MAX_BATCH);
    for (int m = 0; m < c->model_count; m++) {
        LIST_EACH(it, &c->model[m].requests)
        {
            const struct sched_request *r = LIST_OF(it, struct sched_request, of_model);
            check_request(r);
            queued += r->spec.n - r->next;
        }
        for (int d = 0; d < c->device_count; d++) {
            ENSURE_EQ(lanes[d][m], c->device[d].lanes[m]);
            ENSURE_LE(lanes[d][m] + c->device[d].spare_count[m], c->device[d].lane_limit[m]);
        }
    }
    ENSURE_EQ(queued, c->stats.queue_images);
    check_accounts(s);
    ENSURE_LE(image_cache_bytes(c->cache), c->options.cache_bytes);
}

/* An idle device must have nothing to do, unless pick said until when it waits. */
static void check_conservation(struct sim *s, int device)
{
    const struct sched_core *c = &s->core;
    if (c->device[device].failed)
        return;
    for (const struct picture *p = c->pictures; p; p = p->hh.next) {
        int m = p->key.model;
        if (p->in_hand || (c->model[m].devices >> device & 1) == 0)
            continue;
        bool alive = false; /* some request whose time is not up */
        LIST_EACH(it, &p->waiters)
        {
            const struct sched_request *r = LIST_OF(it, struct waiter, of_picture)->request;
            alive |= r->deadline == 0 || r->deadline > s->now;
        }
        bool could = p->state == PICTURE_QUEUED
                         ? c->device[device].lanes[m] < c->device[device].lane_limit[m]
                     : p->state == PICTURE_RUNNING ? p->device == device
                     : p->state == PICTURE_DENOISED
                         ? p->device == device && c->encoding < c->options.max_encoding
                         : false;
        if (!(!alive || !could))
            ck_abort_msg("device %d idles with work in state %d", device, (int)p->state);
    }
}

/* ---- Running --------------------------------------------------------------------------------- */

static uint64_t picture_hash(const struct picture *p)
{
    return hash_bytes(&p->key, sizeof(p->key));
}

static void start_device(struct sim *s, int d)
{
    struct sim_device *v = &s->device[d];
    core_pick(&s->core, d, &v->work, s->now);
    v->wake_at = v->work.wake_at;
    if (v->work.kind == WORK_NONE) {
        if (v->wake_at == 0 && !s->unchecked)
            check_conservation(s, d);
        return;
    }
    int n = v->work.n;
    ENSURE_GE(n, 1);
    ENSURE_LE(n, s->core.model[v->work.model].max_batch);
    for (int i = 0; i < n; i++) {
        struct picture *p = v->work.picture[i];
        ENSURE_EQ(p->key.model, v->work.model);
        ENSURE_EQ(p->device, d);
        ENSURE(p->in_hand);
        for (int k = 0; k < i; k++)
            ENSURE_NE(v->work.picture[k], p);
        if (!p->lane) {
            p->lane = calloc(1, sizeof(*p->lane));
            s->lanes_made++;
        }
        if (v->work.kind == WORK_STEP && p->step == 0)
            *p->lane = (struct imf_lane){.seed = picture_hash(p)};
        ENSURE_EQ(p->lane->seed, picture_hash(p)); /* the lane of nobody else */
        ENSURE_EQ(p->lane->step, p->step);
    }
    v->busy = true;
    v->done_at =
        s->now + (v->work.kind == WORK_STEP ? s->step_us + (uint64_t)n * s->step_lane_us
                                            : s->decode_us + (uint64_t)n * s->decode_lane_us);
}

static struct blob *blob_of(const struct picture *p)
{
    struct blob *b = blob_new(sizeof(p->key));
    memcpy(b->data, &p->key, sizeof(p->key));
    return b;
}

static void finish_device(struct sim *s, int d)
{
    struct sim_device *v = &s->device[d];
    v->busy = false;
    imf_status status = v->fail_with;
    if (status == IMF_ENOMEM)
        v->fail_with = IMF_OK; /* it passes */
    for (int i = 0; status == IMF_OK && i < v->work.n; i++) {
        struct picture *p = v->work.picture[i];
        v->work.bad[i] = v->work.kind == WORK_STEP && p->key.label == s->bad_label;
        if (v->work.bad[i])
            continue;
        if (v->work.kind == WORK_STEP) {
            ENSURE_LT(p->lane->step++, p->key.sampling.steps);
        } else {
            ENSURE_EQ(p->lane->step, p->key.sampling.steps);
            p->rgb = blob_of(p);
        }
    }
    core_complete(&s->core, d, &v->work, status, "it broke", s->now);
}

static void start_encoders(struct sim *s)
{
    while (s->encoding < s->encoders) {
        struct picture *p = core_encode_next(&s->core);
        if (!p)
            return;
        s->encode[s->encoding].p = p;
        s->encode[s->encoding++].done_at = s->now + s->encode_us;
    }
}

static void deliver(struct sim *s)
{
    struct core_event e;
    while (core_next_event(&s->core, &e)) {
        struct sim_request *q = e.request->user;
        ENSURE_EQ(q->r, e.request);
        ENSURE(!q->ended);
        if (e.is_end) {
            q->ended = true;
            q->ended_at = s->now;
            q->result = e.request->result;
            strcpy(q->message, e.request->message);
            if (q->result == SCHED_DONE)
                ENSURE_EQ(q->got, q->n);
            if (q->keep)
                continue;
            sim_close(s, q, SCHED_SENT);
            if (s->on_end)
                s->on_end(s, q);
            continue;
        }
        const struct sched_picture *p = &e.picture;
        ENSURE_LT(p->index, q->n);
        ENSURE(!q->seen[p->index]);
        q->seen[p->index] = true;
        unsigned want = e.request->spec.want;
        ENSURE_EQ(p->png != NULL, (want & SCHED_PNG) != 0);
        ENSURE_EQ(p->rgb != NULL, (want & SCHED_RGB) != 0);
        if (p->png)
            ENSURE(memcmp(p->png->data, &p->key, sizeof(p->key)) == 0);
        if (p->rgb)
            ENSURE(memcmp(p->rgb->data, &p->key, sizeof(p->key)) == 0);
        blob_drop(p->png);
        blob_drop(p->rgb);
        if (q->got++ == 0)
            q->first_at = s->now;
        q->last_timings = p->timings;
        q->last_source = p->source;
        q->held++;
        if (q->held > q->most_held)
            q->most_held = q->held;
        if (!q->manual_release) {
            q->held--;
            core_release(&s->core, e.request, 1, s->now);
        }
    }
}

static void settle(struct sim *s)
{
    deliver(s);
    start_encoders(s);
    for (int d = 0; d < s->core.device_count; d++) {
        if (!s->device[d].busy)
            start_device(s, d);
    }
    if (!s->unchecked)
        sim_check(s);
}

static void earlier(uint64_t *next, uint64_t at)
{
    if (at != 0 && (*next == 0 || at < *next))
        *next = at;
}

static uint64_t next_time(struct sim *s)
{
    uint64_t next = core_expire(&s->core, s->now);
    for (int d = 0; d < s->core.device_count; d++)
        if (!s->device[d].hangs)
            earlier(&next, s->device[d].busy ? s->device[d].done_at : s->device[d].wake_at);
    for (int i = 0; i < s->encoding; i++)
        earlier(&next, s->encode[i].done_at);
    for (int i = 0; i < s->plan_count; i++)
        earlier(&next, s->plan[i].at);
    return next;
}

static void events_now(struct sim *s)
{
    for (int d = 0; d < s->core.device_count; d++) {
        if (s->device[d].busy && !s->device[d].hangs && s->device[d].done_at <= s->now)
            finish_device(s, d);
    }
    for (int i = 0; i < s->encoding;) {
        if (s->encode[i].done_at > s->now) {
            i++;
            continue;
        }
        struct picture *p = s->encode[i].p;
        s->encode[i] = s->encode[--s->encoding];
        core_encoded(&s->core, p, blob_of(p), s->encode_us, s->now);
    }
    for (int i = 0; i < s->plan_count;) {
        if (s->plan[i].at > s->now) {
            i++;
            continue;
        }
        struct sched_spec spec = s->plan[i].spec;
        int client = s->plan[i].client;
        s->plan[i] = s->plan[--s->plan_count];
        struct sim_request *q = sim_submit(s, &spec, NULL);
        if (q)
            q->client = client;
    }
    core_expire(&s->core, s->now);
}

bool sim_step(struct sim *s)
{
    settle(s);
    uint64_t next = next_time(s);
    if (next == 0)
        return false;
    if (next > s->now)
        s->now = next;
    events_now(s);
    settle(s);
    return true;
}

void sim_run(struct sim *s, uint64_t until)
{
    settle(s);
    for (;;) {
        uint64_t next = next_time(s);
        if (next == 0 || next > until)
            break;
        sim_step(s);
    }
    s->now = until;
}

void sim_run_all(struct sim *s)
{
    while (sim_step(s)) {
    }
}

void sim_finish(struct sim *s)
{
    s->on_end = NULL;
    s->plan_count = 0;
    for (int i = 0; i < s->request_count; i++) {
        if (s->requests[i]->r && s->requests[i]->ended)
            sim_close(s, s->requests[i], SCHED_GONE);
        s->requests[i]->keep = false;
    }
    core_stop(&s->core, s->now);
    sim_run_all(s);
    const struct sched_core *c = &s->core;
    ENSURE(!c->pictures);
    ENSURE_EQ(c->requests, 0);
    ENSURE_EQ(c->encoding, 0);
    ENSURE_EQ(c->stats.queue_images, 0);
    check_accounts(s);
    int spare = 0;
    for (int d = 0; d < c->device_count; d++) {
        for (int m = 0; m < c->model_count; m++) {
            ENSURE_EQ(c->device[d].lanes[m], 0);
            for (uint32_t i = 0; i < c->device[d].spare_count[m]; i++, spare++)
                free(c->device[d].spare[m][i]);
        }
    }
    ENSURE_EQ(spare, s->lanes_made); /* every lane came back */
    for (int i = 0; i < s->request_count; i++) {
        free(s->requests[i]->seen);
        free(s->requests[i]);
    }
    core_destroy(&s->core);
}
