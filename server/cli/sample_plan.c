/* The list of samples that `imfd sample` draws. */
#include "cli/sample_plan.h"
#include "base/read_file.h"
#include "cli/common.h"
#include "common/error.h"
#include "api/classes.h"
#include "base/json_read.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
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
    *o = (struct imfd_plan_options){0};
    o->sampling = (struct imf_sampling)SAMPLING_UNSET;
}

void imfd_plan_options_free(struct imfd_plan_options *o)
{
    imfd_list_free(&o->seeds);
}

void imfd_plan_free(struct imfd_plan *plan)
{
    free(plan->samples);
    cJSON_Delete(plan->file);
    *plan = (struct imfd_plan){.n = 0};
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
        size_t length = cJSON_IsString(v) ? strlen(v->valuestring) : 0;
        if (!whole(v, INT32_MAX, &n) && (length == 0 || length > CLASSES_MAX_QUERY))
            return imf__fail(err, IMF_EINVAL,
                             "%s: entry %zu: \"class\" must be an index, a WordNet id or a name",
                             path, i);
        s->label = (int32_t)n;
        s->class_name = length ? v->valuestring : NULL;
        s->class_name_length = (int)length;
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
    const char *path = o->per_sample;
    struct imf__json_fault fault;
    imf_status status = imfd_read_file(&text, &size, path, PLAN_FILE_MAX, true, err);
    if (status != IMF_OK)
        return status;
    cJSON *root = plan->file = json_read(text, size, &fault);
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
    free(text);
    return status;
}

/* ---- Flags ---- */

/* One class, or a range of them, between the commas of --classes. */
struct item {
    const char *name; /* NULL: the classes first..last */
    int length;
    int32_t first, last;
};

/* Digits at *at, which moves behind them. False when there are none, or they exceed a label. */
static bool read_index(const char **at, const char *end, int32_t *out)
{
    int64_t v = 0;
    const char *start = *at;
    for (; *at < end && **at >= '0' && **at <= '9'; ++*at) {
        v = v * 10 + (**at - '0');
        if (v > INT32_MAX)
            return false;
    }
    *out = (int32_t)v;
    return *at > start;
}

/* The item at *at, which moves to the next one, or to NULL after the last. What has nothing but
 * digits and a dash between them is one of numbers; all else is a name. */
static bool next_item(const char **at, struct item *item)
{
    const char *start = *at, *end = start + strcspn(start, ",");
    *at = *end == ',' ? end + 1 : NULL;
    *item = (struct item){.name = start, .length = (int)(end - start)};
    size_t digits = strspn(start, "0123456789");
    size_t more = start[digits] == '-' ? 1 + strspn(start + digits + 1, "0123456789") : 0;
    if (end == start || end - start > CLASSES_MAX_QUERY)
        return false;
    if (digits == 0 || more == 1 || start + digits + more != end)
        return true;
    item->name = NULL;
    if (!read_index(&start, end, &item->first))
        return false;
    item->last = item->first;
    return start == end ||
           (start++, read_index(&start, end, &item->last) && item->first <= item->last);
}

/* Counts the classes of --classes and, unless `samples` is NULL, writes one into each. */
static imf_status read_classes(const char *text, struct imfd_sample *samples, size_t *n,
                               struct imf_error *err)
{
    struct item item;
    *n = 0;
    for (const char *at = text; at;) {
        const char *start = at;
        size_t many = 1;
        bool ok = next_item(&at, &item);
        if (ok && !item.name)
            many = (size_t)(item.last - item.first) + 1;
        if (!ok || many > IMFD_LIST_MAX - *n)
            return imf__fail(err, IMF_EINVAL,
                             "--classes must be up to %d indices, ranges, WordNet ids or names "
                             "with commas between, not '%.80s'",
                             IMFD_LIST_MAX, *start ? start : text);
        for (size_t i = 0; samples && i < many; i++) {
            samples[*n + i].label = item.first + (int32_t)i;
            samples[*n + i].class_name = item.name;
            samples[*n + i].class_name_length = item.length;
        }
        *n += many;
    }
    return IMF_OK;
}

