/* What a checkpoint says about itself: the published models are known by their sizes, others by the
 * metadata of their safetensors file: name, class_names (a JSON list), default_steps,
 * default_omega, default_t_min, default_t_max. */
#include "common/error.h"
#include "core/model.h"
#include "models/metadata.h"
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
    IMF_TRY(imf__metadata_defaults(&info->defaults, ld->ckpt, ld->err));
    return imf__metadata_class_names(&m->class_names, mit->classes, ld->ckpt, ld->err);
}

void imf__model_fingerprint(struct imf_model *m, const uint64_t mit[2], const uint64_t decoder[2])
{
    const struct imf__device *dev = m->engine->dev;
    char text[512];
    int n = snprintf(text, sizeof(text), "imf %s|%s|%s|%s|%d|%016llx%016llx|%016llx%016llx|",
                     imf_version(), dev->build, imf_precision_name(dev->precision),
                     imf__decoder_name(m->decoder.kind), m->mit.size, (unsigned long long)mit[0],
                     (unsigned long long)mit[1], (unsigned long long)decoder[0],
                     (unsigned long long)decoder[1]);
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, text, (size_t)n);
    /* Names are no part of the pixels, but of what is asked for by name and embedded in files. */
    for (int i = 0; m->class_names && i < m->mit.classes; i++)
        XXH3_128bits_update(&state, m->class_names[i], strlen(m->class_names[i]) + 1);
    XXH128_hash_t h = XXH3_128bits_digest(&state);
    snprintf(m->info.fingerprint, sizeof(m->info.fingerprint), "%016llx%016llx",
             (unsigned long long)h.high64, (unsigned long long)h.low64);
}
