/* Checkpoints against the lists of model_names.h: which model a file holds, and a tensor under any
 * of the names it is known by. */
#include "models/model_names.h"

#include "files/checkpoint_parts.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_names[] = {"unknown", "MiT", "sd-vae", "taesd", "InceptionV3"};

const char *imf__model_kind_name(enum imf__model_kind kind)
{
    return kind_names[kind];
}

enum imf__model_kind imf__model_kind_of(const struct imf__checkpoint *c)
{
    static const struct {
        enum imf__model_kind kind;
        const char *name;
    } marks[] = {
        {IMF__MODEL_MIT, "net.x_embedder.proj.weight"},
        {IMF__MODEL_MIT, "net.y_embedder.embedding_table._flax_embedding.weight"},
        {IMF__MODEL_SD_VAE, "decoder.conv_in.weight"},
        {IMF__MODEL_SD_VAE, "decoder.up_blocks.0.resnets.0.conv1.weight"},
        {IMF__MODEL_TAESD, "3.conv.0.weight"},
        {IMF__MODEL_INCEPTION, "Conv2d_1a_3x3.conv.weight"},
        {IMF__MODEL_INCEPTION, "Mixed_7c.branch1x1.conv.weight"},
    };
    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        if (imf__model_find(c, marks[i].name))
            return marks[i].kind;
    }
    return IMF__MODEL_UNKNOWN;
}

/* Parts of names that were called otherwise in other versions of the same file. */
static const char *const renamed[][2] = {
    {"attn_scale", "attn_gate"}, {"mlp_scale", "mlp_gate"}, {".query.", ".to_q."},
    {".key.", ".to_k."},         {".value.", ".to_v."},     {".proj_attn.", ".to_out.0."},
};

const struct imf__tensor *imf__model_find(const struct imf__checkpoint *c, const char *name)
{
    const struct imf__tensor *t = imf__checkpoint_find(c, name);
    char other[160];
    for (size_t i = 0; !t && i < sizeof(renamed) / sizeof(renamed[0]); i++) {
        const char *at = strstr(name, renamed[i][0]);
        if (!at)
            continue;
        snprintf(other, sizeof(other), "%.*s%s%s", (int)(at - name), name, renamed[i][1],
                 at + strlen(renamed[i][0]));
        t = imf__checkpoint_find(c, other);
    }
    /* taesd as diffusers stores it counts its layers from the first convolution. */
    if (!t && isdigit((unsigned char)name[0])) {
        char *rest;
        long layer = strtol(name, &rest, 10);
        snprintf(other, sizeof(other), "decoder.layers.%ld%s", layer - 1, rest);
        t = imf__checkpoint_find(c, other);
    }
    return t;
}

static void print_shape(char text[96], int ndim, const int64_t *shape)
{
    int n = snprintf(text, 96, "[");
    for (int i = 0; i < ndim && n < 80; i++)
        n += snprintf(text + n, 96 - (size_t)n, "%s%lld", i ? ", " : "", (long long)shape[i]);
    snprintf(text + n, 96 - (size_t)n, "]");
}

imf_status imf__model_require(const struct imf__tensor **out, const struct imf__checkpoint *c,
                              const struct imf__name *name, struct imf_error *err)
{
    const struct imf__tensor *t = imf__model_find(c, name->name);
    const char *path = imf__checkpoint_path(c);
    char expected[96], found[96];
    print_shape(expected, name->ndim, name->shape);
    if (!t)
        return imf__fail(err, IMF_EMODEL, "%.200s: tensor \"%s\" of shape %s is missing", path,
                         name->name, expected);
    bool same = true;
    for (int i = 0; same && (i < t->ndim || i < name->ndim); i++)
        same = (i < t->ndim ? t->shape[i] : 1) == (i < name->ndim ? name->shape[i] : 1);
    print_shape(found, t->ndim, t->shape);
    if (!same)
        return imf__fail(err, IMF_EMODEL, "%.200s: tensor \"%s\": expected shape %s, found %s",
                         path, imf__quote(t->name).text, expected, found);
    if (name->needed && t->type == IMF__STORED_OTHER)
        return imf__fail(err, IMF_EMODEL, "%.200s: tensor \"%s\": not of a floating-point type",
                         path, imf__quote(t->name).text);
    *out = t;
    return IMF_OK;
}
