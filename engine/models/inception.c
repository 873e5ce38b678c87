/* InceptionV3 as FID and the Inception Score use it: the network of torch-fidelity's
 * "inception-v3-compat", once over the device table.
 *
 * One walk over the network (forward) serves three purposes, so that names, shapes and order are
 * written once: LOAD reads each convolution with its BatchNorm folded in and adds up memory; then,
 * with the device dry, it prepares; then it runs. Block outputs alternate between two regions of
 * memory, everything inside a block lives in a third that is reset at the block's end. */
#include "imf_metrics.h"

#include "checkpoint.h"
#include "engine.h"
#include "error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SIDE = 299,     /* pixels of the input */
    MAX_CONVS = 96, /* the network has 94 */
    ALIGN = 256,
};

static const double bn_epsilon = 1e-3;

enum region_name { EVEN, ODD, TEMPORARY, REGIONS };

struct region {
    char *base;
    size_t used, peak;
};

struct imf_inception {
    struct imf_engine *engine;
    struct imf__device *device;
    int batch;
    double flops; /* of one picture */
    char fingerprint[33];
    struct imf__conv *convs[MAX_CONVS];
    int conv_count;
    struct imf__linear *fc;
    struct region regions[REGIONS];
    struct imf__image input; /* (batch, 299, 299, 3) */
    void *input_data;
    uint8_t *rgb; /* device copy of the pictures, (batch, rgb_h, rgb_w, 3) */
    int rgb_h, rgb_w;
    uint8_t *tail;            /* host copy of a last, partial batch */
    float *features, *logits; /* device */
    float *host_features, *host_logits;
    struct imf__graph *graph;
};

/* State of one walk. While loading, `file` is set. */
struct walk {
    struct imf_inception *net;
    struct imf__checkpoint *file;
    struct imf_error *err;
    int next; /* convolution */
    bool odd; /* region of the last block's output */
};

/* ---- Weights ------------------------------------------------------------------------------- */

static imf_status read_tensor(struct walk *w, float **out, const char *name, int ndim,
                              const int64_t *shape)
{
    const struct imf__tensor *t = imf__checkpoint_find(w->file, name);
    const char *path = imf__checkpoint_path(w->file);
    if (!t)
        return imf__fail(w->err, IMF_EMODEL,
                         "%s: tensor %s is missing: not InceptionV3's weights for FID; pass "
                         "weights-inception-2015-12-05-6726825d.pth of torch-fidelity",
                         path, name);
    bool same = t->ndim == ndim;
    for (int i = 0; i < ndim && same; i++)
        same = t->shape[i] == shape[i];
    if (!same) {
        char expected[64] = "", found[160] = "";
        for (int i = 0, n = 0; i < ndim; i++)
            n += snprintf(expected + n, sizeof(expected) - (size_t)n, "%s%lld", i ? ", " : "",
                          (long long)shape[i]);
        for (int i = 0, n = 0; i < t->ndim && i < IMF__MAX_DIMS; i++)
            n += snprintf(found + n, sizeof(found) - (size_t)n, "%s%lld", i ? ", " : "",
                          (long long)t->shape[i]);
        return imf__fail(w->err, IMF_EMODEL,
                         "%s: tensor %s: expected shape [%s], found [%s]: not InceptionV3's "
                         "weights for FID (weights-inception-2015-12-05-6726825d.pth)",
                         path, name, expected, found);
    }
    float *x = malloc(t->count * sizeof(float));
    if (!x)
        return imf__fail(w->err, IMF_ENOMEM, "%s: out of memory", path);
    imf_status status = imf__checkpoint_read(w->file, t, x, w->err);
    if (status != IMF_OK) {
        free(x);
        return status;
    }
    *out = x;
    return IMF_OK;
}

/* weight and bias of conv followed by BatchNorm: y = gamma (conv x - mean) / sqrt(var + eps) +
 * beta.
 */
