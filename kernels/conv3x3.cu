/* 3x3 convolution, stride 1, padding 1, on tensor cores: 98 % of sd-vae's work and nearly all of
 * taesd's. A block of eight warps makes 16 x 16 output pixels of COLUMNS channels. Per 16 input
 * channels it holds the 18 x 18 input pixels under them and the nine taps' weights in shared
 * memory; a tap is a shift of the row addresses given to ldmatrix, so an input pixel is
 * fetched 1.27 times instead of 9, and each fragment of a picture row serves three taps.
 *
 * After nearest upsampling by two, the pixels of one parity (of row and column) see 2 x 2 distinct
 * input pixels under their nine taps. Taps that meet are summed when the weights are packed, and a
 * block makes 16 x 16 pixels of one parity by a 2 x 2 convolution: four ninths of the products.
 *
 * Rows of 16 channels (32 bytes) are swizzled by xoring the 16-byte half with (row / 4) % 2: eight
 * neighbouring pixels fall on distinct banks. cp.async, 2 or 3 stages (46 KiB each at 128 columns;
 * three where the GPU has the shared memory), every thread's copies at constant strides. Columns
 * are permuted at packing time (conv.cu) so that a lane stores 16 bytes. Every variant adds
 * products in the same order (16 channels, then kx, then ky), so the choice cannot change a bit.
 *
 * What is written may be followed by GroupNorm: then the block also leaves mean and M2 of its
 * pixels for every group of channels, as group_norm.cu's `statistics` would have read them back
 * for. */
#include "common.cuh"
#include "conv_statistics.cuh"

extern "C" int k_conv3x3_columns(int out);

static const int THREADS = 256;
static const int SIDE = 16;  /* output tile */
static const int DEPTH = 16; /* input channels a stage */

/* TAPS: 3, or 2 for one parity of an upsampled picture. */
template <int TAPS> struct input_tile {
    static const int side = SIDE + TAPS - 1;
    static const int pixels = side * side;
    static const int rows = (pixels + 15) / 16 * 16; /* whole warps copy; what is over are zeros */
};

template <int COLUMNS, int TAPS> struct stage {
    static const int weights = TAPS * TAPS * COLUMNS; /* rows of 16 channels */
    static const int elements = (input_tile<TAPS>::rows + weights) * DEPTH;
};

IMF_DEVICE int swizzled(int row, int half)
{
    return row * DEPTH + ((half ^ (row >> 2 & 1)) << 3);
}

/* What a block makes: pixels (y0 + y, x0 + x) of the picture, or of its parity (a, b) upsampled. */
template <int TAPS> struct output_tile {
    int x0, y0, a, b;

    __device__ output_tile(int index, int width)
    {
        const int tile = TAPS == 2 ? index / 4 : index, across = (width + SIDE - 1) / SIDE;
        a = TAPS == 2 ? index / 2 % 2 : 0;
        b = TAPS == 2 ? index % 2 : 0;
        x0 = tile % across * SIDE;
        y0 = tile / across * SIDE;
    }
};

