/* The scheduler's shell: the state machine of state.h behind a lock, engine threads that
 * feed on it, encoders beside them, and an async handle that brings news to the loop. */
#include "common/error.h"
#include "scheduler/scheduler.h"
#include "scheduler/threads.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Callbacks before the loop gets its turn. */
#define EVENTS_PER_TURN 128

/* ---- Set-up ---------------------------------------------------------------------------------- */

void sched_options_init(struct sched_options *o)
{
    *o = (struct sched_options){
        .max_queue = 1024,
        .ageing_us = 5000000,
        .return_gap_percent = 10,
        .cache_bytes = (size_t)64 << 20,
        .png_level = 1,
        .max_encoding = 64,
        .stall_us = 60000000,
    };
}

void sched_spec_init(struct sched_spec *s)
{
    *s = (struct sched_spec){.n = 1, .want = SCHED_PNG, .priority = 5};
}

static void on_wake(uv_async_t *handle);
static void on_timer(uv_timer_t *handle);
static void on_watch(uv_timer_t *handle);

static void on_closed(uv_handle_t *handle)
{
    ((struct scheduler *)handle->data)->open_handles--;
}

static void free_model(struct shell_model *m)
{
    free(m->id);
    free((char *)m->params.checkpoint);
    free((char *)m->params.checkpoint_key);
    free((char *)m->params.decoder);
    free(m);
}

static void free_scheduler(struct scheduler *s)
{
    for (int i = 0; i < s->core.model_count; i++) {
        struct shell_model *m = s->model[i];
        free_model(m);
    }
    for (int i = 0; i < s->core.device_count; i++) {
        struct engine_thread *t = s->device[i];
        uv_cond_destroy(&t->wake);
        free((char *)t->params.device);
        free(t);
    }
    encoders_destroy(s);
    core_destroy(&s->core);
    uv_cond_destroy(&s->ended);
    uv_cond_destroy(&s->to_encode);
    uv_mutex_destroy(&s->lock);
    free(s);
}

imf_status sched_create(struct scheduler **out, uv_loop_t *loop, const struct sched_options *o,
                        struct imf_error *err)
{
    if (o->max_queue < 1 || o->max_encoding < 1 || o->return_gap_percent < 0 ||
        o->return_gap_percent > 100)
        return imf__fail(err, IMF_EINVAL, "scheduler: an option is out of range");
    struct scheduler *s = calloc(1, sizeof(*s));
    if (!s)
        return imf__fail(err, IMF_ENOMEM, "%s", imf_status_sentence(IMF_ENOMEM));
    if (core_init(&s->core, o) != IMF_OK) {
        free(s);
        return imf__fail(err, IMF_ENOMEM, "%s", imf_status_sentence(IMF_ENOMEM));
    }
    if (uv_mutex_init(&s->lock) != 0 || uv_cond_init(&s->to_encode) != 0 ||
        uv_cond_init(&s->ended) != 0)
        abort(); /* cannot fail without special attributes */
    s->loop = loop;
    imf_status status = encoders_create(s);
    if (status != IMF_OK || uv_async_init(loop, &s->wake, on_wake) != 0) {
        free_scheduler(s);
        return imf__fail(err, IMF_ENOMEM, "%s", imf_status_sentence(IMF_ENOMEM));
    }
    uv_timer_init(loop, &s->timer);
    uv_timer_init(loop, &s->watch);
    s->wake.data = s->timer.data = s->watch.data = s;
    s->open_handles = 3;
    *out = s;
    return IMF_OK;
}

int sched_add_device(struct scheduler *s, const struct imf_engine_params *p, struct imf_error *err)
{
    assert(!s->started);
    const struct backend_ops *ops = backend_for_device(p->device);
    struct engine_thread *t = calloc(1, sizeof(*t));
    char *name = strdup(p->device);
    if (!t || !name || uv_cond_init(&t->wake) != 0) {
        free(t);
        free(name);
        imf__fail(err, IMF_ENOMEM, "%s", imf_status_sentence(IMF_ENOMEM));
        return -1;
    }
    t->scheduler = s;
    t->params = *p;
    t->params.device = name;
    t->ops = ops;
    t->index = core_add_device(&s->core);
    if (t->index < 0) {
        uv_cond_destroy(&t->wake);
        free(name);
        free(t);
        imf__fail(err, IMF_EINVAL, "too many devices");
        return -1;
    }
    s->device[t->index] = t;
    return t->index;
}

static char *copy_string(const char *s, bool *failed)
{
    char *copy = s ? strdup(s) : NULL;
    *failed |= s && !copy;
    return copy;
}

