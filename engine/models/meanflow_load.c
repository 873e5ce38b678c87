/* Weights of MiT and pMF: sizes are read off the shapes, then each tensor is read, folded and
 * packed. The folds are exact: a norm's weight goes into the columns of the matrix behind it,
 * attn_scale and mlp_scale into the rows of the matrix before them (docs/model.md, section 5). */
#include "models/family.h"
#include "common/error.h"
#include "models/model_names.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static imf_status read_sizes(struct imf__meanflow *m, struct imf__loader *ld)
{
    const struct imf__meanflow_shape *s = &m->shape;
    IMF_TRY(imf__meanflow_shape_read(&m->shape, ld->ckpt, ld->err));
    m->depth = s->depth;
    m->shared_depth = s->shared_depth;
    m->D = s->hidden;
    m->HS = s->head_size;
    m->NH = s->hidden / s->head_size;
    m->M = s->mlp_hidden;
    int multiple = m->dev->feature_multiple > 1 ? m->dev->feature_multiple : 1;
    m->Mp = (m->M + multiple - 1) / multiple * multiple;
    m->classes = s->classes;
    m->channels = s->channels;
    m->patch = s->patch_size;
    m->size = s->input_size;
    m->bottleneck = s->bottleneck;
    m->P = (m->size / m->patch) * (m->size / m->patch);
    m->T = IMF__PREFIX + m->P;
    m->predicts_x = s->family == IMF__PMF;
    /* A MiT's ends have so few features that float32 costs nothing and keeps their error out. */
    m->end_type = s->family == IMF__PMF ? IMF__ACT : IMF__F32;
    return IMF_OK;
}

/* weight (N, K) columns times scale (K). */
static void fold_columns(float *weight, const float *scale, int N, int K)
{
    for (int n = 0; n < N; n++) {
        for (int k = 0; k < K; k++)
            weight[(size_t)n * (size_t)K + (size_t)k] *= scale[k];
    }
}

/* weight (N, K) rows times scale (N). */
static void fold_rows(float *weight, const float *scale, int N, int K)
{
    for (int n = 0; n < N; n++) {
        for (int k = 0; k < K; k++)
            weight[(size_t)n * (size_t)K + (size_t)k] *= scale[n];
    }
}

static imf_status load_linear(struct imf__loader *ld, struct imf__linear **out,
                              enum imf__dtype type, const float *weight, const float *bias, int N,
                              int K, const char *what)
{
    return imf__loader_fail(ld, ld->dev->ops->linear_load(ld->dev, out, type, weight, bias, N, K),
                            what);
}

static imf_status load_qkv(struct imf__meanflow *m, struct imf__loader *ld,
                           struct imf__meanflow_block *b, const char *at)
{
    static const char names[] = "qkv";
    int D = m->D;
    size_t one = (size_t)D * (size_t)D;
    float *norm = NULL, *all = malloc(3 * one * sizeof(float));
    imf_status status = all ? imf__loader_read(ld, &norm, IMF__SHAPE(D), "%s.norm1.weight", at)
                            : imf__fail(ld->err, IMF_ENOMEM, "no memory to load %s.attn", at);
    for (size_t i = 0; i < 3 && status == IMF_OK; i++) {
        float *part = NULL;
        status = imf__loader_read(ld, &part, IMF__SHAPE(D, D),
                                  "%s.attn.%c_proj._flax_linear.weight", at, names[i]);
        if (status == IMF_OK)
            memcpy(all + i * one, part, one * sizeof(float));
        free(part);
    }
    if (status == IMF_OK) {
        fold_columns(all, norm, 3 * D, D);
        status = load_linear(ld, &b->qkv, IMF__ACT, all, NULL, 3 * D, D, at);
    }
    free(all);
    free(norm);
    return status;
}

/* Replaces *w (rows, cols) by (to_rows, to_cols) with zeros around it. Padding the MLP's width is
 * exact: silu(0) 0 = 0, and a zero column of w2 adds nothing. */
