/* dst (M, N) [+]= x (M, K) w (N, K)^T + bias for every size and alignment: what runs where cuBLASLt
 * has no algorithm (odd N), and the naive matrix product that is kept. 32 x 32 outputs a block, 2 x
 * 2 a thread, tiles of 32 k through shared memory padded by one column against bank conflicts; k
 * runs in one order for every M, so a row's bits do not depend on the rows around it. */
#include "common.cuh"

static const int TILE = 32;
static const int THREADS = 256;

template <typename T, typename D>
static __global__ void __launch_bounds__(THREADS)
    linear(D *dst, const T *x, const T *w, const float *bias, int M, int N, int K, int ldx, int ldw,
           int add)
{
    IMF_SHARED(float, X, [TILE][TILE + 1]);
    IMF_SHARED(float, W, [TILE][TILE + 1]);
    const int tid = static_cast<int>(threadIdx.x), tx = tid % 16, ty = tid / 16;
    const int n0 = static_cast<int>(blockIdx.x) * TILE, m0 = static_cast<int>(blockIdx.y) * TILE;
    float sum[2][2] = {};
    for (int k0 = 0; k0 < K; k0 += TILE) {
        for (int i = tid; i < TILE * TILE; i += THREADS) {
            const int row = i / TILE, k = i % TILE;
            const bool inside = k0 + k < K;
            X[row][k] = inside && m0 + row < M
                            ? to_float(x[static_cast<size_t>(m0 + row) * ldx + k0 + k])
                            : 0.0f;
            W[row][k] = inside && n0 + row < N
                            ? to_float(w[static_cast<size_t>(n0 + row) * ldw + k0 + k])
                            : 0.0f;
        }
        __syncthreads();
#pragma unroll 8
        for (int k = 0; k < TILE; k++) {
            const float a0 = X[ty][k], a1 = X[ty + 16][k], b0 = W[tx][k], b1 = W[tx + 16][k];
            sum[0][0] += a0 * b0, sum[0][1] += a0 * b1;
            sum[1][0] += a1 * b0, sum[1][1] += a1 * b1;
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int m = m0 + ty + 16 * i, n = n0 + tx + 16 * j;
            if (m >= M || n >= N)
                continue;
            const size_t at = static_cast<size_t>(m) * N + n;
            float y = sum[i][j] + (bias ? bias[n] : 0.0f);
            if (add)
                y += to_float(dst[at]);
            dst[at] = from_float<D>(y);
        }
    }
}

extern "C" cudaError_t k_linear(void *dst, enum k_type dst_type, const void *x, const void *w,
                                enum k_type type, const float *bias, int M, int N, int K, int ldx,
                                int ldw, int add, cudaStream_t stream)
{
    if (M < 1 || N < 1 || K < 1 || M > 65535 * TILE)
        return cudaErrorInvalidValue;
    const dim3 grid(blocks_for(static_cast<size_t>(N), TILE),
                    blocks_for(static_cast<size_t>(M), TILE));
    const bf16 *xb = static_cast<const bf16 *>(x), *wb = static_cast<const bf16 *>(w);
    const float *xf = static_cast<const float *>(x), *wf = static_cast<const float *>(w);
    bf16 *db = static_cast<bf16 *>(dst);
    float *df = static_cast<float *>(dst);
    if (type == K_BF16 && dst_type == K_BF16)
        IMF_LAUNCH((linear<bf16, bf16>), grid, THREADS, 0, stream, db, xb, wb, bias, M, N, K, ldx,
                   ldw, add);
    else if (type == K_BF16)
        IMF_LAUNCH((linear<bf16, float>), grid, THREADS, 0, stream, df, xb, wb, bias, M, N, K, ldx,
                   ldw, add);
    else if (dst_type == K_BF16)
        IMF_LAUNCH((linear<float, bf16>), grid, THREADS, 0, stream, db, xf, wf, bias, M, N, K, ldx,
                   ldw, add);
    else
        IMF_LAUNCH((linear<float, float>), grid, THREADS, 0, stream, df, xf, wf, bias, M, N, K, ldx,
                   ldw, add);
    return cudaGetLastError();
}
