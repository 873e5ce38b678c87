/* Launchers of the CUDA kernels, plain C. Output first; every pointer is device memory.
 *
 * A launcher picks the grid, refuses shapes its kernel cannot do with cudaErrorInvalidValue,
 * enqueues on the stream and returns cudaGetLastError(). It never waits and never allocates. `act`
 * tensors are void *: float or bfloat16 (raw uint16_t here), as `type` says.
 *
 * Pictures are NHWC with the channels padded to a multiple of 8 (`Cp = K_PAD(C)`); the padding
 * holds zeros, and every kernel that writes a picture keeps it so. */
#ifndef K_KERNELS_H
#define K_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

enum k_type { K_F32, K_BF16 };

#define K_PAD(C) (((C) + 7) / 8 * 8)

/* ---- embed.cu: what stands before and after the blocks; formulas in engine/device.h ---- */
cudaError_t k_scalar_embed(float *dst /* (rows, 256) */, const float *values, int rows,
                           cudaStream_t stream);
cudaError_t k_patchify(void *dst, enum k_type type, const float *z, int B, int C, int S, int p,
                       cudaStream_t stream);
cudaError_t k_assemble(float *x, const float *tokens, const float *classes, const int32_t *labels,
                       const float *scalars, const float *patches, const float *positions, int B,
                       int P, int D, cudaStream_t stream);
cudaError_t k_euler(float *z, const float *out, int predicts_x, const float *dt, int B, int C,
                    int S, int p, cudaStream_t stream);

/* ---- rms_norm.cu ---- */
cudaError_t k_rms_norm(void *dst, enum k_type type, const float *src, const float *weight, int B,
                       int T, int t0, int C, float eps, cudaStream_t stream);

/* ---- attention.cu: qk_norm, rope, softmax(q k^T / sqrt(HS)) v for heads of 64 or 80 ---- */
cudaError_t k_attention(void *dst /* (B, T, NH, HS) */, const void *qkv /* (B, T, 3, NH, HS) */,
                        enum k_type type, const float *q_norm, const float *k_norm,
                        const float *rope /* (2, T, HS / 2) */, int B, int T, int NH, int HS,
                        cudaStream_t stream);
/* dst (rows, cols) = softmax of src's rows; dst may be src. */
cudaError_t k_softmax(float *dst, const float *src, int rows, int cols, cudaStream_t stream);

/* ---- swiglu.cu ---- */
/* dst (rows, M) = silu(a) * b, where src (rows, 2 Mp) holds a in its first M columns and b from Mp.
 */
cudaError_t k_swiglu(void *dst, const void *src, enum k_type type, int rows, int M, int Mp,
                     cudaStream_t stream);
/* x = silu(x), n elements. */
cudaError_t k_silu(void *x, enum k_type type, size_t n, cudaStream_t stream);
/* dst (rows, ld_dst) = src (rows, ld_src) in another type; columns from `cols` on become zero. */
cudaError_t k_convert(void *dst, enum k_type dst_type, int ld_dst, const void *src,
                      enum k_type src_type, int ld_src, int rows, int cols, cudaStream_t stream);

/* ---- linear.cu: any size and alignment, for what cuBLASLt refuses ---- */
/* dst (M, N) [+]= x (M, ldx) w (N, ldw)^T + bias. */
cudaError_t k_linear(void *dst, enum k_type dst_type, const void *x, const void *w,
                     enum k_type type, const float *bias, int M, int N, int K, int ldx, int ldw,
                     int add, cudaStream_t stream);

/* ---- conv.cu, conv3x3.cu ---- */
struct k_conv {
    int n, h, w; /* pictures, and input size before upsampling */
    int in, out; /* channels */
    int oh, ow;  /* output size */
    int kh, kw;
    int stride, pad_h, pad_w;
    int upsample2x; /* nearest x2 folded into the loads */
    int relu;
    int out_f32; /* tensor-core paths: dst is float instead of bfloat16 */
    int groups;  /* of a GroupNorm that may follow; 0: none does */
};
/* Which kernel of the current GPU does a convolution and how its weights lie; fixed at load,
 * independent of n. */
