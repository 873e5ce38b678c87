/* The work: blocks of pictures are made, their features computed, PNGs kept, statistics added up.
 *
 *   generators (one per device) or PNG readers      --pictures-->
 *   lanes (one InceptionV3 each, on every device)   --featured-->
 *   keepers (PNG files)                             --kept-->
 *   main thread (statistics, state files, progress)
 *
 * Every arrow is a bounded queue, every box runs in threads of its own: step, decode, features,
 * files and statistics overlap. A generator waits only when features are the slower half and a few
 * blocks queue up; on the CPU it leaves its processors to the lanes then. */
#include "evaluate/run.h"

#include "common/clock.h"
#include "common/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_HELPERS = 4 };

/* ---- Shared by the stages ------------------------------------------------------------------ */

void eval_fail(struct eval_run *r, imf_status status, const struct imf_error *err)
{
    pthread_mutex_lock(&r->lock);
    if (r->status == IMF_OK) {
        r->status = status;
        r->error = *err;
    }
    pthread_mutex_unlock(&r->lock);
    atomic_store(&r->failed, true);
}

void eval_add_time(struct eval_run *r, double *sum, double seconds)
{
    pthread_mutex_lock(&r->lock);
    *sum += seconds;
    pthread_mutex_unlock(&r->lock);
}

struct eval_block *eval_next_block(struct eval_run *r)
{
    int64_t i = atomic_fetch_add(&r->next, 1);
    if (i >= r->n_blocks || eval_ending(r))
        return NULL;
    struct eval_block *b = eval_block_create(r->job, r->blocks[i]);
    if (!b) {
        eval_fail(r, IMF_ENOMEM, &(struct imf_error){IMF_ENOMEM, "out of memory"});
        return NULL;
    }
    pthread_mutex_lock(&r->lock);
    LIST_INSERT_HEAD(&r->live, b, live);
    pthread_mutex_unlock(&r->lock);
    return b;
}

static void retire(struct eval_run *r, struct eval_block *b)
{
    pthread_mutex_lock(&r->lock);
    LIST_REMOVE(b, live);
    pthread_mutex_unlock(&r->lock);
    eval_block_free(b);
}

/* ---- Main thread --------------------------------------------------------------------------- */

static imf_status add_block(struct eval_run *r, struct eval_state *state,
                            const struct eval_block *b, struct imf_error *err)
{
    double start = imf__seconds();
    imf_status status =
        eval_state_add(state, b->number, b->n, b->features, b->logits, b->spatial, err);
    eval_add_time(r, &r->times.statistics, imf__seconds() - start);
    r->times.images += b->n; /* only the main thread touches this one */
    return status;
}

static void collect(struct eval_run *r, struct eval_state *state, const struct eval_watcher *w)
{
    double before = eval_state_seconds(state), start = imf__seconds(), saved = start;
    bool changed = false;
    struct eval_block *b;
    struct imf_error err = {0};
    while (eval_queue_pop(&r->kept, &b, 0.25)) {
        imf_status status = IMF_OK;
        w->progress(w->user, atomic_load(&r->made));
        if (b && !atomic_load(&b->dropped) && !atomic_load(&r->failed)) {
            status = add_block(r, state, b, &err);
            changed = true;
        }
        if (b)
            retire(r, b);
        double now = imf__seconds();
        if (status == IMF_OK && changed && now - saved >= r->job->options.checkpoint_s) {
            status = eval_state_save(state, before + now - start, &err);
            saved = now;
            changed = false;
        }
        if (status != IMF_OK)
            eval_fail(r, status, &err);
    }
    /* Whatever happened, what is done is kept. */
    imf_status status = eval_state_save(state, before + imf__seconds() - start, &err);
    if (status != IMF_OK)
        eval_fail(r, status, &err);
}

/* ---- Threads ------------------------------------------------------------------------------- */

struct worker {
    struct eval_run *run;
    enum { GENERATOR, READER, LANE, KEEPER } kind;
    struct eval_device *device;
    const struct eval_lane *lane;
    pthread_t thread;
    bool started;
};

