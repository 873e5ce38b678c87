/* InceptionV3's weights: see inception.h. */
#include "models/inception.h"

#include "common/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double bn_epsilon = 1e-3;

imf_status imf__inception_measure(struct imf__inception_conv *conv,
                                  struct imf__inception_source *source, const char *name)
{
    char full[128];
    snprintf(full, sizeof(full), "%s.conv.weight", name);
    const struct imf__name *n = imf__names_find(&source->names, full);
    if (!n)
        return imf__fail(source->loader.err, IMF_EMODEL, "InceptionV3 has no %s", name);
    conv->out = (int)n->shape[0];
    conv->kh = (int)n->shape[2];
    conv->kw = (int)n->shape[3];
    return IMF_OK;
}

/* weight and bias of a convolution followed by BatchNorm:
 * y = gamma (conv x - mean) / sqrt(var + eps) + beta. *bias is malloc'ed and the caller's. */
static imf_status fold(struct imf__loader *ld, const char *name, const struct imf__conv_desc *desc,
                       float *weight, float **bias)
{
    enum { GAMMA, BETA, MEAN, VARIANCE, PARTS };
    static const char *const parts[PARTS] = {"weight", "bias", "running_mean", "running_var"};
    float *bn[PARTS] = {NULL};
    imf_status status = IMF_OK;
    for (int i = 0; i < PARTS && status == IMF_OK; i++)
        status = imf__loader_read(ld, &bn[i], IMF__SHAPE(desc->out), "%s.bn.%s", name, parts[i]);
    size_t row = (size_t)desc->in * (size_t)desc->kh * (size_t)desc->kw;
    for (int o = 0; o < desc->out && status == IMF_OK; o++) {
        double variance = (double)bn[VARIANCE][o] + bn_epsilon;
        if (!(variance > 0)) {
            status = imf__fail(ld->err, IMF_EMODEL, "%s: %s.bn.running_var[%d] is negative",
                               imf__checkpoint_path(ld->ckpt), name, o);
            break;
        }
        double scale = (double)bn[GAMMA][o] / sqrt(variance);
        for (size_t i = 0; i < row; i++)
            weight[(size_t)o * row + i] = (float)((double)weight[(size_t)o * row + i] * scale);
        bn[BETA][o] = (float)((double)bn[BETA][o] - (double)bn[MEAN][o] * scale);
    }
    if (status == IMF_OK) {
        *bias = bn[BETA];
        bn[BETA] = NULL;
    }
    for (int i = 0; i < PARTS; i++)
        free(bn[i]);
    return status;
}

imf_status imf__inception_load_conv(struct imf__inception_conv *conv,
                                    struct imf__inception_source *source, const char *name,
                                    const struct imf__conv_desc *desc)
{
    struct imf__loader *ld = &source->loader;
    float *weight = NULL, *bias = NULL;
    imf_status status = imf__loader_read(
        ld, &weight, IMF__SHAPE(desc->out, desc->in, desc->kh, desc->kw), "%s.conv.weight", name);
    if (status == IMF_OK)
        status = fold(ld, name, desc, weight, &bias);
    if (status == IMF_OK)
        status = imf__loader_fail(
            ld, ld->dev->ops->conv_load(ld->dev, &conv->weights, desc, weight, bias), name);
    free(weight);
    free(bias);
    return status;
}

/* The logits are "unbiased": fc.bias is not used. */
static imf_status load_fc(struct imf_inception *net, struct imf__loader *ld)
{
    float *weight = NULL;
    IMF_TRY(imf__loader_read(ld, &weight, IMF__SHAPE(IMF_LOGITS, IMF_FEATURES), "fc.weight"));
    imf_status status = ld->dev->ops->linear_load(ld->dev, &net->fc, IMF__F32, weight, NULL,
                                                  IMF_LOGITS, IMF_FEATURES);
    free(weight);
    net->flops += 2.0 * IMF_FEATURES * IMF_LOGITS;
    return imf__loader_fail(ld, status, "fc");
}

imf_status imf__inception_read(struct imf_inception *net, const char *path, struct imf_error *err)
{
    struct imf__inception_source source = {.names = {0}};
    IMF_TRY(imf__loader_open(&source.loader, path, NULL, net->device, err));
    imf_status status = imf__inception_narrow(&net->narrow, source.loader.ckpt, err);
    if (status == IMF_OK)
        status = imf__loader_fail(&source.loader, imf__inception_names(&source.names, net->narrow),
                                  "the list of tensors");
    if (status == IMF_OK)
        status = imf__inception_walk(net, &source);
    if (status == IMF_OK)
        status = load_fc(net, &source.loader);
    if (status == IMF_OK) {
        uint64_t f[2];
        imf__checkpoint_fingerprint(source.loader.ckpt, f);
        snprintf(net->fingerprint, sizeof(net->fingerprint), "%016llx%016llx",
                 (unsigned long long)f[0], (unsigned long long)f[1]);
    }
    imf__names_free(&source.names);
    imf__loader_close(&source.loader);
    return status;
}
