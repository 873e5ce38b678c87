/* Engines: choosing a device by name. */
#include "core/engine.h"
#include "common/error.h"
#include "roofline/roofline.h"

#include <stdlib.h>
#include <string.h>

void imf_engine_params_init(struct imf_engine_params *p)
{
    *p = (struct imf_engine_params){.device = "auto", .precision = IMF_PRECISION_AUTO};
}

/* "cuda" is "cuda:0". False when the name is no CUDA device's. */
static bool cuda_ordinal(const char *name, int *ordinal)
{
    if (strcmp(name, "cuda") == 0) {
        *ordinal = 0;
        return true;
    }
    if (strncmp(name, "cuda:", 5) != 0)
        return false;
    char *end;
    long v = strtol(name + 5, &end, 10);
    if (end == name + 5 || *end || v < 0 || v > 1023)
        return false;
    *ordinal = (int)v;
    return true;
}

static imf_status open_device(struct imf__device **out, const struct imf_engine_params *p,
                              struct imf_error *err)
{
    const char *name = p->device ? p->device : "auto";
    int ordinal = 0;
    if (strcmp(name, "auto") == 0)
        name = imf_cuda_device_count(NULL, 0) > 0 ? "cuda" : "cpu";
    if (strcmp(name, "cpu") == 0)
        return imf__cpu_device_create(out, p, err);
    if (cuda_ordinal(name, &ordinal))
        return imf__cuda_device_open(out, ordinal, p->precision, err);
    if (strncmp(name, "roofline:", 9) == 0) /* counts instead of computing; imfd bench --roofline */
        return imf__roofline_device_create(out, name + 9, p->precision, err);
    return imf__fail(err, IMF_EINVAL, "no device \"%.40s\": use auto, cpu, cuda or cuda:N", name);
}

imf_status imf_engine_create(struct imf_engine **out, const struct imf_engine_params *p,
                             struct imf_error *err)
{
    struct imf_engine *e = calloc(1, sizeof(*e));
    if (!e)
        return imf__fail(err, IMF_ENOMEM, "no memory for an engine");
    imf_status status = open_device(&e->dev, p, err);
    if (status != IMF_OK) {
        free(e);
        return status;
    }
    *out = e;
    return IMF_OK;
}

const struct imf_engine_info *imf_engine_get_info(const struct imf_engine *e)
{
    return &e->dev->info;
}

struct imf__device *imf__engine_device(struct imf_engine *e)
{
    return e->dev;
}

const char *imf_engine_error(const struct imf_engine *e)
{
    return e->dev->error;
}

imf_status imf_engine_matmul_rate(struct imf_engine *e, double *flops_per_second)
{
    return e->dev->ops->matmul_rate(e->dev, flops_per_second);
}

imf_status imf_engine_peak_rate(struct imf_engine *e, double *flops_per_second)
{
    if (!e->dev->ops->peak_rate)
        return IMF_EUNSUPPORTED;
    return e->dev->ops->peak_rate(e->dev, flops_per_second);
}

void imf_engine_destroy(struct imf_engine *e)
{
    if (!e)
        return;
    e->dev->ops->destroy(e->dev);
    free(e);
}
