/* Attention of MiT and pMF: RMSNorm and rotary embedding of q and k, softmax(q k^T / sqrt(HS)) v,
 * heads of HS = 64 or 80, a template parameter.
 *
 * bfloat16: one block of six warps per head and sample. K (normed and rotated on its way) and V of
 * the whole head lie in shared memory, 276 tokens = 72 or 90 KiB, swizzled (`chunk_at`) so that
 * fills, ldmatrix of K and transposed ldmatrix of V are free of bank conflicts. Each warp takes 16
 * queries at a time and walks the keys by 32 with an online softmax, so that the scores never leave
 * registers. q and k are read once, normed in float32 and rounded once. Heads too long for shared
 * memory (more than 384 or 288 tokens) walk tiles instead, the queries spread over grid.z; small
 * batches spread the queries over grid.z too, to fill the GPU. An output's arithmetic is the same
 * in all three cases: the order of its keys is.
 *
 * float32: one thread per query, tiles of 32 keys broadcast from shared memory; for parity, not
 * speed. */
#include "common.cuh"

static const int WARPS = 6;
static const int STEP = 32; /* keys per softmax step */
static const float EPS = 1e-6f;

template <int HS> struct head;

template <> struct head<64> {
    static const int lanes = 8;      /* that fill a row of K in bfloat16, 8 elements each */
    static const int f32_lanes = 16; /* and in float32, 4 elements each */
    static const int max_keys = 384; /* resident: 2 x 48 KiB, one block on the smallest sm_8x */
    static constexpr float scale = 0.125f;
};

template <> struct head<80> {
    static const int lanes = 16; /* 10 of them have work: a sum wants a power of two */
    static const int f32_lanes = 32;
    static const int max_keys = 288; /* 2 x 45 KiB */
    static constexpr float scale = 0.11180339887498949f;
};

/* The change to base two, folded into q with the head's scale. */
static const float LOG2_E = 1.4426950408889634f;

/* Rotates the pair (a, b) by the token's angle. */
IMF_DEVICE void rotate(float &a, float &b, float cosine, float sine)
{
    const float x = a;
    a = x * cosine - b * sine;
    b = x * sine + b * cosine;
}

