/* Small things every kernel file shares: element types, 8-wide loads and stores, grid arithmetic.
 */
#ifndef K_COMMON_CUH
#define K_COMMON_CUH

#include <stdint.h>
#include "device_intrinsics.cuh"
#include "kernels.h"

typedef uint16_t bf16; /* raw bfloat16 bits, as in the C launchers */

IMF_DEVICE float to_float(float x)
{
    return x;
}

IMF_DEVICE float to_float(bf16 x)
{
    return __uint_as_float(static_cast<uint32_t>(x) << 16);
}

template <typename T> IMF_DEVICE T from_float(float x)
{
    if constexpr (sizeof(T) == 4)
        return x;
    else
        return static_cast<T>(pack_bf16x2(x, 0.0f) & 0xffffu);
}

/* Eight neighbouring elements, p aligned to 8 elements: 16-byte accesses in both types. */
IMF_DEVICE void load8(float (&x)[8], const float *p)
{
    const float4 a = reinterpret_cast<const float4 *>(p)[0];
    const float4 b = reinterpret_cast<const float4 *>(p)[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}

IMF_DEVICE void load8(float (&x)[8], const bf16 *p)
{
    const uint4 a = *reinterpret_cast<const uint4 *>(p);
    x[0] = bf16_lo(a.x), x[1] = bf16_hi(a.x), x[2] = bf16_lo(a.y), x[3] = bf16_hi(a.y);
    x[4] = bf16_lo(a.z), x[5] = bf16_hi(a.z), x[6] = bf16_lo(a.w), x[7] = bf16_hi(a.w);
}

IMF_DEVICE void store8(float *p, const float (&x)[8])
{
    reinterpret_cast<float4 *>(p)[0] = make_float4(x[0], x[1], x[2], x[3]);
    reinterpret_cast<float4 *>(p)[1] = make_float4(x[4], x[5], x[6], x[7]);
}

IMF_DEVICE void store8(bf16 *p, const float (&x)[8])
{
    *reinterpret_cast<uint4 *>(p) = make_uint4(pack_bf16x2(x[0], x[1]), pack_bf16x2(x[2], x[3]),
                                               pack_bf16x2(x[4], x[5]), pack_bf16x2(x[6], x[7]));
}

/* Four neighbouring elements, p aligned to 4 elements. */
IMF_DEVICE void store4(float *p, float a, float b, float c, float d)
{
    *reinterpret_cast<float4 *>(p) = make_float4(a, b, c, d);
}

IMF_DEVICE void store4(bf16 *p, float a, float b, float c, float d)
{
    *reinterpret_cast<uint2 *>(p) = make_uint2(pack_bf16x2(a, b), pack_bf16x2(c, d));
}

/* Eight elements from index `at` on, in the type the caller was told. */
IMF_DEVICE void store_as(void *dst, int f32, size_t at, const float (&x)[8])
{
    if (f32)
        store8(static_cast<float *>(dst) + at, x);
    else
        store8(static_cast<bf16 *>(dst) + at, x);
}

/* Sigmoid-weighted x: exact in float32 parity mode, two approximations of 2 ulp in bfloat16 mode.
 */
template <typename T> IMF_DEVICE float silu_as(float x)
{
    if (sizeof(T) == 4)
        return x / (1.0f + expf(-x));
    return fast_silu(x);
}

static inline unsigned blocks_for(size_t items, size_t per_block)
{
    return static_cast<unsigned>((items + per_block - 1) / per_block);
}

/* The largest shared memory of a block on the current GPU. */
static inline cudaError_t shared_limit(int *bytes)
{
    int device = 0;
    const cudaError_t status = cudaGetDevice(&device);
    if (status != cudaSuccess)
        return status;
    return cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
}

/* Lets `kernel` be launched with `bytes` of dynamic shared memory; cudaErrorInvalidValue where a
 * block of this GPU has not so many. The attribute is the kernel's, not a launch's: always pass the
 * most that the kernel may ask for on this GPU, or another thread's launch finds it lowered. */
template <typename Kernel> static cudaError_t allow_shared(Kernel *kernel, int bytes)
{
    int limit = 0;
    const cudaError_t status = shared_limit(&limit);
    if (status != cudaSuccess)
        return status;
    if (bytes > limit)
        return cudaErrorInvalidValue;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

/* A grid's x axis ends at 2^31 - 1; a launcher refuses more. */
static inline bool grid_fits(size_t items, size_t per_block)
{
    return items > 0 && (items + per_block - 1) / per_block <= 0x7fffffffu;
}

#endif
