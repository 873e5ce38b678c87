/* What surrounds the convolutions: latents in, 8-bit pictures out, pools, concatenation, tokens,
 * the resize of InceptionV3. All bound by memory; a thread handles eight neighbouring channels of a
 * pixel (16 bytes in bfloat16), neighbours handle neighbours. The padding of a pixel stays zero. */
#include "common.cuh"

static const int THREADS = 256;

/* A thread per eight channels of a pixel of (n, H, W). */
template <typename T>
static __global__ void image_from_latent(T *dst, const float *z, const float *scale,
                                         const float *shift, int clamp3, size_t total, int C,
                                         int HW)
{
    const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= total)
        return;
    const int vectors = K_PAD(C) / 8;
    const int vector = static_cast<int>(i / static_cast<unsigned>(HW)) % vectors;
    const int pixel = static_cast<int>(i % static_cast<unsigned>(HW));
    const size_t picture = i / static_cast<unsigned>(HW) / static_cast<unsigned>(vectors);
    float x[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const int c = vector * 8 + j;
        x[j] = 0.0f;
        if (c < C) {
            x[j] = z[(picture * C + c) * HW + pixel] * scale[c] + shift[c];
            if (clamp3)
                x[j] = 3.0f * tanhf(x[j] / 3.0f);
        }
    }
    store8(dst + ((picture * HW + pixel) * vectors + vector) * 8, x);
}

template <typename T, bool MAX>
static __global__ void pool2d(T *dst, const T *src, int k, int stride, int pad, size_t total, int h,
                              int w, int vectors, int oh, int ow)
{
    const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= total)
        return;
    const int c = static_cast<int>(i % static_cast<unsigned>(vectors)) * 8;
    const size_t pixel = i / static_cast<unsigned>(vectors);
    const int x = static_cast<int>(pixel % static_cast<unsigned>(ow));
    const int y = static_cast<int>(pixel / static_cast<unsigned>(ow) % static_cast<unsigned>(oh));
    const size_t picture = pixel / static_cast<unsigned>(ow) / static_cast<unsigned>(oh);
    const T *in = src + picture * h * w * vectors * 8 + c;
    float result[8];
#pragma unroll
    for (int j = 0; j < 8; j++)
        result[j] = MAX ? -INFINITY : 0.0f;
    int count = 0;
    for (int ky = 0; ky < k; ky++) {
        const int sy = y * stride - pad + ky;
        if (sy < 0 || sy >= h)
            continue;
        for (int kx = 0; kx < k; kx++) {
            const int sx = x * stride - pad + kx;
            if (sx < 0 || sx >= w)
                continue;
            float v[8];
            load8(v, in + (static_cast<size_t>(sy) * w + sx) * vectors * 8);
            count++;
#pragma unroll
            for (int j = 0; j < 8; j++)
                result[j] = MAX ? fmaxf(result[j], v[j]) : result[j] + v[j];
        }
    }
    if (!MAX) {
        const float n = static_cast<float>(count);
#pragma unroll
        for (int j = 0; j < 8; j++)
            result[j] = result[j] / n;
    }
    store8(dst + i * 8, result);
}

/* Channel by channel where the seams are no multiples of 8. */
template <typename T>
static __global__ void concat1(T *dst, const T *src, size_t total, int C, int dst_C, int c0)
{
    const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= total)
        return;
    const int Cp = K_PAD(C), Dp = K_PAD(dst_C);
    const int span = c0 + C == dst_C ? Dp - c0 : C; /* the last part clears the padding */
    const size_t pixel = i / static_cast<unsigned>(span);
    const int c = static_cast<int>(i % static_cast<unsigned>(span));
    dst[pixel * Dp + c0 + c] = c < C ? src[pixel * Cp + c] : from_float<T>(0.0f);
}

template <typename T>
static __global__ void concat8(T *dst, const T *src, size_t total, int vectors, int Dp, int c0)
{
    const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= total)
        return;
    const size_t pixel = i / static_cast<unsigned>(vectors);
    const int c = static_cast<int>(i % static_cast<unsigned>(vectors)) * 8;
    float x[8];
    load8(x, src + i * 8);
    store8(dst + pixel * Dp + c0 + c, x);
}

