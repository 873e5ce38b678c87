/* The work: blocks of pictures are made, their features computed, PNGs kept, statistics added up.
 *
 *   makers (one per device, or a few PNG readers)  --pictures-->  feature workers (one per device)
 *     --featured-->  keepers (PNG files)  --kept-->  main thread (statistics, state files,
 * progress)
 *
 * Every arrow is a bounded queue: nobody runs ahead by more than a few blocks, and a maker waits
 * only when a queue is full (the time is measured). On a GPU the features have an engine and a
 * stream of their own, so step, decode and features overlap. On the CPU they would compete for the
 * same cores, so there a maker computes the features of its block itself, in turn.
 *
 * Locks: one per queue, one for the run's error and times; never two at once. */
#include "evaluate.h"

#include "error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { QUEUE_MAX = 256, MAX_HELPERS = 4 };

/* A block on its way. Pictures lie back to back in rgb; those of one size in a row are one array
 * (n, height, width, 3). */
struct block {
    int64_t number;
    int n;
    uint8_t *rgb;
    size_t offset[EVAL_BLOCK];
    int width[EVAL_BLOCK], height[EVAL_BLOCK];
    float *features, *logits;
};

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct block *items[QUEUE_MAX];
    int first, count, capacity;
    int writers; /* threads that may still push */
};

struct run {
    const struct eval_job *job;
    struct eval_device *devices;
    int n_devices;
    const int64_t *blocks;
    int64_t n_blocks;
    atomic_int_fast64_t next, made; /* index into blocks; pictures made, or scored of a folder */
    const atomic_bool *stop;
    atomic_bool failed;
    struct queue pictures, featured, kept;
    pthread_mutex_t lock; /* of the following */
    struct eval_times times;
    struct imf_error error;
    imf_status status;
};

/* ---- Queues -------------------------------------------------------------------------------- */

static void queue_init(struct queue *q, int capacity)
{
    memset(q, 0, sizeof(*q));
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&q->changed, &attr);
    pthread_condattr_destroy(&attr);
    q->capacity = capacity < QUEUE_MAX ? capacity : QUEUE_MAX;
}

static void queue_destroy(struct queue *q)
{
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->changed);
}

static void queue_push(struct queue *q, struct block *b)
{
    pthread_mutex_lock(&q->lock);
    while (q->count == q->capacity)
        pthread_cond_wait(&q->changed, &q->lock);
    q->items[(q->first + q->count++) % QUEUE_MAX] = b;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

/* False when nothing will come any more. *b is NULL when wait_s (0: forever) passed. */
static bool queue_pop(struct queue *q, struct block **b, double wait_s)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    long ns = until.tv_nsec + (long)(wait_s * 1e9);
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    *b = NULL;
    bool open = true;
    pthread_mutex_lock(&q->lock);
    while (q->count == 0 && q->writers > 0) {
        if (wait_s <= 0)
            pthread_cond_wait(&q->changed, &q->lock);
        else if (pthread_cond_timedwait(&q->changed, &q->lock, &until) == ETIMEDOUT)
            break;
    }
    if (q->count > 0) {
        *b = q->items[q->first];
        q->first = (q->first + 1) % QUEUE_MAX;
        q->count--;
        pthread_cond_broadcast(&q->changed);
    } else {
        open = q->writers > 0;
    }
    pthread_mutex_unlock(&q->lock);
    return open;
}

