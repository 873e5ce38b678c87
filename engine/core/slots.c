/* Where z stays between evaluations. A latent of 16 KB crosses to a GPU and back at every step for
 * nothing; z of a pixel model is 768 KB or 3 MB. Such a lane owns a slot of device memory: its
 * noise goes up once, every evaluation copies slot to batch and back on the device, and so does the
 * decoding. z comes to the host only when somebody asks (imf_lane_fetch), or when a lane gives its
 * slot up to another. */
#include "common/error.h"
#include "core/model.h"

#include <stdlib.h>

/* z from which on it pays. */
#define LARGE_Z ((size_t)32 << 10)
/* Lanes that keep z on the device, in batches: those of long requests wait while others step. */
#define SLOT_BATCHES 4

static size_t z_bytes(const struct imf_model *m)
{
    return m->z_count * sizeof(float);
}

size_t imf__slots_bytes(const struct imf_model *m, int max_batch)
{
    bool used = m->engine->dev->ops->copy && z_bytes(m) >= LARGE_Z;
    return used ? SLOT_BATCHES * (size_t)max_batch * z_bytes(m) : 0;
}

imf_status imf__slots_create(struct imf_model *m)
{
    struct imf__device *dev = m->engine->dev;
    size_t bytes = imf__slots_bytes(m, m->info.max_batch);
    if (bytes == 0)
        return IMF_OK;
    IMF_TRY(dev->ops->alloc(dev, (void **)&m->slots, bytes, false));
    m->slot_count = SLOT_BATCHES * m->info.max_batch;
    m->slot_owner = calloc((size_t)m->slot_count, sizeof(struct imf_lane *));
    return m->slot_owner ? IMF_OK : IMF_ENOMEM;
}

void imf__slots_destroy(struct imf_model *m)
{
    struct imf__device *dev = m->engine->dev;
    dev->ops->free(dev, m->slots);
    free(m->slot_owner);
}

static char *slot_of(const struct imf_model *m, const struct imf_lane *lane)
{
    return m->slots + (size_t)lane->slot * z_bytes(m);
}

void imf__slot_leave(struct imf_lane *lane)
{
    if (lane->slot_model)
        lane->slot_model->slot_owner[lane->slot] = NULL;
    lane->slot_model = NULL;
}

imf_status imf_lane_fetch(struct imf_model *m, struct imf_lane *lane)
{
    struct imf__device *dev = m->engine->dev;
    if (!lane->z_away)
        return IMF_OK;
    if (lane->slot_model != m)
        return IMF_EINVAL;
    imf_status status = m->engine->failed
                            ? IMF_EDEVICE
                            : dev->ops->download(dev, lane->z, slot_of(m, lane), z_bytes(m));
    if (status == IMF_EDEVICE)
        m->engine->failed = true;
    if (status == IMF_OK)
        lane->z_away = false;
    return status;
}

static bool among(const struct imf_lane *lane, struct imf_lane *const *lanes, int n)
{
    for (int i = 0; i < n; i++) {
        if (lanes[i] == lane)
            return true;
    }
    return false;
}

/* Gives the lane a slot: a free one, or that of a lane which is not in this batch. */
static imf_status take_slot(struct imf_model *m, struct imf_lane *lane,
                            struct imf_lane *const *lanes, int n)
{
    int slot = 0;
    while (slot < m->slot_count && m->slot_owner[slot])
        slot++;
    if (slot == m->slot_count) { /* there are more slots than lanes in a batch */
        for (slot = 0; among(m->slot_owner[slot], lanes, n); slot++) {
        }
        IMF_TRY(imf_lane_fetch(m, m->slot_owner[slot]));
        imf__slot_leave(m->slot_owner[slot]);
    }
    m->slot_owner[slot] = lane;
    lane->slot = slot;
    lane->slot_model = m;
    return IMF_OK;
}

imf_status imf__slots_gather(struct imf_model *m, struct imf_lane *const *lanes, int n)
{
    struct imf__device *dev = m->engine->dev;
    for (int i = 0; i < n; i++) {
        char *to = m->input + (size_t)i * z_bytes(m);
        if (lanes[i]->z_away && lanes[i]->slot_model != m)
            return IMF_EINVAL;
        if (lanes[i]->z_away)
            IMF_TRY(dev->ops->copy(dev, to, slot_of(m, lanes[i]), z_bytes(m)));
        else
            IMF_TRY(dev->ops->upload(dev, to, lanes[i]->z, z_bytes(m)));
    }
    return IMF_OK;
}

imf_status imf__slots_scatter(struct imf_model *m, struct imf_lane *const *lanes, int n)
{
    struct imf__device *dev = m->engine->dev;
    for (int i = 0; i < n; i++) {
        if (lanes[i]->slot_model != m)
            IMF_TRY(take_slot(m, lanes[i], lanes, n));
        IMF_TRY(dev->ops->copy(dev, slot_of(m, lanes[i]), m->input + (size_t)i * z_bytes(m),
                               z_bytes(m)));
    }
    return IMF_OK;
}
