/* The lists of model_names.h for MiT and the decoders, and which list a checkpoint answers to.
 * InceptionV3's long table is in model_names_inception.c. */
#include "models/model_names_list.h"

#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Lists ----------------------------------------------------------------------------------- */

void imf__list_add(struct list *l, int ndim, const int64_t shape[4], const char *format, ...)
{
    struct imf__names *n = l->names;
    if (l->status == IMF_OK && n->count == n->capacity) {
        size_t capacity = n->capacity ? 2 * n->capacity : 128;
        struct imf__name *grown = realloc(n->items, capacity * sizeof(*grown));
        if (grown) {
            n->items = grown;
            n->capacity = capacity;
        } else {
            l->status = IMF_ENOMEM;
        }
    }
    if (l->status != IMF_OK)
        return;
    struct imf__name *item = &n->items[n->count++];
    *item = (struct imf__name){.ndim = ndim, .needed = !l->unneeded && ndim > 0};
    uint64_t count = ndim > 0;
    for (int i = 0; i < ndim; i++) {
        item->shape[i] = shape[i];
        count *= (uint64_t)shape[i];
    }
    n->parameters += count;
    char rest[sizeof(item->name)];
    va_list ap;
    va_start(ap, format);
    vsnprintf(rest, sizeof(rest), format, ap);
    va_end(ap);
    snprintf(item->name, sizeof(item->name), "%.63s%.64s", l->prefix, rest);
}

imf_status imf__list_end(struct list *l)
{
    if (l->status != IMF_OK)
        imf__names_free(l->names);
    return l->status;
}

#define D1(a) 1, ((const int64_t[4]){a})
#define D2(a, b) 2, ((const int64_t[4]){a, b})
#define D4(a, b, c, d) 4, ((const int64_t[4]){a, b, c, d})

/* ---- MiT ------------------------------------------------------------------------------------- */

static const struct {
    const char *names[3];
    struct imf__mit_shape shape;
    struct imf_sampling defaults;
} published[] = {
    {{"MiT_B_2", "imfDiT_B_2", "iMF-B/2"}, {12, 4, 768, 2048, 1000, 4, 2}, {1, 8.0f, 0.40f, 0.65f}},
    {{"MiT_M_2", "imfDiT_M_2", "iMF-M/2"},
     {24, 16, 768, 2048, 1000, 4, 2},
     {1, 10.5f, 0.40f, 0.60f}},
    {{"MiT_L_2", "imfDiT_L_2", "iMF-L/2"},
     {32, 24, 1024, 2730, 1000, 4, 2},
     {1, 10.5f, 0.40f, 0.60f}},
    {{"MiT_XL_2", "imfDiT_XL_2", "iMF-XL/2"},
     {48, 40, 1024, 2730, 1000, 4, 2},
     {1, 8.0f, 0.42f, 0.62f}},
};
#define PUBLISHED (sizeof(published) / sizeof(published[0]))

bool imf__mit_shape_named(struct imf__mit_shape *out, const char *name)
{
    for (size_t i = 0; i < PUBLISHED; i++) {
        for (int k = 0; k < 3; k++) {
            if (strcmp(published[i].names[k], name) == 0) {
                *out = published[i].shape;
                return true;
            }
        }
    }
    return false;
}

static bool same_shape(const struct imf__mit_shape *a, const struct imf__mit_shape *b)
{
    return a->depth == b->depth && a->shared_depth == b->shared_depth && a->hidden == b->hidden &&
           a->mlp_hidden == b->mlp_hidden && a->classes == b->classes &&
           a->channels == b->channels && a->patch_size == b->patch_size;
}

const char *imf__mit_shape_name(const struct imf__mit_shape *s)
{
    for (size_t i = 0; i < PUBLISHED; i++) {
        if (same_shape(s, &published[i].shape))
            return published[i].names[0];
    }
    return NULL;
}

struct imf_sampling imf__mit_defaults(const struct imf__mit_shape *s)
{
    for (size_t i = 0; i < PUBLISHED; i++) {
        if (same_shape(s, &published[i].shape))
            return published[i].defaults;
    }
    return published[0].defaults;
}

