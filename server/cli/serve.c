/* imfd serve: settings, devices, models, the HTTP server, signals, and the way out.
 *
 * SIGTERM, SIGINT or SIGQUIT drains: /readyz says no, listening stops, accepted work is finished
 * and sent; a second one stops at once. SIGHUP opens the log anew and reads the API keys again,
 * SIGUSR1 only the former. Signals that would end the process for nothing are ignored. */
#include "api/api.h"
#include "cli/commands.h"
#include "cli/demo.h"
#include "cli/descriptors.h"
#include "cli/model_dir.h"
#include "common/error.h"
#include "http/server.h"
#include "api/keys.h"
#include "base/log.h"
#include "cli/notify.h"
#include "scheduler/scheduler.h"
#include "settings/model_options.h"
#include "settings/settings.h"

_Static_assert((int)MAX_DEVICES <= SCHED_MAX_DEVICES, "the scheduler takes them all");

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    DRAIN_POLL_MS = 20,
    DRAIN_QUIET_POLLS = 5,
    MAX_SIGNALS = 8,
    LAST_LINES_MS = 500,
    STOP_GRACE_MS = 500,
};

struct server {
    uv_loop_t loop;
    struct settings settings;
    struct log *log;
    struct api *api;
    struct scheduler *scheduler;
    struct http_server *http;
    struct notify notify;
    uv_signal_t signals[MAX_SIGNALS];
    int n_signals; /* of these: open */
    uv_prepare_t before_wait;
    uv_timer_t drain_timer;
    uint64_t drain_deadline;
    int quiet_polls; /* of the drain timer in a row with nothing left to do */
    bool draining, ready_logged;
    int exit_code;
    struct device_key {
        char name[256];
        char precision[8];
    } devices[MAX_DEVICES];
    int n_devices;
};

/* ---- Devices and models ---------------------------------------------------------------------- */

/* Index of the device with this name and precision, added on first use; -1 with err. */
static int use_device(struct server *s, const char *name, const char *precision,
                      struct imf_error *err)
{
    for (int i = 0; i < s->n_devices; i++) {
        if (strcmp(s->devices[i].name, name) == 0 &&
            strcmp(s->devices[i].precision, precision) == 0)
            return i;
    }
    struct device_key *d = &s->devices[s->n_devices];
    if (s->n_devices == MAX_DEVICES || strlen(name) >= sizeof(d->name)) {
        (void)imf__fail(err, IMF_EINVAL, "device %.200s: too many devices", name);
        return -1;
    }
    struct imf_engine_params p;
    imf_engine_params_init(&p);
    p.device = name;
    p.threads = s->settings.engine.threads;
    if (!imf_precision_parse(&p.precision, precision)) {
        (void)imf__fail(err, IMF_EINVAL, "precision \"%s\" is none of auto, fp32, bf16", precision);
        return -1;
    }
    int index = sched_add_device(s->scheduler, &p, err);
    if (index < 0)
        return -1;
    snprintf(d->name, sizeof(d->name), "%s", name);
    snprintf(d->precision, sizeof(d->precision), "%s", precision);
    s->n_devices++;
    return index;
}

static imf_status add_model(struct server *s, const struct model_setting *m, struct imf_error *err)
{
    int devices[MAX_DEVICES];
    const char *device = m->device[0] != '\0' ? m->device : s->settings.engine.device;
    const char *precision = m->precision[0] != '\0' ? m->precision : s->settings.engine.precision;
    struct device_list list;
    IMF_TRY(devices_parse(&list, device, err));
    int n = 0;
    for (int i = 0; i < list.n; i++) {
        int index = use_device(s, list.names[i], precision, err), k = 0;
        if (index < 0)
            return IMF_EINVAL;
        while (k < n && devices[k] != index)
            k++;
        devices[k] = index;
        n += k == n;
    }
    struct imf_model_params p;
    imf_model_params_init(&p);
    p.checkpoint = m->checkpoint;
    p.checkpoint_key = m->key[0] != '\0' ? m->key : NULL;
    p.noise_scale = strtof(m->noise_scale[0] != '\0' ? m->noise_scale : "0", NULL);
    p.decoder = m->decoder[0] != '\0' ? m->decoder : "none";
    p.max_batch = s->settings.max_batch;
    p.decode_batch = s->settings.decode_batch;
    return sched_add_model(s->scheduler, m->id, &p, devices, n, err) < 0 ? IMF_EINVAL : IMF_OK;
}

