/* Drawing noise ahead: see noise.h. */
#include "scheduler/noise.h"

#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { NOISE_THREADS = 4 };
#define PIECE ((size_t)1 << 15)

enum drawing_state {
    DRAWING_NONE,
    DRAWING_WANTED,
    DRAWING_DRAWN,  /* one thread is at it */
    DRAWING_SHAPED, /* threads take pieces of it */
    DRAWING_DONE,
};

struct drawing {
    enum drawing_state state;
    const struct imf_model *model;
    uint64_t seed;
    uint64_t wanted_at; /* in calls */
    float *z;           /* (capacity) */
    size_t count, capacity;
    size_t next, left; /* next piece; numbers that are not shaped yet */
};

struct noise {
    void (*draw)(const struct imf_model *m, float *z, uint64_t seed);
    void (*shape)(const struct imf_model *m, float *z, size_t n);
    uv_thread_t thread[NOISE_THREADS];
    int threads;
    uv_mutex_t lock;
    uv_cond_t work, done;
    /* Under the lock; z belongs to the threads at work on it. */
    bool stop;
    uint64_t calls;
    struct drawing drawing[NOISE_KEPT];
};

/* The one to go on with: begun before new, and of those what was wanted first. */
static struct drawing *next_drawing(struct noise *n)
{
    struct drawing *first = NULL;
    for (int i = 0; i < NOISE_KEPT; i++) {
        struct drawing *d = &n->drawing[i];
        bool pieces = d->state == DRAWING_SHAPED && d->next < d->count;
        if (!pieces && d->state != DRAWING_WANTED)
            continue;
        if (!first || (pieces && first->state == DRAWING_WANTED) ||
            (pieces == (first->state == DRAWING_SHAPED) && d->wanted_at < first->wanted_at))
            first = d;
    }
    return first;
}

/* Under the lock, which is given up for the work itself. */
static void draw(struct noise *n, struct drawing *d)
{
    d->state = DRAWING_DRAWN;
    uv_mutex_unlock(&n->lock);
    n->draw(d->model, d->z, d->seed);
    uv_mutex_lock(&n->lock);
    d->state = DRAWING_SHAPED;
    d->next = 0;
    d->left = d->count;
    uv_cond_broadcast(&n->work);
}

static void shape(struct noise *n, struct drawing *d)
{
    size_t at = d->next, count = d->count - at < PIECE ? d->count - at : PIECE;
    d->next += count;
    uv_mutex_unlock(&n->lock);
    n->shape(d->model, d->z + at, count);
    uv_mutex_lock(&n->lock);
    d->left -= count;
    if (d->left > 0)
        return;
    d->state = DRAWING_DONE;
    uv_cond_signal(&n->done);
}

static void thread_main(void *arg)
{
    struct noise *n = arg;
    uv_mutex_lock(&n->lock);
    while (!n->stop) {
        struct drawing *d = next_drawing(n);
        if (!d)
            uv_cond_wait(&n->work, &n->lock);
        else if (d->state == DRAWING_WANTED)
            draw(n, d);
        else
            shape(n, d);
    }
    uv_mutex_unlock(&n->lock);
}

imf_status noise_create(struct noise **out,
                        void (*draw_numbers)(const struct imf_model *m, float *z, uint64_t seed),
                        void (*shape_piece)(const struct imf_model *m, float *z, size_t n))
{
    struct noise *n = calloc(1, sizeof(*n));
    if (!n)
        return IMF_ENOMEM;
    n->draw = draw_numbers;
    n->shape = shape_piece;
    int most = uv_available_parallelism() > NOISE_THREADS ? NOISE_THREADS : NOISE_THREADS / 2;
    uv_mutex_init(&n->lock);
    uv_cond_init(&n->work);
    uv_cond_init(&n->done);
    while (n->threads < most && uv_thread_create(&n->thread[n->threads], thread_main, n) == 0)
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
        bool busy = d->state == DRAWING_DRAWN || d->state == DRAWING_SHAPED;
        if (!busy && (!oldest || d->wanted_at < oldest->wanted_at))
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
