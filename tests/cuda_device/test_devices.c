/* Two emulated GPUs behind one queue: both work, pictures do not tell which one made them, and when
 * one fails its lanes fail with its message while the other goes on. */
#include "../golden/golden.h"
#include "emulator.h"
#include "pixel_model.h"
#include "scheduler/scheduler.h"

enum { PICTURES = 12 };

struct asked {
    struct blob *png;
    enum sched_result result;
    char message[256];
    bool ended;
};

static void on_picture(void *user, struct sched_request *r, const struct sched_picture *p)
{
    ((struct asked *)user)->png = blob_take(p->png);
    sched_release(r, 1);
}

static void on_end(void *user, struct sched_request *r, enum sched_result result,
                   const char *message)
{
    struct asked *a = user;
    a->result = result;
    a->ended = true;
    snprintf(a->message, sizeof(a->message), "%s", message ? message : "");
    (void)sched_close(r, SCHED_SENT);
}

struct server {
    uv_loop_t loop;
    struct scheduler *s;
    int lost; /* devices that on_device_lost named */
};

static void on_device_lost(void *user, struct scheduler *s, int device)
{
    struct sched_device_status status;
    sched_device_get(s, device, &status);
    ck_assert(status.failed && strstr(status.message, status.name));
    ((struct server *)user)->lost++;
}

static void open_server(struct server *v, int devices, const char *checkpoint)
{
    struct sched_options o;
    struct imf_engine_params ep;
    struct imf_model_params mp;
    struct imf_error err;
    int index[2];
    v->lost = 0;
    sched_options_init(&o);
    o.cache_bytes = 0;
    o.on_device_lost = on_device_lost;
    o.on_device_lost_user = v;
    ck_assert_int_eq(uv_loop_init(&v->loop), 0);
    ck_assert_int_eq(sched_create(&v->s, &v->loop, &o, &err), IMF_OK);
    imf_engine_params_init(&ep);
    for (int i = 0; i < devices; i++) {
        ep.device = i == 0 ? "cuda:0" : "cuda:1";
        index[i] = sched_add_device(v->s, &ep, &err);
    }
    imf_model_params_init(&mp);
    mp.checkpoint = checkpoint;
    mp.max_batch = mp.decode_batch = 2;
    ck_assert_int_eq(sched_add_model(v->s, "tiny", &mp, index, devices, &err), 0);
    ck_assert_int_eq(sched_start(v->s, &err), IMF_OK);
    struct sched_device_status status;
    for (int i = 0; i < devices; i++) { /* the first one is enough to be ready: wait for both */
        for (;;) {
            sched_device_get(v->s, i, &status);
            if (status.weights_bytes > 0)
                break;
            uv_run(&v->loop, UV_RUN_ONCE);
        }
    }
    ck_assert(sched_ready(v->s));
}

static void close_server(struct server *v)
{
    sched_destroy(v->s);
    ck_assert_int_eq(uv_loop_close(&v->loop), 0);
}

/* Asks for n pictures at once and waits for all. */
static void ask(struct server *v, struct asked *asked, int n)
{
    static const struct sched_callbacks callbacks = {on_picture, on_end};
    memset(asked, 0, (size_t)n * sizeof(*asked));
    for (int i = 0; i < n; i++) {
        struct sched_spec spec;
        struct sched_refusal why;
        sched_spec_init(&spec);
        spec.tenant = "t";
        spec.label = i % 10;
        spec.seed = (uint64_t)i;
        spec.sampling =
            (struct imf_sampling){.steps = 1, .omega = 8, .t_min = 0.4f, .t_max = 0.65f};
        ck_assert_msg(sched_submit(v->s, &spec, &callbacks, &asked[i], &why) != NULL, "%s",
                      why.message);
    }
    while (sched_pending(v->s) > 0)
        uv_run(&v->loop, UV_RUN_ONCE);
}

static void drop(struct asked *asked, int n)
{
    for (int i = 0; i < n; i++)
        blob_drop(asked[i].png);
}

static void check_same(const struct asked *got, const struct asked *want)
{
    ck_assert_msg(got->result == SCHED_DONE, "%s", got->message);
    ck_assert_uint_eq(got->png->size, want->png->size);
    ck_assert_mem_eq(got->png->data, want->png->data, want->png->size);
}

START_TEST(test_devices)
{
    static struct asked alone[PICTURES], both[PICTURES];
    struct sched_device_status status[2];
    struct sched_model_status model;
    struct server v;
    void (*sicken)(int device);
    char *pixels = pixel_model();
    emulator_find("imf_emu_sick_device", &sicken);

    open_server(&v, 1, pixels);
    ask(&v, alone, PICTURES);
    close_server(&v);

    open_server(&v, 2, pixels);
    ask(&v, both, PICTURES);
    for (int i = 0; i < PICTURES; i++)
        check_same(&both[i], &alone[i]);
    drop(both, PICTURES);
    for (int i = 0; i < 2; i++) {
        sched_device_get(v.s, i, &status[i]);
        ck_assert_uint_gt(status[i].busy_us, 0);
    }

    /* One fails: what it had in hand fails with its message, the rest is served. */
    sicken(1);
    ask(&v, both, PICTURES);
    int failed = 0;
    for (int i = 0; i < PICTURES; i++) {
        ck_assert(both[i].ended);
        if (both[i].result == SCHED_DONE) {
            check_same(&both[i], &alone[i]);
            continue;
        }
        ck_assert_int_eq(both[i].result, SCHED_FAILED);
        ck_assert_msg(strstr(both[i].message, "cuda:1"), "%s", both[i].message);
        failed++;
    }
    drop(both, PICTURES);
    printf("%d of %d pictures were lost with cuda:1\n", failed, PICTURES);
    ck_assert_int_gt(failed, 0);
    ck_assert_int_lt(failed, PICTURES);
    sched_device_get(v.s, 0, &status[0]);
    sched_device_get(v.s, 1, &status[1]);
    ck_assert(!status[0].failed && status[1].failed);
    printf("%s\n", status[1].message);
    ck_assert(sched_ready(v.s));
    ck_assert_int_eq(v.lost, 1);

    /* The other one serves everything from now on. */
    ask(&v, both, PICTURES);
    for (int i = 0; i < PICTURES; i++)
        check_same(&both[i], &alone[i]);
    drop(both, PICTURES);

    /* And with the last one the model is lost. */
    sicken(0);
    ask(&v, both, 1);
    ck_assert_int_eq(both[0].result, SCHED_FAILED);
    ck_assert(!sched_ready(v.s));
    sched_model_get(v.s, 0, &model);
    ck_assert_int_eq(model.state, SCHED_MODEL_SICK);
    ck_assert_msg(strstr(model.message, "cuda:0"), "%s", model.message);
    close_server(&v);

    drop(alone, PICTURES);
    golden_clean();
    remove(pixels);
    free(pixels);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("devices");
    TCase *tc = tcase_create("devices");
    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, test_devices);
    suite_add_tcase(s, tc);
    return golden_main(s);
}
