/* .npz and .npy: both kinds of entry, round trips, and every way a file can be wrong. */
#include "files/npy.h"
#include "files/npz.h"

#include "imf_metrics.h"
#include "run_suite.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GOLDEN TESTS_DIR "/golden/inception/"

static char folder[] = "/tmp/test_npz_XXXXXX";
static char path[64];

static unsigned char *slurp(const char *name, size_t *n)
{
    FILE *f = fopen(name, "rb");
    ck_assert_ptr_nonnull(f);
    unsigned char *p = malloc(1 << 20);
    *n = fread(p, 1, 1 << 20, f);
    fclose(f);
    return p;
}

static void spill(const unsigned char *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(p, 1, n, f), n);
    fclose(f);
}

START_TEST(test_stored_and_deflated)
{
    struct imf_error err = {0};
    struct imf_reference *a = NULL, *b = NULL;
    ck_assert_int_eq(imf_reference_read(&a, GOLDEN "ref_stats.npz", 0, false, &err), IMF_OK);
    ck_assert_int_eq(imf_reference_read(&b, GOLDEN "ref_stats_compressed.npz", 64, false, &err),
                     IMF_OK);
    ck_assert_int_eq(a->dim, 64);
    ck_assert_mem_eq(a->mu, b->mu, 64 * 8);
    ck_assert_mem_eq(a->sigma, b->sigma, 64 * 64 * 8);
    ck_assert_str_eq(a->fingerprint, b->fingerprint);
    ck_assert_int_eq(imf_reference_write(path, a, &err), IMF_OK);
    struct imf_reference *c = NULL;
    ck_assert_msg(imf_reference_read(&c, path, 64, true, &err) == IMF_OK, "%s", err.message);
    ck_assert_mem_eq(a->sigma, c->sigma, 64 * 64 * 8);
    ck_assert_ptr_null(c->features);
    float rows[3 * 64];
    for (int i = 0; i < 3 * 64; i++)
        rows[i] = (float)i;
    struct imf_reference more = *a;
    more.features = rows;
    more.count = 3;
    ck_assert_int_eq(imf_reference_write(path, &more, &err), IMF_OK);
    imf_reference_free(c);
    ck_assert_int_eq(imf_reference_read(&c, path, 64, true, &err), IMF_OK);
    ck_assert_int_eq(c->count, 3);
    ck_assert_mem_eq(c->features, rows, sizeof(rows));
    imf_reference_free(c);
    /* Spatial features' statistics, as well. */
    more.mu_s = calloc(IMF_SPATIAL, sizeof(double));
    more.sigma_s = calloc((size_t)IMF_SPATIAL * IMF_SPATIAL, sizeof(double));
    more.mu_s[7] = 0.25;
    more.sigma_s[IMF_SPATIAL + 1] = 4;
    ck_assert_int_eq(imf_reference_write(path, &more, &err), IMF_OK);
    ck_assert_msg(imf_reference_read(&c, path, 64, false, &err) == IMF_OK, "%s", err.message);
    ck_assert_mem_eq(c->mu_s, more.mu_s, IMF_SPATIAL * sizeof(double));
    ck_assert_mem_eq(c->sigma_s, more.sigma_s, sizeof(double) * IMF_SPATIAL * IMF_SPATIAL);
    more.sigma_s[1] = 1; /* no longer symmetric */
    ck_assert_int_eq(imf_reference_write(path, &more, &err), IMF_OK);
    struct imf_reference *d = NULL;
    ck_assert_int_eq(imf_reference_read(&d, path, 64, false, &err), IMF_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.message, "sigma_s"));
    free(more.sigma_s);
    more.sigma_s = NULL;
    ck_assert_int_eq(imf_reference_write(path, &more, &err), IMF_OK);
    ck_assert_int_eq(imf_reference_read(&d, path, 64, false, &err), IMF_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.message, "without sigma_s"));
    free(more.mu_s);
    imf_reference_free(a);
    imf_reference_free(b);
    imf_reference_free(c);
}
END_TEST

