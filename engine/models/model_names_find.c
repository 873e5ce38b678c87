/* Checkpoints against the lists of model_names.h: which model a file holds, and whether a tensor is
 * what the list says. */
#include "models/model_names.h"

#include "files/checkpoint_parts.h"

#include <stdio.h>
#include <string.h>

static const char *const kind_names[] = {"unknown", "MiT", "pMF", "sd-vae", "taesd", "InceptionV3"};

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
        {IMF__MODEL_PMF, "net.x_embedder.proj1.weight"},
        {IMF__MODEL_PMF, "net.x_embedder.proj2.weight"},
        {IMF__MODEL_PMF, "net.pos_embed"},
        {IMF__MODEL_MIT, "net.y_embedder.embedding_table._flax_embedding.weight"},
        {IMF__MODEL_SD_VAE, "decoder.conv_in.weight"},
        {IMF__MODEL_SD_VAE, "decoder.up_blocks.0.resnets.0.conv1.weight"},
        {IMF__MODEL_TAESD, "3.conv.0.weight"},
        {IMF__MODEL_INCEPTION, "Conv2d_1a_3x3.conv.weight"},
        {IMF__MODEL_INCEPTION, "Mixed_7c.branch1x1.conv.weight"},
    };
    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        if (imf__checkpoint_find(c, marks[i].name))
            return marks[i].kind;
    }
    return IMF__MODEL_UNKNOWN;
}

static void print_shape(char text[96], int ndim, const int64_t *shape)
{
    int n = snprintf(text, 96, "[");
    for (int i = 0; i < ndim && n < 80; i++)
        n += snprintf(text + n, 96 - (size_t)n, "%s%lld", i ? ", " : "", (long long)shape[i]);
    snprintf(text + n, 96 - (size_t)n, "]");
}

/* Up to dimensions of 1 at either end. */
static bool same_shape(int na, const int64_t *a, int nb, const int64_t *b)
{
    for (; na && a[na - 1] == 1; na--) {
    }
    for (; nb && b[nb - 1] == 1; nb--) {
    }
    for (; na && a[0] == 1; a++, na--) {
    }
    for (; nb && b[0] == 1; b++, nb--) {
    }
    return na == nb && memcmp(a, b, (size_t)na * sizeof(*a)) == 0;
}

imf_status imf__model_require(const struct imf__tensor **out, const struct imf__checkpoint *c,
                              const struct imf__name *name, struct imf_error *err)
{
    const struct imf__tensor *t = imf__checkpoint_find(c, name->name);
    const char *path = imf__checkpoint_path(c);
    char expected[96], found[96];
    print_shape(expected, name->ndim, name->shape);
    if (!t)
        return imf__fail(err, IMF_EMODEL, "%.200s: tensor \"%s\" of shape %s is missing", path,
                         name->name, expected);
    bool same = same_shape(t->ndim, t->shape, name->ndim, name->shape);
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

imf_status imf__model_shaped(const struct imf__tensor **out, const struct imf__checkpoint *c,
                             const char *name, int ndim, struct imf_error *err)
{
    const struct imf__tensor *t = imf__checkpoint_find(c, name);
    if (!t)
        return imf__fail(err, IMF_EMODEL, "%s: tensor \"%s\" is missing", imf__checkpoint_path(c),
                         name);
    if (t->ndim != ndim)
        return imf__fail(err, IMF_EMODEL, "%s: tensor \"%s\" has %d dimensions, %d expected",
                         imf__checkpoint_path(c), name, t->ndim, ndim);
    for (int i = 0; i < ndim; i++) {
        if (t->shape[i] < 1 || t->shape[i] > INT32_MAX - 1)
            return imf__fail(err, IMF_EMODEL, "%s: tensor \"%s\" cannot be %lld long",
                             imf__checkpoint_path(c), name, (long long)t->shape[i]);
    }
    *out = t;
    return IMF_OK;
}
