/* The table of the CPU device's own loops (kernels.h), compiled once per instruction set with
 * -DIMF__ISA=avx512_bf16 and friends: norms, sums and scaling of pictures. */
#include "cpu/kernels.h"
#include "cpu/attention.h"
#include "common/vector.h"

/* ---- Norms ---- */

static void rms_norm(void *dst, size_t step, bool dst_bf16, const float *src, const float *weight,
                     int C, float eps)
{
    vf acc[4] = {splat(0), splat(0), splat(0), splat(0)}; /* a chain each: none waits for another */
    int c = 0;
    for (; c + 4 * LANES <= C; c += 4 * LANES) {
        for (int i = 0; i < 4; i++) {
            vf x = load_f32(src + c + i * LANES);
            acc[i] += x * x;
        }
    }
    for (; c + LANES <= C; c += LANES) {
        vf x = load_f32(src + c);
        acc[0] += x * x;
    }
    float sum = sum_lanes((acc[0] + acc[1]) + (acc[2] + acc[3]));
    for (; c < C; c++)
        sum += src[c] * src[c];
    float scale = 1.0f / sqrtf(sum / (float)C + eps);
    for (c = 0; c + LANES <= C; c += LANES) {
        vf y = load_f32(src + c) * scale;
        store(dst, (size_t)c / 32 * step + (size_t)c % 32, weight ? y * load_f32(weight + c) : y,
              dst_bf16);
    }
    for (; c < C; c++)
        store1(dst, (size_t)c / 32 * step + (size_t)c % 32,
               src[c] * scale * (weight ? weight[c] : 1.0f), dst_bf16);
    for (; step > 32 && c % 32; c++)
        store1(dst, (size_t)c / 32 * step + (size_t)c % 32, 0.0f, dst_bf16);
}

/* ---- Pictures ---- */

/* float32 partial sums over a short run, then double: exact enough for any picture, and fast. */
#define SUM_RUN 64

static inline __attribute__((always_inline)) void
channel_sums_typed(double *sums, const void *src, bool bf16, size_t pixels, size_t stride, int C)
{
    for (size_t p0 = 0; p0 < pixels; p0 += SUM_RUN) {
        size_t p1 = p0 + SUM_RUN < pixels ? p0 + SUM_RUN : pixels;
        int c = 0;
        for (; c + LANES <= C; c += LANES) {
            vf s = splat(0), q = splat(0);
            for (size_t p = p0; p < p1; p++) {
                vf x = load(src, p * stride + (size_t)c, bf16);
                s += x;
                q += x * x;
            }
            for (int i = 0; i < LANES; i++) {
                sums[c + i] += (double)s[i];
                sums[C + c + i] += (double)q[i];
            }
        }
        for (; c < C; c++) {
            for (size_t p = p0; p < p1; p++) {
                double x = (double)load1(src, p * stride + (size_t)c, bf16);
                sums[c] += x;
                sums[C + c] += x * x;
            }
        }
    }
}

static void channel_sums(double *sums, const void *src, bool bf16, size_t pixels, size_t stride,
                         int C)
{
    if (bf16)
        channel_sums_typed(sums, src, true, pixels, stride, C);
    else
        channel_sums_typed(sums, src, false, pixels, stride, C);
}

