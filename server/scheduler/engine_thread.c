/* The thread of one device: opens it, loads its models, then takes one batch after the other from
 * the scheduler. Everything the backend does happens here.
 *
 * Where the device overlaps (a GPU), pictures are fetched while the next batch computes: a decoding
 * that has been computed stays pending until the next batch has begun. The next batch is picked no
 * sooner than that, so that requests that arrive while the GPU computes still join it. */
#include "scheduler/threads.h"
#include "common/clock.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t shell_now(void)
{
    return imf__clock_us();
}

void engine_threads_wake(struct scheduler *s)
{
    for (int i = 0; i < s->core.device_count; i++) {
        if (s->device[i]->waiting)
            uv_cond_signal(&s->device[i]->wake);
    }
}

/* ---- Loading --------------------------------------------------------------------------------- */

static void on_progress(void *user, double fraction)
{
    struct shell_model *m = ((void **)user)[0];
    struct scheduler *s = ((void **)user)[1];
    uv_mutex_lock(&s->lock);
    /* Seldom enough not to matter: at most a hundred times per model. */
    bool tell = fraction >= m->load_fraction + 0.01;
    if (tell) {
        m->load_fraction = fraction < 1 ? fraction : 1;
        m->changed = true;
    }
    uv_mutex_unlock(&s->lock);
    if (tell)
        uv_async_send(&s->wake);
}

/* Under the lock. The model is lost only when no other device serves it or may yet. */
static void load_failed(struct engine_thread *t, int index, const char *message)
{
    struct scheduler *s = t->scheduler;
    struct shell_model *m = s->model[index];
    m->pending--;
    m->changed = true;
    snprintf(m->message, sizeof(m->message), "%s", message);
    if (m->pending == 0 && s->core.model[index].devices == 0)
        core_model_failed(&s->core, index, message, shell_now());
}

static imf_status unfit(struct imf_error *err, const char *why)
{
    snprintf(err->message, sizeof(err->message), "self-check: %s", why);
    return IMF_EFORMAT;
}

/* What a broken checkpoint gives: nothing but one colour. Very small pictures may be so. */
static bool one_colour(const uint8_t *rgb, const struct imf_model_info *info)
{
    size_t pixels = (size_t)info->image_width * (size_t)info->image_height;
    return pixels >= 64 && memcmp(rgb, rgb + 3, 3 * (pixels - 1)) == 0;
}

/* Makes one picture, which shows that the model works, and measures the first speeds. */
static imf_status make_one(struct engine_thread *t, struct imf_model *model, struct imf_lane *lane,
                           uint8_t *pixels, uint64_t *step_us, uint64_t *decode_us)
{
    uint64_t begin = shell_now();
    imf_status status = t->ops->step_begin(model, &lane, 1);
    if (status == IMF_OK)
        status = t->ops->step_end(model, &lane, 1);
    uint64_t middle = shell_now();
    if (status == IMF_OK)
        status = t->ops->decode_begin(model, &lane, 1);
    if (status == IMF_OK)
        status = t->ops->decode_end(model, &pixels);
    *step_us = middle - begin;
    *decode_us = shell_now() - middle;
    return status;
}

static bool finite_latent(const struct imf_lane *lane)
{
    for (size_t i = 0; i < lane->z_count; i++) {
        if (!isfinite(lane->z[i]))
            return false;
    }
    return true;
}