imf_status imf__mit_shape_check(const struct imf__mit_shape *s, struct imf_error *err)
{
    const struct {
        const char *name;
        int value, min, max;
    } bounds[] = {
        {"depth", s->depth, 1, 512},         {"shared", s->shared_depth, 0, s->depth},
        {"hidden", s->hidden, 64, 8192},     {"mlp", s->mlp_hidden, 1, 65536},
        {"classes", s->classes, 1, 1000000}, {"channels", s->channels, 1, 64},
        {"patch", s->patch_size, 1, 16},
    };
    for (size_t i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++) {
        if (bounds[i].value < bounds[i].min || bounds[i].value > bounds[i].max)
            return imf__fail(err, IMF_EINVAL, "%s is %d, must be %d to %d", bounds[i].name,
                             bounds[i].value, bounds[i].min, bounds[i].max);
    }
    if (s->hidden % 64)
        return imf__fail(err, IMF_EINVAL, "hidden is %d, must be a multiple of 64 (the head size)",
                         s->hidden);
    return IMF_OK;
}

static void mit_block(struct list *l, const struct imf__mit_shape *s, const char *kind, int i)
{
    const int64_t D = s->hidden, M = s->mlp_hidden;
    snprintf(l->prefix, sizeof(l->prefix), "net.%s.%d.", kind, i);
    imf__list_add(l, D1(D), "attn_scale");
    imf__list_add(l, D1(D), "mlp_scale");
    imf__list_add(l, D1(D), "norm1.weight");
    for (int k = 0; k < 4; k++) {
        static const char *const names[] = {"q", "k", "v", "out"};
        imf__list_add(l, D2(D, D), "attn.%s_proj._flax_linear.weight", names[k]);
    }
    imf__list_add(l, D1(64), "attn.q_norm.weight");
    imf__list_add(l, D1(64), "attn.k_norm.weight");
    imf__list_add(l, D1(D), "norm2.weight");
    imf__list_add(l, D2(M, D), "mlp.w1._flax_linear.weight");
    imf__list_add(l, D2(M, D), "mlp.w3._flax_linear.weight");
    imf__list_add(l, D2(D, M), "mlp.w2._flax_linear.weight");
}

imf_status imf__mit_names(struct imf__names *out, const struct imf__mit_shape *s)
{
    static const struct {
        const char *name;
        int rows;
    } tokens[] = {{"time", 4}, {"class", 8}, {"omega", 4}, {"t_min", 2}, {"t_max", 2}};
    static const char *const scalars[] = {"h", "omega", "cfg_t_start", "cfg_t_end"};
    const int64_t D = s->hidden, C = s->channels, p = s->patch_size;
    struct list l = {.names = out, .prefix = "net."};
    *out = (struct imf__names){0};
    for (int i = 0; i < 5; i++)
        imf__list_add(&l, D2(tokens[i].rows, D), "%s_tokens", tokens[i].name);
    imf__list_add(&l, D4(D, C, p, p), "x_embedder.proj.weight");
    imf__list_add(&l, D1(D), "x_embedder.proj.bias");
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
        mit_block(&l, s, shared ? "shared_blocks" : "u_heads", shared ? i : i - s->shared_depth);
    }
    for (int v = 0; v < 2; v++) {
        l.unneeded = v == 1; /* the v head serves training only */
        snprintf(l.prefix, sizeof(l.prefix), "net.%c_final_layer.", v ? 'v' : 'u');
        imf__list_add(&l, D1(D), "norm.weight");
        imf__list_add(&l, D2(p * p * C, D), "linear._flax_linear.weight");
        imf__list_add(&l, D1(p * p * C), "linear._flax_linear.bias");
    }
    return imf__list_end(&l);
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

