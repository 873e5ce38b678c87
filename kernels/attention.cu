/* Attention of MiT and pMF: RMSNorm and rotary embedding of q and k, softmax(q k^T / sqrt(HS)) v,
 * heads of HS = 64 or 80, a template parameter.
 *
 * bfloat16: one block per head and sample. K (normed and rotated on its way) and V of the whole head
 * lie in shared memory, 276 tokens = 72 or 90 KiB, swizzled (`chunk_at`) so that fills, ldmatrix of
 * K and transposed ldmatrix of V are free of bank conflicts. Each warp takes 16 or 32 queries (one
 * or two TILES) at a time and walks the keys by 32 with an online softmax, so that the scores never
 * leave registers. Two tiles read K and V from shared memory, which is what bounds the kernel, half
 * as often: three warps of them are a block, of which three fit an SM; six warps of one tile are
 * for grids too small to fill the GPU. q and k are read once, normed in float32 and rounded once.
 * Heads too long for shared memory (more than 384 or 288 tokens) walk tiles of keys instead, the
 * queries spread over grid.z; small batches spread the queries over grid.z too. An output's
 * arithmetic is the same in all cases: the order of its keys is, and fmaf leaves the compiler no
 * choice of what to contract.
 *
 * float32: one thread per query, tiles of 32 keys broadcast from shared memory; for parity, not
 * speed. */
#include "common.cuh"

static const int STEP = 32; /* keys per softmax step */
static const int TILE = 16; /* queries */
static const int PART = 96; /* queries that a block takes at a time */
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
    a = fmaf(x, cosine, -(b * sine));
    b = fmaf(x, sine, b * cosine);
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

/* Norms and rotates columns 8 chunk .. + 7 of a key and stores them at `dst`; lanes without columns and keys past
 * the end have zeros. */
template <int HS>
IMF_DEVICE void store_key(bf16 *dst, float (&k)[8], const float (&g)[8], const float *rope,
                          int token, int chunk, int T)
{
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; j++)
        squares = fmaf(k[j], k[j], squares);
    const float r = rsqrtf(fmaf(group_sum<head<HS>::lanes>(squares), 1.0f / HS, EPS));
    if (chunk >= HS / 8)
        return;
    if (token < T) {
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
    store8(dst, k);
}

/* Fills keys first..first + count - 1, with PIPELINE rows of K on their way at a time (count a multiple of 32); rows past the end become zero. */
template <int HS, int THREADS, int PIPELINE>
IMF_DEVICE void load_keys_values(bf16 *K, bf16 *V, const bf16 *qkv, const float *k_norm,
                                 const float *rope, int first, int count, int T, int stride)
{
    const int LANES = head<HS>::lanes;
    const int tid = static_cast<int>(threadIdx.x);
    const int chunk = tid % LANES; /* columns 8 chunk .. + 7 of the head */
    const bool works = chunk < HS / 8;
    for (int i = tid; works && i < count * LANES; i += THREADS) {
        const int row = i / LANES, token = first + row;
        const bool inside = token < T;
        const bf16 *v = qkv + static_cast<size_t>(inside ? token : 0) * stride * 3 + 2 * stride;
        cp_async16(chunk_at<HS>(V, row, chunk), v + chunk * 8, inside ? 16 : 0);
    }
    cp_async_commit();
    float g[8] = {};
    if (works)
        load8(g, k_norm + chunk * 8);
    for (int begin = tid; begin < count * LANES; begin += PIPELINE * THREADS) {
        float k[PIPELINE][8] = {};
#pragma unroll
        for (int p = 0; p < PIPELINE; p++) {
            const int row = (begin + p * THREADS) / LANES, token = first + row;
            if (works && row < count && token < T)
                load8(k[p], qkv + static_cast<size_t>(token) * stride * 3 + stride + chunk * 8);
        }
#pragma unroll
        for (int p = 0; p < PIPELINE; p++) {
            const int row = (begin + p * THREADS) / LANES;
            if (row < count) /* the same for a whole warp */
                store_key<HS>(chunk_at<HS>(K, row, chunk), k[p], g, rope, first + row, chunk, T);
        }
    }
    cp_async_wait<0>();
}