static imf_status add_one(struct settings *settings, const char *fallback, const char *checkpoint,
                          const char *decoder, struct imf_error *err)
{
    const char *id = settings->model_name[0] != '\0' ? settings->model_name : fallback;
    imf_status status = settings_add_model(settings, id, checkpoint, decoder);
    if (status == IMF_OK)
        return IMF_OK;
    if (status == IMF_ENOMEM)
        return imf__fail(err, status, "%s", imf_status_sentence(status));
    return imf__fail(err, IMF_EINVAL,
                     "model_name: \"%.64s\": only letters, digits, '_', '-' and '.'", id);
}

/* One model: that of model_dir, or where nothing is named the demo model of the source tree or the
 * package. */
static imf_status one_model(struct settings *settings, struct imf_error *err)
{
    struct imfd_model_dir found;
    if (settings->model_dir[0] != '\0') {
        IMF_TRY(imfd_model_dir_find(&found, settings->model_dir, err));
        imf_status status = add_one(settings, found.name, found.checkpoint, found.decoder, err);
        imfd_model_dir_free(&found);
        return status;
    }
    if (strncmp(settings->engine.device, "fake", 4) == 0)
        return add_one(settings, "fake", "fake", "none", err);
    struct imfd_demo demo;
    imf_status status = imfd_demo_find(&demo, err);
    if (status != IMF_OK) {
        struct imf_error cause = *err;
        return imf__fail(err, IMF_EINVAL,
                         "no models are configured, and there is no demo model: %.400s",
                         cause.message);
    }
    return add_one(settings, "demo", demo.checkpoint, demo.decoder, err);
}

static imf_status default_models(struct settings *settings, struct imf_error *err)
{
    bool one = settings->model_dir[0] != '\0' || settings->model_name[0] != '\0';
    if (settings->models.n > 0 && one)
        return imf__fail(err, IMF_EINVAL, "models: not beside model_dir or model_name");
    return settings->models.n > 0 ? IMF_OK : one_model(settings, err);
}

/* Which devices work, and why "auto" found no GPU. */
static void log_devices(struct server *s)
{
    for (int i = 0; i < sched_device_count(s->scheduler); i++) {
        struct sched_device_status status;
        char reason[256] = "";
        sched_device_get(s->scheduler, i, &status);
        if (!status.info || status.failed)
            continue;
        if (strcmp(s->settings.engine.device, "auto") == 0 &&
            strcmp(status.info->device, "cpu") == 0)
            (void)imf_cuda_device_count(reason, sizeof(reason));
        log_write(s->log, LOG_INFO, "device %s in %s: %s%s%s", status.info->device,
                  imf_precision_name(status.info->precision), status.info->description,
                  reason[0] != '\0' ? "; " : "", reason);
    }
}

static void on_model(void *user, struct scheduler *scheduler, int model)
{
    struct server *s = user;
    struct sched_model_status status;
    bool known = api_on_model(s->api, scheduler, model);
    sched_model_get(scheduler, model, &status);
    if (status.info && status.info->plain_matrices > 0)
        log_write(s->log, LOG_WARN,
                  "model %s: %d matrix products run on a plain kernel, a hundred times slower: %s",
                  status.id, status.info->plain_matrices, status.info->plain_reason);
    if (status.state == SCHED_MODEL_READY && status.info && status.info->graph_bytes > 0)
        log_write(s->log, LOG_INFO, "model %s: captured passes hold %zu MB of device memory",
                  status.id, status.info->graph_bytes >> 20);
    if (!known)
        log_write(s->log, LOG_ERROR, "model %s: out of memory for its classes", status.id);
    if (!known || status.state == SCHED_MODEL_FAILED) {
        /* A server that can never become ready is better restarted than kept. */
        s->exit_code = IMFD_EXIT_FAILURE;
        uv_stop(&s->loop);
    }
    if (!s->ready_logged && sched_ready(scheduler)) {
        s->ready_logged = true;
        log_devices(s);
        log_write(s->log, LOG_INFO, "ready");
        notify_send(&s->notify, "READY=1\nSTATUS=serving");
    }
}