static imf_status fold(struct walk *w, const char *name, const struct imf__conv_desc *desc,
                       float *weight, float **bias)
{
    static const char *const parts[4] = {"weight", "bias", "running_mean", "running_var"};
    float *bn[4] = {NULL};
    int64_t shape[1] = {desc->out};
    imf_status status = IMF_OK;
    for (int i = 0; i < 4 && status == IMF_OK; i++) {
        char full[128];
        snprintf(full, sizeof(full), "%s.bn.%s", name, parts[i]);
        status = read_tensor(w, &bn[i], full, 1, shape);
    }
    size_t row = (size_t)desc->in * (size_t)desc->kh * (size_t)desc->kw;
    for (int o = 0; o < desc->out && status == IMF_OK; o++) {
        double variance = (double)bn[3][o] + bn_epsilon;
        if (!(variance > 0)) {
            status = imf__fail(w->err, IMF_EMODEL, "%s: %s.bn.running_var[%d] is negative",
                               imf__checkpoint_path(w->file), name, o);
            break;
        }
        double scale = (double)bn[0][o] / sqrt(variance);
        for (size_t i = 0; i < row; i++)
            weight[(size_t)o * row + i] = (float)((double)weight[(size_t)o * row + i] * scale);
        bn[1][o] = (float)((double)bn[1][o] - (double)bn[2][o] * scale);
    }
    if (status == IMF_OK) {
        *bias = bn[1];
        bn[1] = NULL;
    }
    for (int i = 0; i < 4; i++)
        free(bn[i]);
    return status;
}

static imf_status load_conv(struct walk *w, const char *name, const struct imf__conv_desc *desc)
{
    struct imf_inception *net = w->net;
    struct imf__device *d = net->device;
    float *weight = NULL, *bias = NULL;
    char full[128];
    int64_t shape[4] = {desc->out, desc->in, desc->kh, desc->kw};
    snprintf(full, sizeof(full), "%s.conv.weight", name);
    imf_status status = read_tensor(w, &weight, full, 4, shape);
    if (status == IMF_OK)
        status = fold(w, name, desc, weight, &bias);
    if (status == IMF_OK) {
        status = d->ops->conv_load(d, &net->convs[w->next], desc, weight, bias);
        if (status != IMF_OK)
            (void)imf__fail(w->err, status, "%s: %s: %s", imf__checkpoint_path(w->file), name,
                            d->error[0] ? d->error : imf_status_sentence(status));
        else
            net->conv_count = w->next + 1;
    }
    free(weight);
    free(bias);
    return status;
}

/* ---- Memory -------------------------------------------------------------------------------- */

static struct imf__image image_in(struct walk *w, enum region_name name, int side_h, int side_w,
                                  int c)
{
    struct region *r = &w->net->regions[name];
    struct imf__image image = {.n = w->net->batch, .h = side_h, .w = side_w, .c = c};
    size_t bytes = w->net->device->ops->image_bytes(w->net->device, &image);
    /* While loading there is no memory yet: base is NULL and the offset alone counts. */
    image.data = r->base ? r->base + r->used : NULL;
    r->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (r->used > r->peak)
        r->peak = r->used;
    return image;
}

/* The next block's output; the last one's stays valid until the call after this. */
static struct imf__image output(struct walk *w, int side, int c)
{
    w->odd = !w->odd;
    enum region_name name = w->odd ? ODD : EVEN;
    w->net->regions[name].used = 0;
    w->net->regions[TEMPORARY].used = 0;
    return image_in(w, name, side, side, c);
}

/* ---- Layers -------------------------------------------------------------------------------- */

/* One convolution: name, output channels, kernel, stride; `valid` leaves the padding out, otherwise
 * it is k/2 per axis. */
struct step {
    const char *name;
    int out, kh, kw, stride;
    bool valid;
};

static int out_size(int in, int k, int stride, int pad)
{
    return (in + 2 * pad - k) / stride + 1;
}

