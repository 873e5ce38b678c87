/* 3x3 convolution, stride 1, padding 1, on tensor cores: 98 % of sd-vae's work and nearly all of
 * taesd's. A block of eight warps makes 16 x 16 output pixels of COLUMNS channels. Per 16 input
 * channels it holds the 18 x 18 input pixels under them (10 x 10 before upsampling) and the nine
 * taps' weights in shared memory; a tap is a shift of the row addresses given to ldmatrix, so an
 * input pixel is fetched 1.27 times instead of 9, and each fragment of a picture row serves three
 * taps.
 *
 * Rows of 16 channels (32 bytes) are swizzled by xoring the 16-byte half with (row / 4) % 2: eight
 * neighbouring pixels, or the four or five distinct ones under an upsampled row, fall on distinct
 * banks. cp.async, 2 or 3 stages (46 KiB each at 128 columns; three where the GPU has the shared
 * memory). Columns are permuted at packing time (conv.cu) so that a lane stores 16 bytes. Every
 * variant adds products in the same order (16 channels, then kx, then ky), so the choice cannot
 * change a bit. */
#include "common.cuh"

extern "C" int k_conv3x3_columns(int out);

static const int THREADS = 256;
static const int SIDE = 16;  /* output tile */
static const int DEPTH = 16; /* input channels a stage */

template <bool UP> struct input_tile {
    static const int side = UP ? SIDE / 2 + 2 : SIDE + 2;
    static const int pixels = side * side;
    static const int copies = (pixels * 2 + THREADS - 1) / THREADS; /* 16-byte copies a thread */
};

template <int COLUMNS, bool UP> struct stage {
    static const int elements = (input_tile<UP>::pixels + 9 * COLUMNS) * DEPTH;
};

IMF_DEVICE int swizzled(int row, int half)
{
    return row * DEPTH + ((half ^ (row >> 2 & 1)) << 3);
}

/* WARPS_N warps side by side in channels, 8 / WARPS_N in picture rows. */
template <int COLUMNS, int WARPS_N, int STAGES, bool UP>
static __global__ void __launch_bounds__(THREADS)
    conv3x3(void *dst, const bf16 *src, const bf16 *weight, const float *bias, const bf16 *residual,
            k_conv conv, int rows_of_weight)
{
    const int MT = SIDE * WARPS_N / 8;    /* picture rows a warp: m16 tiles */
    const int NT = COLUMNS / 8 / WARPS_N; /* n8 tiles a warp */
    const int side = input_tile<UP>::side, copies = input_tile<UP>::copies;
    IMF_DYNAMIC_SHARED(bf16, smem);
    const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
    const int Cp = K_PAD(conv.in), Op = K_PAD(conv.out);
    const int tiles_x = (conv.ow + SIDE - 1) / SIDE;
    const int x0 = static_cast<int>(blockIdx.y) % tiles_x * SIDE;
    const int y0 = static_cast<int>(blockIdx.y) / tiles_x * SIDE;
    const int n0 = static_cast<int>(blockIdx.x) * COLUMNS;
    src += static_cast<size_t>(blockIdx.z) * conv.h * conv.w * Cp;
    weight += static_cast<size_t>(n0) * DEPTH;

    /* What this thread copies of the input: half `tid % 2` of pixels (tid + 256 i) / 2. Upsampled,
     * the tile starts at source pixel (y0 - 1) >> 1 = y0 / 2 - 1, since y0 is even. */
    int offset[copies];
#pragma unroll
    for (int i = 0; i < copies; i++) {
        const int pixel = (tid + THREADS * i) / 2;
        const int y = (UP ? y0 / 2 : y0) - 1 + pixel / side;
        const int x = (UP ? x0 / 2 : x0) - 1 + pixel % side;
        offset[i] = y >= 0 && x >= 0 && y < conv.h && x < conv.w ? (y * conv.w + x) * Cp : -1;
    }
    auto load_stage = [&](int step) {
        bf16 *A = smem + step % STAGES * stage<COLUMNS, UP>::elements;
        bf16 *B = A + input_tile<UP>::pixels * DEPTH;
        const int half = tid % 2, c = step * DEPTH + half * 8;
#pragma unroll
        for (int i = 0; i < copies; i++) {
            const int pixel = (tid + THREADS * i) / 2;
            const bool inside = offset[i] >= 0 && c < Cp;
            if (pixel < input_tile<UP>::pixels)
                cp_async16(A + swizzled(pixel, half), inside ? src + offset[i] + c : src,
                           inside ? 16 : 0);
        }
        const bf16 *w = weight + static_cast<size_t>(step) * 9 * rows_of_weight * DEPTH;
#pragma unroll
        for (int i = tid; i < 9 * COLUMNS * 2; i += THREADS) {
            const int tap = i / (COLUMNS * 2), n = i / 2 % COLUMNS;
            cp_async16(B + swizzled(i / 2, half),
                       w + (static_cast<size_t>(tap) * rows_of_weight + n) * DEPTH + half * 8);
        }
    };

    const int steps = (Cp + DEPTH - 1) / DEPTH;
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps)
            load_stage(s);
        cp_async_commit();
    }
    const int warp_y = warp / WARPS_N * MT, warp_n = warp % WARPS_N * NT * 8;
    float acc[MT][NT][4] = {};
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps)
            load_stage(step + STAGES - 1);
        cp_async_commit();
        const bf16 *A = smem + step % STAGES * stage<COLUMNS, UP>::elements;
        const bf16 *B = A + input_tile<UP>::pixels * DEPTH;
