/* libimf behind the scheduler's table: casts and nothing else. */
#include "scheduler/backend.h"

#include <math.h>

static imf_status device_open(struct backend_device **out, const struct imf_engine_params *p,
                              struct imf_error *err)
{
    struct imf_engine *engine;
    imf_status status = imf_engine_create(&engine, p, err);
    if (status == IMF_OK)
        *out = (struct backend_device *)engine;
    return status;
}

static void device_close(struct backend_device *device)
{
    imf_engine_destroy((struct imf_engine *)device);
}

static const struct imf_engine_info *device_info(const struct backend_device *device)
{
    return imf_engine_get_info((const struct imf_engine *)device);
}

static const char *device_error(const struct backend_device *device)
{
    return imf_engine_error((const struct imf_engine *)device);
}

static imf_status model_load(struct backend_model **out, struct backend_device *device,
                             const struct imf_model_params *p, struct imf_error *err)
{
    struct imf_model *model;
    imf_status status = imf_model_load(&model, (struct imf_engine *)device, p, err);
    if (status == IMF_OK)
        *out = (struct backend_model *)model;
    return status;
}

static void model_unload(struct backend_model *model)
{
    imf_model_destroy((struct imf_model *)model);
}

static const struct imf_model_info *model_info(const struct backend_model *model)
{
    return imf_model_get_info((const struct imf_model *)model);
}

static const char *class_name(const struct backend_model *model, int label)
{
    return imf_model_class_name((const struct imf_model *)model, label);
}

static imf_status lane_create(struct backend_lane **out, const struct backend_model *model)
{
    struct imf_lane *lane;
    imf_status status = imf_lane_create(&lane, (const struct imf_model *)model);
    if (status == IMF_OK)
        *out = (struct backend_lane *)lane;
    return status;
}

static imf_status lane_start(struct backend_lane *lane, const struct backend_model *model,
                             int32_t label, uint64_t seed, const struct imf_sampling *s,
                             struct imf_error *err)
{
    return imf_lane_start((struct imf_lane *)lane, (const struct imf_model *)model, label, seed, s,
                          err);
}

static void lane_destroy(struct backend_lane *lane)
{
    imf_lane_destroy((struct imf_lane *)lane);
}

static bool lane_finite(const struct backend_lane *lane)
{
    const struct imf_lane *l = (const struct imf_lane *)lane;
    for (size_t i = 0; i < l->z_count; i++) {
        if (!isfinite(l->z[i]))
            return false;
    }
    return true;
}

static imf_status step_begin(struct backend_model *model, struct backend_lane *const *lanes, int n)
{
    return imf_step_begin((struct imf_model *)model, (struct imf_lane *const *)lanes, n);
}

static imf_status step_end(struct backend_model *model, struct backend_lane **lanes, int n)
{
    return imf_step_end((struct imf_model *)model, (struct imf_lane **)lanes, n);
}

static imf_status decode_begin(struct backend_model *model, struct backend_lane *const *lanes,
                               int n)
{
    return imf_decode_begin((struct imf_model *)model, (struct imf_lane *const *)lanes, n);
}

static imf_status decode_end(struct backend_model *model, uint8_t *const *rgb)
{
    return imf_decode_end((struct imf_model *)model, rgb);
}

static imf_status wait_device(struct backend_device *device)
{
    return imf_engine_wait((struct imf_engine *)device);
}

const struct backend_ops backend_imf = {
    .name = "imf",
    .device_open = device_open,
    .device_close = device_close,
    .device_info = device_info,
    .device_error = device_error,
    .model_load = model_load,
    .model_unload = model_unload,
    .model_info = model_info,
    .class_name = class_name,
    .lane_create = lane_create,
    .lane_start = lane_start,
    .lane_destroy = lane_destroy,
    .lane_finite = lane_finite,
    .step_begin = step_begin,
    .step_end = step_end,
    .decode_begin = decode_begin,
    .decode_end = decode_end,
    .wait = wait_device,
};