template <typename T>
static __global__ void image_to_tokens(float *dst, const T *src, size_t total, int C)
{
    const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= total)
        return;
    const int vectors = K_PAD(C) / 8;
    const size_t pixel = i / static_cast<unsigned>(vectors);
    const int c = static_cast<int>(i % static_cast<unsigned>(vectors)) * 8;
    float x[8];
    load8(x, src + i * 8);
    if (C % 8 == 0) {
        store8(dst + pixel * C + c, x);
        return;
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        if (c + j < C)
            dst[pixel * C + c + j] = x[j];
}

template <typename T>
static __global__ void tokens_to_image(T *dst, const float *src, size_t total, int C, int add)
{
    const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= total)
        return;
    const int vectors = K_PAD(C) / 8;
    const size_t pixel = i / static_cast<unsigned>(vectors);
    const int c = static_cast<int>(i % static_cast<unsigned>(vectors)) * 8;
    float x[8] = {}, y[8] = {};
    if (C % 8 == 0)
        load8(x, src + pixel * C + c);
    else
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (c + j < C)
                x[j] = src[pixel * C + c + j];
    if (add)
        load8(y, dst + i * 8);
#pragma unroll
    for (int j = 0; j < 8; j++)
        x[j] += y[j];
    store8(dst + i * 8, x);
}

template <typename T>
static __global__ void global_mean(float *dst, const T *src, size_t total, int pixels, int C)
{
    const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= total)
        return;
    const int vectors = K_PAD(C) / 8;
    const size_t picture = i / static_cast<unsigned>(vectors);
    const int c = static_cast<int>(i % static_cast<unsigned>(vectors)) * 8;
    const T *in = src + picture * pixels * vectors * 8 + c;
    float sum[8] = {};
    for (int p = 0; p < pixels; p++) {
        float x[8];
        load8(x, in + static_cast<size_t>(p) * vectors * 8);
#pragma unroll
        for (int j = 0; j < 8; j++)
            sum[j] += x[j];
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        if (c + j < C)
            dst[picture * C + c + j] = sum[j] / static_cast<float>(pixels);
}

/* TensorFlow 1's bilinear: source = out * (in / size) in float32, upper neighbour clamped. */
template <typename T>
static __global__ void resize_rgb8(T *dst, const uint8_t *rgb, size_t total, int H, int W, int oh,
                                   int ow)
{
    const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= total)
        return;
    const int x = static_cast<int>(i % static_cast<unsigned>(ow));
    const int y = static_cast<int>(i / static_cast<unsigned>(ow) % static_cast<unsigned>(oh));
    const size_t picture = i / static_cast<unsigned>(ow) / static_cast<unsigned>(oh);
    const float sy = static_cast<float>(y) * (static_cast<float>(H) / static_cast<float>(oh));
    const float sx = static_cast<float>(x) * (static_cast<float>(W) / static_cast<float>(ow));
    const int y0 = min(static_cast<int>(sy), H - 1), x0 = min(static_cast<int>(sx), W - 1);
    const int y1 = min(y0 + 1, H - 1), x1 = min(x0 + 1, W - 1);
    const float fy = sy - static_cast<float>(y0), fx = sx - static_cast<float>(x0);
    const uint8_t *in = rgb + picture * H * W * 3;
    float out[8] = {};
#pragma unroll
    for (int c = 0; c < 3; c++) {
        const float a = in[(static_cast<size_t>(y0) * W + x0) * 3 + c];
        const float b = in[(static_cast<size_t>(y0) * W + x1) * 3 + c];
        const float d = in[(static_cast<size_t>(y1) * W + x0) * 3 + c];
        const float e = in[(static_cast<size_t>(y1) * W + x1) * 3 + c];
        const float upper = a + (b - a) * fx, lower = d + (e - d) * fx;
        out[c] = (upper + (lower - upper) * fy - 128.0f) / 128.0f;
    }
    store8(dst + i * 8, out);
}

IMF_DEVICE uint32_t to_byte(float x)
{
    return static_cast<uint32_t>(rintf(fminf(fmaxf(x, 0.0f), 255.0f))); /* ties to even; NaN is 0 */
}

