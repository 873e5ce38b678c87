/* The device table: the closed list of layer-sized operations over which MiT, the decoders and
 * InceptionV3 are written once (engine/models). A device (engine/cpu, engine/cuda) fills the table;
 * engine/reference holds a third implementation in plain loops, the oracle.
 *
 * Conventions
 *   - dst first, as in memcpy. `B` samples, `T` tokens each, `C` features; row-major, dense.
 *   - `act` is the running precision (float32, or bfloat16 stored as uint16_t); f32 is float32.
 *   - Rows that products and attention read are act in the layout that the device's products like best, told by
 *     IMF__ACT: act_bytes is their size, and no one else looks inside.
 *   - Token tensors are plain device memory (void *). Picture activations are struct imf__image:
 *     their layout belongs to the device, and the model never looks inside.
 *   - Operations enqueue; only download, sync and transfer_end wait. The caller orders nothing
 * else.
 *   - While `dry` is set an operation checks its arguments, prepares what it will need for exactly
 *     these shapes (primitives, algorithms, scratch memory) and executes nothing; pointers may be
 *     fictitious. Models run their forward pass dry once for every batch size at load; afterwards
 *     nothing is allocated. Arena sizes come from the same dry run.
 *   - Row invariance: the bits of one sample's result do not depend on B or its place in it. */
#ifndef IMF__DEVICE_H
#define IMF__DEVICE_H

#include "imf.h"

enum imf__dtype { IMF__F32, IMF__ACT };

/* Head sizes that attention has: X(HS). */
#define IMF__HEAD_SIZES(X) X(64) X(80)

static inline bool imf__head_size_valid(int HS)
{
#define IMF__HEAD_SIZE_IS(size) || HS == (size)
    return false IMF__HEAD_SIZES(IMF__HEAD_SIZE_IS);
#undef IMF__HEAD_SIZE_IS
}

enum imf__epilogue {
    IMF__STORE, /* dst = x W^T + bias */
    IMF__SILU,  /* dst = silu(x W^T + bias) */
    IMF__ADD,   /* dst += x W^T + bias; dst is f32: the residual stream */
};

struct imf__linear;   /* packed (N, K) matrix with optional bias; the device's */
struct imf__swiglu;   /* packed pair of (M, K) matrices w1, w3; the device's */
struct imf__conv;     /* packed convolution; the device's */
struct imf__graph;    /* a captured forward pass; the device's */
struct imf__transfer; /* buffers of a download that overlaps later work; the device's */

struct imf__image {
    void *data; /* device memory, layout and element type private to the device */
    int n, h, w, c;
    bool f32; /* float32 whatever the running precision: the last convolution's result, so that the
               * picture is not quantised to bfloat16; only conv2d and image_from_latent write
               * and to_rgb8 reads these */
    int norm_groups, norm_strips; /* the device's: what conv2d has left beside the pixels for the
                                   * group_norm that reads them next; zeros: nothing */
    const void *unnormed; /* the device's: pixels that a group_norm has left to whoever reads
                                   * this image to normalise; NULL: `data` is what the image shows */
    bool unnormed_silu;
};

struct imf__conv_desc {
    int in, out;      /* channels */
    int kh, kw;       /* kernel */
    int stride;       /* both axes */
    int pad_h, pad_w; /* zeros on both sides */
    int in_h, in_w;   /* input size before upsampling */
    bool upsample2x;  /* nearest x2 of the input first (3x3, stride 1, pad 1; no residual, no relu,
                         no f32_out) */
    bool relu;        /* after bias and residual */
    bool residual;    /* conv2d will be given an image to add (before relu) */
    bool f32_out;     /* the result is kept in float32: dst->f32 is set */
    int norm_groups;  /* of the group_norm that reads the result next, or 0: a device may gather its
                         statistics while it writes */
};

enum imf__pool { IMF__POOL_MAX, IMF__POOL_AVG /* padding not counted */ };

