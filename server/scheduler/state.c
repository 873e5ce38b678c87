/* The scheduler's state machine as a whole: set-up, its models and devices. Each other subject has
 * a file of its own, named in state.h. */
#include "scheduler/state.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

imf_status core_init(struct sched_core *c, const struct sched_options *o)
{
    memset(c, 0, sizeof(*c));
    c->options = *o;
    c->cache = image_cache_new(o->cache_bytes);
    if (!c->cache)
        return IMF_ENOMEM;
    list_init(&c->tenants);
    list_init(&c->to_encode);
    list_init(&c->events);
    return IMF_OK;
}

void core_destroy(struct sched_core *c)
{
    assert(c->requests == 0 && !c->pictures && list_empty(&c->events));
    core__tenants_free(c);
    for (int d = 0; d < c->device_count; d++) {
        for (int m = 0; m < c->model_count; m++)
            free(c->device[d].spare[m]);
    }
    image_cache_free(c->cache);
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

/* More lanes than a batch: those of long requests wait here while others take their turn. Where
 * a lane is large (z of pixels: 768 KB or 3 MB) four batches of them are enough. */
static uint32_t lane_limit(const struct imf_model_info *info, int max_batch)
{
    size_t z = (size_t)info->channels * (size_t)info->input_size * (size_t)info->input_size;
    uint32_t limit = 4 * (uint32_t)max_batch;
    return z * sizeof(float) > (size_t)64 << 10 || limit > 64 ? limit : 64;
}

bool core_model_ready(struct sched_core *c, int model, int device,
                      const struct imf_model_info *info)
{
    struct core_model *m = &c->model[model];
    struct core_device *d = &c->device[device];
    m->max_batch = clamp(info->max_batch, 1, IMF_MAX_BATCH);
    m->decode_batch = clamp(info->decode_batch, 1, m->max_batch);
    double ratio = info->step_flops > 0 ? info->decode_flops / info->step_flops : 1;
    m->decode_cost = (uint64_t)(CORE_EVALUATION * (ratio < 64 ? ratio : 64));
    d->lane_limit[model] = lane_limit(info, m->max_batch);
    d->spare[model] = calloc(d->lane_limit[model], sizeof(struct imf_lane *));
    if (!d->spare[model])
        return false;
    m->devices |= 1u << device;
    m->state = SCHED_MODEL_READY;
    return true;
}

void core_shed(struct sched_core *c)
{
    image_cache_clear(c->cache);
    c->stats.memory_shortages++;
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
