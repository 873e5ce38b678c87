/* All that is checked before hours of work: settings, references, files. */
#include "evaluate/setup.h"

#include "common/error.h"
#include "models/model_names.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_SIZE = 4096 };

static imf_status choose_sampling(struct eval_job *job, const struct imf_model_info *info,
                                  struct imf_error *err)
{
    struct imf_sampling *p = &job->sampling;
    *p = job->options.sampling;
    sampling_complete(p, &info->defaults);
    if (p->t_min > p->t_max)
        return imf__fail(err, IMF_EINVAL, "--t-min %g is above --t-max %g", (double)p->t_min,
                         (double)p->t_max);
    return IMF_OK;
}

static imf_status describe_model(struct eval_job *job, const struct eval_setup *s,
                                 struct imf_error *err)
{
    const struct imf_model_info *info = imf_model_get_info(s->devices[0].model);
    const struct eval_options *o = &job->options;
    if (o->model && !imf__meanflow_same_name(o->model, info->name))
        return imf__fail(err, IMF_EINVAL, "%s holds %s, not --model %s", o->checkpoint, info->name,
                         o->model);
    if (!info->image_width)
        return imf__fail(
            err, IMF_EINVAL,
            "--decoder is needed: %s draws latents, of which an sd-vae or taesd file or "
            "folder makes pictures",
            info->name);
    job->classes = info->classes;
    job->width = info->image_width;
    job->height = info->image_height;
    job->images = o->num_images;
    int64_t below = job->images / info->classes * info->classes;
    if (below != job->images)
        return imf__fail(err, IMF_EINVAL,
                         "--num-images %lld is not a multiple of the model's %d classes, which get "
                         "equally many pictures: use %lld",
                         (long long)job->images, info->classes,
                         (long long)(below ? below : info->classes));
    return choose_sampling(job, info, err);
}

/* A float as the shortest decimal number that means it, so that 0.4 is written 0.4. */
static void add_float(cJSON *json, const char *name, float value)
{
    char text[32];
    snprintf(text, sizeof(text), "%.7g", (double)value);
    cJSON_AddNumberToObject(json, name, strtod(text, NULL));
}

/* Everything that decides the result, in fixed order; a line each. */
static imf_status describe(struct eval_job *job, const struct eval_setup *s, struct imf_error *err)
{
    const struct eval_device *d = &s->devices[0];
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "images", (double)job->images);
    cJSON_AddNumberToObject(json, "block", EVAL_BLOCK);
    if (job->source) {
        char text[33];
        imf_status status = eval_source_fingerprint(job->source, text, err);
        if (status != IMF_OK) {
            cJSON_Delete(json);
            return status;
        }
        cJSON_AddStringToObject(json, "folder", text);
    } else {
        const struct imf_model_info *info = imf_model_get_info(d->model);
        char seed[32];
        snprintf(seed, sizeof(seed), "%llu", (unsigned long long)job->options.sample_seed);
        cJSON_AddStringToObject(json, "model", info->name);
        cJSON_AddStringToObject(json, "decoder", info->decoder);
        cJSON_AddStringToObject(json, "fingerprint", info->fingerprint);
        cJSON_AddStringToObject(json, "precision",
                                imf_precision_name(imf_engine_get_info(d->engine)->precision));
        cJSON_AddNumberToObject(json, "classes", info->classes);
        cJSON_AddNumberToObject(json, "steps", job->sampling.steps);
        add_float(json, "omega", job->sampling.omega);
        add_float(json, "t_min", job->sampling.t_min);
        add_float(json, "t_max", job->sampling.t_max);
        add_float(json, "noise_scale", info->noise_scale);
        cJSON_AddStringToObject(json, "sample_seed", seed);
    }
    cJSON_AddStringToObject(json, "inception", imf_inception_fingerprint(d->lanes[0].net));
    cJSON_AddStringToObject(json, "device", eval_is_cuda(d->name) ? "cuda" : "cpu");
    cJSON_AddBoolToObject(json, "features_kept", job->want_features);
    if (job->want_spatial)
        cJSON_AddBoolToObject(json, "spatial", true);
    job->settings = cJSON_Print(json);
    cJSON_Delete(json);
    return job->settings ? IMF_OK : imf__fail(err, IMF_ENOMEM, "out of memory");
}

