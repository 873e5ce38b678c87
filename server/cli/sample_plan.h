/* What `imfd sample` is to draw: a list of samples from --classes and --seeds, from a JSON file, or
 * the release's grid. Made before the model is loaded, so that mistakes are found at once, and
 * completed with the model's own settings afterwards. */
#ifndef IMFD_SAMPLE_PLAN_H
#define IMFD_SAMPLE_PLAN_H

#include "imf.h"
#include "base/options.h"

struct imfd_sample {
    int32_t label; /* negative: chosen by imfd_plan_complete */
    const char
        *class_name;       /* looked up by imfd_plan_complete; NULL: the label counts. Of argv or */
    int class_name_length; /* the plan's file, and perhaps without a NUL at its end */
    uint64_t seed;
    struct imf_sampling sampling; /* steps 0, the floats NaN: the model's */
};

struct imfd_plan {
    struct imfd_sample *samples; /* owned */
    size_t n;
    struct cJSON *file; /* owned; of --per-sample, else NULL */
};

struct imfd_plan_options {
    const char *classes;          /* "cat,1,4-7,golden retriever" or NULL */
    struct imfd_list seeds;       /* owned */
    struct imf_sampling sampling; /* as above */
    const char *per_sample;       /* JSON file or NULL */
    int num_images;               /* 0: not given */
    uint64_t sample_seed;
};

/* NaN and 0 everywhere. */
void imfd_plan_options_init(struct imfd_plan_options *o);
/* Frees the list. */
void imfd_plan_options_free(struct imfd_plan_options *o);

/* IMF_EINVAL where the options or the file contradict themselves; err says what. */
IMF_MUST_CHECK imf_status imfd_plan_make(struct imfd_plan *plan, const struct imfd_plan_options *o,
                                         struct imf_error *err);
/* Fills in labels and settings, and checks them against the model. IMF_EINVAL as above. */
IMF_MUST_CHECK imf_status imfd_plan_complete(struct imfd_plan *plan, const struct imf_model *model,
                                             struct imf_error *err);
void imfd_plan_free(struct imfd_plan *plan);

#endif