/* Four pixels, twelve bytes, three words a thread; the last thread may have fewer. */
template <typename T>
static __global__ void to_rgb8(uint8_t *rgb, const T *src, float scale, float shift, size_t pixels)
{
    const size_t first = (static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x) * 4;
    if (first >= pixels)
        return;
    uint32_t byte[12] = {};
    const int count = pixels - first < 4 ? static_cast<int>(pixels - first) : 4;
#pragma unroll
    for (int p = 0; p < 4; p++) {
        if (p < count) {
            const T *at = src + (first + p) * 8;
#pragma unroll
            for (int c = 0; c < 3; c++)
                byte[p * 3 + c] = to_byte(to_float(at[c]) * scale + shift);
        }
    }
    if (count == 4) {
        uint32_t *out = reinterpret_cast<uint32_t *>(rgb + first * 3);
#pragma unroll
        for (int i = 0; i < 3; i++)
            out[i] =
                byte[4 * i] | byte[4 * i + 1] << 8 | byte[4 * i + 2] << 16 | byte[4 * i + 3] << 24;
        return;
    }
#pragma unroll
    for (int i = 0; i < 9; i++)
        if (i < count * 3)
            rgb[first * 3 + i] = static_cast<uint8_t>(byte[i]);
}

extern "C" cudaError_t k_image_from_latent(void *dst, enum k_type type, const float *z,
                                           const float *scale, const float *shift, int clamp3,
                                           int n, int C, int H, int W, cudaStream_t stream)
{
    const size_t total = static_cast<size_t>(n) * H * W * (K_PAD(C) / 8);
    if (n < 1 || C < 1 || H < 1 || W < 1 || !grid_fits(total, THREADS))
        return cudaErrorInvalidValue;
    const unsigned grid = blocks_for(total, THREADS);
    if (type == K_BF16)
        IMF_LAUNCH((image_from_latent<bf16>), grid, THREADS, 0, stream, static_cast<bf16 *>(dst), z,
                   scale, shift, clamp3, total, C, H * W);
    else
        IMF_LAUNCH((image_from_latent<float>), grid, THREADS, 0, stream, static_cast<float *>(dst),
                   z, scale, shift, clamp3, total, C, H * W);
    return cudaGetLastError();
}

template <typename T, bool MAX>
static void launch_pool(void *dst, const void *src, int k, int stride, int pad, size_t total, int h,
                        int w, int vectors, int oh, int ow, cudaStream_t stream)
{
    IMF_LAUNCH((pool2d<T, MAX>), blocks_for(total, THREADS), THREADS, 0, stream,
               static_cast<T *>(dst), static_cast<const T *>(src), k, stride, pad, total, h, w,
               vectors, oh, ow);
}

extern "C" cudaError_t k_pool2d(void *dst, const void *src, enum k_type type, int max, int k,
                                int stride, int pad, int n, int h, int w, int C, int oh, int ow,
                                cudaStream_t stream)
{
    const int vectors = K_PAD(C) / 8;
    const size_t total = static_cast<size_t>(n) * oh * ow * vectors;
    if (n < 1 || C < 1 || oh < 1 || ow < 1 || k < 1 || stride < 1 || pad < 0 || pad >= k ||
        !grid_fits(total, THREADS))
        return cudaErrorInvalidValue;
    if (type == K_BF16 && max)
        launch_pool<bf16, true>(dst, src, k, stride, pad, total, h, w, vectors, oh, ow, stream);
    else if (type == K_BF16)
        launch_pool<bf16, false>(dst, src, k, stride, pad, total, h, w, vectors, oh, ow, stream);
    else if (max)
        launch_pool<float, true>(dst, src, k, stride, pad, total, h, w, vectors, oh, ow, stream);
    else
        launch_pool<float, false>(dst, src, k, stride, pad, total, h, w, vectors, oh, ow, stream);
    return cudaGetLastError();
}

template <typename T>
static void launch_concat(T *dst, const T *src, size_t pixels, int C, int dst_C, int c0,
                          cudaStream_t stream)
{
    const int Dp = K_PAD(dst_C);
    if (C % 8 == 0 && c0 % 8 == 0 && (c0 + C != dst_C || dst_C % 8 == 0)) {
        const size_t total = pixels * (C / 8);
        IMF_LAUNCH((concat8<T>), blocks_for(total, THREADS), THREADS, 0, stream, dst, src, total,
                   C / 8, Dp, c0);
    } else {
        const size_t total = pixels * (c0 + C == dst_C ? Dp - c0 : C);
        IMF_LAUNCH((concat1<T>), blocks_for(total, THREADS), THREADS, 0, stream, dst, src, total, C,
                   dst_C, c0);
    }
}

extern "C" cudaError_t k_concat(void *dst, const void *src, enum k_type type, size_t pixels, int C,
                                int dst_C, int c0, cudaStream_t stream)
{
    if (C < 1 || c0 < 0 || c0 + C > dst_C || !grid_fits(pixels * K_PAD(dst_C), THREADS))
        return cudaErrorInvalidValue;
    if (type == K_BF16)
        launch_concat(static_cast<bf16 *>(dst), static_cast<const bf16 *>(src), pixels, C, dst_C,
                      c0, stream);
    else
        launch_concat(static_cast<float *>(dst), static_cast<const float *>(src), pixels, C, dst_C,
                      c0, stream);
    return cudaGetLastError();
}

