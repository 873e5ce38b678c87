/* pMF's own (docs/model.md, section 10): patches of pixels through a bottleneck, learned positions,
 * patch tokens turned by row and column. */
#include "models/family.h"

#include "common/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SHAPE(depth, D, head, M, patch, size, bottleneck)                                          \
    {                                                                                              \
        IMF__PMF, depth, depth - 8, D, head, M, 1000, 3, patch, size, bottleneck, false            \
    }

static const struct imf__published published[] = {
    {{"pmfDiT_B_16", "pMF-B/16", "pMF-B-16"},
     SHAPE(16, 768, 64, 2048, 16, 256, 128),
     {{1, 7.5f, 0.1f, 0.8f}, 1}},
    {{"pmfDiT_L_16", "pMF-L/16", "pMF-L-16"},
     SHAPE(32, 1024, 64, 2730, 16, 256, 128),
     {{1, 7.0f, 0.2f, 0.7f}, 1}},
    {{"pmfDiT_H_16", "pMF-H/16", "pMF-H-16"},
     SHAPE(48, 1280, 80, 3416, 16, 256, 256),
     {{1, 7.0f, 0.2f, 0.6f}, 2}},
    {{"pmfDiT_B_32", "pMF-B/32", "pMF-B-32"},
     SHAPE(16, 768, 64, 2048, 32, 512, 128),
     {{1, 6.5f, 0.1f, 0.7f}, 2}},
    {{"pmfDiT_L_32", "pMF-L/32", "pMF-L-32"},
     SHAPE(32, 1024, 64, 2730, 32, 512, 128),
     {{1, 7.5f, 0.2f, 0.6f}, 4}},
    {{"pmfDiT_H_32", "pMF-H/32", "pMF-H-32"},
     SHAPE(48, 1280, 80, 3416, 32, 512, 256),
     {{1, 5.5f, 0.1f, 0.6f}, 4}},
};

static int tokens_of(const struct imf__meanflow_shape *s)
{
    int side = s->input_size / s->patch_size;
    return IMF__PREFIX + side * side;
}

static void list_ends(struct list *l, const struct imf__meanflow_shape *s)
{
    const int64_t D = s->hidden, n = s->bottleneck, p = s->patch_size;
    imf__list_add(l, D3(1, tokens_of(s), D), "pos_embed");
    imf__list_add(l, D4(n, s->channels, p, p), "x_embedder.proj1.weight");
    imf__list_add(l, D1(n), "x_embedder.proj1.bias");
    imf__list_add(l, D4(D, n, 1, 1), "x_embedder.proj2.weight");
    imf__list_add(l, D1(D), "x_embedder.proj2.bias");
}

/* The rotation is computed here; a buffer of it in the file must be the same one. */
static imf_status check_rope(const struct imf__meanflow_shape *s, const struct imf__checkpoint *c,
                             struct imf_error *err)
{
    const struct imf__tensor *t = imf__checkpoint_find(c, "net.rope_freqs");
    int patches = tokens_of(s) - IMF__PREFIX;
    if (!t || (t->ndim == 2 && t->shape[0] == patches && t->shape[1] == s->head_size / 2))
        return IMF_OK;
    return imf__fail(err, IMF_EMODEL,
                     "%s: tensor \"%s\": expected shape [%d, %d], for %d patches and heads of %d",
                     imf__checkpoint_path(c), t->name, patches, s->head_size / 2, patches,
                     s->head_size);
}

static imf_status read_ends(struct imf__meanflow_shape *s, const struct imf__checkpoint *c,
                            struct imf_error *err)
{
    const struct imf__tensor *x, *positions, *hidden, *tokens;
    IMF_TRY(imf__model_shaped(&x, c, "net.x_embedder.proj1.weight", 4, err));
    IMF_TRY(imf__model_shaped(&hidden, c, "net.x_embedder.proj2.bias", 1, err));
    IMF_TRY(imf__model_shaped(&positions, c, "net.pos_embed", 3, err));
    s->bottleneck = (int)x->shape[0];
    s->channels = (int)x->shape[1];
    s->patch_size = (int)x->shape[2];
    s->hidden = (int)hidden->shape[0];
    tokens = imf__checkpoint_find(c, "net.class_tokens");
    s->post_trained = tokens && tokens->ndim == 2;
    int64_t patches = positions->shape[1] - IMF__PREFIX, side = 1;
    while (side < 512 && side * side < patches)
        side++;
    if (patches < 1 || side * side != patches || s->patch_size > 512)
        return imf__fail(err, IMF_EMODEL,
                         "%s: tensor \"%s\": %lld positions are no prefix of %d and a square of "
                         "patches",
                         imf__checkpoint_path(c), positions->name, (long long)positions->shape[1],
                         IMF__PREFIX);
    s->input_size = (int)side * s->patch_size;
    return check_rope(s, c, err);
}

static float angle(const struct imf__meanflow *m, int t, int i)
{
    int side = m->size / m->patch, half = m->HS / 4, patch = t - IMF__PREFIX;
    if (patch < 0)
        return 0;
    int pairs = m->HS / 2;
    float frequency = 1.0f / powf(10000.0f, (float)(2 * (i % half)) / (float)pairs);
    return (float)(i < half ? patch / side : patch % side) * frequency;
}

/* Those of the prefix go into its learned tokens, which are added to nothing else. */
static imf_status load_positions(struct imf__meanflow *m, struct imf__loader *ld, float *tokens)
{
    float *all = NULL;
    size_t prefix = (size_t)IMF__PREFIX * (size_t)m->D;
    IMF_TRY(imf__loader_read(ld, &all, IMF__SHAPE(1, m->T, m->D), "net.pos_embed"));
    for (size_t i = 0; i < prefix; i++)
        tokens[i] += all[i];
    imf_status status =
        imf__loader_vector(ld, &m->positions, all + prefix, (size_t)m->P * (size_t)m->D);
    free(all);
    return status;
}

/* The two embeddings stay two products: one of their product would be more work, since D is larger
 * than the bottleneck. */
static imf_status load_ends(struct imf__meanflow *m, struct imf__loader *ld, float *tokens)
{
    int p = m->patch, C = m->channels, n = m->bottleneck;
    imf__loader_find(ld, "net.rope_freqs"); /* known, and computed anew */
    IMF_TRY(load_positions(m, ld, tokens));
    IMF_TRY(imf__meanflow_load_named(ld, &m->patch_embed[0], m->end_type, IMF__SHAPE(n, C, p, p), n,
                                     C * p * p, "net.x_embedder.proj1"));
    IMF_TRY(imf__meanflow_load_named(ld, &m->patch_embed[1], m->end_type, IMF__SHAPE(m->D, n, 1, 1),
                                     m->D, n, "net.x_embedder.proj2"));
    return imf__meanflow_make_rope(m, ld, angle);
}

const struct imf__family_ends imf__pmf_ends = {
    .title = "pmfDiT",
    .published = published,
    .published_count = sizeof(published) / sizeof(published[0]),
    .list = list_ends,
    .read = read_ends,
    .load = load_ends,
};
