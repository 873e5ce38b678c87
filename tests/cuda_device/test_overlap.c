/* Pictures travel to the host while the next batch computes. On the emulator work runs only when
 * somebody waits for it, and only as far as he must: so what has run after a wait shows what the
 * wait depends on. */
#include "../golden/golden.h"
#include "emulator.h"
#include "pixel_model.h"

enum { PICTURES = 2 };

struct batch {
    struct imf_lane *lanes[PICTURES];
    uint8_t *rgb[PICTURES];
};

static void start(struct batch *b, struct imf_model *m, uint64_t seed, bool step)
{
    const struct imf_sampling s = {.steps = 1, .omega = 8, .t_min = 0.4f, .t_max = 0.65f};
    for (int i = 0; i < PICTURES; i++)
        ck_assert_int_eq(imf_lane_start(b->lanes[i], m, i, seed + (uint64_t)i, &s, NULL), IMF_OK);
    if (step)
        ck_assert_int_eq(imf_step(m, b->lanes, PICTURES), IMF_OK);
}

static struct batch new_batch(struct imf_model *m, uint64_t seed, size_t bytes)
{
    struct batch b;
    for (int i = 0; i < PICTURES; i++) {
        ck_assert_int_eq(imf_lane_create(&b.lanes[i], m), IMF_OK);
        b.rgb[i] = calloc(1, bytes);
    }
    start(&b, m, seed, true);
    return b;
}

static void free_batch(struct batch *b)
{
    for (int i = 0; i < PICTURES; i++) {
        imf_lane_destroy(b->lanes[i]);
        free(b->rgb[i]);
    }
}

static uint8_t *one_by_one(struct imf_model *m, const struct batch *b, size_t bytes)
{
    uint8_t *rgb = malloc(PICTURES * bytes);
    for (int i = 0; i < PICTURES; i++)
        ck_assert_int_eq(imf_decode(m, &b->lanes[i], 1, rgb + (size_t)i * bytes), IMF_OK);
    return rgb;
}

static void check(const struct batch *b, const uint8_t *want, size_t bytes)
{
    for (int i = 0; i < PICTURES; i++)
        ck_assert_mem_eq(b->rgb[i], want + (size_t)i * bytes, bytes);
}

START_TEST(test_overlap)
{
    struct imf_engine *e = golden_engine(IMF_PRECISION_BF16);
    struct imf_model_params p;
    struct imf_model *m = NULL;
    char *pixels = pixel_model();
    imf_model_params_init(&p);
    p.checkpoint = pixels;
    p.max_batch = p.decode_batch = PICTURES;
    ck_assert_int_eq(imf_model_load(&m, e, &p, NULL), IMF_OK);
    const struct imf_model_info *info = imf_model_get_info(m);
    ck_assert(imf_engine_get_info(e)->overlaps);
    size_t bytes = (size_t)info->image_width * (size_t)info->image_height * 3;
    struct batch a = new_batch(m, 1, bytes), b = new_batch(m, 9, bytes);
    uint8_t *want_a = one_by_one(m, &a, bytes), *want_b = one_by_one(m, &b, bytes);
    ck_assert_mem_ne(want_a, want_b, bytes);

    /* Two decodings are begun: nothing runs yet. The end of the first runs the first and no more.
     */
    uint64_t ran = emulator_ran(NULL);
    ck_assert_int_eq(imf_decode_begin(m, a.lanes, PICTURES), IMF_OK);
    ck_assert_int_eq(imf_decode_begin(m, b.lanes, PICTURES), IMF_OK);
    ck_assert_int_eq(imf_decode_begin(m, a.lanes, PICTURES), IMF_EINVAL); /* two are the most */
    ck_assert_uint_eq(emulator_ran(NULL), ran);
    ck_assert_int_eq(imf_decode_end(m, a.rgb), IMF_OK);
    uint64_t one = emulator_ran(NULL) - ran;
    ck_assert_uint_gt(one, 0);
    check(&a, want_a, bytes);
    /* The second is computed; its copy to the host is nobody's concern until it is asked for. */
    uint64_t copied = emulator_ran("memcpy D2H");
    ck_assert_int_eq(imf_engine_wait(e), IMF_OK);
    ck_assert_uint_eq(emulator_ran(NULL), ran + 2 * one);
    ck_assert_uint_eq(emulator_ran("memcpy D2H"), copied);
    /* A third overwrites the picture on the device before the second has been copied. */
    ck_assert_int_eq(imf_decode_begin(m, a.lanes, PICTURES), IMF_OK);
    ck_assert_int_eq(imf_engine_wait(e), IMF_OK);
    ck_assert_uint_eq(emulator_ran("memcpy D2H"), copied);
    ck_assert_int_eq(imf_decode_end(m, b.rgb), IMF_OK);
    ck_assert_uint_eq(emulator_ran("memcpy D2H"), copied + 1);
    check(&b, want_b, bytes);
    ck_assert_int_eq(imf_decode_end(m, a.rgb), IMF_OK);
    check(&a, want_a, bytes);

    /* The same with a network evaluation behind a decoding. */
    ck_assert_int_eq(imf_decode_begin(m, b.lanes, PICTURES), IMF_OK);
    ck_assert_int_eq(imf_engine_wait(e), IMF_OK);
    float first = a.lanes[0]->z[0];
    start(&a, m, 1, false);
    ran = emulator_ran(NULL);
    ck_assert_int_eq(imf_step_begin(m, a.lanes, PICTURES), IMF_OK);
    memset(b.rgb[0], 0, bytes);
    ck_assert_int_eq(imf_decode_end(m, b.rgb), IMF_OK);
    ck_assert_uint_eq(emulator_ran(NULL), ran);
    check(&b, want_b, bytes);
    ck_assert_int_eq(imf_step_end(m, a.lanes, PICTURES), IMF_OK);
    ck_assert_uint_gt(emulator_ran(NULL), ran);
    ck_assert(a.lanes[0]->z[0] == first && a.lanes[0]->step == 1);

    free(want_a);
    free(want_b);
    free_batch(&a);
    free_batch(&b);
    imf_model_destroy(m);
    imf_engine_destroy(e);
    golden_clean();
    remove(pixels);
    free(pixels);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("overlap");
    TCase *tc = tcase_create("overlap");
    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, test_overlap);
    suite_add_tcase(s, tc);
    return golden_main(s);
}
