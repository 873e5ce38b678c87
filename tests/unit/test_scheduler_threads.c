/* The scheduler with its threads: real engine threads over the fake engine, libuv's pool, callbacks
 * on the loop. Run under ThreadSanitizer too. */
#include "scheduler/scheduler.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uv_loop_t loop;
static struct scheduler *scheduler;

struct asked {
    struct sched_request *r; /* NULL once over */
    uint32_t n, got;
    uint64_t *hash; /* n: of the bytes, PNG then RGB */
    enum sched_result result;
    bool ended, cancelled, hold;
    uint32_t held;
    char message[200];
    struct sched_timings timings;
};

static uint64_t hash_bytes(uint64_t h, const struct blob *b)
{
    for (size_t i = 0; b && i < b->size; i++)
        h = (h ^ b->data[i]) * 0x100000001b3u;
    return h;
}

static void on_picture(void *user, struct sched_request *r, const struct sched_picture *p)
{
    struct asked *a = user;
    ck_assert(a->r == r && !a->ended && !a->cancelled);
    ck_assert_uint_eq(a->hash[p->index], 0);
    a->hash[p->index] = hash_bytes(hash_bytes(0xcbf29ce484222325u, p->png), p->rgb);
    a->got++;
    a->timings = p->timings;
    if (a->hold)
        a->held++;
    else
        sched_release(r, 1);
}

static void on_end(void *user, struct sched_request *r, enum sched_result result,
                   const char *message)
{
    struct asked *a = user;
    ck_assert(a->r == r && !a->ended && !a->cancelled);
    a->ended = true;
    a->r = NULL;
    a->result = result;
    snprintf(a->message, sizeof(a->message), "%s", message);
    ck_assert_int_eq(sched_close(r, SCHED_SENT), -1);
}

static const struct sched_callbacks callbacks = {on_picture, on_end};

static void describe(void *user, const struct picture_key *key, struct picture_text *text);

static int describe_calls; /* atomic */

#include "base/png.h"
#include "run_suite.h"

static void describe(void *user, const struct picture_key *key, struct picture_text *text)
{
    ck_assert_ptr_eq(user, &describe_calls);
    __atomic_fetch_add(&describe_calls, 1, __ATOMIC_RELAXED);
    snprintf(text->parameters, sizeof(text->parameters), "class %d, seed %llu", (int)key->label,
             (unsigned long long)key->seed);
}

static int model_news;

static void on_model(void *user, struct scheduler *s, int model)
{
    (void)user;
    struct sched_model_status status;
    sched_model_get(s, model, &status);
    model_news++;
}

/* Starts with one device per name; every model lives on all of them. */
static void start(const char *const *devices, int device_count, int models,
                  void (*change)(struct sched_options *))
{
    struct imf_error err;
    struct sched_options o;
    sched_options_init(&o);
    o.describe = describe;
    o.describe_user = &describe_calls;
    o.on_model = on_model;
    if (change)
        change(&o);
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    ck_assert_int_eq(sched_create(&scheduler, &loop, &o, &err), IMF_OK);
    int index[8];
    for (int i = 0; i < device_count; i++) {
        struct imf_engine_params p = {.device = devices[i]};
        index[i] = sched_add_device(scheduler, &p, &err);
        ck_assert_int_eq(index[i], i);
    }
    for (int i = 0; i < models; i++) {
        char id[16];
        snprintf(id, sizeof(id), "m%d", i);
        struct imf_model_params p = {.checkpoint = "none"};
        ck_assert_int_eq(sched_add_model(scheduler, id, &p, index, device_count, &err), i);
    }
    ck_assert_int_eq(sched_start(scheduler, &err), IMF_OK);
}

static bool loading(void)
{
    for (int i = 0; i < sched_model_count(scheduler); i++) {
        struct sched_model_status status;
        sched_model_get(scheduler, i, &status);
        if (status.state == SCHED_MODEL_LOADING)
            return true;
    }
    return false;
}

static void wait_loaded(void)
{
    while (loading())
        uv_run(&loop, UV_RUN_ONCE);
}

static void stop(void)
{
    sched_destroy(scheduler);
    scheduler = NULL;
    ck_assert_int_eq(uv_loop_close(&loop), 0); /* no handle of ours is left */
}

