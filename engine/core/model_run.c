/* Generating: a network evaluation and a decoding, each in halves. The first half enqueues, the
 * second waits and brings the result to the host; a device that computes at once does everything
 * but the last copy in the first half. */
#include "core/model.h"
#include "common/error.h"

#include <string.h>

/* Point i of torch.linspace(1, 0, steps + 1) in float32, which counts from the nearer end. */
static float time_at(int i, int steps)
{
    float step = -1.0f / (float)steps;
    return i < (steps + 1) / 2 ? 1.0f + step * (float)i : -step * (float)(steps - i);
}

/* u = (z - x) / t does without the smallest t. */
#define MIN_T 0.05f

static void stage_lane(struct imf_model *m, const struct imf_lane *lane, int b)
{
    size_t batch = (size_t)m->info.max_batch, i = (size_t)b;
    float *scalars = (float *)(m->staging + m->params_at);
    float *dt = scalars + IMF__SCALARS * batch;
    int32_t *labels = (int32_t *)(dt + batch);
    const struct imf_sampling *s = &lane->sampling;
    float h = time_at(lane->step, s->steps) - time_at(lane->step + 1, s->steps);
    if (!m->slots)
        memcpy(m->staging + i * m->z_count * sizeof(float), lane->z, m->z_count * sizeof(float));
    scalars[IMF__OMEGA * batch + i] = 1.0f - 1.0f / s->omega;
    scalars[IMF__T_MIN * batch + i] = s->t_min;
    scalars[IMF__T_MAX * batch + i] = s->t_max;
    scalars[IMF__H * batch + i] = h;
    float t = time_at(lane->step, s->steps);
    dt[i] = m->net.predicts_x ? h / (t > MIN_T ? t : MIN_T) : h;
    labels[i] = lane->label;
}

/* After a device failure nothing on that device can be trusted. */
static imf_status finish(struct imf_model *m, imf_status status)
{
    if (status == IMF_EDEVICE)
        m->engine->failed = true;
    return status;
}

imf_status imf_engine_wait(struct imf_engine *e)
{
    imf_status status = e->failed ? IMF_EDEVICE : e->dev->ops->sync(e->dev);
    if (status == IMF_EDEVICE)
        e->failed = true;
    return status;
}

/* ---- A network evaluation ---- */

static imf_status begin_step(struct imf_model *m, struct imf_lane *const *lanes, int n)
{
    struct imf__device *dev = m->engine->dev;
    size_t latents = (size_t)n * m->z_count * sizeof(float);
    if (m->slots)
        IMF_TRY(imf__slots_gather(m, lanes, n));
    else
        IMF_TRY(dev->ops->upload(dev, m->input, m->staging, latents));
    IMF_TRY(
        dev->ops->upload(dev, m->input + m->params_at, m->staging + m->params_at, m->params_bytes));
    IMF_TRY(dev->ops->graph_run(dev, &m->step_graphs[n - 1], imf__model_step_forward, m, n));
    if (m->slots)
        return imf__slots_scatter(m, lanes, n);
    if (!dev->ops->transfer_begin)
        return IMF_OK;
    return dev->ops->transfer_begin(dev, m->latents_out, m->input, latents);
}

imf_status imf_step_begin(struct imf_model *m, struct imf_lane *const *lanes, int n)
{
    if (m->engine->failed)
        return IMF_EDEVICE;
    if (n < 1 || n > m->info.max_batch || m->stepping > 0)
        return IMF_EINVAL;
    for (int i = 0; i < n; i++) {
        if (imf_lane_finished(lanes[i]) || lanes[i]->z_count != m->z_count)
            return IMF_EINVAL;
        stage_lane(m, lanes[i], i);
    }
    imf_status status = begin_step(m, lanes, n);
    if (status == IMF_OK)
        m->stepping = n;
    return finish(m, status);
}

static imf_status fetch_latents(struct imf_model *m, const char **latents)
{
    struct imf__device *dev = m->engine->dev;
    size_t bytes = (size_t)m->stepping * m->z_count * sizeof(float);
    if (m->slots)
        return dev->ops->sync(dev);
    if (dev->ops->transfer_end)
        return dev->ops->transfer_end(dev, m->latents_out, (const void **)latents);
    IMF_TRY(dev->ops->download(dev, m->staging, m->input, bytes));
    *latents = m->staging;
    return dev->ops->sync(dev);
}

imf_status imf_step_end(struct imf_model *m, struct imf_lane **lanes, int n)
{
    const char *latents = NULL;
    if (m->engine->failed)
        return IMF_EDEVICE;
    if (n < 1 || n != m->stepping)
        return IMF_EINVAL;
    imf_status status = fetch_latents(m, &latents);
    m->stepping = 0;
    if (status != IMF_OK)
        return finish(m, status);
    for (int i = 0; i < n; i++) {
        if (m->slots)
            lanes[i]->z_away = true;
        else
            memcpy(lanes[i]->z, latents + (size_t)i * m->z_count * sizeof(float),
                   m->z_count * sizeof(float));
        lanes[i]->step++;
    }
    return IMF_OK;
}