#pragma unroll
        for (int kx = 0; kx < 3; kx++) {
            /* Picture rows warp_y - 1 .. warp_y + MT under column shift kx - 1. */
            uint32_t rows[MT + 2][4];
            const int x = (lane & 15) + kx;
#pragma unroll
            for (int i = 0; i < MT + 2; i++) {
                const int y = warp_y + i;
                const int pixel = UP ? ((y + 1) >> 1) * side + ((x + 1) >> 1) : y * side + x;
                ldmatrix_x4(rows[i], A + swizzled(pixel, lane >> 4));
            }
#pragma unroll
            for (int ky = 0; ky < 3; ky++) {
                uint32_t a[MT][4], b[NT][2];
#pragma unroll
                for (int i = 0; i < MT; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        a[i][e] = rows[i + ky][e];
#pragma unroll
                for (int j = 0; j < NT / 2; j++) {
                    const int row =
                        (ky * 3 + kx) * COLUMNS + warp_n + j * 16 + (lane & 7) + (lane & 16) / 2;
                    uint32_t r[4];
                    ldmatrix_x4(r, B + swizzled(row, lane >> 3 & 1));
                    b[2 * j][0] = r[0], b[2 * j][1] = r[1];
                    b[2 * j + 1][0] = r[2], b[2 * j + 1][1] = r[3];
                }
                mma_bf16_tile(acc, a, b);
            }
        }
    }

    const int WIDE = NT >= 4 ? 8 : 4; /* neighbouring channels a lane holds per group of tiles */
    const size_t picture = static_cast<size_t>(blockIdx.z) * conv.oh * conv.ow;
#pragma unroll
    for (int group = 0; group < NT * 2 / WIDE; group++) {
        const int channel = n0 + warp_n + group * WIDE * 4 + lane % 4 * WIDE;
        if (channel >= Op)
            break;
        float shift[WIDE];
#pragma unroll
        for (int j = 0; j < WIDE; j += 4) {
            const float4 b = *reinterpret_cast<const float4 *>(bias + channel + j);
            shift[j] = b.x, shift[j + 1] = b.y, shift[j + 2] = b.z, shift[j + 3] = b.w;
        }
#pragma unroll
        for (int i = 0; i < MT; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int y = y0 + warp_y + i, x = x0 + lane / 4 + 8 * half;
                if (y >= conv.oh || x >= conv.ow)
                    continue;
                const size_t out = (picture + static_cast<size_t>(y) * conv.ow + x) * Op + channel;
                float v[8] = {}, r[8] = {};
                if (residual) {
                    if constexpr (NT >= 4) {
                        load8(r, residual + out);
                    } else {
                        const uint2 pair = *reinterpret_cast<const uint2 *>(residual + out);
                        r[0] = bf16_lo(pair.x), r[1] = bf16_hi(pair.x);
                        r[2] = bf16_lo(pair.y), r[3] = bf16_hi(pair.y);
                    }
                }
#pragma unroll
                for (int j = 0; j < WIDE; j++) {
                    v[j] = acc[i][group * WIDE / 2 + j / 2][2 * half + j % 2] + shift[j] + r[j];
                    if (conv.relu)
                        v[j] = fmaxf(v[j], 0.0f);
                }
                if constexpr (NT >= 4)
                    store_as(dst, conv.out_f32, out, v);
                else if (conv.out_f32)
                    store4(static_cast<float *>(dst) + out, v[0], v[1], v[2], v[3]);
                else
                    store4(static_cast<bf16 *>(dst) + out, v[0], v[1], v[2], v[3]);
            }
        }
    }
}

