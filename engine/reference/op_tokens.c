/* The case table, first half: operations on tokens. Sizes are those of the models, of mit_tiny and
 * of the demo model, and some that divide no block. */
#include "reference/op_run.h"
#include "common/error.h"

#include <math.h>

#define N(x) ((size_t)(x))

enum { WEIGHT_SEED = 1000 }; /* samples' seeds are smaller */

static float weight_amplitude(int fan_in)
{
    return 1 / sqrtf((float)fan_in);
}

/* ---- linear, swiglu ---- */

static imf_status run_linear(struct imf__op_run *r, const int *p)
{
    int rows = p[0], n = p[1], K = p[2];
    enum imf__dtype type = (enum imf__dtype)p[3], dst_type = (enum imf__dtype)p[4];
    enum imf__epilogue epilogue = (enum imf__epilogue)p[5];
    struct imf__device *d = r->d;
    float *x, *w, *bias = NULL, *sum;
    void *src, *dst;
    size_t count = N(r->B) * N(rows) * N(n);
    IMF_TRY(imf__op_samples(r, &x, 0, N(rows) * N(K), 1, type == IMF__ACT));
    IMF_TRY(imf__op_values(r, &w, WEIGHT_SEED, 1, N(n) * N(K), weight_amplitude(K), false));
    if (p[6])
        IMF_TRY(imf__op_values(r, &bias, WEIGHT_SEED, 2, N(n), 0.5f, false));
    IMF_TRY(d->ops->linear_load(d, &r->linear, type, w, bias, n, K));
    IMF_TRY(imf__op_upload_rows(r, &src, x, N(r->B) * N(rows), N(K), type));
    IMF_TRY(imf__op_output_rows(r, &dst, N(r->B) * N(rows), N(n), dst_type));
    if (epilogue == IMF__ADD) {
        IMF_TRY(imf__op_samples(r, &sum, 3, N(rows) * N(n), 1, false));
        IMF_TRY(d->ops->upload(d, dst, sum, count * sizeof(float)));
    }
    OP_CALL(r, d->ops->linear(d, dst, dst_type, src, r->linear, r->B * rows, epilogue));
    return imf__op_take_rows(r, dst, N(r->B) * N(rows), N(n), dst_type);
}

static imf_status run_swiglu(struct imf__op_run *r, const int *p)
{
    int rows = p[0], M = p[1], K = p[2];
    struct imf__device *d = r->d;
    float *x, *w1, *w3;
    void *src, *dst;
    IMF_TRY(imf__op_samples(r, &x, 0, N(rows) * N(K), 1, true));
    IMF_TRY(imf__op_values(r, &w1, WEIGHT_SEED, 1, N(M) * N(K), weight_amplitude(K), false));
    IMF_TRY(imf__op_values(r, &w3, WEIGHT_SEED, 2, N(M) * N(K), weight_amplitude(K), false));
    IMF_TRY(d->ops->swiglu_load(d, &r->swiglu, w1, w3, M, K));
    IMF_TRY(imf__op_upload_rows(r, &src, x, N(r->B) * N(rows), N(K), IMF__ACT));
    IMF_TRY(imf__op_output_rows(r, &dst, N(r->B) * N(rows), N(M), IMF__ACT));
    OP_CALL(r, d->ops->swiglu(d, dst, src, r->swiglu, r->B * rows));
    return imf__op_take_rows(r, dst, N(r->B) * N(rows), N(M), IMF__ACT);
}

/* ---- rms_norm, attention ---- */

