/* Element-wise pieces around the matrix products: silu(a) b, silu in place, conversion with
 * padding. Rows whose length is a multiple of 8 move 16 bytes (bfloat16) or 32 (float32) a thread.
 */
#include "common.cuh"

static const int THREADS = 256;

template <typename T>
static __global__ void swiglu8(T *dst, const T *src, size_t total, int M, int Mp)
{
    const size_t i = (static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x) * 8;
    if (i >= total)
        return;
    const size_t row = i / static_cast<unsigned>(M);
    const T *a = src + row * 2 * Mp + (i - row * M);
    float x[8], y[8];
    load8(x, a);
    load8(y, a + Mp);
#pragma unroll
    for (int j = 0; j < 8; j++)
        x[j] = silu_as<T>(x[j]) * y[j];
    store8(dst + i, x);
}

template <typename T>
static __global__ void swiglu1(T *dst, const T *src, size_t total, int M, int Mp)
{
    const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= total)
        return;
    const size_t row = i / static_cast<unsigned>(M);
    const T *a = src + row * 2 * Mp + (i - row * M);
    dst[i] = from_float<T>(silu_as<T>(to_float(a[0])) * to_float(a[Mp]));
}

template <typename T> static __global__ void silu(T *x, size_t n)
{
    const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i < n)
        x[i] = from_float<T>(silu_as<T>(to_float(x[i])));
}

template <typename D, typename S>
static __global__ void convert8(D *dst, int ld_dst, const S *src, int ld_src, size_t total,
                                int cols)
{
    const size_t i = (static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x) * 8;
    if (i >= total)
        return;
    const size_t row = i / static_cast<unsigned>(ld_dst);
    const int c = static_cast<int>(i - row * ld_dst);
    float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (c < cols)
        load8(x, src + row * ld_src + c);
    store8(dst + i, x);
}

template <typename D, typename S>
static __global__ void convert1(D *dst, int ld_dst, const S *src, int ld_src, size_t total,
                                int cols)
{
    const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= total)
        return;
    const size_t row = i / static_cast<unsigned>(ld_dst);
    const int c = static_cast<int>(i - row * ld_dst);
    dst[i] = from_float<D>(c < cols ? to_float(src[row * ld_src + c]) : 0.0f);
}

template <typename T>
static void launch_swiglu(T *dst, const T *src, int rows, int M, int Mp, cudaStream_t stream)
{
    const size_t total = static_cast<size_t>(rows) * M;
    if (M % 8 == 0 && Mp % 8 == 0)
        IMF_LAUNCH((swiglu8<T>), blocks_for(total / 8, THREADS), THREADS, 0, stream, dst, src,
                   total, M, Mp);
    else
        IMF_LAUNCH((swiglu1<T>), blocks_for(total, THREADS), THREADS, 0, stream, dst, src, total, M,
                   Mp);
}

template <typename D, typename S>
static void launch_convert(D *dst, int ld_dst, const S *src, int ld_src, int rows, int cols,
                           cudaStream_t stream)
{
    const size_t total = static_cast<size_t>(rows) * ld_dst;
    if (ld_dst % 8 == 0 && ld_src % 8 == 0 && cols % 8 == 0)
        IMF_LAUNCH((convert8<D, S>), blocks_for(total / 8, THREADS), THREADS, 0, stream, dst,
                   ld_dst, src, ld_src, total, cols);
    else
        IMF_LAUNCH((convert1<D, S>), blocks_for(total, THREADS), THREADS, 0, stream, dst, ld_dst,
                   src, ld_src, total, cols);
}

extern "C" cudaError_t k_swiglu(void *dst, const void *src, enum k_type type, int rows, int M,
                                int Mp, cudaStream_t stream)
{
    if (rows < 1 || M < 1 || Mp < M || !grid_fits(static_cast<size_t>(rows) * M, THREADS))
        return cudaErrorInvalidValue;
    if (type == K_BF16)
        launch_swiglu(static_cast<bf16 *>(dst), static_cast<const bf16 *>(src), rows, M, Mp,
                      stream);
    else
        launch_swiglu(static_cast<float *>(dst), static_cast<const float *>(src), rows, M, Mp,
                      stream);
    return cudaGetLastError();
}

extern "C" cudaError_t k_silu(void *x, enum k_type type, size_t n, cudaStream_t stream)
{
    if (!grid_fits(n, THREADS))
        return cudaErrorInvalidValue;
    if (type == K_BF16)
        IMF_LAUNCH((silu<bf16>), blocks_for(n, THREADS), THREADS, 0, stream, static_cast<bf16 *>(x),
                   n);
    else
        IMF_LAUNCH((silu<float>), blocks_for(n, THREADS), THREADS, 0, stream,
                   static_cast<float *>(x), n);
    return cudaGetLastError();
}

extern "C" cudaError_t k_convert(void *dst, enum k_type dst_type, int ld_dst, const void *src,
                                 enum k_type src_type, int ld_src, int rows, int cols,
                                 cudaStream_t stream)
{
    if (rows < 1 || cols < 1 || ld_dst < cols || ld_src < cols ||
        !grid_fits(static_cast<size_t>(rows) * ld_dst, THREADS))
        return cudaErrorInvalidValue;
    bf16 *db = static_cast<bf16 *>(dst);
    float *df = static_cast<float *>(dst);
    const bf16 *sb = static_cast<const bf16 *>(src);
    const float *sf = static_cast<const float *>(src);
    if (dst_type == K_BF16 && src_type == K_BF16)
        launch_convert(db, ld_dst, sb, ld_src, rows, cols, stream);
    else if (dst_type == K_BF16)
        launch_convert(db, ld_dst, sf, ld_src, rows, cols, stream);
    else if (src_type == K_BF16)
        launch_convert(df, ld_dst, sb, ld_src, rows, cols, stream);
    else
        launch_convert(df, ld_dst, sf, ld_src, rows, cols, stream);
    return cudaGetLastError();
}
