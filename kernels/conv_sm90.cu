/* 1x1 and 3x3 convolutions, also after nearest upsampling, on the tensor cores of sm_90a (H100,
 * H200): conv3x3.cu's work by wgmma from shared memory that TMA fills. Off until it has run on a
 * card: IMFD_CONV_SM90=1 turns it on.
 *
 * Two blocks of a cluster make 256 pixels of one picture each, of the same 128 channels. Per step,
 * a tap and 64 input channels, a block holds its pixels under the tap (im2col copies: TMA walks the
 * picture's rows and fills the border with zeros) and the weights, of which each of the two fetches
 * half and sends it to both. One thread copies, four steps ahead; its warpgroup leaves registers to
 * the two that multiply 128 pixels each. Blocks stay and take tile after tile, so the copies of the
 * next tile fly while the last one is written.
 *
 * `full` barriers count a stage's bytes. `empty` ones count the warps of both blocks, each after
 * its own products, because a stage is written from both. Pixels beyond a picture's end belong to
 * the next one and are not stored: what is made of a picture does not depend on the others. Every
 * sum runs over 64 channels, then ky, then kx, in this order.
 *
 * Upsampled pictures: four parities of 2x2 taps as in conv3x3.cu; the taps of parity (a, b) begin at
 * (a, b) of the 3x3 window, so one map of the picture serves all. */
#include "common.cuh"

extern "C" bool k_conv_sm90_takes(const struct k_conv *c);

#ifndef __CUDACC__ /* the emulator has conv3x3.cu */
extern "C" bool k_conv_sm90_on(void)
{
    return false;
}

extern "C" bool k_conv_sm90_takes(const struct k_conv *)
{
    return false;
}

extern "C" int k_conv_sm90_strips(const struct k_conv *)
{
    return 0;
}

extern "C" cudaError_t k_conv_sm90(void *, const uint16_t *, const uint16_t *, const float *,
                                   const uint16_t *, float *, const struct k_conv *, cudaStream_t)
{
    return cudaErrorInvalidValue;
}
#else

#include "conv_statistics.cuh"
#include "hopper_intrinsics.cuh"

#include <cudaTypedefs.h>
#include <stdlib.h>
#include <string.h>

static const int CLUSTER = 2;
static const int PIXELS = 256, COLUMNS = 128, DEPTH = 64; /* of a block's tile, and of a step */
static const int STAGES = 4;
static const int WARPS = 8, CONSUMERS = 32 * WARPS, THREADS = CONSUMERS + 128;
/* A thread: 168 when the block starts, 64512 in all. */
static const int COPYING_REGISTERS = 40, MULTIPLYING_REGISTERS = 232;
static const int PIXEL_BYTES = PIXELS * DEPTH * 2, WEIGHT_BYTES = COLUMNS * DEPTH * 2;
static const int STAGE_BYTES = PIXEL_BYTES + WEIGHT_BYTES;
static const int SWIZZLE_BYTES = 1024; /* a stage's parts start at multiples of it */
static const int QUAD_FLOATS = 2 * WARPS * COLUMNS / 4; /* for statistics, twice */
static const int BARRIERS_AT = 2 * QUAD_FLOATS * 4;
static const int STAGES_AT = BARRIERS_AT + 2 * STAGES * 8; /* up to a multiple of SWIZZLE_BYTES */
static const int SHARED_BYTES = STAGES_AT + SWIZZLE_BYTES + STAGES * STAGE_BYTES;

/* How a launch is cut: parities x pairs of pixel tiles x columns of channels, columns fastest so
 * that neighbouring clusters read the same pixels. */
struct cut {
    int width, pixels; /* of a picture, or of one parity of it */
    int tiles;         /* of a picture, or of one parity */
    int parities, pairs, columns, taps, chunks;

    __host__ __device__ explicit cut(const k_conv &c)
    {
        const bool up = c.upsample2x != 0;
        width = up ? c.w : c.ow;
        pixels = width * (up ? c.h : c.oh);
        tiles = (pixels + PIXELS - 1) / PIXELS;
        parities = up ? 4 : 1;
        pairs = (c.n * tiles + CLUSTER - 1) / CLUSTER;
        columns = (c.out + COLUMNS - 1) / COLUMNS;
        taps = up ? 2 : c.kh;
        chunks = (c.in + DEPTH - 1) / DEPTH;
    }

    __host__ __device__ int works() const
    {
        return parities * pairs * columns;
    }

    __host__ __device__ int steps() const
    {
        return taps * taps * chunks;
    }
};

/* A block's part of a cluster's work. */
struct tile {
    int column, parity, picture, index, first; /* pixel */
    bool inside; /* an odd tile's partner repeats it and stores nothing */