static imf_status run_rms_norm(struct imf__op_run *r, const int *p)
{
    int T = p[0], t0 = p[1], C = p[2];
    enum imf__dtype dst_type = (enum imf__dtype)p[3];
    struct imf__device *d = r->d;
    float *x, *w;
    void *src, *weight = NULL, *dst;
    const size_t rows = N(r->B) * N(T - t0);
    IMF_TRY(imf__op_samples(r, &x, 0, N(T) * N(C), 3, false));
    IMF_TRY(imf__op_upload(r, &src, x, N(r->B) * N(T) * N(C), IMF__F32));
    if (p[4]) {
        IMF_TRY(imf__op_values(r, &w, WEIGHT_SEED, 1, N(C), 1, false));
        IMF_TRY(imf__op_upload(r, &weight, w, N(C), IMF__F32));
    }
    IMF_TRY(imf__op_output_rows(r, &dst, rows, N(C), dst_type));
    OP_CALL(r, d->ops->rms_norm(d, dst, dst_type, src, weight, r->B, T, t0, C, 1e-6f));
    return imf__op_take_rows(r, dst, rows, N(C), dst_type);
}

/* What pair i of token t is turned by: its place in the sequence; or, for the last side * side
 * tokens, its row and column, and nothing for those before. */
static double rope_angle(int t, int i, int T, int HS, int side)
{
    if (!side)
        return t * pow(10000, -2.0 * i / HS);
    int patch = t - (T - side * side), half = HS / 4;
    if (patch < 0)
        return 0;
    return (i < half ? patch / side : patch % side) * pow(10000, -4.0 * (i % half) / HS);
}

static imf_status run_attention(struct imf__op_run *r, const int *p)
{
    int T = p[0], NH = p[1], HS = p[2], side = p[3];
    struct imf__device *d = r->d;
    float *x, *qn, *kn, *angles;
    void *qkv, *q_norm, *k_norm, *rope, *dst;
    const size_t rows = N(r->B) * N(T), width = N(NH) * N(HS);
    IMF_TRY(imf__op_samples(r, &x, 0, N(T) * 3 * width, 1, true));
    IMF_TRY(imf__op_values(r, &qn, WEIGHT_SEED, 1, N(HS), 0.5f, false));
    IMF_TRY(imf__op_values(r, &kn, WEIGHT_SEED, 2, N(HS), 0.5f, false));
    for (int i = 0; i < HS; i++) {
        qn[i] += 1.5f; /* sharp enough that some softmax rows have one winner */
        kn[i] += 1.5f;
    }
    IMF_TRY(imf__op_values(r, &angles, WEIGHT_SEED, 3, N(T) * N(HS), 1, false));
    for (int t = 0; t < T; t++) {
        for (int i = 0; i < HS / 2; i++) {
            double angle = rope_angle(t, i, T, HS, side);
            angles[t * (HS / 2) + i] = (float)cos(angle);
            angles[(T + t) * (HS / 2) + i] = (float)sin(angle);
        }
    }
    IMF_TRY(imf__op_upload_rows(r, &qkv, x, rows, 3 * width, IMF__ACT));
    IMF_TRY(imf__op_upload(r, &q_norm, qn, N(HS), IMF__F32));
    IMF_TRY(imf__op_upload(r, &k_norm, kn, N(HS), IMF__F32));
    IMF_TRY(imf__op_upload(r, &rope, angles, N(T) * N(HS), IMF__F32));
    IMF_TRY(imf__op_output_rows(r, &dst, rows, width, IMF__ACT));
    OP_CALL(r, d->ops->attention(d, dst, qkv, q_norm, k_norm, rope, r->B, T, NH, HS));
    return imf__op_take_rows(r, dst, rows, width, IMF__ACT);
}

static imf_status run_attention_single(struct imf__op_run *r, const int *p)
{
    int T = p[0], C = p[1];
    struct imf__device *d = r->d;
    float *host[3];
    void *qkv[3], *dst;
    size_t count = N(r->B) * N(T) * N(C);
    for (int i = 0; i < 3; i++) {
        IMF_TRY(imf__op_samples(r, &host[i], i, N(T) * N(C), 1.5f, false));
        IMF_TRY(imf__op_upload(r, &qkv[i], host[i], count, IMF__F32));
    }
    IMF_TRY(imf__op_output(r, &dst, count, IMF__F32));
    OP_CALL(r, d->ops->attention_single(d, dst, qkv[0], qkv[1], qkv[2], r->B, T, C));
    return imf__op_take(r, dst, count, IMF__F32);
}

