/* The fake engine: arithmetic instead of a network, with a price list instead of a device. It
 * exists so that the server can be tested and measured without weights. */
#include "scheduler/backend.h"
#include "common/clock.h"
#include "common/error.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct backend_fake_control {
    pthread_mutex_t lock;
    pthread_cond_t change;
    bool blocked, failing;
    int waiting, lanes;
    char name[16];
    struct backend_fake_control *next;
};

/* The only globals: controls by name. A device asks for its own once, when it is opened. */
static pthread_mutex_t controls_lock = PTHREAD_MUTEX_INITIALIZER;
static struct backend_fake_control *controls;

struct fake_options {
    int64_t step_us, step_lane_us, decode_us, decode_lane_us, spin, load_ms, fail_load, sick,
        fail_label, hang_label, fail_after, overlap, max_batch, size, classes;
};

/* What imf.h leaves opaque, of this engine\'s own making: the scheduler carries them from one call
 * of the table to the next and never looks inside. */
struct imf_engine {
    struct fake_options options;
    struct backend_fake_control *control; /* may be NULL */
    struct imf_engine_info info;
    int64_t steps, owed_us; /* owed: the time of what was begun, not yet spent */
    char error[96];
};

struct imf_model {
    struct imf_engine *device;
    struct imf_model_info info;
    /* Ring of decodings begun: their latents as they were then. */
    struct {
        uint64_t *z;
        int n;
    } decode[IMF_DECODES];
    int first_decode, decodes;
};

struct fake_lane {
    struct imf_lane lane; /* its latent is the one float below */
    struct imf_engine *device;
    float latent; /* not a number where the device is sick so */
    uint64_t z;   /* what a latent is to a network: passes through every step */
};

/* ---- Control --------------------------------------------------------------------------------- */

struct backend_fake_control *backend_fake_control_new(const char *name)
{
    struct backend_fake_control *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->change, NULL);
    snprintf(c->name, sizeof(c->name), "%s", name);
    pthread_mutex_lock(&controls_lock);
    c->next = controls;
    controls = c;
    pthread_mutex_unlock(&controls_lock);
    return c;
}

void backend_fake_control_free(struct backend_fake_control *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&controls_lock);
    struct backend_fake_control **link = &controls;
    while (*link != c)
        link = &(*link)->next;
    *link = c->next;
    pthread_mutex_unlock(&controls_lock);
    pthread_cond_destroy(&c->change);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static struct backend_fake_control *find_control(const char *name)
{
    pthread_mutex_lock(&controls_lock);
    struct backend_fake_control *c = controls;
    while (c && strcmp(c->name, name) != 0)
        c = c->next;
    pthread_mutex_unlock(&controls_lock);
    return c;
}

void backend_fake_block(struct backend_fake_control *c, bool blocked)
{
    pthread_mutex_lock(&c->lock);
    c->blocked = blocked;
    pthread_cond_broadcast(&c->change);
    pthread_mutex_unlock(&c->lock);
}