/* WARPS_N warps side by side in channels, 8 / WARPS_N in picture rows. */
template <int COLUMNS, int WARPS_N, int STAGES, int TAPS>
static __global__ void __launch_bounds__(THREADS)
    conv3x3(void *dst, const bf16 *src, const bf16 *weight, const float *bias, const bf16 *residual,
            k_conv conv, int rows_of_weight, float4 *statistics)
{
    const int MT = SIDE * WARPS_N / 8;    /* picture rows a warp: m16 tiles */
    const int NT = COLUMNS / 8 / WARPS_N; /* n8 tiles a warp */
    const int side = input_tile<TAPS>::side, pixel_rows = input_tile<TAPS>::rows;
    const int row_step = THREADS / 2; /* a row is two copies; a thread's next one is so far on */
    const int copies = (pixel_rows + row_step - 1) / row_step;
    IMF_DYNAMIC_SHARED(bf16, smem);
    /* The mask tells the compiler that divisions by powers of two are shifts. */
    const int tid = static_cast<int>(threadIdx.x & (THREADS - 1)), lane = tid % 32, warp = tid / 32;
    const int Cp = K_PAD(conv.in), Op = K_PAD(conv.out);
    const int height = TAPS == 2 ? conv.h : conv.oh, width = TAPS == 2 ? conv.w : conv.ow;
    const output_tile<TAPS> tile(static_cast<int>(blockIdx.y), width);
    const int n0 = static_cast<int>(blockIdx.x) * COLUMNS;
    src += static_cast<size_t>(blockIdx.z) * conv.h * conv.w * Cp;

    /* This thread copies half `half` of pixels and of weight rows mine, mine + row_step, ... */
    const int half = tid & 1, mine = tid / 2;
    int offset[copies];
#pragma unroll
    for (int i = 0; i < copies; i++) {
        const int pixel = mine + row_step * i;
        const int y = tile.y0 + tile.a - 1 + pixel / side, x = tile.x0 + tile.b - 1 + pixel % side;
        const bool inside =
            pixel < input_tile<TAPS>::pixels && y >= 0 && x >= 0 && y < conv.h && x < conv.w;
        offset[i] = inside ? (y * conv.w + x) * Cp : -1;
    }
    const int taps = TAPS * TAPS, parities = TAPS == 2 ? 4 : 1;
    const size_t weight_step = static_cast<size_t>(parities * taps) * rows_of_weight * DEPTH;
    weight += (static_cast<size_t>((tile.a * 2 + tile.b) * taps + mine / COLUMNS) * rows_of_weight +
               n0 + mine % COLUMNS) *
                  DEPTH +
              half * 8;
    auto load_stage = [&](int step) {
        bf16 *A = smem + step % STAGES * stage<COLUMNS, TAPS>::elements + swizzled(mine, half);
        bf16 *B = A + pixel_rows * DEPTH;
        const int c = step * DEPTH + half * 8;
#pragma unroll
        for (int i = 0; i < copies; i++) {
            const bool inside = offset[i] >= 0 && c < Cp;
            if (mine + row_step * i < pixel_rows)
                cp_async16(A + row_step * i * DEPTH, inside ? src + offset[i] + c : src,
                           inside ? 16 : 0);
        }
        const bf16 *w = weight + weight_step * step;
        const int rows = stage<COLUMNS, TAPS>::weights;
#pragma unroll
        for (int i = 0; i < (rows + row_step - 1) / row_step; i++)
            if (rows % row_step == 0 || mine + row_step * i < rows)
                cp_async16(B + row_step * i * DEPTH,
                           w + row_step / COLUMNS * i * rows_of_weight * DEPTH);
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
        const bf16 *A = smem + step % STAGES * stage<COLUMNS, TAPS>::elements;
        const bf16 *B = A + pixel_rows * DEPTH;
#pragma unroll
        for (int kx = 0; kx < TAPS; kx++) {
            /* Picture rows of the tile from warp_y on, under column shift kx. */
            uint32_t rows[MT + TAPS - 1][4];
#pragma unroll
            for (int i = 0; i < MT + TAPS - 1; i++)
                ldmatrix_x4(rows[i],
                            A + swizzled((warp_y + i) * side + (lane & 15) + kx, lane >> 4));
#pragma unroll
            for (int ky = 0; ky < TAPS; ky++) {
                uint32_t a[MT][4], b[NT][2];
#pragma unroll
                for (int i = 0; i < MT; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        a[i][e] = rows[i + ky][e];
#pragma unroll
                for (int j = 0; j < NT / 2; j++) {
                    const int row =
                        (ky * TAPS + kx) * COLUMNS + warp_n + j * 16 + (lane & 7) + (lane & 16) / 2;
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
    float *quads = reinterpret_cast<float *>(smem);
    if (statistics)
        __syncthreads(); /* the last stage has been read */
#pragma unroll
    for (int group = 0; group < NT * 2 / WIDE; group++) {
        const int column = warp_n + group * WIDE * 4 + lane % 4 * WIDE, channel = n0 + column;
        moments sums[WIDE / 4] = {};
        float shift[8] = {};
        if (channel < Op) {
#pragma unroll
            for (int j = 0; j < WIDE; j += 4) {
                const float4 b = *reinterpret_cast<const float4 *>(bias + channel + j);
                shift[j] = b.x, shift[j + 1] = b.y, shift[j + 2] = b.z, shift[j + 3] = b.w;
            }
        }
#pragma unroll
        for (int i = 0; i < MT; i++) {
#pragma unroll
            for (int lower = 0; lower < 2; lower++) {
                const int y = tile.y0 + warp_y + i, x = tile.x0 + lane / 4 + 8 * lower;
                if (channel >= Op || y >= height || x >= width)
                    continue;
                const size_t pixel =
                    TAPS == 2 ? static_cast<size_t>(2 * y + tile.a) * conv.ow + (2 * x + tile.b)
                              : static_cast<size_t>(y) * conv.ow + x;
                const size_t out = (picture + pixel) * Op + channel;
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
                    v[j] = acc[i][group * WIDE / 2 + j / 2][2 * lower + j % 2] + shift[j] + r[j];
                    if (conv.relu)
                        v[j] = fmaxf(v[j], 0.0f);
                }
                if constexpr (NT >= 4)
                    store_as(dst, conv.out_f32, out, v);
                else if (conv.out_f32)
                    store4(static_cast<float *>(dst) + out, v[0], v[1], v[2], v[3]);
                else
                    store4(static_cast<bf16 *>(dst) + out, v[0], v[1], v[2], v[3]);
                if (statistics)
#pragma unroll
                    for (int j = 0; j < WIDE; j += 2)
                        add_rounded(sums[j / 4], v[j], v[j + 1]);
            }
        }
        if (statistics) {
#pragma unroll
            for (int q = 0; q < WIDE / 4; q++) {
                const moments m = over_rows(sums[q]);
                if (lane < 4) {
                    const int quad = warp / WARPS_N * (COLUMNS / 4) + column / 4 + q;
                    quads[quad] = m.sum;
                    quads[8 / WARPS_N * (COLUMNS / 4) + quad] = m.squares;
                }
            }
        }
    }
    if (!statistics)
        return;
    __syncthreads();
    const int high = height - tile.y0 < SIDE ? height - tile.y0 : SIDE;
    const int wide = width - tile.x0 < SIDE ? width - tile.x0 : SIDE;
    const int of_group = conv.out / conv.groups, first = n0 / of_group;
    const int here = COLUMNS / of_group, left = conv.groups - first;
    statistics += (static_cast<size_t>(blockIdx.z) * gridDim.y + blockIdx.y) * conv.groups + first;
    write_statistics<COLUMNS, 8 / WARPS_N>(statistics, quads, of_group, left < here ? left : here,
                                           high * wide);
}

template <int COLUMNS, int STAGES, int TAPS> static constexpr int shared_bytes()
{
    return STAGES * stage<COLUMNS, TAPS>::elements * static_cast<int>(sizeof(bf16));
}

extern "C" bool k_conv3x3_fits(const struct k_conv *c)
{
    const int columns = k_conv3x3_columns(c->out);
    const int least3 = columns == 16   ? shared_bytes<16, 3, 3>()
                       : columns == 64 ? shared_bytes<64, 3, 3>()
                                       : shared_bytes<128, 2, 3>();
    const int least2 = columns == 16   ? shared_bytes<16, 3, 2>()
                       : columns == 64 ? shared_bytes<64, 3, 2>()
                                       : shared_bytes<128, 3, 2>();
    int limit = 0;
    return shared_limit(&limit) == cudaSuccess && limit >= (c->upsample2x ? least2 : least3);
}

static unsigned tiles_of(const struct k_conv *c)
{
    const int h = c->upsample2x ? c->h : c->oh, w = c->upsample2x ? c->w : c->ow;
    return blocks_for(static_cast<size_t>(h), SIDE) * blocks_for(static_cast<size_t>(w), SIDE) *
           (c->upsample2x ? 4 : 1);
}

extern "C" int k_conv3x3_strips(const struct k_conv *c)
{
    return leaves_statistics(c, k_conv3x3_columns(c->out)) ? static_cast<int>(tiles_of(c)) : 0;
}

struct arguments {
    void *dst;
    const bf16 *src, *weight;
    const float *bias;
    const bf16 *residual;
    float4 *statistics;
    const struct k_conv *conv;
};

template <int COLUMNS, int WARPS_N, int STAGES, int TAPS>
static cudaError_t launch(const arguments &a, cudaStream_t stream)
{
    const struct k_conv *c = a.conv;
    const int smem = shared_bytes<COLUMNS, STAGES, TAPS>();
    const cudaError_t status = allow_shared(conv3x3<COLUMNS, WARPS_N, STAGES, TAPS>, smem);
    if (status != cudaSuccess)
        return status;
    const unsigned columns = blocks_for(static_cast<size_t>(c->out), COLUMNS);
    const unsigned tiles = tiles_of(c);
    if (tiles > 65535 || c->n > 65535)
        return cudaErrorInvalidValue;
    const dim3 grid(columns, tiles, static_cast<unsigned>(c->n));
    IMF_LAUNCH((conv3x3<COLUMNS, WARPS_N, STAGES, TAPS>), grid, THREADS, static_cast<size_t>(smem),
               stream, a.dst, a.src, a.weight, a.bias, a.residual, *c,
               static_cast<int>(columns) * COLUMNS, a.statistics);
    return cudaGetLastError();
}

template <int TAPS> static cudaError_t choose(const arguments &a, cudaStream_t stream)
{
    const int columns = k_conv3x3_columns(a.conv->out);
    if (columns == 16)
        return launch<16, 1, 3, TAPS>(a, stream);
    if (columns == 64)
        return launch<64, 1, 3, TAPS>(a, stream);
    if constexpr (TAPS == 3) {
        int limit = 0;
        const cudaError_t status = shared_limit(&limit);
        if (status != cudaSuccess)
            return status;
        if (limit < shared_bytes<128, 3, 3>())
            return launch<128, 2, 2, 3>(a, stream);
    }
    return launch<128, 2, 3, TAPS>(a, stream);
}

extern "C" cudaError_t k_conv3x3(void *dst, const uint16_t *src, const uint16_t *weight,
                                 const float *bias, const uint16_t *residual, float *statistics,
                                 const struct k_conv *c, cudaStream_t stream)
{
    const int up = c->upsample2x ? 2 : 1;
    if (c->n < 1 || c->oh != c->h * up || c->ow != c->w * up || c->oh < 1 || c->ow < 1 ||
        static_cast<size_t>(c->h) * c->w * K_PAD(c->in) >= 1u << 30 ||
        (statistics && k_conv3x3_strips(c) == 0))
        return cudaErrorInvalidValue;
    const arguments a = {dst, src, weight, bias, residual, reinterpret_cast<float4 *>(statistics),
                         c};
    return c->upsample2x ? choose<2>(a, stream) : choose<3>(a, stream);
}