/* Writes an archive of these arrays and expects imf_reference_read to say `words`. */
static void refuse(const struct imf__npz_source *arrays, size_t n, int dim, const char *words)
{
    struct imf_error err = {0};
    struct imf_reference *r = NULL;
    ck_assert_int_eq(imf__npz_write(path, arrays, n, &err), IMF_OK);
    ck_assert_int_eq(imf_reference_read(&r, path, dim, true, &err), IMF_EFORMAT);
    ck_assert_msg(strstr(err.message, words) != NULL, "%s", err.message);
    ck_assert_ptr_null(r);
}

START_TEST(test_refused_statistics)
{
    double mu[3] = {1, 2, 3}, sigma[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
    double skew[9] = {1, 5, 0, 0, 1, 0, 0, 0, 1}, nan[3] = {1, 0.0 / 0.0, 3};
    float sigma32[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
    struct imf__npz_source m = {.name = "mu", .ndim = 1, .shape = {3}, .f64 = mu};
    struct imf__npz_source s = {.name = "sigma", .ndim = 2, .shape = {3, 3}, .f64 = sigma};
    struct imf__npz_source pair[2] = {m, s};
    refuse(&m, 1, 0, "\"sigma\" is missing (found: mu)");
    refuse(&s, 1, 0, "\"mu\" is missing");
    refuse(pair, 2, 2048, "statistics of 3 features; 2048");
    pair[1].f64 = NULL;
    pair[1].f32 = sigma32;
    refuse(pair, 2, 0, "sigma must be float64");
    pair[1] = s;
    pair[1].shape[0] = 2;
    refuse(pair, 2, 0, "square");
    pair[1] = s;
    pair[1].ndim = 1;
    pair[1].shape[0] = 9;
    refuse(pair, 2, 0, "square");
    pair[1] = s;
    pair[1].f64 = skew;
    refuse(pair, 2, 0, "not symmetric");
    pair[1] = s;
    pair[0].f64 = nan;
    refuse(pair, 2, 0, "NaN");
}
END_TEST

/* Every truncation and every flipped byte is an error or the same numbers, and never a crash. */
static void damage(const char *name, size_t step)
{
    size_t n;
    unsigned char *p = slurp(name, &n);
    struct imf_reference *r = NULL;
    struct imf_error err = {0};
    for (size_t cut = 0; cut < n; cut += step) {
        spill(p, cut);
        ck_assert_int_ne(imf_reference_read(&r, path, 64, true, &err), IMF_OK);
    }
    struct imf_reference *good = NULL;
    ck_assert_int_eq(imf_reference_read(&good, name, 64, true, &err), IMF_OK);
    for (size_t i = 0; i < n; i += i < 400 || i + 400 > n ? 1 : step) {
        for (int bit = 0; bit < 8; bit += 7) {
            p[i] ^= (unsigned char)(1 << bit);
            spill(p, n);
            if (imf_reference_read(&r, path, 64, true, &err) == IMF_OK) {
                ck_assert_str_eq(r->fingerprint, good->fingerprint);
                imf_reference_free(r);
            }
            p[i] ^= (unsigned char)(1 << bit);
        }
    }
    imf_reference_free(good);
    free(p);
}

START_TEST(test_damage)
{
    damage(GOLDEN "ref_stats.npz", 397);
    damage(GOLDEN "ref_stats_compressed.npz", 131);
}
END_TEST

START_TEST(test_not_an_archive)
{
    struct imf_error err = {0};
    struct imf__npz *z = NULL;
    ck_assert_int_eq(imf__npz_open(&z, "/nonexistent.npz", &err), IMF_EIO);
    ck_assert_int_eq(imf__npz_open(&z, "/tmp", &err), IMF_EIO);
    ck_assert_int_eq(imf__npz_open(&z, GOLDEN "metrics.json", &err), IMF_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.message, "metrics.json"));
    spill((const unsigned char *)"", 0);
    ck_assert_int_eq(imf__npz_open(&z, path, &err), IMF_EFORMAT);
}
END_TEST

START_TEST(test_full_disk)
{
    struct imf_error err = {0};
    double mu[3] = {1, 2, 3};
    struct imf__npz_source m = {.name = "mu", .ndim = 1, .shape = {3}, .f64 = mu};
    ck_assert_int_eq(imf__npz_write("/nonexistent/x.npz", &m, 1, &err), IMF_EIO);
    ck_assert_int_eq(imf__npz_write("/dev/full", &m, 1, &err), IMF_EIO);
    ck_assert_ptr_nonnull(strstr(err.message, "free some space"));
}
END_TEST

/* What NumPy writes of arrays that are big-endian or in Fortran order. */
START_TEST(test_orders)
{
    static const struct {
        const char *descr, *order;
        double bytes[6]; /* in the order of the file */
        bool swapped, is_double;
    } cases[] = {
        {"<f8", "False", {1, 2, 3, 4, 5, 6}, false, true},
        {">f8", "False", {1, 2, 3, 4, 5, 6}, true, true},
        {">f4", "False", {1, 2, 3, 4, 5, 6}, true, false},
        {"<f8", "True", {1, 4, 2, 5, 3, 6}, false, true},
        {">f4", "True", {1, 4, 2, 5, 3, 6}, true, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        unsigned char file[256] = "\x93NUMPY\1";
        int n = snprintf((char *)file + 10, 128,
                         "{'descr': '%s', 'fortran_order': %s, 'shape': (2, 3), }\n",
                         cases[i].descr, cases[i].order);
        file[8] = (unsigned char)n;
        unsigned char *p = file + 10 + n;
        size_t width = cases[i].is_double ? 8 : 4;
        for (int k = 0; k < 6; k++, p += width) {
            float single = (float)cases[i].bytes[k];
            memcpy(p, cases[i].is_double ? (const void *)&cases[i].bytes[k] : &single, width);
            for (size_t b = 0; cases[i].swapped && b < width / 2; b++) {
                unsigned char t = p[b];
                p[b] = p[width - 1 - b];
                p[width - 1 - b] = t;
            }
        }
        spill(file, (size_t)(p - file));
        struct imf__npz *z = NULL;
        struct imf_error err = {0};
        double values[6];
        float singles[6];
        ck_assert_msg(imf__npz_open(&z, path, &err) == IMF_OK, "%s", err.message);
        const struct imf__npz_array *a = imf__npz_find(z, "");
        ck_assert_uint_eq(a->count, 6);
        ck_assert_int_eq(imf__npz_read_double(z, a, values, &err), IMF_OK);
        ck_assert_int_eq(imf__npz_read_float(z, a, singles, &err), IMF_OK);
        for (int k = 0; k < 6; k++)
            ck_assert(values[k] == k + 1 && singles[k] == (float)(k + 1));
        imf__npz_close(z);
    }
}
END_TEST

START_TEST(test_npy_round_trip)
{
    struct imf_error err = {0};
    float x[6] = {1, -2, 3.5f, 4, 5, 6}, y[6];
    ck_assert_int_eq(imf__npy_save(path, IMF__NPY_F32, 2, (const int64_t[]){2, 3}, x, &err),
                     IMF_OK);
    struct imf__npz *z = NULL;
    ck_assert_int_eq(imf__npz_open(&z, path, &err), IMF_OK);
    const struct imf__npz_array *r = imf__npz_find(z, "");
    ck_assert_int_eq(r->ndim, 2);
    ck_assert_uint_eq(r->shape[1], 3);
    ck_assert_int_eq(imf__npz_read_float(z, r, y, &err), IMF_OK);
    ck_assert_mem_eq(x, y, sizeof(x));
    imf__npz_close(z);
}
END_TEST

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof(path), "%s/a.npz", folder);
    Suite *s = suite_create("npz");
    TCase *tc = tcase_create("npz");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, test_stored_and_deflated);
    tcase_add_test(tc, test_refused_statistics);
    tcase_add_test(tc, test_damage);
    tcase_add_test(tc, test_not_an_archive);
    tcase_add_test(tc, test_full_disk);
    tcase_add_test(tc, test_orders);
    tcase_add_test(tc, test_npy_round_trip);
    suite_add_tcase(s, tc);
    int failed = run_suite(s, CK_NOFORK);
    unlink(path);
    rmdir(folder);
    return failed;
}
