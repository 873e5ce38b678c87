/* What stands before and after the transformer's blocks: scalar embeddings, patches, the assembled
 * sequence, the Euler step. All float32, all bound by memory; a thread writes one or four elements,
 * neighbours write neighbours. Rows differ in B only, so a sample's bits do not depend on the
 * batch. */
#include "common.cuh"

static const int THREADS = 256;

/* dst (rows, 256): cos then sin of value * exp(-ln(10000) k / 128). expf, cosf and sinf are the
 * full precision ones: no fast-math in this file, arguments reach 10 and the golden bound is 1e-6.
 */
static __global__ void scalar_embed(float *dst, const float *values, int rows)
{
    const int i = static_cast<int>(blockIdx.x) * THREADS + static_cast<int>(threadIdx.x);
    if (i >= rows * 128)
        return;
    const int row = i / 128, k = i % 128;
    const float angle = values[row] * expf(-9.210340371976184f * static_cast<float>(k) / 128.0f);
    dst[row * 256 + k] = cosf(angle);
    dst[row * 256 + 128 + k] = sinf(angle);
}

template <typename T>
static __global__ void patchify(T *dst, const float *z, int total, int C, int S, int p)
{
    const int i = static_cast<int>(blockIdx.x) * THREADS + static_cast<int>(threadIdx.x);
    if (i >= total)
        return;
    const int features = C * p * p, side = S / p, P = side * side;
    const int f = i % features, row = i / features;
    const int patch = row % P, b = row / P;
    const int c = f / (p * p), py = f / p % p, px = f % p;
    const int y = patch / side * p + py, x = patch % side * p + px;
    dst[i] = from_float<T>(z[((b * C + c) * S + y) * S + x]);
}

/* One block per token; D elements by its threads, four at a time. */
static __global__ void assemble(float *x, const float *tokens, const float *classes,
                                const int32_t *labels, const float *scalars, const float *patches,
                                const float *positions, int B, int P, int D)
{
    const int T = 20 + P;
    const int b = static_cast<int>(blockIdx.x) / T, t = static_cast<int>(blockIdx.x) % T;
    float *out = x + static_cast<size_t>(blockIdx.x) * D;
    const float *learned = NULL, *added;
    if (t >= 20) {
        added = patches + (static_cast<size_t>(b) * P + (t - 20)) * D;
        if (positions)
            learned = positions + static_cast<size_t>(t - 20) * D;
    } else {
        learned = tokens + static_cast<size_t>(t) * D;
        /* 8 class tokens, then 4 omega, 2 t_min, 2 t_max, 4 time: scalars 0, 1, 2, 3. */
        const int scalar = t < 12 ? 0 : t < 14 ? 1 : t < 16 ? 2 : 3;
        added = t < 8 ? classes + static_cast<size_t>(labels[b]) * D
                      : scalars + (static_cast<size_t>(scalar) * B + b) * D;
    }
    if (D % 4 == 0) {
        for (int i = static_cast<int>(threadIdx.x) * 4; i < D; i += THREADS * 4) {
            float4 v = *reinterpret_cast<const float4 *>(added + i);
            if (learned) {
                const float4 l = *reinterpret_cast<const float4 *>(learned + i);
                v.x += l.x, v.y += l.y, v.z += l.z, v.w += l.w;
            }
            *reinterpret_cast<float4 *>(out + i) = v;
        }
    } else {
        for (int i = static_cast<int>(threadIdx.x); i < D; i += THREADS)
            out[i] = added[i] + (learned ? learned[i] : 0.0f);
    }
}

static __global__ void euler(float *z, const float *out, int predicts_x, const float *dt, int total,
                             int C, int S, int p)
{
    const int i = static_cast<int>(blockIdx.x) * THREADS + static_cast<int>(threadIdx.x);
    if (i >= total)
        return;
    const int x = i % S, y = i / S % S, c = i / (S * S) % C, b = i / (S * S * C);
    const int side = S / p;
    const int patch = (b * side + y / p) * side + x / p;
    const float o = out[((static_cast<size_t>(patch) * p + y % p) * p + x % p) * C + c];
    z[i] -= dt[b] * (predicts_x ? z[i] - o : o);
}

extern "C" cudaError_t k_scalar_embed(float *dst, const float *values, int rows,
                                      cudaStream_t stream)
{
    if (rows < 1 || rows > 1 << 22)
        return cudaErrorInvalidValue;
    IMF_LAUNCH(scalar_embed, blocks_for(static_cast<size_t>(rows) * 128, THREADS), THREADS, 0,
               stream, dst, values, rows);
    return cudaGetLastError();
}

extern "C" cudaError_t k_patchify(void *dst, enum k_type type, const float *z, int B, int C, int S,
                                  int p, cudaStream_t stream)
{
    const size_t total = static_cast<size_t>(B) * C * S * S;
    if (B < 1 || p < 1 || S % p != 0 || total > 0x40000000u)
        return cudaErrorInvalidValue;
    if (type == K_BF16)
        IMF_LAUNCH((patchify<bf16>), blocks_for(total, THREADS), THREADS, 0, stream,
                   static_cast<bf16 *>(dst), z, static_cast<int>(total), C, S, p);
    else
        IMF_LAUNCH((patchify<float>), blocks_for(total, THREADS), THREADS, 0, stream,
                   static_cast<float *>(dst), z, static_cast<int>(total), C, S, p);
    return cudaGetLastError();
}

extern "C" cudaError_t k_assemble(float *x, const float *tokens, const float *classes,
                                  const int32_t *labels, const float *scalars, const float *patches,
                                  const float *positions, int B, int P, int D, cudaStream_t stream)
{
    if (B < 1 || P < 1 || D < 1)
        return cudaErrorInvalidValue;
    IMF_LAUNCH(assemble, static_cast<unsigned>(B) * static_cast<unsigned>(20 + P), THREADS, 0,
               stream, x, tokens, classes, labels, scalars, patches, positions, B, P, D);
    return cudaGetLastError();
}

extern "C" cudaError_t k_euler(float *z, const float *out, int predicts_x, const float *dt, int B,
                               int C, int S, int p, cudaStream_t stream)
{
    const size_t total = static_cast<size_t>(B) * C * S * S;
    if (B < 1 || p < 1 || S % p != 0 || total > 0x40000000u)
        return cudaErrorInvalidValue;
    IMF_LAUNCH(euler, blocks_for(total, THREADS), THREADS, 0, stream, z, out, predicts_x, dt,
               static_cast<int>(total), C, S, p);
    return cudaGetLastError();
}
