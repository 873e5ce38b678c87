/* The sizes and tensors of MiT and pMF: published names, reading sizes off shapes, the list. */
#include "models/family.h"

#include "common/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Published sizes ---- */

static bool same_shape(const struct imf__meanflow_shape *a, const struct imf__meanflow_shape *b)
{
    return a->family == b->family && a->depth == b->depth && a->shared_depth == b->shared_depth &&
           a->hidden == b->hidden && a->head_size == b->head_size &&
           a->mlp_hidden == b->mlp_hidden && a->classes == b->classes &&
           a->channels == b->channels && a->patch_size == b->patch_size &&
           a->bottleneck == b->bottleneck &&
           (a->family == IMF__MIT || a->input_size == b->input_size);
}

static const struct imf__published *find_shape(const struct imf__meanflow_shape *s)
{
    const struct imf__family_ends *ends = imf__ends_of(s->family);
    for (size_t i = 0; i < ends->published_count; i++) {
        if (same_shape(s, &ends->published[i].shape))
            return &ends->published[i];
    }
    return NULL;
}

bool imf__meanflow_named(struct imf__meanflow_shape *out, const char *name)
{
    for (int family = IMF__MIT; family <= IMF__PMF; family++) {
        const struct imf__family_ends *ends = imf__ends_of((enum imf__family)family);
        for (size_t i = 0; i < 3 * ends->published_count; i++) {
            if (strcmp(ends->published[i / 3].names[i % 3], name) == 0) {
                *out = ends->published[i / 3].shape;
                return true;
            }
        }
    }
    return false;
}

bool imf__meanflow_same_name(const char *a, const char *b)
{
    struct imf__meanflow_shape x, y;
    return strcmp(a, b) == 0 ||
           (imf__meanflow_named(&x, a) && imf__meanflow_named(&y, b) && same_shape(&x, &y));
}

const char *imf__meanflow_name(const struct imf__meanflow_shape *s)
{
    const struct imf__published *p = find_shape(s);
    return p ? p->names[0] : NULL;
}

void imf__meanflow_title(char title[64], const struct imf__meanflow_shape *s)
{
    const struct imf__published *p = find_shape(s);
    if (p)
        snprintf(title, 64, "%s", p->names[0]);
    else
        snprintf(title, 64, "%s_d%d_h%d", imf__ends_of(s->family)->title, s->depth, s->hidden);
}

struct imf__meanflow_defaults imf__meanflow_defaults(const struct imf__meanflow_shape *s)
{
    const struct imf__published *p = find_shape(s), *b = imf__ends_of(s->family)->published;
    struct imf__meanflow_defaults d = p ? p->defaults : b->defaults;
    /* The one size whose post-trained file is sampled otherwise. */
    if (p == &imf__pmf_ends.published[0] && s->post_trained)
        d.sampling = (struct imf_sampling){1, 8.5f, 0.1f, 0.7f};
    return d;
}

int imf__meanflow_mlp_hidden(enum imf__family family, int hidden)
{
    int M = hidden * 8 / 3;
    return family == IMF__PMF && hidden > 1024 ? (M + 7) / 8 * 8 : M;
}

/* ---- Any size ---- */

imf_status imf__meanflow_shape_check(const struct imf__meanflow_shape *s, struct imf_error *err)
{
    const struct {
        const char *name;
        int value, min, max;
    } bounds[] = {
        {"depth", s->depth, 1, 512},
        {"shared", s->shared_depth, 0, s->depth},
        {"hidden", s->hidden, 64, 8192},
        {"mlp", s->mlp_hidden, 1, 65536},
        {"classes", s->classes, 1, 1000000},
        {"channels", s->channels, 1, 64},
        {"patch", s->patch_size, 1, 64},
        {"input_size", s->input_size, 1, 4096},
        {"bottleneck", s->bottleneck, s->family == IMF__PMF, 8192},
    };
    for (size_t i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++) {
        if (bounds[i].value < bounds[i].min || bounds[i].value > bounds[i].max)
            return imf__fail(err, IMF_EINVAL, "%s is %d, must be %d to %d", bounds[i].name,
                             bounds[i].value, bounds[i].min, bounds[i].max);
    }
    if (!imf__head_size_valid(s->head_size))
        return imf__fail(err, IMF_EINVAL, "the head size is %d, must be 64 or 80", s->head_size);
    if (s->hidden % s->head_size)
        return imf__fail(err, IMF_EINVAL, "hidden is %d, must be a multiple of %d (the head size)",
                         s->hidden, s->head_size);
    int64_t z = (int64_t)s->channels * s->input_size * s->input_size;
    if (s->input_size % s->patch_size != 0 || z % 16 != 0 || z > 1 << 24)
        return imf__fail(err, IMF_EINVAL, "input size %d does not suit patches of %d",
                         s->input_size, s->patch_size);
    return IMF_OK;
}

/* How many blocks of a kind there are: the first N without norm1. */
static int count_blocks(const struct imf__checkpoint *c, const char *kind)
{
    for (int n = 0;; n++) {
        char name[80];
        snprintf(name, sizeof(name), "net.%s.%d.norm1.weight", kind, n);
        if (n > 512 || !imf__checkpoint_find(c, name))
            return n;
    }
}

/* As the first block's q_norm says; where it is missing the list of names will tell. */
static int read_head_size(const struct imf__checkpoint *c, const char *first)
{
    char name[80];
    snprintf(name, sizeof(name), "net.%s.0.attn.q_norm.weight", first);
    const struct imf__tensor *t = imf__checkpoint_find(c, name);
    return t && t->count <= 8192 ? (int)t->count : 64;
}