static imf_status conv(struct walk *w, const char *prefix, struct step s,
                       const struct imf__image *src, struct imf__image *dst)
{
    struct imf_inception *net = w->net;
    struct imf__conv_desc desc = {.in = src->c,
                                  .out = s.out,
                                  .kh = s.kh,
                                  .kw = s.kw,
                                  .stride = s.stride,
                                  .pad_h = s.valid ? 0 : s.kh / 2,
                                  .pad_w = s.valid ? 0 : s.kw / 2,
                                  .in_h = src->h,
                                  .in_w = src->w,
                                  .relu = true};
    int h = out_size(src->h, s.kh, s.stride, desc.pad_h);
    int wide = out_size(src->w, s.kw, s.stride, desc.pad_w);
    *dst = image_in(w, TEMPORARY, h, wide, s.out);
    if (w->file) {
        char name[96];
        snprintf(name, sizeof(name), "%s%s", prefix, s.name);
        net->flops += 2.0 * s.out * src->c * s.kh * s.kw * h * wide;
        IMF_TRY(load_conv(w, name, &desc));
    } else {
        IMF_TRY(net->device->ops->conv2d(net->device, dst, src, net->convs[w->next], NULL));
    }
    w->next++;
    return IMF_OK;
}

static imf_status pool(struct walk *w, enum imf__pool kind, int stride, int pad,
                       const struct imf__image *src, struct imf__image *dst)
{
    struct imf__device *d = w->net->device;
    *dst = image_in(w, TEMPORARY, out_size(src->h, 3, stride, pad),
                    out_size(src->w, 3, stride, pad), src->c);
    return w->file ? IMF_OK : d->ops->pool2d(d, dst, src, kind, 3, stride, pad);
}

/* dst channels from *c0 on. */
static imf_status put(struct walk *w, struct imf__image *dst, const struct imf__image *src, int *c0)
{
    int at = *c0;
    *c0 += src->c;
    struct imf__device *d = w->net->device;
    return w->file ? IMF_OK : d->ops->concat(d, dst, src, at);
}

/* A chain of convolutions from x into dst's next channels. */
static imf_status branch(struct walk *w, const char *prefix, const struct imf__image *x,
                         struct imf__image *dst, int *c0, const struct step *steps, int n)
{
    size_t mark = w->net->regions[TEMPORARY].used;
    struct imf__image t = *x;
    for (int i = 0; i < n; i++) {
        struct imf__image next;
        IMF_TRY(conv(w, prefix, steps[i], &t, &next));
        t = next;
    }
    IMF_TRY(put(w, dst, &t, c0));
    w->net->regions[TEMPORARY].used = mark; /* operations are in order: the memory can be reused */
    return IMF_OK;
}

#define BRANCH(...)                                                                                \
    do {                                                                                           \
        const struct step steps[] = {__VA_ARGS__};                                                 \
        IMF_TRY(branch(w, prefix, x, &dst, &c0, steps, (int)(sizeof(steps) / sizeof(steps[0]))));  \
    } while (0)

/* The branch that pools first, stride 1, padding 1, then convolves 1x1. */
static imf_status pool_branch(struct walk *w, const char *prefix, const struct imf__image *x,
                              struct imf__image *dst, int *c0, enum imf__pool kind, int channels)
{
    struct imf__image t;
    const struct step step = {"branch_pool", channels, 1, 1, 1, false};
    IMF_TRY(pool(w, kind, 1, 1, x, &t));
    return branch(w, prefix, &t, dst, c0, &step, 1);
}

/* ---- Blocks; *x becomes the block's output --------------------------------------------------- */

static imf_status block_a(struct walk *w, const char *prefix, struct imf__image *x, int pooled)
{
    struct imf__image dst = output(w, x->h, 64 + 64 + 96 + pooled);
    int c0 = 0;
    BRANCH({"branch1x1", 64, 1, 1, 1, false});
    BRANCH({"branch5x5_1", 48, 1, 1, 1, false}, {"branch5x5_2", 64, 5, 5, 1, false});
    BRANCH({"branch3x3dbl_1", 64, 1, 1, 1, false}, {"branch3x3dbl_2", 96, 3, 3, 1, false},
           {"branch3x3dbl_3", 96, 3, 3, 1, false});
    IMF_TRY(pool_branch(w, prefix, x, &dst, &c0, IMF__POOL_AVG, pooled));
    *x = dst;
    return IMF_OK;
}