    __device__ tile(const cut &cut, int pictures, int work, int rank)
    {
        const int rest = work / cut.columns;
        const int wanted = rest % cut.pairs * CLUSTER + rank;
        inside = wanted < pictures * cut.tiles;
        const int at = inside ? wanted : wanted - 1;
        column = work % cut.columns * COLUMNS;
        parity = rest / cut.pairs;
        picture = at / cut.tiles;
        index = at % cut.tiles;
        first = index * PIXELS;
    }
};

/* The ring of stages, as its producer or a consumer walks it. */
struct ring {
    int stage, parity;

    __device__ void advance()
    {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

struct stages {
    uint32_t base, barriers;

    __device__ explicit stages(const void *smem)
        : base((shared_address(smem) + STAGES_AT + SWIZZLE_BYTES - 1) / SWIZZLE_BYTES *
               SWIZZLE_BYTES),
          barriers(shared_address(smem) + BARRIERS_AT)
    {
    }

    __device__ uint32_t pixels(int stage) const
    {
        return base + stage * STAGE_BYTES;
    }

    __device__ uint32_t weights(int stage) const
    {
        return pixels(stage) + PIXEL_BYTES;
    }

    __device__ uint32_t full(int stage) const
    {
        return barriers + stage * 8;
    }

    __device__ uint32_t empty(int stage) const
    {
        return full(STAGES + stage);
    }
};

/* One thread: all copies of the block. */
IMF_DEVICE void produce(const stages &at, const CUtensorMap *src, const CUtensorMap *weight,
                        const k_conv &conv, const cut &cut, int rank)
{
    ring ring = {0, 1};
    for (int work = static_cast<int>(blockIdx.x) / CLUSTER; work < cut.works();
         work += static_cast<int>(gridDim.x) / CLUSTER) {
        const tile tile(cut, conv.n, work, rank);
        const int x = tile.first % cut.width - conv.pad_w, y = tile.first / cut.width - conv.pad_h;
        const int a = tile.parity / 2, b = tile.parity % 2;
        int k = tile.parity * cut.steps() * DEPTH;
        for (int chunk = 0; chunk < cut.chunks; chunk++) {
            for (int ky = 0; ky < cut.taps; ky++) {
                for (int kx = 0; kx < cut.taps; kx++) {
                    const uint32_t full = at.full(ring.stage);
                    mbarrier_wait(at.empty(ring.stage), ring.parity);
                    mbarrier_arrive_expect(full, STAGE_BYTES);
                    copy_pixels(at.pixels(ring.stage), src, full, chunk * DEPTH, x, y, tile.picture,
                                b + kx, a + ky);
                    copy_tile_to(at.weights(ring.stage) + rank * (WEIGHT_BYTES / CLUSTER), weight,
                                 full, k, tile.column + rank * (COLUMNS / CLUSTER),
                                 (1 << CLUSTER) - 1);
                    k += DEPTH;
                    ring.advance();
                }
            }
        }
    }
}

/* The stage may be written again, for all this warp knows: says so to both blocks. */
IMF_DEVICE void release(const stages &at, int stage, int lane)
{
    if (lane < CLUSTER)
        mbarrier_arrive_at(at.empty(stage), lane);
}

/* Sums of a warpgroup's 128 pixels, two times 64. */
IMF_DEVICE void multiply(float (&acc)[2][64], const stages &at, ring &ring, int steps, int group,
                         int lane)
{
    int before = 0;
    for (int step = 0; step < steps; step++) {
        mbarrier_wait(at.full(ring.stage), ring.parity);
        const uint64_t a = wgmma_operand(at.pixels(ring.stage)) + group * 1024;
        const uint64_t b = wgmma_operand(at.weights(ring.stage));
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                wgmma_64x128x16(acc[i], a + i * 512 + k * 2, b + k * 2, step | k);
        wgmma_commit();
        wgmma_wait<1>(); /* the step before this one has read its stage */
        if (step > 0)
            release(at, before, lane);
        before = ring.stage;
        ring.advance();
    }
    wgmma_wait<0>();
    release(at, before, lane);
}

/* Bias, residual, ReLU; stores 8 neighbouring channels at a time (columns are permuted at packing)
 * and leaves sums in `quads` where statistics are to be gathered. */
IMF_DEVICE void store(const float (&acc)[2][64], void *dst, const float *bias, const bf16 *residual,
                      const k_conv &conv, const cut &cut, const tile &tile, bool gather,
                      float *quads, int warp, int lane)
{
    const int Op = K_PAD(conv.out);
    const size_t picture = static_cast<size_t>(tile.picture) * conv.oh * conv.ow;
    size_t offset[2][2];
    bool stored[2][2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int lower = 0; lower < 2; lower++) {
            const int pixel =
                tile.first + warp / 4 * 128 + i * 64 + warp % 4 * 16 + lane / 4 + 8 * lower;
            const int y = pixel / cut.width, x = pixel - y * cut.width;
            const int out = conv.upsample2x
                                ? (2 * y + tile.parity / 2) * conv.ow + 2 * x + tile.parity % 2
                                : pixel;
            stored[i][lower] = tile.inside && pixel < cut.pixels;
            offset[i][lower] = (picture + out) * Op;
        }
    }
#pragma unroll
    for (int group = 0; group < COLUMNS / 32; group++) {
        const int column = group * 32 + lane % 4 * 8, channel = tile.column + column;
        moments sums[2] = {};
        float shift[8] = {};
        if (channel < Op)
            load8(shift, bias + channel);
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int lower = 0; lower < 2; lower++) {
                if (channel >= Op || !stored[i][lower])
                    continue;
                const size_t out = offset[i][lower] + channel;
                float v[8], r[8] = {};
                if (residual)
                    load8(r, residual + out);
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    v[j] = acc[i][(group * 4 + j / 2) * 4 + 2 * lower + j % 2] + shift[j] + r[j];
                    if (conv.relu)
                        v[j] = fmaxf(v[j], 0.0f);
                }
                store_as(dst, conv.out_f32, out, v);
                if (gather)
#pragma unroll
                    for (int j = 0; j < 8; j += 2)
                        add_rounded(sums[j / 4], v[j], v[j + 1]);
            }
        }
        if (gather) {
#pragma unroll
            for (int q = 0; q < 2; q++) {
                const moments m = over_rows(sums[q]);
                if (lane < 4) {
                    quads[warp * (COLUMNS / 4) + column / 4 + q] = m.sum;
                    quads[(WARPS + warp) * (COLUMNS / 4) + column / 4 + q] = m.squares;
                }
            }
        }
    }
}

