/* The demo model of the repository against the samples of the recipe that trained it, float32 from
 * the same float16 files: latents, pictures, and both precisions. */
#include "golden.h"

#include <math.h>
#include <stdio.h>

#define GUIDANCE 3.0f, 0.0f, 1.0f
#define PICTURES 4
#define PICTURE_BYTES ((size_t)PICTURES * 128 * 128 * 3)

static const struct demo_case {
    const char *file;
    int n;
    struct golden_sample samples[PICTURES];
} cases[] = {
    /* as demo/cases.json has them */
    {"demo/latents_one_step.npy",
     4,
     {{0, 0, {1, GUIDANCE}},
      {3, 1, {1, GUIDANCE}},
      {6, 2, {1, GUIDANCE}},
      {12, 4294967295, {1, GUIDANCE}}}},
    {"demo/latents_two_steps.npy",
     3,
     {{7, 5, {2, GUIDANCE}}, {14, 6, {2, GUIDANCE}}, {19, 7, {2, GUIDANCE}}}},
    {"demo/latents_null_class.npy", 1, {{20, 42, {1, 1.0f, 0.0f, 1.0f}}}},
    {"demo/latents_five_steps.npy",
     2,
     {{1, 11, {5, 7.5f, 0.25f, 0.75f}}, {18, 12, {5, 7.5f, 0.25f, 0.75f}}}},
};
#define CASES (sizeof(cases) / sizeof(cases[0]))

static struct imf_model *load(struct imf_engine *e)
{
    char checkpoint[1024], decoder[1024];
    snprintf(checkpoint, sizeof(checkpoint), "%s/mit_demo.safetensors", DEMO_DIR);
    snprintf(decoder, sizeof(decoder), "%s/taesd_demo.safetensors", DEMO_DIR);
    return golden_model(e, checkpoint, decoder);
}

static void check_latents(enum imf_precision precision, double bound)
{
    struct imf_engine *e = golden_engine(precision);
    struct imf_model *m = load(e);
    for (size_t i = 0; i < CASES; i++) {
        struct golden want = golden_read(cases[i].file);
        float *got = golden_latents(m, cases[i].samples, cases[i].n);
        double error = golden_relative_l2(got, want.values, want.count), most = 0;
        for (size_t k = 0; k < want.count; k++)
            most = fmax(most, fabs((double)got[k] - (double)want.values[k]));
        printf("%-32s %s relative %.2e, at most %.2e\n", cases[i].file,
               imf_precision_name(precision), error, most);
        ck_assert_msg(error <= bound, "%s: relative L2 %g, bound %g", cases[i].file, error, bound);
        free(got);
        free(want.values);
    }
    imf_model_destroy(m);
    imf_engine_destroy(e);
}

START_TEST(test_latents_fp32)
{
    check_latents(IMF_PRECISION_FP32, FP32_LATENT_BOUND);
}
END_TEST

START_TEST(test_latents_bf16)
{
    if (!golden_lacks(IMF_PRECISION_BF16))
        check_latents(IMF_PRECISION_BF16, BF16_LATENT_BOUND);
}
END_TEST

/* The pictures of the first case, noise to pixels. */
static uint8_t *pictures(enum imf_precision precision)
{
    struct imf_engine *e = golden_engine(precision);
    struct imf_model *m = load(e);
    const struct imf_model_info *info = imf_model_get_info(m);
    struct imf_lane *lanes[PICTURES];
    struct imf_error err = {0};
    uint8_t *rgb = malloc(PICTURE_BYTES);
    ck_assert_int_eq(info->image_width, 128);
    ck_assert_int_eq(info->image_height, 128);
    for (int i = 0; i < PICTURES; i++) {
        const struct golden_sample *s = &cases[0].samples[i];
        ck_assert_int_eq(imf_lane_create(&lanes[i], m), IMF_OK);
        imf_status status = imf_lane_start(lanes[i], m, s->label, s->seed, &s->sampling, &err);
        ck_assert_msg(status == IMF_OK, "%s", err.message);
    }
    ck_assert_int_eq(imf_step(m, lanes, PICTURES), IMF_OK);
    ck_assert_int_eq(imf_decode(m, lanes, PICTURES, rgb), IMF_OK);
    for (int i = 0; i < PICTURES; i++)
        imf_lane_destroy(lanes[i]);
    imf_model_destroy(m);
    imf_engine_destroy(e);
    return rgb;
}

START_TEST(test_pictures)
{
    uint8_t *want = golden_read_bytes("demo/pictures_one_step_u8.npy", PICTURE_BYTES);
    uint8_t *f32 = pictures(IMF_PRECISION_FP32);
    int level = golden_max_level(f32, want, PICTURE_BYTES);
    printf("pictures: at most %d levels from the recipe's\n", level);
    ck_assert_msg(level <= 1, "%d levels", level);
    if (!golden_lacks(IMF_PRECISION_BF16)) {
        uint8_t *bf16 = pictures(IMF_PRECISION_BF16);
        double psnr = golden_psnr(f32, bf16, PICTURE_BYTES);
        printf("pictures: fp32 and bf16 agree to %.1f dB\n", psnr);
        ck_assert_msg(psnr >= BF16_PSNR_BOUND, "%g dB", psnr);
        free(bf16);
    }
    free(want);
    free(f32);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("demo");
    TCase *tc = tcase_create("demo");
    tcase_set_timeout(tc, 600);
    tcase_add_test(tc, test_latents_fp32);
    tcase_add_test(tc, test_latents_bf16);
    tcase_add_test(tc, test_pictures);
    suite_add_tcase(s, tc);
    return golden_main(s);
}
