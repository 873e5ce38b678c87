/* Drawing noise ahead: see noise.h. */
#include "scheduler/noise.h"

#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { NOISE_THREADS = 2 };

enum drawing_state { DRAWING_NONE, DRAWING_WANTED, DRAWING_AT_WORK, DRAWING_DONE };

struct drawing {
    enum drawing_state state;
    const struct imf_model *model;
    uint64_t seed;
    uint64_t wanted_at; /* in calls */
    float *z;           /* (capacity) */
    size_t count, capacity;
};

struct noise {
    void (*draw)(const struct imf_model *m, float *z, uint64_t seed);
    uv_thread_t thread[NOISE_THREADS];
    int threads;
    uv_mutex_t lock;
    uv_cond_t work, done;
    /* Under the lock; a drawing at work belongs to its thread. */
    bool stop;
    uint64_t calls;
    struct drawing drawing[NOISE_KEPT];
};

/* The one that was wanted first. */
static struct drawing *next_wanted(struct noise *n)
{
    struct drawing *first = NULL;
    for (int i = 0; i < NOISE_KEPT; i++) {
        struct drawing *d = &n->drawing[i];
        if (d->state == DRAWING_WANTED && (!first || d->wanted_at < first->wanted_at))
            first = d;
    }
    return first;
}

static void thread_main(void *arg)
{
    struct noise *n = arg;
    uv_mutex_lock(&n->lock);
    while (!n->stop) {
        struct drawing *d = next_wanted(n);
        if (!d) {
            uv_cond_wait(&n->work, &n->lock);
            continue;
        }
        d->state = DRAWING_AT_WORK;
        uv_mutex_unlock(&n->lock);
        n->draw(d->model, d->z, d->seed);
        uv_mutex_lock(&n->lock);
        d->state = DRAWING_DONE;
        uv_cond_signal(&n->done);
    }
    uv_mutex_unlock(&n->lock);
}

imf_status noise_create(struct noise **out,
                        void (*draw)(const struct imf_model *m, float *z, uint64_t seed))
{
    struct noise *n = calloc(1, sizeof(*n));
    if (!n)
        return IMF_ENOMEM;
    n->draw = draw;
    uv_mutex_init(&n->lock);
    uv_cond_init(&n->work);
    uv_cond_init(&n->done);
    while (n->threads < NOISE_THREADS &&
           uv_thread_create(&n->thread[n->threads], thread_main, n) == 0)
        n->threads++;
    if (n->threads == 0) {
        noise_destroy(n);
        return IMF_ENOMEM;
    }
    *out = n;
    return IMF_OK;
}

void noise_destroy(struct noise *n)
{
    if (!n)
        return;
    uv_mutex_lock(&n->lock);
    n->stop = true;
    uv_cond_broadcast(&n->work);
    uv_mutex_unlock(&n->lock);
    for (int i = 0; i < n->threads; i++)
        uv_thread_join(&n->thread[i]);
    for (int i = 0; i < NOISE_KEPT; i++)
        free(n->drawing[i].z);
    uv_cond_destroy(&n->work);
    uv_cond_destroy(&n->done);
    uv_mutex_destroy(&n->lock);
    free(n);
}

/* Under the lock. The drawing, or the place for it: the one that was wanted longest ago. NULL while
 * threads are at work on all of them. */
static struct drawing *place(struct noise *n, const struct imf_model *m, uint64_t seed)
{
    struct drawing *oldest = NULL;
    for (int i = 0; i < NOISE_KEPT; i++) {
        struct drawing *d = &n->drawing[i];
        if (d->state != DRAWING_NONE && d->model == m && d->seed == seed)
            return d;
        if (d->state != DRAWING_AT_WORK && (!oldest || d->wanted_at < oldest->wanted_at))
            oldest = d;
    }
    return oldest;
}

/* Under the lock. Makes the place this drawing's; false without memory. */
static bool assign(struct noise *n, struct drawing *d, const struct imf_model *m, uint64_t seed,
                   size_t count)
{
    if (d->capacity < count) {
        free(d->z);
        d->z = malloc(count * sizeof(float));
        d->capacity = d->z ? count : 0;
    }
    d->state = d->z ? DRAWING_WANTED : DRAWING_NONE;
    d->model = m;
    d->seed = seed;
    d->count = count;
    if (d->z)
        uv_cond_signal(&n->work);
    return d->z != NULL;
}

/* Under the lock. NULL without memory, or without a place. */
static struct drawing *want(struct noise *n, const struct imf_model *m, uint64_t seed, size_t count)
{
    struct drawing *d = place(n, m, seed);
    bool there = d && d->state != DRAWING_NONE && d->model == m && d->seed == seed;
    if (!d || (!there && !assign(n, d, m, seed, count)))
        return NULL;
    d->wanted_at = ++n->calls;
    return d;
}

void noise_want(struct noise *n, const struct imf_model *m, uint64_t seed, size_t count)
{
    uv_mutex_lock(&n->lock);
    (void)want(n, m, seed, count);
    uv_mutex_unlock(&n->lock);
}

imf_status noise_take(struct noise *n, const struct imf_model *m, uint64_t seed, float *z,
                      size_t count)
{
    uv_mutex_lock(&n->lock);
    struct drawing *d = want(n, m, seed, count);
    while (d && d->state != DRAWING_DONE)
        uv_cond_wait(&n->done, &n->lock);
    uv_mutex_unlock(&n->lock);
    if (!d)
        return IMF_ENOMEM;
    memcpy(z, d->z, count * sizeof(float)); /* only this thread gives places away */
    return IMF_OK;
}