struct imf__device {
    const struct imf__device_ops *ops;
    enum imf_precision precision; /* FP32 or BF16 */
    size_t act_size;              /* bytes of one act element: 4 or 2 */
    int decode_batch;             /* preferred pictures per decoder pass */
    int feature_multiple;  /* widths that models may pad with zeros like to be multiples of it;
                             0 and 1: the device has no preference */
    bool attends_pictures; /* attention_picture is there, and better than attention_single */
    bool dry;
    bool immediate; /* operations have computed when they return, in memory that the host reads */
    bool eager; /* graph_run runs the function and replays nothing: what a graph is compared with */
    size_t weights_bytes; /* held by the *_load calls and weight_alloc so far */
    size_t scratch_bytes; /* device-owned work memory, part of the arena figure */
    struct imf_engine_info info;
    char build[160];        /* what besides weights and precision decides a result's bits:
                           * "cpu avx512 oneDNN 2.6.3"; part of every fingerprint */
    char error[256];        /* sentence about the last IMF_EDEVICE */
    int plain_matrices;     /* that no library algorithm multiplies: a hundred times slower */
    char plain_reason[128]; /* the first of them, and why */
};

typedef imf_status (*imf__forward_fn)(void *ctx, int B);

struct imf__device_ops {
    void (*destroy)(struct imf__device *d);

    /* Memory: 256-byte aligned, zeroed. upload and download are host <-> device. `weight` tells
     * that the block counts as weights. */
    imf_status (*alloc)(struct imf__device *d, void **out, size_t bytes, bool weight);
    void (*free)(struct imf__device *d, void *p); /* NULL is fine */
    /* Of (rows, K) as IMF__ACT; NULL: they lie row by row. */
    size_t (*act_bytes)(const struct imf__device *d, size_t rows, size_t K);
    imf_status (*upload)(struct imf__device *d, void *dst, const void *src, size_t bytes);
    imf_status (*download)(struct imf__device *d, void *dst, const void *src, size_t bytes);
    imf_status (*sync)(struct imf__device *d);
    /* dst = src, both on the device; NULL where device memory is the host's. */
    imf_status (*copy)(struct imf__device *d, void *dst, const void *src, size_t bytes);
    /* Runs fn(ctx, B), or replays what it enqueued the last time for this *slot (one slot per
     * function and B, NULL at first). Pointers used inside fn must not change between calls. */
    imf_status (*graph_run)(struct imf__device *d, struct imf__graph **slot, imf__forward_fn fn,
                            void *ctx, int B);
    void (*graph_free)(struct imf__device *d, struct imf__graph *g);

    /* What only a device has that works beside the host; NULL, all of them, where an operation has
     * computed when it returns.
     *
     * graph_prepare fills slots[0..max-1] for batches of 1..max, so that no graph_run has anything
     * left to prepare. It may run fn, with batches of 1 and of max.
     * A transfer is a download in two halves. _begin takes `bytes` of src as all work enqueued so
     * far leaves them; work enqueued later may overwrite src at once and overlaps the copy. _end
     * waits for the copy, and for nothing enqueued after it; *host is the transfer's own memory and
     * valid until its next _begin. memory_free: bytes that could be allocated now. */
    imf_status (*graph_prepare)(struct imf__device *d, struct imf__graph **slots,
                                imf__forward_fn fn, void *ctx, int max);
    imf_status (*transfer_create)(struct imf__device *d, struct imf__transfer **out, size_t bytes);
    void (*transfer_free)(struct imf__device *d, struct imf__transfer *t); /* NULL is fine */
    imf_status (*transfer_begin)(struct imf__device *d, struct imf__transfer *t, const void *src,
                                 size_t bytes);
    imf_status (*transfer_end)(struct imf__device *d, struct imf__transfer *t, const void **host);
    imf_status (*memory_free)(struct imf__device *d, size_t *bytes);