static void on_device_lost(void *user, struct scheduler *scheduler, int device)
{
    struct server *s = user;
    struct sched_device_status status;
    int healthy = 0, n = sched_device_count(scheduler);
    for (int i = 0; i < n; i++) {
        sched_device_get(scheduler, i, &status);
        healthy += !status.failed;
    }
    sched_device_get(scheduler, device, &status);
    log_write(s->log, LOG_ERROR, "device %s is lost, %d of %d go on: %s", status.name, healthy, n,
              status.message);
}

/* Nothing here can help a stuck device; the service manager can, once no other one is left. */
static void on_device_stuck(void *user, struct scheduler *scheduler, int device, bool stuck)
{
    struct server *s = user;
    struct sched_device_status status;
    sched_device_get(scheduler, device, &status);
    if (stuck)
        log_write(s->log, LOG_ERROR, "device %s is stuck: it does not come back from its work",
                  status.name);
    else
        log_write(s->log, LOG_INFO, "device %s answers again", status.name);
    s->notify.quiet = !sched_answers(scheduler);
}

static void describe(void *user, const struct picture_key *key, struct picture_text *text)
{
    struct server *s = user;
    api_describe(s->api, key, text);
}

static imf_status check_aliases(const struct server *s, struct imf_error *err)
{
    const struct imfd_strings *aliases = &s->settings.aliases;
    for (int i = 0; i < aliases->n; i++) {
        const char *id = strchr(aliases->items[i], '=') + 1;
        if (sched_model_find(s->scheduler, id) < 0)
            return imf__fail(err, IMF_EINVAL, "aliases: there is no model \"%.100s\"", id);
    }
    return IMF_OK;
}

static imf_status prepare_scheduler(struct server *s, struct imf_error *err)
{
    struct sched_options o;
    sched_options_init(&o);
    o.max_queue = (uint32_t)s->settings.max_queue;
    o.max_delay_us = (uint64_t)s->settings.max_delay_us;
    o.cache_bytes = (size_t)s->settings.cache_bytes;
    o.png_level = s->settings.png_level;
    o.describe = describe;
    o.describe_user = s;
    o.on_model = on_model;
    o.on_model_user = s;
    o.on_device_lost = on_device_lost;
    o.on_device_lost_user = s;
    o.stall_us = (uint64_t)s->settings.stall_timeout * 1000000;
    o.on_device_stuck = on_device_stuck;
    o.on_device_stuck_user = s;
    imf_status status = sched_create(&s->scheduler, &s->loop, &o, err);
    if (status != IMF_OK)
        return status;
    api_set_scheduler(s->api, s->scheduler);
    if (s->settings.models.n > SCHED_MAX_MODELS)
        return imf__fail(err, IMF_EINVAL, "too many models");
    for (int i = 0; i < s->settings.models.n; i++) {
        status = add_model(s, &s->settings.models.items[i], err);
        if (status != IMF_OK)
            return status;
    }
    return check_aliases(s, err);
}

/* ---- HTTP ------------------------------------------------------------------------------------ */

static imf_status listen_one(struct server *s, const char *address, int tag, struct imf_error *err)
{
    char bound[160];
    imf_status status = http_server_listen(s->http, address, tag, bound, sizeof(bound), err);
    if (status == IMF_OK)
        log_write(s->log, LOG_INFO, "%s on %s%s%s",
                  tag == API_TAG_METRICS ? "metrics" : "listening",
                  strncmp(bound, "unix:", 5) == 0 ? "" : "http://", bound, s->settings.root_path);
    return status;
}