void backend_fake_wait_blocked(struct backend_fake_control *c)
{
    pthread_mutex_lock(&c->lock);
    while (c->waiting == 0)
        pthread_cond_wait(&c->change, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

void backend_fake_fail(struct backend_fake_control *c)
{
    pthread_mutex_lock(&c->lock);
    c->failing = true;
    pthread_mutex_unlock(&c->lock);
}

int backend_fake_live_lanes(struct backend_fake_control *c)
{
    pthread_mutex_lock(&c->lock);
    int lanes = c->lanes;
    pthread_mutex_unlock(&c->lock);
    return lanes;
}

static void count_lane(struct backend_fake_control *c, int change)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->lanes += change;
    pthread_mutex_unlock(&c->lock);
}

/* Waits while blocked; true when the call is to fail. */
static bool gate(struct backend_fake_control *c)
{
    if (!c)
        return false;
    pthread_mutex_lock(&c->lock);
    c->waiting++;
    while (c->blocked) {
        pthread_cond_broadcast(&c->change);
        pthread_cond_wait(&c->change, &c->lock);
    }
    c->waiting--;
    bool failing = c->failing;
    pthread_mutex_unlock(&c->lock);
    return failing;
}

/* ---- Device ---------------------------------------------------------------------------------- */

/* One "key=value" of the device name. The whole text must be understood. */
static bool set_option(struct fake_options *o, const char *key, const char *value)
{
    static const struct {
        const char *name;
        size_t offset;
        int64_t min, max;
    } table[] = {
#define OPTION(name, min, max) {#name, offsetof(struct fake_options, name), min, max}
        OPTION(step_us, 0, 60000000),
        OPTION(step_lane_us, 0, 60000000),
        OPTION(decode_us, 0, 60000000),
        OPTION(decode_lane_us, 0, 60000000),
        OPTION(spin, 0, 1),
        OPTION(load_ms, 0, 600000),
        OPTION(fail_load, 0, 1),
        OPTION(sick, 0, 3),
        OPTION(fail_label, -1, 1000000),
        OPTION(hang_label, -1, 1000000),
        OPTION(fail_after, 0, INT64_MAX),
        OPTION(overlap, 0, 1),
        OPTION(max_batch, 1, 256),
        OPTION(size, 1, 4096),
        OPTION(classes, 1, 1000000),
#undef OPTION
    };
    char *end;
    errno = 0;
    int64_t v = strtoll(value, &end, 10);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (strcmp(table[i].name, key) != 0)
            continue;
        if (errno != 0 || end == value || *end != '\0' || v < table[i].min || v > table[i].max)
            return false;
        memcpy((char *)o + table[i].offset, &v, sizeof(v));
        return true;
    }
    return false;
}

