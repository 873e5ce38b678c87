/* GroupNorm with optional SiLU over NHWC pictures, in two passes over the picture, or in one where
 * the convolution that wrote it has left the statistics (conv3x3.cu).
 *
 *   statistics  a block sums x and x^2 of its strip of pixels per channel in registers (a thread
 *               keeps the same eight channels), folds rows and channels in shared memory and writes
 *               mean and M2 of its strip for every group
 *   combine     one warp per group and picture merges the strips (Chan's formula, fixed order) into
 *               scale and shift per channel
 *   apply       y = x scale + shift, SiLU
 *
 * No atomics; strips depend on the picture's size only, so a picture's bits do not depend on the
 * batch. Strips of 64 KiB (bfloat16): the scale and shift that each apply block reads are a
 * hundredth of it. */
#include "group_norm.cuh"

static const int THREADS = 256;

static int strip_pixels(int C)
{
    const int pixels = 32768 / K_PAD(C);
    return pixels < 1 ? 1 : pixels;
}

static int strips_of(int pixels, int C)
{
    return (pixels + strip_pixels(C) - 1) / strip_pixels(C);
}

/* A thread's eight sums go to shared memory as two float4 in two planes. A plane's stride is 16
 * modulo 32 floats, so that neither these stores nor the reads in channel order meet in a bank. */
static __host__ __device__ int plane_stride(int vectors)
{
    const int floats = vectors * 4;
    return vectors < 2 ? floats : floats + (48 - floats % 32) % 32;
}

IMF_DEVICE void store_planes(float *planes, int stride, int vector, const float (&x)[8])
{
    store4(planes + vector * 4, x[0], x[1], x[2], x[3]);
    store4(planes + stride + vector * 4, x[4], x[5], x[6], x[7]);
}

/* Sum over the groups of `width` neighbouring channels, a lane per channel; for widths that divide
 * a warp. Every lane of the group gets it. */
IMF_DEVICE float lanes_sum(float x, int width)
{
    for (int offset = width / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

/* grid (strips, n). Threads: `vectors` columns of eight channels times THREADS / vectors rows.
 * Shared: planes (rows, sum and squares, 2, stride), then totals (sum and squares, Cp). */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    statistics(float4 *partial, const T *src, int pixels, int strip, int C, int Cp, int groups)
{
    IMF_DYNAMIC_SHARED(float, planes);
    const int vectors = Cp / 8, rows = THREADS / vectors, stride = plane_stride(vectors);
    float *totals = planes + rows * 4 * stride;
    const int tid = static_cast<int>(threadIdx.x), row = tid / vectors, vector = tid % vectors;
    const int first = static_cast<int>(blockIdx.x) * strip;
    const int last = first + strip < pixels ? first + strip : pixels;
    src += static_cast<size_t>(blockIdx.y) * pixels * Cp + vector * 8;
    if (row < rows) {
        float sum[8] = {}, squares[8] = {};
        for (int p = first + row; p < last; p += rows) {
            float x[8];
            load8(x, src + static_cast<size_t>(p) * Cp);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                sum[j] += x[j];
                squares[j] += x[j] * x[j];
            }
        }
        store_planes(planes + row * 4 * stride, stride, vector, sum);
        store_planes(planes + (row * 4 + 2) * stride, stride, vector, squares);
    }
    __syncthreads();
    for (int i = tid; i < 2 * Cp; i += THREADS) {
        const int c = i % Cp;
        const float *at = planes + (i / Cp * 2 + (c >> 2 & 1)) * stride + (c >> 3) * 4 + (c & 3);
        float total = 0.0f;
        for (int r = 0; r < rows; r++)
            total += at[r * 4 * stride];
        totals[i] = total;
    }
    __syncthreads();
    partial += (static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x) * groups;
    const int width = C / groups;
    const int n = (last - first) * width;
    if (width <= 32 && 32 % width == 0) {
        for (int c = tid; c < (C + 31) / 32 * 32; c += THREADS) {
            const float sum = lanes_sum(c < C ? totals[c] : 0.0f, width);
            const float squares = lanes_sum(c < C ? totals[Cp + c] : 0.0f, width);
            if (c < C && c % width == 0)
                partial[c / width] = strip_statistics(sum, squares, n);
        }
        return;
    }
    for (int g = tid; g < groups; g += THREADS) {
        float sum = 0.0f, squares = 0.0f;
        for (int c = g * width; c < (g + 1) * width; c++) {
            sum += totals[c];
            squares += totals[Cp + c];
        }
        partial[g] = strip_statistics(sum, squares, n);
    }
}

/* grid (groups, n), one warp: scale_shift (n, 2, Cp). */
static __global__ void __launch_bounds__(32)
    combine(float *scale_shift, const float4 *partial, const float *gamma, const float *beta,
            int strips, int pixels, int C, int Cp, int groups, float eps)
{
    const int lane = static_cast<int>(threadIdx.x), g = static_cast<int>(blockIdx.x);
    const float4 *mine = partial + static_cast<size_t>(blockIdx.y) * strips * groups + g;
    const int width = C / groups;
    const float all = static_cast<float>(pixels) * static_cast<float>(width);
    float weighted = 0.0f;
    for (int i = lane; i < strips; i += 32) {
        const float4 m = mine[static_cast<size_t>(i) * groups];
        weighted += m.x * m.z;
    }
    const float mean = warp_sum(weighted) / all;
    float deviations = 0.0f;
    for (int i = lane; i < strips; i += 32) {
        const float4 m = mine[static_cast<size_t>(i) * groups];
        deviations += m.y + m.z * (m.x - mean) * (m.x - mean);
    }
    const float variance = warp_sum(deviations) / all;
    const float r = rsqrtf(fmaxf(variance, 0.0f) + eps);
    float *out = scale_shift + static_cast<size_t>(blockIdx.y) * 2 * Cp;
    for (int c = g * width + lane; c < (g + 1) * width; c += 32) {
        out[c] = r * gamma[c];
        out[Cp + c] = beta[c] - mean * r * gamma[c];
    }
    if (g == groups - 1 && C + lane < Cp) { /* fewer than eight channels of padding stay zero */
        out[C + lane] = 0.0f;
        out[Cp + C + lane] = 0.0f;
    }
}

/* grid (strips, n). */
template <typename T, bool SILU>
static __global__ void __launch_bounds__(THREADS)
    apply(T *dst, const T *src, const float *scale_shift, int pixels, int strip, int Cp)
{
    const int vectors = Cp / 8, rows = THREADS / vectors;
    const int tid = static_cast<int>(threadIdx.x), row = tid / vectors, c = tid % vectors * 8;
    if (row >= rows)
        return;
    const int first = static_cast<int>(blockIdx.x) * strip;
    const int last = first + strip < pixels ? first + strip : pixels;
    float scale[8], shift[8];
    load8(scale, scale_shift + static_cast<size_t>(blockIdx.y) * 2 * Cp + c);
    load8(shift, scale_shift + static_cast<size_t>(blockIdx.y) * 2 * Cp + Cp + c);
    const size_t picture = static_cast<size_t>(blockIdx.y) * pixels;
#pragma unroll 2
    for (int p = first + row; p < last; p += rows) {
        const size_t at = (picture + p) * Cp + c;
        float x[8];
        load8(x, src + at);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            x[j] = x[j] * scale[j] + shift[j];
            if (SILU)
                x[j] = silu_as<T>(x[j]);
        }
        store8(dst + at, x);
    }
}