static imf_status block_b(struct walk *w, const char *prefix, struct imf__image *x)
{
    struct imf__image dst = output(w, out_size(x->h, 3, 2, 0), 384 + 96 + x->c), t;
    int c0 = 0;
    BRANCH({"branch3x3", 384, 3, 3, 2, true});
    BRANCH({"branch3x3dbl_1", 64, 1, 1, 1, false}, {"branch3x3dbl_2", 96, 3, 3, 1, false},
           {"branch3x3dbl_3", 96, 3, 3, 2, true});
    IMF_TRY(pool(w, IMF__POOL_MAX, 2, 0, x, &t));
    IMF_TRY(put(w, &dst, &t, &c0));
    *x = dst;
    return IMF_OK;
}

static imf_status block_c(struct walk *w, const char *prefix, struct imf__image *x, int c7)
{
    struct imf__image dst = output(w, x->h, 4 * 192);
    int c0 = 0;
    BRANCH({"branch1x1", 192, 1, 1, 1, false});
    BRANCH({"branch7x7_1", c7, 1, 1, 1, false}, {"branch7x7_2", c7, 1, 7, 1, false},
           {"branch7x7_3", 192, 7, 1, 1, false});
    BRANCH({"branch7x7dbl_1", c7, 1, 1, 1, false}, {"branch7x7dbl_2", c7, 7, 1, 1, false},
           {"branch7x7dbl_3", c7, 1, 7, 1, false}, {"branch7x7dbl_4", c7, 7, 1, 1, false},
           {"branch7x7dbl_5", 192, 1, 7, 1, false});
    IMF_TRY(pool_branch(w, prefix, x, &dst, &c0, IMF__POOL_AVG, 192));
    *x = dst;
    return IMF_OK;
}

static imf_status block_d(struct walk *w, const char *prefix, struct imf__image *x)
{
    struct imf__image dst = output(w, out_size(x->h, 3, 2, 0), 320 + 192 + x->c), t;
    int c0 = 0;
    BRANCH({"branch3x3_1", 192, 1, 1, 1, false}, {"branch3x3_2", 320, 3, 3, 2, true});
    BRANCH({"branch7x7x3_1", 192, 1, 1, 1, false}, {"branch7x7x3_2", 192, 1, 7, 1, false},
           {"branch7x7x3_3", 192, 7, 1, 1, false}, {"branch7x7x3_4", 192, 3, 3, 2, true});
    IMF_TRY(pool(w, IMF__POOL_MAX, 2, 0, x, &t));
    IMF_TRY(put(w, &dst, &t, &c0));
    *x = dst;
    return IMF_OK;
}

/* steps[0 .. n - 3] in a chain, then the last two side by side on its end. */
static imf_status fork_branch(struct walk *w, const char *prefix, const struct imf__image *x,
                              struct imf__image *dst, int *c0, const struct step *steps, int n)
{
    size_t mark = w->net->regions[TEMPORARY].used;
    struct imf__image t = *x, next;
    for (int i = 0; i < n - 2; i++) {
        IMF_TRY(conv(w, prefix, steps[i], &t, &next));
        t = next;
    }
    IMF_TRY(branch(w, prefix, &t, dst, c0, &steps[n - 2], 1));
    IMF_TRY(branch(w, prefix, &t, dst, c0, &steps[n - 1], 1));
    w->net->regions[TEMPORARY].used = mark;
    return IMF_OK;
}