static imf_status pad_matrix(struct imf__loader *ld, float **w, int rows, int cols, int to_rows,
                             int to_cols)
{
    if (rows == to_rows && cols == to_cols)
        return IMF_OK;
    float *padded = calloc((size_t)to_rows * (size_t)to_cols, sizeof(*padded));
    if (!padded)
        return imf__fail(ld->err, IMF_ENOMEM, "no memory to pad a matrix");
    for (int i = 0; i < rows; i++)
        memcpy(padded + (size_t)i * (size_t)to_cols, *w + (size_t)i * (size_t)cols,
               (size_t)cols * sizeof(*padded));
    free(*w);
    *w = padded;
    return IMF_OK;
}

/* A matrix whose rows are multiplied by a learned vector: attention's output, the MLP's w2, whose K
 * columns become Kp. */
static imf_status load_scaled(struct imf__meanflow *m, struct imf__loader *ld,
                              struct imf__linear **out, const char *at, const char *matrix,
                              const char *scale, int K, int Kp)
{
    float *w = NULL, *s = NULL;
    imf_status status =
        imf__loader_read(ld, &w, IMF__SHAPE(m->D, K), "%s.%s._flax_linear.weight", at, matrix);
    if (status == IMF_OK)
        status = imf__loader_read(ld, &s, IMF__SHAPE(m->D), "%s.%s", at, scale);
    if (status == IMF_OK) {
        fold_rows(w, s, m->D, K);
        status = pad_matrix(ld, &w, m->D, K, m->D, Kp);
    }
    if (status == IMF_OK)
        status = load_linear(ld, out, IMF__ACT, w, NULL, m->D, Kp, at);
    free(w);
    free(s);
    return status;
}

static imf_status load_up(struct imf__meanflow *m, struct imf__loader *ld,
                          struct imf__meanflow_block *b, const char *at)
{
    float *norm = NULL, *w1 = NULL, *w3 = NULL;
    imf_status status = imf__loader_read(ld, &norm, IMF__SHAPE(m->D), "%s.norm2.weight", at);
    if (status == IMF_OK)
        status =
            imf__loader_read(ld, &w1, IMF__SHAPE(m->M, m->D), "%s.mlp.w1._flax_linear.weight", at);
    if (status == IMF_OK)
        status =
            imf__loader_read(ld, &w3, IMF__SHAPE(m->M, m->D), "%s.mlp.w3._flax_linear.weight", at);
    if (status == IMF_OK) {
        fold_columns(w1, norm, m->M, m->D);
        fold_columns(w3, norm, m->M, m->D);
        status = pad_matrix(ld, &w1, m->M, m->D, m->Mp, m->D);
    }
    if (status == IMF_OK)
        status = pad_matrix(ld, &w3, m->M, m->D, m->Mp, m->D);
    if (status == IMF_OK)
        status =
            imf__loader_fail(ld, m->dev->ops->swiglu_load(m->dev, &b->up, w1, w3, m->Mp, m->D), at);
    free(norm);
    free(w1);
    free(w3);
    return status;
}

static imf_status load_vector(struct imf__loader *ld, float **out, int n, const char *at,
                              const char *name)
{
    float *host = NULL;
    IMF_TRY(imf__loader_read(ld, &host, IMF__SHAPE(n), "%s.%s", at, name));
    imf_status status = imf__loader_vector(ld, out, host, (size_t)n);
    free(host);
    return status;
}

static imf_status load_block(struct imf__meanflow *m, struct imf__loader *ld, int i)
{
    struct imf__meanflow_block *b = &m->blocks[i];
    char at[64];
    if (i < m->shared_depth)
        snprintf(at, sizeof(at), "net.shared_blocks.%d", i);
    else
        snprintf(at, sizeof(at), "net.u_heads.%d", i - m->shared_depth);
    IMF_TRY(load_qkv(m, ld, b, at));
    IMF_TRY(load_vector(ld, &b->q_norm, m->HS, at, "attn.q_norm.weight"));
    IMF_TRY(load_vector(ld, &b->k_norm, m->HS, at, "attn.k_norm.weight"));
    IMF_TRY(load_scaled(m, ld, &b->out, at, "attn.out_proj", "attn_scale", m->D, m->D));
    IMF_TRY(load_up(m, ld, b, at));
    return load_scaled(m, ld, &b->down, at, "mlp.w2", "mlp_scale", m->M, m->Mp);
}

