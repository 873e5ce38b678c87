/* Convolutions of any kernel, stride and padding as implicit matrix products over NHWC: rows are
 * output pixels, columns output channels, k runs over (tap, input channel). Upsampling (nearest x2)
 * is folded into the loads. Bias, residual and ReLU happen in float32 in the epilogue.
 *
 * conv_gemm: tensor cores, 128 pixels x 64 channels x 32 k a block of four warps (64 x 32 each),
 * four stages of cp.async, 64-byte rows swizzled by (row / 2) % 4: no bank conflicts. Columns are
 * permuted at packing time so that a lane's accumulators are eight neighbouring channels: 16-byte
 * epilogue. conv_f32: the same product in plain float32, 64 x 64 x 16 a block, 4 x 4 a thread; for
 * parity. In both, k runs in one order whatever the number of pictures. conv3x3.cu does the
 * decoders' layers. */
#include "common.cuh"

static const int BM = 128, BN = 64, BK = 32, STAGES = 4;
static const int GEMM_THREADS = 128;
static const int STAGE_ELEMENTS = (BM + BN) * BK;

/* Walks k in steps of `step` channels: tap (ky, kx) and first channel c. */
struct tap_walk {
    int ky, kx, c;
};

IMF_DEVICE void tap_advance(tap_walk &at, int step, int Cp, int kw)
{
    at.c += step;
    while (at.c >= Cp) {
        at.c -= Cp;
        if (++at.kx == kw) {
            at.kx = 0;
            at.ky++;
        }
    }
}

/* Offset in a picture of the input pixel under tap (ky, kx), or -1 outside. */
IMF_DEVICE int input_offset(const k_conv &conv, int Cp, int y, int x)
{
    const int up = conv.upsample2x ? 1 : 0;
    if (y < 0 || x < 0 || y >= conv.h << up || x >= conv.w << up)
        return -1;
    return ((y >> up) * conv.w + (x >> up)) * Cp;
}

static __global__ void __launch_bounds__(GEMM_THREADS)
    conv_gemm(void *dst, const bf16 *src, const bf16 *weight, const float *bias,
              const bf16 *residual, k_conv conv, int Kp, int columns)
{
    IMF_DYNAMIC_SHARED(bf16, smem);
    const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
    const int Cp = K_PAD(conv.in), Op = K_PAD(conv.out);
    const int pixels = conv.n * conv.oh * conv.ow;
    const int m0 = static_cast<int>(blockIdx.x) / columns * BM;
    const int n0 = static_cast<int>(blockIdx.x) % columns * BN;

    /* This thread copies chunk `chunk` (8 k) of pixels tid / 4 + 32 i and of channels tid / 4 + 32
     * i. */
    const int chunk = tid % 4;
    const bf16 *picture[4];
    int top[4], left[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int pixel = m0 + tid / 4 + 32 * i;
        const int inside = pixel < pixels ? pixel : 0;
        const int picture_index = inside / (conv.oh * conv.ow);
        picture[i] = src + static_cast<size_t>(picture_index) * conv.h * conv.w * Cp;
        top[i] =
            pixel < pixels ? inside / conv.ow % conv.oh * conv.stride - conv.pad_h : -(1 << 24);
        left[i] = inside % conv.ow * conv.stride - conv.pad_w;
    }
    tap_walk at = {0, 0, 0};
    tap_advance(at, chunk * 8, Cp, conv.kw);

    auto load_stage = [&](int step) {
        bf16 *A = smem + step % STAGES * STAGE_ELEMENTS, *B = A + BM * BK;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = tid / 4 + 32 * i;
            const int offset =
                at.ky < conv.kh ? input_offset(conv, Cp, top[i] + at.ky, left[i] + at.kx) : -1;
            cp_async16(A + row * BK + ((chunk ^ (row >> 1 & 3)) << 3),
                       offset < 0 ? src : picture[i] + offset + at.c, offset < 0 ? 0 : 16);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = tid / 4 + 32 * i;
            cp_async16(B + row * BK + ((chunk ^ (row >> 1 & 3)) << 3),
                       weight + static_cast<size_t>(n0 + row) * Kp + step * BK + chunk * 8);
        }
        tap_advance(at, BK, Cp, conv.kw);
    };

    const int steps = Kp / BK;
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps)
            load_stage(s);
        cp_async_commit();
    }
    const int warp_m = warp / 2 * 64, warp_n = warp % 2 * 32;
    float acc[4][4][4] = {};
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps)
            load_stage(step + STAGES - 1);
        cp_async_commit();
        const bf16 *A = smem + step % STAGES * STAGE_ELEMENTS, *B = A + BM * BK;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t a[4][4], b[4][2];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = warp_m + i * 16 + (lane & 15);
                ldmatrix_x4(a[i],
                            A + row * BK + (((half * 2 + (lane >> 4)) ^ (row >> 1 & 3)) << 3));
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int row = warp_n + j * 16 + (lane & 7) + (lane & 16) / 2;
                uint32_t r[4];
                ldmatrix_x4(r,
                            B + row * BK + (((half * 2 + (lane >> 3 & 1)) ^ (row >> 1 & 3)) << 3));
                b[2 * j][0] = r[0], b[2 * j][1] = r[1];
                b[2 * j + 1][0] = r[2], b[2 * j + 1][1] = r[3];
            }
            mma_bf16_tile(acc, a, b);
        }
    }

    const int channel = n0 + warp_n + lane % 4 * 8;
    if (channel >= Op)
        return;
    float shift[8];
    load8(shift, bias + channel);
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int pixel = m0 + warp_m + i * 16 + lane / 4 + 8 * half;
            if (pixel >= pixels)
                continue;
            const size_t out = static_cast<size_t>(pixel) * Op + channel;
            float y[8], r[8] = {};
            if (residual)
                load8(r, residual + out);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                y[j] = acc[i][j / 2][2 * half + j % 2] + shift[j] + r[j];
                if (conv.relu)
                    y[j] = fmaxf(y[j], 0.0f);
            }
            store_as(dst, conv.out_f32, out, y);
        }
    }
}