static void *work(void *user)
{
    struct worker *w = user;
    switch (w->kind) {
    case GENERATOR:
        eval_generate(w->run, w->device);
        break;
    case READER:
        eval_read_pictures(w->run);
        break;
    case LANE:
        eval_features(w->run, w->device, w->lane);
        break;
    case KEEPER:
        eval_keep_pictures(w->run);
        break;
    }
    return NULL;
}

/* Nobody may wait for a thread that cannot be started. */
static void start(struct worker *w)
{
    struct eval_run *r = w->run;
    w->started = pthread_create(&w->thread, NULL, work, w) == 0;
    if (w->started)
        return;
    eval_fail(r, IMF_ENOMEM, &(struct imf_error){IMF_ENOMEM, "no more threads can be started"});
    eval_queue_close(&r->pictures);
    eval_queue_close(&r->featured);
    eval_queue_close(&r->kept);
}

static int helpers(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores < 1 ? 1 : cores < MAX_HELPERS ? (int)cores : MAX_HELPERS;
}

/* The list of threads; NULL when memory is out. */
static struct worker *hire(struct eval_run *r, struct eval_device *devices, int n_devices, int *n)
{
    struct worker *all =
        calloc((size_t)n_devices * (1 + EVAL_MAX_LANES) + 2 * MAX_HELPERS, sizeof(*all));
    *n = 0;
    int readers = !r->job->source ? 0 : eval_source_in_order(r->job->source) ? 1 : helpers();
    for (int i = 0; all && i < readers; i++)
        all[(*n)++] = (struct worker){.run = r, .kind = READER};
    for (int i = 0; all && i < n_devices; i++) {
        struct eval_device *d = &devices[i];
        if (!r->job->source)
            all[(*n)++] = (struct worker){.run = r, .kind = GENERATOR, .device = d};
        for (int k = 0; k < d->n_lanes; k++)
            all[(*n)++] =
                (struct worker){.run = r, .kind = LANE, .device = d, .lane = &d->lanes[k]};
    }
    int keepers = r->job->options.save_samples ? helpers() : 1;
    for (int i = 0; all && i < keepers; i++)
        all[(*n)++] = (struct worker){.run = r, .kind = KEEPER};
    return all;
}

static bool open_queues(struct eval_run *r, const struct worker *workers, int n, int n_devices)
{
    int lanes = 0, keepers = 0;
    for (int i = 0; i < n; i++) {
        lanes += workers[i].kind == LANE;
        keepers += workers[i].kind == KEEPER;
    }
    bool ok = eval_queue_init(&r->pictures, 2 * n_devices, n - lanes - keepers);
    ok = eval_queue_init(&r->featured, 4, lanes) && ok;
    return eval_queue_init(&r->kept, 4, keepers) && ok;
}

static void close_run(struct eval_run *r)
{
    struct eval_block *b;
    while ((b = LIST_FIRST(&r->live)))
        retire(r, b);
    eval_queue_destroy(&r->pictures);
    eval_queue_destroy(&r->featured);
    eval_queue_destroy(&r->kept);
    pthread_mutex_destroy(&r->lock);
}

imf_status eval_work(const struct eval_job *job, struct eval_device *devices, int n_devices,
                     const int64_t *blocks, int64_t n_blocks, struct eval_state *state,
                     const struct eval_watcher *watcher, struct eval_times *times,
                     struct imf_error *err)
{
    struct eval_run r = {.job = job, .blocks = blocks, .n_blocks = n_blocks, .stop = watcher->stop};
    int n;
    pthread_mutex_init(&r.lock, NULL);
    struct worker *workers = hire(&r, devices, n_devices, &n);
    if (open_queues(&r, workers, workers ? n : 0, n_devices) && workers) {
        for (int i = 0; i < n; i++)
            start(&workers[i]);
        collect(&r, state, watcher);
    } else {
        eval_fail(&r, IMF_ENOMEM, &(struct imf_error){IMF_ENOMEM, "out of memory"});
    }
    for (int i = 0; workers && i < n; i++)
        if (workers[i].started)
            pthread_join(workers[i].thread, NULL);
    free(workers);
    close_run(&r);
    *times = r.times;
    if (r.status != IMF_OK && err)
        *err = r.error;
    return r.status;
}