static struct sched_spec spec_of(int label, uint64_t seed, uint32_t n, int steps)
{
    struct sched_spec s;
    sched_spec_init(&s);
    s.label = label;
    s.seed = seed;
    s.n = n;
    s.sampling = (struct imf_sampling){.steps = steps, .omega = 7, .t_min = 0.1f, .t_max = 0.9f};
    return s;
}

static struct asked *ask(const struct sched_spec *spec)
{
    struct asked *a = calloc(1, sizeof(*a));
    struct sched_refusal why;
    a->n = spec->n;
    a->hash = calloc(spec->n, sizeof(*a->hash));
    a->r = sched_submit(scheduler, spec, &callbacks, a, &why);
    ck_assert_msg(a->r != NULL, "refused: %s", why.message);
    return a;
}

static void forget(struct asked *a)
{
    free(a->hash);
    free(a);
}

static void wait_pending(uint32_t left)
{
    while (sched_pending(scheduler) > left)
        uv_run(&loop, UV_RUN_ONCE);
}

static struct sched_stats *stats(void)
{
    static struct sched_stats s;
    sched_get_stats(scheduler, &s);
    return &s;
}

/* Work in hand when its request ended is dropped a little later. */
static void wait_idle(void)
{
    while (stats()->running_images > 0 || stats()->lanes > 0)
        uv_run(&loop, UV_RUN_NOWAIT);
}

START_TEST(test_one)
{
    start((const char *[]){"fake:step_us=2000,decode_us=1000,load_ms=50"}, 1, 1, NULL);
    ck_assert(!sched_ready(scheduler));
    struct sched_refusal why;
    struct sched_spec spec = spec_of(7, 1, 2, 3);
    ck_assert_ptr_null(sched_submit(scheduler, &spec, &callbacks, NULL, &why));
    ck_assert_int_eq(why.why, SCHED_REJECT_LOADING);
    wait_loaded();
    ck_assert(sched_ready(scheduler));
    while (model_news == 0)
        uv_run(&loop, UV_RUN_ONCE);
    struct sched_model_status status;
    sched_model_get(scheduler, 0, &status);
    ck_assert_str_eq(status.id, "m0");
    ck_assert_int_eq(status.state, SCHED_MODEL_READY);
    ck_assert_int_eq(status.info->image_width, 256);
    ck_assert_str_eq(status.device->device, "fake");
    ck_assert_int_eq(sched_model_find(scheduler, "m0"), 0);
    ck_assert_int_eq(sched_model_find(scheduler, "m1"), -1);

    spec.want = SCHED_PNG | SCHED_RGB;
    struct asked *a = ask(&spec);
    ck_assert_uint_eq(a->got, 0); /* never from inside the call */
    wait_pending(0);
    ck_assert_int_eq(a->result, SCHED_DONE);
    ck_assert_uint_eq(a->got, 2);
    ck_assert_uint_ge(a->timings.denoise, 3 * 2000);
    ck_assert_uint_ge(a->timings.decode, 1000);
    ck_assert_uint_gt(a->timings.encode, 0);
    ck_assert_int_eq(__atomic_load_n(&describe_calls, __ATOMIC_RELAXED), 2);
    ck_assert_uint_eq(stats()->network_evaluations, 6);

    /* And again: out of the cache, the same bytes, still not from inside the call. */
    spec.want = SCHED_PNG;
    struct asked *b = ask(&spec), *c = ask(&spec);
    ck_assert_uint_eq(b->got, 0);
    wait_pending(0);
    ck_assert_uint_eq(b->got, 2);
    ck_assert_uint_eq(stats()->network_evaluations, 6);
    ck_assert_uint_eq(stats()->cache_hits, 4);
    ck_assert_uint_eq(b->hash[0], c->hash[0]);
    ck_assert_uint_ne(b->hash[0], b->hash[1]);
    struct picture_key key = {.label = 7, .seed = 2, .sampling = spec.sampling};
    struct blob *png = sched_cached_png(scheduler, &key);
    ck_assert_ptr_nonnull(png);
    ck_assert_uint_eq(hash_bytes(0xcbf29ce484222325u, png), b->hash[1]);
    blob_drop(png);
    forget(a);
    forget(b);
    forget(c);
    stop();
}
END_TEST