/* ---- The ends of the network ---- */

static imf_status run_scalar_embed(struct imf__op_run *r, const int *p)
{
    struct imf__device *d = r->d;
    float *x;
    void *values, *dst;
    int rows = p[0];
    IMF_TRY(imf__op_samples(r, &x, 0, N(rows), 0.5f, false));
    for (int b = 0; b < r->B; b++) { /* and the ends of the range of t, h, 1 - 1/omega */
        if (r->seeds[b] % 3 != 2)
            x[b * rows] = (float)(r->seeds[b] % 3);
    }
    IMF_TRY(imf__op_upload(r, &values, x, N(r->B) * N(rows), IMF__F32));
    IMF_TRY(imf__op_output(r, &dst, N(r->B) * N(rows) * 256, IMF__F32));
    OP_CALL(r, d->ops->scalar_embed(d, dst, values, r->B * rows));
    return imf__op_take(r, dst, N(r->B) * N(rows) * 256, IMF__F32);
}

static imf_status run_patchify(struct imf__op_run *r, const int *p)
{
    int C = p[0], S = p[1], patch = p[2];
    enum imf__dtype type = (enum imf__dtype)p[3];
    struct imf__device *d = r->d;
    float *x;
    void *z, *dst;
    const size_t features = N(C) * N(patch) * N(patch), count = N(r->B) * N(C) * N(S) * N(S);
    IMF_TRY(imf__op_samples(r, &x, 0, N(C) * N(S) * N(S), 1, false));
    IMF_TRY(imf__op_upload(r, &z, x, count, IMF__F32));
    IMF_TRY(imf__op_output_rows(r, &dst, count / features, features, type));
    OP_CALL(r, d->ops->patchify(d, dst, type, z, r->B, C, S, patch));
    return imf__op_take_rows(r, dst, count / features, features, type);
}

static imf_status run_assemble(struct imf__op_run *r, const int *p)
{
    int P = p[0], D = p[1], classes = p[2];
    struct imf__device *d = r->d;
    float *tokens, *table, *scalars, *patches, *positions;
    void *dev[6] = {NULL}, *dst;
    int32_t labels[16];
    if (r->B > 16)
        return IMF_EINVAL;
    IMF_TRY(imf__op_values(r, &tokens, WEIGHT_SEED, 1, 20 * N(D), 1, false));
    IMF_TRY(imf__op_values(r, &table, WEIGHT_SEED, 2, N(classes) * N(D), 1, false));
    IMF_TRY(imf__op_values(r, &scalars, WEIGHT_SEED, 3, 4 * N(r->B) * N(D), 1, false));
    IMF_TRY(imf__op_samples(r, &patches, 4, N(P) * N(D), 1, false));
    for (int b = 0; b < r->B; b++) {
        labels[b] = (int32_t)(r->seeds[b] % (uint64_t)classes);
        for (int i = 0; i < 4 * D; i++) /* a sample's own scalars, whatever its slot */
            scalars[(i / D * r->B + b) * D + i % D] =
                0.01f * (float)i + (float)(r->seeds[b] % 97) * 0.1f;
    }
    IMF_TRY(imf__op_upload(r, &dev[0], tokens, 20 * N(D), IMF__F32));
    IMF_TRY(imf__op_upload(r, &dev[1], table, N(classes) * N(D), IMF__F32));
    IMF_TRY(imf__op_upload_bytes(r, &dev[2], labels, N(r->B) * sizeof(labels[0])));
    IMF_TRY(imf__op_upload(r, &dev[3], scalars, 4 * N(r->B) * N(D), IMF__F32));
    IMF_TRY(imf__op_upload(r, &dev[4], patches, N(r->B) * N(P) * N(D), IMF__F32));
    if (p[3]) {
        IMF_TRY(imf__op_values(r, &positions, WEIGHT_SEED, 5, N(P) * N(D), 1, false));
        IMF_TRY(imf__op_upload(r, &dev[5], positions, N(P) * N(D), IMF__F32));
    }
    size_t count = N(r->B) * N(20 + P) * N(D);
    IMF_TRY(imf__op_output(r, &dst, count, IMF__F32));
    OP_CALL(r,
            d->ops->assemble(d, dst, dev[0], dev[1], dev[2], dev[3], dev[4], dev[5], r->B, P, D));
    return imf__op_take(r, dst, count, IMF__F32);
}

