/* The device side of CUDA C++ for the host emulator: built-in variables, barriers, warp functions,
 * atomics, intrinsics, launches. Included by <cuda_runtime.h> in C++.
 *
 * A kernel is an ordinary function run by one fiber per thread. Loads and stores need nothing from
 * this header: a checking build sees them through -fsanitize=thread's calls, which the emulator
 * defines. */
#ifndef IMF_EMU_DEVICE_H
#define IMF_EMU_DEVICE_H

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <tuple>
#include <type_traits>
#include <utility>
#include "cuda_runtime_api.h"

#ifndef IMF_EMU_CHECKED
#define IMF_EMU_CHECKED 0 /* 1 when this translation unit's accesses are instrumented */
#endif

/* The public head of a fiber; the emulator's own fields follow it. */
struct imf_emu_thread {
    uint3 thread, block;
    uint3 block_dim, grid_dim;
};

struct imf_emu_shared_site {
    const char *name, *file;
    int line;
    size_t size;
};

struct imf_emu_launch_info {
    const char *name;
    const void *function;
    dim3 grid, block;
    size_t dynamic_smem;
    cudaStream_t stream;
    void (*invoke)(const void *function, void *args);
    const void *args;
    size_t args_size;
    int checked;
};

enum imf_emu_shuffle_mode {
    IMF_EMU_SHFL_IDX,
    IMF_EMU_SHFL_UP,
    IMF_EMU_SHFL_DOWN,
    IMF_EMU_SHFL_XOR
};
enum imf_emu_vote {
    IMF_EMU_BALLOT,
    IMF_EMU_MATCH_ANY,
    IMF_EMU_REDUCE_ADD,
    IMF_EMU_REDUCE_MAX,
    IMF_EMU_REDUCE_MIN
};
enum imf_emu_barrier_kind { IMF_EMU_SYNC, IMF_EMU_SYNC_COUNT, IMF_EMU_SYNC_AND, IMF_EMU_SYNC_OR };

extern "C" {
extern struct imf_emu_thread *imf_emu_self; /* NULL on the host's side */
void imf_emu_launch(const struct imf_emu_launch_info *info);
void *imf_emu_shared(const struct imf_emu_shared_site *site);
void *imf_emu_dynamic_shared(void);
uint32_t imf_emu_shared_address(const void *p);
int imf_emu_barrier(int kind, int predicate, const char *file, int line);
void imf_emu_warp_barrier(uint32_t mask, const char *file, int line);
uint64_t imf_emu_shuffle(uint32_t mask, int mode, uint64_t value, int lane, int width,
                         const char *file, int line);
uint32_t imf_emu_vote(uint32_t mask, int kind, uint32_t value, const char *file, int line);
uint32_t imf_emu_activemask(void);
float imf_emu_warp_reduce(float x, int max);
void imf_emu_cp_async(void *dst, const void *src, int size, int src_bytes);
void imf_emu_cp_async_commit(void);
void imf_emu_cp_async_wait(int pending);
void imf_emu_ldmatrix(uint32_t *r, int count, int trans, const void *row);
void imf_emu_mma_bf16(float *d, const uint32_t *a, const uint32_t *b, int mi, int ni);
void imf_emu_fence(void);
/* Checks one atomic access and marks the bytes as touched by atomics only. */
void imf_emu_atomic(const volatile void *p, int size);
void imf_emu_trap(const char *file, int line);
int imf_emu_register_module(int checked);
}

/* ---- built-in variables. The loads are written in assembly so that a checking build does not take
 * them for memory accesses of the kernel. ---- */

#if defined(__x86_64__)
#define IMF_EMU_LOAD(dst, src) __asm__("mov %1, %0" : "=r"(dst) : "m"(src))
#else
#define IMF_EMU_LOAD(dst, src) ((dst) = (src))
#endif

static __forceinline__ uint3 imf_emu_index(int which)
{
    struct imf_emu_thread *self;
    uint3 v;
    IMF_EMU_LOAD(self, imf_emu_self);
    const uint3 *p = &self->thread + which;
    IMF_EMU_LOAD(v.x, p->x);
    IMF_EMU_LOAD(v.y, p->y);
    IMF_EMU_LOAD(v.z, p->z);
    return v;
}