/* Sum over each group of `width` neighbouring lanes; every lane of the warp calls it. */
template <int width> IMF_DEVICE float group_sum(float x)
{
#pragma unroll
    for (int offset = width / 2; offset > 0; offset >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

/* 16-byte chunk of a row. Eight rows must not meet in a bank. Rows of 64 begin in the same one:
 * chunks are xored with row % 8. Rows of 80 begin two chunks further each, so that only every
 * fourth meets: swapping neighbours in every other four rows is enough. */
template <int HS> IMF_DEVICE bf16 *chunk_at(bf16 *tile, int row, int chunk)
{
    const int swizzle = HS == 64 ? row & 7 : row >> 2 & 1;
    return tile + row * HS + ((chunk ^ swizzle) << 3);
}

/* Fills keys first..first + count - 1 (count a multiple of 32); rows past the end become zero. */
template <int HS>
IMF_DEVICE void load_keys_values(bf16 *K, bf16 *V, const bf16 *qkv, const float *k_norm,
                                 const float *rope, int first, int count, int T, int stride)
{
    const int LANES = head<HS>::lanes;
    const int tid = static_cast<int>(threadIdx.x);
    const int chunk = tid % LANES; /* columns 8 chunk .. + 7 of the head */
    const bool works = chunk < HS / 8;
    for (int i = tid; works && i < count * LANES; i += WARPS * 32) {
        const int row = i / LANES, token = first + row;
        const bool inside = token < T;
        const bf16 *v = qkv + static_cast<size_t>(inside ? token : 0) * stride * 3 + 2 * stride;
        cp_async16(chunk_at<HS>(V, row, chunk), v + chunk * 8, inside ? 16 : 0);
    }
    cp_async_commit();
    float g[8] = {};
    if (works)
        load8(g, k_norm + chunk * 8);
    for (int i = tid; i < count * LANES; i += WARPS * 32) {
        const int row = i / LANES, token = first + row;
        const bool inside = token < T && works;
        float k[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        if (inside)
            load8(k, qkv + static_cast<size_t>(token) * stride * 3 + stride + chunk * 8);
        float squares = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++)
            squares += k[j] * k[j];
        const float r = rsqrtf(group_sum<LANES>(squares) * (1.0f / HS) + EPS);
        if (inside) {
            const float *angle = rope + token * (HS / 2) + chunk * 4;
            const float4 cosine = *reinterpret_cast<const float4 *>(angle);
            const float4 sine = *reinterpret_cast<const float4 *>(angle + T * (HS / 2));
#pragma unroll
            for (int j = 0; j < 8; j++)
                k[j] *= r * g[j];
            rotate(k[0], k[1], cosine.x, sine.x);
            rotate(k[2], k[3], cosine.y, sine.y);
            rotate(k[4], k[5], cosine.z, sine.z);
            rotate(k[6], k[7], cosine.w, sine.w);
        }
        if (works)
            store8(chunk_at<HS>(K, row, chunk), k);
    }
    cp_async_wait<0>();
}

/* A fragments of 16 queries: lane (g, t) holds columns 16 s + 2t, +1, +8, +9 of rows g and g + 8.
 */
template <int HS>
IMF_DEVICE void load_queries(uint32_t (&q)[HS / 16][1][4], const bf16 *qkv, const float *q_norm,
                             const float *rope, int first, int T, int stride)
{
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int token = first + g + 8 * half;
        const bool inside = token < T;
        const bf16 *row = qkv + static_cast<size_t>(inside ? token : 0) * stride * 3;
        float x[HS / 8][2], squares = 0.0f;
#pragma unroll
        for (int i = 0; i < HS / 8; i++) {
            const uint32_t pair =
                inside ? *reinterpret_cast<const uint32_t *>(row + 8 * i + 2 * t) : 0u;
            x[i][0] = bf16_lo(pair), x[i][1] = bf16_hi(pair);
            squares += x[i][0] * x[i][0] + x[i][1] * x[i][1];
        }
        const float r =
            rsqrtf(group_sum<4>(squares) * (1.0f / HS) + EPS) * head<HS>::scale * LOG2_E;
#pragma unroll
        for (int i = 0; i < HS / 8; i++) {
            const int c = 8 * i + 2 * t;
            const int angle = (inside ? token : 0) * (HS / 2) + c / 2;
            x[i][0] *= r * q_norm[c];
            x[i][1] *= r * q_norm[c + 1];
            rotate(x[i][0], x[i][1], rope[angle], rope[T * (HS / 2) + angle]);
            q[i / 2][0][half + 2 * (i % 2)] = pack_bf16x2(x[i][0], x[i][1]);
        }
    }
}

/* One softmax step: 16 queries against keys `row`.. + 31 of the resident tile; of those
 * at the end only `valid` are real. */
template <int HS>
IMF_DEVICE void attend(float (&out)[1][HS / 8][4], float (&highest)[2], float (&total)[2],
                       const uint32_t (&q)[HS / 16][1][4], bf16 *K, bf16 *V, int row, int valid)
{
    const int lane = static_cast<int>(threadIdx.x) % 32, t = lane % 4;
    float s[1][4][4] = {};
#pragma unroll
    for (int step = 0; step < HS / 16; step++) {
        uint32_t k[4][2];
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
            uint32_t r[4];
            ldmatrix_x4(r, chunk_at<HS>(K, row + pair * 16 + (lane & 7) + (lane & 16) / 2,
                                        step * 2 + (lane >> 3 & 1)));
            k[2 * pair][0] = r[0], k[2 * pair][1] = r[1];
            k[2 * pair + 1][0] = r[2], k[2 * pair + 1][1] = r[3];
        }
        mma_bf16_tile(s, q[step], k);
    }
    if (valid < STEP) { /* the last step only */
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (8 * j + 2 * t + e % 2 >= valid)
                    s[0][j][e] = -INFINITY;
    }
    float scale[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float top = highest[half];
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                top = fmaxf(top, s[0][j][2 * half + e]);
            }
        }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        scale[half] = fast_exp2(highest[half] - top);
        highest[half] = top;
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                s[0][j][2 * half + e] = fast_exp2(s[0][j][2 * half + e] - top);
                sum += s[0][j][2 * half + e];
            }
        }
        total[half] = total[half] * scale[half] + sum; /* of this lane's columns */
    }
#pragma unroll
    for (int j = 0; j < HS / 8; j++) {
        out[0][j][0] *= scale[0], out[0][j][1] *= scale[0];
        out[0][j][2] *= scale[1], out[0][j][3] *= scale[1];
    }