static imf_status block_e(struct walk *w, const char *prefix, struct imf__image *x,
                          enum imf__pool kind)
{
    static const struct step once[] = {{"branch3x3_1", 384, 1, 1, 1, false},
                                       {"branch3x3_2a", 384, 1, 3, 1, false},
                                       {"branch3x3_2b", 384, 3, 1, 1, false}};
    static const struct step twice[] = {{"branch3x3dbl_1", 448, 1, 1, 1, false},
                                        {"branch3x3dbl_2", 384, 3, 3, 1, false},
                                        {"branch3x3dbl_3a", 384, 1, 3, 1, false},
                                        {"branch3x3dbl_3b", 384, 3, 1, 1, false}};
    struct imf__image dst = output(w, x->h, 2048);
    int c0 = 0;
    BRANCH({"branch1x1", 320, 1, 1, 1, false});
    IMF_TRY(fork_branch(w, prefix, x, &dst, &c0, once, 3));
    IMF_TRY(fork_branch(w, prefix, x, &dst, &c0, twice, 4));
    IMF_TRY(pool_branch(w, prefix, x, &dst, &c0, kind, 192));
    *x = dst;
    return IMF_OK;
}

/* ---- Network ------------------------------------------------------------------------------- */

/* A stem layer writes a block output, so that only two images of the large sizes are held. */
static imf_status stem(struct walk *w, struct imf__image *x, struct step s)
{
    w->net->regions[TEMPORARY].used = 0;
    w->odd = !w->odd;
    struct region *r = &w->net->regions[w->odd ? ODD : EVEN], *t = &w->net->regions[TEMPORARY];
    struct region saved = *t;
    /* conv and pool allocate in TEMPORARY: lend them the block's region. */
    *t = *r;
    t->used = 0;
    struct imf__image next;
    imf_status status = s.name ? conv(w, "", s, x, &next) : pool(w, IMF__POOL_MAX, 2, 0, x, &next);
    *r = *t;
    *t = saved;
    *x = next;
    return status;
}

/* Everything after the resized input; fc included. */
static imf_status walk_network(struct walk *w)
{
    struct imf_inception *net = w->net;
    struct imf__device *d = net->device;
    struct imf__image x = net->input;
    IMF_TRY(stem(w, &x, (struct step){"Conv2d_1a_3x3", 32, 3, 3, 2, true}));
    IMF_TRY(stem(w, &x, (struct step){"Conv2d_2a_3x3", 32, 3, 3, 1, true}));
    IMF_TRY(stem(w, &x, (struct step){"Conv2d_2b_3x3", 64, 3, 3, 1, false}));
    IMF_TRY(stem(w, &x, (struct step){NULL, 0, 0, 0, 0, false})); /* max pool 3/2 */
    IMF_TRY(stem(w, &x, (struct step){"Conv2d_3b_1x1", 80, 1, 1, 1, false}));
    IMF_TRY(stem(w, &x, (struct step){"Conv2d_4a_3x3", 192, 3, 3, 1, true}));
    IMF_TRY(stem(w, &x, (struct step){NULL, 0, 0, 0, 0, false}));
    IMF_TRY(block_a(w, "Mixed_5b.", &x, 32));
    IMF_TRY(block_a(w, "Mixed_5c.", &x, 64));
    IMF_TRY(block_a(w, "Mixed_5d.", &x, 64));
    IMF_TRY(block_b(w, "Mixed_6a.", &x));
    IMF_TRY(block_c(w, "Mixed_6b.", &x, 128));
    IMF_TRY(block_c(w, "Mixed_6c.", &x, 160));
    IMF_TRY(block_c(w, "Mixed_6d.", &x, 160));
    IMF_TRY(block_c(w, "Mixed_6e.", &x, 192));
    IMF_TRY(block_d(w, "Mixed_7a.", &x));
    IMF_TRY(block_e(w, "Mixed_7b.", &x, IMF__POOL_AVG));
    IMF_TRY(block_e(w, "Mixed_7c.", &x, IMF__POOL_MAX));
    if (w->file)
        return IMF_OK;
    IMF_TRY(d->ops->global_mean(d, net->features, &x));
    return d->ops->linear(d, net->logits, IMF__F32, net->features, net->fc, net->batch, IMF__STORE);
}

static imf_status forward(void *ctx, int B)
{
    struct walk w = {.net = ctx};
    (void)B; /* always net->batch */
    return walk_network(&w);
}