/* The tensor, when it has `ndim` dimensions of sizes that fit an int. */
static imf_status shaped(const struct imf__tensor **out, const struct imf__checkpoint *c,
                         const char *name, int ndim, struct imf_error *err)
{
    const struct imf__tensor *t = imf__checkpoint_find(c, name);
    if (!t)
        return imf__fail(err, IMF_EMODEL, "%s: tensor \"%s\" is missing", imf__checkpoint_path(c),
                         name);
    bool fits = t->ndim == ndim;
    for (int i = 0; fits && i < ndim; i++)
        fits = t->shape[i] >= 1 && t->shape[i] <= INT32_MAX - 1;
    if (!fits)
        return imf__fail(err, IMF_EMODEL, "%s: tensor \"%s\" has %d dimensions, %d expected",
                         imf__checkpoint_path(c), name, t->ndim, ndim);
    *out = t;
    return IMF_OK;
}

imf_status imf__mit_shape_read(struct imf__mit_shape *out, const struct imf__checkpoint *c,
                               struct imf_error *err)
{
    const struct imf__tensor *x, *y, *w1;
    char name[80];
    imf_status status = shaped(&x, c, "net.x_embedder.proj.weight", 4, err);
    if (status == IMF_OK)
        status = shaped(&y, c, "net.y_embedder.embedding_table._flax_embedding.weight", 2, err);
    if (status != IMF_OK)
        return status;
    int shared = count_blocks(c, "shared_blocks"), own = count_blocks(c, "u_heads");
    snprintf(name, sizeof(name), "net.%s.0.mlp.w1._flax_linear.weight",
             shared ? "shared_blocks" : "u_heads");
    status = shaped(&w1, c, name, 2, err);
    if (status != IMF_OK)
        return status;
    struct imf__mit_shape s = {.depth = shared + own,
                               .shared_depth = shared,
                               .hidden = (int)x->shape[0],
                               .mlp_hidden = (int)w1->shape[0],
                               .classes = (int)y->shape[0] - 1,
                               .channels = (int)x->shape[1],
                               .patch_size = (int)x->shape[2]};
    struct imf_error why = {0};
    if (imf__mit_shape_check(&s, &why) != IMF_OK)
        return imf__fail(err, IMF_EMODEL, "%s: %s", imf__checkpoint_path(c), why.message);
    *out = s;
    return IMF_OK;
}

/* ---- sd-vae ---------------------------------------------------------------------------------- */

void imf__vae_shape_init(struct imf__vae_shape *s)
{
    *s = (struct imf__vae_shape){4, 4, {512, 512, 256, 128}};
}

/* weight and bias of a normalisation. */
static void norm(struct list *l, int64_t channels, const char *name)
{
    imf__list_add(l, D1(channels), "%s.weight", name);
    imf__list_add(l, D1(channels), "%s.bias", name);
}

static void conv(struct list *l, int64_t out, int64_t in, int64_t side, const char *name)
{
    imf__list_add(l, D4(out, in, side, side), "%s.weight", name);
    imf__list_add(l, D1(out), "%s.bias", name);
}

static void resnet(struct list *l, int64_t in, int64_t out)
{
    norm(l, in, "norm1");
    conv(l, out, in, 3, "conv1");
    norm(l, out, "norm2");
    conv(l, out, out, 3, "conv2");
    if (in != out)
        conv(l, out, in, 1, "conv_shortcut");
}