/* A fragments of TILES x 16 queries: lane (g, t) holds columns 16 s + 2t, +1, +8, +9 of rows g and g + 8. */
template <int HS, int TILES>
IMF_DEVICE void load_queries(uint32_t (&q)[HS / 16][TILES][4], const bf16 *qkv, const float *q_norm,
                             const float *rope, int first, int T, int stride)
{
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int half = 0; half < 2 * TILES; half++) {
        const int token = first + g + 8 * half;
        const bool inside = token < T;
        const bf16 *row = qkv + static_cast<size_t>(inside ? token : 0) * stride * 3;
        float x[HS / 8][2], squares = 0.0f;
#pragma unroll
        for (int i = 0; i < HS / 8; i++) {
            const uint32_t pair =
                inside ? *reinterpret_cast<const uint32_t *>(row + 8 * i + 2 * t) : 0u;
            x[i][0] = bf16_lo(pair), x[i][1] = bf16_hi(pair);
            squares = fmaf(x[i][0], x[i][0], squares);
            squares = fmaf(x[i][1], x[i][1], squares);
        }
        const float r =
            rsqrtf(fmaf(group_sum<4>(squares), 1.0f / HS, EPS)) * (head<HS>::scale * LOG2_E);
#pragma unroll
        for (int i = 0; i < HS / 8; i++) {
            const int c = 8 * i + 2 * t;
            const int angle = (inside ? token : 0) * (HS / 2) + c / 2;
            x[i][0] *= r * q_norm[c];
            x[i][1] *= r * q_norm[c + 1];
            rotate(x[i][0], x[i][1], rope[angle], rope[T * (HS / 2) + angle]);
            q[i / 2][half / 2][half % 2 + 2 * (i % 2)] = pack_bf16x2(x[i][0], x[i][1]);
        }
    }
}

/* Half a tile of scores, 8 queries, becomes weights: `s` the scores of this lane's columns, `top` the highest so far
 * and `total` the sum of weights. Returns what earlier sums are to be multiplied by. */
IMF_DEVICE float weigh(float (&s)[4][4], int half, float &highest, float &total)
{
    float top = highest;
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++)
            top = fmaxf(top, s[j][2 * half + e]);
    }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    const float scale = fast_exp2(highest - top);
    highest = top;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            s[j][2 * half + e] = fast_exp2(s[j][2 * half + e] - top);
            sum += s[j][2 * half + e];
        }
    }
    total = fmaf(total, scale, sum); /* of this lane's columns */
    return scale;
}

/* One softmax step: a warp's queries against keys `row`.. + 31 of the resident tile; of those
 * at the end only `valid` are real. */
template <int HS, int TILES>
IMF_DEVICE void attend(float (&out)[TILES][HS / 8][4], float (&highest)[TILES][2],
                       float (&total)[TILES][2], const uint32_t (&q)[HS / 16][TILES][4], bf16 *K,
                       bf16 *V, int row, int valid)
{
    const int lane = static_cast<int>(threadIdx.x) % 32, t = lane % 4;
    float s[TILES][4][4] = {};
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
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    if (8 * j + 2 * t + e % 2 >= valid)
                        s[i][j][e] = -INFINITY;
    }
    uint32_t p[2][TILES][4];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        const float scale[2] = {weigh(s[i], 0, highest[i][0], total[i][0]),
                                weigh(s[i], 1, highest[i][1], total[i][1])};
        /* The accumulators of S are the A fragment of P as they stand. */
#pragma unroll
        for (int e = 0; e < 8; e++)
            p[e / 4][i][e % 4] = pack_bf16x2(s[i][e / 2][e % 2 * 2], s[i][e / 2][e % 2 * 2 + 1]);
#pragma unroll
        for (int j = 0; j < HS / 8; j++) {
            out[i][j][0] *= scale[0], out[i][j][1] *= scale[0];
            out[i][j][2] *= scale[1], out[i][j][3] *= scale[1];
        }
    }
#pragma unroll
    for (int step = 0; step < 2; step++) {
        uint32_t v[HS / 8][2];
#pragma unroll
        for (int pair = 0; pair < HS / 16; pair++) {
            uint32_t r[4];
            ldmatrix_x4_trans(
                r, chunk_at<HS>(V, row + step * 16 + (lane & 15), pair * 2 + (lane >> 4)));
            v[2 * pair][0] = r[0], v[2 * pair][1] = r[1];
            v[2 * pair + 1][0] = r[2], v[2 * pair + 1][1] = r[3];
        }
        mma_bf16_tile(out, p[step], v);
    }
}

template <int HS, int TILES>
IMF_DEVICE void store_output(bf16 *dst, const float (&out)[TILES][HS / 8][4],
                             float (&total)[TILES][2], int first, int T, int stride)
{
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int half = 0; half < 2 * TILES; half++) {
        const float r = 1.0f / group_sum<4>(total[half / 2][half % 2]);
        const int token = first + g + 8 * half;
        if (token >= T)
            continue;
        bf16 *row = dst + static_cast<size_t>(token) * stride;
#pragma unroll
        for (int j = 0; j < HS / 8; j++)
            *reinterpret_cast<uint32_t *>(row + 8 * j + 2 * t) = pack_bf16x2(
                out[half / 2][j][half % 2 * 2] * r, out[half / 2][j][half % 2 * 2 + 1] * r);
    }
}

/* Blocks whose warps take so many tiles each: of two tiles three to an SM, where shared memory has room for
 * them and registers do not spill. */
