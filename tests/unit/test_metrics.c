/* FID, Inception Score, KID, precision and recall against values worked with torch-fidelity
 * (metrics.json) and with NumPy and SciPy (metrics_cases.json, tests/scripts/metrics_cases.py). */
#include "imf_metrics.h"

#include "files/npz.h"
#include "run_suite.h"

#include <cjson/cJSON.h>
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN TESTS_DIR "/golden/inception/"

struct matrix {
    float *x;
    int64_t rows;
    int columns;
};

static struct matrix load(const char *path)
{
    struct imf_error err = {0};
    struct imf__npz *z = NULL;
    ck_assert_msg(imf__npz_open(&z, path, &err) == IMF_OK, "%s", err.message);
    const struct imf__npz_array *a = imf__npz_find(z, "");
    ck_assert_ptr_nonnull(a);
    ck_assert_int_eq(a->ndim, 2);
    struct matrix m = {malloc(a->count * sizeof(float)), (int64_t)a->shape[0], (int)a->shape[1]};
    ck_assert_int_eq(imf__npz_read_float(z, a, m.x, &err), IMF_OK);
    imf__npz_close(z);
    return m;
}

static cJSON *load_json(const char *path)
{
    FILE *f = fopen(path, "rb");
    ck_assert_ptr_nonnull(f);
    static char text[1 << 16];
    size_t n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[n] = '\0';
    cJSON *json = cJSON_Parse(text);
    ck_assert_ptr_nonnull(json);
    return json;
}

static double number(const cJSON *json, const char *key, const char *field)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (field)
        item = cJSON_GetObjectItemCaseSensitive(item, field);
    ck_assert_msg(cJSON_IsNumber(item), "%s", key);
    return item->valuedouble;
}

static void assert_close(double found, double expected, double relative)
{
    ck_assert_msg(fabs(found - expected) <= relative * fabs(expected),
                  "found %.15g, expected %.15g", found, expected);
}

/* Mean and covariance of the first n rows, through the streaming tree. */
static void moments(const struct matrix *m, int64_t n, int block, double *mu, double *sigma)
{
    struct imf_error err = {0};
    struct imf_stats *s = NULL;
    int64_t blocks = (n + block - 1) / block, count = 0;
    ck_assert_int_eq(imf_stats_create(&s, m->columns, blocks, &err), IMF_OK);
    for (int64_t b = 0; b < blocks; b++) {
        int64_t rows = n - b * block < block ? n - b * block : block;
        ck_assert_int_eq(imf_stats_add(s, b, m->x + b * block * m->columns, (int)rows, &err),
                         IMF_OK);
    }
    ck_assert_msg(imf_stats_result(s, mu, sigma, &count, &err) == IMF_OK, "%s", err.message);
    ck_assert_int_eq(count, n);
    imf_stats_destroy(s);
}

static double fid_of(const struct matrix *m, int64_t n_mu, int64_t n_sigma, const char *ref)
{
    struct imf_error err = {0};
    struct imf_reference *r = NULL;
    ck_assert_msg(imf_reference_read(&r, ref, m->columns, true, &err) == IMF_OK, "%s", err.message);
    ck_assert_ptr_null(r->features);
    size_t d = (size_t)m->columns;
    double *mu = malloc(d * 8), *sigma = malloc(d * d * 8), *other = malloc(d * 8), fid = 0;
    moments(m, n_sigma, 16, other, sigma);
    double *scratch = malloc(d * d * 8);
    moments(m, n_mu, 64, mu, scratch);
    ck_assert_int_eq(imf_fid(&fid, mu, sigma, r->mu, r->sigma, m->columns, &err), IMF_OK);
    free(mu);
    free(sigma);
    free(other);
    free(scratch);
    imf_reference_free(r);
    return fid;
}

START_TEST(test_fid)
{
    cJSON *json = load_json(GOLDEN "metrics.json");
    struct matrix a = load(GOLDEN "fid_features_a.npy");
    double expected = number(json, "fid_a_vs_ref", "frechet_inception_distance");
    assert_close(fid_of(&a, a.rows, a.rows, GOLDEN "ref_stats.npz"), expected, 1e-6);
    assert_close(fid_of(&a, a.rows, a.rows, GOLDEN "ref_stats_compressed.npz"), expected, 1e-6);
    expected =
        number(json, "fid_rank_deficient_first40_of_a_sigma_vs_ref", "frechet_inception_distance");
    assert_close(fid_of(&a, a.rows, 40, GOLDEN "ref_stats.npz"), expected, 1e-6);
    free(a.x);
    cJSON_Delete(json);
}
END_TEST

/* Of a distribution with itself, and both sides rank-deficient. */
START_TEST(test_fid_zero)
{
    struct imf_error err = {0};
    struct matrix a = load(GOLDEN "fid_features_a.npy");
    size_t d = (size_t)a.columns;
    double *mu = malloc(d * 8), *sigma = malloc(d * d * 8), fid = 1;
    moments(&a, 40, 8, mu, sigma);
    ck_assert_int_eq(imf_fid(&fid, mu, sigma, mu, sigma, a.columns, &err), IMF_OK);
    double trace = 0;
    for (size_t i = 0; i < d; i++)
        trace += sigma[i * d + i];
    ck_assert_msg(fabs(fid) < 1e-11 * trace, "%g of trace %g", fid, trace);
    free(mu);
    free(sigma);
    free(a.x);
}
END_TEST