static void queue_leave(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->writers--;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

/* ---- Shared -------------------------------------------------------------------------------- */

static void fail(struct run *r, imf_status status, const struct imf_error *err)
{
    pthread_mutex_lock(&r->lock);
    if (r->status == IMF_OK) {
        r->status = status;
        r->error = *err;
    }
    pthread_mutex_unlock(&r->lock);
    atomic_store(&r->failed, true);
}

static void add_time(struct run *r, double *sum, double since)
{
    double now = imfd_seconds();
    pthread_mutex_lock(&r->lock);
    *sum += now - since;
    pthread_mutex_unlock(&r->lock);
}

static void block_free(struct block *b)
{
    if (!b)
        return;
    free(b->rgb);
    free(b->features);
    free(b->logits);
    free(b);
}

static struct block *block_create(const struct run *r, int64_t number)
{
    struct block *b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    b->number = number;
    b->n = eval_block_images(r->job, number);
    b->features = malloc((size_t)b->n * IMF_FEATURES * sizeof(float));
    b->logits = malloc((size_t)b->n * IMF_LOGITS * sizeof(float));
    if (b->features && b->logits)
        return b;
    block_free(b);
    return NULL;
}

static bool ending(const struct run *r)
{
    return atomic_load(r->stop) || atomic_load(&r->failed);
}

/* Next block to make, NULL when there is none or the work ends. */
static struct block *next_block(struct run *r)
{
    int64_t i = atomic_fetch_add(&r->next, 1);
    if (i >= r->n_blocks || ending(r))
        return NULL;
    struct block *b = block_create(r, r->blocks[i]);
    if (!b)
        fail(r, IMF_ENOMEM, &(struct imf_error){IMF_ENOMEM, "out of memory"});
    return b;
}

/* ---- Making pictures ----------------------------------------------------------------------- */

/* m pictures from image number `image` on, at dst. The release's labels and seeds: image k of N has
 * label k / (N / classes) and seed k XOR sample_seed. */
static imf_status generate(struct run *r, struct imf_model *model, struct imf_lane **lanes,
                           int64_t image, int m, uint8_t *dst, struct imf_error *err)
{
    const struct eval_job *job = r->job;
    double start = imfd_seconds();
    for (int i = 0; i < m; i++) {
        int64_t k = image + i;
        int32_t label = (int32_t)(k / (job->images / job->classes));
        imf_status status = imf_lane_start(
            lanes[i], model, label, (uint64_t)k ^ job->options.sample_seed, &job->sampling, err);
        if (status != IMF_OK)
            return status;
    }
    for (int step = 0; step < job->sampling.steps; step++) {
        imf_status status = imf_step(model, lanes, m);
        if (status != IMF_OK)
            return imf__fail(err, status, "generating: %s", imf_status_sentence(status));
    }
    add_time(r, &r->times.step, start);
    start = imfd_seconds();
    imf_status status = imf_decode(model, lanes, m, dst);
    if (status != IMF_OK)
        return imf__fail(err, status, "decoding: %s", imf_status_sentence(status));
    add_time(r, &r->times.decode, start);
    return IMF_OK;
}

/* IMF_OK with *whole false when the work ends in the middle. */
static imf_status generate_block(struct run *r, struct eval_device *d, struct imf_lane **lanes,
                                 struct block *b, bool *whole, struct imf_error *err)
{
    int width = r->job->width, height = r->job->height;
    size_t picture = (size_t)width * (size_t)height * 3;
    int batch = imf_model_get_info(d->model)->max_batch;
    b->rgb = malloc((size_t)b->n * picture);
    if (!b->rgb)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    for (int i = 0; i < b->n; i++) {
        b->offset[i] = (size_t)i * picture;
        b->width[i] = width;
        b->height[i] = height;
    }
    for (int i = 0; i < b->n; i += batch) {
        if (ending(r)) {
            *whole = false;
            return IMF_OK;
        }
        int m = b->n - i < batch ? b->n - i : batch;
        imf_status status =
            generate(r, d->model, lanes, b->number * EVAL_BLOCK + i, m, b->rgb + b->offset[i], err);
        if (status != IMF_OK) {
            const char *why = imf_engine_error(d->engine);
            return *why ? imf__fail(err, status, "%s: %s", d->name, why) : status;
        }
        atomic_fetch_add(&r->made, m);
    }
    return IMF_OK;
}

/* A block's pictures, handed out to the lanes of a device piece by piece. */
struct pieces {
    struct run *run;
    struct block *block;
    pthread_mutex_t lock; /* of what follows */
    int next;
    imf_status status;
    struct imf_error error;
};

struct lane_thread {
    struct pieces *pieces;
    const struct eval_lane *lane;
    pthread_t thread;
};

/* The next pictures of one size in a row, at most a batch; 0 when there are no more. */
static int next_piece(struct pieces *p, int batch, int *first)
{
    const struct block *b = p->block;
    pthread_mutex_lock(&p->lock);
    int i = p->next, m = 0;
    if (p->status == IMF_OK)
        while (m < batch && i + m < b->n && b->width[i + m] == b->width[i] &&
               b->height[i + m] == b->height[i])
            m++;
    p->next += m;
    pthread_mutex_unlock(&p->lock);
    *first = i;
    return m;
}

static void *lane_body(void *user)
{
    struct lane_thread *t = user;
    struct pieces *p = t->pieces;
    struct block *b = p->block;
    int i, m;
    while ((m = next_piece(p, imf_inception_batch(t->lane->net), &i)) > 0) {
        imf_status status = imf_inception_run(t->lane->net, b->rgb + b->offset[i], m, b->height[i],
                                              b->width[i], b->features + (size_t)i * IMF_FEATURES,
                                              b->logits + (size_t)i * IMF_LOGITS);
        if (status != IMF_OK) {
            const char *why = imf_engine_error(t->lane->engine);
            pthread_mutex_lock(&p->lock);
            p->status = imf__fail(&p->error, status, "InceptionV3: %s",
                                  *why ? why : imf_status_sentence(status));
            pthread_mutex_unlock(&p->lock);
        } else if (p->run->job->files) { /* reading is far ahead: progress is what is scored */
            atomic_fetch_add(&p->run->made, m);
        }
    }
    return NULL;
}

/* The calling thread is the first lane's; a lane whose thread cannot be started leaves its work to
 * the others. */
static imf_status features_of(struct run *r, struct eval_device *d, struct block *b,
                              struct imf_error *err)
{
    double start = imfd_seconds();
    struct pieces p = {.run = r, .block = b};
    struct lane_thread threads[EVAL_MAX_LANES] = {{&p, &d->lanes[0], 0}};
    pthread_mutex_init(&p.lock, NULL);
    int started = 1;
    for (int i = 1; i < d->n_lanes; i++) {
        threads[started] = (struct lane_thread){&p, &d->lanes[i], 0};
        started +=
            pthread_create(&threads[started].thread, NULL, lane_body, &threads[started]) == 0;
    }
    lane_body(&threads[0]);
    for (int i = 1; i < started; i++)
        pthread_join(threads[i].thread, NULL);
    pthread_mutex_destroy(&p.lock);
    if (p.status != IMF_OK)
        return imf__fail(err, p.status, "%s: %s", d->name, p.error.message);
    add_time(r, &r->times.features, start);
    return IMF_OK;
}

/* Hands a made block on: to the feature workers, or with its features to the keepers. */
static bool hand_on(struct run *r, struct eval_device *d, struct block *b)
{
    struct imf_error err = {0};
    struct queue *to = &r->pictures;
    if (!d->overlap) {
        imf_status status = features_of(r, d, b, &err);
        if (status != IMF_OK) {
            fail(r, status, &err);
            block_free(b);
            return false;
        }
        to = &r->featured;
    }
    if (atomic_load(&r->failed)) { /* the queue may have lost its readers */
        block_free(b);
        return false;
    }
    double start = imfd_seconds();
    queue_push(to, b);
    add_time(r, &r->times.generator_waits, start);
    return true;
}

struct worker {
    struct run *run;
    struct eval_device *device; /* NULL for PNG readers and keepers */
    pthread_t thread;
};

static void make_blocks(struct run *r, struct eval_device *d, struct imf_lane **lanes)
{
    struct block *b;
    while ((b = next_block(r)) != NULL) {
        struct imf_error err = {0};
        bool whole = true;
        imf_status status = generate_block(r, d, lanes, b, &whole, &err);
        if (status != IMF_OK)
            fail(r, status, &err);
        if (status != IMF_OK || !whole) {
            block_free(b);
            return;
        }
        if (!hand_on(r, d, b))
            return;
    }
}

static void *generator(void *user)
{
    struct worker *w = user;
    struct run *r = w->run;
    struct imf_error err = {0};
    int batch = imf_model_get_info(w->device->model)->max_batch;
    struct imf_lane **lanes = calloc((size_t)batch, sizeof(*lanes));
    imf_status status = lanes ? IMF_OK : IMF_ENOMEM;
    for (int i = 0; i < batch && status == IMF_OK; i++)
        status = imf_lane_create(&lanes[i], w->device->model);
    if (status == IMF_OK)
        make_blocks(r, w->device, lanes);
    else
        fail(r, status, (imf__fail(&err, status, "%s", imf_status_sentence(status)), &err));
    for (int i = 0; lanes && i < batch; i++)
        imf_lane_destroy(lanes[i]);
    free(lanes);
    queue_leave(&r->pictures);
    queue_leave(&r->featured);
    return NULL;
}

/* ---- Reading pictures ---------------------------------------------------------------------- */

static imf_status read_block(struct run *r, struct block *b, struct imf_error *err)
{
    size_t used = 0;
    for (int i = 0; i < b->n; i++) {
        uint8_t *rgb = NULL;
        imf_status status = eval_read_png(r->job->files[b->number * EVAL_BLOCK + i], &rgb,
                                          &b->width[i], &b->height[i], err);
        if (status != IMF_OK)
            return status;
        size_t bytes = (size_t)b->width[i] * (size_t)b->height[i] * 3;
        uint8_t *grown = realloc(b->rgb, used + bytes);
        if (!grown) {
            free(rgb);
            return imf__fail(err, IMF_ENOMEM, "out of memory");
        }
        b->rgb = grown;
        memcpy(b->rgb + used, rgb, bytes);
        b->offset[i] = used;
        used += bytes;
        free(rgb);
    }
    return IMF_OK;
}

static void *reader(void *user)
{
    struct worker *w = user;
    struct run *r = w->run;
    struct block *b;
    while ((b = next_block(r)) != NULL) {
        struct imf_error err = {0};
        imf_status status = read_block(r, b, &err);
        if (status != IMF_OK) {
            fail(r, status, &err);
            block_free(b);
            break;
        }
        queue_push(&r->pictures, b);
    }
    queue_leave(&r->pictures);
    return NULL;
}

/* ---- Features and files -------------------------------------------------------------------- */

static void *feature_worker(void *user)
{
    struct worker *w = user;
    struct run *r = w->run;
    struct block *b;
    while (queue_pop(&r->pictures, &b, 0)) {
        struct imf_error err = {0};
        /* With --images reading is ahead of the features: a stop need not wait for the queue. */
        bool drop = atomic_load(&r->failed) || (r->job->files && atomic_load(r->stop));
        imf_status status = drop ? IMF_OK : features_of(r, w->device, b, &err);
        if (status != IMF_OK)
            fail(r, status, &err);
        if (drop || status != IMF_OK)
            block_free(b);
        else
            queue_push(&r->featured, b);
    }
    queue_leave(&r->featured);
    return NULL;
}

static void *keeper(void *user)
{
    struct worker *w = user;
    struct run *r = w->run;
    struct block *b;
    while (queue_pop(&r->featured, &b, 0)) {
        struct imf_error err = {0};
        double start = imfd_seconds();
        imf_status status = IMF_OK;
        for (int i = 0; i < b->n && status == IMF_OK && !atomic_load(&r->failed); i++)
            status = eval_keep_picture(r->job, b->number * EVAL_BLOCK + i, b->rgb + b->offset[i],
                                       b->width[i], b->height[i], &err);
        add_time(r, &r->times.save, start);
        free(b->rgb);
        b->rgb = NULL;
        if (status != IMF_OK)
            fail(r, status, &err);
        queue_push(&r->kept, b);
    }
    queue_leave(&r->kept);
    return NULL;
}

/* ---- Main thread --------------------------------------------------------------------------- */

static imf_status add_block(struct run *r, struct eval_state *state, struct block *b,
                            struct imf_error *err)
{
    double start = imfd_seconds();
    imf_status status = eval_state_add(state, b->number, b->n, b->features, b->logits, err);
    add_time(r, &r->times.statistics, start);
    r->times.images += b->n; /* only the main thread touches this one */
    return status;
}

static void collect(struct run *r, struct eval_state *state, struct imfd_progress *bar,
                    int64_t images_before)
{
    double before = eval_state_seconds(state), start = imfd_seconds(), saved = start;
    bool changed = false;
    struct block *b;
    imf_status status = IMF_OK;
    struct imf_error err = {0};
    while (queue_pop(&r->kept, &b, 0.25)) {
        imfd_progress_update(bar, (double)(images_before + atomic_load(&r->made)));
        if (b && status == IMF_OK && !atomic_load(&r->failed))
            status = add_block(r, state, b, &err);
        changed = changed || b;
        block_free(b);
        double now = imfd_seconds();
        if (status == IMF_OK && changed && now - saved >= r->job->options.checkpoint_s) {
            status = eval_state_save(state, before + now - start, &err);
            saved = now;
            changed = false;
        }
        if (status != IMF_OK && !atomic_load(&r->failed))
            fail(r, status, &err);
    }
    /* Whatever happened, what is done is kept. */
    status = eval_state_save(state, before + imfd_seconds() - start, &err);
    if (status != IMF_OK)
        fail(r, status, &err);
}

/* Threads that could not be started leave their queues at once, so that nobody waits for them. */
static void launch(struct run *r, struct worker *w, void *(*body)(void *),
                   struct eval_device *device)
{
    w->run = r;
    w->device = device;
    if (pthread_create(&w->thread, NULL, body, w) == 0)
        return;
    fail(r, IMF_ENOMEM, &(struct imf_error){IMF_ENOMEM, "no more threads can be started"});
    w->thread = 0;
    if (body == generator || body == reader)
        queue_leave(&r->pictures);
    if (body == generator || body == feature_worker)
        queue_leave(&r->featured);
    if (body == keeper)
        queue_leave(&r->kept);
}

static int helpers(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores < 1 ? 1 : cores < MAX_HELPERS ? (int)cores : MAX_HELPERS;
}

imf_status eval_run(const struct eval_job *job, struct eval_device *devices, int n_devices,
                    const int64_t *blocks, int64_t n_blocks, struct eval_state *state,
                    const atomic_bool *stop, struct imfd_progress *bar, int64_t images_before,
                    struct eval_times *times, struct imf_error *err)
{
    struct run *r = calloc(1, sizeof(*r));
    struct worker workers[2 * EVAL_MAX_DEVICES + 2 * MAX_HELPERS];
    int n = 0;
    if (!r)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    r->job = job;
    r->devices = devices;
    r->n_devices = n_devices;
    r->blocks = blocks;
    r->n_blocks = n_blocks;
    r->stop = stop;
    pthread_mutex_init(&r->lock, NULL);
    queue_init(&r->pictures, 2 * n_devices);
    queue_init(&r->featured, 4);
    queue_init(&r->kept, 4);
    int readers = job->files ? helpers() : 0, keepers = job->options.save_samples ? helpers() : 1;
    int makers = job->files ? readers : n_devices, feature_workers = 0;
    for (int i = 0; i < n_devices; i++)
        feature_workers += job->files || devices[i].overlap;
    /* Writers are counted before any thread runs, so that no queue looks finished at the start. */
    r->pictures.writers = makers;
    r->featured.writers = feature_workers + (job->files ? 0 : n_devices);
    r->kept.writers = keepers;
    for (int i = 0; i < makers; i++)
        launch(r, &workers[n++], job->files ? reader : generator, job->files ? NULL : &devices[i]);
    for (int i = 0; i < n_devices; i++)
        if (job->files || devices[i].overlap)
            launch(r, &workers[n++], feature_worker, &devices[i]);
    for (int i = 0; i < keepers; i++)
        launch(r, &workers[n++], keeper, NULL);
    collect(r, state, bar, images_before);
    for (int i = 0; i < n; i++)
        if (workers[i].thread)
            pthread_join(workers[i].thread, NULL);
    *times = r->times;
    imf_status status = r->status;
    if (status != IMF_OK && err)
        *err = r->error;
    queue_destroy(&r->pictures);
    queue_destroy(&r->featured);
    queue_destroy(&r->kept);
    pthread_mutex_destroy(&r->lock);
    free(r);
    return status;
}
