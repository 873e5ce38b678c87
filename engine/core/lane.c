/* Lanes: one sample in flight. */
#include "common/error.h"
#include "common/noise.h"
#include "core/model.h"

#include <math.h>
#include <stdlib.h>

imf_status imf_lane_create(struct imf_lane **out, const struct imf_model *m)
{
    struct imf_lane *lane = calloc(1, sizeof(*lane));
    size_t n = imf__model_latent_count(m);
    float *z = lane ? calloc(n, sizeof(float)) : NULL;
    if (!z) {
        free(lane);
        return IMF_ENOMEM;
    }
    lane->z = z;
    lane->z_count = n;
    *out = lane;
    return IMF_OK;
}

static imf_status check(const struct imf_model *m, int32_t label, const struct imf_sampling *s,
                        struct imf_error *err)
{
    int classes = imf_model_get_info(m)->classes;
    if (label < 0 || label > classes)
        return imf__fail(err, IMF_EINVAL, "class must be 0..%d (%d is the null class), not %d",
                         classes, classes, (int)label);
    if (s->steps < 1 || s->steps > IMF_MAX_STEPS)
        return imf__fail(err, IMF_EINVAL, "steps must be 1..%d, not %d", IMF_MAX_STEPS, s->steps);
    if (!(s->omega >= 1.0f && s->omega <= (float)IMF_MAX_OMEGA))
        return imf__fail(err, IMF_EINVAL, "omega must be at least 1, not %g", (double)s->omega);
    if (!(s->t_min >= 0.0f && s->t_min <= s->t_max && s->t_max <= 1.0f))
        return imf__fail(err, IMF_EINVAL, "need 0 <= t_min <= t_max <= 1, not t_min %g, t_max %g",
                         (double)s->t_min, (double)s->t_max);
    return IMF_OK;
}

imf_status imf_lane_set(struct imf_lane *lane, const struct imf_model *m, int32_t label,
                        uint64_t seed, const struct imf_sampling *s, struct imf_error *err)
{
    if (lane->z_count != imf__model_latent_count(m))
        return imf__fail(err, IMF_EINVAL, "the lane was made for another model");
    imf_status status = check(m, label, s, err);
    if (status != IMF_OK)
        return status;
    lane->label = label;
    lane->seed = seed;
    lane->sampling = *s;
    lane->step = 0;
    lane->z_away = false;
    return IMF_OK;
}

void imf_model_noise(const struct imf_model *m, float *z, uint64_t seed)
{
    size_t n = imf__model_latent_count(m);
    float scale = imf_model_get_info(m)->noise_scale;
    imf__noise_draw(z, n, seed);
    imf__noise_shape(z, n, scale);
}

imf_status imf_lane_start(struct imf_lane *lane, const struct imf_model *m, int32_t label,
                          uint64_t seed, const struct imf_sampling *s, struct imf_error *err)
{
    imf_status status = imf_lane_set(lane, m, label, seed, s, err);
    if (status == IMF_OK)
        imf_model_noise(m, lane->z, seed);
    return status;
}

void imf_lane_destroy(struct imf_lane *lane)
{
    if (!lane)
        return;
    imf__slot_leave(lane);
    free(lane->z);
    free(lane);
}
