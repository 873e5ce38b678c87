/* MiT's own: one patch embedding, tokens turned by their place in the sequence (docs/model.md,
 * sections 1 and 4). */
#include "models/family.h"

#include "common/error.h"
#include "models/metadata.h"

#include <math.h>

#define SHAPE(depth, shared, D, M)                                                                 \
    {                                                                                              \
        IMF__MIT, depth, shared, D, 64, M, 1000, 4, 2, 32, 0, false                                \
    }

static const struct imf__published published[] = {
    {{"MiT_B_2", "imfDiT_B_2", "iMF-B/2"}, SHAPE(12, 4, 768, 2048), {{1, 8.0f, 0.40f, 0.65f}, 1}},
    {{"MiT_M_2", "imfDiT_M_2", "iMF-M/2"}, SHAPE(24, 16, 768, 2048), {{1, 10.5f, 0.40f, 0.60f}, 1}},
    {{"MiT_L_2", "imfDiT_L_2", "iMF-L/2"},
     SHAPE(32, 24, 1024, 2730),
     {{1, 10.5f, 0.40f, 0.60f}, 1}},
    {{"MiT_XL_2", "imfDiT_XL_2", "iMF-XL/2"},
     SHAPE(48, 40, 1024, 2730),
     {{1, 8.0f, 0.42f, 0.62f}, 1}},
};

static const char embedder[] = "net.x_embedder.proj";

static void list_ends(struct list *l, const struct imf__meanflow_shape *s)
{
    imf__list_add(l, D4(s->hidden, s->channels, s->patch_size, s->patch_size),
                  "x_embedder.proj.weight");
    imf__list_add(l, D1(s->hidden), "x_embedder.proj.bias");
}

static imf_status read_ends(struct imf__meanflow_shape *s, const struct imf__checkpoint *c,
                            struct imf_error *err)
{
    const struct imf__tensor *x;
    IMF_TRY(imf__model_shaped(&x, c, "net.x_embedder.proj.weight", 4, err));
    s->hidden = (int)x->shape[0];
    s->channels = (int)x->shape[1];
    s->patch_size = (int)x->shape[2];
    /* The side of the input is in the metadata, or that of the published models. */
    return imf__metadata_int(&s->input_size, c, "input_size", 32, 1, 512, err);
}

static float angle(const struct imf__meanflow *m, int t, int i)
{
    return (float)t * (1.0f / powf(10000.0f, (float)(2 * i) / (float)m->HS));
}

static imf_status load_ends(struct imf__meanflow *m, struct imf__loader *ld, float *tokens)
{
    int p = m->patch, C = m->channels;
    (void)tokens;
    IMF_TRY(imf__meanflow_load_named(ld, &m->patch_embed[0], m->end_type, IMF__SHAPE(m->D, C, p, p),
                                     m->D, C * p * p, embedder));
    return imf__meanflow_make_rope(m, ld, angle);
}

const struct imf__family_ends imf__mit_ends = {
    .title = "MiT",
    .published = published,
    .published_count = sizeof(published) / sizeof(published[0]),
    .list = list_ends,
    .read = read_ends,
    .load = load_ends,
};
