/* What the kernels need beyond CUDA C++: asynchronous copies, ldmatrix, mma.sync, shared memory, launches.
 *
 * Under nvcc every function is its one PTX instruction. Under the host emulator (tests/cuda_emu, any
 * other C++17 compiler) the same functions call the emulator, which computes them lane by lane with the
 * fragment layouts of the PTX ISA and checks alignment, bounds, initialisation and races. Kernels stay
 * ordinary CUDA C++: plain loads and stores are watched too (by compiler instrumentation), so nothing
 * here wraps them. Three things are written through macros because plain C++ has no word for them:
 *
 *   IMF_SHARED(float, partial, [32][4]);        // __shared__ float partial[32][4], 128-byte aligned
 *   IMF_DYNAMIC_SHARED(uint8_t, smem);          // uint8_t *smem = the launch's dynamic shared memory
 *   IMF_LAUNCH((k_rows<64, 2>), grid, block, smem_bytes, stream, dst, src, n);   // <<< >>>
 *   (the kernel's name in parentheses when it has template arguments; then cudaGetLastError() as ever)
 *
 * Never use `__shared__` or `<<<>>>` directly, nor inline asm outside this file and hopper_intrinsics.cuh. */
#ifndef IMF_DEVICE_INTRINSICS_CUH
#define IMF_DEVICE_INTRINSICS_CUH

#include <stdint.h>
#include <cuda_runtime.h>
#include <cuda_bf16.h>

#ifndef __CUDACC__
#include "imf_emu_device.h"
#endif

#define IMF_DEVICE static __device__ __forceinline__

#ifdef __CUDACC__
#define IMF_SHARED(type, name, ...) __shared__ __align__(128) type name __VA_ARGS__
#define IMF_DYNAMIC_SHARED(type, name)                                                             \
    extern __shared__ __align__(128) unsigned char imf_dynamic_shared[];                           \
    type *name = reinterpret_cast<type *>(imf_dynamic_shared)
#define IMF_LAUNCH(kernel, grid, block, smem_bytes, stream, ...)                                   \
    kernel<<<(grid), (block), (smem_bytes), (stream)>>>(__VA_ARGS__)
#else
#define IMF_SHARED(type, name, ...)                                                                \
    typedef type name##_shared_t __VA_ARGS__;                                                      \
    static const struct imf_emu_shared_site name##_site = {#name, __FILE__, __LINE__,              \
                                                           sizeof(name##_shared_t)};               \
    name##_shared_t &name = *static_cast<name##_shared_t *>(imf_emu_shared(&name##_site))
#define IMF_DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(imf_emu_dynamic_shared())
#define IMF_LAUNCH(kernel, grid, block, smem_bytes, stream, ...)                                   \
    imf_emu::launch(#kernel, kernel, (grid), (block), (smem_bytes), (stream), ##__VA_ARGS__)
#endif

/* ---- cp.async: global -> shared without registers. Both addresses aligned to the size. ----
 * src_bytes <= size: the rest of the destination is zeroed, and with 0 the source is not read at all
 * (it must still be a valid-looking pointer; pass the tensor's base). The bytes may be read only after
 * cp_async_wait<N>() by the issuing thread, and by the others only after a barrier that follows. */

IMF_DEVICE uint32_t shared_address(const void *p)
{
#ifdef __CUDACC__
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
#else
    return imf_emu_shared_address(p);
#endif
}

IMF_DEVICE void cp_async16(void *dst, const void *src, int src_bytes = 16)
{
#ifdef __CUDACC__
    asm volatile(
        "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(shared_address(dst)),
        "l"(__cvta_generic_to_global(src)), "r"(src_bytes)
        : "memory");
#else
    imf_emu_cp_async(dst, src, 16, src_bytes);
#endif
}

IMF_DEVICE void cp_async8(void *dst, const void *src, int src_bytes = 8)
{
#ifdef __CUDACC__
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(shared_address(dst)),
                 "l"(__cvta_generic_to_global(src)), "r"(src_bytes)
                 : "memory");
#else
    imf_emu_cp_async(dst, src, 8, src_bytes);
#endif
}

IMF_DEVICE void cp_async4(void *dst, const void *src, int src_bytes = 4)
{
#ifdef __CUDACC__
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(shared_address(dst)),
                 "l"(__cvta_generic_to_global(src)), "r"(src_bytes)
                 : "memory");
#else
    imf_emu_cp_async(dst, src, 4, src_bytes);
#endif
}

