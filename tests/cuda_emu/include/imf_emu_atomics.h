/* Atomics for the host emulator, included by imf_emu_device.h. Fibers do not interrupt each other,
 * so plain arithmetic after the check is atomic. */
#ifndef IMF_EMU_ATOMICS_H
#define IMF_EMU_ATOMICS_H

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

#endif