imf_status imf_step(struct imf_model *m, struct imf_lane **lanes, int n)
{
    IMF_TRY(imf_step_begin(m, lanes, n));
    return imf_step_end(m, lanes, n);
}

/* ---- Pictures ---- */

static size_t picture_bytes(const struct imf_model *m)
{
    return (size_t)m->info.image_height * (size_t)m->info.image_width * 3;
}

static imf_status begin_decode(struct imf_model *m, struct imf_lane *const *lanes, int n)
{
    struct imf__device *dev = m->engine->dev;
    struct imf__transfer *out = m->pictures_out[(m->first_decode + m->decodes) % IMF_DECODES];
    size_t latents = (size_t)n * m->z_count * sizeof(float);
    if (m->slots)
        IMF_TRY(imf__slots_gather(m, lanes, n));
    else
        IMF_TRY(dev->ops->upload(dev, m->input, m->staging, latents));
    IMF_TRY(dev->ops->graph_run(dev, &m->decode_graphs[n - 1], imf__model_decode_forward, m, n));
    if (!dev->ops->transfer_begin)
        return IMF_OK;
    return dev->ops->transfer_begin(dev, out, m->rgb, (size_t)n * picture_bytes(m));
}

imf_status imf_decode_begin(struct imf_model *m, struct imf_lane *const *lanes, int n)
{
    size_t latent = m->z_count * sizeof(float);
    int most = m->engine->dev->info.overlaps ? IMF_DECODES : 1;
    if (m->engine->failed)
        return IMF_EDEVICE;
    if (!m->info.image_width)
        return IMF_EUNSUPPORTED;
    if (n < 1 || n > m->info.decode_batch || m->decodes == most)
        return IMF_EINVAL;
    for (int i = 0; i < n; i++) {
        if (lanes[i]->z_count != m->z_count)
            return IMF_EINVAL;
        if (!m->slots)
            memcpy(m->staging + (size_t)i * latent, lanes[i]->z, latent);
    }
    imf_status status = begin_decode(m, lanes, n);
    if (status == IMF_OK)
        m->decoding[(m->first_decode + m->decodes++) % IMF_DECODES] = n;
    return finish(m, status);
}

static imf_status fetch_pictures(struct imf_model *m, int n, uint8_t *const *rgb)
{
    struct imf__device *dev = m->engine->dev;
    size_t bytes = picture_bytes(m);
    const void *host = NULL;
    if (!dev->ops->transfer_end) {
        for (int i = 0; i < n; i++)
            IMF_TRY(dev->ops->download(dev, rgb[i], m->rgb + (size_t)i * bytes, bytes));
        return dev->ops->sync(dev);
    }
    IMF_TRY(dev->ops->transfer_end(dev, m->pictures_out[m->first_decode], &host));
    for (int i = 0; i < n; i++)
        memcpy(rgb[i], (const uint8_t *)host + (size_t)i * bytes, bytes);
    return IMF_OK;
}

imf_status imf_decode_end(struct imf_model *m, uint8_t *const *rgb)
{
    if (m->engine->failed)
        return IMF_EDEVICE;
    if (m->decodes == 0)
        return IMF_EINVAL;
    imf_status status = fetch_pictures(m, m->decoding[m->first_decode], rgb);
    m->first_decode = (m->first_decode + 1) % IMF_DECODES;
    m->decodes--;
    return finish(m, status);
}

static imf_status end_piece(struct imf_model *m, int from, uint8_t *rgb)
{
    uint8_t *at[IMF_MAX_BATCH];
    for (int i = 0; i < m->decoding[m->first_decode]; i++)
        at[i] = rgb + (size_t)(from + i) * picture_bytes(m);
    return imf_decode_end(m, at);
}

/* Where the device overlaps, a piece is fetched while the next one computes. */
static imf_status decode_pieces(struct imf_model *m, struct imf_lane *const *lanes, int n,
                                uint8_t *rgb)
{
    int size = m->info.decode_batch, ended = 0;
    int lag = m->engine->dev->info.overlaps ? size : 0;
    for (int begun = 0; begun < n; begun += size) {
        IMF_TRY(imf_decode_begin(m, lanes + begun, n - begun < size ? n - begun : size));
        for (; begun - ended >= lag; ended += size)
            IMF_TRY(end_piece(m, ended, rgb));
    }
    for (; ended < n; ended += size)
        IMF_TRY(end_piece(m, ended, rgb));
    return IMF_OK;
}

imf_status imf_decode(struct imf_model *m, struct imf_lane *const *lanes, int n, uint8_t *rgb)
{
    if (n < 1 || m->decodes > 0)
        return IMF_EINVAL;
    imf_status status = decode_pieces(m, lanes, n, rgb);
    m->decodes = 0; /* what a failure left begun is forgotten */
    return status;
}
