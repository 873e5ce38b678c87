/* The list of samples that `imfd sample` draws. */
#include "cli/sample_plan.h"
#include "cli/common.h"
#include "common/error.h"
#include "base/json_read.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PLAN_FILE_MAX ((size_t)16 << 20)
#define PLAN_MAX 1000000

/* The classes of the release's sample mode, seeds 0..7, shown as 2 rows of 4. */
static const int32_t release_labels[] = {207, 360, 387, 974, 88, 979, 417, 279};
enum { RELEASE_COUNT = sizeof(release_labels) / sizeof(release_labels[0]) };
enum { LABEL_MISSING = -1, LABEL_EVENLY = -2, LABEL_OF_RELEASE = -3 };

void imfd_plan_options_init(struct imfd_plan_options *o)
{
    *o = (struct imfd_plan_options){.sample_seed = 42};
    o->sampling = (struct imf_sampling)SAMPLING_UNSET;
}

void imfd_plan_options_free(struct imfd_plan_options *o)
{
    imfd_list_free(&o->classes);
    imfd_list_free(&o->seeds);
}

void imfd_plan_free(struct imfd_plan *plan)
{
    free(plan->samples);
    plan->samples = NULL;
    plan->n = 0;
}

static imf_status allocate(struct imfd_plan *plan, size_t n, struct imf_error *err)
{
    plan->samples = calloc(n, sizeof(*plan->samples));
    if (!plan->samples)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    plan->n = n;
    return IMF_OK;
}

/* ---- The JSON file ---- */

/* A whole number of 0..max in *out. */
static bool whole(const cJSON *v, double max, uint64_t *out)
{
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0) || v->valuedouble > max ||
        v->valuedouble != floor(v->valuedouble))
        return false;
    *out = (uint64_t)v->valuedouble;
    return true;
}

/* One member of entry i. */
static imf_status read_member(struct imfd_sample *s, const cJSON *v, const char *path, size_t i,
                              struct imf_error *err)
{
    uint64_t n = 0;
    const char *name = v->string;
    float *real = strcmp(name, "omega") == 0   ? &s->sampling.omega
                  : strcmp(name, "t_min") == 0 ? &s->sampling.t_min
                  : strcmp(name, "t_max") == 0 ? &s->sampling.t_max
                                               : NULL;
    if (real) {
        if (!cJSON_IsNumber(v) || !isfinite((float)v->valuedouble))
            return imf__fail(err, IMF_EINVAL, "%s: entry %zu: \"%s\" must be a number", path, i,
                             name);
        *real = (float)v->valuedouble;
    } else if (strcmp(name, "class") == 0) {
        if (!whole(v, INT32_MAX, &n))
            return imf__fail(err, IMF_EINVAL, "%s: entry %zu: \"class\" must be a class index",
                             path, i);
        s->label = (int32_t)n;
    } else if (strcmp(name, "seed") == 0) {
        if (!whole(v, 0x1p53, &s->seed))
            return imf__fail(err, IMF_EINVAL,
                             "%s: entry %zu: \"seed\" must be a whole number up to 2^53", path, i);
    } else if (strcmp(name, "steps") == 0) {
        if (!whole(v, IMF_MAX_STEPS, &n) || n == 0)
            return imf__fail(err, IMF_EINVAL,
                             "%s: entry %zu: \"steps\" must be a whole number between 1 and %d",
                             path, i, IMF_MAX_STEPS);
        s->sampling.steps = (int)n;
    } else {
        return imf__fail(err, IMF_EINVAL,
                         "%s: entry %zu: unknown key \"%.40s\" (known: class, seed, steps, omega, "
                         "t_min, t_max)",
                         path, i, name);
    }
    return IMF_OK;
}

static imf_status read_entry(struct imfd_sample *s, const cJSON *entry, const char *path, size_t i,
                             struct imf_error *err)
{
    if (!cJSON_IsObject(entry))
        return imf__fail(err, IMF_EINVAL, "%s: entry %zu is not an object", path, i);
    for (const cJSON *v = entry->child; v; v = v->next) {
        for (const cJSON *w = entry->child; w != v; w = w->next) {
            if (strcmp(w->string, v->string) == 0)
                return imf__fail(err, IMF_EINVAL, "%s: entry %zu: \"%.40s\" is given twice", path,
                                 i, v->string);
        }
        imf_status status = read_member(s, v, path, i, err);
        if (status != IMF_OK)
            return status;
    }
    if (s->label == LABEL_MISSING)
        return imf__fail(err, IMF_EINVAL, "%s: entry %zu has no \"class\"", path, i);
    return IMF_OK;
}