static imf_status load_fc(struct walk *w)
{
    struct imf_inception *net = w->net;
    struct imf__device *d = net->device;
    const int64_t shape[2] = {IMF_LOGITS, IMF_FEATURES};
    float *weight = NULL;
    IMF_TRY(read_tensor(w, &weight, "fc.weight", 2, shape));
    imf_status status =
        d->ops->linear_load(d, &net->fc, IMF__F32, weight, NULL, IMF_LOGITS, IMF_FEATURES);
    free(weight);
    net->flops += 2.0 * IMF_FEATURES * IMF_LOGITS;
    return status;
}

static imf_status device_alloc(struct imf_inception *net, void **out, size_t bytes)
{
    return net->device->ops->alloc(net->device, out, bytes, false);
}

static imf_status allocate(struct imf_inception *net)
{
    size_t n = (size_t)net->batch;
    for (int i = 0; i < REGIONS; i++) {
        void *p = NULL;
        IMF_TRY(device_alloc(net, &p, net->regions[i].peak));
        net->regions[i].base = p;
    }
    void *features = NULL, *logits = NULL;
    IMF_TRY(device_alloc(net, &net->input.data,
                         net->device->ops->image_bytes(net->device, &net->input)));
    IMF_TRY(device_alloc(net, &features, n * IMF_FEATURES * sizeof(float)));
    net->features = features;
    IMF_TRY(device_alloc(net, &logits, n * IMF_LOGITS * sizeof(float)));
    net->logits = logits;
    net->host_features = malloc(n * IMF_FEATURES * sizeof(float));
    net->host_logits = malloc(n * IMF_LOGITS * sizeof(float));
    return net->host_features && net->host_logits ? IMF_OK : IMF_ENOMEM;
}

static imf_status prepare(struct imf_inception *net, struct imf_error *err)
{
    imf_status status = allocate(net);
    if (status == IMF_OK) {
        net->device->dry = true;
        status = forward(net, net->batch);
        net->device->dry = false;
    }
    if (status != IMF_OK)
        return imf__fail(err, status, "InceptionV3: %s",
                         net->device->error[0] ? net->device->error : imf_status_sentence(status));
    return IMF_OK;
}

imf_status imf_inception_load(struct imf_inception **out, struct imf_engine *e, const char *path,
                              int batch, struct imf_error *err)
{
    struct imf__device *d = imf__engine_device(e);
    if (batch < 0 || batch > 1024)
        return imf__fail(err, IMF_EINVAL, "InceptionV3 batch of %d", batch);
    struct imf_inception *net = calloc(1, sizeof(*net));
    if (!net)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    net->engine = e;
    net->device = d;
    net->batch = batch ? batch : strncmp(d->info.device, "cuda", 4) == 0 ? 64 : 8;
    net->input = (struct imf__image){.n = net->batch, .h = SIDE, .w = SIDE, .c = 3};
    struct walk w = {.net = net, .err = err};
    imf_status status = imf__checkpoint_open(&w.file, path, err);
    if (status == IMF_OK)
        status = walk_network(&w);
    if (status == IMF_OK)
        status = load_fc(&w);
    if (status == IMF_OK) {
        uint64_t f[2];
        imf__checkpoint_fingerprint(w.file, f);
        snprintf(net->fingerprint, sizeof(net->fingerprint), "%016llx%016llx",
                 (unsigned long long)f[0], (unsigned long long)f[1]);
    }
    imf__checkpoint_close(w.file);
    if (status == IMF_OK)
        status = prepare(net, err);
    if (status != IMF_OK) {
        imf_inception_destroy(net);
        return status;
    }
    *out = net;
    return IMF_OK;
}