static void no_cache(struct sched_options *o)
{
    o->cache_bytes = 0;
    o->max_queue = 100000;
}

static struct sched_spec mixed(int i)
{
    struct sched_spec s = spec_of(i * 7 % 5, (uint64_t)(i % 9), 1 + (uint32_t)(i % 5), 1 + i % 4);
    s.sampling.omega = 1 + (float)(i % 3);
    s.sampling.t_min = i % 2 != 0 ? 0.25f : 0;
    s.want = i % 3 == 0 ? SCHED_RGB : i % 3 == 1 ? SCHED_PNG : SCHED_PNG | SCHED_RGB;
    s.priority = i % 10;
    s.model = i % 2;
    static const char *const tenants[] = {"a", "b", "c", "d"};
    s.tenant = tenants[i % 4];
    return s;
}

#define MIXED 1000

/* 1000 requests of all kinds, many at a time in changing numbers, give the bytes that they give one
 * by one. */
START_TEST(test_same_bytes)
{
    static uint64_t alone[MIXED][5];
    const char *devices[] = {"fake:size=32,max_batch=5,overlap=1", "fake:size=32,max_batch=5"};
    start(devices, 1, 2, no_cache);
    wait_loaded();
    for (int i = 0; i < MIXED; i++) {
        struct sched_spec spec = mixed(i);
        struct asked *a = ask(&spec);
        wait_pending(0);
        ck_assert_int_eq(a->result, SCHED_DONE);
        memcpy(alone[i], a->hash, a->n * sizeof(uint64_t));
        forget(a);
    }
    stop();
    /* Together: on two devices. */
    start(devices, 2, 2, no_cache);
    wait_loaded();
    static struct asked *together[MIXED];
    srand(1);
    for (int i = 0; i < MIXED; i++) {
        struct sched_spec spec = mixed(i);
        together[i] = ask(&spec);
        if (rand() % 20 == 0)
            wait_pending((uint32_t)rand() % 100);
    }
    wait_pending(0);
    for (int i = 0; i < MIXED; i++) {
        struct asked *a = together[i];
        ck_assert_int_eq(a->result, SCHED_DONE);
        ck_assert_mem_eq(a->hash, alone[i], a->n * sizeof(uint64_t));
        forget(a);
    }
    const struct sched_stats *s = stats();
    double mean = s->batch[SCHED_STEP].sum / (double)s->batch[SCHED_STEP].count;
    printf("mixed: mean batch %.2f of 5, %llu coalesced\n", mean, (unsigned long long)s->coalesced);
    ck_assert_double_gt(mean, 2);
    wait_idle();
    stop();
}
END_TEST

/* Half the clients go away at some time; the rest gets all its pictures, nothing is left behind. */
START_TEST(test_cancel_at_random)
{
    struct backend_fake_control *control = backend_fake_control_new("c");
    const char *device = _i % 2 == 0 ? "fake:size=64,name=c,step_us=300,decode_us=100"
                                     : "fake:size=64,name=c,step_us=300,decode_us=100,overlap=1";
    start(&device, 1, 1, no_cache);
    wait_loaded();
    enum { CLIENTS = 600 };
    static struct asked *asked[CLIENTS];
    srand((unsigned)_i);
    uint64_t cancelled = 0;
    for (int i = 0; i < CLIENTS; i++) {
        struct sched_spec spec = spec_of(i % 40, (uint64_t)(i % 7), 1 + (uint32_t)rand() % 4, 2);
        asked[i] = ask(&spec);
        for (int k = 0; k < 3; k++)
            uv_run(&loop, UV_RUN_NOWAIT);
        struct asked *victim = asked[rand() % (i + 1)];
        if (victim->r) {
            ck_assert_int_ge(sched_close(victim->r, SCHED_GONE), 0);
            victim->r = NULL;
            victim->cancelled = true;
            cancelled++;
        }
    }
    wait_pending(0);
    wait_idle();
    for (int i = 0; i < CLIENTS; i++) {
        ck_assert_int_ne(asked[i]->ended, asked[i]->cancelled);
        if (asked[i]->ended)
            ck_assert_uint_eq(asked[i]->got, asked[i]->n);
        forget(asked[i]);
    }
    uint64_t counted = 0;
    for (int i = 0; i < SCHED_PHASE_COUNT; i++)
        counted += stats()->cancelled_requests[i];
    ck_assert_uint_eq(counted, cancelled);
    ck_assert_uint_gt(cancelled, CLIENTS / 10);
    ck_assert_uint_eq(stats()->queue_images, 0);
    ck_assert_int_le(backend_fake_live_lanes(control), 64); /* the spare ones */
    stop();
    ck_assert_int_eq(backend_fake_live_lanes(control), 0);
    backend_fake_control_free(control);
}
END_TEST

