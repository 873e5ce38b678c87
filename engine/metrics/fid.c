/* The Frechet distance of two Gaussians.
 *
 * tr sqrt(S1 S2) is computed without a square root of round-off: S = B B^T with B the eigenvectors
 * scaled by the square roots of the eigenvalues, and the eigenvalues of S1 S2 are the squared
 * singular values of B1^T B2, so the trace is the sum of those singular values. Eigenvalues of S
 * below dim * eps * the largest are round-off of zero and are dropped: with fewer images than
 * features (a rank-deficient S) a product of S1 and S2 would instead carry eigenvalues of +-1e-16
 * whose roots, 1e-8 each and a thousand of them, are seen in FID. */
#include "imf_metrics.h"

#include "common/error.h"
#include "metrics/linear_algebra.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* b (rank, dim): rows sqrt(w_i) v_i of the positive part of sigma. */
static imf_status factor(double *b, int *rank, const double *sigma, int dim, const char *name,
                         struct imf_error *err)
{
    size_t n = (size_t)dim;
    double *a = malloc(n * n * sizeof(double)), *w = malloc(n * sizeof(double));
    imf_status status = IMF_OK;
    if (!a || !w) {
        status = imf__fail(err, IMF_ENOMEM, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            a[i * n + j] = 0.5 * (sigma[i * n + j] + sigma[j * n + i]);
    if (imf__linear.dsyevd(LAPACK_COL_MAJOR, 'V', 'U', dim, a, dim, w) != 0) {
        status = imf__fail(err, IMF_EINVAL, "the eigenvalues of %s do not converge", name);
        goto out;
    }
    double floor = dim * DBL_EPSILON * fmax(w[n - 1], 0);
    *rank = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(w[i] > floor))
            continue;
        double root = sqrt(w[i]);
        for (size_t j = 0; j < n; j++)
            b[(size_t)*rank * n + j] = root * a[i * n + j];
        (*rank)++;
    }
out:
    free(a);
    free(w);
    return status;
}

static imf_status singular_sum(double *sum, const double *b1, int r1, const double *b2, int r2,
                               int dim, struct imf_error *err)
{
    *sum = 0;
    if (r1 == 0 || r2 == 0)
        return IMF_OK;
    int least = r1 < r2 ? r1 : r2;
    double *m = malloc((size_t)r1 * (size_t)r2 * sizeof(double));
    double *s = malloc((size_t)least * sizeof(double));
    imf_status status = IMF_OK;
    if (!m || !s) {
        status = imf__fail(err, IMF_ENOMEM, "out of memory");
        goto out;
    }
    imf__linear.dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, r1, r2, dim, 1, b1, dim, b2, dim, 0,
                      m, r2);
    /* Column-major (r2, r1): the transpose has the same singular values. */
    if (imf__linear.dgesdd(LAPACK_COL_MAJOR, 'N', r2, r1, m, r2, s, NULL, 1, NULL, 1) != 0) {
        status = imf__fail(err, IMF_EINVAL, "the singular values of sigma1 sigma2 do not converge");
        goto out;
    }
    for (int i = least - 1; i >= 0; i--) /* smallest first */
        *sum += s[i];
out:
    free(m);
    free(s);
    return status;
}

imf_status imf_fid(double *out, const double *mu1, const double *sigma1, const double *mu2,
                   const double *sigma2, int dim, struct imf_error *err)
{
    size_t n = (size_t)dim;
    double *b1 = malloc(n * n * sizeof(double)), *b2 = malloc(n * n * sizeof(double));
    int r1 = 0, r2 = 0;
    struct imf_error err2 = {0};
    imf_status status2 = IMF_OK;
    double cross = 0, distance = 0, traces = 0;
    imf_status status = imf__linear_load(err);
    if (status != IMF_OK)
        goto out;
    if (!b1 || !b2) {
        status = imf__fail(err, IMF_ENOMEM, "out of memory");
        goto out;
    }
#pragma omp parallel sections num_threads(2)
    {
#pragma omp section
        status = factor(b1, &r1, sigma1, dim, "sigma1", err);
#pragma omp section
        status2 = factor(b2, &r2, sigma2, dim, "sigma2", &err2);
    }
    if (status == IMF_OK && status2 != IMF_OK) {
        status = status2;
        if (err)
            *err = err2;
    }
    if (status == IMF_OK)
        status = singular_sum(&cross, b1, r1, b2, r2, dim, err);
    if (status != IMF_OK)
        goto out;
    for (size_t i = 0; i < n; i++) {
        distance += (mu1[i] - mu2[i]) * (mu1[i] - mu2[i]);
        traces += sigma1[i * n + i] + sigma2[i * n + i];
    }
    /* Equal distributions leave the rounding of the sums, which may be below zero. */
    double fid = distance + traces - 2 * cross;
    *out = fid > 0 ? fid : 0;
out:
    free(b1);
    free(b2);
    return status;
}
