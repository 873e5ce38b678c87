/* Inception Score: exp of the mean KL divergence between a picture's class distribution and the
 * split's mean distribution, over splits of permuted rows. All in float64. */
#include "imf_metrics.h"

#include "common/error.h"

#include <math.h>
#include <stdlib.h>

/* log p of one row of logits; p = exp of it. */
static void log_softmax(double *log_p, const float *logits, int classes)
{
    double top = (double)logits[0], sum = 0;
    for (int c = 1; c < classes; c++)
        top = fmax(top, (double)logits[c]);
    for (int c = 0; c < classes; c++)
        sum += exp((double)logits[c] - top);
    double shift = top + log(sum);
    for (int c = 0; c < classes; c++)
        log_p[c] = (double)logits[c] - shift;
}

/* exp(mean KL(p || q)) over rows[0..n) with q the mean of p; log_p and q are work space. */
static double split_score(const float *logits, const int64_t *rows, int64_t n, int classes,
                          double *log_p, double *q)
{
    for (int c = 0; c < classes; c++)
        q[c] = 0;
    for (int64_t r = 0; r < n; r++) {
        log_softmax(log_p, logits + rows[r] * classes, classes);
        for (int c = 0; c < classes; c++)
            q[c] += exp(log_p[c]);
    }
    for (int c = 0; c < classes; c++)
        q[c] = log(q[c] / (double)n);
    double total = 0;
    for (int64_t r = 0; r < n; r++) {
        log_softmax(log_p, logits + rows[r] * classes, classes);
        double kl = 0;
        for (int c = 0; c < classes; c++) {
            double p = exp(log_p[c]);
            if (p > 0) /* p log p is 0 there, and q may be 0 too */
                kl += p * (log_p[c] - q[c]);
        }
        total += kl;
    }
    return exp(total / (double)n);
}

imf_status imf_inception_score(struct imf_mean_std *out, const float *logits, int64_t n,
                               int classes, int splits, uint32_t seed, struct imf_error *err)
{
    if (splits < 1 || n < splits || n > UINT32_MAX)
        return imf__fail(err, IMF_EINVAL,
                         "the Inception Score with %d splits needs at least %d images, found %lld",
                         splits, splits, (long long)n);
    int64_t *rows = malloc((size_t)n * sizeof(*rows));
    double *work = malloc(2 * (size_t)classes * sizeof(double));
    double *scores = calloc((size_t)splits, sizeof(double));
    imf_status status = IMF_OK;
    if (!rows || !work || !scores) {
        status = imf__fail(err, IMF_ENOMEM, "out of memory");
        goto out;
    }
    imf_permutation(rows, n, seed);
    double mean = 0, variance = 0;
    for (int i = 0; i < splits; i++) {
        int64_t from = i * n / splits, to = (i + 1) * n / splits;
        scores[i] = split_score(logits, rows + from, to - from, classes, work, work + classes);
        mean += scores[i] / splits;
    }
    for (int i = 0; i < splits; i++)
        variance += (scores[i] - mean) * (scores[i] - mean) / splits;
    out->mean = mean;
    out->std = sqrt(variance);
out:
    free(rows);
    free(work);
    free(scores);
    return status;
}
