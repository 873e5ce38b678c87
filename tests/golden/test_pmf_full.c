/* pMF's published sizes with synthetic weights against the pixels in ../shared; those of 512 x 512
 * are kept in float16 there. */
#include "files/npy.h"
#include "golden.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct pmf_case {
    const char *name;
    int n;
    struct golden_sample samples[1];
} cases[] = {
    {"pmfDiT_B_16", 1, {{207, 0, {1, 7.5f, 0.1f, 0.8f}}}},
    {"pmfDiT_B_32", 1, {{207, 0, {1, 6.5f, 0.1f, 0.7f}}}},
    {"pmfDiT_L_16", 1, {{207, 0, {1, 7.0f, 0.2f, 0.7f}}}},
    {"pmfDiT_H_16", 1, {{207, 0, {1, 7.0f, 0.2f, 0.6f}}}},
};

static float half(uint16_t h)
{
    float value = (float)(h & 0x3FF) * 0x1p-10f + ((h >> 10 & 31) ? 1.0f : 0.0f);
    int exponent = (h >> 10 & 31) ? (h >> 10 & 31) - 15 : -14;
    value = exponent < 0 ? value / (float)(1 << -exponent) : value * (float)(1 << exponent);
    return h & 0x8000 ? -value : value;
}

/* To float16's ten bits and back, ties to even. */
static float through_half(float x)
{
    int exponent;
    frexpf(x, &exponent);
    float step = ldexpf(1.0f, (exponent < -13 ? -13 : exponent) - 11);
    return rintf(x / step) * step;
}

/* Pixels of ../shared, float32 or, of 512 x 512, float16. */
static struct golden read_shared(const char *name, bool *rounded)
{
    char file[96];
    struct imf_error err = {0};
    struct imf__npy a = {0};
    snprintf(file, sizeof(file), "pmf/pixels_%s_1nfe.npy", name);
    const char *path = golden_shared(file);
    ck_assert_ptr_nonnull(path);
    ck_assert_msg(imf__npy_load(&a, path, &err) == IMF_OK, "%s", err.message);
    *rounded = a.type != IMF__NPY_F32;
    if (!*rounded)
        return (struct golden){a.f32, a.count};
    ck_assert_int_eq(a.type, IMF__NPY_F16);
    struct golden g = {malloc(a.count * sizeof(float)), a.count};
    for (size_t i = 0; i < a.count; i++)
        g.values[i] = half(a.f16[i]);
    free(a.f16);
    return g;
}

START_TEST(test_full)
{
    static const enum imf_precision precisions[] = {IMF_PRECISION_FP32, IMF_PRECISION_BF16};
    const struct pmf_case *c = &cases[_i];
    if (getenv("IMF_EMU_FEW_RUNS")) /* a GPU emulated by host code */
        return;
    bool rounded;
    struct golden want = read_shared(c->name, &rounded);
    char *path = golden_synth_model(c->name, 0);
    for (int i = 0; i < 2; i++) {
        if (golden_lacks(precisions[i]))
            continue;
        struct imf_engine *e = golden_engine(precisions[i]);
        struct imf_model *m = golden_model(e, path, "none");
        const struct imf_model_info *info = imf_model_get_info(m);
        ck_assert_str_eq(info->name, c->name);
        ck_assert_int_eq(info->image_width, info->patch_size * 16);
        ck_assert_mem_eq(&info->defaults, &c->samples[0].sampling, sizeof(info->defaults));
        float *got = golden_latents(m, c->samples, c->n);
        for (size_t k = 0; rounded && k < want.count; k++)
            got[k] = through_half(got[k]);
        golden_check(c->name, got, want.values, want.count, precisions[i]);
        free(got);
        imf_model_destroy(m);
        imf_engine_destroy(e);
    }
    remove(path);
    free(path);
    free(want.values);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pmf_full");
    TCase *tc = tcase_create("pmf_full");
    tcase_set_timeout(tc, 1200);
    tcase_add_loop_test(tc, test_full, 0, sizeof(cases) / sizeof(cases[0]));
    suite_add_tcase(s, tc);
    return golden_main(s);
}
