/* Metadata of a checkpoint as numbers and lists. */
#include "models/metadata.h"

#include "common/error.h"
#include "common/json.h"

#include <stdlib.h>
#include <string.h>

static imf_status number(double *out, const struct imf__checkpoint *c, const char *key, double min,
                         double max, struct imf_error *err)
{
    const char *text = imf__checkpoint_metadata(c, key);
    if (!text)
        return IMF_OK;
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= min && v <= max))
        return imf__fail(err, IMF_EMODEL, "%.200s: metadata \"%s\" is \"%.40s\", expected %g..%g",
                         imf__checkpoint_path(c), key, text, min, max);
    *out = v;
    return IMF_OK;
}

imf_status imf__metadata_int(int *out, const struct imf__checkpoint *c, const char *key,
                             int fallback, int min, int max, struct imf_error *err)
{
    double v = fallback;
    IMF_TRY(number(&v, c, key, min, max, err));
    if (v != (int)v)
        return imf__fail(err, IMF_EMODEL, "%.200s: metadata \"%s\" is \"%.40s\", no whole number",
                         imf__checkpoint_path(c), key, imf__checkpoint_metadata(c, key));
    *out = (int)v;
    return IMF_OK;
}

imf_status imf__metadata_defaults(struct imf__meanflow_defaults *d, const struct imf__checkpoint *c,
                                  struct imf_error *err)
{
    const struct imf_sampling *s = &d->sampling;
    double noise_scale = (double)d->noise_scale;
    double omega = (double)s->omega, t_min = (double)s->t_min, t_max = (double)s->t_max;
    int steps;
    IMF_TRY(imf__metadata_int(&steps, c, "default_steps", s->steps, 1, IMF_MAX_STEPS, err));
    IMF_TRY(number(&omega, c, "default_omega", 1, 1000, err));
    IMF_TRY(number(&t_min, c, "default_t_min", 0, 1, err));
    IMF_TRY(number(&t_max, c, "default_t_max", t_min, 1, err));
    IMF_TRY(number(&noise_scale, c, "noise_scale", 1e-3, 1e3, err));
    d->sampling = (struct imf_sampling){steps, (float)omega, (float)t_min, (float)t_max};
    d->noise_scale = (float)noise_scale;
    return IMF_OK;
}

static imf_status parse_names(char **names, int classes, char *text)
{
    struct imf__json j;
    imf__json_init(&j, text, strlen(text));
    if (imf__json_next(&j) != IMF__JSON_ARRAY)
        return IMF_EMODEL;
    for (int i = 0; i < classes; i++) {
        if (imf__json_next(&j) != IMF__JSON_STRING || j.length == 0 || j.length > 200)
            return IMF_EMODEL;
        names[i] = strdup(j.string);
        if (!names[i])
            return IMF_ENOMEM;
    }
    return imf__json_next(&j) == IMF__JSON_ARRAY_END && imf__json_next(&j) == IMF__JSON_END
               ? IMF_OK
               : IMF_EMODEL;
}

imf_status imf__metadata_class_names(char ***out, int classes, const struct imf__checkpoint *c,
                                     struct imf_error *err)
{
    const char *text = imf__checkpoint_metadata(c, "class_names");
    if (!text) {
        *out = NULL;
        return IMF_OK;
    }
    char *copy = strdup(text); /* the parser decodes in place */
    char **names = calloc((size_t)classes, sizeof(*names));
    imf_status status = copy && names ? parse_names(names, classes, copy) : IMF_ENOMEM;
    free(copy);
    if (status == IMF_OK) {
        *out = names;
        return IMF_OK;
    }
    imf__class_names_free(names, classes);
    return imf__fail(err, status,
                     status == IMF_EMODEL
                         ? "%.200s: metadata \"class_names\" is no JSON list of %d names"
                         : "%.200s: out of memory for the names of %d classes",
                     imf__checkpoint_path(c), classes);
}

void imf__class_names_free(char **names, int classes)
{
    for (int i = 0; names && i < classes; i++)
        free(names[i]);
    free(names);
}
