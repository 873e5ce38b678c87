/* What the scheduler costs and delivers without HTTP, over a fake engine that costs nothing:
 *
 *   alone   one request at a time: time from submit to on_end, with and without PNG
 *   flood   N requests kept in flight: finished pictures a second
 *   cached  the same, every picture out of the cache
 *   queue   time of submit and of the engine's choice with a thousand requests waiting
 *
 *   bench_scheduler [seconds per case] */
#include "scheduler/scheduler.h"
#include "scheduler/state.h"

#include <stdio.h>
#include <stdlib.h>

static uv_loop_t loop;
static struct scheduler *scheduler;
static uint64_t done, seed;
static struct sched_spec spec;
static bool fresh, closed;
static struct sched_timings sum;

static void ask(void);

static void on_picture(void *user, struct sched_request *r, const struct sched_picture *p)
{
    (void)user;
    sum.queue += p->timings.queue;
    sum.denoise += p->timings.denoise;
    sum.decode += p->timings.decode;
    sum.encode += p->timings.encode;
    done++;
    sched_release(r, 1);
}

static void on_end(void *user, struct sched_request *r, enum sched_result result,
                   const char *message)
{
    (void)user;
    (void)sched_close(r, SCHED_SENT);
    if (result != SCHED_DONE && result != SCHED_STOPPED) {
        fprintf(stderr, "%s\n", message);
        exit(1);
    }
    if (closed)
        ask();
}

static void ask(void)
{
    static const struct sched_callbacks callbacks = {on_picture, on_end};
    struct sched_refusal why;
    spec.seed = fresh ? seed++ : seed++ % 64;
    if (!sched_submit(scheduler, &spec, &callbacks, NULL, &why)) {
        fprintf(stderr, "refused: %s\n", why.message);
        exit(1);
    }
}

static void start(size_t cache_bytes)
{
    struct sched_options o;
    struct imf_error err;
    sched_options_init(&o);
    o.cache_bytes = cache_bytes;
    o.max_queue = 100000;
    struct imf_engine_params ep = {.device = "fake:max_batch=8"};
    struct imf_model_params mp = {.checkpoint = ""};
    int device = 0;
    uv_loop_init(&loop);
    if (sched_create(&scheduler, &loop, &o, &err) != IMF_OK ||
        sched_add_device(scheduler, &ep, &err) != 0 ||
        sched_add_model(scheduler, "fake", &mp, &device, 1, &err) != 0 ||
        sched_start(scheduler, &err) != IMF_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    while (!sched_ready(scheduler))
        uv_run(&loop, UV_RUN_ONCE);
    sched_spec_init(&spec);
    spec.sampling = (struct imf_sampling){.steps = 1, .omega = 8, .t_min = 0, .t_max = 1};
}

static void run(const char *name, int in_flight, unsigned want, bool new_pictures, double seconds)
{
    start((size_t)(new_pictures ? 0 : 64) << 20);
    fresh = new_pictures;
    spec.want = want;
    closed = false;
    if (!fresh) { /* fill the cache */
        for (int i = 0; i < 64; i++)
            ask();
        while (sched_pending(scheduler) > 0)
            uv_run(&loop, UV_RUN_ONCE);
    }
    closed = true;
    for (int i = 0; i < in_flight; i++)
        ask();
    done = 0;
    sum = (struct sched_timings){0};
    uint64_t begin = uv_hrtime(), until = begin + (uint64_t)(seconds * 1e9);
    while (uv_hrtime() < until)
        uv_run(&loop, UV_RUN_ONCE);
    double each = (double)(uv_hrtime() - begin) * 1e-3 / (double)done;
    printf("%-28s %4d in flight  %9.0f pictures/s  %8.1f us each; queue %.0f step %.0f decode %.0f "
           "encode %.0f us\n",
           name, in_flight, 1e6 / each, each, (double)sum.queue / (double)done,
           (double)sum.denoise / (double)done, (double)sum.decode / (double)done,
           (double)sum.encode / (double)done);
    closed = false;
    sched_destroy(scheduler);
    uv_loop_close(&loop);
}

/* The state machine by itself: submit, and pick + complete of a batch, with a full queue. */
static void run_core(int requests)
{
    static struct sched_core core;
    static struct sched_work work;
    struct sched_options o;
    struct sched_refusal why;
    struct imf_model_info info = {
        .max_batch = 8, .decode_batch = 8, .step_flops = 1, .decode_flops = 1};
    sched_options_init(&o);
    o.max_queue = 1000000;
    if (core_init(&core, &o) != IMF_OK)
        exit(1);
    core_add_device(&core);
    core_add_model(&core);
    core_model_ready(&core, 0, 0, &info);
    sched_spec_init(&spec);
    spec.sampling = (struct imf_sampling){.steps = 64, .omega = 8, .t_min = 0, .t_max = 1};
    uint64_t begin = uv_hrtime();
    for (int i = 0; i < requests; i++) {
        static char tenants[100][8];
        snprintf(tenants[i % 100], sizeof(tenants[0]), "t%d", i % 100);
        spec.tenant = tenants[i % 100];
        spec.seed = (uint64_t)i;
        if (!core_submit(&core, &spec, 1, &why))
            exit(1);
    }
    double submit = (double)(uv_hrtime() - begin) * 1e-3 / requests;
    enum { ROUNDS = 500 };
    begin = uv_hrtime();
    for (int i = 0; i < ROUNDS; i++) {
        core_pick(&core, 0, &work, (uint64_t)i + 2);
        core_complete(&core, 0, &work, IMF_OK, "", (uint64_t)i + 3);
    }
    double batch = (double)(uv_hrtime() - begin) * 1e-3 / ROUNDS;
    printf(
        "queue of %5d requests, 100 tenants: submit %.2f us, choosing and completing a batch of 8 "
        "%.1f us\n",
        requests, submit, batch);
    core_stop(&core, 1000);
    struct core_event event;
    while (core_next_event(&core, &event))
        (void)core_close(&core, event.request, SCHED_BROKEN);
    core_destroy(&core);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 2;
    run("alone, RGB", 1, SCHED_RGB, true, seconds);
    run("alone, PNG", 1, SCHED_PNG, true, seconds);
    run("flood, RGB", 64, SCHED_RGB, true, seconds);
    run("flood, PNG", 64, SCHED_PNG, true, seconds);
    run("cached", 1, SCHED_PNG, false, seconds);
    run("cached", 64, SCHED_PNG, false, seconds);
    run_core(10);
    run_core(100);
    run_core(1000);
    return 0;
}
