/* What a checkpoint says about itself: the published models are known by their sizes, others by the
 * metadata of their safetensors file: name, class_names (a JSON list), default_steps,
 * default_omega, default_t_min, default_t_max. */
#include "common/error.h"
#include "files/json.h"
#include "core/model.h"
#include "models/model_names.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Names appear in URLs and file names. */
static bool name_is_plain(const char *s)
{
    size_t n = strlen(s);
    if (n == 0 || n >= sizeof(((struct imf_model_info *)0)->name) || s[0] == '.')
        return false;
    for (; *s; s++) {
        if (!isalnum((unsigned char)*s) && !strchr("_-.", *s))
            return false;
    }
    return true;
}

static imf_status metadata_number(struct imf__loader *ld, const char *key, double min, double max,
                                  double *out)
{
    const char *text = imf__checkpoint_metadata(ld->ckpt, key);
    if (!text)
        return IMF_OK;
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= min && v <= max))
        return imf__fail(ld->err, IMF_EMODEL, "%s: metadata \"%s\" is \"%.40s\", expected %g..%g",
                         imf__checkpoint_path(ld->ckpt), key, text, min, max);
    *out = v;
    return IMF_OK;
}

static imf_status read_defaults(struct imf_sampling *s, struct imf__loader *ld)
{
    double steps = s->steps, omega = (double)s->omega;
    double t_min = (double)s->t_min, t_max = (double)s->t_max;
    IMF_TRY(metadata_number(ld, "default_steps", 1, IMF_MAX_STEPS, &steps));
    IMF_TRY(metadata_number(ld, "default_omega", 1, 1000, &omega));
    IMF_TRY(metadata_number(ld, "default_t_min", 0, 1, &t_min));
    IMF_TRY(metadata_number(ld, "default_t_max", t_min, 1, &t_max));
    *s = (struct imf_sampling){(int)steps, (float)omega, (float)t_min, (float)t_max};
    return IMF_OK;
}

static imf_status parse_class_names(struct imf_model *m, char *text, size_t size)
{
    struct imf__json j;
    imf__json_init(&j, text, size);
    if (imf__json_next(&j) != IMF__JSON_ARRAY)
        return IMF_EMODEL;
    for (int i = 0; i < m->mit.classes; i++) {
        if (imf__json_next(&j) != IMF__JSON_STRING || j.length == 0 || j.length > 200)
            return IMF_EMODEL;
        m->class_names[i] = strdup(j.string);
        if (!m->class_names[i])
            return IMF_ENOMEM;
    }
    return imf__json_next(&j) == IMF__JSON_ARRAY_END ? IMF_OK : IMF_EMODEL;
}

static imf_status read_class_names(struct imf_model *m, struct imf__loader *ld)
{
    const char *text = imf__checkpoint_metadata(ld->ckpt, "class_names");
    if (!text)
        return IMF_OK;
    char *copy = strdup(text); /* the parser decodes in place */
    m->class_names = calloc((size_t)m->mit.classes, sizeof(*m->class_names));
    imf_status status =
        copy && m->class_names ? parse_class_names(m, copy, strlen(copy)) : IMF_ENOMEM;
    free(copy);
    if (status == IMF_EMODEL)
        imf__fail(ld->err, status, "%s: metadata \"class_names\" is no JSON list of %d names",
                  imf__checkpoint_path(ld->ckpt), m->mit.classes);
    else if (status != IMF_OK)
        imf__fail(ld->err, status, "no memory for the class names");
    return status;
}

void imf__model_free_class_names(struct imf_model *m)
{
    for (int i = 0; m->class_names && i < m->mit.classes; i++)
        free(m->class_names[i]);
    free(m->class_names);
    m->class_names = NULL;
}

imf_status imf__model_describe(struct imf_model *m, struct imf__loader *ld)
{
    struct imf_model_info *info = &m->info;
    const struct imf__mit *mit = &m->mit;
    struct imf__mit_shape shape = {.depth = mit->depth,
                                   .shared_depth = mit->shared_depth,
                                   .hidden = mit->D,
                                   .mlp_hidden = mit->M,
                                   .classes = mit->classes,
                                   .channels = mit->channels,
                                   .patch_size = mit->patch};
    const char *published = imf__mit_shape_name(&shape);
    const char *name = imf__checkpoint_metadata(ld->ckpt, "name");
    if (name && name_is_plain(name))
        snprintf(info->name, sizeof(info->name), "%s", name);
    else if (published)
        snprintf(info->name, sizeof(info->name), "%s", published);
    else
        snprintf(info->name, sizeof(info->name), "MiT_d%d_h%d", mit->depth, mit->D);
    snprintf(info->checkpoint_key, sizeof(info->checkpoint_key), "%.63s",
             imf__checkpoint_nesting(ld->ckpt));
    snprintf(info->checkpoint_others, sizeof(info->checkpoint_others), "%.127s",
             imf__checkpoint_others(ld->ckpt));
    info->depth = mit->depth;
    info->shared_depth = mit->shared_depth;
    info->hidden = mit->D;
    info->heads = mit->NH;
    info->mlp_hidden = mit->M;
    info->classes = mit->classes;
    info->channels = mit->channels;
    info->input_size = mit->size;
    info->patch_size = mit->patch;
    info->parameters = ld->parameters;
    info->step_flops = imf__mit_flops(mit);
    info->defaults = imf__mit_defaults(&shape);
    IMF_TRY(read_defaults(&info->defaults, ld));
    return read_class_names(m, ld);
}

void imf__model_fingerprint(struct imf_model *m, const uint64_t mit[2], const uint64_t decoder[2])
{
    const struct imf__device *dev = m->engine->dev;
    char text[512];
    int n =
        snprintf(text, sizeof(text), "imf %s|%s|%s|%s|%016llx%016llx|%016llx%016llx", imf_version(),
                 dev->build, imf_precision_name(dev->precision), imf__decoder_name(m->decoder.kind),
                 (unsigned long long)mit[0], (unsigned long long)mit[1],
                 (unsigned long long)decoder[0], (unsigned long long)decoder[1]);
    XXH128_hash_t h = XXH3_128bits(text, (size_t)n);
    snprintf(m->info.fingerprint, sizeof(m->info.fingerprint), "%016llx%016llx",
             (unsigned long long)h.high64, (unsigned long long)h.low64);
}