static imf_status warm_up(struct engine_thread *t, struct imf_model *model, uint64_t *step_us,
                          uint64_t *decode_us, struct imf_error *err)
{
    const struct imf_model_info *info = t->ops->model_info(model);
    struct imf_sampling sampling = info->defaults;
    sampling.steps = 1;
    struct imf_lane *lane = NULL;
    uint8_t *pixels = malloc((size_t)info->image_width * (size_t)info->image_height * 3 + 1);
    imf_status status = pixels ? t->ops->lane_create(&lane, model) : IMF_ENOMEM;
    if (status == IMF_OK)
        status = t->ops->lane_start(lane, model, 0, 0, &sampling, err);
    if (status == IMF_OK)
        status = make_one(t, model, lane, pixels, step_us, decode_us);
    if (status == IMF_OK && t->ops->lane_fetch)
        status = t->ops->lane_fetch(model, lane);
    if (status == IMF_OK && !finite_latent(lane))
        status = unfit(err, "the network gives values that are not numbers: its weights are bad, "
                            "or too large for this precision");
    else if (status == IMF_OK && one_colour(pixels, info))
        status = unfit(err, "every pixel of the picture is the same: the weights are bad, or the "
                            "decoder belongs to another model");
    if (status != IMF_OK && err->message[0] == '\0') {
        const char *reason = t->ops->device_error(t->backend);
        snprintf(err->message, sizeof(err->message), "self-check: %s",
                 reason[0] != '\0' ? reason : imf_status_sentence(status));
    }
    t->ops->lane_destroy(lane);
    free(pixels);
    return status;
}

static imf_status check_pictures(const struct imf_model_info *info, struct imf_error *err)
{
    if (info->image_width > 0 && info->image_height > 0)
        return IMF_OK;
    snprintf(err->message, sizeof(err->message),
             "%s makes latents of %d x %d x %d, not pictures, and has no decoder: name one in the "
             "model's \"decoder\" (a file or folder of sd-vae or taesd weights)",
             info->name, info->channels, info->input_size, info->input_size);
    return IMF_EUNSUPPORTED;
}

static void load_model(struct engine_thread *t, int index)
{
    struct scheduler *s = t->scheduler;
    struct shell_model *m = s->model[index];
    struct imf_error err = {0};
    uint64_t step_us = 0, decode_us = 0;
    void *progress[2] = {m, s};
    struct imf_model_params params = m->params;
    params.progress = on_progress;
    params.progress_user = progress;
    struct imf_model *model = NULL;
    imf_status status = t->ops->model_load(&model, t->backend, &params, &err);
    if (status == IMF_OK)
        status = check_pictures(t->ops->model_info(model), &err);
    if (status == IMF_OK)
        status = warm_up(t, model, &step_us, &decode_us, &err);
    if (err.message[0] == '\0')
        snprintf(err.message, sizeof(err.message), "%s", imf_status_sentence(status));
    struct noise *noise = NULL;
    if (status == IMF_OK && t->ops->noise_draw && !t->noise)
        status = noise_create(&noise, t->ops->noise_draw, t->ops->noise_shape);
    uv_mutex_lock(&s->lock);
    const struct imf_model_info *info = model ? t->ops->model_info(model) : NULL;
    if (status == IMF_OK && !core_model_ready(&s->core, index, t->index, info)) {
        status = IMF_ENOMEM;
        snprintf(err.message, sizeof(err.message), "%s", imf_status_sentence(status));
    }
    if (status == IMF_OK) {
        core_guess(&s->core.model[index], step_us, decode_us, shell_now());
        t->model[index] = model;
        t->noise = t->noise ? t->noise : noise;
        t->weights_bytes += info->weights_bytes;
        t->arena_bytes += info->arena_bytes;
        m->pending--;
        m->load_fraction = 1;
        m->changed = true;
        if (!m->info) {
            m->info = info;
            m->device = t->info;
            m->ops = t->ops;
            m->backend = model;
        }
    } else {
        load_failed(t, index, err.message);
    }
    uv_mutex_unlock(&s->lock);
    uv_async_send(&s->wake);
    if (status != IMF_OK) {
        noise_destroy(noise);
        t->ops->model_unload(model);
    }
}

