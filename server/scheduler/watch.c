/* Signs of life: a device that has given none for long is stuck. Nothing can be done about it but
 * to say so; when it goes on after all, it is as good as before. */
#include "scheduler/state.h"

/* A batch may take so many times what it is expected to. */
#define WATCH_FACTOR 10

/* Under way for longer than this without any progress, a device counts as stuck. */
static double patience_us(const struct sched_core *c, const struct core_device *d)
{
    double least = (double)c->options.stall_us, expected = 0;
    if (d->in_hand > 0) {
        const struct core_model *m = &c->model[d->hand_model];
        expected = core__batch_us(d->hand_kind == WORK_STEP ? &m->step : &m->decode, d->hand_n,
                                  m->max_batch);
    }
    return WATCH_FACTOR * expected > least ? WATCH_FACTOR * expected : least;
}

void core_watch(struct sched_core *c, uint64_t elapsed_us)
{
    for (int i = 0; i < c->device_count && c->options.stall_us > 0; i++) {
        struct core_device *d = &c->device[i];
        bool alive = d->progress_at == 0 || d->failed || d->progress_at != d->watched_at;
        d->watched_at = d->progress_at;
        d->stalled_us = alive ? 0 : d->stalled_us + elapsed_us;
        d->stuck = !alive && (double)d->stalled_us > patience_us(c, d);
    }
}

bool core_answers(const struct sched_core *c, int model)
{
    for (int i = 0; i < c->device_count; i++) {
        if ((c->model[model].devices >> i & 1) != 0 && !c->device[i].stuck)
            return true;
    }
    return false;
}