static const int F32_TILE = 64, F32_K = 16, F32_THREADS = 256;
/* 66 floats a row: the transposing stores (4 k of 8 pixels a warp) and the pair loads hit every
 * bank once. */
static const int F32_ROW = F32_TILE + 2;

static __global__ void __launch_bounds__(F32_THREADS)
    conv_f32(float *dst, const float *src, const float *weight, const float *bias,
             const float *residual, k_conv conv, int columns)
{
    IMF_SHARED(float, A, [F32_K][F32_ROW]);
    IMF_SHARED(float, B, [F32_K][F32_TILE]);
    const int tid = static_cast<int>(threadIdx.x);
    const int Cp = K_PAD(conv.in), Op = K_PAD(conv.out), Np = columns * F32_TILE;
    const int pixels = conv.n * conv.oh * conv.ow, K = conv.kh * conv.kw * Cp;
    const int m0 = static_cast<int>(blockIdx.x) / columns * F32_TILE;
    const int n0 = static_cast<int>(blockIdx.x) % columns * F32_TILE;

    const int row = tid / 4, quad = tid % 4 * 4; /* copied of A: pixel row, k quad .. quad + 3 */
    const int mine = m0 + row < pixels ? m0 + row : 0;
    const float *picture =
        src + static_cast<size_t>(mine / (conv.oh * conv.ow)) * conv.h * conv.w * Cp;
    const int top =
        m0 + row < pixels ? mine / conv.ow % conv.oh * conv.stride - conv.pad_h : -(1 << 24);
    const int left = mine % conv.ow * conv.stride - conv.pad_w;
    tap_walk at = {0, 0, 0};
    tap_advance(at, quad, Cp, conv.kw);

    const int tx = tid % 16 * 4, ty = tid / 16 * 4;
    float acc[4][4] = {};
    for (int k0 = 0; k0 < K; k0 += F32_K) {
        const int offset = at.ky < conv.kh ? input_offset(conv, Cp, top + at.ky, left + at.kx) : -1;
        float4 x = make_float4(0, 0, 0, 0);
        if (offset >= 0)
            x = *reinterpret_cast<const float4 *>(picture + offset + at.c);
        tap_advance(at, F32_K, Cp, conv.kw);
        const int k = tid / 16;
        float4 w = make_float4(0, 0, 0, 0);
        if (k0 + k < K)
            w = *reinterpret_cast<const float4 *>(weight + static_cast<size_t>(k0 + k) * Np + n0 +
                                                  tx);
        __syncthreads();
        A[quad][row] = x.x, A[quad + 1][row] = x.y, A[quad + 2][row] = x.z, A[quad + 3][row] = x.w;
        *reinterpret_cast<float4 *>(&B[k][tx]) = w;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < F32_K; i++) {
            const float2 a01 = *reinterpret_cast<const float2 *>(&A[i][ty]);
            const float2 a23 = *reinterpret_cast<const float2 *>(&A[i][ty + 2]);
            const float4 b = *reinterpret_cast<const float4 *>(&B[i][tx]);
            const float a[4] = {a01.x, a01.y, a23.x, a23.y};
#pragma unroll
            for (int m = 0; m < 4; m++) {
                acc[m][0] += a[m] * b.x, acc[m][1] += a[m] * b.y;
                acc[m][2] += a[m] * b.z, acc[m][3] += a[m] * b.w;
            }
        }
    }
    const int channel = n0 + tx;
    if (channel >= Op)
        return;
