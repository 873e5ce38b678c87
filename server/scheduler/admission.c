/* Admission: whether a request may enter, and if not, why and when to come again. */
#include "scheduler/state.h"

#include <stdio.h>

/* How many of the pictures would need the engine: neither cached nor in flight. */
static uint32_t count_new(const struct sched_core *c, const struct sched_spec *s)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        struct picture_key key = core__sample_key(s, i);
        bool known = (s->want == SCHED_PNG && image_cache_has(c->cache, &key)) ||
                     core__picture_known(c, &key);
        count += !known;
    }
    return count;
}

bool core__refuse(struct sched_core *c, struct sched_refusal *out, enum sched_reject why,
                  uint64_t retry_us, const char *message)
{
    c->stats.rejected[why]++;
    out->why = why;
    out->retry_us = retry_us;
    snprintf(out->message, sizeof(out->message), "%s", message);
    return false;
}

bool core__admit(struct sched_core *c, const struct sched_spec *s, uint64_t now,
                 struct sched_refusal *out)
{
    const struct core_model *m = &c->model[s->model];
    char text[160];
    if (c->draining)
        return core__refuse(c, out, SCHED_REJECT_DRAINING, 0, "the server is shutting down");
    if (m->state == SCHED_MODEL_LOADING)
        return core__refuse(c, out, SCHED_REJECT_LOADING, 0, "the model is still loading");
    if (m->state != SCHED_MODEL_READY) {
        return core__refuse(c, out, SCHED_REJECT_SICK, 0,
                            m->state == SCHED_MODEL_FAILED ? "the model could not be loaded"
                                                           : "the model's device has failed");
    }
    if (!core_answers(c, s->model))
        return core__refuse(c, out, SCHED_REJECT_STUCK, 0, "the model's device does not answer");
    uint32_t capacity = c->options.max_queue, queued = c->stats.queue_images;
    bool fits = s->n <= capacity && queued <= capacity - s->n;
    if (!fits) {
        uint32_t fresh = count_new(c, s);
        if (fresh > capacity) {
            snprintf(text, sizeof(text), "%u pictures are more than the queue of %u holds", s->n,
                     capacity);
            return core__refuse(c, out, SCHED_REJECT_SIZE, 0, text);
        }
        if (fresh > 0 && queued + fresh > capacity) {
            snprintf(text, sizeof(text), "the queue is full: %u of %u pictures are waiting", queued,
                     capacity);
            return core__refuse(c, out, SCHED_REJECT_QUEUE, core_retry_us(c, s->model, fresh, now),
                                text);
        }
    }
    /* A speed measured long ago, or on a machine still busy starting, must not shut everybody out:
     * then one request is let in whatever it seems to need. */
    if (s->timeout_us != 0 && !(list_empty(&m->requests) && core_speed_unknown(m, now))) {
        uint64_t need = core_estimate(c, s, count_new(c, s), now);
        if (need > s->timeout_us) {
            snprintf(text, sizeof(text),
                     "the deadline of %.3f s cannot be met: at the measured speed this needs at "
                     "least %.3f s",
                     (double)s->timeout_us * 1e-6, (double)need * 1e-6);
            return core__refuse(c, out, SCHED_REJECT_DEADLINE, need - s->timeout_us, text);
        }
    }
    return true;
}
