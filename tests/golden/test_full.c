/* The published sizes with synthetic weights: B, M, L, XL, the full sd-vae, and B through it. */
#include "golden.h"

#include <stdio.h>
#include <string.h>

static const struct full_case {
    const char *model, *file;
    int n;
    struct golden_sample samples[2];
} cases[] = {
    {"MiT_B_2",
     "mit_full/latents_MiT_B_2_1nfe.npy",
     2,
     {{207, 0, {1, 8.0f, 0.4f, 0.65f}}, {88, 4, {1, 8.0f, 0.4f, 0.65f}}}},
    {"MiT_B_2", "mit_full/latents_MiT_B_2_2nfe.npy", 1, {{417, 6, {2, 4.0f, 0.36f, 0.64f}}}},
    {"MiT_M_2",
     "mit_full/latents_MiT_M_2_1nfe.npy",
     2,
     {{207, 0, {1, 10.5f, 0.4f, 0.6f}}, {88, 4, {1, 10.5f, 0.4f, 0.6f}}}},
    {"MiT_L_2",
     "mit_full/latents_MiT_L_2_1nfe.npy",
     2,
     {{207, 0, {1, 10.5f, 0.4f, 0.6f}}, {88, 4, {1, 10.5f, 0.4f, 0.6f}}}},
    {"MiT_XL_2",
     "mit_full/latents_MiT_XL_2_1nfe.npy",
     2,
     {{207, 0, {1, 8.0f, 0.42f, 0.62f}}, {88, 4, {1, 8.0f, 0.42f, 0.62f}}}},
    {"MiT_XL_2", "mit_full/latents_MiT_XL_2_2nfe.npy", 1, {{417, 6, {2, 4.0f, 0.36f, 0.64f}}}},
};
#define CASES (sizeof(cases) / sizeof(cases[0]))

static void check_model(const char *name, const char *path, enum imf_precision precision)
{
    double bound = precision == IMF_PRECISION_FP32 ? FP32_LATENT_BOUND : BF16_LATENT_BOUND;
    struct imf_engine *e = golden_engine(precision);
    struct imf_model *m = golden_model(e, path, "none");
    ck_assert_str_eq(imf_model_get_info(m)->name, name);
    for (size_t i = 0; i < CASES; i++) {
        if (strcmp(cases[i].model, name) != 0)
            continue;
        struct golden want = golden_read(cases[i].file);
        float *got = golden_latents(m, cases[i].samples, cases[i].n);
        double error = golden_relative_l2(got, want.values, want.count);
        printf("%-36s %s %.2e\n", cases[i].file, imf_precision_name(precision), error);
        ck_assert_msg(error <= bound, "%s: relative L2 %g, bound %g", cases[i].file, error, bound);
        free(got);
        free(want.values);
    }
    imf_model_destroy(m);
    imf_engine_destroy(e);
}

/* On a GPU emulated by host code: MiT B, and the whole picture (a quarter of an hour) where
 * IMF_EMU_FULL asks for it. */
static bool emulated(void)
{
    return getenv("IMF_EMU_FEW_RUNS") != NULL;
}

START_TEST(test_latents)
{
    static const char *const models[] = {"MiT_B_2", "MiT_M_2", "MiT_L_2", "MiT_XL_2"};
    if (emulated() && _i > 0)
        return;
    char *path = golden_synth_model(models[_i], 0);
    check_model(models[_i], path, IMF_PRECISION_FP32);
    if (!golden_lacks(IMF_PRECISION_BF16))
        check_model(models[_i], path, IMF_PRECISION_BF16);
    remove(path);
    free(path);
}
END_TEST

static void check_picture(const char *what, enum imf_precision precision, struct imf_model *m,
                          struct imf_lane *lane, const char *file)
{
    size_t n = 256 * 256 * 3;
    uint8_t *rgb = malloc(n), *want = golden_read_bytes(file, n);
    ck_assert_int_eq(imf_decode(m, &lane, 1, rgb), IMF_OK);
    int level = golden_max_level(rgb, want, n);
    double psnr = golden_psnr(rgb, want, n);
    printf("%s %s: at most %d levels, %.1f dB\n", what, imf_precision_name(precision), level, psnr);
    if (precision == IMF_PRECISION_FP32)
        ck_assert_msg(level <= 1, "%s: %d levels", what, level);
    else
        ck_assert_msg(psnr >= BF16_PSNR_BOUND, "%s: %g dB", what, psnr);
    free(rgb);
    free(want);
}

START_TEST(test_pipeline)
{
    static const enum imf_precision precisions[] = {IMF_PRECISION_FP32, IMF_PRECISION_BF16};
    struct imf__vae_shape shape;
    struct imf__names names = {0};
    if (emulated() && !getenv("IMF_EMU_FULL"))
        return;
    imf__vae_shape_init(&shape);
    ck_assert_int_eq(imf__vae_names(&names, &shape), IMF_OK);
    char *vae = golden_synth("vae.safetensors", &names, 0), *mit = golden_synth_model("MiT_B_2", 0);
    for (size_t i = emulated() ? 1 : 0; i < 2; i++) {
        if (golden_lacks(precisions[i]))
            continue;
        struct imf_engine *e = golden_engine(precisions[i]);
        struct imf_model *m = golden_model(e, mit, vae);
        struct imf_lane *lane = NULL;
        ck_assert_int_eq(imf_lane_create(&lane, m), IMF_OK);
        imf_noise(lane->z, lane->z_count, 3);
        check_picture("sd-vae, noise of seed 3", precisions[i], m, lane,
                      "vae_full/image_u8_seed3.npy");
        ck_assert_int_eq(imf_lane_start(lane, m, 207, 0, &imf_model_get_info(m)->defaults, NULL),
                         IMF_OK);
        ck_assert_int_eq(imf_step(m, &lane, 1), IMF_OK);
        check_picture("MiT_B_2 label 207 seed 0", precisions[i], m, lane,
                      "vae_full/pipeline_B_label207_seed0_u8.npy");
        imf_lane_destroy(lane);
        imf_model_destroy(m);
        imf_engine_destroy(e);
    }
    remove(mit);
    remove(vae);
    free(mit);
    free(vae);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("full");
    TCase *tc = tcase_create("full");
    tcase_set_timeout(tc, 1200);
    tcase_add_loop_test(tc, test_latents, 0, 4);
    tcase_add_test(tc, test_pipeline);
    suite_add_tcase(s, tc);
    return golden_main(s);
}
