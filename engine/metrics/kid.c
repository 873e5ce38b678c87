/* Kernel Inception Distance: unbiased MMD^2 with a cubic polynomial kernel over random subsets, as
 * torch-fidelity computes it, in float64. Subsets are spread over OpenMP threads; each calls BLAS
 * with one thread, and the drawing of rows is sequential, so the result is reproducible. */
#include "imf_metrics.h"

#include "common/error.h"
#include "metrics/linear_algebra.h"
#include "metrics/random_permutation.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

static double kernel(double dot, int dim)
{
    double v = dot / dim + 1;
    return v * v * v;
}

static void gather(double *dst, const float *src, const int64_t *rows, int size, int dim)
{
    for (int r = 0; r < size; r++)
        for (int c = 0; c < dim; c++)
            dst[(size_t)r * dim + c] = (double)src[rows[r] * dim + c];
}

/* Sum of the kernel over all pairs, the diagonal left out where x and y are the same rows. */
static double kernel_sum(const double *x, const double *y, double *gram, int size, int dim)
{
    imf__linear.dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, size, size, dim, 1, x, dim, y, dim,
                      0, gram, size);
    double sum = 0;
    for (int i = 0; i < size; i++)
        for (int j = 0; j < size; j++)
            if (x != y || i != j)
                sum += kernel(gram[(size_t)i * size + j], dim);
    return sum;
}

static bool subset_mmd(double *out, const float *a, const int64_t *rows_a, const float *b,
                       const int64_t *rows_b, int size, int dim)
{
    size_t n = (size_t)size * (size_t)dim;
    double *x = malloc(n * sizeof(double)), *y = malloc(n * sizeof(double));
    double *gram = malloc((size_t)size * (size_t)size * sizeof(double));
    bool ok = x && y && gram;
    if (ok) {
        gather(x, a, rows_a, size, dim);
        gather(y, b, rows_b, size, dim);
        double m = size;
        double same = kernel_sum(x, x, gram, size, dim) + kernel_sum(y, y, gram, size, dim);
        *out = same / (m * (m - 1)) - 2 * kernel_sum(x, y, gram, size, dim) / (m * m);
    }
    free(x);
    free(y);
    free(gram);
    return ok;
}

imf_status imf_kid(struct imf_mean_std *out, const float *a, int64_t na, const float *b, int64_t nb,
                   int dim, int subsets, int size, uint32_t seed, struct imf_error *err)
{
    if (subsets < 1 || size < 2 || na < size || nb < size || na > UINT32_MAX || nb > UINT32_MAX)
        return imf__fail(err, IMF_EINVAL,
                         "KID with subsets of %d needs at least as many images on both sides, "
                         "found %lld and %lld; pass a smaller --kid-subset-size",
                         size, (long long)na, (long long)nb);
    int64_t *permutation = malloc((size_t)(na > nb ? na : nb) * sizeof(int64_t));
    int64_t *rows = malloc((size_t)subsets * 2 * (size_t)size * sizeof(int64_t));
    double *mmd = calloc((size_t)subsets, sizeof(double));
    imf_status status = imf__linear_load(err);
    if (status != IMF_OK)
        goto out;
    if (!permutation || !rows || !mmd) {
        status = imf__fail(err, IMF_ENOMEM, "out of memory");
        goto out;
    }
    struct imf__mt19937 random;
    imf__mt19937_seed(&random, seed);
    for (int i = 0; i < 2 * subsets; i++) {
        imf__random_permutation(&random, permutation, i % 2 ? nb : na);
        for (int r = 0; r < size; r++)
            rows[(size_t)i * size + r] = permutation[r];
    }
    bool ok = true;
#pragma omp parallel for schedule(dynamic) reduction(&& : ok) num_threads(omp_get_num_procs())
    for (int i = 0; i < subsets; i++)
        ok = subset_mmd(&mmd[i], a, rows + (size_t)2 * i * size, b,
                        rows + (size_t)(2 * i + 1) * size, size, dim) &&
             ok;
    if (!ok) {
        status = imf__fail(err, IMF_ENOMEM, "out of memory");
        goto out;
    }
    double mean = 0, variance = 0;
    for (int i = 0; i < subsets; i++)
        mean += mmd[i] / subsets;
    for (int i = 0; i < subsets; i++)
        variance += (mmd[i] - mean) * (mmd[i] - mean) / subsets;
    out->mean = mean;
    out->std = sqrt(variance);
out:
    free(permutation);
    free(rows);
    free(mmd);
    return status;
}
