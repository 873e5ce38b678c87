/* InceptionV3 as FID and the Inception Score use it: the network of torch-fidelity's
 * "inception-v3-compat", once over the device table.
 *
 *   inception.c          memory, running
 *   inception_load.c     weights: convolutions with their BatchNorm folded in
 *   inception_network.c  how the convolutions are strung together
 *
 * One walk over the network serves three purposes, so that names and order are written once: it
 * loads, prepares (with the device dry), runs. Numbers of channels and kernel sizes are those of
 * model_names_inception.c. */
#ifndef IMF__MODELS_INCEPTION_H
#define IMF__MODELS_INCEPTION_H

#include "imf_metrics.h"

#include "device.h"
#include "models/loader.h"

enum {
    IMF__INCEPTION_SIDE = 299, /* pixels of the input */
    IMF__INCEPTION_CONVS = 94,
    IMF__INCEPTION_BLOCKS = 11,
    IMF__INCEPTION_PLACES = 17 * 17, /* of Mixed_6d */
};

/* Block outputs alternate between two regions of memory; everything inside a block lives in a third
 * that is reset at the block's end. */
enum imf__inception_region { IMF__EVEN, IMF__ODD, IMF__INSIDE, IMF__REGIONS };

struct imf__region {
    char *base; /* NULL until everything is loaded: then the offsets alone count */
    size_t used, peak;
};

struct imf__inception_conv {
    struct imf__conv *weights;
    int out, kh, kw;
};

struct imf_inception {
    struct imf__device *device;
    int batch, narrow;
    double flops; /* of one picture */
    char fingerprint[33];
    struct imf__inception_conv convs[IMF__INCEPTION_CONVS]; /* in the order of the walk */
    int block_channels[IMF__INCEPTION_BLOCKS];              /* of their outputs */
    struct imf__linear *fc;
    struct imf__region regions[IMF__REGIONS];
    struct imf__image input; /* (batch, 299, 299, 3) */
    uint8_t *rgb;            /* device copy of the pictures, (batch, rgb_h, rgb_w, 3) */
    int rgb_h, rgb_w;
    uint8_t *tail;            /* host copy of a last, partial batch */
    float *features, *logits; /* device */
    float *spatial;           /* device: Mixed_6d's output, (batch, 17, 17, spatial_channels) */
    int spatial_channels;
    float *host_features, *host_logits, *host_spatial;
    struct imf__graph *graph;
};

/* Where the weights come from. */
struct imf__inception_source {
    struct imf__loader loader;
    struct imf__names names;
};

/* From the resized input to features and logits. With a source: reads the convolutions and adds up
 * memory instead. */
imf_status imf__inception_walk(struct imf_inception *net, struct imf__inception_source *source);
/* Fills in a convolution's sizes from the list of names. */
imf_status imf__inception_measure(struct imf__inception_conv *conv,
                                  struct imf__inception_source *source, const char *name);
/* Reads a convolution's weights, with its BatchNorm folded in. */
imf_status imf__inception_load_conv(struct imf__inception_conv *conv,
                                    struct imf__inception_source *source, const char *name,
                                    const struct imf__conv_desc *desc);
/* Reads the whole network: weights, fingerprint, peaks of the regions. */
imf_status imf__inception_read(struct imf_inception *net, const char *path, struct imf_error *err);

#endif