    /* Weights. Host float32 in, device packing out; the host arrays are not kept. bias may be NULL.
     * type: the element type of the matrix and of the x it will multiply. */
    imf_status (*linear_load)(struct imf__device *d, struct imf__linear **out, enum imf__dtype type,
                              const float *weight /* (N, K) */, const float *bias /* (N) */, int N,
                              int K);
    void (*linear_free)(struct imf__device *d, struct imf__linear *w);
    imf_status (*swiglu_load)(struct imf__device *d, struct imf__swiglu **out,
                              const float *w1 /* (M, K) */, const float *w3 /* (M, K) */, int M,
                              int K);
    void (*swiglu_free)(struct imf__device *d, struct imf__swiglu *w);
    imf_status (*conv_load)(struct imf__device *d, struct imf__conv **out,
                            const struct imf__conv_desc *desc,
                            const float *weight /* (out, in, kh, kw) */, const float *bias);
    void (*conv_free)(struct imf__device *d, struct imf__conv *w);

    /* Tokens. */
    imf_status (*linear)(struct imf__device *d, void *dst /* (rows, N) */, enum imf__dtype dst_type,
                         const void *src /* (rows, K), type as loaded */,
                         const struct imf__linear *w, int rows, enum imf__epilogue epilogue);
    /* dst (rows, M) = silu(src w1^T) * (src w3^T), src (rows, K); both IMF__ACT. */
    imf_status (*swiglu)(struct imf__device *d, void *dst, const void *src,
                         const struct imf__swiglu *w, int rows);
    /* dst (B, T - t0, C) = x / sqrt(mean(x^2) + eps) * weight over tokens t0..T-1 of src (B, T, C)
     * f32; weight (C) f32 on the device, or NULL where it is folded into the next matrix. */
    imf_status (*rms_norm)(struct imf__device *d, void *dst, enum imf__dtype dst_type,
                           const float *src, const float *weight, int B, int T, int t0, int C,
                           float eps);
    /* dst (B T, NH HS) IMF__ACT = softmax(rope(norm(q)) . rope(norm(k)) / sqrt(HS)) v, of qkv (B
     * T, 3 NH HS) IMF__ACT, HS one of IMF__HEAD_SIZES; RMSNorm over HS with q_norm, k_norm (HS) f32, eps 1e-6;
     * rope (2, T, HS / 2) f32 holds cos then sin of each token's pairs of adjacent elements, so
     * that rotations in one or two dimensions, or of some tokens only, differ in the table alone.
     */
    imf_status (*attention)(struct imf__device *d, void *dst, const void *qkv, const float *q_norm,
                            const float *k_norm, const float *rope, int B, int T, int NH, int HS);
    /* dst (rows, 256) f32 = [cos(s f), sin(s f)], f_k = exp(-ln(10000) k / 128). */
    imf_status (*scalar_embed)(struct imf__device *d, float *dst, const float *values, int rows);
    /* dst (B P, C p p): patches of z (B, C, S, S) f32, P = (S/p)^2 row-major, features [c][py][px].
     */
    imf_status (*patchify)(struct imf__device *d, void *dst, enum imf__dtype dst_type,
                           const float *z, int B, int C, int S, int p);
    /* The sequence x (B, 20 + P, D): 8 class, 4 omega, 2 t_min, 2 t_max, 4 time tokens, P patches.
     * tokens (20, D) learned; classes (n, D) rows looked up by labels (B) int32; scalars (4, B, D)
     * embeddings of omega, t_min, t_max, h; patches (B, P, D), to which positions (P, D) are added
     * unless NULL. All f32. */
    imf_status (*assemble)(struct imf__device *d, float *x, const float *tokens,
                           const float *classes, const int32_t *labels, const float *scalars,
                           const float *patches, const float *positions, int B, int P, int D);
    /* z (B, C, S, S) -= dt[b] u, where u is what the network gave, `out`, as patches (B P,
     * [py][px][c]) f32; or, where it gives the picture instead (predicts_x), z - out. */
    imf_status (*euler)(struct imf__device *d, float *z, const float *out, bool predicts_x,
                        const float *dt, int B, int C, int S, int p);
    /* dst (n, T, C) = softmax(q k^T / sqrt(C)) v: one head, q, k, v (n, T, C) each, all f32. */
    imf_status (*attention_single)(struct imf__device *d, float *dst, const float *q,
                                   const float *k, const float *v, int n, int T, int C);
    /* dst (n, h, w, C) = softmax(q k^T) v over the pixels of each picture: one head, whose q, k and v
     * are channels [0, C), [C, 2 C) and [2 C, 3 C) of qkv, C a multiple of 32. For devices that
     * attend pictures; else NULL or IMF_EUNSUPPORTED. */
    imf_status (*attention_picture)(struct imf__device *d, struct imf__image *dst,
                                    const struct imf__image *qkv);