#pragma unroll
    for (int step = 0; step < 2; step++) {
        /* The accumulators of S are the A fragment of P as they stand. */
        const uint32_t p[1][4] = {{pack_bf16x2(s[0][2 * step][0], s[0][2 * step][1]),
                                   pack_bf16x2(s[0][2 * step][2], s[0][2 * step][3]),
                                   pack_bf16x2(s[0][2 * step + 1][0], s[0][2 * step + 1][1]),
                                   pack_bf16x2(s[0][2 * step + 1][2], s[0][2 * step + 1][3])}};
        uint32_t v[HS / 8][2];
#pragma unroll
        for (int pair = 0; pair < HS / 16; pair++) {
            uint32_t r[4];
            ldmatrix_x4_trans(
                r, chunk_at<HS>(V, row + step * 16 + (lane & 15), pair * 2 + (lane >> 4)));
            v[2 * pair][0] = r[0], v[2 * pair][1] = r[1];
            v[2 * pair + 1][0] = r[2], v[2 * pair + 1][1] = r[3];
        }
        mma_bf16_tile(out, p, v);
    }
}

template <int HS>
IMF_DEVICE void store_output(bf16 *dst, const float (&out)[1][HS / 8][4], float (&total)[2],
                             int first, int T, int stride)
{
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float r = 1.0f / group_sum<4>(total[half]);
        const int token = first + g + 8 * half;
        if (token >= T)
            continue;
        bf16 *row = dst + static_cast<size_t>(token) * stride;
#pragma unroll
        for (int j = 0; j < HS / 8; j++)
            *reinterpret_cast<uint32_t *>(row + 8 * j + 2 * t) =
                pack_bf16x2(out[0][j][2 * half] * r, out[0][j][2 * half + 1] * r);
    }
}

/* grid (NH, B, query parts); keys: keys per tile, a multiple of 32, the whole head when it fits. */
template <int HS>
static __global__ void __launch_bounds__(WARPS * 32)
    attention_bf16(bf16 *dst, const bf16 *qkv, const float *q_norm, const float *k_norm,
                   const float *rope, int T, int NH, int keys)
{
    IMF_DYNAMIC_SHARED(bf16, K);
    bf16 *V = K + keys * HS;
    const int stride = NH * HS;
    qkv += static_cast<size_t>(blockIdx.y) * T * 3 * stride + blockIdx.x * HS;
    dst += static_cast<size_t>(blockIdx.y) * T * stride + blockIdx.x * HS;
    const bool resident = keys >= T;
    if (resident) {
        load_keys_values<HS>(K, V, qkv, k_norm, rope, 0, keys, T, stride);
        __syncthreads();
    }
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int parts = (T + 16 * WARPS - 1) / (16 * WARPS);
    for (int part = static_cast<int>(blockIdx.z); part < parts;
         part += static_cast<int>(gridDim.z)) {
        const int first = (part * WARPS + warp) * 16;
        uint32_t q[HS / 16][1][4];
        load_queries<HS>(q, qkv, q_norm, rope, first, T, stride);
        float out[1][HS / 8][4] = {}, highest[2] = {-INFINITY, -INFINITY}, total[2] = {};
        for (int tile = 0; tile < T; tile += keys) {
            if (!resident) {
                __syncthreads();
                load_keys_values<HS>(K, V, qkv, k_norm, rope, tile, keys, T, stride);
                __syncthreads();
            }
            if (first < T) /* the same for a whole warp */
                for (int row = 0; row < keys && tile + row < T; row += STEP)
                    attend<HS>(out, highest, total, q, K, V, row, T - tile - row);
        }
        store_output<HS>(dst, out, total, first, T, stride);
    }
}

static const int F32_THREADS = 128;
static const int F32_KEYS = 32;