enum k_conv_path {
    K_CONV_F32,  /* SIMT, any k x k: [tap][Cp_in][out padded to 64] float */
    K_CONV_GEMM, /* tensor cores, any k x k: [out padded to 64, permuted][tap Cp_in, padded to 32]
                  */
    K_CONV_3X3,  /* tensor cores, 3x3 stride 1 pad 1: [Cp_in / 16][tap][out padded, permuted][16] */
    K_CONV_UP, /* the same after x2: taps are k_conv_up_taps', four of each of the four parities */
    K_CONV_SM90, /* tensor cores of sm_90a, 1x1 or 3x3: [out padded to 128, permuted][Cp_in / 64][tap][64]
                  */
    K_CONV_SM90_UP, /* the same after x2: [out padded, permuted][parity][Cp_in / 64][tap][64] */
};
enum k_conv_path k_conv_path(enum k_type type, const struct k_conv *c);
/* Taps of a packed matrix: 16, which are k_conv_up_taps', after x2 on tensor cores. */
int k_conv_weight_taps(enum k_conv_path path, const struct k_conv *c);
/* Elements of the packed matrix, and the index in it of weight (out o, in i, tap t). */
size_t k_conv_weight_count(enum k_conv_path path, const struct k_conv *c);
size_t k_conv_weight_index(enum k_conv_path path, const struct k_conv *c, int o, int i, int t);
/* The nine taps as they meet after nearest upsampling: out[4 (2 a + b) + 2 y + x] belongs to pixels
 * of row parity a and column parity b. */
void k_conv_up_taps(float out[16], const float taps[9]);
/* bias (K_PAD(out)) f32, zeros in the padding. residual may be NULL, and may be dst. */
cudaError_t k_conv_f32(float *dst, const float *src, const float *weight, const float *bias,
                       const float *residual, const struct k_conv *c, cudaStream_t stream);
cudaError_t k_conv_gemm(void *dst, const uint16_t *src, const uint16_t *weight, const float *bias,
                        const uint16_t *residual, const struct k_conv *c, cudaStream_t stream);
/* Strips of a picture whose statistics k_conv3x3 can leave for the GroupNorm that follows; 0: none.
 */
int k_conv3x3_strips(const struct k_conv *c);
/* K_CONV_3X3 and K_CONV_UP. statistics: k_group_norm_statistics floats, or NULL. */
cudaError_t k_conv3x3(void *dst, const uint16_t *src, const uint16_t *weight, const float *bias,
                      const uint16_t *residual, float *statistics, const struct k_conv *c,
                      cudaStream_t stream);

/* conv_sm90.cu: the same for K_CONV_SM90 and K_CONV_SM90_UP. Off unless IMFD_CONV_SM90=1 is in the
 * environment and the current GPU is of compute capability 9.0. */
bool k_conv_sm90_on(void);
int k_conv_sm90_strips(const struct k_conv *c);
cudaError_t k_conv_sm90(void *dst, const uint16_t *src, const uint16_t *weight, const float *bias,
                        const uint16_t *residual, float *statistics, const struct k_conv *c,
                        cudaStream_t stream);

/* ---- group_norm.cu ---- */
/* Floats that hold the statistics of n pictures' strips. */
size_t k_group_norm_statistics(int n, int strips, int groups);
/* Gathers the statistics, of so many strips a picture. */
int k_group_norm_strips(int pixels, int C);
cudaError_t k_group_norm_gather(float *statistics, const void *src, enum k_type type, int n, int h,
                                int w, int C, int groups, cudaStream_t stream);
/* dst = (x - mean) / sqrt(var + eps) * gamma + beta per group and picture, silu when asked; from
 * the strips' statistics. scale_shift: work memory, n 2 K_PAD(C) floats. */
cudaError_t k_group_norm(void *dst, const void *src, enum k_type type, const float *gamma,
                         const float *beta, const float *statistics, int strips, float *scale_shift,
                         int n, int h, int w, int C, int groups, float eps, int silu,
                         cudaStream_t stream);

/* ---- picture.cu ---- */
cudaError_t k_image_from_latent(void *dst, enum k_type type, const float *z, const float *scale,
                                const float *shift, int clamp3, int n, int C, int H, int W,
                                cudaStream_t stream);
cudaError_t k_pool2d(void *dst, const void *src, enum k_type type, int max, int k, int stride,
                     int pad, int n, int h, int w, int C, int oh, int ow, cudaStream_t stream);
/* dst channels [c0, c0 + C) = src; clears what the padding of dst's last channels needs. */
cudaError_t k_concat(void *dst, const void *src, enum k_type type, size_t pixels, int C, int dst_C,
                     int c0, cudaStream_t stream);
cudaError_t k_image_to_tokens(float *dst, const void *src, enum k_type type, size_t pixels, int C,
                              cudaStream_t stream);
cudaError_t k_tokens_to_image(void *dst, const float *src, enum k_type type, size_t pixels, int C,
                              int add, cudaStream_t stream);
cudaError_t k_global_mean(float *dst, const void *src, enum k_type type, int n, int pixels, int C,
                          cudaStream_t stream);
cudaError_t k_resize_rgb8(void *dst, enum k_type type, const uint8_t *rgb, int n, int H, int W,
                          int oh, int ow, cudaStream_t stream);
cudaError_t k_to_rgb8(uint8_t *rgb, const void *src, enum k_type type, float scale, float shift,
                      size_t pixels, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