static imf_status run_euler(struct imf__op_run *r, const int *p)
{
    int C = p[0], S = p[1], patch = p[2];
    struct imf__device *d = r->d;
    float *z, *u, *dt;
    void *dz, *du, *ddt;
    size_t count = N(r->B) * N(C) * N(S) * N(S);
    IMF_TRY(imf__op_samples(r, &z, 0, N(C) * N(S) * N(S), 1, false));
    IMF_TRY(imf__op_samples(r, &u, 1, N(C) * N(S) * N(S), 1, false));
    IMF_TRY(imf__op_samples(r, &dt, 2, 1, 0.5f, false));
    IMF_TRY(imf__op_output(r, &dz, count, IMF__F32)); /* in place, with a guard behind it */
    IMF_TRY(d->ops->upload(d, dz, z, count * sizeof(float)));
    IMF_TRY(imf__op_upload(r, &du, u, count, IMF__F32));
    IMF_TRY(imf__op_upload(r, &ddt, dt, N(r->B), IMF__F32));
    OP_CALL(r, d->ops->euler(d, dz, du, p[3], ddt, r->B, C, S, patch));
    return imf__op_take(r, dz, count, IMF__F32);
}

/* ---- The table ---- */

static const struct imf__op linear = {"linear", "rows N K type dst_type epilogue bias", run_linear,
                                      false};
static const struct imf__op swiglu = {"swiglu", "rows M K", run_swiglu, false};
static const struct imf__op rms_norm = {"rms_norm", "T t0 C dst_type weight", run_rms_norm, false};
static const struct imf__op attention = {"attention", "T NH HS side", run_attention, false};
static const struct imf__op attention_single = {"attention_single", "T C", run_attention_single,
                                                false};
static const struct imf__op scalar_embed = {"scalar_embed", "rows", run_scalar_embed, false};
static const struct imf__op patchify = {"patchify", "C S patch type", run_patchify, false};
static const struct imf__op assemble = {"assemble", "P D classes positions", run_assemble, false};
static const struct imf__op euler = {"euler", "C S patch x", run_euler, false};

