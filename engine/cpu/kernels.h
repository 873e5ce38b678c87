/* The CPU device's own loops. kernels.c is compiled once per instruction set; each object exports
 * one of these tables and the device picks the best that the processor runs. Every function works
 * on one piece (a row, a head, a run of pixels) on one thread; the device spreads pieces over
 * threads. A piece's arithmetic never depends on how many pieces there are: that is what makes
 * results the same at every batch size and thread count. */
#ifndef IMF__CPU_KERNELS_H
#define IMF__CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Attention with one head of C channels over T positions, all (T, C) float32. Pack every strip of K
 * and V, then attend to every block of rows. */
struct imf__single_sizes {
    size_t packed; /* bytes of K and V, packed; 64-byte aligned */
    size_t work;   /* bytes that attend() wants for itself */
    int strips, blocks;
};

struct imf__single_attention {
    struct imf__single_sizes (*sizes)(int T, int C);
    void (*pack)(void *packed, const float *k, const float *v, int T, int C, int strip);
    /* The block's rows of dst = softmax(q k^T / sqrt(C)) v. */
    void (*attend)(float *dst, const float *q, void *packed, int T, int C, int block, void *work);
    /* Softmax of `rows` rows of scores (rows, keys), of which T are there, as a panel of A; the
     * scores are lost. keys: a multiple of 32. */
    void (*probabilities)(uint16_t *dst, float *scores, int rows, int T, size_t keys);
};

struct imf__cpu_kernels {
    const char *isa;

    /* dst (C) = src / sqrt(mean(src^2) + eps) * weight; weight NULL: ones. Each 32 elements of dst
     * lie `step` behind those before; where that is more than 32, zeros fill the last ones. */
    void (*rms_norm)(void *dst, size_t step, bool dst_bf16, const float *src, const float *weight,
                     int C, float eps);
    /* One head of one sample, rows [first, first + T) of dst and of qkv, which lie in panels
     * (cpu/gemm/gemm.h) or row by row. work: attention_work(T, HS, bf16) bytes, 64-byte aligned. */
    void (*attention_head)(void *dst, const void *qkv, size_t first, bool packed, bool bf16,
                           const float *q_norm, const float *k_norm, const float *rope, int T,
                           int NH, int HS, int head, void *work);
    size_t (*attention_work)(int T, int HS, bool bf16);
    const struct imf__single_attention *single;
    /* Adds each channel's sum and sum of squares over `pixels` pixels to sums (2, C); consecutive
     * pixels are `stride` elements apart. */
    void (*channel_sums)(double *sums, const void *src, bool bf16, size_t pixels, size_t stride,
                         int C);
    /* dst = src * a[c] + b[c], then SiLU if asked. */
    void (*scale_shift)(void *dst, const void *src, bool bf16, const float *a, const float *b,
                        size_t pixels, size_t stride, int C, bool silu);
    /* FLOPs of `times` rounds of multiply-adds that touch no memory. */
    double (*peak)(int times);
    /* Element type conversions, n elements. */
    void (*to_bf16)(uint16_t *dst, const float *src, size_t n);
    void (*to_f32)(float *dst, const uint16_t *src, size_t n);
    /* dst = a + b, n elements. */
    void (*add)(float *dst, const float *a, const float *b, size_t n);
    /* dst = round(clip(src * scale + shift, 0, 255)), ties to even, n elements. */
    void (*to_rgb8)(uint8_t *dst, const float *src, size_t n, float scale, float shift);
};

extern const struct imf__cpu_kernels imf__cpu_kernels_generic;
#if defined(__x86_64__)
extern const struct imf__cpu_kernels imf__cpu_kernels_avx2;
extern const struct imf__cpu_kernels imf__cpu_kernels_avx512;
extern const struct imf__cpu_kernels imf__cpu_kernels_avx512_bf16;
#endif

#endif