static imf_status parse_device(struct imf_engine *d, const char *text, struct imf_error *err)
{
    char copy[256];
    if (strlen(text) >= sizeof(copy))
        return imf__fail(err, IMF_EINVAL, "the fake device's options are too long");
    strcpy(copy, text);
    char *save = NULL, *options = strchr(copy, ':');
    if (!options)
        return IMF_OK;
    for (char *item = strtok_r(options + 1, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        char *equals = strchr(item, '=');
        if (!equals)
            return imf__fail(err, IMF_EINVAL, "fake device: '%s' is not key=value", item);
        *equals = '\0';
        if (strcmp(item, "name") == 0)
            d->control = find_control(equals + 1);
        else if (!set_option(&d->options, item, equals + 1))
            return imf__fail(err, IMF_EINVAL, "fake device: bad option '%s'", item);
    }
    return IMF_OK;
}

static imf_status device_open(struct imf_engine **out, const struct imf_engine_params *p,
                              struct imf_error *err)
{
    struct imf_engine *d = calloc(1, sizeof(*d));
    if (!d)
        return imf__fail(err, IMF_ENOMEM, "%s", imf_status_sentence(IMF_ENOMEM));
    d->options = (struct fake_options){
        .fail_label = -1, .hang_label = -1, .max_batch = 8, .size = 256, .classes = 1000};
    imf_status status = parse_device(d, p->device, err);
    if (status != IMF_OK) {
        free(d);
        return status;
    }
    snprintf(d->info.device, sizeof(d->info.device), "fake");
    snprintf(d->info.description, sizeof(d->info.description), "no engine: made-up pictures");
    d->info.precision = p->precision == IMF_PRECISION_AUTO ? IMF_PRECISION_FP32 : p->precision;
    d->info.threads = 1;
    d->info.overlaps = d->options.overlap;
    *out = d;
    return IMF_OK;
}

static void device_close(struct imf_engine *d)
{
    free(d);
}

static const struct imf_engine_info *device_info(const struct imf_engine *d)
{
    return &d->info;
}

static const char *device_error(const struct imf_engine *d)
{
    return d->error;
}

static void spend(const struct fake_options *o, int64_t us)
{
    if (us <= 0)
        return;
    if (o->spin) {
        for (uint64_t end = imf__clock_us() + (uint64_t)us; imf__clock_us() < end;) {
        }
        return;
    }
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}

/* ---- Model ----------------------------------------------------------------------------------- */

static void model_unload(struct imf_model *m)
{
    for (int i = 0; m && i < IMF_DECODES; i++)
        free(m->decode[i].z);
    free(m);
}

static imf_status model_load(struct imf_model **out, struct imf_engine *d,
                             const struct imf_model_params *p, struct imf_error *err)
{
    const struct fake_options *o = &d->options;
    for (int64_t ms = 0; ms < o->load_ms; ms += 10) {
        if (p->progress)
            p->progress(p->progress_user, (double)ms / (double)o->load_ms);
        spend(o, 10000);
    }
    if (o->fail_load)
        return imf__fail(err, IMF_EFORMAT, "%s: told to fail",
                         p->checkpoint ? p->checkpoint : "fake");
    struct imf_model *m = calloc(1, sizeof(*m));
    if (!m)
        return imf__fail(err, IMF_ENOMEM, "%s", imf_status_sentence(IMF_ENOMEM));
    m->device = d;
    struct imf_model_info *info = &m->info;
    snprintf(info->name, sizeof(info->name), "fake");
    snprintf(info->decoder, sizeof(info->decoder), "none");
    info->classes = (int)o->classes;
    info->channels = 3;
    info->input_size = info->image_width = info->image_height = (int)o->size;
    info->patch_size = 1;
    if (o->sick == 3)
        info->image_width = info->image_height = 0;
    info->max_batch = p->max_batch > 0 ? p->max_batch : (int)o->max_batch;
    info->decode_batch = p->decode_batch > 0 ? p->decode_batch : info->max_batch;
    info->defaults = (struct imf_sampling){.steps = 1, .omega = 7.5f, .t_min = 0.2f, .t_max = 0.8f};
    info->noise_scale = 1.0f;
    info->step_flops = (double)(o->step_us + o->step_lane_us) + 1;
    info->decode_flops = (double)(o->decode_us + o->decode_lane_us) + 1;
    /* Pictures depend on nothing but their size. */
    snprintf(info->fingerprint, sizeof(info->fingerprint), "fa4e%012x", (unsigned)o->size);
    for (int i = 0; i < IMF_DECODES; i++) {
        m->decode[i].z = calloc((size_t)info->decode_batch, sizeof(uint64_t));
        if (!m->decode[i].z) {
            model_unload(m);
            return imf__fail(err, IMF_ENOMEM, "%s", imf_status_sentence(IMF_ENOMEM));
        }
    }
    *out = m;
    return IMF_OK;
}

static const struct imf_model_info *model_info(const struct imf_model *m)
{
    return &m->info;
}

static const char *class_name(const struct imf_model *m, int label)
{
    (void)m;
    (void)label;
    return NULL;
}

/* ---- Lanes ----------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 31;
}

static imf_status lane_create(struct imf_lane **out, const struct imf_model *m)
{
    struct fake_lane *l = calloc(1, sizeof(*l));
    if (!l)
        return IMF_ENOMEM;
    l->device = m->device;
    count_lane(l->device->control, 1);
    *out = &l->lane;
    return IMF_OK;
}

static imf_status lane_start(struct imf_lane *lane, const struct imf_model *m, int32_t label,
                             uint64_t seed, const struct imf_sampling *s, struct imf_error *err)
{
    struct fake_lane *l = (struct fake_lane *)lane;
    if (label < 0 || label > m->info.classes)
        return imf__fail(err, IMF_EINVAL, "label is out of range");
    l->latent = m->device->options.sick == 1 ? NAN : 0;
    l->lane = (struct imf_lane){
        .label = label, .seed = seed, .sampling = *s, .z = &l->latent, .z_count = 1};
    l->z = mix(mix(1, seed), (uint64_t)label);
    return IMF_OK;
}

static void lane_destroy(struct imf_lane *lane)
{
    if (lane)
        count_lane(((struct fake_lane *)lane)->device->control, -1);
    free(lane);
}

static imf_status device_fails(struct imf_engine *d, const char *why)
{
    snprintf(d->error, sizeof(d->error), "the fake device failed: %s", why);
    return IMF_EDEVICE;
}

/* Time that passes at once, or is owed until somebody waits. */
static void take_time(struct imf_engine *d, int64_t us)
{
    if (d->options.overlap)
        d->owed_us += us;
    else
        spend(&d->options, us);
}

static imf_status wait_device(struct imf_engine *d)
{
    spend(&d->options, d->owed_us);
    d->owed_us = 0;
    return IMF_OK;
}

static imf_status step_begin(struct imf_model *m, struct imf_lane *const *lanes, int n)
{
    struct imf_engine *d = m->device;
    const struct fake_options *o = &d->options;
    if (gate(d->control))
        return device_fails(d, "told to");
    d->steps++;
    if (o->fail_after > 0 && d->steps >= o->fail_after)
        return device_fails(d, "fail_after");
    take_time(d, o->step_us + n * o->step_lane_us);
    for (int i = 0; i < n; i++) {
        if (o->fail_label >= 0 && lanes[i]->label == o->fail_label)
            return device_fails(d, "fail_label");
        while (o->hang_label >= 0 && lanes[i]->label == o->hang_label)
            pause();
        if (imf_lane_finished(lanes[i]))
            return IMF_EINVAL;
    }
    return IMF_OK;
}

static imf_status step_end(struct imf_model *m, struct imf_lane **lanes, int n)
{
    (void)wait_device(m->device);
    for (int i = 0; i < n; i++) {
        struct fake_lane *l = (struct fake_lane *)lanes[i];
        uint32_t omega, t_min, t_max;
        memcpy(&omega, &l->lane.sampling.omega, sizeof(omega));
        memcpy(&t_min, &l->lane.sampling.t_min, sizeof(t_min));
        memcpy(&t_max, &l->lane.sampling.t_max, sizeof(t_max));
        l->z = mix(l->z, (uint64_t)l->lane.step << 32 | omega);
        l->z = mix(l->z, (uint64_t)t_min << 32 | t_max);
        l->lane.step++;
    }
    return IMF_OK;
}

/* Colour ramps whose slopes and offsets come from the latent, with 4 levels of noise: about as hard
 * to compress as a photograph. */
static void paint(uint8_t *rgb, int size, uint64_t z)
{
    uint32_t noise = (uint32_t)(z >> 32) | 1;
    int slope_x[3], slope_y[3], offset[3];
    for (int c = 0; c < 3; c++) {
        slope_x[c] = (int)(z >> (8 * c) & 63) - 32;
        slope_y[c] = (int)(z >> (8 * c + 24) & 63) - 32;
        offset[c] = (int)(z >> (5 * c + 40) & 255);
    }
    for (int y = 0; y < size; y++) {
        for (int x = 0; x < size; x++, rgb += 3) {
            noise = noise * 1664525u + 1013904223u;
            for (int c = 0; c < 3; c++) {
                int ramp = offset[c] + (x * slope_x[c] + y * slope_y[c]) / 32;
                rgb[c] = (uint8_t)((ramp & 255) ^ (int)(noise >> (24 + 2 * c) & 3));
            }
        }
    }
}

static imf_status decode_begin(struct imf_model *m, struct imf_lane *const *lanes, int n)
{
    struct imf_engine *d = m->device;
    if (n > m->info.decode_batch || m->decodes == (d->info.overlaps ? IMF_DECODES : 1))
        return IMF_EINVAL;
    if (gate(d->control))
        return device_fails(d, "told to");
    take_time(d, d->options.decode_us + n * d->options.decode_lane_us);
    int slot = (m->first_decode + m->decodes) % IMF_DECODES;
    for (int i = 0; i < n; i++) {
        const struct fake_lane *l = (const struct fake_lane *)lanes[i];
        if (!imf_lane_finished(&l->lane))
            return IMF_EINVAL;
        m->decode[slot].z[i] = l->z;
    }
    m->decode[slot].n = n;
    m->decodes++;
    return IMF_OK;
}

static imf_status decode_end(struct imf_model *m, uint8_t *const *rgb)
{
    if (m->decodes == 0)
        return IMF_EINVAL;
    int size = m->info.image_width;
    for (int i = 0; i < m->decode[m->first_decode].n; i++) {
        paint(rgb[i], size, m->decode[m->first_decode].z[i]);
        if (m->device->options.sick == 2)
            memset(rgb[i], 128, (size_t)size * (size_t)size * 3);
    }
    m->first_decode = (m->first_decode + 1) % IMF_DECODES;
    m->decodes--;
    return IMF_OK;
}

const struct backend_ops backend_fake = {
    .device_open = device_open,
    .device_close = device_close,
    .device_info = device_info,
    .device_error = device_error,
    .model_load = model_load,
    .model_unload = model_unload,
    .model_info = model_info,
    .class_name = class_name,
    .lane_create = lane_create,
    .lane_start = lane_start,
    .lane_destroy = lane_destroy,
    .step_begin = step_begin,
    .step_end = step_end,
    .decode_begin = decode_begin,
    .decode_end = decode_end,
    .wait = wait_device,
};
