/* Pictures in flight: finding the one that is being made already, who waits for it, handing it out,
 * dropping it when nobody does. */
#include "scheduler/state.h"

#include <assert.h>
#include <stdlib.h>

static struct picture *picture_find(const struct sched_core *c, const struct picture_key *key)
{
    struct picture *p;
    HASH_FIND(hh, c->pictures, key, sizeof(*key), p);
    return p;
}

bool core__picture_known(const struct sched_core *c, const struct picture_key *key)
{
    return picture_find(c, key) != NULL;
}

static struct picture *picture_new(struct sched_core *c, const struct picture_key *key,
                                   uint64_t now)
{
    struct picture *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->key = *key;
    p->state = PICTURE_QUEUED;
    p->device = -1;
    p->queued_at = now;
    list_init(&p->waiters);
    list_init(&p->place);
    HASH_ADD(hh, c->pictures, key, sizeof(p->key), p);
    if (!HASH_ADDED(p)) {
        free(p);
        return NULL;
    }
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
    if (p->lane) {
        assert(d->spare_count[m] < d->lane_limit[m]);
        d->spare[m][d->spare_count[m]++] = p->lane;
    }
    p->lane = NULL;
    p->device = -1;
}

void core__picture_drop(struct sched_core *c, struct picture *p)
{
    assert(!p->in_hand && list_empty(&p->waiters));
    HASH_DEL(c->pictures, p);
    list_remove(&p->place);
    core__lane_free(c, p);
    if (p->state == PICTURE_QUEUED)
        c->stats.queue_images--;
    if (p->state == PICTURE_ENCODING)
        c->encoding--;
    blob_drop(p->rgb);
    free(p);
}

/* ---- Waiters --------------------------------------------------------------------------------- */

void core__waiter_detach(struct waiter *w)
{
    list_remove(&w->of_picture);
    list_remove(&w->of_request);
    w->picture = NULL;
    w->request->unfinished--;
}

bool core__picture_join(struct sched_core *c, struct waiter *w, uint64_t now)
{
    struct sched_request *r = w->request;
    struct picture *p = picture_find(c, &w->result.key);
    if (p) {
        w->result.source = SCHED_COALESCED;
        c->stats.coalesced++;
    } else {
        p = picture_new(c, &w->result.key, now);
        if (!p)
            return false;
        w->result.source = SCHED_COMPUTED;
    }
    w->picture = p;
    w->joined_at = now;
    list_append(&p->waiters, &w->of_picture);
    list_append(&r->waiting, &w->of_request);
    r->unfinished++;
    /* Pixels are there already and no PNG is asked: no need to wait for the encoder. */
    if (p->state == PICTURE_ENCODING && r->spec.want == SCHED_RGB)
        core__picture_ready(c, p, NULL, SCHED_RGB, now);
    return true;
}

/* Part of the span that lies after `from`. */
static uint64_t span(uint64_t begin, uint64_t end, uint64_t from)
{
    if (begin < from)
        begin = from;
    return end > begin ? end - begin : 0;
}

void core__picture_ready(struct sched_core *c, struct picture *p, struct blob *png,
                         unsigned wanting, uint64_t now)
{
    LIST_EACH(it, &p->waiters)
    {
        struct waiter *w = LIST_OF(it, struct waiter, of_picture);
        struct sched_request *r = w->request;
        if ((r->spec.want & ~wanting) != 0)
            continue;
        struct sched_picture *out = &w->result;
        out->png = (r->spec.want & SCHED_PNG) != 0 && png ? blob_take(png) : NULL;
        out->rgb = (r->spec.want & SCHED_RGB) != 0 ? blob_take(p->rgb) : NULL;
        out->timings = (struct sched_timings){
            .queue = span(0, p->started_at, w->joined_at),
            .denoise = span(p->started_at, p->denoised_at, w->joined_at),
            .decode = span(p->denoised_at, p->decoded_at, w->joined_at),
            .encode = (r->spec.want & SCHED_PNG) != 0 ? span(p->decoded_at, now, w->joined_at) : 0,
        };
        core__waiter_detach(w);
        core__waiter_ready(c, w, now);
    }
}

void core__picture_fail(struct sched_core *c, struct picture *p, enum sched_result result,
                        const char *message, uint64_t now)
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
        core__request_end(c, w->request, result, message, now);
    } while (!last);
}