#define threadIdx imf_emu_index(0)
#define blockIdx imf_emu_index(1)
#define blockDim imf_emu_index(2)
#define gridDim imf_emu_index(3)
static const int warpSize __attribute__((unused)) = 32;

/* ---- barriers: the caller's line tells one barrier from another ---- */

#define IMF_EMU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncthreads(IMF_EMU_HERE)
{
    imf_emu_barrier(IMF_EMU_SYNC, 0, file, line);
}

static inline int __syncthreads_count(int predicate, IMF_EMU_HERE)
{
    return imf_emu_barrier(IMF_EMU_SYNC_COUNT, predicate, file, line);
}

static inline int __syncthreads_and(int predicate, IMF_EMU_HERE)
{
    return imf_emu_barrier(IMF_EMU_SYNC_AND, predicate, file, line);
}

static inline int __syncthreads_or(int predicate, IMF_EMU_HERE)
{
    return imf_emu_barrier(IMF_EMU_SYNC_OR, predicate, file, line);
}

static inline void __syncwarp(uint32_t mask = 0xffffffffu, IMF_EMU_HERE)
{
    imf_emu_warp_barrier(mask, file, line);
}

static inline void __threadfence(void)
{
    imf_emu_fence();
}

static inline void __threadfence_block(void)
{
    imf_emu_fence();
}

/* ---- warp functions ---- */

namespace imf_emu
{
template <class T>
static inline T shuffle(uint32_t mask, int mode, T value, int lane, int width, const char *file,
                        int line)
{
    static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = imf_emu_shuffle(mask, mode, bits, lane, width, file, line);
    T out;
    __builtin_memcpy(static_cast<void *>(&out), &bits, sizeof out);
    return out;
}
} // namespace imf_emu

template <class T>
static inline T __shfl_sync(uint32_t mask, T value, int lane, int width = 32, IMF_EMU_HERE)
{
    return imf_emu::shuffle(mask, IMF_EMU_SHFL_IDX, value, lane, width, file, line);
}

template <class T>
static inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, IMF_EMU_HERE)
{
    return imf_emu::shuffle(mask, IMF_EMU_SHFL_UP, value, int(delta), width, file, line);
}

template <class T>
static inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32,
                                 IMF_EMU_HERE)
{
    return imf_emu::shuffle(mask, IMF_EMU_SHFL_DOWN, value, int(delta), width, file, line);
}

template <class T>
static inline T __shfl_xor_sync(uint32_t mask, T value, int lane_mask, int width = 32, IMF_EMU_HERE)
{
    return imf_emu::shuffle(mask, IMF_EMU_SHFL_XOR, value, lane_mask, width, file, line);
}

static inline uint32_t __ballot_sync(uint32_t mask, int predicate, IMF_EMU_HERE)
{
    return imf_emu_vote(mask, IMF_EMU_BALLOT, predicate != 0, file, line);
}

static inline int __any_sync(uint32_t mask, int predicate, IMF_EMU_HERE)
{
    return imf_emu_vote(mask, IMF_EMU_BALLOT, predicate != 0, file, line) != 0;
}

static inline int __all_sync(uint32_t mask, int predicate, IMF_EMU_HERE)
{
    return imf_emu_vote(mask, IMF_EMU_BALLOT, predicate == 0, file, line) == 0;
}

static inline uint32_t __match_any_sync(uint32_t mask, uint32_t value, IMF_EMU_HERE)
{
    return imf_emu_vote(mask, IMF_EMU_MATCH_ANY, value, file, line);
}

static inline uint32_t __reduce_add_sync(uint32_t mask, uint32_t value, IMF_EMU_HERE)
{
    return imf_emu_vote(mask, IMF_EMU_REDUCE_ADD, value, file, line);
}

static inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t value, IMF_EMU_HERE)
{
    return imf_emu_vote(mask, IMF_EMU_REDUCE_MAX, value, file, line);
}