/* Closes the calling thread's group of copies; empty groups are fine and count. */
IMF_DEVICE void cp_async_commit(void)
{
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#else
    imf_emu_cp_async_commit();
#endif
}

/* Waits until at most `pending` of the calling thread's latest groups are still in flight. */
template <int pending> IMF_DEVICE void cp_async_wait(void)
{
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
#else
    imf_emu_cp_async_wait(pending);
#endif
}

/* ---- ldmatrix: 8x8 tiles of 16-bit elements from shared memory, whole warp. ----
 * Lane 8 i + r gives the address of row r of matrix i (16 bytes, 16-byte aligned); x2 reads lanes
 * 0..15, x1 lanes 0..7, the other lanes' addresses are ignored. Register i of lane l then holds
 * elements (row l/4, columns 2 (l%4), 2 (l%4) + 1) of matrix i, low half first; _trans holds
 * (rows 2 (l%4), 2 (l%4) + 1, column l/4). */

IMF_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    imf_emu_ldmatrix(r, 4, 0, row);
#endif
}

IMF_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row)
{
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    imf_emu_ldmatrix(r, 4, 1, row);
#endif
}

IMF_DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void *row)
{
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
#else
    imf_emu_ldmatrix(r, 2, 0, row);
#endif
}

IMF_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row)
{
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
#else
    imf_emu_ldmatrix(r, 2, 1, row);
#endif
}

/* ---- mma.sync.m16n8k16, bfloat16 operands, float accumulators: d += a b, whole warp. ----
 * With g = lane/4, t = lane%4:
 *   a[0] = A[g][2t, 2t+1]      a[1] = A[g+8][2t, 2t+1]    a[2] = A[g][2t+8, +9]  a[3] = A[g+8][2t+8, +9]
 *   b[0] = B[2t, 2t+1][g]      b[1] = B[2t+8, 2t+9][g]
 *   d[0] = D[g][2t]  d[1] = D[g][2t+1]  d[2] = D[g+8][2t]  d[3] = D[g+8][2t+1] */

IMF_DEVICE void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
#ifdef __CUDACC__
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    imf_emu_mma_bf16(d, a, b, 1, 1);
#endif
}

/* A whole warp tile of MI x NI of them (16 MI rows, 8 NI columns), k = 16. Prefer this form: the
 * emulator computes it at one meeting of the warp's lanes instead of MI x NI, ten times faster. */
template <int MI, int NI>
IMF_DEVICE void mma_bf16_tile(float (&d)[MI][NI][4], const uint32_t (&a)[MI][4],
                              const uint32_t (&b)[NI][2])
{
#ifdef __CUDACC__
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
            mma_bf16_16816(d[i][j], a[i], b[j]);
#else
    imf_emu_mma_bf16(&d[0][0][0], &a[0][0], &b[0][0], MI, NI);
#endif
}

/* ---- warp reductions over all 32 lanes, butterfly order (offsets 16, 8, 4, 2, 1), every lane gets
 * the result. Call them converged. ---- */

IMF_DEVICE float warp_sum(float x)
{
#ifdef __CUDACC__
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
#else
    return imf_emu_warp_reduce(x, 0);
#endif
}

IMF_DEVICE float warp_max(float x)
{
#ifdef __CUDACC__
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
#else
    return imf_emu_warp_reduce(x, 1);
#endif
}

/* threadIdx.x, read anew where it stands: nothing of it needs a register before. */
IMF_DEVICE int thread_anew(void)
{
#ifdef __CUDACC__
    unsigned x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return static_cast<int>(x);
#else
    return static_cast<int>(threadIdx.x);
#endif
}

/* ---- arithmetic: approximate, about 2 ulp; exp2 flushes denormals ---- */

IMF_DEVICE float fast_exp2(float x)
{
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

IMF_DEVICE float fast_exp(float x)
{
    return fast_exp2(x * 1.4426950408889634f);
}

IMF_DEVICE float fast_rcp(float x)
{
#ifdef __CUDACC__
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return 1.0f / x;
#endif
}

IMF_DEVICE float fast_silu(float x)
{
    return x * fast_rcp(1.0f + fast_exp(-x));
}

/* ---- bfloat16 pairs as mma sees them: low half = first element ---- */

IMF_DEVICE uint32_t pack_bf16x2(float lo, float hi)
{
#ifdef __CUDACC__
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
#else
    return imf_emu_pack_bf16x2(lo, hi);
#endif
}

IMF_DEVICE float bf16_lo(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}

IMF_DEVICE float bf16_hi(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

#endif