int sched_add_model(struct scheduler *s, const char *id, const struct imf_model_params *p,
                    const int *devices, int device_count, struct imf_error *err)
{
    assert(!s->started && device_count > 0);
    if (sched_model_find(s, id) >= 0) {
        imf__fail(err, IMF_EINVAL, "two models have the same id");
        return -1;
    }
    bool failed = false;
    struct shell_model *m = calloc(1, sizeof(*m));
    if (!m) {
        imf__fail(err, IMF_ENOMEM, "%s", imf_status_sentence(IMF_ENOMEM));
        return -1;
    }
    m->params = *p;
    m->id = copy_string(id, &failed);
    m->params.checkpoint = copy_string(p->checkpoint, &failed);
    m->params.decoder = copy_string(p->decoder, &failed);
    if (p->checkpoint_key)
        m->params.checkpoint_key = copy_string(p->checkpoint_key, &failed);
    for (int i = 0; i < device_count; i++) {
        assert(devices[i] >= 0 && devices[i] < s->core.device_count);
        m->asked |= 1u << devices[i];
    }
    m->pending = __builtin_popcount(m->asked);
    int index = failed ? -1 : core_add_model(&s->core);
    if (index < 0) {
        free_model(m);
        imf__fail(err, IMF_EINVAL, "%s",
                  failed ? imf_status_sentence(IMF_ENOMEM) : "too many models");
        return -1;
    }
    s->model[index] = m;
    return index;
}

imf_status sched_start(struct scheduler *s, struct imf_error *err)
{
    assert(!s->started);
    s->started = true;
    imf_status status = encoders_start(s);
    for (int i = 0; i < s->core.device_count && status == IMF_OK; i++)
        status = engine_thread_start(s->device[i]);
    if (status != IMF_OK)
        return imf__fail(err, status,
                         "a thread could not be started: too little memory, or too many threads "
                         "(ulimit -v, ulimit -u, the control group's pids.max)");
    s->watched_at = shell_now();
    uv_timer_start(&s->watch, on_watch, SHELL_WATCH_MS, SHELL_WATCH_MS);
    return IMF_OK;
}

imf_status shell_thread_start(struct scheduler *s, uv_thread_t *thread, size_t stack_bytes,
                              void (*run)(void *), void *arg)
{
    const uv_thread_options_t options = {.flags = UV_THREAD_HAS_STACK_SIZE,
                                         .stack_size = stack_bytes};
    uv_mutex_lock(&s->lock);
    s->running++;
    uv_mutex_unlock(&s->lock);
    if (uv_thread_create_ex(thread, &options, run, arg) == 0)
        return IMF_OK;
    shell_thread_ended(s);
    return IMF_ENOMEM;
}

void shell_thread_ended(struct scheduler *s)
{
    uv_mutex_lock(&s->lock);
    s->running--;
    uv_cond_signal(&s->ended);
    uv_mutex_unlock(&s->lock);
}

/* ---- Status ---------------------------------------------------------------------------------- */

int sched_model_count(const struct scheduler *s)
{
    return s->core.model_count;
}

void sched_model_get(struct scheduler *s, int model, struct sched_model_status *out)
{
    const struct shell_model *m = s->model[model];
    uv_mutex_lock(&s->lock);
    enum sched_model_state state = s->core.model[model].state;
    *out = (struct sched_model_status){
        .id = m->id,
        .state = state,
        .load_fraction = m->load_fraction,
        .message = state == SCHED_MODEL_FAILED || state == SCHED_MODEL_SICK ? m->message : "",
        .info = m->info,
        .device = m->device,
    };
    uv_mutex_unlock(&s->lock);
}

int sched_model_find(const struct scheduler *s, const char *id)
{
    for (int i = 0; i < s->core.model_count; i++) {
        if (strcmp(s->model[i]->id, id) == 0)
            return i;
    }
    return -1;
}

const char *sched_class_name(struct scheduler *s, int model, int label)
{
    const struct shell_model *m = s->model[model];
    uv_mutex_lock(&s->lock);
    const struct imf_model *backend = m->backend;
    const struct backend_ops *ops = m->ops;
    uv_mutex_unlock(&s->lock);
    return backend ? ops->class_name(backend, label) : NULL;
}

bool sched_ready(struct scheduler *s)
{
    uv_mutex_lock(&s->lock);
    bool ready = !s->core.draining;
    for (int i = 0; i < s->core.model_count; i++)
        ready = ready && s->core.model[i].state == SCHED_MODEL_READY && core_answers(&s->core, i);
    uv_mutex_unlock(&s->lock);
    return ready;
}

bool sched_answers(struct scheduler *s)
{
    bool any = false, stuck = false;
    uv_mutex_lock(&s->lock);
    for (int i = 0; i < s->core.device_count; i++) {
        any |= !s->core.device[i].failed && !s->core.device[i].stuck;
        stuck |= s->core.device[i].stuck;
    }
    uv_mutex_unlock(&s->lock);
    return any || !stuck;
}