    /* Pictures. image_bytes: memory that an image of this size (data is ignored) needs. */
    size_t (*image_bytes)(const struct imf__device *d, const struct imf__image *img);
    /* dst = z * scale[c] + shift[c]; with clamp3, 3 tanh(that / 3). z (n, C, S, S) f32. */
    imf_status (*image_from_latent)(struct imf__device *d, struct imf__image *dst, const float *z,
                                    const float *scale, const float *shift, bool clamp3);
    /* dst = act(conv(src) + bias + residual); residual NULL unless the desc says so. dst's n, h, w,
     * c are set by the caller and must agree. dst may be residual itself, never src. */
    imf_status (*conv2d)(struct imf__device *d, struct imf__image *dst,
                         const struct imf__image *src, const struct imf__conv *w,
                         const struct imf__image *residual);
    /* dst may be src. A device may normalise as late as the next operation reads dst: until then
     * src's pixels stay as they are. */
    imf_status (*group_norm)(struct imf__device *d, struct imf__image *dst,
                             const struct imf__image *src, const float *gamma, const float *beta,
                             int groups, float eps, bool silu);
    imf_status (*pool2d)(struct imf__device *d, struct imf__image *dst,
                         const struct imf__image *src, enum imf__pool kind, int k, int stride,
                         int pad);
    /* dst channels [c0, c0 + src->c) = src. */
    imf_status (*concat)(struct imf__device *d, struct imf__image *dst,
                         const struct imf__image *src, int c0);
    /* (n, h w, C) f32 tokens from and to an image; add: dst += . */
    imf_status (*image_to_tokens)(struct imf__device *d, float *dst, const struct imf__image *src);
    imf_status (*tokens_to_image)(struct imf__device *d, struct imf__image *dst, const float *src,
                                  bool add);
    /* dst (n, C) f32 = mean over the picture. */
    imf_status (*global_mean)(struct imf__device *d, float *dst, const struct imf__image *src);
    /* InceptionV3's input: TensorFlow-1 bilinear resize of rgb (n, H, W, 3) uint8 to dst's size
     * (source = out * in / size, upper neighbour clamped), then (x - 128) / 128. */
    imf_status (*resize_rgb8)(struct imf__device *d, struct imf__image *dst, const uint8_t *rgb,
                              int n, int H, int W);
    /* rgb (n, h, w, 3) = round(clip(src * scale + shift, 0, 255)), ties to even. */
    imf_status (*to_rgb8)(struct imf__device *d, uint8_t *rgb, const struct imf__image *src,
                          float scale, float shift);

    /* FLOP/s of a plain matrix multiplication in the running precision, measured now. */
    imf_status (*matmul_rate)(struct imf__device *d, double *flops_per_second);
    /* FLOP/s that the hardware could do in the running precision with operands in registers,
     * measured now on as many threads as the engine uses. NULL: not known. */
    imf_status (*peak_rate)(struct imf__device *d, double *flops_per_second);
};

static inline size_t imf__act_bytes(const struct imf__device *d, size_t rows, size_t K)
{
    return d->ops->act_bytes ? d->ops->act_bytes(d, rows, K) : rows * K * d->act_size;
}

/* Devices. The CUDA one lives in a module, libimf_cuda.so, whose one exported symbol is
 * imf__cuda_device_create with this signature and IMF__DEVICE_ABI checked first. */
#define IMF__DEVICE_ABI 7
imf_status imf__cpu_device_create(struct imf__device **out, const struct imf_engine_params *p,
                                  struct imf_error *err);
typedef imf_status (*imf__cuda_device_create_fn)(struct imf__device **out, int abi, int ordinal,
                                                 enum imf_precision precision,
                                                 struct imf_error *err);

#endif
