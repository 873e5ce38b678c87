/* bfloat16, the upper half of a float32, as uint16_t. */
#ifndef IMF__BFLOAT16_H
#define IMF__BFLOAT16_H

#include <stdint.h>
#include <string.h>

static inline float imf__from_bf16(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* To nearest, ties to even. What is not a number stays so: carrying into the exponent would make it
 * infinite or zero. */
static inline uint16_t imf__to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    if ((bits & 0x7FFFFFFF) > 0x7F800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

#endif