/* One warp's part of the multiplying and storing of all the block's tiles. */
IMF_DEVICE void consume(const stages &at, float *quads, void *dst, const float *bias,
                        const bf16 *residual, const k_conv &conv, const cut &cut, int rank,
                        float4 *statistics)
{
    const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
    ring ring = {0, 0};
    int half = 0; /* of quads */
    for (int work = static_cast<int>(blockIdx.x) / CLUSTER; work < cut.works();
         work += static_cast<int>(gridDim.x) / CLUSTER) {
        const tile tile(cut, conv.n, work, rank);
        float acc[2][64];
        multiply(acc, at, ring, cut.steps(), warp / 4, lane);
        store(acc, dst, bias, residual, conv, cut, tile, statistics != nullptr, quads + half, warp,
              lane);
        if (!statistics)
            continue;
        named_barrier<1, CONSUMERS>();
        const int of_group = conv.out / conv.groups, first = tile.column / of_group;
        const int here = COLUMNS / of_group, left = conv.groups - first;
        const int pixels = cut.pixels - tile.first < PIXELS ? cut.pixels - tile.first : PIXELS;
        const size_t strip = static_cast<size_t>(tile.picture) * cut.tiles * cut.parities +
                             tile.index * cut.parities + tile.parity;
        if (tile.inside)
            write_statistics<COLUMNS, WARPS>(statistics + strip * conv.groups + first, quads + half,
                                             of_group, left < here ? left : here, pixels);
        /* The next tile's sums go to the other half: whoever writes here again has passed a barrier
         * that the readers of now came to afterwards. */
        half ^= QUAD_FLOATS;
    }
}

static __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    conv_sm90(void *dst, const __grid_constant__ CUtensorMap src,
              const __grid_constant__ CUtensorMap weight, const float *bias, const bf16 *residual,
              const k_conv conv, float4 *statistics)
{
    IMF_DYNAMIC_SHARED(float, quads);
    const stages at(quads);
    const cut cut(conv);
    const int rank = cluster_rank();
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            mbarrier_init(at.full(stage), 1);
            mbarrier_init(at.empty(stage), CLUSTER * WARPS);
        }
        mbarrier_init_fence();
    }
    cluster_sync();
    if (threadIdx.x < CONSUMERS) {
        take_registers<MULTIPLYING_REGISTERS>();
        consume(at, quads, dst, bias, residual, conv, cut, rank, statistics);
    } else {
        give_registers<COPYING_REGISTERS>();
        if (threadIdx.x == CONSUMERS)
            produce(at, &src, &weight, conv, cut, rank);
    }
    cluster_sync(); /* the other block may still arrive at this one's barriers */
}

/* ---- launcher ---- */