static inline __attribute__((always_inline)) void scale_shift_typed(void *dst, const void *src,
                                                                    bool bf16, const float *a,
                                                                    const float *b, size_t pixels,
                                                                    size_t stride, int C, bool silu)
{
    if (C == 2 * LANES) { /* our own convolutions' blocks */
        const vf a0 = load_f32(a), a1 = load_f32(a + LANES);
        const vf b0 = load_f32(b), b1 = load_f32(b + LANES);
        for (size_t p = 0; p < pixels; p++) {
            vf x = load(src, p * stride, bf16) * a0 + b0;
            vf y = load(src, p * stride + LANES, bf16) * a1 + b1;
            if (silu) {
                x = bf16 ? silu_rough(x) : silu_lanes(x);
                y = bf16 ? silu_rough(y) : silu_lanes(y);
            }
            store(dst, p * stride, x, bf16);
            store(dst, p * stride + LANES, y, bf16);
        }
        return;
    }
    for (size_t p = 0; p < pixels; p++) {
        int c = 0;
        for (; c + LANES <= C; c += LANES) {
            vf y = load(src, p * stride + (size_t)c, bf16) * load_f32(a + c) + load_f32(b + c);
            if (silu)
                y = bf16 ? silu_rough(y) : silu_lanes(y);
            store(dst, p * stride + (size_t)c, y, bf16);
        }
        for (; c < C; c++) {
            float y = load1(src, p * stride + (size_t)c, bf16) * a[c] + b[c];
            store1(dst, p * stride + (size_t)c, silu ? y / (1.0f + expf(-y)) : y, bf16);
        }
    }
}

static void scale_shift(void *dst, const void *src, bool bf16, const float *a, const float *b,
                        size_t pixels, size_t stride, int C, bool silu)
{
    if (bf16)
        scale_shift_typed(dst, src, true, a, b, pixels, stride, C, silu);
    else
        scale_shift_typed(dst, src, false, a, b, pixels, stride, C, silu);
}

static void to_bf16(uint16_t *dst, const float *src, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store_bf16(dst + i, load_f32(src + i));
    for (; i < n; i++)
        dst[i] = imf__to_bf16(src[i]);
}

static void to_f32(float *dst, const uint16_t *src, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store_f32(dst + i, load_bf16(src + i));
    for (; i < n; i++)
        dst[i] = imf__from_bf16(src[i]);
}

static void add(float *dst, const float *a, const float *b, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store_f32(dst + i, load_f32(a + i) + load_f32(b + i));
    for (; i < n; i++)
        dst[i] = a[i] + b[i];
}

typedef uint8_t vb_u __attribute__((vector_size(LANES), aligned(1)));

static inline vb_u levels(vf x, float scale, float shift)
{
    const vf magic =
        splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer, ties to even */
    x = max_lanewise(x * scale + shift, splat(0)); /* a NaN becomes black */
    x = min_lanewise(x, splat(255.0f)) + magic - magic;
    return __builtin_convertvector(__builtin_convertvector(x, vi), vb_u);
}

static void to_rgb8(uint8_t *dst, const float *src, size_t n, float scale, float shift)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        *(vb_u *)(dst + i) = levels(load_f32(src + i), scale, shift);
    if (i < n) {
        float rest[LANES] = {0};
        memcpy(rest, src + i, (n - i) * sizeof(*rest));
        const vb_u last = levels(load_f32(rest), scale, shift);
        memcpy(dst + i, &last, n - i);
    }
}

#if defined(__x86_64__)
#define OPAQUE(x) __asm__ volatile("" : "+v"(x))
#else
#define OPAQUE(x) __asm__ volatile("" : "+w"(x))
#endif

static double peak(int times)
{
    enum { SUMS = 12 };
    vn sums[SUMS] = {{0}}, x = (vn){0} + 0.5f, y = (vn){0} + 1;
    OPAQUE(x);
    OPAQUE(y);
    for (int t = 0; t < times; t++) {
        for (int i = 0; i < SUMS; i++) {
            sums[i] = sums[i] * x + y;
            OPAQUE(sums[i]);
        }
    }
    return (double)times * SUMS * NATIVE * 2;
}

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)

const struct imf__cpu_kernels IMF__ISA_NAME(imf__cpu_kernels) = {
    .isa = TEXT(IMF__ISA),
    .rms_norm = rms_norm,
    .attention_head = IMF__ISA_NAME(imf__attention_head),
    .attention_work = IMF__ISA_NAME(imf__attention_work),
    .single = &IMF__ISA_NAME(imf__single_attention),
    .channel_sums = channel_sums,
    .scale_shift = scale_shift,
    .peak = peak,
    .to_bf16 = to_bf16,
    .to_f32 = to_f32,
    .add = add,
    .to_rgb8 = to_rgb8,
};
