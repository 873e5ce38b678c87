/* CUDA's arithmetic functions and vector constructors on the host, included by imf_emu_device.h.
 * Approximate instructions are computed exactly. */
#ifndef IMF_EMU_MATH_H
#define IMF_EMU_MATH_H

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

#endif
