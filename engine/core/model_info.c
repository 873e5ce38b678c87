/* What a checkpoint says about itself: the published models are known by their sizes, others by the
 * metadata of their safetensors file: name, class_names (a JSON list), default_steps,
 * default_omega, default_t_min, default_t_max, noise_scale. */
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

imf_status imf__model_describe(struct imf_model *m, struct imf__loader *ld, float noise_scale)
{
    struct imf_model_info *info = &m->info;
    const struct imf__meanflow *net = &m->net;
    struct imf__meanflow_defaults defaults = imf__meanflow_defaults(&net->shape);
    const char *name = imf__checkpoint_metadata(ld->ckpt, "name");
    imf__meanflow_title(info->name, &net->shape);
    if (name && name_is_plain(name))
        snprintf(info->name, sizeof(info->name), "%s", name);
    snprintf(info->checkpoint_key, sizeof(info->checkpoint_key), "%.63s",
             imf__checkpoint_nesting(ld->ckpt));
    snprintf(info->checkpoint_others, sizeof(info->checkpoint_others), "%.127s",
             imf__checkpoint_others(ld->ckpt));
    info->depth = net->depth;
    info->shared_depth = net->shared_depth;
    info->hidden = net->D;
    info->heads = net->NH;
    info->mlp_hidden = net->M;
    info->classes = net->classes;
    info->channels = net->channels;
    info->input_size = net->size;
    info->patch_size = net->patch;
    info->parameters = ld->parameters;
    info->step_flops = imf__meanflow_flops(net);
    IMF_TRY(imf__metadata_defaults(&defaults, ld->ckpt, ld->err));
    info->defaults = defaults.sampling;
    info->noise_scale = noise_scale > 0 ? noise_scale : defaults.noise_scale;
    return imf__metadata_class_names(&m->class_names, net->classes, ld->ckpt, ld->err);
}

void imf__model_fingerprint(struct imf_model *m, const uint64_t net[2], const uint64_t decoder[2])
{
    const struct imf__device *dev = m->engine->dev;
    char text[512];
    int n = snprintf(
        text, sizeof(text), "imf %s|%s|%s|%s %d|%d|%.9g|%016llx%016llx|%016llx%016llx|",
        imf_version(), dev->build, imf_precision_name(dev->precision),
        imf__decoder_name(m->decoder.kind), m->decoder.norm_groups, m->net.size,
        (double)m->info.noise_scale, (unsigned long long)net[0], (unsigned long long)net[1],
        (unsigned long long)decoder[0], (unsigned long long)decoder[1]);
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, text, (size_t)n);
    /* Names are no part of the pixels, but of what is asked for by name and embedded in files. */
    for (int i = 0; m->class_names && i < m->net.classes; i++)
        XXH3_128bits_update(&state, m->class_names[i], strlen(m->class_names[i]) + 1);
    XXH128_hash_t h = XXH3_128bits_digest(&state);
    snprintf(m->info.fingerprint, sizeof(m->info.fingerprint), "%016llx%016llx",
             (unsigned long long)h.high64, (unsigned long long)h.low64);
}

enum imf_file_kind imf_file_identify(const char *path, char name[64])
{
    struct imf__checkpoint *c;
    struct imf__meanflow_shape shape;
    name[0] = '\0';
    if (imf__checkpoint_open(&c, path, NULL, NULL) != IMF_OK)
        return IMF_FILE_OTHER;
    enum imf__model_kind kind = imf__model_kind_of(c);
    enum imf_file_kind found = IMF_FILE_OTHER;
    if (kind == IMF__MODEL_SD_VAE || kind == IMF__MODEL_TAESD)
        found = IMF_FILE_DECODER;
    else if (kind == IMF__MODEL_MIT || kind == IMF__MODEL_PMF)
        found = IMF_FILE_MODEL;
    if (found == IMF_FILE_MODEL && imf__meanflow_shape_read(&shape, c, NULL) == IMF_OK &&
        imf__meanflow_name(&shape))
        snprintf(name, 64, "%s", imf__meanflow_name(&shape));
    imf__checkpoint_close(c);
    return found;
}