template <int HS, int TILES> struct block {
    static const int threads = PART / (TILE * TILES) * 32;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
    static const int an_sm = TILES == 2 && HS == 64 ? 3 : 2;
#else
    static const int an_sm = 2;
#endif
};

/* grid (NH, B, query parts); keys: keys per tile, a multiple of 32, the whole head when it fits; two
 * TILES are for grid.z = 1 and heads that fit only. */
template <int HS, int TILES>
static __global__ void __launch_bounds__(block<HS, TILES>::threads, block<HS, TILES>::an_sm)
    attention_bf16(bf16 *dst, const bf16 *qkv, const float *q_norm, const float *k_norm,
                   const float *rope, int T, int NH, int keys)
{
    const int THREADS = block<HS, TILES>::threads;
    IMF_DYNAMIC_SHARED(bf16, K);
    bf16 *V = K + keys * HS;
    const int stride = NH * HS;
    qkv += static_cast<size_t>(blockIdx.y) * T * 3 * stride + blockIdx.x * HS;
    const bool resident = TILES == 2 || keys >= T;
    if (resident) {
        load_keys_values<HS, THREADS, 4>(K, V, qkv, k_norm, rope, 0, keys, T, stride);
        __syncthreads();
    }
    for (int part = TILES == 2 ? 0 : static_cast<int>(blockIdx.z) * PART; part < T;
         part += TILES == 2 ? PART : static_cast<int>(gridDim.z) * PART) {
        const int first = part + thread_anew() / 32 * (TILES * TILE);
        uint32_t q[HS / 16][TILES][4];
        load_queries<HS, TILES>(q, qkv, q_norm, rope, first, T, stride);
        float out[TILES][HS / 8][4] = {}, highest[TILES][2], total[TILES][2] = {};
#pragma unroll
        for (int i = 0; i < TILES; i++)
            highest[i][0] = highest[i][1] = -INFINITY;
        for (int tile = 0; tile < T; tile += resident ? T : keys) {
            if (!resident) {
                __syncthreads();
                load_keys_values<HS, THREADS, 1>(K, V, qkv, k_norm, rope, tile, keys, T, stride);
                __syncthreads();
            }
            if (TILES == 2 || first < T) /* the same for a whole warp */
                for (int row = 0; (TILES == 2 || row < keys) && tile + row < T; row += STEP)
                    attend<HS, TILES>(out, highest, total, q, K, V, row, T - tile - row);
        }
        store_output<HS, TILES>(dst + static_cast<size_t>(blockIdx.y) * T * stride +
                                    blockIdx.x * HS,
                                out, total, part + thread_anew() / 32 * (TILES * TILE), T, stride);
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

/* Heads of which one block each leaves no SM idle, and of which two tiles a warp do not. */
static const int FULL_GRID = 128, FULL_WARPS = 256;

/* most: keys that a block of this GPU may have in shared memory. */
template <int HS, int TILES>
static cudaError_t launch_tiles(bf16 *dst, const bf16 *qkv, const float *q_norm,
                                const float *k_norm, const float *rope, int B, int T, int NH,
                                int most, cudaStream_t stream)
{
    const int step_bytes = 2 * STEP * HS * static_cast<int>(sizeof(bf16));
    const cudaError_t status = allow_shared(attention_bf16<HS, TILES>, most / STEP * step_bytes);
    if (status != cudaSuccess)
        return status;
    const int keys = T <= most ? (T + STEP - 1) / STEP * STEP : most;
    const bool one_block = T <= keys && B * NH >= FULL_GRID;
    const dim3 grid(static_cast<unsigned>(NH), static_cast<unsigned>(B),
                    one_block ? 1u : blocks_for(static_cast<size_t>(T), PART));
    IMF_LAUNCH((attention_bf16<HS, TILES>), grid, (block<HS, TILES>::threads),
               static_cast<size_t>(keys / STEP * step_bytes), stream, dst, qkv, q_norm, k_norm,
               rope, T, NH, keys);
    return cudaGetLastError();
}

template <int HS>
static cudaError_t launch_bf16(bf16 *dst, const bf16 *qkv, const float *q_norm, const float *k_norm,
                               const float *rope, int B, int T, int NH, cudaStream_t stream)
{
    const int step_bytes = 2 * STEP * HS * static_cast<int>(sizeof(bf16));
    int limit = 0;
    const cudaError_t status = shared_limit(&limit);
    if (status != cudaSuccess)
        return status;
    const int fit = limit / step_bytes * STEP;
    const int most = fit < head<HS>::max_keys ? fit : head<HS>::max_keys;
    if (most < STEP)
        return cudaErrorInvalidValue;
    if (T <= most && B * NH >= FULL_WARPS)
        return launch_tiles<HS, 2>(dst, qkv, q_norm, k_norm, rope, B, T, NH, most, stream);
    return launch_tiles<HS, 1>(dst, qkv, q_norm, k_norm, rope, B, T, NH, most, stream);
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