/* grid (NH, B, ceil(T / 128)). */
template <int HS>
static __global__ void __launch_bounds__(F32_THREADS)
    attention_f32(float *dst, const float *qkv, const float *q_norm, const float *k_norm,
                  const float *rope, int T, int NH)
{
    const int LANES = head<HS>::f32_lanes;
    IMF_SHARED(float, K, [F32_KEYS][HS]);
    IMF_SHARED(float, V, [F32_KEYS][HS]);
    const int tid = static_cast<int>(threadIdx.x), stride = NH * HS;
    qkv += static_cast<size_t>(blockIdx.y) * T * 3 * stride + blockIdx.x * HS;
    const int token = static_cast<int>(blockIdx.z) * F32_THREADS + tid;
    const int mine = token < T ? token : 0;
    float q[HS], out[HS], squares = 0.0f;
    const float *row = qkv + static_cast<size_t>(mine) * 3 * stride;
#pragma unroll
    for (int c = 0; c < HS; c++) {
        q[c] = row[c];
        out[c] = 0.0f;
        squares += q[c] * q[c];
    }
    const float r = head<HS>::scale / sqrtf(squares * (1.0f / HS) + EPS);
#pragma unroll
    for (int c = 0; c < HS; c += 2) {
        q[c] *= r * q_norm[c];
        q[c + 1] *= r * q_norm[c + 1];
        rotate(q[c], q[c + 1], rope[mine * (HS / 2) + c / 2], rope[(T + mine) * (HS / 2) + c / 2]);
    }
    float highest = -INFINITY, total = 0.0f;
    for (int tile = 0; tile < T; tile += F32_KEYS) {
        __syncthreads();
        for (int i = tid; i < F32_KEYS * LANES; i += F32_THREADS) {
            const int key = i / LANES, c = i % LANES * 4;
            const bool works = c < HS, inside = tile + key < T && works;
            const float *at =
                qkv + static_cast<size_t>(inside ? tile + key : 0) * 3 * stride + (works ? c : 0);
            float4 k = *reinterpret_cast<const float4 *>(at + stride);
            const float4 v = *reinterpret_cast<const float4 *>(at + 2 * stride);
            const float squared = works ? k.x * k.x + k.y * k.y + k.z * k.z + k.w * k.w : 0.0f;
            const float s = 1.0f / sqrtf(group_sum<LANES>(squared) * (1.0f / HS) + EPS);
            if (!works)
                continue;
            const int angle = (inside ? tile + key : 0) * (HS / 2) + c / 2;
            k.x *= s * k_norm[c], k.y *= s * k_norm[c + 1];
            k.z *= s * k_norm[c + 2], k.w *= s * k_norm[c + 3];
            rotate(k.x, k.y, rope[angle], rope[T * (HS / 2) + angle]);
            rotate(k.z, k.w, rope[angle + 1], rope[T * (HS / 2) + angle + 1]);
            *reinterpret_cast<float4 *>(&K[key][c]) = k;
            *reinterpret_cast<float4 *>(&V[key][c]) = v;
        }
        __syncthreads();
        const int count = T - tile < F32_KEYS ? T - tile : F32_KEYS;
        for (int key = 0; key < count; key++) {
            float s = 0.0f;
#pragma unroll
            for (int c = 0; c < HS; c += 4) {
                const float4 k = *reinterpret_cast<const float4 *>(&K[key][c]);
                s += q[c] * k.x + q[c + 1] * k.y + q[c + 2] * k.z + q[c + 3] * k.w;
            }
            const float top = fmaxf(highest, s);
            const float scale = expf(highest - top), p = expf(s - top);
            highest = top;
            total = total * scale + p;
#pragma unroll
            for (int c = 0; c < HS; c += 4) {
                const float4 v = *reinterpret_cast<const float4 *>(&V[key][c]);
                out[c] = out[c] * scale + p * v.x;
                out[c + 1] = out[c + 1] * scale + p * v.y;
                out[c + 2] = out[c + 2] * scale + p * v.z;
                out[c + 3] = out[c + 3] * scale + p * v.w;
            }
        }
    }
    if (token >= T)
        return;
    dst += (static_cast<size_t>(blockIdx.y) * T + token) * stride + blockIdx.x * HS;
#pragma unroll
    for (int c = 0; c < HS; c += 4)
        store4(dst + c, out[c] / total, out[c + 1] / total, out[c + 2] / total, out[c + 3] / total);
}

static const int SOFTMAX_THREADS = 256;

