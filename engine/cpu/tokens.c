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
    const bool bf16 = dst_type != IMF__F32 && cpu_bf16(cpu);
    const bool packed = dst_type == IMF__ACT && cpu_packs(cpu);
    const size_t size = bf16 ? 2 : 4, steps = gemm_steps(C);
    int kept = T - t0;
#pragma omp parallel for collapse(2) schedule(static)
    for (int b = 0; b < B; b++) {
        for (int t = 0; t < kept; t++) {
            const float *x = src + ((size_t)b * (size_t)T + (size_t)(t0 + t)) * (size_t)C;
            size_t row = (size_t)b * (size_t)kept + (size_t)t;
            char *y = (char *)dst + (packed ? gemm_place(row, 0, steps) : row * (size_t)C) * size;
            cpu->k->rms_norm(y, packed ? GEMM_STEP : 32, bf16, x, weight, C, eps);
        }
    }
    return IMF_OK;
}

imf_status cpu_attention(struct imf__device *d, void *dst, const void *qkv, const float *q_norm,
                         const float *k_norm, const float *rope, int B, int T, int NH, int HS)
{
    struct cpu_device *cpu = cpu_of(d);
    bool bf16 = cpu_bf16(cpu);
    if (!imf__head_size_valid(HS))
        return IMF_EUNSUPPORTED;
    const struct gemm_kernel *tiles = cpu->gemm && cpu->gemm->attention_head ? cpu->gemm : NULL;
    size_t piece = tiles ? tiles->attention_work(T, HS) : cpu->k->attention_work(T, HS, bf16);
    piece = cpu_round_up(piece, 4096);
    IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_THREADS, piece * (size_t)cpu->threads));
    if (d->dry)
        return IMF_OK;
    char *work = cpu_scratch(cpu, CPU_SCRATCH_THREADS);
#pragma omp parallel num_threads(cpu->threads)
    for (struct cpu_turn turn = cpu_turn_of(&cpu->tasks, B * NH); cpu_next(&turn);) {
        const int b = turn.task / NH, h = turn.task % NH;
        const size_t first = (size_t)b * (size_t)T;
        char *own = work + piece * (size_t)omp_get_thread_num();
        if (tiles)
            tiles->attention_head(dst, qkv, first, q_norm, k_norm, rope, T, NH, HS, h, own);
        else
            cpu->k->attention_head(dst, qkv, first, cpu_packs(cpu), bf16, q_norm, k_norm, rope, T,
                                   NH, HS, h, own);
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

imf_status cpu_patchify(struct imf__device *d, void *dst, enum imf__dtype dst_type, const float *z,
                        int B, int C, int S, int p)
{
    struct cpu_device *cpu = cpu_of(d);
    if (d->dry)
        return IMF_OK;
    const bool bf16 = dst_type != IMF__F32 && cpu_bf16(cpu);
    const bool packed = dst_type == IMF__ACT && cpu_packs(cpu);
    const size_t size = bf16 ? 2 : 4, run = (size_t)p, side = (size_t)(S / p);
    const size_t features = (size_t)C * run * run, steps = gemm_steps((int)features);
#pragma omp parallel for schedule(static)
    for (size_t patch = 0; patch < (size_t)B * side * side; patch++) {
        const size_t b = patch / (side * side), gy = patch / side % side, gx = patch % side;
        const size_t most = packed ? steps * 32 : features;
        for (size_t at = 0, n; at < most; at += n) { /* runs of neighbours in both */
            const size_t c = at / (run * run), y = gy * run + at / run % run, i = at % run;
            char *to = (char *)dst +
                       (packed ? gemm_place(patch, at, steps) : patch * features + at) * size;
            n = at < features ? run - i : most - at;
            if (packed && n > 32 - at % 32)
                n = 32 - at % 32;
            if (at >= features) {
                memset(to, 0, n * size);
                continue;
            }
            const float *from =
                z + ((b * (size_t)C + c) * (size_t)S + y) * (size_t)S + gx * run + i;
            if (bf16)
                cpu->k->to_bf16((uint16_t *)to, from, n);
            else
                memcpy(to, from, n * size);
        }
    }
    return IMF_OK;
}

imf_status cpu_assemble(struct imf__device *d, float *x, const float *tokens, const float *classes,
                        const int32_t *labels, const float *scalars, const float *patches,
                        const float *positions, int B, int P, int D)
{
    /* Whose embedding a token of the prefix gets: the class's, or that of a scalar. */
    static const int owners[20] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0,
                                   0,  0,  1,  1,  2,  2,  3,  3,  3, 3};
    if (d->dry)
        return IMF_OK;
    const struct cpu_device *cpu = cpu_of(d);
    const size_t row = (size_t)D;
#pragma omp parallel for collapse(2) schedule(static)
    for (int b = 0; b < B; b++) {
        for (int t = 0; t < 20 + P; t++) {
            float *y = x + ((size_t)b * (size_t)(20 + P) + (size_t)t) * row;
            if (t >= 20) {
                const size_t p = (size_t)(t - 20);
                const float *patch = patches + ((size_t)b * (size_t)P + p) * row;
                if (positions)
                    cpu->k->add(y, patch, positions + p * row, row);
                else
                    memcpy(y, patch, row * sizeof(float));
                continue;
            }
            const int s = owners[t];
            const float *embedding =
                s < 0 ? classes + (size_t)labels[b] * row : scalars + (size_t)(s * B + b) * row;
            cpu->k->add(y, tokens + (size_t)t * row, embedding, row);
        }
    }
    return IMF_OK;
}

/* One row of patches: z (C, p, S) -= dt u. */
static void euler_row(float *z, size_t plane, const float *out, bool predicts_x, float dt, int C,
                      int S, int p)
{
    for (int i = 0; i < S / p * p; i++) { /* patch i / p, its row i % p */
        for (int c = 0; c < C; c++) {
            float *at = z + (size_t)c * plane + (size_t)(i % p) * (size_t)S + (size_t)(i / p * p);
            const float *from = out + (size_t)(i * p * C + c);
            for (int x = 0; x < p; x++, from += C)
                at[x] -= dt * (predicts_x ? at[x] - *from : *from);
        }
    }
}

imf_status cpu_euler(struct imf__device *d, float *z, const float *out, bool predicts_x,
                     const float *dt, int B, int C, int S, int p)
{
    if (d->dry)
        return IMF_OK;
    int side = S / p;
    size_t plane = (size_t)S * (size_t)S, row = (size_t)p * (size_t)S;
#pragma omp parallel for collapse(2) schedule(static)
    for (int b = 0; b < B; b++) {
        for (int gy = 0; gy < side; gy++)
            euler_row(z + (size_t)b * (size_t)C * plane + (size_t)gy * row, plane,
                      out + ((size_t)b * (size_t)side + (size_t)gy) * row * (size_t)C, predicts_x,
                      dt[b], C, S, p);
    }
    return IMF_OK;
}
