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

/* Mean and covariance, malloc'ed. */
static imf_status result(const struct imf_stats *stats, size_t dim, double **mu, double **sigma,
                         struct imf_error *err)
{
    int64_t n = 0;
    *mu = malloc(dim * sizeof(double));
    *sigma = malloc(dim * dim * sizeof(double));
    return *mu && *sigma ? imf_stats_result(stats, *mu, *sigma, &n, err)
                         : imf__fail(err, IMF_ENOMEM, "out of memory");
}

static imf_status frechet(const struct eval_job *job, const struct imf_reference *mine,
                          const struct imf_reference *reference, struct eval_scores *out,
                          struct imf_error *err)
{
    announce(job, "FID");
    IMF_TRY(imf_fid(&out->fid, mine->mu, mine->sigma, reference->mu, reference->sigma, IMF_FEATURES,
                    err));
    out->has_fid = true;
    memcpy(out->reference_fingerprint, reference->fingerprint, sizeof(reference->fingerprint));
    if (!mine->mu_s || !reference->mu_s)
        return IMF_OK;
    announce(job, "sFID");
    IMF_TRY(imf_fid(&out->sfid, mine->mu_s, mine->sigma_s, reference->mu_s, reference->sigma_s,
                    IMF_SPATIAL, err));
    out->has_sfid = true;
    return IMF_OK;
}

imf_status eval_score(const struct eval_job *job, const struct eval_state *state,
                      const float *logits, const float *features,
                      const struct imf_reference *reference, struct eval_scores *out,
                      struct imf_error *err)
{
    double start = imf__seconds();
    struct imf_reference mine = {.dim = IMF_FEATURES, .count = job->images};
    const struct imf_stats *spatial = eval_state_spatial(state);
    memset(out, 0, sizeof(*out));
    imf_status status = result(eval_state_stats(state), IMF_FEATURES, &mine.mu, &mine.sigma, err);
    if (status == IMF_OK && spatial)
        status = result(spatial, IMF_SPATIAL, &mine.mu_s, &mine.sigma_s, err);
    if (status == IMF_OK && job->options.make_ref) {
        struct imf_reference made = mine; /* borrows the features, which others own */
        made.features = job->options.keep_features ? (float *)(uintptr_t)features : NULL;
        status = imf_reference_write(job->options.make_ref, &made, err);
    }
    out->has_is = job->images >= EVAL_IS_SPLITS;
    if (status == IMF_OK && out->has_is)
        status = imf_inception_score(&out->is, logits, job->images, IMF_LOGITS, EVAL_IS_SPLITS,
                                     EVAL_SEED, err);
    if (status == IMF_OK && reference)
        status = frechet(job, &mine, reference, out, err);
    if (status == IMF_OK && reference)
        status = distances(job, features, reference, out, err);
    out->seconds = imf__seconds() - start;
    free(mine.mu);
    free(mine.sigma);
    free(mine.mu_s);
    free(mine.sigma_s);
    return status;
}