static imf_status from_file(struct imfd_plan *plan, const struct imfd_plan_options *o,
                            struct imf_error *err)
{
    char *text = NULL;
    size_t size = 0;
    cJSON *root = NULL;
    const char *path = o->per_sample;
    struct imf__json_fault fault;
    imf_status status = imfd_read_file(&text, &size, path, PLAN_FILE_MAX, err);
    if (status != IMF_OK)
        return status;
    root = json_read(text, size, &fault);
    if (!root) {
        status =
            imf__fail(err, IMF_EINVAL, "%s: not valid JSON (line %d): %s%s%s", path,
                      json_line(text, fault.at), fault.why, fault.twice ? ": " : "", fault.key);
        goto out;
    }
    int n = cJSON_IsArray(root) ? cJSON_GetArraySize(root) : 0;
    if (n < 1 || n > PLAN_MAX) {
        status = imf__fail(err, IMF_EINVAL,
                           "%s: must be a list of 1 to %d objects such as {\"class\": 207, "
                           "\"seed\": 0}",
                           path, PLAN_MAX);
        goto out;
    }
    status = allocate(plan, (size_t)n, err);
    size_t i = 0;
    for (const cJSON *entry = root->child; entry && status == IMF_OK; entry = entry->next, i++) {
        plan->samples[i] =
            (struct imfd_sample){.label = LABEL_MISSING, .seed = i, .sampling = o->sampling};
        status = read_entry(&plan->samples[i], entry, path, i, err);
    }
out:
    cJSON_Delete(root);
    free(text);
    return status;
}

/* ---- Flags ---- */

/* One value for all, or one each. */
static uint64_t pick(const struct imfd_list *list, size_t i, uint64_t otherwise)
{
    return list->count == 0 ? otherwise : list->values[list->count == 1 ? 0 : i];
}

static imf_status from_lists(struct imfd_plan *plan, const struct imfd_plan_options *o,
                             struct imf_error *err)
{
    size_t classes = o->classes.count, seeds = o->seeds.count;
    if (classes > 1 && seeds > 1 && classes != seeds)
        return imf__fail(err, IMF_EINVAL,
                         "--classes has %zu values and --seeds %zu: give as many, or one of either",
                         classes, seeds);
    size_t n = classes > seeds ? classes : seeds;
    imf_status status = allocate(plan, n ? n : RELEASE_COUNT, err);
    for (size_t i = 0; status == IMF_OK && i < plan->n; i++) {
        plan->samples[i].label = classes ? (int32_t)pick(&o->classes, i, 0)
                                 : seeds ? LABEL_EVENLY
                                         : LABEL_OF_RELEASE;
        plan->samples[i].seed = pick(&o->seeds, i, i);
        plan->samples[i].sampling = o->sampling;
    }
    return status;
}

/* The release's evaluate mode: N pictures over all classes in turn, seed k XOR sample_seed. */
static imf_status from_count(struct imfd_plan *plan, const struct imfd_plan_options *o,
                             struct imf_error *err)
{
    imf_status status = allocate(plan, (size_t)o->num_images, err);
    for (size_t i = 0; status == IMF_OK && i < plan->n; i++) {
        plan->samples[i] = (struct imfd_sample){
            .label = LABEL_EVENLY, .seed = i ^ o->sample_seed, .sampling = o->sampling};
    }
    return status;
}

imf_status imfd_plan_make(struct imfd_plan *plan, const struct imfd_plan_options *o,
                          struct imf_error *err)
{
    bool lists = o->classes.count || o->seeds.count;
    *plan = (struct imfd_plan){.n = 0};
    if ((o->per_sample != NULL) + lists + (o->num_images > 0) > 1)
        return imf__fail(err, IMF_EINVAL,
                         "give either --per-sample, --num-images, or --classes and --seeds");
    imf_status status = o->per_sample       ? from_file(plan, o, err)
                        : o->num_images > 0 ? from_count(plan, o, err)
                                            : from_lists(plan, o, err);
    if (status != IMF_OK)
        imfd_plan_free(plan);
    return status;
}

imf_status imfd_plan_complete(struct imfd_plan *plan, const struct imf_model_info *info,
                              struct imf_error *err)
{
    for (size_t i = 0; i < plan->n; i++) {
        struct imfd_sample *s = &plan->samples[i];
        struct imf_sampling *g = &s->sampling;
        /* The release's grid where the model has its classes, else all classes in turn. */
        if (s->label == LABEL_OF_RELEASE && info->classes == 1000)
            s->label = release_labels[i];
        else if (s->label < 0)
            s->label = (int32_t)(i * (size_t)info->classes / plan->n);
        sampling_complete(g, &info->defaults);
        if (s->label > info->classes)
            return imf__fail(err, IMF_EINVAL,
                             "class %" PRId32 " of sample %zu: %s has classes 0 to %d (%d is the "
                             "unconditional one)",
                             s->label, i, info->name, info->classes, info->classes);
        if (g->omega < 1 || g->t_min < 0 || g->t_max > 1 || g->t_min > g->t_max)
            return imf__fail(err, IMF_EINVAL,
                             "sample %zu: omega %g, t_min %g, t_max %g: omega must be at least 1 "
                             "and 0 <= t_min <= t_max <= 1",
                             i, (double)g->omega, (double)g->t_min, (double)g->t_max);
    }
    return IMF_OK;
}