/* The embedders run on a few rows: float32 keeps their error out of every token for no time at all.
 */
static imf_status load_scalar_embedders(struct imf__meanflow *m, struct imf__loader *ld)
{
    static const char *const names[IMF__SCALARS] = {
        [IMF__OMEGA] = "omega_embedder",
        [IMF__T_MIN] = "cfg_t_start_embedder",
        [IMF__T_MAX] = "cfg_t_end_embedder",
        [IMF__H] = "h_embedder",
    };
    for (int i = 0; i < 2 * IMF__SCALARS; i++) {
        int s = i / 2, layer = i % 2, K = layer ? m->D : 256;
        float *w = NULL, *bias = NULL;
        char at[96];
        snprintf(at, sizeof(at), "net.%s.mlp.%d._flax_linear", names[s], 2 * layer);
        imf_status status = imf__loader_read(ld, &w, IMF__SHAPE(m->D, K), "%s.weight", at);
        if (status == IMF_OK)
            status = imf__loader_read(ld, &bias, IMF__SHAPE(m->D), "%s.bias", at);
        if (status == IMF_OK)
            status = load_linear(ld, &m->scalar_embed[s][layer], IMF__F32, w, bias, m->D, K, at);
        free(w);
        free(bias);
        IMF_TRY(status);
    }
    return IMF_OK;
}

imf_status imf__meanflow_load_named(struct imf__loader *ld, struct imf__linear **out,
                                    enum imf__dtype type, const int64_t shape[5], int N, int K,
                                    const char *name)
{
    float *w = NULL, *bias = NULL;
    imf_status status = imf__loader_read(ld, &w, shape, "%s.weight", name);
    if (status == IMF_OK)
        status = imf__loader_read(ld, &bias, IMF__SHAPE(N), "%s.bias", name);
    if (status == IMF_OK)
        status = load_linear(ld, out, type, w, bias, N, K, name);
    free(w);
    free(bias);
    return status;
}

/* The learned prefix, and what the family does with positions. */
static imf_status load_ends(struct imf__meanflow *m, struct imf__loader *ld)
{
    static const struct {
        const char *name;
        int count;
    } groups[] = {
        {"class_tokens", 8}, {"omega_tokens", 4}, {"t_min_tokens", 2},
        {"t_max_tokens", 2}, {"time_tokens", 4},
    };
    size_t at = 0;
    float *all = malloc((size_t)IMF__PREFIX * (size_t)m->D * sizeof(float));
    imf_status status =
        all ? IMF_OK : imf__fail(ld->err, IMF_ENOMEM, "no memory to load the prefix tokens");
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]) && status == IMF_OK; i++) {
        float *part = NULL;
        size_t n = (size_t)groups[i].count * (size_t)m->D;
        status = imf__loader_read(ld, &part, IMF__SHAPE(groups[i].count, m->D), "net.%s",
                                  groups[i].name);
        if (status == IMF_OK)
            memcpy(all + at, part, n * sizeof(float));
        at += n;
        free(part);
    }
    if (status == IMF_OK)
        status = imf__ends_of(m->shape.family)->load(m, ld, all);
    if (status == IMF_OK)
        status = imf__loader_vector(ld, &m->tokens, all, at);
    free(all);
    return status;
}

static imf_status load_class_table(struct imf__meanflow *m, struct imf__loader *ld)
{
    float *table = NULL;
    IMF_TRY(imf__loader_read(ld, &table, IMF__SHAPE(m->classes + 1, m->D),
                             "net.y_embedder.embedding_table._flax_embedding.weight"));
    imf_status status =
        imf__loader_vector(ld, &m->class_table, table, (size_t)(m->classes + 1) * (size_t)m->D);
    free(table);
    return status;
}

