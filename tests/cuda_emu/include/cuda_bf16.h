/* <cuda_bf16.h> of the emulator: the types, conversions and arithmetic the kernels use. */
#ifndef IMF_EMU_CUDA_BF16_H
#define IMF_EMU_CUDA_BF16_H

#ifndef __cplusplus
#include <stdint.h>
typedef struct __attribute__((aligned(2))) __nv_bfloat16 {
    uint16_t bits;
} __nv_bfloat16;
typedef struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;
} __nv_bfloat162;
#else
#include "cuda_runtime.h"

struct __attribute__((aligned(2))) __nv_bfloat16 {
    uint16_t bits;

    __nv_bfloat16() = default;
    __nv_bfloat16(float v) : bits(imf_emu_bf16_bits(v))
    {
    }
    __nv_bfloat16(double v) : bits(imf_emu_bf16_bits(float(v)))
    {
    }
    __nv_bfloat16(int v) : bits(imf_emu_bf16_bits(float(v)))
    {
    }
    operator float() const
    {
        return __uint_as_float(uint32_t(bits) << 16);
    }
};

struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;

    __nv_bfloat162() = default;
    __nv_bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) : x(a), y(b)
    {
    }
    IMF_EMU_COPY_WHOLE(__nv_bfloat162) /* one 4-byte store, see cuda_runtime_api.h */
};

typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;
struct __nv_bfloat16_raw {
    unsigned short x;
};

static inline __nv_bfloat16 __float2bfloat16(float v)
{
    return __nv_bfloat16(v);
}
static inline __nv_bfloat16 __float2bfloat16_rn(float v)
{
    return __nv_bfloat16(v);
}
static inline float __bfloat162float(__nv_bfloat16 v)
{
    return float(v);
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float lo, float hi)
{
    return __nv_bfloat162(__nv_bfloat16(lo), __nv_bfloat16(hi));
}
static inline __nv_bfloat162 __float22bfloat162_rn(float2 v)
{
    return __floats2bfloat162_rn(v.x, v.y);
}
static inline __nv_bfloat162 __float2bfloat162_rn(float v)
{
    return __floats2bfloat162_rn(v, v);
}
static inline float2 __bfloat1622float2(__nv_bfloat162 v)
{
    return make_float2(float(v.x), float(v.y));
}
static inline float __low2float(__nv_bfloat162 v)
{
    return float(v.x);
}
static inline float __high2float(__nv_bfloat162 v)
{
    return float(v.y);
}
static inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v)
{
    return v.x;
}
static inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v)
{
    return v.y;
}
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 lo, __nv_bfloat16 hi)
{
    return __nv_bfloat162(lo, hi);
}
static inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 v)
{
    return __nv_bfloat162(v, v);
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v)
{
    return v.bits;
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short v)
{
    __nv_bfloat16 r;
    r.bits = v;
    return r;
}
/* Each operation rounds once, as the hardware's fused forms do. */
static inline __nv_bfloat16 __hadd(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return __nv_bfloat16(float(a) + float(b));
}
static inline __nv_bfloat16 __hsub(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return __nv_bfloat16(float(a) - float(b));
}
static inline __nv_bfloat16 __hmul(__nv_bfloat16 a, __nv_bfloat16 b)
{
    return __nv_bfloat16(float(a) * float(b));
}
static inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b)
{
    return __nv_bfloat162(__hadd(a.x, b.x), __hadd(a.y, b.y));
}
static inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b)
{
    return __nv_bfloat162(__hmul(a.x, b.x), __hmul(a.y, b.y));
}
static inline __nv_bfloat162 __hmax2(__nv_bfloat162 a, __nv_bfloat162 b)
{
    return __nv_bfloat162(float(a.x) > float(b.x) ? a.x : b.x, float(a.y) > float(b.y) ? a.y : b.y);
}
#endif
#endif