extern "C" cudaError_t k_image_to_tokens(float *dst, const void *src, enum k_type type,
                                         size_t pixels, int C, cudaStream_t stream)
{
    const size_t total = pixels * (K_PAD(C) / 8);
    if (C < 1 || !grid_fits(total, THREADS))
        return cudaErrorInvalidValue;
    const unsigned grid = blocks_for(total, THREADS);
    if (type == K_BF16)
        IMF_LAUNCH((image_to_tokens<bf16>), grid, THREADS, 0, stream, dst,
                   static_cast<const bf16 *>(src), total, C);
    else
        IMF_LAUNCH((image_to_tokens<float>), grid, THREADS, 0, stream, dst,
                   static_cast<const float *>(src), total, C);
    return cudaGetLastError();
}

extern "C" cudaError_t k_tokens_to_image(void *dst, const float *src, enum k_type type,
                                         size_t pixels, int C, int add, cudaStream_t stream)
{
    const size_t total = pixels * (K_PAD(C) / 8);
    if (C < 1 || !grid_fits(total, THREADS))
        return cudaErrorInvalidValue;
    const unsigned grid = blocks_for(total, THREADS);
    if (type == K_BF16)
        IMF_LAUNCH((tokens_to_image<bf16>), grid, THREADS, 0, stream, static_cast<bf16 *>(dst), src,
                   total, C, add);
    else
        IMF_LAUNCH((tokens_to_image<float>), grid, THREADS, 0, stream, static_cast<float *>(dst),
                   src, total, C, add);
    return cudaGetLastError();
}

extern "C" cudaError_t k_global_mean(float *dst, const void *src, enum k_type type, int n,
                                     int pixels, int C, cudaStream_t stream)
{
    const size_t total = static_cast<size_t>(n) * (K_PAD(C) / 8);
    if (n < 1 || pixels < 1 || C < 1 || !grid_fits(total, THREADS))
        return cudaErrorInvalidValue;
    const unsigned grid = blocks_for(total, THREADS);
    if (type == K_BF16)
        IMF_LAUNCH((global_mean<bf16>), grid, THREADS, 0, stream, dst,
                   static_cast<const bf16 *>(src), total, pixels, C);
    else
        IMF_LAUNCH((global_mean<float>), grid, THREADS, 0, stream, dst,
                   static_cast<const float *>(src), total, pixels, C);
    return cudaGetLastError();
}

extern "C" cudaError_t k_resize_rgb8(void *dst, enum k_type type, const uint8_t *rgb, int n, int H,
                                     int W, int oh, int ow, cudaStream_t stream)
{
    const size_t total = static_cast<size_t>(n) * oh * ow;
    if (n < 1 || H < 1 || W < 1 || oh < 1 || ow < 1 || !grid_fits(total, THREADS))
        return cudaErrorInvalidValue;
    const unsigned grid = blocks_for(total, THREADS);
    if (type == K_BF16)
        IMF_LAUNCH((resize_rgb8<bf16>), grid, THREADS, 0, stream, static_cast<bf16 *>(dst), rgb,
                   total, H, W, oh, ow);
    else
        IMF_LAUNCH((resize_rgb8<float>), grid, THREADS, 0, stream, static_cast<float *>(dst), rgb,
                   total, H, W, oh, ow);
    return cudaGetLastError();
}

extern "C" cudaError_t k_to_rgb8(uint8_t *rgb, const void *src, enum k_type type, float scale,
                                 float shift, size_t pixels, cudaStream_t stream)
{
    const size_t threads = (pixels + 3) / 4;
    if (!grid_fits(threads, THREADS))
        return cudaErrorInvalidValue;
    const unsigned grid = blocks_for(threads, THREADS);
    if (type == K_BF16)
        IMF_LAUNCH((to_rgb8<bf16>), grid, THREADS, 0, stream, rgb, static_cast<const bf16 *>(src),
                   scale, shift, pixels);
    else
        IMF_LAUNCH((to_rgb8<float>), grid, THREADS, 0, stream, rgb, static_cast<const float *>(src),
                   scale, shift, pixels);
    return cudaGetLastError();
}
