/* InceptionV3 as torch-fidelity's weights file names it, in its order, and narrower copies of it:
 * all channels are `narrow` times fewer, but for the picture's and for what Mixed_7c puts out, so
 * that features and logits have the published size. Tests live on those, at narrow^2 less work. */
#include "models/model_names_list.h"

#include "common/error.h"

#include <string.h>

/* Convolutions without bias, each followed by a BatchNorm: name, output and input channels, kernel
 * height and width. All channels but the picture's are multiples of 16. */
static const struct {
    const char *name;
    int out, in, height, width;
} convs[] = {
    {"Conv2d_1a_3x3", 32, 3, 3, 3},
    {"Conv2d_2a_3x3", 32, 32, 3, 3},
    {"Conv2d_2b_3x3", 64, 32, 3, 3},
    {"Conv2d_3b_1x1", 80, 64, 1, 1},
    {"Conv2d_4a_3x3", 192, 80, 3, 3},
    {"Mixed_5b.branch1x1", 64, 192, 1, 1},
    {"Mixed_5b.branch5x5_1", 48, 192, 1, 1},
    {"Mixed_5b.branch5x5_2", 64, 48, 5, 5},
    {"Mixed_5b.branch3x3dbl_1", 64, 192, 1, 1},
    {"Mixed_5b.branch3x3dbl_2", 96, 64, 3, 3},
    {"Mixed_5b.branch3x3dbl_3", 96, 96, 3, 3},
    {"Mixed_5b.branch_pool", 32, 192, 1, 1},
    {"Mixed_5c.branch1x1", 64, 256, 1, 1},
    {"Mixed_5c.branch5x5_1", 48, 256, 1, 1},
    {"Mixed_5c.branch5x5_2", 64, 48, 5, 5},
    {"Mixed_5c.branch3x3dbl_1", 64, 256, 1, 1},
    {"Mixed_5c.branch3x3dbl_2", 96, 64, 3, 3},
    {"Mixed_5c.branch3x3dbl_3", 96, 96, 3, 3},
    {"Mixed_5c.branch_pool", 64, 256, 1, 1},
    {"Mixed_5d.branch1x1", 64, 288, 1, 1},
    {"Mixed_5d.branch5x5_1", 48, 288, 1, 1},
    {"Mixed_5d.branch5x5_2", 64, 48, 5, 5},
    {"Mixed_5d.branch3x3dbl_1", 64, 288, 1, 1},
    {"Mixed_5d.branch3x3dbl_2", 96, 64, 3, 3},
    {"Mixed_5d.branch3x3dbl_3", 96, 96, 3, 3},
    {"Mixed_5d.branch_pool", 64, 288, 1, 1},
    {"Mixed_6a.branch3x3", 384, 288, 3, 3},
    {"Mixed_6a.branch3x3dbl_1", 64, 288, 1, 1},
    {"Mixed_6a.branch3x3dbl_2", 96, 64, 3, 3},
    {"Mixed_6a.branch3x3dbl_3", 96, 96, 3, 3},
    {"Mixed_6b.branch1x1", 192, 768, 1, 1},
    {"Mixed_6b.branch7x7_1", 128, 768, 1, 1},
    {"Mixed_6b.branch7x7_2", 128, 128, 1, 7},
    {"Mixed_6b.branch7x7_3", 192, 128, 7, 1},
    {"Mixed_6b.branch7x7dbl_1", 128, 768, 1, 1},
    {"Mixed_6b.branch7x7dbl_2", 128, 128, 7, 1},
    {"Mixed_6b.branch7x7dbl_3", 128, 128, 1, 7},
    {"Mixed_6b.branch7x7dbl_4", 128, 128, 7, 1},
    {"Mixed_6b.branch7x7dbl_5", 192, 128, 1, 7},
    {"Mixed_6b.branch_pool", 192, 768, 1, 1},
    {"Mixed_6c.branch1x1", 192, 768, 1, 1},
    {"Mixed_6c.branch7x7_1", 160, 768, 1, 1},
    {"Mixed_6c.branch7x7_2", 160, 160, 1, 7},
    {"Mixed_6c.branch7x7_3", 192, 160, 7, 1},
    {"Mixed_6c.branch7x7dbl_1", 160, 768, 1, 1},
    {"Mixed_6c.branch7x7dbl_2", 160, 160, 7, 1},
    {"Mixed_6c.branch7x7dbl_3", 160, 160, 1, 7},
    {"Mixed_6c.branch7x7dbl_4", 160, 160, 7, 1},
    {"Mixed_6c.branch7x7dbl_5", 192, 160, 1, 7},
    {"Mixed_6c.branch_pool", 192, 768, 1, 1},
    {"Mixed_6d.branch1x1", 192, 768, 1, 1},
    {"Mixed_6d.branch7x7_1", 160, 768, 1, 1},
    {"Mixed_6d.branch7x7_2", 160, 160, 1, 7},
    {"Mixed_6d.branch7x7_3", 192, 160, 7, 1},
    {"Mixed_6d.branch7x7dbl_1", 160, 768, 1, 1},
    {"Mixed_6d.branch7x7dbl_2", 160, 160, 7, 1},
    {"Mixed_6d.branch7x7dbl_3", 160, 160, 1, 7},
    {"Mixed_6d.branch7x7dbl_4", 160, 160, 7, 1},
    {"Mixed_6d.branch7x7dbl_5", 192, 160, 1, 7},
    {"Mixed_6d.branch_pool", 192, 768, 1, 1},
    {"Mixed_6e.branch1x1", 192, 768, 1, 1},
    {"Mixed_6e.branch7x7_1", 192, 768, 1, 1},
    {"Mixed_6e.branch7x7_2", 192, 192, 1, 7},
    {"Mixed_6e.branch7x7_3", 192, 192, 7, 1},
    {"Mixed_6e.branch7x7dbl_1", 192, 768, 1, 1},
    {"Mixed_6e.branch7x7dbl_2", 192, 192, 7, 1},
    {"Mixed_6e.branch7x7dbl_3", 192, 192, 1, 7},
    {"Mixed_6e.branch7x7dbl_4", 192, 192, 7, 1},
    {"Mixed_6e.branch7x7dbl_5", 192, 192, 1, 7},
    {"Mixed_6e.branch_pool", 192, 768, 1, 1},
    {"Mixed_7a.branch3x3_1", 192, 768, 1, 1},
    {"Mixed_7a.branch3x3_2", 320, 192, 3, 3},
    {"Mixed_7a.branch7x7x3_1", 192, 768, 1, 1},
    {"Mixed_7a.branch7x7x3_2", 192, 192, 1, 7},
    {"Mixed_7a.branch7x7x3_3", 192, 192, 7, 1},
    {"Mixed_7a.branch7x7x3_4", 192, 192, 3, 3},
    {"Mixed_7b.branch1x1", 320, 1280, 1, 1},
    {"Mixed_7b.branch3x3_1", 384, 1280, 1, 1},
    {"Mixed_7b.branch3x3_2a", 384, 384, 1, 3},
    {"Mixed_7b.branch3x3_2b", 384, 384, 3, 1},
    {"Mixed_7b.branch3x3dbl_1", 448, 1280, 1, 1},
    {"Mixed_7b.branch3x3dbl_2", 384, 448, 3, 3},
    {"Mixed_7b.branch3x3dbl_3a", 384, 384, 1, 3},
    {"Mixed_7b.branch3x3dbl_3b", 384, 384, 3, 1},
    {"Mixed_7b.branch_pool", 192, 1280, 1, 1},
    {"Mixed_7c.branch1x1", 320, 2048, 1, 1},
    {"Mixed_7c.branch3x3_1", 384, 2048, 1, 1},
    {"Mixed_7c.branch3x3_2a", 384, 384, 1, 3},
    {"Mixed_7c.branch3x3_2b", 384, 384, 3, 1},
    {"Mixed_7c.branch3x3dbl_1", 448, 2048, 1, 1},
    {"Mixed_7c.branch3x3dbl_2", 384, 448, 3, 3},
    {"Mixed_7c.branch3x3dbl_3a", 384, 384, 1, 3},
    {"Mixed_7c.branch3x3dbl_3b", 384, 384, 3, 1},
    {"Mixed_7c.branch_pool", 192, 2048, 1, 1},
};