/* "systemd" stands for every socket that systemd passed on. */
static imf_status listen_on(struct server *s, const char *address, int tag, struct imf_error *err)
{
    if (strcmp(address, "systemd") != 0)
        return listen_one(s, address, tag, err);
    int n = http_listen_passed();
    imf_status status =
        n > 0 ? IMF_OK
              : imf__fail(err, IMF_EINVAL, "listen %s: systemd passed no socket (LISTEN_FDS)",
                          address);
    for (int i = 0; i < n && status == IMF_OK; i++) {
        char name[24];
        snprintf(name, sizeof(name), "systemd:%d", i);
        status = listen_one(s, name, tag, err);
    }
    return status;
}

static imf_status start_http(struct server *s, struct imf_error *err)
{
    const struct settings *g = &s->settings;
    const struct http_app app = api_http_app(s->api);
    const struct http_limits limits = {
        .max_body = (size_t)g->max_body,
        .max_connections = (unsigned)descriptors_for(g->max_connections, s->log),
        .max_per_address = (unsigned)g->max_connections_per_address,
        .header_timeout_ms = (uint64_t)g->header_timeout_ms,
        .body_timeout_ms = (uint64_t)g->body_timeout_ms,
        .send_timeout_ms = (uint64_t)g->send_timeout_ms,
        .idle_timeout_ms = (uint64_t)g->idle_timeout_ms,
    };
    imf_status status = http_server_create(&s->http, &s->loop, &limits, &app, err);
    if (status != IMF_OK)
        return status;
    api_set_http(s->api, s->http);
    for (int i = 0; i < g->listen.n && status == IMF_OK; i++)
        status = listen_on(s, g->listen.items[i], API_TAG_MAIN, err);
    if (status == IMF_OK && g->metrics_listen[0] != '\0')
        status = listen_on(s, g->metrics_listen, API_TAG_METRICS, err);
    return status;
}

/* ---- Signals --------------------------------------------------------------------------------- */

static void on_drain_timer(uv_timer_t *timer)
{
    struct server *s = timer->data;
    bool done = sched_pending(s->scheduler) == 0 && http_server_active(s->http) == 0;
    s->quiet_polls = done ? s->quiet_polls + 1 : 0;
    /* A request may be on its way over a connection accepted just before listening stopped: it
     * still gets its answer. */
    if (s->quiet_polls < DRAIN_QUIET_POLLS && uv_now(&s->loop) < s->drain_deadline)
        return;
    if (!done) {
        log_write(s->log, LOG_WARN, "drain_timeout is over; %u requests are cut off",
                  http_server_active(s->http));
        s->exit_code = IMFD_EXIT_FAILURE;
    }
    uv_stop(&s->loop);
}

static void on_stop_signal(uv_signal_t *handle, int number)
{
    struct server *s = handle->data;
    if (s->draining) {
        log_write(s->log, LOG_WARN, "second signal: stopping at once");
        (void)log_wait(s->log, LAST_LINES_MS);
        _exit(128 + number);
    }
    log_write(s->log, LOG_INFO, "SIG%s: draining, %u requests in flight", sigabbrev_np(number),
              http_server_active(s->http));
    notify_send(&s->notify, "STOPPING=1\nSTATUS=draining");
    s->draining = true;
    s->drain_deadline = uv_now(&s->loop) + (uint64_t)s->settings.drain_timeout * 1000;
    api_drain(s->api);
    sched_drain(s->scheduler);
    http_server_quiesce(s->http);
    uv_timer_start(&s->drain_timer, on_drain_timer, 0, DRAIN_POLL_MS);
}

static void on_hangup(uv_signal_t *handle, int number)
{
    struct server *s = handle->data;
    const char *name = sigabbrev_np(number);
    struct imf_error err;
    struct keys *keys = NULL;
    if (log_reopen(s->log, &err) != IMF_OK)
        log_write(s->log, LOG_ERROR, "SIG%s: %s; the old file stays in use", name, err.message);
    if (number != SIGHUP || s->settings.api_keys_file[0] == '\0') {
        log_write(s->log, LOG_INFO, "SIG%s: log opened anew", name);
    } else if (keys_load(&keys, s->settings.api_keys_file, &err) != IMF_OK) {
        log_write(s->log, LOG_ERROR, "SIGHUP: %s; the old keys stay in use", err.message);
    } else {
        log_write(s->log, LOG_INFO, "SIGHUP: log opened anew, %d API keys read", keys_count(keys));
        api_set_keys(s->api, keys);
    }
}

