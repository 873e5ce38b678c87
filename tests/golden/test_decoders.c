/* Decoders: vae_tiny under its old and new names, taesd with synthetic weights. The latents are put
 * into lanes as they are. */
#include "golden.h"

#include <stdio.h>
#include <string.h>

static void check_pictures(enum imf_precision precision, const char *decoder, const float *z,
                           size_t z_count, int n, const uint8_t *want)
{
    struct imf_engine *e = golden_engine(precision);
    struct imf_model *m = golden_model(e, golden_path("mit_tiny/mit_tiny.pth"), decoder);
    const struct imf_model_info *info = imf_model_get_info(m);
    size_t bytes = (size_t)n * (size_t)info->image_width * (size_t)info->image_height * 3;
    uint8_t *rgb = malloc(bytes);
    struct imf_lane *lanes[8];
    ck_assert_int_eq(info->image_width, 256);
    for (int i = 0; i < n; i++) {
        ck_assert_int_eq(imf_lane_create(&lanes[i], m), IMF_OK);
        ck_assert_uint_eq(lanes[i]->z_count, z_count);
        memcpy(lanes[i]->z, z + (size_t)i * z_count, z_count * sizeof(float));
    }
    ck_assert_int_eq(imf_decode(m, lanes, n, rgb), IMF_OK);
    int level = golden_max_level(rgb, want, bytes);
    double psnr = golden_psnr(rgb, want, bytes);
    printf("%s %s: at most %d levels, %.1f dB\n", strrchr(decoder, '/') + 1,
           imf_precision_name(precision), level, psnr);
    if (precision == IMF_PRECISION_FP32)
        ck_assert_msg(level <= 1, "%s: %d levels", decoder, level);
    else
        ck_assert_msg(psnr >= BF16_PSNR_BOUND, "%s: %g dB", decoder, psnr);
    for (int i = 0; i < n; i++)
        imf_lane_destroy(lanes[i]);
    free(rgb);
    imf_model_destroy(m);
    imf_engine_destroy(e);
}

/* On a GPU emulated by host code a full-size float32 picture takes minutes: there taesd runs in
 * bfloat16, and vae_tiny under one of its names. */
static bool emulated(void)
{
    return getenv("IMF_EMU_FEW_RUNS") != NULL;
}

static void check_vae_tiny(const char *decoder)
{
    struct golden z = golden_read("vae_tiny/latents_normalized.npy");
    uint8_t *want = golden_read_bytes("vae_tiny/image_u8.npy", 2 * 256 * 256 * 3);
    check_pictures(IMF_PRECISION_FP32, decoder, z.values, z.count / 2, 2, want);
    if (!golden_lacks(IMF_PRECISION_BF16))
        check_pictures(IMF_PRECISION_BF16, decoder, z.values, z.count / 2, 2, want);
    free(want);
    free(z.values);
}

START_TEST(test_vae_tiny)
{
    char *path = golden_vae_tiny();
    check_vae_tiny(path);
    free(path);
}
END_TEST

START_TEST(test_vae_tiny_names)
{
    static const char *const files[] = {"vae_tiny/diffusion_pytorch_model.bin",
                                        "vae_tiny/diffusion_pytorch_model.safetensors",
                                        "vae_tiny/diffusion_pytorch_model_newnames.safetensors"};
    for (size_t i = 0; i < 3 && !emulated(); i++) {
        const char *path = golden_shared(files[i]);
        if (!path)
            printf("%s: ../shared is absent, skipped\n", files[i]);
        else
            check_vae_tiny(path);
    }
}
END_TEST

START_TEST(test_taesd)
{
    struct imf__names names = {0};
    float z[4 * 32 * 32];
    imf_noise(z, 4 * 32 * 32, 2);
    ck_assert_int_eq(imf__taesd_names(&names), IMF_OK);
    char *path = golden_synth("taesd.pth", &names, 3);
    uint8_t *want = golden_read_bytes("taesd/image_u8_seed2.npy", 256 * 256 * 3);
    if (!emulated())
        check_pictures(IMF_PRECISION_FP32, path, z, 4 * 32 * 32, 1, want);
    if (!golden_lacks(IMF_PRECISION_BF16))
        check_pictures(IMF_PRECISION_BF16, path, z, 4 * 32 * 32, 1, want);
    remove(path);
    free(path);
    free(want);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("decoders");
    TCase *tc = tcase_create("decoders");
    tcase_set_timeout(tc, 600);
    tcase_add_test(tc, test_vae_tiny);
    tcase_add_test(tc, test_vae_tiny_names);
    tcase_add_test(tc, test_taesd);
    suite_add_tcase(s, tc);
    return golden_main(s);
}
