/* The promise once more, now through the whole scheduler over the CPU engine: 1000 requests of all
 * kinds, a changing number of them at a time, give the PNG bytes that they give one by one. */
#include "golden.h"
#include "run_suite.h"
#include "scheduler/scheduler.h"

#include <stdio.h>
#include <string.h>

#define REQUESTS 1000
#define KINDS 60 /* different ones; each of them runs alone once */

struct asked {
    uint64_t hash[2];
    bool ended;
};

static void on_picture(void *user, struct sched_request *r, const struct sched_picture *p)
{
    struct asked *a = user;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < p->png->size; i++)
        h = (h ^ p->png->data[i]) * 0x100000001b3u;
    a->hash[p->index] = h;
    sched_release(r, 1);
}

static void on_end(void *user, struct sched_request *r, enum sched_result result,
                   const char *message)
{
    ck_assert_msg(result == SCHED_DONE, "%s", message);
    (void)sched_close(r, SCHED_SENT);
    ((struct asked *)user)->ended = true;
}

static struct sched_spec mixed(int i)
{
    struct sched_spec s;
    sched_spec_init(&s);
    s.label = i * 7 % 11;
    s.seed = (uint64_t)(i % 31);
    s.n = 1 + (i % 8 == 0);
    s.priority = i % 10;
    s.tenant = i % 3 == 0 ? "a" : "b";
    s.sampling = (struct imf_sampling){.steps = 1 + (i % 5 == 0) + 2 * (i % 17 == 0),
                                       .omega = 1 + (float)(i % 4) * 2.5f,
                                       .t_min = i % 2 != 0 ? 0.4f : 0.1f,
                                       .t_max = 0.65f};
    return s;
}

/* `at_once` 1: one by one; otherwise up to that many. Returns the mean batch. */
static double run(struct asked *asked, int requests, uint32_t at_once)
{
    uv_loop_t loop;
    struct scheduler *s;
    struct sched_options o;
    struct imf_error err;
    sched_options_init(&o);
    o.cache_bytes = 0;
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    ck_assert_int_eq(sched_create(&s, &loop, &o, &err), IMF_OK);
    struct imf_engine_params ep;
    imf_engine_params_init(&ep);
    const char *device = getenv("IMFD_TEST_DEVICE");
    ep.device = device ? device : "cpu";
    struct imf_model_params mp;
    imf_model_params_init(&mp);
    char *vae = golden_vae_tiny();
    mp.checkpoint = GOLDEN_DIR "/mit_tiny/mit_tiny.pth";
    mp.decoder = vae;
    mp.max_batch = 6;
    int index = sched_add_device(s, &ep, &err);
    ck_assert_int_eq(sched_add_model(s, "tiny", &mp, &index, 1, &err), 0);
    ck_assert_int_eq(sched_start(s, &err), IMF_OK);
    struct sched_model_status status;
    do {
        uv_run(&loop, UV_RUN_ONCE);
        sched_model_get(s, 0, &status);
    } while (status.state == SCHED_MODEL_LOADING);
    ck_assert_msg(status.state == SCHED_MODEL_READY, "%s", status.message);

    static const struct sched_callbacks callbacks = {on_picture, on_end};
    srand(7);
    for (int i = 0; i < requests; i++) {
        struct sched_spec spec = mixed(i * 37 % KINDS);
        struct sched_refusal why;
        uint32_t most = at_once == 1 ? 0 : (uint32_t)rand() % at_once;
        while (sched_pending(s) > most)
            uv_run(&loop, UV_RUN_ONCE);
        ck_assert_msg(sched_submit(s, &spec, &callbacks, &asked[i], &why) != NULL, "%s",
                      why.message);
    }
    while (sched_pending(s) > 0)
        uv_run(&loop, UV_RUN_ONCE);
    static struct sched_stats stats;
    sched_get_stats(s, &stats);
    sched_destroy(s);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    free(vae);
    return stats.batch[SCHED_STEP].sum / (double)stats.batch[SCHED_STEP].count;
}

START_TEST(test_same_bytes)
{
    static struct asked alone[KINDS], together[REQUESTS];
    run(alone, KINDS, 1);
    double mean = run(together, REQUESTS, 64);
    printf("scheduler: mean batch %.2f of 6\n", mean);
    ck_assert_double_gt(mean, 2);
    for (int i = 0; i < REQUESTS; i++) {
        const struct asked *a = &alone[i % KINDS];
        ck_assert(a->ended && together[i].ended);
        ck_assert_mem_eq(a->hash, together[i].hash, sizeof(a->hash));
        ck_assert(a->hash[0] != 0 && a->hash[0] != a->hash[1]);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("scheduler_engine");
    TCase *tc = tcase_create("scheduler_engine");
    tcase_set_timeout(tc, 900);
    tcase_add_test(tc, test_same_bytes);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
