/* Threads that make files of decoded pictures. They exist before the first picture does: one that
 * cannot be had is found out at the start. */
#include "scheduler/threads.h"

#define STACK_BYTES ((size_t)1 << 20)

imf_status encoders_create(struct scheduler *s)
{
    uv_cpu_info_t *cpus;
    int count = 1;
    if (uv_cpu_info(&cpus, &count) == 0)
        uv_free_cpu_info(cpus, count);
    s->encoder_count = count < 1 ? 1 : count > SHELL_ENCODERS ? SHELL_ENCODERS : count;
    s->core.encoders = s->encoder_count;
    for (int i = 0; i < s->encoder_count; i++) {
        s->encoder[i].scheduler = s;
        imf_status status = picture_encoder_create(&s->encoder[i].files, s->core.options.png_level);
        if (status != IMF_OK)
            return status;
    }
    return IMF_OK;
}

static void encode_one(struct encoder *e, struct picture *p, int width, int height)
{
    struct scheduler *s = e->scheduler;
    const struct sched_options *o = &s->core.options;
    uint64_t begin = shell_now();
    struct picture_text text = {0};
    struct blob *png = NULL;
    if (o->describe)
        o->describe(o->describe_user, &p->key, &text);
    imf_status status = IMF_ENOMEM;
    for (int attempt = 0; attempt < 2 && status == IMF_ENOMEM; attempt++) {
        if (attempt > 0) /* what is cached is worth less than a picture asked for */
            sched_shed(s);
        status =
            picture_encode(e->files, &p->key.encoding, p->rgb->data, width, height, &text, &png);
    }
    if (status != IMF_OK)
        png = NULL;
    uint64_t end = shell_now();
    uv_mutex_lock(&s->lock);
    bool was_full = s->core.encoding >= o->max_encoding;
    core_encoded(&s->core, p, png, end - begin, end);
    if (was_full)
        engine_threads_wake(s);
    uv_mutex_unlock(&s->lock);
    uv_async_send(&s->wake);
}

static void encode_until_stop(void *arg)
{
    struct encoder *e = arg;
    struct scheduler *s = e->scheduler;
    uv_mutex_lock(&s->lock);
    while (!s->stop) {
        struct picture *p = core_encode_next(&s->core);
        if (!p) {
            uv_cond_wait(&s->to_encode, &s->lock);
            continue;
        }
        /* Read under the lock: at the end the model goes while pictures are still in hand here. */
        const struct imf_model_info *info = s->model[p->key.model]->info;
        int width = info->image_width, height = info->image_height;
        uv_mutex_unlock(&s->lock);
        encode_one(e, p, width, height);
        uv_mutex_lock(&s->lock);
    }
    uv_mutex_unlock(&s->lock);
    shell_thread_ended(s);
}

imf_status encoders_start(struct scheduler *s)
{
    for (int i = 0; i < s->encoder_count; i++) {
        struct encoder *e = &s->encoder[i];
        if (shell_thread_start(s, &e->thread, STACK_BYTES, encode_until_stop, e) != IMF_OK)
            return IMF_ENOMEM;
        e->started = true;
    }
    return IMF_OK;
}

void encoders_join(struct scheduler *s)
{
    for (int i = 0; i < s->encoder_count; i++) {
        if (s->encoder[i].started)
            uv_thread_join(&s->encoder[i].thread);
        s->encoder[i].started = false;
    }
}

void encoders_destroy(struct scheduler *s)
{
    for (int i = 0; i < SHELL_ENCODERS; i++)
        picture_encoder_destroy(s->encoder[i].files);
}