void imf_inception_destroy(struct imf_inception *net)
{
    if (!net)
        return;
    struct imf__device *d = net->device;
    if (net->graph)
        d->ops->graph_free(d, net->graph);
    for (int i = 0; i < net->conv_count; i++)
        d->ops->conv_free(d, net->convs[i]);
    if (net->fc)
        d->ops->linear_free(d, net->fc);
    for (int i = 0; i < REGIONS; i++)
        d->ops->free(d, net->regions[i].base);
    d->ops->free(d, net->input.data);
    d->ops->free(d, net->features);
    d->ops->free(d, net->logits);
    d->ops->free(d, net->rgb);
    free(net->tail);
    free(net->host_features);
    free(net->host_logits);
    free(net);
}

int imf_inception_batch(const struct imf_inception *net)
{
    return net->batch;
}

double imf_inception_flops(const struct imf_inception *net)
{
    return net->flops;
}

const char *imf_inception_fingerprint(const struct imf_inception *net)
{
    return net->fingerprint;
}

/* ---- Running ------------------------------------------------------------------------------- */

/* Memory and preparation for pictures of a new size. */
static imf_status fit_size(struct imf_inception *net, int height, int width)
{
    struct imf__device *d = net->device;
    if (net->rgb && net->rgb_h == height && net->rgb_w == width)
        return IMF_OK;
    size_t bytes = (size_t)net->batch * (size_t)height * (size_t)width * 3;
    void *rgb = NULL;
    uint8_t *tail = malloc(bytes);
    if (!tail)
        return IMF_ENOMEM;
    imf_status status = device_alloc(net, &rgb, bytes);
    if (status != IMF_OK) {
        free(tail);
        return status;
    }
    d->ops->free(d, net->rgb);
    free(net->tail);
    net->rgb = rgb;
    net->tail = tail;
    net->rgb_h = height;
    net->rgb_w = width;
    d->dry = true;
    status = d->ops->resize_rgb8(d, &net->input, net->rgb, net->batch, height, width);
    d->dry = false;
    return status;
}

/* One batch; of a partial one (m < batch) the missing pictures are black and their features are
 * thrown away, so that one prepared size serves every count. */
static imf_status run_batch(struct imf_inception *net, const uint8_t *rgb, int m, float *features,
                            float *logits)
{
    struct imf__device *d = net->device;
    size_t picture = (size_t)net->rgb_h * (size_t)net->rgb_w * 3,
           all = (size_t)net->batch * picture;
    if (m < net->batch) {
        memcpy(net->tail, rgb, (size_t)m * picture);
        memset(net->tail + (size_t)m * picture, 0, all - (size_t)m * picture);
        rgb = net->tail;
    }
    IMF_TRY(d->ops->upload(d, net->rgb, rgb, all));
    IMF_TRY(d->ops->resize_rgb8(d, &net->input, net->rgb, net->batch, net->rgb_h, net->rgb_w));
    IMF_TRY(d->ops->graph_run(d, &net->graph, forward, net, net->batch));
    size_t rows = (size_t)net->batch;
    IMF_TRY(d->ops->download(d, net->host_features, net->features,
                             rows * IMF_FEATURES * sizeof(float)));
    memcpy(features, net->host_features, (size_t)m * IMF_FEATURES * sizeof(float));
    if (!logits)
        return IMF_OK;
    IMF_TRY(d->ops->download(d, net->host_logits, net->logits, rows * IMF_LOGITS * sizeof(float)));
    memcpy(logits, net->host_logits, (size_t)m * IMF_LOGITS * sizeof(float));
    return IMF_OK;
}

imf_status imf_inception_run(struct imf_inception *net, const uint8_t *rgb, int n, int height,
                             int width, float *features, float *logits)
{
    if (n < 1 || height < 1 || width < 1 || height > 1 << 14 || width > 1 << 14)
        return IMF_EINVAL;
    IMF_TRY(fit_size(net, height, width));
    size_t picture = (size_t)height * (size_t)width * 3;
    for (int i = 0; i < n; i += net->batch) {
        int m = n - i < net->batch ? n - i : net->batch;
        IMF_TRY(run_batch(net, rgb + (size_t)i * picture, m, features + (size_t)i * IMF_FEATURES,
                          logits ? logits + (size_t)i * IMF_LOGITS : NULL));
    }
    return IMF_OK;
}
