/* Counters and histograms of the scheduler, and the names they go by. */
#include "scheduler/state.h"

#include <assert.h>

const double sched_duration_bounds[SCHED_DURATION_BUCKETS] = {
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
};
const double sched_batch_bounds[SCHED_BATCH_BUCKETS] = {1, 2, 4, 8, 16, 32, 64, 128, 256};

void histogram_add(struct sched_histogram *h, const double *bounds, int count, double value)
{
    h->count++;
    h->sum += value;
    for (int i = 0; i < count; i++) {
        if (value <= bounds[i]) {
            h->bucket[i]++;
            return;
        }
    }
}

void core_get_stats(const struct sched_core *c, struct sched_stats *out, uint64_t now)
{
    double backlog[SCHED_MAX_MODELS];
    core_backlog(c, now, backlog);
    *out = c->stats;
    out->queue_capacity = c->options.max_queue;
    out->requests = c->requests;
    /* queue_images counts places without a waiter too; pictures in flight that are not queued run.
     */
    for (const struct picture *p = c->pictures; p; p = p->hh.next)
        out->running_images += p->state != PICTURE_QUEUED;
    for (int m = 0; m < c->model_count; m++) {
        LIST_EACH(r_it, &c->model[m].requests)
        {
            const struct sched_request *r = LIST_OF(r_it, struct sched_request, of_model);
            bool running = r->done > 0;
            LIST_EACH(it, &r->waiting)
            {
                running |= LIST_OF(it, struct waiter, of_request)->picture->state != PICTURE_QUEUED;
            }
            if (running)
                out->model[m].running++;
            else
                out->model[m].waiting++;
        }
        out->model[m].backlog_us = backlog[m];
        for (int d = 0; d < c->device_count; d++)
            out->lanes += c->device[d].lanes[m];
    }
    out->cache_bytes = image_cache_bytes(c->cache);
    out->cache_entries = image_cache_entries(c->cache);
}

const char *sched_phase_name(enum sched_phase phase)
{
    static const char *const names[SCHED_PHASE_COUNT] = {"queued", "running", "decoding",
                                                         "encoding", "sending"};
    assert(phase < SCHED_PHASE_COUNT);
    return names[phase];
}

const char *sched_stage_name(enum sched_stage stage)
{
    static const char *const names[SCHED_STAGE_COUNT] = {"step", "decode", "encode"};
    assert(stage < SCHED_STAGE_COUNT);
    return names[stage];
}

const char *sched_reject_name(enum sched_reject why)
{
    static const char *const names[SCHED_REJECT_COUNT] = {
        "none", "queue", "deadline", "draining", "loading", "sick", "size", "memory", "stuck"};
    assert(why < SCHED_REJECT_COUNT);
    return names[why];
}
