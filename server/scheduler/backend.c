/* Which backend serves a device of the settings. */
#include "scheduler/backend.h"

#include "common/noise.h"

#include <string.h>

/* imf_model_noise, in two steps. */
static void noise_draw(const struct imf_model *m, float *z, uint64_t seed)
{
    const struct imf_model_info *info = imf_model_get_info(m);
    size_t side = (size_t)info->input_size;
    imf__noise_draw(z, (size_t)info->channels * side * side, seed);
}

static void noise_shape(const struct imf_model *m, float *z, size_t n)
{
    imf__noise_shape(z, n, imf_model_get_info(m)->noise_scale);
}

static const struct backend_ops libimf = {
    .device_open = imf_engine_create,
    .device_close = imf_engine_destroy,
    .device_info = imf_engine_get_info,
    .device_error = imf_engine_error,
    .model_load = imf_model_load,
    .model_unload = imf_model_destroy,
    .model_info = imf_model_get_info,
    .class_name = imf_model_class_name,
    .lane_create = imf_lane_create,
    .lane_start = imf_lane_start,
    .lane_set = imf_lane_set,
    .noise_draw = noise_draw,
    .noise_shape = noise_shape,
    .lane_fetch = imf_lane_fetch,
    .lane_destroy = imf_lane_destroy,
    .step_begin = imf_step_begin,
    .step_end = imf_step_end,
    .decode_begin = imf_decode_begin,
    .decode_end = imf_decode_end,
    .wait = imf_engine_wait,
};

const struct backend_ops *backend_for_device(const char *device)
{
    if (strcmp(device, "fake") == 0 || strncmp(device, "fake:", 5) == 0)
        return &backend_fake;
    return &libimf;
}