/* The outputs are part of the 2048 features. */
static bool makes_features(const char *name)
{
    static const char *const last[] = {"branch1x1",       "branch3x3_2a",    "branch3x3_2b",
                                       "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"};
    static const char block[] = "Mixed_7c.";
    if (strncmp(name, block, sizeof(block) - 1) != 0)
        return false;
    for (size_t i = 0; i < sizeof(last) / sizeof(last[0]); i++)
        if (strcmp(name + sizeof(block) - 1, last[i]) == 0)
            return true;
    return false;
}

imf_status imf__inception_names(struct imf__names *out, int narrow)
{
    static const char *const parts[] = {"weight", "bias", "running_mean", "running_var"};
    struct list l = {.names = out};
    *out = (struct imf__names){0};
    for (size_t i = 0; i < sizeof(convs) / sizeof(convs[0]); i++) {
        const int64_t shape[4] = {
            makes_features(convs[i].name) ? convs[i].out : convs[i].out / narrow,
            convs[i].in == 3 ? 3 : convs[i].in / narrow, convs[i].height, convs[i].width};
        imf__list_add(&l, 4, shape, "%s.conv.weight", convs[i].name);
        for (int k = 0; k < 4; k++)
            imf__list_add(&l, 1, shape, "%s.bn.%s", convs[i].name, parts[k]);
        imf__list_add(&l, 0, shape, "%s.bn.num_batches_tracked", convs[i].name);
    }
    imf__list_add(&l, 2, (const int64_t[4]){1008, 2048}, "fc.weight");
    l.unneeded = true; /* the logits are "unbiased" */
    imf__list_add(&l, 1, (const int64_t[4]){1008}, "fc.bias");
    return imf__list_end(&l);
}

imf_status imf__inception_narrow(int *out, const struct imf__checkpoint *c, struct imf_error *err)
{
    const struct imf__tensor *t = imf__checkpoint_find(c, "Conv2d_1a_3x3.conv.weight");
    const char *path = imf__checkpoint_path(c);
    if (!t)
        return imf__fail(err, IMF_EMODEL,
                         "%.200s: tensor Conv2d_1a_3x3.conv.weight is missing: not InceptionV3's "
                         "weights for FID; pass weights-inception-2015-12-05-6726825d.pth of "
                         "torch-fidelity",
                         path);
    int64_t channels = t->ndim == 4 ? t->shape[0] : 0;
    if (!imf__inception_narrow_valid(channels > 0 && 32 % channels == 0 ? 32 / channels : 0))
        return imf__fail(err, IMF_EMODEL,
                         "%.200s: Conv2d_1a_3x3.conv.weight has %lld outputs, not InceptionV3's 32 "
                         "or 2, 4, 8, 16 times fewer",
                         path, (long long)channels);
    *out = (int)(32 / channels);
    return IMF_OK;
}