/* Before hours of work: can the numbers asked for be computed, and written? */
static imf_status check_reference(struct eval_setup *s, const struct eval_options *o,
                                  struct imf_error *err)
{
    bool features = o->kid || o->precision_recall;
    imf_status status = imf_reference_read(&s->reference, o->fid_ref, IMF_FEATURES, features, err);
    if (status == IMF_OK && o->sfid && !s->reference->mu_s)
        return imf__fail(err, IMF_EINVAL,
                         "%s holds no mu_s and sigma_s, which --sfid needs: a reference of the ADM "
                         "suite does, or make one with imfd evaluate --images DIR --make-ref FILE "
                         "--sfid",
                         o->fid_ref);
    if (status != IMF_OK || !features)
        return status;
    if (!s->reference->features)
        return imf__fail(err, IMF_EINVAL,
                         "%s holds no features, which --kid and --precision-recall need: make it "
                         "with imfd evaluate --images DIR --make-ref FILE --keep-features",
                         o->fid_ref);
    if (o->kid && s->reference->count < o->kid_subset_size)
        return imf__fail(err, IMF_EINVAL,
                         "%s holds %lld rows of features; pass --kid-subset-size "
                         "of at most that",
                         o->fid_ref, (long long)s->reference->count);
    if (o->precision_recall && s->reference->count <= EVAL_PR_K)
        return imf__fail(err, IMF_EINVAL, "%s holds too few rows of features", o->fid_ref);
    return IMF_OK;
}

static imf_status check_make_ref(const char *path, struct imf_error *err)
{
    char folder[PATH_SIZE];
    snprintf(folder, sizeof(folder), "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = '\0';
    if (access(slash ? folder : ".", W_OK) != 0)
        return imf__fail(err, IMF_EINVAL, "--make-ref %s: %s", path, strerror(errno));
    return IMF_OK;
}

static imf_status open_source(struct eval_job *job, bool tell, struct imf_error *err)
{
    const struct eval_options *o = &job->options;
    char text[160];
    IMF_TRY(eval_source_open(&job->source, o->images, o->recursive,
                             o->num_images_given ? o->num_images : 0, err));
    job->images = eval_source_count(job->source);
    eval_source_describe(job->source, text);
    if (tell)
        fprintf(stderr, "imfd evaluate: %s: %s\n", o->images, text);
    return IMF_OK;
}

/* The reference, which rank 0 alone has read, decides for all ranks. */
static bool wants_spatial(const struct eval_setup *s, const struct eval_options *o,
                          const struct imfd_ranks *ranks)
{
    bool here = ranks->mpi.rank != 0 || o->sfid || (s->reference && s->reference->mu_s);
    return imfd_ranks_all(ranks, here);
}

imf_status eval_setup_load(struct eval_setup *s, struct eval_job *job,
                           const struct imfd_ranks *ranks, struct imf_error *err)
{
    const struct eval_options options = job->options;
    job->want_features = options.kid || options.precision_recall || options.keep_features;
    imf_status status = IMF_OK;
    if (options.fid_ref && ranks->mpi.rank == 0)
        status = check_reference(s, &options, err);
    job->want_spatial = wants_spatial(s, &options, ranks);
    if (status == IMF_OK && options.make_ref && ranks->mpi.rank == 0)
        status = check_make_ref(options.make_ref, err);
    if (status == IMF_OK && options.images)
        status = open_source(job, ranks->mpi.rank == 0 && !options.quiet, err);
    if (status == IMF_OK)
        status = eval_devices_load(s, job, ranks, err);
    if (status == IMF_OK && !options.images)
        status = describe_model(job, s, err);
    /* Statistics alone can be made of fewer. */
    if (status == IMF_OK && job->images < EVAL_IS_SPLITS && !options.make_ref)
        status = imf__fail(err, IMF_EINVAL, "the Inception Score needs at least %d images",
                           EVAL_IS_SPLITS);
    if (status == IMF_OK && job->images < 2)
        status = imf__fail(err, IMF_EINVAL, "statistics need at least 2 images");
    if (status == IMF_OK && options.kid && job->images < options.kid_subset_size)
        status = imf__fail(err, IMF_EINVAL, "--kid-subset-size %d is more than the %lld images",
                           options.kid_subset_size, (long long)job->images);
    if (status != IMF_OK)
        return status;
    job->blocks = (job->images + EVAL_BLOCK - 1) / EVAL_BLOCK;
    return describe(job, s, err);
}

void eval_setup_free(struct eval_setup *s, struct eval_job *job)
{
    eval_devices_free(s);
    imf_reference_free(s->reference);
    eval_source_close(job->source);
    free(job->settings);
}
