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
void imf_emu_count_flops(uint64_t flops);
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

/* ---- atomics: fibers do not interrupt each other, so plain arithmetic after the check is atomic
 * ---- */

namespace imf_emu
{
/* Volatile inline memory access through memcpy would be instrumented as plain; assembly is not. */
template <class T> static __forceinline__ T raw_load(const T *p)
{
    T v;
#if defined(__x86_64__)
    if constexpr (sizeof(T) == 4) {
        uint32_t b;
        __asm__ volatile("movl %1, %0"
                         : "=r"(b)
                         : "m"(*(const uint32_t *)(const void *)p)
                         : "memory");
        __builtin_memcpy(static_cast<void *>(&v), &b, 4);
    } else {
        uint64_t b;
        __asm__ volatile("movq %1, %0"
                         : "=r"(b)
                         : "m"(*(const uint64_t *)(const void *)p)
                         : "memory");
        __builtin_memcpy(static_cast<void *>(&v), &b, 8);
    }
#else
    v = *p;
#endif
    return v;
}

template <class T> static __forceinline__ void raw_store(T *p, T v)
{
#if defined(__x86_64__)
    if constexpr (sizeof(T) == 4) {
        uint32_t b;
        __builtin_memcpy(&b, &v, 4);
        __asm__ volatile("movl %1, %0" : "=m"(*(uint32_t *)(void *)p) : "r"(b) : "memory");
    } else {
        uint64_t b;
        __builtin_memcpy(&b, &v, 8);
        __asm__ volatile("movq %1, %0" : "=m"(*(uint64_t *)(void *)p) : "r"(b) : "memory");
    }
#else
    *p = v;
#endif
}

template <class T, class F> static inline T atomic(T *p, F f)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics are 4 or 8 bytes wide");
    imf_emu_atomic(p, int(sizeof(T)));
    T old = raw_load(p);
    raw_store(p, f(old));
    return old;
}
} // namespace imf_emu

template <class T> static inline T atomicAdd(T *p, std::common_type_t<T> v)
{
    return imf_emu::atomic(p, [=](T o) { return T(o + v); });
}

template <class T> static inline T atomicMax(T *p, std::common_type_t<T> v)
{
    return imf_emu::atomic(p, [=](T o) { return o > v ? o : v; });
}

template <class T> static inline T atomicMin(T *p, std::common_type_t<T> v)
{
    return imf_emu::atomic(p, [=](T o) { return o < v ? o : v; });
}

template <class T> static inline T atomicExch(T *p, std::common_type_t<T> v)
{
    return imf_emu::atomic(p, [=](T) { return v; });
}

template <class T> static inline T atomicOr(T *p, std::common_type_t<T> v)
{
    return imf_emu::atomic(p, [=](T o) { return T(o | v); });
}

template <class T>
static inline T atomicCAS(T *p, std::common_type_t<T> expected, std::common_type_t<T> v)
{
    return imf_emu::atomic(p, [=](T o) { return o == expected ? v : o; });
}

static inline unsigned atomicInc(unsigned *p, unsigned bound)
{
    return imf_emu::atomic(p, [=](unsigned o) { return o >= bound ? 0u : o + 1u; });
}

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

/* ---- arithmetic ---- */

namespace imf_emu
{
template <class To, class From> static __forceinline__ To cast_bits(From v)
{
    static_assert(sizeof(To) == sizeof(From), "same size");
    To out;
    __builtin_memcpy(static_cast<void *>(&out), &v, sizeof out);
    return out;
}
} // namespace imf_emu

