/* From a checkpoint to a device: see loader.h. */
#include "models/loader.h"
#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

imf_status imf__loader_open(struct imf__loader *ld, const char *path, const char *key,
                            struct imf__device *dev, struct imf_error *err)
{
    memset(ld, 0, sizeof(*ld));
    ld->dev = dev;
    ld->err = err;
    IMF_TRY(imf__checkpoint_open(&ld->ckpt, path, key, err));
    size_t n = imf__checkpoint_count(ld->ckpt);
    ld->used = calloc(n ? n : 1, sizeof(*ld->used));
    if (!ld->used) {
        imf__loader_close(ld);
        return imf__fail(err, IMF_ENOMEM, "%s: no memory for its list of tensors", path);
    }
    for (size_t i = 0; i < n; i++)
        ld->bytes_expected += imf__checkpoint_at(ld->ckpt, i)->count * sizeof(float);
    return IMF_OK;
}

void imf__loader_close(struct imf__loader *ld)
{
    imf__checkpoint_close(ld->ckpt);
    free(ld->used);
    ld->ckpt = NULL;
    ld->used = NULL;
}

static const struct imf__tensor *use(struct imf__loader *ld, const struct imf__tensor *t)
{
    if (t)
        ld->used[imf__checkpoint_index(ld->ckpt, t)] = true;
    return t;
}

const struct imf__tensor *imf__loader_find(struct imf__loader *ld, const char *format, ...)
{
    char name[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(name, sizeof(name), format, ap);
    va_end(ap);
    return use(ld, imf__checkpoint_find(ld->ckpt, name));
}

imf_status imf__loader_read(struct imf__loader *ld, float **out, const int64_t shape[5],
                            const char *format, ...)
{
    struct imf__name want = {.needed = true};
    va_list ap;
    va_start(ap, format);
    vsnprintf(want.name, sizeof(want.name), format, ap);
    va_end(ap);
    for (; want.ndim < 4 && shape[want.ndim]; want.ndim++)
        want.shape[want.ndim] = shape[want.ndim];
    const struct imf__tensor *t;
    IMF_TRY(imf__model_require(&t, ld->ckpt, &want, ld->err));
    use(ld, t);
    float *p = malloc((size_t)t->count * sizeof(float));
    if (!p)
        return imf__fail(ld->err, IMF_ENOMEM, "%s: no memory to read tensor \"%s\"",
                         imf__checkpoint_path(ld->ckpt), t->name);
    imf_status status = imf__checkpoint_read(ld->ckpt, t, p, ld->err);
    if (status != IMF_OK) {
        free(p);
        return status;
    }
    ld->parameters += t->count;
    ld->bytes_read += t->count * sizeof(float);
    if (ld->progress && ld->bytes_expected)
        ld->progress(ld->progress_user, (double)ld->bytes_read / (double)ld->bytes_expected);
    *out = p;
    return IMF_OK;
}

imf_status imf__loader_finish(struct imf__loader *ld, const char *const *skipped)
{
    for (size_t i = 0; i < imf__checkpoint_count(ld->ckpt); i++) {
        const struct imf__tensor *t = imf__checkpoint_at(ld->ckpt, i);
        bool known = ld->used[i] || !imf__tensor_is_weight(t);
        for (int k = 0; skipped[k] && !known; k++)
            known = strncmp(t->spelling, skipped[k], strlen(skipped[k])) == 0;
        const struct imf__tensor *same = imf__checkpoint_find(ld->ckpt, t->spelling);
        if (!known && same != t && same)
            return imf__fail(ld->err, IMF_EMODEL,
                             "%s: tensor \"%s\" is there twice, also as \"%s\"",
                             imf__checkpoint_path(ld->ckpt), t->name, same->name);
        if (!known)
            return imf__fail(ld->err, IMF_EMODEL,
                             "%s: tensor \"%s\" belongs to no part of this model",
                             imf__checkpoint_path(ld->ckpt), t->name);
    }
    return IMF_OK;
}

imf_status imf__loader_fail(struct imf__loader *ld, imf_status status, const char *what)
{
    if (status == IMF_OK)
        return IMF_OK;
    const char *path = imf__checkpoint_path(ld->ckpt);
    if (status == IMF_ENOMEM)
        return imf__fail(ld->err, status,
                         "%s: no %s memory left for %s (%zu MB of weights so far)%s%s", path,
                         ld->dev->info.device, what, ld->dev->weights_bytes >> 20,
                         ld->dev->error[0] ? ": " : "", ld->dev->error);
    return imf__fail(ld->err, status, "%s: %s: %s", path, what,
                     ld->dev->error[0] ? ld->dev->error : imf_status_sentence(status));
}

imf_status imf__loader_vector(struct imf__loader *ld, float **out, const float *src, size_t n)
{
    void *p = NULL;
    imf_status status = ld->dev->ops->alloc(ld->dev, &p, n * sizeof(float), true);
    if (status == IMF_OK)
        status = ld->dev->ops->upload(ld->dev, p, src, n * sizeof(float));
    if (status != IMF_OK) {
        ld->dev->ops->free(ld->dev, p);
        return imf__loader_fail(ld, status, "a vector");
    }
    *out = p;
    return IMF_OK;
}