bool sched_model_answers(struct scheduler *s, int model)
{
    uv_mutex_lock(&s->lock);
    bool answers = core_answers(&s->core, model);
    uv_mutex_unlock(&s->lock);
    return answers;
}

void sched_shed(struct scheduler *s)
{
    uv_mutex_lock(&s->lock);
    core_shed(&s->core);
    uv_mutex_unlock(&s->lock);
}

int sched_device_count(const struct scheduler *s)
{
    return s->core.device_count;
}

void sched_device_get(struct scheduler *s, int device, struct sched_device_status *out)
{
    const struct engine_thread *t = s->device[device];
    uv_mutex_lock(&s->lock);
    *out = (struct sched_device_status){
        .name = t->params.device,
        .open = t->info != NULL,
        .failed = s->core.device[device].failed,
        .stuck = s->core.device[device].stuck,
        .message = s->core.device[device].failed ? t->message : "",
        .info = t->info,
        .weights_bytes = t->weights_bytes,
        .arena_bytes = t->arena_bytes,
        .busy_us = t->busy_us,
    };
    uv_mutex_unlock(&s->lock);
}

uint32_t sched_window(struct scheduler *s, int model)
{
    uv_mutex_lock(&s->lock);
    uint32_t window = core_window(&s->core, model);
    uv_mutex_unlock(&s->lock);
    return window;
}

void sched_get_stats(struct scheduler *s, struct sched_stats *out)
{
    uv_mutex_lock(&s->lock);
    core_get_stats(&s->core, out, shell_now());
    uv_mutex_unlock(&s->lock);
}

/* ---- Requests -------------------------------------------------------------------------------- */

/* Arms the timer for a deadline if that is sooner than what it is armed for. */
static void arm_timer(struct scheduler *s, uint64_t deadline)
{
    if (deadline == 0 || (s->timer_at != 0 && s->timer_at <= deadline))
        return;
    uint64_t now = shell_now();
    s->timer_at = deadline;
    /* The loop's own time may lie in the past: the timer counts from there. */
    uv_update_time(s->loop);
    uv_timer_start(&s->timer, on_timer, deadline > now ? (deadline - now) / 1000 + 1 : 0, 0);
}

static void on_timer(uv_timer_t *handle)
{
    struct scheduler *s = handle->data;
    uv_mutex_lock(&s->lock);
    uint64_t next = core_expire(&s->core, shell_now());
    engine_threads_wake(s); /* lanes and places in encoding may have become free */
    uv_mutex_unlock(&s->lock);
    s->timer_at = 0;
    arm_timer(s, next);
    uv_async_send(&s->wake);
}

struct sched_request *sched_submit(struct scheduler *s, const struct sched_spec *spec,
                                   const struct sched_callbacks *callbacks, void *user,
                                   struct sched_refusal *refusal)
{
    uv_mutex_lock(&s->lock);
    struct sched_request *r = core_submit(&s->core, spec, shell_now(), refusal);
    if (r) {
        r->scheduler = s;
        r->callbacks = *callbacks;
        r->user = user;
        engine_threads_wake(s);
    }
    bool news = !list_empty(&s->core.events);
    uint64_t deadline = r ? r->deadline : 0;
    uv_mutex_unlock(&s->lock);
    if (news)
        uv_async_send(&s->wake);
    arm_timer(s, deadline);
    return r;
}

void sched_release(struct sched_request *r, uint32_t count)
{
    struct scheduler *s = r->scheduler;
    uv_mutex_lock(&s->lock);
    uint32_t before = r->next;
    core_release(&s->core, r, count, shell_now());
    if (r->next != before)
        engine_threads_wake(s);
    bool news = !list_empty(&s->core.events);
    uv_mutex_unlock(&s->lock);
    if (news)
        uv_async_send(&s->wake);
}

int sched_close(struct sched_request *r, enum sched_outcome outcome)
{
    struct scheduler *s = r->scheduler;
    uv_mutex_lock(&s->lock);
    int phase = core_close(&s->core, r, outcome);
    if (outcome != SCHED_SENT) /* lanes and places in encoding may have become free */
        engine_threads_wake(s);
    uv_mutex_unlock(&s->lock);
    return phase;
}

struct blob *sched_cached_png(struct scheduler *s, const struct picture_key *key)
{
    uv_mutex_lock(&s->lock);
    struct blob *png = image_cache_get(s->core.cache, key);
    s->core.stats.cache_hits += png != NULL;
    uv_mutex_unlock(&s->lock);
    return png;
}

uint64_t sched_retry_us(struct scheduler *s, int model, uint32_t n)
{
    uv_mutex_lock(&s->lock);
    uint64_t us = core_retry_us(&s->core, model, n, shell_now());
    uv_mutex_unlock(&s->lock);
    return us;
}

