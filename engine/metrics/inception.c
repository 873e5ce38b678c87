/* InceptionV3: memory and running; see inception.h. */
#include "models/inception.h"

#include "core/engine.h"
#include "common/error.h"

#include <stdlib.h>
#include <string.h>

/* ---- Loading ------------------------------------------------------------------------------- */

static imf_status forward(void *ctx, int B)
{
    (void)B; /* always net->batch */
    return imf__inception_walk(ctx, NULL);
}

static imf_status device_alloc(struct imf_inception *net, void **out, size_t bytes)
{
    return net->device->ops->alloc(net->device, out, bytes, false);
}

static imf_status allocate(struct imf_inception *net)
{
    size_t n = (size_t)net->batch;
    for (int i = 0; i < IMF__REGIONS; i++) {
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
    size_t places = n * IMF__INCEPTION_PLACES * (size_t)net->spatial_channels;
    void *spatial = NULL;
    IMF_TRY(device_alloc(net, &spatial, places * sizeof(float)));
    net->spatial = spatial;
    net->host_spatial = malloc(places * sizeof(float));
    net->host_features = malloc(n * IMF_FEATURES * sizeof(float));
    net->host_logits = malloc(n * IMF_LOGITS * sizeof(float));
    return net->host_features && net->host_logits && net->host_spatial ? IMF_OK : IMF_ENOMEM;
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
    net->device = d;
    net->batch = batch ? batch : strncmp(d->info.device, "cuda", 4) == 0 ? 64 : 8;
    net->input = (struct imf__image){
        .n = net->batch, .h = IMF__INCEPTION_SIDE, .w = IMF__INCEPTION_SIDE, .c = 3};
    imf_status status = imf__inception_read(net, path, err);
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
    for (int i = 0; i < IMF__INCEPTION_CONVS; i++)
        if (net->convs[i].weights)
            d->ops->conv_free(d, net->convs[i].weights);
    if (net->fc)
        d->ops->linear_free(d, net->fc);
    for (int i = 0; i < IMF__REGIONS; i++)
        d->ops->free(d, net->regions[i].base);
    d->ops->free(d, net->input.data);
    d->ops->free(d, net->features);
    d->ops->free(d, net->logits);
    d->ops->free(d, net->spatial);
    d->ops->free(d, net->rgb);
    free(net->tail);
    free(net->host_features);
    free(net->host_logits);
    free(net->host_spatial);
    free(net);
}

int imf_inception_batch(const struct imf_inception *net)
{
    return net->batch;
}

int imf_inception_narrow(const struct imf_inception *net)
{
    return net->narrow;
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

/* The first channels of every place. */
static imf_status fetch_spatial(struct imf_inception *net, int m, float *spatial)
{
    enum { KEPT = IMF_SPATIAL / IMF__INCEPTION_PLACES };
    struct imf__device *d = net->device;
    size_t places = (size_t)m * IMF__INCEPTION_PLACES, channels = (size_t)net->spatial_channels;
    IMF_TRY(
        d->ops->download(d, net->host_spatial, net->spatial, places * channels * sizeof(float)));
    for (size_t i = 0; i < places; i++)
        memcpy(spatial + i * KEPT, net->host_spatial + i * channels, KEPT * sizeof(float));
    return IMF_OK;
}

/* One batch; of a partial one (m < batch) the missing pictures are black and their features are
 * thrown away, so that one prepared size serves every count. */
static imf_status run_batch(struct imf_inception *net, const uint8_t *rgb, int m, float *features,
                            float *logits, float *spatial)
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
    if (spatial)
        IMF_TRY(fetch_spatial(net, m, spatial));
    if (!logits)
        return IMF_OK;
    IMF_TRY(d->ops->download(d, net->host_logits, net->logits, rows * IMF_LOGITS * sizeof(float)));
    memcpy(logits, net->host_logits, (size_t)m * IMF_LOGITS * sizeof(float));
    return IMF_OK;
}

imf_status imf_inception_run(struct imf_inception *net, const uint8_t *rgb, int n, int height,
                             int width, float *features, float *logits, float *spatial)
{
    if (n < 1 || height < 1 || width < 1 || height > 1 << 14 || width > 1 << 14)
        return IMF_EINVAL;
    IMF_TRY(fit_size(net, height, width));
    size_t picture = (size_t)height * (size_t)width * 3;
    for (int i = 0; i < n; i += net->batch) {
        int m = n - i < net->batch ? n - i : net->batch;
        IMF_TRY(run_batch(net, rgb + (size_t)i * picture, m, features + (size_t)i * IMF_FEATURES,
                          logits ? logits + (size_t)i * IMF_LOGITS : NULL,
                          spatial ? spatial + (size_t)i * IMF_SPATIAL : NULL));
    }
    return IMF_OK;
}