template <int COLUMNS, int STAGES, bool UP> static constexpr int shared_bytes()
{
    return STAGES * stage<COLUMNS, UP>::elements * static_cast<int>(sizeof(bf16));
}

template <bool UP> static int least_shared(int columns)
{
    return columns == 16   ? shared_bytes<16, 3, UP>()
           : columns == 64 ? shared_bytes<64, 3, UP>()
                           : shared_bytes<128, 2, UP>();
}

extern "C" bool k_conv3x3_fits(const struct k_conv *c)
{
    const int columns = k_conv3x3_columns(c->out);
    int limit = 0;
    return shared_limit(&limit) == cudaSuccess &&
           limit >= (c->upsample2x ? least_shared<true>(columns) : least_shared<false>(columns));
}

struct arguments {
    void *dst;
    const bf16 *src, *weight;
    const float *bias;
    const bf16 *residual;
    const struct k_conv *conv;
};

template <int COLUMNS, int WARPS_N, int STAGES, bool UP>
static cudaError_t launch(const arguments &a, cudaStream_t stream)
{
    const struct k_conv *c = a.conv;
    const int smem = shared_bytes<COLUMNS, STAGES, UP>();
    const cudaError_t status = allow_shared(conv3x3<COLUMNS, WARPS_N, STAGES, UP>, smem);
    if (status != cudaSuccess)
        return status;
    const unsigned columns = blocks_for(static_cast<size_t>(c->out), COLUMNS);
    const unsigned tiles =
        blocks_for(static_cast<size_t>(c->oh), SIDE) * blocks_for(static_cast<size_t>(c->ow), SIDE);
    if (tiles > 65535 || c->n > 65535)
        return cudaErrorInvalidValue;
    const dim3 grid(columns, tiles, static_cast<unsigned>(c->n));
    IMF_LAUNCH((conv3x3<COLUMNS, WARPS_N, STAGES, UP>), grid, THREADS, static_cast<size_t>(smem),
               stream, a.dst, a.src, a.weight, a.bias, a.residual, *c,
               static_cast<int>(columns) * COLUMNS);
    return cudaGetLastError();
}

template <bool UP> static cudaError_t choose(const arguments &a, cudaStream_t stream)
{
    const int columns = k_conv3x3_columns(a.conv->out);
    if (columns == 16)
        return launch<16, 1, 3, UP>(a, stream);
    if (columns == 64)
        return launch<64, 1, 3, UP>(a, stream);
    int limit = 0;
    const cudaError_t status = shared_limit(&limit);
    if (status != cudaSuccess)
        return status;
    if (limit >= shared_bytes<128, 3, UP>())
        return launch<128, 2, 3, UP>(a, stream);
    return launch<128, 2, 2, UP>(a, stream);
}

extern "C" cudaError_t k_conv3x3(void *dst, const uint16_t *src, const uint16_t *weight,
                                 const float *bias, const uint16_t *residual,
                                 const struct k_conv *c, cudaStream_t stream)
{
    const int up = c->upsample2x ? 2 : 1;
    if (c->n < 1 || c->oh != c->h * up || c->ow != c->w * up || c->oh < 1 || c->ow < 1 ||
        static_cast<size_t>(c->h) * c->w * K_PAD(c->in) >= 1u << 30)
        return cudaErrorInvalidValue;
    const arguments a = {dst, src, weight, bias, residual, c};
    return c->upsample2x ? choose<true>(a, stream) : choose<false>(a, stream);
}
