/* Token operations of the CPU device that are no matrix products. */
#include "cpu/internal.h"
#include "common/error.h"

#include <math.h>
#include <omp.h>
#include <string.h>

imf_status cpu_rms_norm(struct imf__device *d, void *dst, enum imf__dtype dst_type,
                        const float *src, const float *weight, int B, int T, int t0, int C,
                        float eps)
{
    struct cpu_device *cpu = cpu_of(d);
    if (d->dry)
        return IMF_OK;
    bool bf16 = dst_type == IMF__ACT && cpu_bf16(cpu);
    size_t row = (size_t)C * (bf16 ? 2 : 4);
    int kept = T - t0;
#pragma omp parallel for collapse(2) schedule(static)
    for (int b = 0; b < B; b++) {
        for (int t = 0; t < kept; t++) {
            const float *x = src + ((size_t)b * (size_t)T + (size_t)(t0 + t)) * (size_t)C;
            char *y = (char *)dst + ((size_t)b * (size_t)kept + (size_t)t) * row;
            cpu->k->rms_norm(y, bf16, x, weight, C, eps);
        }
    }
    return IMF_OK;
}

imf_status cpu_attention(struct imf__device *d, void *dst, const void *qkv, const float *q_norm,
                         const float *k_norm, const float *rope, int B, int T, int NH)
{
    struct cpu_device *cpu = cpu_of(d);
    bool bf16 = cpu_bf16(cpu);
    size_t piece = cpu_round_up(cpu->k->attention_work(T, bf16), 4096);
    IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_THREADS, piece * (size_t)cpu->threads));
    if (d->dry)
        return IMF_OK;
    char *work = cpu_scratch(cpu, CPU_SCRATCH_THREADS);
    size_t out = (size_t)T * (size_t)NH * IMF__HEAD_SIZE * d->act_size, in = 3 * out;
#pragma omp parallel for collapse(2) schedule(static) num_threads(cpu->threads)
    for (int b = 0; b < B; b++) {
        for (int h = 0; h < NH; h++)
            cpu->k->attention_head((char *)dst + (size_t)b * out,
                                   (const char *)qkv + (size_t)b * in, bf16, q_norm, k_norm, rope,
                                   T, NH, h, work + piece * (size_t)omp_get_thread_num());
    }
    return IMF_OK;
}

imf_status cpu_attention_single(struct imf__device *d, float *dst, const float *q, const float *k,
                                const float *v, int n, int T, int C)
{
    struct cpu_device *cpu = cpu_of(d);
    const struct imf__single_attention *single = cpu->k->single;
    struct imf__single_sizes size = single->sizes(T, C);
    size_t piece = cpu_round_up(size.work, 4096), sample = (size_t)T * (size_t)C;
    IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_TENSOR, size.packed));
    IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_THREADS, piece * (size_t)cpu->threads));
    if (d->dry)
        return IMF_OK;
    void *packed = cpu_scratch(cpu, CPU_SCRATCH_TENSOR);
    char *work = cpu_scratch(cpu, CPU_SCRATCH_THREADS);
    for (int b = 0; b < n; b++, dst += sample, q += sample, k += sample, v += sample) {
#pragma omp parallel num_threads(cpu->threads)
        {
#pragma omp for schedule(static)
            for (int i = 0; i < size.strips; i++)
                single->pack(packed, k, v, T, C, i);
#pragma omp for schedule(dynamic)
            for (int i = 0; i < size.blocks; i++)
                single->attend(dst, q, packed, T, C, i,
                               work + piece * (size_t)omp_get_thread_num());
        }
    }
    return IMF_OK;
}

imf_status cpu_scalar_embed(struct imf__device *d, float *dst, const float *values, int rows)
{
    if (d->dry)
        return IMF_OK;
    for (int r = 0; r < rows; r++) {
        for (int k = 0; k < 128; k++) {
            /* float32 throughout, as the published code computes its frequencies and angles. */
            float f = expf(-9.210340371976184f * (float)k / 128.0f);
            float angle = values[r] * f;
            dst[r * 256 + k] = cosf(angle);
            dst[r * 256 + 128 + k] = sinf(angle);
        }
    }
    return IMF_OK;
}

imf_status cpu_patchify(struct imf__device *d, float *dst, const float *z, int B, int C, int S,
                        int p)
{
    if (d->dry)
        return IMF_OK;
    int side = S / p;
    for (int b = 0; b < B; b++) {
        for (int gy = 0; gy < side; gy++) {
            for (int gx = 0; gx < side; gx++) {
                for (int c = 0; c < C; c++) {
                    const float *plane = z + ((size_t)b * (size_t)C + (size_t)c) * (size_t)(S * S);
                    for (int y = 0; y < p; y++) {
                        memcpy(dst, plane + (gy * p + y) * S + gx * p, (size_t)p * sizeof(float));
                        dst += p;
                    }
                }
            }
        }
    }
    return IMF_OK;
}

static void add_rows(float *x, const float *tokens, const float *embedding, int n, int D)
{
    for (int i = 0; i < n; i++) {
        for (int c = 0; c < D; c++)
            x[(size_t)i * (size_t)D + (size_t)c] =
                tokens[(size_t)i * (size_t)D + (size_t)c] + embedding[c];
    }
}

imf_status cpu_assemble(struct imf__device *d, float *x, const float *tokens, const float *classes,
                        const int32_t *labels, const float *scalars, const float *patches, int B,
                        int P, int D)
{
    static const int counts[4] = {4, 2, 2,
                                  4}; /* omega, t_min, t_max, h tokens, after 8 class ones */
    if (d->dry)
        return IMF_OK;
    size_t row = (size_t)D, sample = (size_t)(20 + P) * row;
#pragma omp parallel for schedule(static)
    for (int b = 0; b < B; b++) {
        float *y = x + (size_t)b * sample;
        const float *learned = tokens;
        add_rows(y, learned, classes + (size_t)labels[b] * row, 8, D);
        y += 8 * row;
        learned += 8 * row;
        for (int s = 0; s < 4; s++) {
            add_rows(y, learned, scalars + ((size_t)s * (size_t)B + (size_t)b) * row, counts[s], D);
            y += (size_t)counts[s] * row;
            learned += (size_t)counts[s] * row;
        }
        memcpy(y, patches + (size_t)b * (size_t)P * row, (size_t)P * row * sizeof(float));
    }
    return IMF_OK;
}

imf_status cpu_euler(struct imf__device *d, float *z, const float *u, const float *dt, int B, int C,
                     int S, int p)
{
    if (d->dry)
        return IMF_OK;
    int side = S / p;
    for (int b = 0; b < B; b++) {
        for (int gy = 0; gy < side; gy++) {
            for (int gx = 0; gx < side; gx++) {
                for (int y = 0; y < p; y++) {
                    for (int x = 0; x < p; x++) {
                        size_t pixel = (size_t)(gy * p + y) * (size_t)S + (size_t)(gx * p + x);
                        for (int c = 0; c < C; c++)
                            z[((size_t)b * (size_t)C + (size_t)c) * (size_t)(S * S) + pixel] -=
                                dt[b] * *u++;
                    }
                }
            }
        }
    }
    return IMF_OK;
}