static bool open_device(struct engine_thread *t)
{
    struct scheduler *s = t->scheduler;
    struct imf_error err = {0};
    imf_status status = t->ops->device_open(&t->backend, &t->params, &err);
    uv_mutex_lock(&s->lock);
    if (status == IMF_OK) {
        t->info = t->ops->device_info(t->backend);
    } else {
        snprintf(t->message, sizeof(t->message), "%s", err.message);
        t->lost = true;
        core_device_failed(&s->core, t->index, err.message, shell_now());
        for (int m = 0; m < s->core.model_count; m++) {
            if (s->model[m]->asked >> t->index & 1)
                load_failed(t, m, err.message);
        }
    }
    uv_mutex_unlock(&s->lock);
    uv_async_send(&s->wake);
    return status == IMF_OK;
}

/* ---- Working --------------------------------------------------------------------------------- */

/* A batch on its way through the device. */
struct flight {
    struct sched_work work; /* kind WORK_NONE: none */
    struct imf_lane *lanes[IMF_MAX_BATCH];
    uint8_t *rgb[IMF_MAX_BATCH];
    int n; /* of these: pictures of the work that are not bad */
    imf_status status;
    struct imf_error err;
};

/* The numbers of a z that is drawn beside this thread; 0: it is not. */
static size_t large_noise(const struct engine_thread *t, int model)
{
    const struct imf_model_info *info = t->ops->model_info(t->model[model]);
    size_t count = (size_t)info->channels * (size_t)info->input_size * (size_t)info->input_size;
    return t->noise && count >= NOISE_LARGE ? count : 0;
}

/* Has noise drawn for the batch to begin, and for pictures that are likely to be in the next one.
 * Under the lock. */
static void want_noise(struct engine_thread *t, const struct sched_work *work)
{
    struct sched_core *c = &t->scheduler->core;
    if (work->kind != WORK_STEP || large_noise(t, work->model) == 0)
        return;
    size_t count = large_noise(t, work->model);
    int room = NOISE_KEPT;
    for (int i = 0; i < work->n && room > 0; i++) {
        if (work->picture[i]->step == 0) {
            noise_want(t->noise, t->model[work->model], work->picture[i]->key.seed, count);
            room--;
        }
    }
    LIST_EACH(r_it, &c->model[work->model].requests)
    {
        LIST_EACH(it, &LIST_OF(r_it, struct sched_request, of_model)->waiting)
        {
            const struct picture *p = LIST_OF(it, struct waiter, of_request)->picture;
            if (room == 0)
                return;
            if (p->state != PICTURE_QUEUED || p->in_hand)
                continue;
            noise_want(t->noise, t->model[work->model], p->key.seed, count);
            room--;
        }
    }
}

static imf_status start_lane(struct engine_thread *t, struct imf_lane *lane,
                             const struct picture_key *key, struct imf_error *err)
{
    const struct imf_model *model = t->model[key->model];
    size_t count = large_noise(t, key->model);
    if (count == 0)
        return t->ops->lane_start(lane, model, key->label, key->seed, &key->sampling, err);
    imf_status status = t->ops->lane_set(lane, model, key->label, key->seed, &key->sampling, err);
    return status == IMF_OK ? noise_take(t->noise, model, key->seed, lane->z, count) : status;
}

static imf_status begin_step(struct engine_thread *t, struct flight *f)
{
    struct imf_model *model = t->model[f->work.model];
    for (int i = 0; i < f->work.n; i++) {
        struct picture *p = f->work.picture[i];
        imf_status status = IMF_OK;
        if (!p->lane)
            status = t->ops->lane_create(&p->lane, model);
        if (status == IMF_OK && p->step == 0)
            status = start_lane(t, p->lane, &p->key, &f->err);
        f->work.bad[i] = status != IMF_OK;
        f->work.short_of_memory |= status == IMF_ENOMEM;
        if (status == IMF_OK)
            f->lanes[f->n++] = p->lane;
        else if (f->err.message[0] == '\0')
            snprintf(f->err.message, sizeof(f->err.message), "%s", imf_status_sentence(status));
    }
    return f->n > 0 ? t->ops->step_begin(model, f->lanes, f->n) : IMF_OK;
}