#pragma unroll
    for (int m = 0; m < 4; m++) {
        const int pixel = m0 + ty + m;
        if (pixel >= pixels)
            break;
        const size_t out = static_cast<size_t>(pixel) * Op + channel;
        float4 r = make_float4(0, 0, 0, 0);
        if (residual)
            r = *reinterpret_cast<const float4 *>(residual + out);
        float y[4] = {acc[m][0] + bias[channel] + r.x, acc[m][1] + bias[channel + 1] + r.y,
                      acc[m][2] + bias[channel + 2] + r.z, acc[m][3] + bias[channel + 3] + r.w};
        if (conv.relu)
            for (int j = 0; j < 4; j++)
                y[j] = fmaxf(y[j], 0.0f);
        store4(dst + out, y[0], y[1], y[2], y[3]);
    }
}

/* ---- packing ---- */

static int pad_to(int x, int to)
{
    return (x + to - 1) / to * to;
}

/* Columns of a block of conv3x3. */
extern "C" int k_conv3x3_columns(int out)
{
    return out <= 16 ? 16 : out <= 64 ? 64 : 128;
}

/* Whether a block of conv3x3 has the shared memory that it needs for this shape, on this GPU. */
extern "C" bool k_conv3x3_fits(const struct k_conv *c);

/* Whether conv_sm90.cu does this shape on this GPU. */
extern "C" bool k_conv_sm90_takes(const struct k_conv *c);

/* Where logical output channel o stands among the matrix rows: within each 32 (16), accumulator
 * pairs 8 j + 2 t + e become channels 8 t + 2 j + e (4 t + 2 j + e), see the head of the file. */
static int permuted(int o, int group)
{
    const int lane_channels = group / 4, within = o % group;
    const int t = within / lane_channels, j = within % lane_channels / 2, e = o % 2;
    return o - within + 8 * j + 2 * t + e;
}

extern "C" enum k_conv_path k_conv_path(enum k_type type, const struct k_conv *c)
{
    if (type == K_F32)
        return K_CONV_F32;
    if (k_conv_sm90_takes(c))
        return c->upsample2x ? K_CONV_SM90_UP : K_CONV_SM90;
    if (c->kh == 3 && c->kw == 3 && c->stride == 1 && c->pad_h == 1 && c->pad_w == 1 &&
        k_conv3x3_fits(c))
        return c->upsample2x ? K_CONV_UP : K_CONV_3X3;
    return K_CONV_GEMM;
}

static bool up_taps(enum k_conv_path path)
{
    return path == K_CONV_UP || path == K_CONV_SM90_UP;
}

extern "C" int k_conv_weight_taps(enum k_conv_path path, const struct k_conv *c)
{
    return up_taps(path) ? 16 : c->kh * c->kw;
}