/* ---- News, on the loop ----------------------------------------------------------------------- */

/* At most `count` events. A callback may cause new ones (a request answered out of the cache), so
 * the loop gets its turn in between. */
static void deliver(struct scheduler *s, uint32_t count)
{
    struct core_event event;
    for (; count > 0; count--) {
        uv_mutex_lock(&s->lock);
        bool any = core_next_event(&s->core, &event);
        uv_mutex_unlock(&s->lock);
        if (!any)
            return;
        struct sched_request *r = event.request;
        /* The callbacks may close r: it is not looked at afterwards. */
        if (event.is_end) {
            r->callbacks.on_end(r->user, r, r->result, r->message);
        } else {
            r->callbacks.on_picture(r->user, r, &event.picture);
            blob_drop(event.picture.png);
            blob_drop(event.picture.rgb);
        }
    }
    uv_async_send(&s->wake);
}

static void on_wake(uv_async_t *handle)
{
    struct scheduler *s = handle->data;
    deliver(s, EVENTS_PER_TURN);
    const struct sched_options *o = &s->core.options;
    for (int i = 0; o->on_model && i < s->core.model_count; i++) {
        uv_mutex_lock(&s->lock);
        bool changed = s->model[i]->changed;
        s->model[i]->changed = false;
        uv_mutex_unlock(&s->lock);
        if (changed)
            o->on_model(o->on_model_user, s, i);
    }
    for (int i = 0; o->on_device_lost && i < s->core.device_count; i++) {
        uv_mutex_lock(&s->lock);
        bool lost = s->device[i]->lost;
        s->device[i]->lost = false;
        uv_mutex_unlock(&s->lock);
        if (lost)
            o->on_device_lost(o->on_device_lost_user, s, i);
    }
}

/* Whether engines give signs of life: idle ones are woken for one. */
static void on_watch(uv_timer_t *handle)
{
    struct scheduler *s = handle->data;
    const struct sched_options *o = &s->core.options;
    uint64_t now = shell_now(), elapsed = now - s->watched_at;
    s->watched_at = now;
    uv_mutex_lock(&s->lock);
    core_watch(&s->core, elapsed < SHELL_WATCH_MOST_US ? elapsed : SHELL_WATCH_MOST_US);
    engine_threads_wake(s);
    uv_mutex_unlock(&s->lock);
    for (int i = 0; i < s->core.device_count; i++) {
        uv_mutex_lock(&s->lock);
        bool stuck = s->core.device[i].stuck;
        uv_mutex_unlock(&s->lock);
        if (stuck == s->device[i]->told_stuck)
            continue;
        s->device[i]->told_stuck = stuck;
        if (o->on_device_stuck)
            o->on_device_stuck(o->on_device_stuck_user, s, i, stuck);
    }
}

/* ---- Drain and stop -------------------------------------------------------------------------- */

void sched_drain(struct scheduler *s)
{
    uv_mutex_lock(&s->lock);
    s->core.draining = true;
    uv_mutex_unlock(&s->lock);
}

uint32_t sched_pending(struct scheduler *s)
{
    uv_mutex_lock(&s->lock);
    uint32_t requests = s->core.requests;
    uv_mutex_unlock(&s->lock);
    return requests;
}

bool sched_stop(struct scheduler *s, uint64_t ms)
{
    uint64_t until = uv_hrtime() + ms * 1000000;
    uv_mutex_lock(&s->lock);
    core_stop(&s->core, shell_now());
    s->stop = true;
    for (int i = 0; i < s->core.device_count; i++)
        uv_cond_signal(&s->device[i]->wake);
    uv_cond_broadcast(&s->to_encode);
    uv_mutex_unlock(&s->lock);
    deliver(s, UINT32_MAX);
    uv_mutex_lock(&s->lock);
    for (uint64_t now = uv_hrtime(); s->running > 0 && now < until; now = uv_hrtime())
        (void)uv_cond_timedwait(&s->ended, &s->lock, until - now);
    bool all = s->running == 0;
    uv_mutex_unlock(&s->lock);
    encoders_join(s); /* a picture's file is a matter of milliseconds */
    return all;
}

void sched_destroy(struct scheduler *s)
{
    if (!s)
        return;
    (void)sched_stop(s, 0);
    for (int i = 0; i < s->core.device_count; i++)
        engine_thread_join(s->device[i]);
    encoders_join(s);
    deliver(s, UINT32_MAX);
    uv_close((uv_handle_t *)&s->wake, on_closed);
    uv_close((uv_handle_t *)&s->timer, on_closed);
    uv_close((uv_handle_t *)&s->watch, on_closed);
    while (s->open_handles > 0)
        uv_run(s->loop, UV_RUN_ONCE);
    free_scheduler(s);
}