static imf_status begin_decode(struct engine_thread *t, struct flight *f)
{
    struct imf_model *model = t->model[f->work.model];
    const struct imf_model_info *info = t->ops->model_info(model);
    size_t bytes = (size_t)info->image_width * (size_t)info->image_height * 3;
    for (int i = 0; i < f->work.n; i++) {
        struct picture *p = f->work.picture[i];
        p->rgb = blob_new(bytes);
        if (!p->rgb) { /* what is cached is worth less than a picture asked for */
            sched_shed(t->scheduler);
            p->rgb = blob_new(bytes);
        }
        f->work.bad[i] = !p->rgb;
        if (f->work.bad[i]) {
            f->work.short_of_memory = true;
            snprintf(f->err.message, sizeof(f->err.message), "out of memory for a picture");
            continue;
        }
        f->rgb[f->n] = p->rgb->data;
        f->lanes[f->n++] = p->lane;
    }
    return f->n > 0 ? t->ops->decode_begin(model, f->lanes, f->n) : IMF_OK;
}

static void begin(struct engine_thread *t, struct flight *f)
{
    f->n = 0;
    f->err.message[0] = '\0';
    f->status = f->work.kind == WORK_STEP ? begin_step(t, f) : begin_decode(t, f);
}

static void end(struct engine_thread *t, struct flight *f)
{
    struct imf_model *model = t->model[f->work.model];
    if (f->status == IMF_OK && f->n > 0)
        f->status = f->work.kind == WORK_STEP ? t->ops->step_end(model, f->lanes, f->n)
                                              : t->ops->decode_end(model, f->rgb);
    if (f->status != IMF_OK) {
        const char *reason = t->ops->device_error(t->backend);
        snprintf(f->err.message, sizeof(f->err.message), "%s",
                 reason[0] != '\0' ? reason : imf_status_sentence(f->status));
    }
}

/* Under the lock, which is given up while waiting. */
static void wait_for_work(struct engine_thread *t, uint64_t wake_at)
{
    struct scheduler *s = t->scheduler;
    t->waiting = true;
    if (wake_at == 0) {
        uv_cond_wait(&t->wake, &s->lock);
    } else {
        uint64_t now = shell_now();
        /* At the end either way; the caller looks again. */
        (void)uv_cond_timedwait(&t->wake, &s->lock, wake_at > now ? (wake_at - now) * 1000 : 1);
    }
    t->waiting = false;
}

static void device_lost(struct engine_thread *t, const char *message)
{
    struct scheduler *s = t->scheduler;
    snprintf(t->message, sizeof(t->message), "%s", message);
    t->lost = true;
    for (int m = 0; m < s->core.model_count; m++) {
        if (t->model[m] && s->core.model[m].devices == 0) {
            snprintf(s->model[m]->message, sizeof(s->model[m]->message), "%s", message);
            s->model[m]->changed = true;
        }
    }
}

/* Under the lock. `other` is in flight too, or empty: when f has failed, it fails with it. */
static void completed(struct engine_thread *t, struct flight *f, struct flight *other)
{
    struct scheduler *s = t->scheduler;
    uint64_t now = shell_now();
    uint64_t since = f->work.started_at > t->busy_until ? f->work.started_at : t->busy_until;
    t->busy_us += now > since ? now - since : 0;
    t->busy_until = now;
    bool fatal = f->status != IMF_OK && f->status != IMF_ENOMEM;
    if (fatal)
        core_abandon(&s->core, &other->work, now);
    bool was_full = s->core.encoding >= s->core.options.max_encoding;
    core_complete(&s->core, t->index, &f->work, f->status, f->err.message, now);
    if (was_full) /* pictures that need no PNG leave their place to another device's */
        engine_threads_wake(s);
    if (fatal)
        device_lost(t, f->err.message);
    if (!list_empty(&s->core.to_encode))
        uv_cond_broadcast(&s->to_encode);
    if (!list_empty(&s->core.events))
        uv_async_send(&s->wake);
}