extern "C" size_t k_conv_weight_count(enum k_conv_path path, const struct k_conv *c)
{
    const int Cp = K_PAD(c->in), taps = k_conv_weight_taps(path, c);
    if (path == K_CONV_F32)
        return static_cast<size_t>(taps) * Cp * pad_to(c->out, F32_TILE);
    if (path == K_CONV_GEMM)
        return static_cast<size_t>(pad_to(c->out, BN)) * pad_to(taps * Cp, BK);
    if (path == K_CONV_SM90 || path == K_CONV_SM90_UP)
        return static_cast<size_t>(pad_to(c->out, 128)) * taps * pad_to(Cp, 64);
    return static_cast<size_t>(pad_to(Cp, 16)) * taps * pad_to(c->out, k_conv3x3_columns(c->out));
}

extern "C" size_t k_conv_weight_index(enum k_conv_path path, const struct k_conv *c, int o, int i,
                                      int t)
{
    const int Cp = K_PAD(c->in), taps = k_conv_weight_taps(path, c);
    if (path == K_CONV_F32)
        return (static_cast<size_t>(t) * Cp + i) * pad_to(c->out, F32_TILE) + o;
    if (path == K_CONV_GEMM)
        return static_cast<size_t>(permuted(o, 32)) * pad_to(taps * Cp, BK) + t * Cp + i;
    if (path == K_CONV_SM90 || path == K_CONV_SM90_UP) {
        const int of_parity = up_taps(path) ? 4 : taps, chunks = pad_to(Cp, 64) / 64;
        const size_t row = static_cast<size_t>(permuted(o, 32)) * taps * chunks;
        return (row + (t / of_parity * chunks + i / 64) * of_parity + t % of_parity) * 64 + i % 64;
    }
    const int columns = k_conv3x3_columns(c->out);
    const size_t rows = (static_cast<size_t>(i / 16) * taps + t) * pad_to(c->out, columns);
    return (rows + permuted(o, columns == 16 ? 16 : 32)) * 16 + i % 16;
}

extern "C" void k_conv_up_taps(float out[16], const float taps[9])
{
    for (int parity = 0; parity < 4; parity++) {
        float *sums = out + parity * 4;
        for (int i = 0; i < 4; i++)
            sums[i] = 0.0f;
        /* An even row sees the input row above through tap 0 and its own through 1 and 2; an odd
         * one its own through 0 and 1 and the one below through 2. */
        for (int ky = 0; ky < 3; ky++)
            for (int kx = 0; kx < 3; kx++)
                sums[(ky + 1 - parity / 2) / 2 * 2 + (kx + 1 - parity % 2) / 2] +=
                    taps[ky * 3 + kx];
    }
}

/* ---- launchers ---- */

static bool sane(const struct k_conv *c)
{
    const size_t pixels = static_cast<size_t>(c->n) * c->oh * c->ow;
    const size_t picture = static_cast<size_t>(c->h) * c->w * K_PAD(c->in);
    return c->n > 0 && c->oh > 0 && c->ow > 0 && pixels < 1u << 30 && picture < 1u << 30;
}

extern "C" cudaError_t k_conv_gemm(void *dst, const uint16_t *src, const uint16_t *weight,
                                   const float *bias, const uint16_t *residual,
                                   const struct k_conv *c, cudaStream_t stream)
{
    if (!sane(c))
        return cudaErrorInvalidValue;
    const unsigned columns = blocks_for(static_cast<size_t>(c->out), BN);
    const unsigned rows = blocks_for(static_cast<size_t>(c->n) * c->oh * c->ow, BM);
    IMF_LAUNCH(conv_gemm, rows * columns, GEMM_THREADS, STAGES * STAGE_ELEMENTS * sizeof(bf16),
               stream, dst, src, weight, bias, residual, *c,
               pad_to(c->kh * c->kw * K_PAD(c->in), BK), static_cast<int>(columns));
    return cudaGetLastError();
}

extern "C" cudaError_t k_conv_f32(float *dst, const float *src, const float *weight,
                                  const float *bias, const float *residual, const struct k_conv *c,
                                  cudaStream_t stream)
{
    if (!sane(c))
        return cudaErrorInvalidValue;
    const unsigned columns = blocks_for(static_cast<size_t>(c->out), F32_TILE);
    const unsigned rows = blocks_for(static_cast<size_t>(c->n) * c->oh * c->ow, F32_TILE);
    IMF_LAUNCH(conv_f32, rows * columns, F32_THREADS, 0, stream, dst, src, weight, bias, residual,
               *c, static_cast<int>(columns));
    return cudaGetLastError();
}