extern "C" int k_group_norm_strips(int pixels, int C)
{
    return strips_of(pixels, C);
}

extern "C" size_t k_group_norm_statistics(int n, int strips, int groups)
{
    return static_cast<size_t>(n) * strips * groups * 4;
}

template <typename T>
static cudaError_t gather(float4 *partial, const T *src, int n, int pixels, int C, int groups,
                          cudaStream_t stream)
{
    const int Cp = K_PAD(C), strip = strip_pixels(C), rows = THREADS / (Cp / 8);
    const size_t smem =
        sizeof(float) * (static_cast<size_t>(rows) * 4 * plane_stride(Cp / 8) + 2 * Cp);
    const dim3 grid(static_cast<unsigned>(strips_of(pixels, C)), static_cast<unsigned>(n));
    IMF_LAUNCH((statistics<T>), grid, THREADS, smem, stream, partial, src, pixels, strip, C, Cp,
               groups);
    return cudaGetLastError();
}

template <typename T>
static cudaError_t finish(T *dst, const T *src, const float *scale_shift, int n, int pixels, int C,
                          int silu, cudaStream_t stream)
{
    const int Cp = K_PAD(C), strip = strip_pixels(C);
    const dim3 grid(static_cast<unsigned>(strips_of(pixels, C)), static_cast<unsigned>(n));
    if (silu)
        IMF_LAUNCH((apply<T, true>), grid, THREADS, 0, stream, dst, src, scale_shift, pixels, strip,
                   Cp);
    else
        IMF_LAUNCH((apply<T, false>), grid, THREADS, 0, stream, dst, src, scale_shift, pixels,
                   strip, Cp);
    return cudaGetLastError();
}

static bool sane(int n, int h, int w, int C, int groups)
{
    return n > 0 && n <= 65535 && h > 0 && w > 0 && C > 0 && groups > 0 && C % groups == 0 &&
           groups <= 65535 && C <= 8 * THREADS && static_cast<size_t>(h) * w <= 1u << 30;
}

extern "C" cudaError_t k_group_norm_gather(float *statistics, const void *src, enum k_type type,
                                           int n, int h, int w, int C, int groups,
                                           cudaStream_t stream)
{
    if (!sane(n, h, w, C, groups))
        return cudaErrorInvalidValue;
    float4 *partial = reinterpret_cast<float4 *>(statistics);
    if (type == K_BF16)
        return gather(partial, static_cast<const bf16 *>(src), n, h * w, C, groups, stream);
    return gather(partial, static_cast<const float *>(src), n, h * w, C, groups, stream);
}

extern "C" cudaError_t k_group_norm(void *dst, const void *src, enum k_type type,
                                    const float *gamma, const float *beta, const float *statistics,
                                    int strips, float *scale_shift, int n, int h, int w, int C,
                                    int groups, float eps, int silu, cudaStream_t stream)
{
    if (!sane(n, h, w, C, groups) || strips < 1)
        return cudaErrorInvalidValue;
    const dim3 grid(static_cast<unsigned>(groups), static_cast<unsigned>(n));
    IMF_LAUNCH(combine, grid, 32, 0, stream, scale_shift,
               reinterpret_cast<const float4 *>(statistics), gamma, beta, strips, h * w, C,
               K_PAD(C), groups, eps);
    const cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess)
        return status;
    if (type == K_BF16)
        return finish(static_cast<bf16 *>(dst), static_cast<const bf16 *>(src), scale_shift, n,
                      h * w, C, silu, stream);
    return finish(static_cast<float *>(dst), static_cast<const float *>(src), scale_shift, n, h * w,
                  C, silu, stream);
}
