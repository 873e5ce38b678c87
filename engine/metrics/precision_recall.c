/* Improved precision and recall. A set's manifold is the union of balls around its rows, each with
 * the distance to the k-th nearest other row as radius; precision is the share of generated rows
 * inside the real manifold, recall the reverse. Distances come from blocks of a matrix product,
 * |a|^2 + |b|^2 - 2 a.b in float64, so memory does not grow with the product of the sizes. */
#include "imf_metrics.h"

#include "common/error.h"
#include "metrics/linear_algebra.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 256, COLUMNS = 1024, MAX_K = 64 };

struct set {
    const float *x;
    int64_t n;
    double *squares; /* |row|^2 */
    double *radius2; /* squared distance to the k-th nearest other row */
};

/* Work space of one thread. */
struct work {
    double *a, *b, *d; /* (ROWS, dim), (COLUMNS, dim), (ROWS, COLUMNS) */
};

static bool work_alloc(struct work *w, int dim)
{
    w->a = malloc((size_t)ROWS * (size_t)dim * sizeof(double));
    w->b = malloc((size_t)COLUMNS * (size_t)dim * sizeof(double));
    w->d = malloc((size_t)ROWS * COLUMNS * sizeof(double));
    return w->a && w->b && w->d;
}

static void work_free(struct work *w)
{
    free(w->a);
    free(w->b);
    free(w->d);
}

static bool set_init(struct set *s, const float *x, int64_t n, int dim)
{
    s->x = x;
    s->n = n;
    s->squares = malloc((size_t)n * sizeof(double));
    s->radius2 = malloc((size_t)n * sizeof(double));
    if (!s->squares || !s->radius2)
        return false;
    for (int64_t i = 0; i < n; i++) {
        s->squares[i] = 0;
        for (int c = 0; c < dim; c++)
            s->squares[i] += (double)x[i * dim + c] * (double)x[i * dim + c];
    }
    return true;
}

static void set_free(struct set *s)
{
    free(s->squares);
    free(s->radius2);
}

static void widen(double *dst, const float *src, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        dst[i] = (double)src[i];
}

/* w->d (rows, columns) = squared distances of a's rows from i0 (already in w->a) to b's from j0. */
static void distances(struct work *w, const struct set *a, int64_t i0, int rows,
                      const struct set *b, int64_t j0, int columns, int dim)
{
    widen(w->b, b->x + j0 * dim, (int64_t)columns * dim);
    imf__linear.dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, columns, dim, -2, w->a, dim,
                      w->b, dim, 0, w->d, COLUMNS);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) {
            double *d = &w->d[(size_t)i * COLUMNS + j];
            *d = fmax(0, *d + a->squares[i0 + i] + b->squares[j0 + j]);
        }
}

static int least(int64_t a, int b)
{
    return a < b ? (int)a : b;
}

/* Keeps the k smallest values, ascending. */
static void keep_smallest(double *best, int k, double v)
{
    if (v >= best[k - 1])
        return;
    int i = k - 1;
    for (; i > 0 && best[i - 1] > v; i--)
        best[i] = best[i - 1];
    best[i] = v;
}

static void radii_of_rows(struct set *s, int64_t i0, int k, int dim, struct work *w)
{
    double best[ROWS][MAX_K];
    int rows = least(s->n - i0, ROWS);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < k; j++)
            best[i][j] = INFINITY;
    widen(w->a, s->x + i0 * dim, (int64_t)rows * dim);
    for (int64_t j0 = 0; j0 < s->n; j0 += COLUMNS) {
        int columns = least(s->n - j0, COLUMNS);
        distances(w, s, i0, rows, s, j0, columns, dim);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++)
                if (i0 + i != j0 + j)
                    keep_smallest(best[i], k, w->d[(size_t)i * COLUMNS + j]);
    }
    for (int i = 0; i < rows; i++)
        s->radius2[i0 + i] = best[i][k - 1];
}

static int64_t inside_rows(const struct set *a, int64_t i0, const struct set *b, int dim,
                           struct work *w)
{
    bool inside[ROWS] = {false};
    int rows = least(a->n - i0, ROWS);
    widen(w->a, a->x + i0 * dim, (int64_t)rows * dim);
    for (int64_t j0 = 0; j0 < b->n; j0 += COLUMNS) {
        int columns = least(b->n - j0, COLUMNS);
        distances(w, a, i0, rows, b, j0, columns, dim);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns && !inside[i]; j++)
                inside[i] = w->d[(size_t)i * COLUMNS + j] <= b->radius2[j0 + j];
    }
    int64_t count = 0;
    for (int i = 0; i < rows; i++)
        count += inside[i];
    return count;
}

/* Radii of s. False when out of memory. */
static bool fill_radii(struct set *s, int k, int dim)
{
    bool ok = true;
#pragma omp parallel reduction(&& : ok) num_threads(omp_get_num_procs())
    {
        struct work w = {0};
        ok = work_alloc(&w, dim);
#pragma omp for schedule(dynamic)
        for (int64_t i0 = 0; i0 < s->n; i0 += ROWS)
            if (ok)
                radii_of_rows(s, i0, k, dim, &w);
        work_free(&w);
    }
    return ok;
}

/* Share of a's rows within some ball of b. */
static bool share_inside(double *out, const struct set *a, const struct set *b, int dim)
{
    bool ok = true;
    int64_t count = 0;
#pragma omp parallel reduction(&& : ok) reduction(+ : count) num_threads(omp_get_num_procs())
    {
        struct work w = {0};
        ok = work_alloc(&w, dim);
#pragma omp for schedule(dynamic)
        for (int64_t i0 = 0; i0 < a->n; i0 += ROWS)
            if (ok)
                count += inside_rows(a, i0, b, dim, &w);
        work_free(&w);
    }
    *out = (double)count / (double)a->n;
    return ok;
}

imf_status imf_precision_recall(struct imf_precision_recall *out, const float *generated,
                                int64_t n_generated, const float *real, int64_t n_real, int dim,
                                int k, struct imf_error *err)
{
    if (k < 1 || k > MAX_K || n_generated <= k || n_real <= k)
        return imf__fail(err, IMF_EINVAL,
                         "precision and recall with k = %d need more than k images on both sides, "
                         "found %lld and %lld",
                         k, (long long)n_generated, (long long)n_real);
    struct set g = {0}, r = {0};
    imf_status status = imf__linear_load(err);
    if (status != IMF_OK)
        return status;
    if (!set_init(&g, generated, n_generated, dim) || !set_init(&r, real, n_real, dim) ||
        !fill_radii(&g, k, dim) || !fill_radii(&r, k, dim) ||
        !share_inside(&out->precision, &g, &r, dim) || !share_inside(&out->recall, &r, &g, dim))
        status = imf__fail(err, IMF_ENOMEM, "out of memory");
    set_free(&g);
    set_free(&r);
    return status;
}
