/* Rows for products from and to the host (op_run.h). */
#include "reference/op_run.h"

#include <stdlib.h>

imf_status imf__act_put(struct imf__device *d, void *dst, const float *src, size_t rows, size_t K)
{
    const struct imf__device_ops *ops = d->ops;
    void *pixels = NULL;
    imf_status status = ops->alloc(d, &pixels, rows * K * sizeof(float), false);
    if (status == IMF_OK)
        status = ops->upload(d, pixels, src, rows * K * sizeof(float));
    for (int dry = 1; dry >= 0 && status == IMF_OK; dry--) {
        d->dry = dry;
        status = ops->patchify(d, dst, IMF__ACT, pixels, (int)rows, (int)K, 1, 1);
    }
    d->dry = false;
    if (status == IMF_OK)
        status = ops->sync(d);
    ops->free(d, pixels);
    return status;
}

imf_status imf__act_get(struct imf__device *d, float *dst, const void *src, size_t rows, size_t K)
{
    const struct imf__device_ops *ops = d->ops;
    struct imf__linear *same = NULL;
    void *copy = NULL;
    float *ones = calloc(K * K, sizeof(*ones));
    if (!ones)
        return IMF_ENOMEM;
    for (size_t k = 0; k < K; k++)
        ones[k * K + k] = 1;
    imf_status status = ops->linear_load(d, &same, IMF__ACT, ones, NULL, (int)K, (int)K);
    if (status == IMF_OK)
        status = ops->alloc(d, &copy, rows * K * sizeof(float), false);
    for (int dry = 1; dry >= 0 && status == IMF_OK; dry--) {
        d->dry = dry;
        status = ops->linear(d, copy, IMF__F32, src, same, (int)rows, IMF__STORE);
    }
    d->dry = false;
    if (status == IMF_OK)
        status = ops->download(d, dst, copy, rows * K * sizeof(float));
    ops->free(d, copy);
    ops->linear_free(d, same);
    free(ones);
    return status;
}
