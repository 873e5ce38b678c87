/* From statistics, logits and features to the numbers. */
#include "evaluate/evaluate.h"

#include "common/clock.h"
#include "common/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Minutes with many images: say what is going on. Progress is saved by now, so a kill costs only
 * this. */
static void announce(const struct eval_job *job, const char *what)
{
    if (!job->options.quiet)
        fprintf(stderr, "imfd evaluate: computing %s\n", what);
}

static imf_status distances(const struct eval_job *job, const float *features,
                            const struct imf_reference *reference, struct eval_scores *out,
                            struct imf_error *err)
{
    const struct eval_options *o = &job->options;
    imf_status status = IMF_OK;
    if (o->kid) {
        announce(job, "KID");
        status = imf_kid(&out->kid, features, job->images, reference->features, reference->count,
                         IMF_FEATURES, o->kid_subsets, o->kid_subset_size, EVAL_SEED, err);
        out->has_kid = status == IMF_OK;
    }
    if (status == IMF_OK && o->precision_recall) {
        announce(job, "precision and recall");
        status = imf_precision_recall(&out->pr, features, job->images, reference->features,
                                      reference->count, IMF_FEATURES, EVAL_PR_K, err);
        out->has_pr = status == IMF_OK;
    }
    return status;
}

imf_status eval_score(const struct eval_job *job, const struct imf_stats *stats,
                      const float *logits, const float *features,
                      const struct imf_reference *reference, struct eval_scores *out,
                      struct imf_error *err)
{
    double start = imf__seconds();
    size_t d = IMF_FEATURES;
    int64_t n = 0;
    memset(out, 0, sizeof(*out));
    double *mu = malloc(d * sizeof(double)), *sigma = malloc(d * d * sizeof(double));
    imf_status status = mu && sigma ? imf_stats_result(stats, mu, sigma, &n, err)
                                    : imf__fail(err, IMF_ENOMEM, "out of memory");
    if (status == IMF_OK && job->options.make_ref)
        status =
            imf_reference_write(job->options.make_ref, mu, sigma, IMF_FEATURES,
                                job->options.keep_features ? features : NULL, job->images, err);
    out->has_is = job->images >= EVAL_IS_SPLITS;
    if (status == IMF_OK && out->has_is)
        status = imf_inception_score(&out->is, logits, job->images, IMF_LOGITS, EVAL_IS_SPLITS,
                                     EVAL_SEED, err);
    if (status == IMF_OK && reference) {
        announce(job, "FID");
        status = imf_fid(&out->fid, mu, sigma, reference->mu, reference->sigma, IMF_FEATURES, err);
        out->has_fid = status == IMF_OK;
        memcpy(out->reference_fingerprint, reference->fingerprint, sizeof(reference->fingerprint));
    }
    if (status == IMF_OK && reference)
        status = distances(job, features, reference, out, err);
    out->seconds = imf__seconds() - start;
    free(mu);
    free(sigma);
    return status;
}