static inline uint32_t __reduce_min_sync(uint32_t mask, uint32_t value, IMF_EMU_HERE)
{
    return imf_emu_vote(mask, IMF_EMU_REDUCE_MIN, value, file, line);
}

static inline uint32_t __activemask(void)
{
    return imf_emu_activemask();
}

#include "imf_emu_atomics.h"
#include "imf_emu_math.h"

/* ---- loads and stores with cache hints: plain accesses ---- */

template <class T> static __forceinline__ T __ldg(const T *p)
{
    return *p;
}
template <class T> static __forceinline__ T __ldcs(const T *p)
{
    return *p;
}
template <class T> static __forceinline__ T __ldcg(const T *p)
{
    return *p;
}
template <class T> static __forceinline__ T __ldca(const T *p)
{
    return *p;
}
template <class T> static __forceinline__ void __stcs(T *p, T v)
{
    *p = v;
}
template <class T> static __forceinline__ void __stcg(T *p, T v)
{
    *p = v;
}
template <class T> static __forceinline__ void __stwb(T *p, T v)
{
    *p = v;
}

/* ---- launches and the API's C++ templates ---- */

namespace imf_emu
{
/* A translation unit that launches kernels tells the emulator, before main, whether it is checked
 * (launch() names the type dependently, so that including this header alone tells nothing). */
template <int checked> struct module {
    static const int id;
};
template <int checked> const int module<checked>::id = imf_emu_register_module(checked);

template <class... P> struct kernel_call {
    typedef void (*function)(P...);
    typedef std::tuple<std::decay_t<P>...> arguments;

    template <size_t... I>
    static inline __attribute__((always_inline)) void apply(function f, arguments &a,
                                                            std::index_sequence<I...>)
    {
        f(std::get<I>(a)...);
    }

    static void invoke(const void *f, void *args)
    {
        apply(reinterpret_cast<function>(const_cast<void *>(f)), *static_cast<arguments *>(args),
              std::index_sequence_for<P...>());
    }
};

template <class... P, class... A>
static inline void launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                          size_t dynamic_smem, cudaStream_t stream, A &&...args)
{
    static_assert(sizeof...(P) == sizeof...(A), "a kernel takes exactly its parameters");
    static_assert((std::is_trivially_copyable_v<std::decay_t<P>> && ...),
                  "kernel parameters are copied byte by byte");
    typename kernel_call<P...>::arguments a(static_cast<P>(args)...);
    struct imf_emu_launch_info info = {name,
                                       reinterpret_cast<const void *>(kernel),
                                       grid,
                                       block,
                                       dynamic_smem,
                                       stream,
                                       kernel_call<P...>::invoke,
                                       &a,
                                       sizeof a,
                                       IMF_EMU_CHECKED |
                                           module<IMF_EMU_CHECKED + 0 * sizeof...(P)>::id};
    imf_emu_launch(&info);
}
} // namespace imf_emu

template <class... P>
static inline cudaError_t cudaFuncSetAttribute(void (*f)(P...), cudaFuncAttribute attr, int value)
{
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(f), attr, value);
}

template <class... P>
static inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attr, void (*f)(P...))
{
    return cudaFuncGetAttributes(attr, reinterpret_cast<const void *>(f));
}

template <class... P>
static inline cudaError_t
cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void (*f)(P...), int block_size,
                                              size_t dynamic_smem)
{
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, reinterpret_cast<const void *>(f),
                                                         block_size, dynamic_smem);
}

template <class T> static inline cudaError_t cudaMalloc(T **p, size_t size)
{
    return cudaMalloc(reinterpret_cast<void **>(p), size);
}

template <class T> static inline cudaError_t cudaMallocHost(T **p, size_t size)
{
    return cudaMallocHost(reinterpret_cast<void **>(p), size);
}

template <class T>
static inline cudaError_t cudaMemcpyToSymbol(T &symbol, const void *src, size_t size,
                                             size_t offset = 0)
{
    if (offset > sizeof symbol || size > sizeof symbol - offset)
        return cudaErrorInvalidValue;
    memcpy(reinterpret_cast<char *>(&symbol) + offset, src, size);
    return cudaSuccess;
}
#endif