static void on_before_wait(uv_prepare_t *handle)
{
    struct server *s = handle->data;
    log_flush(s->log);
}

/* A write beyond RLIMIT_FSIZE or to a pipe without a reader is an error like others. USR2 and the
 * timers' signals have no meaning here, and nobody should end a server by a stray one. In a
 * container, as process 1, orphans become ours: the kernel reaps them. */
static void ignore_signals(void)
{
    static const int numbers[] = {SIGPIPE, SIGXFSZ, SIGUSR2, SIGALRM,  SIGVTALRM,
                                  SIGPROF, SIGIO,   SIGPWR,  SIGSTKFLT};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        signal(numbers[i], SIG_IGN);
    if (getpid() == 1)
        signal(SIGCHLD, SIG_IGN);
}

static imf_status start_signals(struct server *s, struct imf_error *err)
{
    static const struct {
        int number;
        uv_signal_cb act;
    } rows[] = {{SIGTERM, on_stop_signal},
                {SIGINT, on_stop_signal},
                {SIGQUIT, on_stop_signal},
                {SIGHUP, on_hangup},
                {SIGUSR1, on_hangup}};
    static_assert(sizeof(rows) / sizeof(rows[0]) <= MAX_SIGNALS, "room for all");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uv_signal_t *handle = &s->signals[i];
        int error = uv_signal_init(&s->loop, handle);
        if (error == 0) {
            s->n_signals++;
            handle->data = s;
            error = uv_signal_start(handle, rows[i].act, rows[i].number);
        }
        if (error != 0)
            return imf__fail(err, IMF_ENOMEM, "signals cannot be received: %s", uv_strerror(error));
    }
    return IMF_OK;
}

/* Timers and the like need nothing of the system: initialising them cannot fail. */
static void start_handles(struct server *s)
{
    uv_prepare_init(&s->loop, &s->before_wait);
    uv_timer_init(&s->loop, &s->drain_timer);
    s->before_wait.data = s->drain_timer.data = s;
    notify_open(&s->notify, &s->loop);
}

static void close_handles(struct server *s)
{
    for (int i = 0; i < s->n_signals; i++)
        uv_close((uv_handle_t *)&s->signals[i], NULL);
    uv_close((uv_handle_t *)&s->before_wait, NULL);
    uv_close((uv_handle_t *)&s->drain_timer, NULL);
    notify_close(&s->notify);
}

/* ---- The command ----------------------------------------------------------------------------- */

static imf_status start(struct server *s, struct imf_error *err)
{
    const struct settings *g = &s->settings;
    struct keys *keys = NULL;
    imf_status status = log_create(&s->log, g->log_file, strcmp(g->log_format, "json") == 0,
                                   log_level_parse(g->log_level), err);
    if (status == IMF_OK && g->api_keys_file[0] != '\0')
        status = keys_load(&keys, g->api_keys_file, err);
    if (status != IMF_OK)
        return status;
    status = api_create(&s->api, &s->loop, g, s->log, keys, err);
    if (status != IMF_OK) {
        keys_free(keys);
        return status;
    }
    /* The scheduler's threads start last: a port in use is found out before weights are read. */
    status = prepare_scheduler(s, err);
    if (status == IMF_OK)
        status = start_http(s, err);
    if (status == IMF_OK)
        status = sched_start(s->scheduler, err);
    return status;
}

/* Engines finish the batch in hand, for which there is drain_timeout and a moment more. One that
 * does not is left behind with the process. */