/* A name in the metadata may be any, but not that of another published model. */
static imf_status check_name(const struct imf__meanflow_shape *s, const struct imf__checkpoint *c,
                             struct imf_error *err)
{
    const char *name = imf__checkpoint_metadata(c, "name");
    struct imf__meanflow_shape other;
    char title[64];
    imf__meanflow_title(title, s);
    if (!name || !imf__meanflow_named(&other, name) || same_shape(s, &other))
        return IMF_OK;
    return imf__fail(err, IMF_EMODEL,
                     "%s: metadata \"name\" says %s, but the tensors are those of %s",
                     imf__checkpoint_path(c), name, title);
}

imf_status imf__meanflow_shape_read(struct imf__meanflow_shape *out,
                                    const struct imf__checkpoint *c, struct imf_error *err)
{
    const struct imf__tensor *y, *w1;
    char name[80];
    struct imf__meanflow_shape s = {.family = imf__model_kind_of(c) == IMF__MODEL_PMF ? IMF__PMF
                                                                                      : IMF__MIT};
    s.shared_depth = count_blocks(c, "shared_blocks");
    s.depth = s.shared_depth + count_blocks(c, "u_heads");
    const char *first = s.shared_depth ? "shared_blocks" : "u_heads";
    s.head_size = read_head_size(c, first);
    IMF_TRY(imf__ends_of(s.family)->read(&s, c, err));
    IMF_TRY(
        imf__model_shaped(&y, c, "net.y_embedder.embedding_table._flax_embedding.weight", 2, err));
    snprintf(name, sizeof(name), "net.%s.0.mlp.w1._flax_linear.weight", first);
    IMF_TRY(imf__model_shaped(&w1, c, name, 2, err));
    s.mlp_hidden = (int)w1->shape[0];
    s.classes = (int)y->shape[0] - 1;
    struct imf_error why = {0};
    if (imf__meanflow_shape_check(&s, &why) != IMF_OK)
        return imf__fail(err, IMF_EMODEL, "%s: %s", imf__checkpoint_path(c), why.message);
    IMF_TRY(check_name(&s, c, err));
    *out = s;
    return IMF_OK;
}

/* ---- The list ---- */

static void block(struct list *l, const struct imf__meanflow_shape *s, const char *kind, int i)
{
    const int64_t D = s->hidden, M = s->mlp_hidden, HS = s->head_size;
    snprintf(l->prefix, sizeof(l->prefix), "net.%s.%d.", kind, i);
    imf__list_add(l, D1(D), "attn_scale");
    imf__list_add(l, D1(D), "mlp_scale");
    imf__list_add(l, D1(D), "norm1.weight");
    for (int k = 0; k < 4; k++) {
        static const char *const names[] = {"q", "k", "v", "out"};
        imf__list_add(l, D2(D, D), "attn.%s_proj._flax_linear.weight", names[k]);
    }
    imf__list_add(l, D1(HS), "attn.q_norm.weight");
    imf__list_add(l, D1(HS), "attn.k_norm.weight");
    imf__list_add(l, D1(D), "norm2.weight");
    imf__list_add(l, D2(M, D), "mlp.w1._flax_linear.weight");
    imf__list_add(l, D2(M, D), "mlp.w3._flax_linear.weight");
    imf__list_add(l, D2(D, M), "mlp.w2._flax_linear.weight");
}

static void prefix_tokens(struct list *l, const struct imf__meanflow_shape *s)
{
    static const struct {
        const char *name;
        int rows;
    } tokens[] = {{"time", 4}, {"class", 8}, {"omega", 4}, {"t_min", 2}, {"t_max", 2}};
    for (int i = 0; i < 5; i++) {
        if (s->family == IMF__PMF && !s->post_trained)
            imf__list_add(l, D3(1, tokens[i].rows, s->hidden), "%s_tokens", tokens[i].name);
        else
            imf__list_add(l, D2(tokens[i].rows, s->hidden), "%s_tokens", tokens[i].name);
    }
}

imf_status imf__meanflow_names(struct imf__names *out, const struct imf__meanflow_shape *s)
{
    static const char *const scalars[] = {"h", "omega", "cfg_t_start", "cfg_t_end"};
    const int64_t D = s->hidden, patch = s->patch_size * s->patch_size * s->channels;
    struct list l = {.names = out, .prefix = "net."};
    *out = (struct imf__names){0};
    prefix_tokens(&l, s);
    imf__ends_of(s->family)->list(&l, s);
    for (int i = 0; i < 4; i++) {
        for (int layer = 0; layer <= 2; layer += 2) {
            imf__list_add(&l, D2(D, layer ? D : 256), "%s_embedder.mlp.%d._flax_linear.weight",
                          scalars[i], layer);
            imf__list_add(&l, D1(D), "%s_embedder.mlp.%d._flax_linear.bias", scalars[i], layer);
        }
    }
    imf__list_add(&l, D2(s->classes + 1, D), "y_embedder.embedding_table._flax_embedding.weight");
    for (int i = 0; i < s->depth; i++) {
        bool shared = i < s->shared_depth;
        block(&l, s, shared ? "shared_blocks" : "u_heads", shared ? i : i - s->shared_depth);
    }
    for (int v = 0; v < (s->family == IMF__MIT ? 2 : 1); v++) {
        l.unneeded = v == 1; /* the v head serves training only */
        snprintf(l.prefix, sizeof(l.prefix), "net.%c_final_layer.", v ? 'v' : 'u');
        imf__list_add(&l, D1(D), "norm.weight");
        imf__list_add(&l, D2(patch, D), "linear._flax_linear.weight");
        imf__list_add(&l, D1(patch), "linear._flax_linear.bias");
    }
    return imf__list_end(&l);
}