const struct imf__op_case imf__op_token_cases[] = {
    /* The four matrices of a block, then every epilogue and type the models use. */
    CASE(linear, 276, 384, 128, 1, 1, IMF__STORE, 0),
    CASE(linear, 276, 128, 128, 1, 0, IMF__ADD, 0),
    CASE(linear, 276, 128, 344, 1, 0, IMF__ADD, 0),
    CASE(linear, 256, 16, 128, 1, 0, IMF__STORE, 1),
    CASE(linear, 256, 16, 128, 0, 0, IMF__STORE, 1),
    CASE(linear, 256, 128, 16, 0, 0, IMF__STORE, 1),
    CASE(linear, 64, 192, 48, 0, 0, IMF__STORE, 1),
    CASE(linear, 1, 128, 256, 0, 0, IMF__SILU, 1),
    CASE(linear, 1, 128, 128, 0, 0, IMF__STORE, 1),
    CASE(linear, 4, 192, 256, 0, 0, IMF__SILU, 1),
    CASE(linear, 1, 768, 768, 1, 1, IMF__SILU, 1),
    CASE(linear, 37, 72, 40, 1, 1, IMF__STORE, 1),
    CASE(linear, 37, 72, 40, 1, 0, IMF__ADD, 1),
    CASE(linear, 33, 64, 64, 0, 0, IMF__ADD, 1),
    CASE(linear, 40, 1024, 1024, 1, 0, IMF__ADD, 0),
    CASE(linear, 1, 1008, 2048, 0, 0, IMF__STORE, 0),
    /* Pixel models: patches through a bottleneck, wide patches out. */
    CASE(linear, 16, 128, 768, 1, 1, IMF__STORE, 1),
    CASE(linear, 16, 256, 3072, 1, 1, IMF__STORE, 1),
    CASE(linear, 16, 160, 256, 1, 0, IMF__STORE, 1),
    CASE(linear, 16, 768, 160, 1, 0, IMF__STORE, 1),
    CASE(linear, 16, 3072, 128, 1, 0, IMF__STORE, 1),
    CASE(linear, 24, 1280, 1280, 1, 0, IMF__ADD, 0),
    CASE(swiglu, 276, 344, 128),
    CASE(swiglu, 276, 341, 128),
    CASE(swiglu, 37, 72, 40),
    CASE(swiglu, 84, 512, 192),
    CASE(swiglu, 5, 2736, 1024),
    CASE(swiglu, 5, 3416, 1280),
    CASE(rms_norm, 276, 0, 128, 1, 0),
    CASE(rms_norm, 276, 20, 768, 1, 1),
    CASE(rms_norm, 276, 20, 1024, 0, 1),
    CASE(rms_norm, 36, 20, 1280, 1, 0),
    CASE(rms_norm, 36, 0, 160, 1, 0),
    CASE(rms_norm, 84, 0, 192, 1, 1),
    CASE(rms_norm, 5, 3, 40, 0, 0),
    CASE(attention, 276, 2, 64, 0),
    CASE(attention, 84, 3, 64, 0),
    CASE(attention, 37, 1, 64, 0),
    CASE(attention, 64, 1, 64, 0),
    CASE(attention, 276, 5, 64, 0),
    CASE(attention, 400, 1, 64, 0), /* more keys than the CUDA kernel keeps in shared memory */
    CASE(attention, 5, 1, 64, 0),   /* so few that one key too many is seen */
    CASE(attention, 276, 2, 64, 16),
    CASE(attention, 36, 2, 64, 4),
    CASE(attention, 276, 2, 80, 16),
    CASE(attention, 36, 2, 80, 4),
    CASE(attention, 37, 1, 80, 0),
    CASE(attention, 320, 1, 80, 0), /* as above */
    CASE(attention, 5, 1, 80, 0),
    CASE(attention, 50, 32, 64,
         0), /* so many heads in a batch of eight that CUDA's warps take two tiles */
    CASE(attention, 36, 32, 80, 4), /* as above */
    CASE(attention_single, 64, 64),
    CASE(attention_single, 49, 40),
    CASE(attention_single, 256, 128),
    CASE(scalar_embed, 1),
    CASE(scalar_embed, 4),
    CASE(patchify, 4, 32, 2, 0),
    CASE(patchify, 4, 16, 2, 0),
    CASE(patchify, 3, 12, 4, 0),
    CASE(patchify, 3, 64, 16, 1),
    CASE(patchify, 3, 64, 32, 1),
    CASE(patchify, 4, 10, 5, 1),
    CASE(assemble, 256, 128, 11, 0),
    CASE(assemble, 64, 72, 3, 0),
    CASE(assemble, 16, 160, 11, 1),
    CASE(assemble, 9, 75, 3, 1),
    CASE(euler, 4, 32, 2, 0),
    CASE(euler, 4, 16, 2, 0),
    CASE(euler, 3, 12, 4, 0),
    CASE(euler, 3, 64, 16, 1),
    CASE(euler, 3, 64, 32, 1),
    CASE(euler, 4, 10, 5, 1),
    {.op = NULL},
};