extern "C" bool k_conv_sm90_on(void)
{
    const char *wanted = getenv("IMFD_CONV_SM90");
    int device = 0, major = 0, minor = 0;
    return wanted && strcmp(wanted, "1") == 0 && cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) ==
               cudaSuccess &&
           cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) ==
               cudaSuccess &&
           major == 9 && minor == 0;
}

/* Few channels would leave most of a tile empty. */
extern "C" bool k_conv_sm90_takes(const struct k_conv *c)
{
    const bool window =
        (c->kh == 3 && c->kw == 3 && c->pad_h == 1 && c->pad_w == 1) ||
        (c->kh == 1 && c->kw == 1 && c->pad_h == 0 && c->pad_w == 0 && !c->upsample2x);
    return window && c->stride == 1 && c->in >= DEPTH && c->out > COLUMNS / 2 && k_conv_sm90_on();
}

extern "C" int k_conv_sm90_strips(const struct k_conv *c)
{
    const cut cut(*c);
    return leaves_statistics(c, COLUMNS) ? cut.tiles * cut.parities : 0;
}

/* A function of the driver, which we do not link against. */
template <typename Function> static cudaError_t driver_function(Function *out, const char *name)
{
    void *found = nullptr;
    cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t status = cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &result);
#endif
    if (status != cudaSuccess)
        return status;
    if (result != cudaDriverEntryPointSuccess)
        return cudaErrorNotSupported;
    *out = reinterpret_cast<Function>(found);
    return cudaSuccess;
}

static cudaError_t map_pixels(CUtensorMap *map, const uint16_t *src, const struct k_conv *c)
{
    PFN_cuTensorMapEncodeIm2col_v12000 encode = nullptr;
    const cudaError_t status = driver_function(&encode, "cuTensorMapEncodeIm2col");
    if (status != cudaSuccess)
        return status;
    const cuuint64_t C = K_PAD(c->in), w = c->w, h = c->h, n = c->n;
    const cuuint64_t dims[] = {C, w, h, n}, strides[] = {C * 2, w * C * 2, h * w * C * 2};
    const int corner[] = {-c->pad_w, -c->pad_h}; /* lower and upper: a tap's pixels are as many */
    const cuuint32_t step[] = {1, 1, 1, 1};
    return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<uint16_t *>(src), dims,
                  strides, corner, corner, DEPTH, PIXELS, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS
               ? cudaSuccess
               : cudaErrorInvalidValue;
}

static cudaError_t map_weights(CUtensorMap *map, const uint16_t *weight, const cut &cut)
{
    PFN_cuTensorMapEncodeTiled_v12000 encode = nullptr;
    const cudaError_t status = driver_function(&encode, "cuTensorMapEncodeTiled");
    if (status != cudaSuccess)
        return status;
    const cuuint64_t k = static_cast<cuuint64_t>(cut.parities) * cut.steps() * DEPTH;
    const cuuint64_t dims[] = {k, static_cast<cuuint64_t>(cut.columns) * COLUMNS}, row[] = {k * 2};
    const cuuint32_t box[] = {DEPTH, COLUMNS / CLUSTER}, step[] = {1, 1};
    return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<uint16_t *>(weight), dims,
                  row, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS
               ? cudaSuccess
               : cudaErrorInvalidValue;
}

extern "C" cudaError_t k_conv_sm90(void *dst, const uint16_t *src, const uint16_t *weight,
                                   const float *bias, const uint16_t *residual, float *statistics,
                                   const struct k_conv *c, cudaStream_t stream)
{
    const int up = c->upsample2x ? 2 : 1;
    if (c->n < 1 || c->oh != c->h * up || c->ow != c->w * up || c->oh < 1 || c->ow < 1 ||
        static_cast<size_t>(c->n) * c->oh * c->ow >= 1u << 30 ||
        (statistics && k_conv_sm90_strips(c) == 0))
        return cudaErrorInvalidValue;
    const cut cut(*c);
    CUtensorMap pixels, weights;
    int device = 0, processors = 0;
    cudaError_t status = map_pixels(&pixels, src, c);
    if (status == cudaSuccess)
        status = map_weights(&weights, weight, cut);
    if (status == cudaSuccess)
        status = allow_shared(conv_sm90, SHARED_BYTES);
    if (status == cudaSuccess)
        status = cudaGetDevice(&device);
    if (status == cudaSuccess)
        status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (status != cudaSuccess)
        return status;
    const int clusters = processors / CLUSTER < cut.works() ? processors / CLUSTER : cut.works();
    IMF_LAUNCH(conv_sm90, static_cast<unsigned>(clusters * CLUSTER), THREADS, SHARED_BYTES, stream,
               dst, pixels, weights, bias, residual, *c, reinterpret_cast<float4 *>(statistics));
    return cudaGetLastError();
}

#endif
