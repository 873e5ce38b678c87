/* InceptionV3 against torch-fidelity's features and logits, on the CPU device. The weights are the
 * synthetic ones (seed 0), written by `imfd synth inception` into INCEPTION_WEIGHTS by the build.
 */
#include "imf_metrics.h"

#include "files/npz.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN TESTS_DIR "/golden/inception/"

enum { PICTURES = 3, SIDE = 256 };

static struct imf_engine *engine;
static struct imf_inception *net;
static uint8_t *pictures; /* (3, 256, 256, 3) */

static float *load_floats(const char *path, size_t expected)
{
    struct imf_error err = {0};
    struct imf__npz *z = NULL;
    ck_assert_msg(imf__npz_open(&z, path, &err) == IMF_OK, "%s", err.message);
    const struct imf__npz_array *a = imf__npz_find(z, "");
    ck_assert_uint_eq(a->count, expected);
    float *x = malloc(expected * sizeof(float));
    ck_assert_int_eq(imf__npz_read_float(z, a, x, &err), IMF_OK);
    imf__npz_close(z);
    return x;
}

static double relative_l2(const float *x, const float *expected, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += pow((double)x[i] - (double)expected[i], 2);
        norm += pow((double)expected[i], 2);
    }
    return sqrt(difference / norm);
}

static void setup(void)
{
    struct imf_error err = {0};
    struct imf_engine_params p;
    imf_engine_params_init(&p);
    p.device = "cpu";
    p.precision = IMF_PRECISION_FP32;
    ck_assert_msg(imf_engine_create(&engine, &p, &err) == IMF_OK, "%s", err.message);
    ck_assert_msg(imf_inception_load(&net, engine, INCEPTION_WEIGHTS, 2, &err) == IMF_OK, "%s",
                  err.message);
    /* images_u8_nhwc.npy: a header of 128 bytes, then the values. */
    size_t n = (size_t)PICTURES * SIDE * SIDE * 3;
    pictures = malloc(n);
    FILE *f = fopen(GOLDEN "images_u8_nhwc.npy", "rb");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fseek(f, 128, SEEK_SET), 0);
    ck_assert_uint_eq(fread(pictures, 1, n, f), n);
    fclose(f);
}

static void teardown(void)
{
    imf_inception_destroy(net);
    imf_engine_destroy(engine);
    free(pictures);
}

START_TEST(test_golden)
{
    float features[PICTURES * IMF_FEATURES], logits[PICTURES * IMF_LOGITS];
    ck_assert_int_eq(imf_inception_run(net, pictures, PICTURES, SIDE, SIDE, features, logits, NULL),
                     IMF_OK);
    float *expected = load_floats(GOLDEN "features_2048.npy", PICTURES * IMF_FEATURES);
    double error = relative_l2(features, expected, PICTURES * IMF_FEATURES);
    ck_assert_msg(error < 1e-4, "features: relative L2 error %g", error);
    free(expected);
    expected = load_floats(GOLDEN "logits_unbiased.npy", PICTURES * IMF_LOGITS);
    error = relative_l2(logits, expected, PICTURES * IMF_LOGITS);
    ck_assert_msg(error < 1e-4, "logits: relative L2 error %g", error);
    free(expected);
}
END_TEST

/* A picture's features are the same bits alone, in a batch, and after another picture size. */
START_TEST(test_any_batch)
{
    float together[PICTURES * IMF_FEATURES], alone[IMF_FEATURES], small[IMF_FEATURES];
    ck_assert_int_eq(imf_inception_run(net, pictures, PICTURES, SIDE, SIDE, together, NULL, NULL),
                     IMF_OK);
    ck_assert_int_eq(imf_inception_run(net, pictures, 1, 64, 48, small, NULL, NULL), IMF_OK);
    ck_assert_int_eq(
        imf_inception_run(net, pictures + SIDE * SIDE * 3, 1, SIDE, SIDE, alone, NULL, NULL),
        IMF_OK);
    ck_assert_mem_eq(alone, together + IMF_FEATURES, sizeof(alone));
    ck_assert_int_eq(imf_inception_run(net, pictures, 0, SIDE, SIDE, alone, NULL, NULL),
                     IMF_EINVAL);
}
END_TEST

/* 2 x the multiply-adds of the published network: 5.7 G at 299 x 299. */
START_TEST(test_flops)
{
    ck_assert_msg(fabs(imf_inception_flops(net) / 11.4e9 - 1) < 0.02, "%g",
                  imf_inception_flops(net));
}
END_TEST

/* A network of fewer channels: its size, its work, and that features depend on the picture alone.
 */
START_TEST(test_narrow)
{
    struct imf_error err = {0};
    struct imf_inception *narrow = NULL;
    float both[2 * IMF_FEATURES], logits[2 * IMF_LOGITS], second[IMF_FEATURES];
    ck_assert_msg(imf_inception_load(&narrow, engine, INCEPTION_NARROW, 1, &err) == IMF_OK, "%s",
                  err.message);
    ck_assert_int_eq(imf_inception_run(narrow, pictures, 2, SIDE, SIDE, both, logits, NULL),
                     IMF_OK);
    ck_assert_int_eq(
        imf_inception_run(narrow, pictures + SIDE * SIDE * 3, 1, SIDE, SIDE, second, NULL, NULL),
        IMF_OK);
    ck_assert_mem_eq(second, both + IMF_FEATURES, sizeof(second));
    ck_assert_mem_ne(second, both, sizeof(second));
    int zeros = 0;
    for (int i = 0; i < IMF_FEATURES; i++) {
        ck_assert(isfinite(second[i]) && second[i] >= 0); /* means of ReLUs */
        zeros += second[i] == 0;
    }
    ck_assert_int_lt(zeros, IMF_FEATURES / 2);
    for (int i = 0; i < IMF_LOGITS; i++)
        ck_assert(isfinite(logits[i]));
    ck_assert(imf_inception_flops(narrow) < imf_inception_flops(net) / 100);
    ck_assert_str_ne(imf_inception_fingerprint(narrow), imf_inception_fingerprint(net));
    imf_inception_destroy(narrow);
}
END_TEST

START_TEST(test_wrong_files)
{
    struct imf_error err = {0};
    struct imf_inception *other = NULL;
    ck_assert_int_eq(imf_inception_load(&other, engine, "/nonexistent.pth", 1, &err), IMF_EIO);
    ck_assert_int_ne(imf_inception_load(&other, engine, GOLDEN "ref_stats.npz", 1, &err), IMF_OK);
    ck_assert_ptr_nonnull(strstr(err.message, "ref_stats.npz"));
    ck_assert_ptr_null(other);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("inception");
    TCase *tc = tcase_create("inception");
    tcase_set_timeout(tc, 300);
    tcase_add_unchecked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_golden);
    tcase_add_test(tc, test_any_batch);
    tcase_add_test(tc, test_flops);
    tcase_add_test(tc, test_narrow);
    tcase_add_test(tc, test_wrong_files);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK); /* OpenMP threads do not survive a fork */
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