static void stop_scheduler(struct server *s)
{
    uv_update_time(&s->loop);
    uint64_t now = uv_now(&s->loop), left = (uint64_t)s->settings.drain_timeout * 1000;
    if (s->draining)
        left = s->drain_deadline > now ? s->drain_deadline - now : 0;
    if (!sched_stop(s->scheduler, left + STOP_GRACE_MS)) {
        log_write(s->log, LOG_ERROR,
                  "drain_timeout is over, and an engine is still at work: leaving it");
        (void)log_wait(s->log, LAST_LINES_MS);
        _exit(IMFD_EXIT_FAILURE);
    }
    sched_destroy(s->scheduler);
}

/* In the order in which things hold on to each other. */
static void finish(struct server *s)
{
    uv_timer_stop(&s->drain_timer);
    for (int i = 0; i < s->n_signals; i++)
        uv_signal_stop(&s->signals[i]);
    /* From here on SIGTERM ends the process, as it does by default; what asks for less does
     * nothing. */
    signal(SIGHUP, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    http_server_destroy(s->http);
    if (s->scheduler)
        stop_scheduler(s);
    if (s->api)
        api_close(s->api);
    close_handles(s);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    api_free(s->api);
    uv_loop_close(&s->loop);
    log_destroy(s->log);
    settings_free(&s->settings);
}

static int serve(struct server *s)
{
    struct imf_error err = {0};
    ignore_signals();
    int error = descriptors_check();
    if (error == 0)
        error = uv_loop_init(&s->loop);
    if (error != 0) {
        fprintf(stderr, "imfd serve: the event loop cannot be made: %s\n", uv_strerror(error));
        settings_free(&s->settings);
        return IMFD_EXIT_FAILURE;
    }
    start_handles(s);
    imf_status status = start_signals(s, &err);
    if (status == IMF_OK)
        status = default_models(&s->settings, &err);
    if (status == IMF_OK)
        status = start(s, &err);
    if (status == IMF_OK) {
        uv_prepare_start(&s->before_wait, on_before_wait);
        uv_run(&s->loop, UV_RUN_DEFAULT);
        log_write(s->log, LOG_INFO, "stopped");
    } else {
        fprintf(stderr, "imfd serve: %s\n",
                err.message[0] != '\0' ? err.message : imf_status_sentence(status));
        s->exit_code = IMFD_EXIT_FAILURE;
    }
    finish(s);
    return s->exit_code;
}

/* libuv aborts where its table of descriptors cannot grow. A block kept for that moment lets it; once
 * more, and it is time to go, with a sentence. */
static void *spare;

static void *grow_or_leave(void *p, size_t n)
{
    static const char last_words[] = "imfd serve: out of memory for the event loop\n";
    void *grown = realloc(p, n);
    if (!grown && n > 0) {
        free(spare);
        spare = NULL;
        grown = realloc(p, n);
    }
    if (!grown && n > 0) {
        ssize_t unheard = write(STDERR_FILENO, last_words, sizeof(last_words) - 1);
        (void)unheard;
        _exit(IMFD_EXIT_FAILURE);
    }
    return grown;
}

static void prepare_libuv(void)
{
    spare = malloc(64 << 10);
    (void)uv_replace_allocator(malloc, grow_or_leave, calloc, free); /* fails on NULLs only */
}

int imfd_cmd_serve(int argc, char **argv)
{
    extern char **environ;
    struct server *s = calloc(1, sizeof(*s));
    if (!s) {
        fprintf(stderr, "imfd serve: out of memory\n");
        return IMFD_EXIT_FAILURE;
    }
    prepare_libuv();
    int code = IMFD_EXIT_OK;
    switch (settings_load(&s->settings, argc, argv, environ)) {
    case SETTINGS_HELP:
        break;
    case SETTINGS_WRONG:
        code = IMFD_EXIT_USAGE;
        break;
    case SETTINGS_PRINT:
        settings_print(&s->settings, stdout);
        break;
    case SETTINGS_PRINT_DEFAULTS:
        settings_print_defaults(stdout);
        break;
    case SETTINGS_RUN:
        code = serve(s);
        free(s);
        return code;
    }
    settings_free(&s->settings);
    free(s);
    return code;
}