static inline float __uint_as_float(unsigned v)
{
    return imf_emu::cast_bits<float>(v);
}
static inline unsigned __float_as_uint(float v)
{
    return imf_emu::cast_bits<unsigned>(v);
}
static inline float __int_as_float(int v)
{
    return imf_emu::cast_bits<float>(v);
}
static inline int __float_as_int(float v)
{
    return imf_emu::cast_bits<int>(v);
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __frcp_rn(float a)
{
    return 1.0f / a;
}
static inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}
static inline float __frsqrt_rn(float a)
{
    return 1.0f / sqrtf(a);
}
static inline float __fdividef(float a, float b)
{
    return a / b;
}
/* glibc declares functions of these names, so they are macros here. */
#define __expf(a) expf(a)
#define __exp10f(a) exp10f(a)
#define __logf(a) logf(a)
#define __log2f(a) log2f(a)
#define __powf(a, b) powf(a, b)
#define __sinf(a) sinf(a)
#define __cosf(a) cosf(a)
#define __sincosf(a, s, c) sincosf(a, s, c)
static inline float __saturatef(float a)
{
    return a < 0.0f || a != a ? 0.0f : a > 1.0f ? 1.0f : a;
}
static inline float rsqrtf(float a)
{
    return 1.0f / sqrtf(a);
}
static inline double rsqrt(double a)
{
    return 1.0 / sqrt(a);
}
static inline int __float2int_rn(float a)
{
    return int(nearbyintf(a));
}
static inline int __float2int_rd(float a)
{
    return int(floorf(a));
}
static inline int __float2int_rz(float a)
{
    return int(a);
}
static inline unsigned __float2uint_rn(float a)
{
    return a <= 0.0f ? 0u : unsigned(nearbyintf(a));
}
static inline float __int2float_rn(int a)
{
    return float(a);
}
static inline int __popc(unsigned v)
{
    return __builtin_popcount(v);
}
static inline int __popcll(unsigned long long v)
{
    return __builtin_popcountll(v);
}
static inline int __clz(int v)
{
    return v ? __builtin_clz(unsigned(v)) : 32;
}
static inline int __ffs(int v)
{
    return __builtin_ffs(v);
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return unsigned((uint64_t(a) * b) >> 32);
}
static inline int __mulhi(int a, int b)
{
    return int((int64_t(a) * b) >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s)
{
    uint64_t v = x | (uint64_t(y) << 32);
    unsigned r = 0;
    for (int i = 0; i < 4; i++)
        r |= unsigned((v >> (8 * ((s >> (4 * i)) & 7))) & 0xff) << (8 * i);
    return r;
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift)
{
    return unsigned(((uint64_t(hi) << 32) | lo) >> (shift & 31));
}
static inline long long clock64(void)
{
    return 0;
}
static inline void __nanosleep(unsigned)
{
}
static inline void __trap(IMF_EMU_HERE)
{
    imf_emu_trap(file, line);
}
static inline size_t __cvta_generic_to_shared(const void *p)
{
    return imf_emu_shared_address(p);
}

/* CUDA's overloads of min and max take mixed signedness, unlike std::. */
#define IMF_EMU_MINMAX(type)                                                                       \
    static constexpr inline type min(type a, type b)                                               \
    {                                                                                              \
        return b < a ? b : a;                                                                      \
    }                                                                                              \
    static constexpr inline type max(type a, type b)                                               \
    {                                                                                              \
        return a < b ? b : a;                                                                      \
    }
IMF_EMU_MINMAX(int)
IMF_EMU_MINMAX(unsigned)
IMF_EMU_MINMAX(long)
IMF_EMU_MINMAX(unsigned long)
IMF_EMU_MINMAX(long long)
IMF_EMU_MINMAX(unsigned long long)
static inline float min(float a, float b)
{
    return fminf(a, b);
}
static inline float max(float a, float b)
{
    return fmaxf(a, b);
}
static inline double min(double a, double b)
{
    return fmin(a, b);
}
static inline double max(double a, double b)
{
    return fmax(a, b);
}

/* Rounds to nearest even; NaN becomes the canonical 0x7fff, as cvt.rn.bf16 does. */
static inline uint16_t imf_emu_bf16_bits(float v)
{
    uint32_t u = __float_as_uint(v);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return 0x7fff;
    return uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline uint32_t imf_emu_pack_bf16x2(float lo, float hi)
{
    return imf_emu_bf16_bits(lo) | (uint32_t(imf_emu_bf16_bits(hi)) << 16);
}

static inline char2 make_char2(signed char x, signed char y)
{
    return char2{x, y};
}

static inline char3 make_char3(signed char x, signed char y, signed char z)
{
    return char3{x, y, z};
}

static inline char4 make_char4(signed char x, signed char y, signed char z, signed char w)
{
    return char4{x, y, z, w};
}

static inline uchar2 make_uchar2(unsigned char x, unsigned char y)
{
    return uchar2{x, y};
}

static inline uchar3 make_uchar3(unsigned char x, unsigned char y, unsigned char z)
{
    return uchar3{x, y, z};
}

static inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w)
{
    return uchar4{x, y, z, w};
}

static inline short2 make_short2(short x, short y)
{
    return short2{x, y};
}

static inline short3 make_short3(short x, short y, short z)
{
    return short3{x, y, z};
}

static inline short4 make_short4(short x, short y, short z, short w)
{
    return short4{x, y, z, w};
}

static inline ushort2 make_ushort2(unsigned short x, unsigned short y)
{
    return ushort2{x, y};
}

static inline ushort3 make_ushort3(unsigned short x, unsigned short y, unsigned short z)
{
    return ushort3{x, y, z};
}

static inline ushort4 make_ushort4(unsigned short x, unsigned short y, unsigned short z,
                                   unsigned short w)
{
    return ushort4{x, y, z, w};
}

static inline int2 make_int2(int x, int y)
{
    return int2{x, y};
}

static inline int3 make_int3(int x, int y, int z)
{
    return int3{x, y, z};
}

static inline int4 make_int4(int x, int y, int z, int w)
{
    return int4{x, y, z, w};
}

static inline uint2 make_uint2(unsigned int x, unsigned int y)
{
    return uint2{x, y};
}

static inline uint3 make_uint3(unsigned int x, unsigned int y, unsigned int z)
{
    return uint3{x, y, z};
}

static inline uint4 make_uint4(unsigned int x, unsigned int y, unsigned int z, unsigned int w)
{
    return uint4{x, y, z, w};
}

static inline float2 make_float2(float x, float y)
{
    return float2{x, y};
}

static inline float3 make_float3(float x, float y, float z)
{
    return float3{x, y, z};
}

static inline float4 make_float4(float x, float y, float z, float w)
{
    return float4{x, y, z, w};
}

static inline longlong2 make_longlong2(long long x, long long y)
{
    return longlong2{x, y};
}

static inline longlong3 make_longlong3(long long x, long long y, long long z)
{
    return longlong3{x, y, z};
}

static inline longlong4 make_longlong4(long long x, long long y, long long z, long long w)
{
    return longlong4{x, y, z, w};
}

static inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y)
{
    return ulonglong2{x, y};
}

static inline ulonglong3 make_ulonglong3(unsigned long long x, unsigned long long y,
                                         unsigned long long z)
{
    return ulonglong3{x, y, z};
}

static inline ulonglong4 make_ulonglong4(unsigned long long x, unsigned long long y,
                                         unsigned long long z, unsigned long long w)
{
    return ulonglong4{x, y, z, w};
}

static inline double2 make_double2(double x, double y)
{
    return double2{x, y};
}

static inline double3 make_double3(double x, double y, double z)
{
    return double3{x, y, z};
}

static inline double4 make_double4(double x, double y, double z, double w)
{
    return double4{x, y, z, w};
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