/* One block per row: largest, sum, quotient; the row comes from L2 the second and third time. */
static __global__ void __launch_bounds__(SOFTMAX_THREADS)
    softmax(float *dst, const float *src, int cols)
{
    IMF_SHARED(float, partial, [2][SOFTMAX_THREADS / 32]);
    const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
    src += static_cast<size_t>(blockIdx.x) * cols;
    dst += static_cast<size_t>(blockIdx.x) * cols;
    float top = -INFINITY;
    for (int c = tid; c < cols; c += SOFTMAX_THREADS)
        top = fmaxf(top, src[c]);
    top = warp_max(top);
    if (lane == 0)
        partial[0][warp] = top;
    __syncthreads();
    top = warp_max(partial[0][lane % (SOFTMAX_THREADS / 32)]);
    float sum = 0.0f;
    for (int c = tid; c < cols; c += SOFTMAX_THREADS)
        sum += expf(src[c] - top);
    sum = warp_sum(sum);
    if (lane == 0)
        partial[1][warp] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < SOFTMAX_THREADS / 32; i++)
        sum += partial[1][i];
    const float r = 1.0f / sum;
    for (int c = tid; c < cols; c += SOFTMAX_THREADS)
        dst[c] = expf(src[c] - top) * r;
}

template <int HS>
static cudaError_t launch_bf16(bf16 *dst, const bf16 *qkv, const float *q_norm, const float *k_norm,
                               const float *rope, int B, int T, int NH, cudaStream_t stream)
{
    const int step_bytes = 2 * STEP * HS * static_cast<int>(sizeof(bf16));
    int limit = 0;
    cudaError_t status = shared_limit(&limit);
    if (status != cudaSuccess)
        return status;
    const int fit = limit / step_bytes * STEP;
    const int most = fit < head<HS>::max_keys ? fit : head<HS>::max_keys;
    if (most < STEP)
        return cudaErrorInvalidValue;
    status = allow_shared(attention_bf16<HS>, most / STEP * step_bytes);
    if (status != cudaSuccess)
        return status;
    const int keys = T <= most ? (T + STEP - 1) / STEP * STEP : most;
    const int smem = keys / STEP * step_bytes;
    const int parts = (T + 16 * WARPS - 1) / (16 * WARPS);
    const bool one_block = T <= keys && B * NH >= 128;
    const dim3 grid(static_cast<unsigned>(NH), static_cast<unsigned>(B),
                    one_block ? 1u : static_cast<unsigned>(parts));
    IMF_LAUNCH((attention_bf16<HS>), grid, WARPS * 32, static_cast<size_t>(smem), stream, dst, qkv,
               q_norm, k_norm, rope, T, NH, keys);
    return cudaGetLastError();
}

template <int HS>
static cudaError_t launch(void *dst, const void *qkv, enum k_type type, const float *q_norm,
                          const float *k_norm, const float *rope, int B, int T, int NH,
                          cudaStream_t stream)
{
    if (type == K_BF16)
        return launch_bf16<HS>(static_cast<bf16 *>(dst), static_cast<const bf16 *>(qkv), q_norm,
                               k_norm, rope, B, T, NH, stream);
    const dim3 grid(static_cast<unsigned>(NH), static_cast<unsigned>(B),
                    blocks_for(static_cast<size_t>(T), F32_THREADS));
    IMF_LAUNCH((attention_f32<HS>), grid, F32_THREADS, 0, stream, static_cast<float *>(dst),
               static_cast<const float *>(qkv), q_norm, k_norm, rope, T, NH);
    return cudaGetLastError();
}

extern "C" cudaError_t k_attention(void *dst, const void *qkv, enum k_type type,
                                   const float *q_norm, const float *k_norm, const float *rope,
                                   int B, int T, int NH, int HS, cudaStream_t stream)
{
    if (B < 1 || B > 65535 || T < 1 || T > 1 << 20 || NH < 1 || NH > 65535)
        return cudaErrorInvalidValue;
    if (HS == 64)
        return launch<64>(dst, qkv, type, q_norm, k_norm, rope, B, T, NH, stream);
    if (HS == 80)
        return launch<80>(dst, qkv, type, q_norm, k_norm, rope, B, T, NH, stream);
    return cudaErrorInvalidValue;
}

extern "C" cudaError_t k_softmax(float *dst, const float *src, int rows, int cols,
                                 cudaStream_t stream)
{
    if (rows < 1 || cols < 1)
        return cudaErrorInvalidValue;
    IMF_LAUNCH(softmax, static_cast<unsigned>(rows), SOFTMAX_THREADS, 0, stream, dst, src, cols);
    return cudaGetLastError();
}