START_TEST(test_deadline_while_engine_is_stuck)
{
    struct backend_fake_control *control = backend_fake_control_new("b");
    start((const char *[]){"fake:name=b,size=16"}, 1, 1, NULL);
    wait_loaded();
    backend_fake_block(control, true);
    struct sched_spec spec = spec_of(1, 1, 1, 1);
    spec.timeout_us = 50000;
    struct asked *a = ask(&spec);
    backend_fake_wait_blocked(control);
    wait_pending(0); /* the loop is not held up */
    ck_assert_int_eq(a->result, SCHED_TIMEOUT);
    backend_fake_block(control, false);
    forget(a);
    spec.timeout_us = 5000000;
    a = ask(&spec);
    wait_pending(0);
    ck_assert_int_eq(a->result, SCHED_DONE);
    forget(a);
    stop();
    backend_fake_control_free(control);
}
END_TEST

START_TEST(test_device_fails)
{
    struct backend_fake_control *control = backend_fake_control_new("f");
    start(
        (const char *[]){"fake:name=f,size=16,step_us=1000,overlap=1", "fake:size=16,step_us=1000"},
        2, 1, no_cache);
    wait_loaded();
    struct sched_spec spec = spec_of(1, 1, 400, 4);
    struct asked *a = ask(&spec);
    struct asked *others[20];
    for (int i = 0; i < 20; i++) {
        spec = spec_of(2, (uint64_t)i, 1, 4);
        others[i] = ask(&spec);
    }
    while (a->got < 4)
        uv_run(&loop, UV_RUN_ONCE);
    backend_fake_fail(control);
    wait_pending(0);
    ck_assert_int_eq(a->result, SCHED_FAILED); /* it had pictures on that device */
    ck_assert_str_eq(a->message, "the fake device failed: told to");
    for (int i = 0; i < 20; i++) { /* those that had lanes on that device, however many */
        if (others[i]->result != SCHED_DONE) {
            ck_assert_int_eq(others[i]->result, SCHED_FAILED);
            ck_assert_str_eq(others[i]->message, "the fake device failed: told to");
        }
        forget(others[i]);
    }
    forget(a);
    ck_assert(sched_ready(scheduler)); /* the other device serves on */
    struct sched_device_status device;
    sched_device_get(scheduler, 0, &device);
    ck_assert(device.failed && device.message[0] != '\0');
    sched_device_get(scheduler, 1, &device);
    ck_assert(!device.failed);
    spec = spec_of(3, 1, 3, 2);
    a = ask(&spec);
    wait_pending(0);
    ck_assert_int_eq(a->result, SCHED_DONE);
    forget(a);
    stop();
    ck_assert_int_eq(backend_fake_live_lanes(control), 0);
    backend_fake_control_free(control);
}
END_TEST

START_TEST(test_load_fails)
{
    static const char *const devices[] = {"fake:fail_load=1", "fake:nonsense=1",
                                          "fake:fail_after=1"};
    for (int i = 0; i < 3; i++) {
        start(&devices[i], 1, 2, NULL);
        wait_loaded();
        struct sched_model_status status;
        sched_model_get(scheduler, 1, &status);
        ck_assert_int_eq(status.state, SCHED_MODEL_FAILED);
        ck_assert_str_ne(status.message, "");
        ck_assert(!sched_ready(scheduler));
        struct sched_refusal why;
        struct sched_spec spec = spec_of(1, 1, 1, 1);
        ck_assert_ptr_null(sched_submit(scheduler, &spec, &callbacks, NULL, &why));
        ck_assert_int_eq(why.why, SCHED_REJECT_SICK);
        stop();
    }
}
END_TEST