/* Outside the lock. */
static void land(struct engine_thread *t, struct flight *f, struct flight *other)
{
    if (f->work.kind == WORK_NONE)
        return;
    end(t, f);
    uv_mutex_lock(&t->scheduler->lock);
    completed(t, f, other);
    uv_mutex_unlock(&t->scheduler->lock);
}

/* The batch just picked, while `pending` may be a decoding whose pictures are on their way. A step
 * is over when this returns; a decoding is pending then where the device overlaps. */
static void fly(struct engine_thread *t, struct flight *f, struct flight *pending)
{
    begin(t, f);
    land(t, pending, f);
    bool stays = f->work.kind == WORK_DECODE && f->status == IMF_OK && t->info->overlaps;
    if (stays)
        f->status = t->ops->wait(t->backend);
    if (!stays || f->status != IMF_OK)
        land(t, f, pending);
}

static void work_until_stop(struct engine_thread *t)
{
    struct scheduler *s = t->scheduler;
    struct flight *next = &t->flights[0], *pending = &t->flights[1];
    uv_mutex_lock(&s->lock);
    while (!s->stop && !s->core.device[t->index].failed) {
        core_pick(&s->core, t->index, &next->work, shell_now());
        want_noise(t, &next->work);
        if (next->work.kind == WORK_NONE && pending->work.kind == WORK_NONE) {
            wait_for_work(t, next->work.wake_at);
            continue;
        }
        uv_mutex_unlock(&s->lock);
        if (next->work.kind == WORK_NONE)
            land(t, pending, next);
        else
            fly(t, next, pending);
        struct flight *begun = next;
        next = pending;
        pending = begun;
        uv_mutex_lock(&s->lock);
    }
    uv_mutex_unlock(&s->lock);
    land(t, pending, next);
}

static void close_device(struct engine_thread *t)
{
    struct scheduler *s = t->scheduler;
    struct core_device *d = &s->core.device[t->index];
    noise_destroy(t->noise);
    for (int m = 0; m < s->core.model_count; m++) {
        /* All lanes have come back: requests were ended before the threads were stopped. */
        uv_mutex_lock(&s->lock);
        assert(d->lanes[m] == 0);
        uint32_t count = d->spare_count[m];
        d->spare_count[m] = 0;
        uv_mutex_unlock(&s->lock);
        for (uint32_t i = 0; i < count; i++)
            t->ops->lane_destroy(d->spare[m][i]);
        if (t->model[m])
            t->ops->model_unload(t->model[m]);
    }
    t->ops->device_close(t->backend);
}

static void run(struct engine_thread *t)
{
    struct scheduler *s = t->scheduler;
    if (!open_device(t))
        return;
    bool stop = false;
    for (int m = 0; m < s->core.model_count && !stop; m++) {
        if (s->model[m]->asked >> t->index & 1)
            load_model(t, m);
        uv_mutex_lock(&s->lock);
        stop = s->stop;
        uv_mutex_unlock(&s->lock);
    }
    work_until_stop(t);
    /* A failed device keeps its models until the end: their info may be in use. */
    uv_mutex_lock(&s->lock);
    while (!s->stop)
        uv_cond_wait(&t->wake, &s->lock);
    uv_mutex_unlock(&s->lock);
    close_device(t);
}

static void thread_main(void *arg)
{
    struct engine_thread *t = arg;
    run(t);
    shell_thread_ended(t->scheduler);
}

imf_status engine_thread_start(struct engine_thread *t)
{
    t->flights = calloc(2, sizeof(*t->flights));
    if (!t->flights)
        return IMF_ENOMEM;
    /* Engines' libraries decide how deep they go: the usual stack. */
    if (shell_thread_start(t->scheduler, &t->thread, 0, thread_main, t) != IMF_OK)
        return IMF_ENOMEM;
    t->started = true;
    return IMF_OK;
}

void engine_thread_join(struct engine_thread *t)
{
    if (t->started)
        uv_thread_join(&t->thread);
    t->started = false;
    free(t->flights);
    t->flights = NULL;
}
