/* Attention on tiles (tiles_attention.c), and on emulated ones. bfloat16 only. */
#ifndef IMF__CPU_TILES_ATTENTION_H
#define IMF__CPU_TILES_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#if defined(IMF__TILES_EMULATED) /* what the emulation's names end with */
#define IMF__TILES_JOIN2(name, end) name##end
#define IMF__TILES_JOIN(name, end) IMF__TILES_JOIN2(name, end)
#define IMF__TILES_NAME(name) IMF__TILES_JOIN(name, IMF__TILES_EMULATED)
#else
#define IMF__TILES_NAME(name) name
#endif

/* As imf__cpu_kernels' attention_head, in panels, and attention_work. */
void IMF__TILES_NAME(imf__tiles_attention_head)(uint16_t *dst, const uint16_t *qkv, size_t first,
                                                const float *q_norm, const float *k_norm,
                                                const float *rope, int T, int NH, int HS, int head,
                                                void *work);
size_t IMF__TILES_NAME(imf__tiles_attention_work)(int T, int HS);

#endif