/* Stopped in the middle of everything: every request hears of it, nothing leaks. */
START_TEST(test_stop)
{
    start((const char *[]){"fake:size=64,step_us=2000,overlap=1"}, 1, 1, no_cache);
    wait_loaded();
    struct asked *asked[50];
    for (int i = 0; i < 50; i++) {
        struct sched_spec spec = spec_of(i, 1, 10, 3);
        asked[i] = ask(&spec);
    }
    while (asked[0]->got < 2)
        uv_run(&loop, UV_RUN_ONCE);
    sched_drain(scheduler);
    ck_assert(!sched_ready(scheduler));
    struct sched_refusal why;
    struct sched_spec spec = spec_of(1, 1, 1, 1);
    ck_assert_ptr_null(sched_submit(scheduler, &spec, &callbacks, NULL, &why));
    ck_assert_int_eq(why.why, SCHED_REJECT_DRAINING);
    stop();
    for (int i = 0; i < 50; i++) {
        ck_assert(asked[i]->ended);
        ck_assert(asked[i]->result == SCHED_STOPPED || asked[i]->got == 10);
        forget(asked[i]);
    }
    /* Also before anything was loaded, and unstarted. */
    start((const char *[]){"fake:load_ms=100"}, 1, 1, NULL);
    stop();
}
END_TEST

static int endless, endless_left;

static void on_end_ask_again(void *user, struct sched_request *r, enum sched_result result,
                             const char *message)
{
    (void)message;
    ck_assert_int_eq(result, SCHED_DONE);
    struct asked *a = user;
    if (r)
        (void)sched_close(r, SCHED_SENT);
    memset(a->hash, 0, a->n * sizeof(*a->hash));
    a->got = 0;
    endless++;
    if (endless_left-- == 0)
        return;
    static const struct sched_callbacks again = {on_picture, on_end_ask_again};
    struct sched_spec spec = spec_of(1, 1, 1, 1);
    struct sched_refusal why;
    a->r = sched_submit(scheduler, &spec, &again, a, &why);
    ck_assert_ptr_nonnull(a->r);
}

/* Who asks again from on_end and is served by the cache each time does not keep the loop. */
START_TEST(test_loop_gets_its_turn)
{
    start((const char *[]){"fake:size=16"}, 1, 1, NULL);
    wait_loaded();
    uint64_t hash = 0;
    struct asked a = {.n = 1, .hash = &hash};
    endless_left = 100000;
    on_end_ask_again(&a, NULL, SCHED_DONE, "");
    for (int turns = 0; turns < 20; turns++)
        uv_run(&loop, UV_RUN_ONCE);
    ck_assert_int_lt(endless, 20 * 128);
    (void)sched_close(a.r, SCHED_GONE);
    stop();
}
END_TEST

START_TEST(test_slow_reader)
{
    start((const char *[]){"fake:size=16"}, 1, 1, no_cache);
    wait_loaded();
    struct sched_spec spec = spec_of(1, 1, 100, 1);
    struct asked *a = calloc(1, sizeof(*a));
    struct sched_refusal why;
    a->n = 100;
    a->hash = calloc(100, sizeof(*a->hash));
    a->hold = true;
    spec.window = 5;
    a->r = sched_submit(scheduler, &spec, &callbacks, a, &why);
    while (a->got < 5)
        uv_run(&loop, UV_RUN_ONCE);
    spec = spec_of(2, 1, 50, 1);
    struct asked *b = ask(&spec); /* is not held up */
    wait_pending(1);
    ck_assert(b->ended);
    ck_assert_uint_eq(a->got, 5);
    while (!a->ended) {
        if (a->held > 0) {
            a->held--;
            sched_release(a->r, 1);
        }
        uv_run(&loop, UV_RUN_ONCE);
    }
    ck_assert_uint_eq(a->got, 100);
    forget(a);
    forget(b);
    stop();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("scheduler_threads");
    TCase *tc = tcase_create("scheduler_threads");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, test_one);
    tcase_add_test(tc, test_same_bytes);
    tcase_add_loop_test(tc, test_cancel_at_random, 0, 4);
    tcase_add_test(tc, test_deadline_while_engine_is_stuck);
    tcase_add_test(tc, test_device_fails);
    tcase_add_test(tc, test_load_fails);
    tcase_add_test(tc, test_stop);
    tcase_add_test(tc, test_slow_reader);
    tcase_add_test(tc, test_loop_gets_its_turn);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
