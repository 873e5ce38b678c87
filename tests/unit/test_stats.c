/* The streaming statistics: against two plain passes, in any order of arrival, bit for bit. */
#include "imf_metrics.h"
#include "run_suite.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DIM = 37, BLOCK = 8 };

/* Features with a mean a million times their spread: where a sum of squares would lose all. */
static float *samples(int64_t n)
{
    float *x = malloc((size_t)n * DIM * sizeof(float));
    uint32_t state = 1;
    for (int64_t i = 0; i < n * DIM; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = 4096 + (float)(i % DIM) + (float)(state >> 20) / 4096.0f;
    }
    return x;
}

static struct imf_stats *new_stats(int64_t n)
{
    struct imf_error err = {0};
    struct imf_stats *s = NULL;
    ck_assert_int_eq(imf_stats_create(&s, DIM, (n + BLOCK - 1) / BLOCK, &err), IMF_OK);
    return s;
}

static void add(struct imf_stats *s, const float *x, int64_t n, int64_t block)
{
    struct imf_error err = {0};
    int64_t rows = n - block * BLOCK < BLOCK ? n - block * BLOCK : BLOCK;
    ck_assert_msg(imf_stats_add(s, block, x + block * BLOCK * DIM, (int)rows, &err) == IMF_OK, "%s",
                  err.message);
}

struct result {
    double mean[DIM], cov[DIM * DIM];
};

static struct result take(struct imf_stats *s, int64_t n)
{
    struct imf_error err = {0};
    struct result r;
    int64_t count = 0;
    ck_assert(imf_stats_complete(s));
    ck_assert_int_eq(imf_stats_result(s, r.mean, r.cov, &count, &err), IMF_OK);
    ck_assert_int_eq(count, n);
    imf_stats_destroy(s);
    return r;
}

static struct result in_order(const float *x, int64_t n)
{
    struct imf_stats *s = new_stats(n);
    for (int64_t b = 0; b * BLOCK < n; b++)
        add(s, x, n, b);
    return take(s, n);
}

START_TEST(test_two_pass)
{
    for (int64_t n = 2; n < 140; n += 13) {
        float *x = samples(n);
        struct result r = in_order(x, n);
        for (int i = 0; i < DIM; i++) {
            for (int j = 0; j < DIM; j++) {
                long double mi = 0, mj = 0, sum = 0;
                for (int64_t k = 0; k < n; k++) {
                    mi += (long double)x[k * DIM + i] / n;
                    mj += (long double)x[k * DIM + j] / n;
                }
                for (int64_t k = 0; k < n; k++)
                    sum += (x[k * DIM + i] - mi) * (x[k * DIM + j] - mj);
                double expected = (double)(sum / (n - 1));
                ck_assert_msg(fabs(r.cov[i * DIM + j] - expected) < 1e-11, "n %d (%d,%d) %g %g",
                              (int)n, i, j, r.cov[i * DIM + j], expected);
                if (j == i)
                    ck_assert(fabs(r.mean[i] - (double)mi) < 1e-10);
            }
        }
        free(x);
    }
}
END_TEST

/* Backwards, shuffled, and through nodes gathered from several holders: the same bits. */
START_TEST(test_any_order)
{
    for (int blocks = 1; blocks <= 23; blocks++) {
        int64_t n = blocks * BLOCK - 3, order[32];
        float *x = samples(n);
        struct result expected = in_order(x, n);
        for (uint32_t seed = 0; seed < 4; seed++) {
            struct imf_stats *s = new_stats(n);
            imf_permutation(order, blocks, seed);
            for (int b = 0; b < blocks; b++)
                add(s, x, n, order[b]);
            struct result r = take(s, n);
            ck_assert_mem_eq(&r, &expected, sizeof(r));
        }
        for (int holders = 2; holders <= 5; holders++) {
            struct imf_error err = {0};
            struct imf_stats *root = new_stats(n);
            for (int h = 0; h < holders; h++) {
                struct imf_stats *s = new_stats(n);
                for (int b = blocks * h / holders; b < blocks * (h + 1) / holders; b++)
                    add(s, x, n, b);
                for (size_t i = 0; i < imf_stats_node_count(s); i++)
                    ck_assert_int_eq(imf_stats_put(root, imf_stats_node_at(s, i), &err), IMF_OK);
                imf_stats_destroy(s);
            }
            struct result r = take(root, n);
            ck_assert_mem_eq(&r, &expected, sizeof(r));
        }
        free(x);
    }
}
END_TEST

/* Nothing grows with the number of blocks but its logarithm. */
START_TEST(test_memory)
{
    int64_t n = 500 * BLOCK;
    float *x = samples(n);
    struct imf_stats *s = new_stats(n);
    for (int64_t b = 0; b < 500; b++) {
        add(s, x, n, b);
        ck_assert_uint_le(imf_stats_node_count(s), 10);
        ck_assert(imf_stats_has(s, b));
        ck_assert(!imf_stats_has(s, b + 1));
    }
    imf_stats_destroy(s);
    free(x);
}
END_TEST

START_TEST(test_refusals)
{
    struct imf_error err = {0};
    int64_t n = 4 * BLOCK;
    float *x = samples(n);
    struct imf_stats *s = new_stats(n), *t = new_stats(n);
    ck_assert_int_eq(imf_stats_add(s, 4, x, BLOCK, &err), IMF_EINVAL);
    add(s, x, n, 0);
    ck_assert_int_eq(imf_stats_add(s, 0, x, BLOCK, &err), IMF_EINVAL); /* twice */
    add(t, x, n, 0);
    add(t, x, n, 1);
    const struct imf_stats_node *pair = imf_stats_node_at(t, 0);
    ck_assert_int_eq(pair->level, 1);
    ck_assert_int_eq(imf_stats_put(s, pair, &err), IMF_EFORMAT); /* overlaps block 0 */
    ck_assert_int_eq(imf_stats_put(t, imf_stats_node_at(s, 0), &err), IMF_OK); /* there already */
    ck_assert_uint_eq(imf_stats_node_count(t), 1);
    struct imf_stats_node bad = *pair;
    bad.level = 60;
    ck_assert_int_eq(imf_stats_put(s, &bad, &err), IMF_EFORMAT);
    bad = *pair;
    bad.m2_n--;
    ck_assert_int_eq(imf_stats_put(s, &bad, &err), IMF_EFORMAT);
    x[5] = NAN;
    ck_assert_int_eq(imf_stats_add(s, 2, x, BLOCK, &err), IMF_EINVAL);
    double mean[DIM], cov[DIM * DIM];
    int64_t count;
    ck_assert_int_eq(imf_stats_result(s, mean, cov, &count, &err), IMF_EINVAL);
    imf_stats_destroy(s);
    imf_stats_destroy(t);
    free(x);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("stats");
    TCase *tc = tcase_create("stats");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_two_pass);
    tcase_add_test(tc, test_any_order);
    tcase_add_test(tc, test_memory);
    tcase_add_test(tc, test_refusals);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_NOFORK);
}