static imf_status from_lists(struct imfd_plan *plan, const struct imfd_plan_options *o,
                             struct imf_error *err)
{
    size_t classes = 0, seeds = o->seeds.count;
    imf_status status = o->classes ? read_classes(o->classes, NULL, &classes, err) : IMF_OK;
    if (status != IMF_OK)
        return status;
    if (classes > 1 && seeds > 1 && classes != seeds)
        return imf__fail(err, IMF_EINVAL,
                         "--classes has %zu values and --seeds %zu: give as many, or one of either",
                         classes, seeds);
    size_t n = classes > seeds ? classes : seeds;
    status = allocate(plan, n ? n : RELEASE_COUNT, err);
    if (status == IMF_OK && classes)
        status = read_classes(o->classes, plan->samples, &classes, err);
    for (size_t i = 0; status == IMF_OK && i < plan->n; i++) {
        struct imfd_sample *s = &plan->samples[i];
        if (classes == 1) /* one for all */
            *s = plan->samples[0];
        else if (classes == 0)
            s->label = seeds ? LABEL_EVENLY : LABEL_OF_RELEASE;
        s->seed = seeds == 0 ? i : o->seeds.values[seeds == 1 ? 0 : i];
        s->sampling = o->sampling;
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
    bool lists = o->classes || o->seeds.count;
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

/* ---- Completing ---- */

static const char *name_of(void *user, int label)
{
    return imf_model_class_name(user, label);
}

/* The label of a class by its name, as the HTTP interface understands it. */
static imf_status find_class(struct imfd_sample *s, const char *option,
                             const struct classes *classes, struct imf_error *err)
{
    struct class_lookup found;
    const char *name = s->class_name;
    size_t length = (size_t)s->class_name_length, used = 0;
    if (length == 4 && memcmp(name, "none", 4) == 0) {
        s->label = classes_count(classes);
        return IMF_OK;
    }
    enum class_match match = classes_find(classes, name, length, &found);
    if (match == CLASS_FOUND) {
        s->label = found.index;
        return IMF_OK;
    }
    char near[360] = "";
    for (int i = 0; i < found.n_candidates && used < sizeof(near) - 1; i++) {
        int n = snprintf(near + used, sizeof(near) - used, "%s%d (%s)", i ? ", " : "",
                         found.candidates[i], classes_get(classes, found.candidates[i])->name);
        used += n > 0 ? (size_t)n : 0;
    }
    if (found.n_candidates == 0)
        snprintf(near, sizeof(near), "classes are 0 (%s) to %d (%s)", classes_get(classes, 0)->name,
                 classes_count(classes) - 1,
                 classes_get(classes, classes_count(classes) - 1)->name);
    int shown = s->class_name_length < 80 ? s->class_name_length : 80;
    return imf__fail(err, IMF_EINVAL, "%s: %s \"%.*s\": %s", option,
                     match == CLASS_AMBIGUOUS ? "several classes are called" : "no class is called",
                     shown, name, near);
}

static imf_status find_classes(struct imfd_plan *plan, const struct imf_model *model,
                               struct imf_error *err)
{
    struct classes *classes = NULL;
    int count = imf_model_get_info(model)->classes;
    imf_status status = IMF_OK;
    for (size_t i = 0; i < plan->n && status == IMF_OK; i++) {
        if (!plan->samples[i].class_name)
            continue;
        if (!classes)
            classes = count == CLASSES_IMAGENET
                          ? classes_create_imagenet()
                          : classes_create_named(count, name_of, (void *)(uintptr_t)model);
        status = classes ? find_class(&plan->samples[i], plan->file ? "--per-sample" : "--classes",
                                      classes, err)
                         : imf__fail(err, IMF_ENOMEM, "out of memory");
    }
    classes_destroy(classes);
    return status;
}

imf_status imfd_plan_complete(struct imfd_plan *plan, const struct imf_model *model,
                              struct imf_error *err)
{
    const struct imf_model_info *info = imf_model_get_info(model);
    imf_status status = find_classes(plan, model, err);
    if (status != IMF_OK)
        return status;
    for (size_t i = 0; i < plan->n; i++) {
        struct imfd_sample *s = &plan->samples[i];
        struct imf_sampling *g = &s->sampling;
        /* The release's grid where the model has its classes, else all classes in turn. */
        if (s->label == LABEL_OF_RELEASE && info->classes == CLASSES_IMAGENET)
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