START_TEST(test_inception_score)
{
    struct imf_error err = {0};
    cJSON *json = load_json(GOLDEN "metrics.json");
    struct matrix logits = load(GOLDEN "is_logits.npy");
    struct imf_mean_std is;
    ck_assert_int_eq(
        imf_inception_score(&is, logits.x, logits.rows, logits.columns, 10, 2020, &err), IMF_OK);
    assert_close(is.mean, number(json, "isc_logits", "inception_score_mean"), 1e-6);
    assert_close(is.std, number(json, "isc_logits", "inception_score_std"), 1e-6);
    ck_assert_int_eq(imf_inception_score(&is, logits.x, 9, logits.columns, 10, 2020, &err),
                     IMF_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "at least 10 images, found 9"));
    free(logits.x);
    cJSON_Delete(json);
}
END_TEST

static void check_permutation(const cJSON *expected, int64_t n, uint32_t seed)
{
    int64_t *p = malloc((size_t)n * sizeof(*p));
    imf_permutation(p, n, seed);
    ck_assert_int_gt(cJSON_GetArraySize(expected), 0);
    for (int i = 0; i < cJSON_GetArraySize(expected); i++)
        ck_assert_int_eq(p[i], (int64_t)cJSON_GetArrayItem(expected, i)->valuedouble);
    free(p);
}

START_TEST(test_permutation)
{
    cJSON *json = load_json(GOLDEN "metrics.json");
    cJSON *cases = load_json(TESTS_DIR "/golden/metrics_cases.json");
    check_permutation(cJSON_GetObjectItem(json, "permutation_seed2020_n1000_first10"), 1000, 2020);
    check_permutation(cJSON_GetObjectItem(cases, "permutation_seed7_n10"), 10, 7);
    check_permutation(cJSON_GetObjectItem(cases, "permutation_seed123_n17"), 17, 123);
    cJSON_Delete(json);
    cJSON_Delete(cases);
}
END_TEST

/* The mixture that metrics_cases.py calls `near`. */
static struct matrix near_set(const struct matrix *a, const struct matrix *b)
{
    struct matrix m = {malloc((size_t)400 * (size_t)a->columns * sizeof(float)), 400, a->columns};
    for (int64_t i = 0; i < m.rows * m.columns; i++) {
        volatile float x = 0.35f * a->x[i], y = 0.65f * b->x[i]; /* no fused multiply-add */
        m.x[i] = x + y;
    }
    return m;
}

static void check_kid(const cJSON *cases, const char *key, const struct matrix *a,
                      const struct matrix *b, int subsets, int size, uint32_t seed)
{
    struct imf_error err = {0};
    struct imf_mean_std kid;
    ck_assert_int_eq(
        imf_kid(&kid, a->x, a->rows, b->x, b->rows, a->columns, subsets, size, seed, &err), IMF_OK);
    assert_close(kid.mean, number(cases, key, "mean"), 1e-9);
    assert_close(kid.std, number(cases, key, "std"), 1e-8);
}

static void check_pr(const cJSON *cases, const char *key, const struct matrix *a,
                     const struct matrix *b, int k)
{
    struct imf_error err = {0};
    struct imf_precision_recall pr;
    ck_assert_int_eq(imf_precision_recall(&pr, a->x, a->rows, b->x, b->rows, a->columns, k, &err),
                     IMF_OK);
    assert_close(pr.precision, number(cases, key, "precision"), 1e-12);
    assert_close(pr.recall, number(cases, key, "recall"), 1e-12);
}

START_TEST(test_kid_precision_recall)
{
    struct imf_error err = {0};
    cJSON *cases = load_json(TESTS_DIR "/golden/metrics_cases.json");
    struct matrix a = load(GOLDEN "fid_features_a.npy"), b = load(GOLDEN "fid_features_b.npy");
    struct matrix near = near_set(&a, &b);
    check_kid(cases, "kid_a_b_20x100_seed2020", &a, &b, 20, 100, 2020);
    check_kid(cases, "kid_near_b_5x300_seed7", &near, &b, 5, 300, 7);
    check_pr(cases, "pr_a_b_k3", &a, &b, 3);
    check_pr(cases, "pr_near_b_k3", &near, &b, 3);
    check_pr(cases, "pr_near_b_k5", &near, &b, 5);
    struct imf_mean_std kid;
    ck_assert_int_eq(imf_kid(&kid, a.x, a.rows, b.x, b.rows, a.columns, 1, 1000, 1, &err),
                     IMF_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "--kid-subset-size"));
    struct imf_precision_recall pr;
    ck_assert_int_eq(imf_precision_recall(&pr, a.x, 3, b.x, b.rows, a.columns, 3, &err),
                     IMF_EINVAL);
    free(a.x);
    free(b.x);
    free(near.x);
    cJSON_Delete(cases);
}
END_TEST

/* A point of each set on a line: radii and counts can be seen. k = 1. Real 0, 1, 10 have radii 1,
 * 1, 9; generated 1.5, 30, 31 radii 28.5, 1, 1. */
START_TEST(test_precision_recall_by_hand)
{
    struct imf_error err = {0};
    const float real[] = {0, 1, 10}, generated[] = {1.5f, 30, 31};
    struct imf_precision_recall pr;
    ck_assert_int_eq(imf_precision_recall(&pr, generated, 3, real, 3, 1, 1, &err), IMF_OK);
    assert_close(pr.precision, 1.0 / 3, 1e-12);
    assert_close(pr.recall, 1.0, 1e-12);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("metrics");
    TCase *tc = tcase_create("metrics");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_fid);
    tcase_add_test(tc, test_fid_zero);
    tcase_add_test(tc, test_inception_score);
    tcase_add_test(tc, test_permutation);
    tcase_add_test(tc, test_kid_precision_recall);
    tcase_add_test(tc, test_precision_recall_by_hand);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_NOFORK); /* OpenMP and OpenBLAS threads do not survive a fork */
}
