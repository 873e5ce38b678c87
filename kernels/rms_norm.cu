/* RMSNorm over the last axis of float32 rows: dst = x / sqrt(mean(x^2) + eps) * weight.
 * One warp per row; the row stays in registers (VECTORS float4 a lane), so it is read once. Rows
 * that are no multiple of 4 or longer than 1280 take the plain version, which reads twice (from
 * L1). */
#include "common.cuh"

static const int WARPS = 8;

template <typename T, int VECTORS>
static __global__ void __launch_bounds__(WARPS * 32)
    rms_norm(T *dst, const float *src, const float *weight, int rows, int tokens, int T_all, int t0,
             int C, float eps)
{
    const int row = static_cast<int>(blockIdx.x) * WARPS + static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (row >= rows)
        return;
    const size_t src_row = static_cast<size_t>(row / tokens) * T_all + t0 + row % tokens;
    const float *x = src + src_row * C;
    float4 v[VECTORS];
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int c = (i * 32 + lane) * 4;
        v[i] = c < C ? *reinterpret_cast<const float4 *>(x + c) : make_float4(0, 0, 0, 0);
        squares += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
    }
    const float r = rsqrtf(warp_sum(squares) / static_cast<float>(C) + eps);
    T *out = dst + static_cast<size_t>(row) * C;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int c = (i * 32 + lane) * 4;
        if (c < C) {
            float4 g = make_float4(1, 1, 1, 1);
            if (weight)
                g = *reinterpret_cast<const float4 *>(weight + c);
            store4(out + c, v[i].x * r * g.x, v[i].y * r * g.y, v[i].z * r * g.z, v[i].w * r * g.w);
        }
    }
}

template <typename T>
static __global__ void __launch_bounds__(WARPS * 32)
    rms_norm_plain(T *dst, const float *src, const float *weight, int rows, int tokens, int T_all,
                   int t0, int C, float eps)
{
    const int row = static_cast<int>(blockIdx.x) * WARPS + static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (row >= rows)
        return;
    const size_t src_row = static_cast<size_t>(row / tokens) * T_all + t0 + row % tokens;
    const float *x = src + src_row * C;
    float squares = 0.0f;
    for (int c = lane; c < C; c += 32)
        squares += x[c] * x[c];
    const float r = rsqrtf(warp_sum(squares) / static_cast<float>(C) + eps);
    for (int c = lane; c < C; c += 32)
        dst[static_cast<size_t>(row) * C + c] =
            from_float<T>(x[c] * r * (weight ? weight[c] : 1.0f));
}

template <typename T>
static void launch(T *dst, const float *src, const float *weight, int rows, int tokens, int T_all,
                   int t0, int C, float eps, cudaStream_t stream)
{
    const unsigned grid = blocks_for(static_cast<size_t>(rows), WARPS);
#define RMS_NORM(vectors)                                                                          \
    IMF_LAUNCH((rms_norm<T, vectors>), grid, WARPS * 32, 0, stream, dst, src, weight, rows,        \
               tokens, T_all, t0, C, eps)
    if (C % 4 != 0 || C > 1280)
        IMF_LAUNCH((rms_norm_plain<T>), grid, WARPS * 32, 0, stream, dst, src, weight, rows, tokens,
                   T_all, t0, C, eps);
    else if (C <= 128)
        RMS_NORM(1);
    else if (C <= 512)
        RMS_NORM(4);
    else if (C <= 768)
        RMS_NORM(6);
    else if (C <= 1024)
        RMS_NORM(8);
    else
        RMS_NORM(10);
#undef RMS_NORM
}

extern "C" cudaError_t k_rms_norm(void *dst, enum k_type type, const float *src,
                                  const float *weight, int B, int T, int t0, int C, float eps,
                                  cudaStream_t stream)
{
    if (B < 1 || t0 < 0 || t0 >= T || C < 1 || static_cast<size_t>(B) * T > 0x7fffffffu)
        return cudaErrorInvalidValue;
    const int tokens = T - t0, rows = B * tokens;
    if (type == K_BF16)
        launch(static_cast<bf16 *>(dst), src, weight, rows, tokens, T, t0, C, eps, stream);
    else
        launch(static_cast<float *>(dst), src, weight, rows, tokens, T, t0, C, eps, stream);
    return cudaGetLastError();
}
