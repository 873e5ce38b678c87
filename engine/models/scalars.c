/* What omega, t_min, t_max and h become for the network: sines and cosines, then two matrices a
 * scalar. On one sample these matrices cost a small model's step several per cent, all of it the
 * way from memory, and most requests give the same few values: a device whose memory the host reads
 * remembers what the last ones came to. A row's bits do not depend on its batch, so they are the
 * ones that would be computed again. */
#include "models/meanflow.h"
#include "common/error.h"

#include <stdlib.h>
#include <string.h>

#define KNOWN 4 /* values of each scalar; the oldest makes room */

struct imf__scalars_known {
    struct {
        uint32_t bits[KNOWN]; /* of the value */
        int count, next;
    } of[IMF__SCALARS];
    float rows[]; /* (IMF__SCALARS, KNOWN, D) */
};

imf_status imf__scalars_load(struct imf__meanflow *m)
{
    size_t floats = (size_t)IMF__SCALARS * KNOWN * (size_t)m->D;
    if (!m->dev->immediate)
        return IMF_OK;
    m->known = calloc(1, sizeof(*m->known) + floats * sizeof(float));
    return m->known ? IMF_OK : IMF_ENOMEM;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static float *row_of(const struct imf__meanflow *m, int s, int i)
{
    return m->known->rows + ((size_t)s * KNOWN + (size_t)i) * (size_t)m->D;
}

/* KNOWN: not among them. */
static int find(const struct imf__meanflow *m, int s, float value)
{
    for (int i = 0; i < m->known->of[s].count; i++) {
        if (m->known->of[s].bits[i] == bits_of(value))
            return i;
    }
    return KNOWN;
}

static bool recall(const struct imf__meanflow *m, int s, float *dst, const float *values, int B)
{
    for (int b = 0; b < B; b++) {
        int i = find(m, s, values[b]);
        if (i == KNOWN)
            return false;
        memcpy(dst + (size_t)b * (size_t)m->D, row_of(m, s, i), (size_t)m->D * sizeof(float));
    }
    return true;
}

static void remember(struct imf__meanflow *m, int s, const float *src, const float *values, int B)
{
    for (int b = 0; b < B; b++) {
        if (find(m, s, values[b]) < KNOWN)
            continue;
        int i = m->known->of[s].next;
        m->known->of[s].bits[i] = bits_of(values[b]);
        m->known->of[s].next = (i + 1) % KNOWN;
        if (m->known->of[s].count < KNOWN)
            m->known->of[s].count++;
        memcpy(row_of(m, s, i), src + (size_t)b * (size_t)m->D, (size_t)m->D * sizeof(float));
    }
}

imf_status imf__scalars_embed(struct imf__meanflow *m, struct imf__activations *a, float *dst,
                              const struct imf__meanflow_input *in, int B)
{
    const struct imf__device_ops *ops = m->dev->ops;
    const size_t D = (size_t)m->D, n = (size_t)B, mark = imf__activations_mark(a);
    const bool remembers = m->known && !m->dev->dry;
    float *waves = imf__activations_alloc(a, n * 256 * sizeof(float)); /* (B, 256) */
    float *hidden = imf__activations_alloc(a, n * D * sizeof(float));  /* (B, D) */
    if (!waves || !hidden)
        return IMF_ENOMEM;
    for (int s = 0; s < IMF__SCALARS; s++) {
        const float *values = in->scalars + (size_t)s * (size_t)in->max_batch;
        float *to = dst + (size_t)s * n * D;
        if (remembers && recall(m, s, to, values, B))
            continue;
        IMF_TRY(ops->scalar_embed(m->dev, waves, values, B));
        IMF_TRY(ops->linear(m->dev, hidden, IMF__F32, waves, m->scalar_embed[s][0], B, IMF__SILU));
        IMF_TRY(ops->linear(m->dev, to, IMF__F32, hidden, m->scalar_embed[s][1], B, IMF__STORE));
        if (remembers)
            remember(m, s, to, values, B);
    }
    imf__activations_reset(a, mark);
    return IMF_OK;
}
