/* Instructions of sm_90a: clusters, mbarriers, tensor copies (TMA) and products of warpgroups. Only
 * nvcc reads this file: the emulator knows none of them, the interpreter in tests/ptx knows all.
 *
 * Barriers and destinations are addresses in shared memory (shared_address of device_intrinsics.cuh);
 * those of another block of the cluster have the same offset there. */
#ifndef IMF_HOPPER_INTRINSICS_CUH
#define IMF_HOPPER_INTRINSICS_CUH

#include "device_intrinsics.cuh"

#include <cuda.h>

IMF_DEVICE int cluster_rank(void)
{
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
    return static_cast<int>(rank);
}

/* All threads of the cluster, warps converged or not. */
IMF_DEVICE void cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.release;\n"
                 "barrier.cluster.wait.acquire;\n" ::
                     : "memory");
}

/* `threads` threads of the block, whole warps; 0 is __syncthreads'. */
template <int number, int threads> IMF_DEVICE void named_barrier(void)
{
    asm volatile("bar.sync %0, %1;\n" ::"n"(number), "n"(threads) : "memory");
}

/* Registers a thread of this warpgroup from here on; all its warps come along. */
template <int registers> IMF_DEVICE void give_registers(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(registers));
}

template <int registers> IMF_DEVICE void take_registers(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(registers));
}

/* ---- mbarriers: a phase ends when `count` arrivals and all expected bytes have come ---- */

IMF_DEVICE void mbarrier_init(uint32_t barrier, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(count) : "memory");
}

/* After the last mbarrier_init and before cluster_sync. */
IMF_DEVICE void mbarrier_init_fence(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

IMF_DEVICE void mbarrier_arrive_expect(uint32_t barrier, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier),
                 "r"(bytes)
                 : "memory");
}

/* At the barrier of block `rank` of the cluster. Nothing that threads wrote is published to it: that
 * would cost a fence of the whole GPU. */
IMF_DEVICE void mbarrier_arrive_at(uint32_t barrier, int rank)
{
    uint32_t remote;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;\n" : "=r"(remote) : "r"(barrier), "r"(rank));
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];\n" ::"r"(remote) : "memory");
}

/* Until the phase of this parity has ended; of a new barrier, the one of parity 1 has. */
IMF_DEVICE void mbarrier_wait(uint32_t barrier, int parity)
{
    uint32_t done;
    do {
        asm volatile("{\n"
                     ".reg .pred ended;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
                     "selp.b32 %0, 1, 0, ended;\n"
                     "}\n"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (!done);
}

/* ---- tensor copies, by one thread; they count their bytes at the barrier ---- */

/* Pixels from (x, y) of picture n on, as the map's bounding box winds, under the tap (kx, ky);
 * channels from c on. */
IMF_DEVICE void copy_pixels(uint32_t dst, const CUtensorMap *map, uint32_t barrier, int c, int x,
                            int y, int n, int kx, int ky)
{
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col"
        ".mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};\n" ::"r"(dst),
        "l"(map), "r"(barrier), "r"(c), "r"(x), "r"(y), "r"(n), "h"(static_cast<uint16_t>(kx)),
        "h"(static_cast<uint16_t>(ky))
        : "memory");
}

/* A box from (column, row) on to the same place in every block of `blocks`, a mask of ranks. */
IMF_DEVICE void copy_tile_to(uint32_t dst, const CUtensorMap *map, uint32_t barrier, int column,
                             int row, int blocks)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile"
                 ".mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], "
                 "%5;\n" ::"r"(dst),
                 "l"(map), "r"(barrier), "r"(column), "r"(row), "h"(static_cast<uint16_t>(blocks))
                 : "memory");
}

/* ---- wgmma: four warps multiply from shared memory, asynchronously ---- */

/* An operand of rows of 64 bfloat16 (128 bytes), swizzled as TMA does, from a multiple of 1024 bytes
 * on; +2 is 16 columns further, +512 64 rows. */
IMF_DEVICE uint64_t wgmma_operand(uint32_t address)
{
    const uint64_t swizzle_128 = 1, eight_rows = 1024;
    return swizzle_128 << 62 | eight_rows >> 4 << 32 | 1 << 16 | (address & 0x3ffff) >> 4;
}

/* Before the first product, and after anything else has touched the sums. */
IMF_DEVICE void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}

IMF_DEVICE void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

template <int pending> IMF_DEVICE void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(pending) : "memory");
}

/* d (64, 128) = a (64, 16) b (128, 16)^T, + d where `add`. Warp w of four, lane l: d[4 j + 2 h + e]
 * is row 16 w + l / 4 + 8 h, column 8 j + 2 (l % 4) + e. */
IMF_DEVICE void wgmma_64x128x16(float (&d)[64], uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, "
                 "%8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, "
                 "%40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, "
                 "%56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, add, 1, 1, 0, 0;\n"
                 "}\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
                   "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
                   "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
                   "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                   "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
                   "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
                   "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
                   "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                   "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
                   "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
                   "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
                 : "l"(a), "l"(b), "r"(add));
}

#endif
