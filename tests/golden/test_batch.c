/* The promise behind the cache and the GET resources: a picture's bytes are the same at batch 1, 3
 * and 8, in any slot, beside any neighbours, whatever steps those are at, and for any number of
 * threads. */
#include "golden.h"

#include <stdio.h>
#include <string.h>

#define N 8

static const struct golden_sample samples[N] = {
    {3, 0, {1, 8.0f, 0.40f, 0.65f}},  {7, 1, {2, 4.0f, 0.36f, 0.64f}},
    {0, 2, {1, 1.0f, 0.00f, 1.00f}},  {9, 3, {3, 2.5f, 0.10f, 0.90f}},
    {10, 4, {1, 8.0f, 0.40f, 0.65f}}, {5, 5, {2, 10.5f, 0.40f, 0.60f}},
    {1, 6, {1, 6.0f, 0.20f, 0.80f}},  {3, 0, {4, 8.0f, 0.40f, 0.65f}},
};

/* Pictures and latents of the samples in `order`, at most `batch` lanes a call. */
static void generate(struct imf_model *m, const int *order, int batch, uint8_t *rgb, float *latents)
{
    const struct imf_model_info *info = imf_model_get_info(m);
    size_t picture = (size_t)info->image_width * (size_t)info->image_height * 3;
    for (int at = 0; at < N; at += batch) {
        struct imf_lane *lanes[N], *unfinished[N];
        int n = N - at < batch ? N - at : batch, left = n;
        uint8_t *out = malloc((size_t)n * picture);
        for (int i = 0; i < n; i++) {
            const struct golden_sample *s = &samples[order[at + i]];
            ck_assert_int_eq(imf_lane_create(&lanes[i], m), IMF_OK);
            ck_assert_int_eq(imf_lane_start(lanes[i], m, s->label, s->seed, &s->sampling, NULL),
                             IMF_OK);
        }
        while (left > 0) {
            left = 0;
            for (int i = 0; i < n; i++) {
                if (!imf_lane_finished(lanes[i]))
                    unfinished[left++] = lanes[i];
            }
            if (left)
                ck_assert_int_eq(imf_step(m, unfinished, left), IMF_OK);
        }
        ck_assert_int_eq(imf_decode(m, lanes, n, out), IMF_OK);
        for (int i = 0; i < n; i++) {
            size_t which = (size_t)order[at + i];
            memcpy(rgb + which * picture, out + (size_t)i * picture, picture);
            memcpy(latents + which * lanes[i]->z_count, lanes[i]->z,
                   lanes[i]->z_count * sizeof(float));
            imf_lane_destroy(lanes[i]);
        }
        free(out);
    }
}

static struct imf_engine *engine_with(enum imf_precision precision, int threads)
{
    struct imf_engine_params p;
    struct imf_engine *e = NULL;
    const char *device = getenv("IMFD_TEST_DEVICE");
    imf_engine_params_init(&p);
    p.device = device ? device : "cpu";
    p.precision = precision;
    p.threads = threads;
    ck_assert_int_eq(imf_engine_create(&e, &p, NULL), IMF_OK);
    return e;
}

static void check_precision(enum imf_precision precision)
{
    static const int orders[3][N] = {
        {0, 1, 2, 3, 4, 5, 6, 7}, {7, 3, 5, 1, 6, 2, 4, 0}, {2, 7, 0, 5, 3, 6, 1, 4}};
    static const struct {
        int batch, order, threads;
    } runs[] = {{1, 0, 0}, {3, 0, 0}, {8, 0, 0}, {3, 1, 0}, {8, 1, 0}, {8, 2, 1}, {1, 0, 1}};
    size_t pictures = (size_t)N * 256 * 256 * 3, latents = (size_t)N * 4 * 32 * 32;
    char *vae = golden_vae_tiny();
    uint8_t *first = malloc(pictures), *rgb = malloc(pictures);
    float *first_z = malloc(latents * sizeof(float)), *z = malloc(latents * sizeof(float));
    char fingerprint[sizeof(((struct imf_model_info *)0)->fingerprint)];
    bool emulated = getenv("IMF_EMU_FEW_RUNS") != NULL; /* a GPU made of host code takes its time */
    for (size_t r = 0; r < sizeof(runs) / sizeof(runs[0]); r++) {
        if (emulated && r != 0 && r != 4)
            continue;
        struct imf_engine *e = engine_with(precision, runs[r].threads);
        struct imf_model *m = golden_model(e, golden_path("mit_tiny/mit_tiny.pth"), vae);
        generate(m, orders[runs[r].order], runs[r].batch, r ? rgb : first, r ? z : first_z);
        const char *print = imf_model_get_info(m)->fingerprint;
        if (r == 0)
            memcpy(fingerprint, print, sizeof(fingerprint));
        else {
            ck_assert_msg(memcmp(first_z, z, latents * sizeof(float)) == 0,
                          "%s: latents differ at batch %d, order %d, %d threads",
                          imf_precision_name(precision), runs[r].batch, runs[r].order,
                          runs[r].threads);
            ck_assert_msg(strcmp(fingerprint, print) != 0 || memcmp(first, rgb, pictures) == 0,
                          "%s: pictures differ at batch %d, order %d, %d threads",
                          imf_precision_name(precision), runs[r].batch, runs[r].order,
                          runs[r].threads);
        }
        if (runs[r].threads == 0 || precision == IMF_PRECISION_BF16)
            ck_assert_str_eq(fingerprint, print);
        imf_model_destroy(m);
        imf_engine_destroy(e);
    }
    free(vae);
    free(first);
    free(rgb);
    free(first_z);
    free(z);
}

/* The emulator's float32 pictures take minutes; tests/ops checks each operation's rows there. */
START_TEST(test_fp32)
{
    if (!getenv("IMF_EMU_FEW_RUNS"))
        check_precision(IMF_PRECISION_FP32);
}
END_TEST

START_TEST(test_bf16)
{
    if (!golden_lacks(IMF_PRECISION_BF16))
        check_precision(IMF_PRECISION_BF16);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("batch");
    TCase *tc = tcase_create("invariance");
    tcase_set_timeout(tc, 600);
    tcase_add_test(tc, test_fp32);
    tcase_add_test(tc, test_bf16);
    suite_add_tcase(s, tc);
    return golden_main(s);
}