static imf_status load_final(struct imf__meanflow *m, struct imf__loader *ld)
{
    int N = m->patch * m->patch * m->channels;
    float *norm = NULL, *w = NULL, *bias = NULL;
    imf_status status =
        imf__loader_read(ld, &norm, IMF__SHAPE(m->D), "net.u_final_layer.norm.weight");
    if (status == IMF_OK)
        status = imf__loader_read(ld, &w, IMF__SHAPE(N, m->D),
                                  "net.u_final_layer.linear._flax_linear.weight");
    if (status == IMF_OK)
        status = imf__loader_read(ld, &bias, IMF__SHAPE(N),
                                  "net.u_final_layer.linear._flax_linear.bias");
    if (status == IMF_OK) {
        fold_columns(w, norm, N, m->D);
        status = load_linear(ld, &m->final, m->end_type, w, bias, N, m->D, "the final layer");
    }
    free(norm);
    free(w);
    free(bias);
    return status;
}

imf_status imf__meanflow_make_rope(struct imf__meanflow *m, struct imf__loader *ld,
                                   float (*angle)(const struct imf__meanflow *m, int t, int i))
{
    int pairs = m->HS / 2;
    size_t n = (size_t)m->T * (size_t)pairs;
    float *rope = malloc(2 * n * sizeof(float));
    if (!rope)
        return imf__fail(ld->err, IMF_ENOMEM, "no memory for the rotary table");
    for (size_t i = 0; i < n; i++) {
        float a = angle(m, (int)i / pairs, (int)i % pairs);
        rope[i] = cosf(a);
        rope[n + i] = sinf(a);
    }
    imf_status status = imf__loader_vector(ld, &m->rope, rope, 2 * n);
    free(rope);
    return status;
}

static imf_status load_all(struct imf__meanflow *m, struct imf__loader *ld)
{
    /* v_heads and v_final_layer serve training only. */
    static const char *const skipped[] = {"v_heads.", "v_final_layer.", NULL};
    IMF_TRY(load_ends(m, ld));
    IMF_TRY(load_class_table(m, ld));
    IMF_TRY(load_scalar_embedders(m, ld));
    IMF_TRY(imf__loader_fail(ld, imf__scalars_load(m), "the scalar embedders"));
    for (int i = 0; i < m->depth; i++)
        IMF_TRY(load_block(m, ld, i));
    IMF_TRY(load_final(m, ld));
    return imf__loader_finish(ld, skipped);
}

imf_status imf__meanflow_load(struct imf__meanflow *m, struct imf__loader *ld)
{
    m->dev = ld->dev;
    IMF_TRY(read_sizes(m, ld));
    m->blocks = calloc((size_t)m->depth, sizeof(*m->blocks));
    if (!m->blocks)
        return imf__fail(ld->err, IMF_ENOMEM, "no memory for %d blocks", m->depth);
    imf_status status = load_all(m, ld);
    if (status != IMF_OK)
        imf__meanflow_unload(m);
    return status;
}

void imf__meanflow_unload(struct imf__meanflow *m)
{
    if (!m->dev)
        return;
    const struct imf__device_ops *ops = m->dev->ops;
    for (int i = 0; m->blocks && i < m->depth; i++) {
        struct imf__meanflow_block *b = &m->blocks[i];
        ops->linear_free(m->dev, b->qkv);
        ops->linear_free(m->dev, b->out);
        ops->swiglu_free(m->dev, b->up);
        ops->linear_free(m->dev, b->down);
        ops->free(m->dev, b->q_norm);
        ops->free(m->dev, b->k_norm);
    }
    free(m->blocks);
    free(m->known);
    ops->free(m->dev, m->tokens);
    ops->free(m->dev, m->class_table);
    ops->free(m->dev, m->rope);
    ops->free(m->dev, m->positions);
    ops->linear_free(m->dev, m->patch_embed[0]);
    ops->linear_free(m->dev, m->patch_embed[1]);
    for (int s = 0; s < IMF__SCALARS; s++) {
        ops->linear_free(m->dev, m->scalar_embed[s][0]);
        ops->linear_free(m->dev, m->scalar_embed[s][1]);
    }
    ops->linear_free(m->dev, m->final);
    memset(m, 0, sizeof(*m));
}
