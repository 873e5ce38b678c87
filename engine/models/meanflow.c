/* The forward pass of MiT and pMF; the formulas are in docs/model.md, sections 4, 5 and 10. */
#include "models/meanflow.h"
#include "common/error.h"

#define NORM_EPS 1e-6f

static imf_status tap(struct imf__meanflow *m, const char *stage, int layer, const float *x, int B)
{
    return m->tap && !m->dev->dry ? m->tap(m->tap_user, stage, layer, x, B) : IMF_OK;
}

/* Of (rows, K) at the network's ends. */
static size_t end_bytes(const struct imf__meanflow *m, size_t rows, size_t K)
{
    return m->end_type == IMF__ACT ? imf__act_bytes(m->dev, rows, K) : rows * K * sizeof(float);
}

/* embedded (B, P, D) from the patches of z, through the bottleneck where there is one. */
static imf_status embed_patches(struct imf__meanflow *m, struct imf__activations *a,
                                float *embedded, const float *z, int B)
{
    const struct imf__device_ops *ops = m->dev->ops;
    size_t rows = (size_t)B * (size_t)m->P;
    size_t mark = imf__activations_mark(a);
    size_t features = (size_t)m->channels * m->patch * m->patch;
    void *patches = imf__activations_alloc(a, end_bytes(m, rows, features));
    void *narrow = imf__activations_alloc(a, end_bytes(m, rows, (size_t)m->bottleneck));
    if (!patches || !narrow)
        return IMF_ENOMEM;
    IMF_TRY(ops->patchify(m->dev, patches, m->end_type, z, B, m->channels, m->size, m->patch));
    if (m->bottleneck) {
        IMF_TRY(ops->linear(m->dev, narrow, m->end_type, patches, m->patch_embed[0], (int)rows,
                            IMF__STORE));
        IMF_TRY(ops->linear(m->dev, embedded, IMF__F32, narrow, m->patch_embed[1], (int)rows,
                            IMF__STORE));
    } else {
        IMF_TRY(ops->linear(m->dev, embedded, IMF__F32, patches, m->patch_embed[0], (int)rows,
                            IMF__STORE));
    }
    imf__activations_reset(a, mark);
    return IMF_OK;
}

/* The sequence x (B, T, D) from z, labels and scalars. */
static imf_status embed(struct imf__meanflow *m, struct imf__activations *a,
                        const struct imf__meanflow_input *in, float *x, int B)
{
    const struct imf__device_ops *ops = m->dev->ops;
    size_t D = (size_t)m->D, n = (size_t)B, P = (size_t)m->P, mark = imf__activations_mark(a);
    float *scalars = imf__activations_alloc(a, IMF__SCALARS * n * D * sizeof(float));
    float *embedded = imf__activations_alloc(a, n * P * D * sizeof(float)); /* (B, P, D) */
    if (!embedded)
        return IMF_ENOMEM;
    IMF_TRY(imf__scalars_embed(m, a, scalars, in, B));
    IMF_TRY(embed_patches(m, a, embedded, in->z, B));
    IMF_TRY(ops->assemble(m->dev, x, m->tokens, m->class_table, in->labels, scalars, embedded,
                          m->positions, B, m->P, m->D));
    imf__activations_reset(a, mark);
    return IMF_OK;
}

struct workspace {
    void *normed; /* (B T, D) IMF__ACT; float32 at the end */
    void *wide;   /* (B T, 3 D) or (B T, Mp) IMF__ACT */
    void *mixed;  /* (B T, D) IMF__ACT */
};

static imf_status block(struct imf__meanflow *m, int layer, float *x, const struct workspace *ws,
                        int B)
{
    const struct imf__device_ops *ops = m->dev->ops;
    const struct imf__meanflow_block *w = &m->blocks[layer];
    int rows = B * m->T;
    IMF_TRY(ops->rms_norm(m->dev, ws->normed, IMF__ACT, x, NULL, B, m->T, 0, m->D, NORM_EPS));
    IMF_TRY(ops->linear(m->dev, ws->wide, IMF__ACT, ws->normed, w->qkv, rows, IMF__STORE));
    IMF_TRY(ops->attention(m->dev, ws->mixed, ws->wide, w->q_norm, w->k_norm, m->rope, B, m->T,
                           m->NH, m->HS));
    IMF_TRY(ops->linear(m->dev, x, IMF__F32, ws->mixed, w->out, rows, IMF__ADD));
    IMF_TRY(tap(m, "attention", layer, x, B));
    IMF_TRY(ops->rms_norm(m->dev, ws->normed, IMF__ACT, x, NULL, B, m->T, 0, m->D, NORM_EPS));
    IMF_TRY(ops->swiglu(m->dev, ws->wide, ws->normed, w->up, rows));
    IMF_TRY(ops->linear(m->dev, x, IMF__F32, ws->wide, w->down, rows, IMF__ADD));
    return tap(m, "block", layer, x, B);
}

imf_status imf__meanflow_forward(struct imf__meanflow *m, struct imf__activations *arena,
                                 const struct imf__meanflow_input *in, int B)
{
    const struct imf__device_ops *ops = m->dev->ops;
    size_t rows = (size_t)B * (size_t)m->T, D = (size_t)m->D;
    size_t qkv = imf__act_bytes(m->dev, rows, 3 * D);
    size_t hidden = imf__act_bytes(m->dev, rows, (size_t)m->Mp);
    size_t mixed = imf__act_bytes(m->dev, rows, D), full = rows * D * sizeof(float);
    size_t outputs = (size_t)m->patch * m->patch * m->channels;
    size_t mark = imf__activations_mark(arena);
    float *x = imf__activations_alloc(arena, rows * D * sizeof(float)); /* (B, T, D) residual */
    if (!x)
        return IMF_ENOMEM;
    IMF_TRY(embed(m, arena, in, x, B));
    struct workspace ws = {
        .normed = imf__activations_alloc(arena, full > mixed ? full : mixed),
        .wide = imf__activations_alloc(arena, qkv > hidden ? qkv : hidden),
        .mixed = imf__activations_alloc(arena, mixed),
    };
    float *out = imf__activations_alloc(arena, (size_t)B * m->P * outputs * sizeof(float));
    if (!ws.normed || !ws.wide || !ws.mixed || !out)
        return IMF_ENOMEM;
    IMF_TRY(tap(m, "sequence", 0, x, B));
    for (int i = 0; i < m->depth; i++)
        IMF_TRY(block(m, i, x, &ws, B));
    IMF_TRY(ops->rms_norm(m->dev, ws.normed, m->end_type, x, NULL, B, m->T, IMF__PREFIX, m->D,
                          NORM_EPS));
    IMF_TRY(ops->linear(m->dev, out, IMF__F32, ws.normed, m->final, B * m->P, IMF__STORE));
    IMF_TRY(
        ops->euler(m->dev, in->z, out, m->predicts_x, in->dt, B, m->channels, m->size, m->patch));
    imf__activations_reset(arena, mark);
    return IMF_OK;
}

double imf__meanflow_flops(const struct imf__meanflow *m)
{
    double T = m->T, D = m->D, M = m->M, P = m->P;
    double features = m->channels * m->patch * m->patch, narrow = m->bottleneck;
    double per_block = 2 * T * (4 * D * D + 3 * D * M) + 4 * T * T * D;
    double patches = narrow > 0 ? features * narrow + narrow * D : features * D;
    return m->depth * per_block + 2 * P * (patches + features * D) +
           2 * IMF__SCALARS * (256 * D + D * D);
}