imf_status imf__vae_names(struct imf__names *out, const struct imf__vae_shape *s)
{
    static const char *const attention[] = {"query", "key", "value", "proj_attn"};
    struct list l = {.names = out, .prefix = "decoder."};
    int64_t mid = s->channels[0], in = mid, last = s->channels[s->blocks - 1];
    *out = (struct imf__names){0};
    conv(&l, mid, s->latent_channels, 3, "conv_in");
    for (int b = 0; b < s->blocks; b++) {
        for (int r = 0; r < 3; r++) {
            snprintf(l.prefix, sizeof(l.prefix), "decoder.up_blocks.%d.resnets.%d.", b, r);
            resnet(&l, in, s->channels[b]);
            in = s->channels[b];
        }
        snprintf(l.prefix, sizeof(l.prefix), "decoder.up_blocks.%d.upsamplers.0.", b);
        if (b + 1 < s->blocks)
            conv(&l, in, in, 3, "conv");
    }
    snprintf(l.prefix, sizeof(l.prefix), "decoder.mid_block.attentions.0.");
    norm(&l, mid, "group_norm");
    for (int i = 0; i < 4; i++) {
        imf__list_add(&l, D2(mid, mid), "%s.weight", attention[i]);
        imf__list_add(&l, D1(mid), "%s.bias", attention[i]);
    }
    for (int r = 0; r < 2; r++) {
        snprintf(l.prefix, sizeof(l.prefix), "decoder.mid_block.resnets.%d.", r);
        resnet(&l, mid, mid);
    }
    snprintf(l.prefix, sizeof(l.prefix), "decoder.");
    norm(&l, last, "conv_norm_out");
    conv(&l, 3, last, 3, "conv_out");
    l.prefix[0] = '\0';
    conv(&l, s->latent_channels, s->latent_channels, 1, "post_quant_conv");
    return imf__list_end(&l);
}

imf_status imf__vae_shape_read(struct imf__vae_shape *out, const struct imf__checkpoint *c,
                               struct imf_error *err)
{
    const struct imf__tensor *t;
    imf_status status = shaped(&t, c, "decoder.conv_in.weight", 4, err);
    if (status != IMF_OK)
        return status;
    struct imf__vae_shape s = {.latent_channels = (int)t->shape[1]};
    int64_t mid = t->shape[0];
    for (;; s.blocks++) {
        char name[80];
        snprintf(name, sizeof(name), "decoder.up_blocks.%d.resnets.0.conv1.weight", s.blocks);
        if (!imf__checkpoint_find(c, name))
            break;
        if (s.blocks == IMF__VAE_MAX_BLOCKS)
            return imf__fail(err, IMF_EMODEL, "%s: more than %d up-blocks", imf__checkpoint_path(c),
                             IMF__VAE_MAX_BLOCKS);
        status = shaped(&t, c, name, 4, err);
        if (status != IMF_OK)
            return status;
        s.channels[s.blocks] = (int)t->shape[0];
    }
    if (s.blocks == 0 || s.channels[0] != mid)
        return imf__fail(err, IMF_EMODEL,
                         "%s: decoder.conv_in has %lld channels, the first of %d up-blocks %d",
                         imf__checkpoint_path(c), (long long)mid, s.blocks, s.channels[0]);
    for (int b = 0; b < s.blocks; b++) {
        if (s.channels[b] > 16384 || s.latent_channels > 64)
            return imf__fail(err, IMF_EMODEL, "%s: an up-block of %d channels",
                             imf__checkpoint_path(c), s.channels[b]);
    }
    *out = s;
    return IMF_OK;
}

/* ---- taesd ----------------------------------------------------------------------------------- */

imf_status imf__taesd_names(struct imf__names *out)
{
    /* Layers by their index: c a convolution of 64 channels without bias, b a block; the others
     * (clamp, ReLU, upsampling) have no weights. */
    static const char layers[] = "-C-bbb-cbbb-cbbb-cbO";
    struct list l = {.names = out};
    *out = (struct imf__names){0};
    for (int i = 0; layers[i]; i++) {
        snprintf(l.prefix, sizeof(l.prefix), "%d.", i);
        if (layers[i] == 'c')
            imf__list_add(&l, D4(64, 64, 3, 3), "weight");
        for (int k = 0; layers[i] == 'b' && k <= 4; k += 2) {
            imf__list_add(&l, D4(64, 64, 3, 3), "conv.%d.weight", k);
            imf__list_add(&l, D1(64), "conv.%d.bias", k);
        }
        if (layers[i] == 'C' || layers[i] == 'O') {
            int64_t to = layers[i] == 'C' ? 64 : 3, from = layers[i] == 'C' ? 4 : 64;
            imf__list_add(&l, D4(to, from, 3, 3), "weight");
            imf__list_add(&l, D1(to), "bias");
        }
    }
    return imf__list_end(&l);
}
