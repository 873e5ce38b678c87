/* The emulator against small kernels with one planted bug each, and against the PTX ISA's layouts.
 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <vector>
#include "device_intrinsics.cuh"
#include "imf_emu.h"
#include "test_emu.h"

/* ---- helpers ---- */

static void fresh(void)
{
    imf_emu_reset();
    imf_emu_set_quiet(1);
    imf_emu_set_check(IMF_EMU_CHECK_FULL);
}

/* Runs what is queued; afterwards exactly the expected kind of report must be there (or none). */
static const struct imf_emu_report *expect(int kind)
{
    cudaError_t launch = cudaGetLastError(), e = cudaDeviceSynchronize();
    if (!kind) {
        const struct imf_emu_report *r = imf_emu_report_at(0);
        ck_assert_msg(!r, "unexpected report: %s", r ? r->text : "");
        ck_assert_int_eq(launch, cudaSuccess);
        ck_assert_int_eq(e, cudaSuccess);
        return nullptr;
    }
    ck_assert_msg(imf_emu_report_count() > 0, "the bug was not seen");
    const struct imf_emu_report *r = imf_emu_report_at(0);
    ck_assert_msg(r->kind == kind, "seen as something else: %s", r->text);
    ck_assert_msg(launch != cudaSuccess || e != cudaSuccess, "reported, but no call failed");
    if (getenv("TEST_EMU_SHOW"))
        fprintf(stderr, "%s\n", r->text);
    return r;
}

template <class T> static T *device_array(size_t n, bool filled = true)
{
    T *p = nullptr;
    ck_assert_int_eq(cudaMalloc(&p, n * sizeof(T)), cudaSuccess);
    if (filled)
        ck_assert_int_eq(cudaMemset(p, 0, n * sizeof(T)), cudaSuccess);
    return p;
}

template <class T> static T *device_copy(const std::vector<T> &v)
{
    T *p = device_array<T>(v.size(), false);
    ck_assert_int_eq(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice),
                     cudaSuccess);
    return p;
}

template <class T> static std::vector<T> host_copy(const T *p, size_t n)
{
    std::vector<T> v(n);
    ck_assert_int_eq(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return v;
}

/* ---- missing barriers ---- */

template <bool barrier> __global__ void reverse_block(float *x)
{
    IMF_SHARED(float, s, [256]);
    s[threadIdx.x] = x[threadIdx.x];
    if (barrier)
        __syncthreads();
    x[threadIdx.x] = s[255 - threadIdx.x];
}

START_TEST(missing_barrier)
{
    fresh();
    std::vector<float> v(256);
    for (int i = 0; i < 256; i++)
        v[i] = float(i);
    float *x = device_copy(v);
    IMF_LAUNCH(reverse_block<true>, 1, 256, 0, 0, x);
    expect(0);
    ck_assert(host_copy(x, 256)[3] == 252.0f);
    /* Without the barrier the first threads to run read what was never written... */
    IMF_LAUNCH(reverse_block<false>, 1, 256, 0, 0, x);
    expect(IMF_EMU_UNINITIALISED);
    /* ...and the later ones race with the writers. */
    bool race = false;
    for (int i = 0; i < imf_emu_report_count() && imf_emu_report_at(i); i++)
        if (imf_emu_report_at(i)->kind == IMF_EMU_RACE) {
            race = true;
            ck_assert(strstr(imf_emu_report_at(i)->text, "shared array s"));
        }
    ck_assert(race);
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

/* The second buffer use races although every read sees the right value in this order. */
template <bool barrier> __global__ void reuse_buffer(float *x)
{
    IMF_SHARED(float, s, [64]);
    s[threadIdx.x] = 1.0f;
    __syncthreads();
    float a = s[63 - threadIdx.x];
    if (barrier)
        __syncthreads();
    s[threadIdx.x] = 1.0f;
    __syncthreads();
    x[threadIdx.x] = a + s[63 - threadIdx.x];
}

START_TEST(missing_barrier_with_right_result)
{
    fresh();
    float *x = device_array<float>(64);
    IMF_LAUNCH(reuse_buffer<true>, 1, 64, 0, 0, x);
    expect(0);
    IMF_LAUNCH(reuse_buffer<false>, 1, 64, 0, 0, x);
    const struct imf_emu_report *r = expect(IMF_EMU_RACE);
    ck_assert(strstr(r->kernel, "reuse_buffer"));
    ck_assert(strstr(r->text, "shared array s"));
    ck_assert(strstr(r->text, "test_emu.cu:"));
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

template <bool barrier> __global__ void warp_exchange(float *x)
{
    IMF_SHARED(float, s, [64]);
    s[threadIdx.x] = float(threadIdx.x);
    if (barrier)
        __syncwarp();
    x[threadIdx.x] = s[threadIdx.x ^ 1];
    if (barrier)
        __syncwarp();
    s[threadIdx.x] = 0.0f;
}

START_TEST(missing_syncwarp)
{
    fresh();
    float *x = device_array<float>(64);
    IMF_LAUNCH(warp_exchange<true>, 1, 64, 0, 0, x);
    expect(0);
    ck_assert(host_copy(x, 64)[33] == 32.0f);
    IMF_LAUNCH(warp_exchange<false>, 1, 64, 0, 0, x);
    expect(IMF_EMU_UNINITIALISED);
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

/* __syncwarp is no barrier between warps. */
__global__ void syncwarp_between_warps(float *x)
{
    IMF_SHARED(float, s, [64]);
    s[threadIdx.x] = 1.0f;
    __syncthreads();
    float v = s[threadIdx.x ^ 32];
    __syncwarp();
    s[threadIdx.x] = v;
    x[threadIdx.x] = v;
}

START_TEST(syncwarp_is_not_syncthreads)
{
    fresh();
    float *x = device_array<float>(64);
    IMF_LAUNCH(syncwarp_between_warps, 1, 64, 0, 0, x);
    expect(IMF_EMU_RACE);
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

/* Threads that share a 4-byte word but no byte of it do not race; with `overlap` they do. */
__global__ void bytes_of_a_word(uint8_t *dst, uint16_t *dst2, unsigned overlap)
{
    IMF_SHARED(uint8_t, s, [65]);
    unsigned t = threadIdx.x;
    s[t] = uint8_t(t);
    if (overlap && t == 63)
        s[t + 1 - 2 * overlap] = 0;
    __syncthreads();
    uint32_t word = *reinterpret_cast<const uint32_t *>(s + t / 4 * 4);
    dst[3 * (blockIdx.x * 64 + t)] = uint8_t(word >> (8 * (t % 4)));
    dst2[blockIdx.x * 64 + t] = uint16_t(word);
}

START_TEST(races_are_seen_per_byte)
{
    fresh();
    uint8_t *x = device_array<uint8_t>(3 * 128);
    uint16_t *y = device_array<uint16_t>(128);
    IMF_LAUNCH(bytes_of_a_word, 2, 64, 0, 0, x, y, 0u);
    expect(0);
    ck_assert_uint_eq(host_copy(x, 384)[3 * 70], 6);
    IMF_LAUNCH(bytes_of_a_word, 2, 64, 0, 0, x, y, 1u);
    const struct imf_emu_report *r = expect(IMF_EMU_RACE);
    ck_assert(strstr(r->text, "offset 62"));
    imf_emu_reset();
    cudaFree(x);
    cudaFree(y);
}
END_TEST

__global__ void all_blocks_write_one(float *x)
{
    if (threadIdx.x == 0)
        x[0] = 1.0f;
}

__global__ void read_neighbour_block(float *y, const float *x, float *z)
{
    y[blockIdx.x] = x[0];
    if (blockIdx.x == gridDim.x - 1)
        z[0] = 2.0f; /* z may be x: then a write after reads by other blocks */
}

START_TEST(race_between_blocks)
{
    fresh();
    float *x = device_array<float>(8), *y = device_array<float>(8);
    IMF_LAUNCH(all_blocks_write_one, 2, 32, 0, 0, x);
    const struct imf_emu_report *r = expect(IMF_EMU_RACE);
    ck_assert_uint_eq(r->block[0], 1);
    ck_assert(strstr(r->text, "another block"));
    fresh();
    IMF_LAUNCH(read_neighbour_block, 3, 1, 0, 0, y, x, x + 1);
    expect(0);
    IMF_LAUNCH(read_neighbour_block, 3, 1, 0, 0, y, x, x);
    expect(IMF_EMU_RACE);
    fresh();
    /* Two launches are ordered. */
    IMF_LAUNCH(all_blocks_write_one, 1, 32, 0, 0, x);
    IMF_LAUNCH(all_blocks_write_one, 1, 32, 0, 0, x);
    expect(0);
    cudaFree(x);
    cudaFree(y);
}
END_TEST

/* ---- bounds, alignment, initialisation, lifetime ---- */

__global__ void off_by_one(float *dst, int n)
{
    int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i <= n) /* planted: should be < */
        dst[i] = 1.0f;
}

START_TEST(off_by_one_global)
{
    fresh();
    float *x = device_array<float>(100);
    IMF_LAUNCH(off_by_one, 2, 64, 0, 0, x, 100);
    const struct imf_emu_report *r = expect(IMF_EMU_OUT_OF_BOUNDS);
    ck_assert_uint_eq(r->block[0], 1);
    ck_assert_uint_eq(r->thread[0], 36);
    ck_assert_uint_eq(r->address, uint64_t(uintptr_t(x + 100)));
    ck_assert_str_eq(r->kernel, "off_by_one");
    ck_assert(strstr(r->text, "400 bytes"));
    /* The context is lost, as on the device, until the test starts afresh. */
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

__global__ void off_by_one_in_shared(float *x, int n)
{
    IMF_SHARED(float, s, [48]);
    IMF_SHARED(float, t, [48]);
    for (int i = 0; i <= n; i++)
        s[i] = 0.0f;
    t[0] = 0.0f;
    x[0] = s[0] + t[0];
}

__global__ void dynamic_too_small(float *x, int n)
{
    IMF_DYNAMIC_SHARED(float, s);
    s[n] = 1.0f;
    x[0] = s[n];
}

START_TEST(off_by_one_shared)
{
    fresh();
    float *x = device_array<float>(1);
    IMF_LAUNCH(off_by_one_in_shared, 1, 1, 0, 0, x, 47);
    expect(0);
    IMF_LAUNCH(off_by_one_in_shared, 1, 1, 0, 0, x, 48);
    const struct imf_emu_report *r = expect(IMF_EMU_OUT_OF_BOUNDS);
    ck_assert(strstr(r->text, "shared array s (192 bytes), past its end by 0"));
    fresh();
    IMF_LAUNCH(dynamic_too_small, 1, 1, 64, 0, x, 15);
    expect(0);
    IMF_LAUNCH(dynamic_too_small, 1, 1, 64, 0, x, 16);
    expect(IMF_EMU_OUT_OF_BOUNDS);
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

__global__ void copy_vectors(float4 *dst, const float *src)
{
    dst[threadIdx.x] = *reinterpret_cast<const float4 *>(src + 4 * threadIdx.x);
}

START_TEST(misaligned_vector)
{
    fresh();
    float *x = device_array<float>(64), *y = device_array<float>(64);
    IMF_LAUNCH(copy_vectors, 1, 8, 0, 0, reinterpret_cast<float4 *>(y), x);
    expect(0);
    IMF_LAUNCH(copy_vectors, 1, 8, 0, 0, reinterpret_cast<float4 *>(y), x + 1);
    const struct imf_emu_report *r = expect(IMF_EMU_MISALIGNED);
    ck_assert(strstr(r->text, "16 bytes"));
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaErrorMisalignedAddress);
    imf_emu_reset();
    cudaFree(x);
    cudaFree(y);
}
END_TEST

__global__ void sum_shared(float *x, int written)
{
    IMF_SHARED(float, s, [32]);
    if (int(threadIdx.x) < written)
        s[threadIdx.x] = 1.0f;
    __syncthreads();
    float sum = 0.0f;
    for (int i = 0; i < 32; i++)
        sum += s[i];
    x[threadIdx.x] = sum;
}

START_TEST(uninitialised_shared)
{
    fresh();
    float *x = device_array<float>(32);
    IMF_LAUNCH(sum_shared, 1, 32, 0, 0, x, 32);
    expect(0);
    /* What the block before left in shared memory is not there for this one. */
    IMF_LAUNCH(sum_shared, 1, 32, 0, 0, x, 31);
    const struct imf_emu_report *r = expect(IMF_EMU_UNINITIALISED);
    ck_assert(strstr(r->text, "shared array s (128 bytes), offset 124"));
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

START_TEST(uninitialised_global)
{
    fresh();
    float *x = device_array<float>(64, false), *y = device_array<float>(64);
    ck_assert_int_eq(cudaMemset(x, 0, 100), cudaSuccess); /* 25 of the 32 floats */
    IMF_LAUNCH(copy_vectors, 1, 6, 0, 0, reinterpret_cast<float4 *>(y), x);
    expect(0);
    IMF_LAUNCH(copy_vectors, 1, 7, 0, 0, reinterpret_cast<float4 *>(y), x);
    const struct imf_emu_report *r = expect(IMF_EMU_UNINITIALISED);
    ck_assert_uint_eq(r->address, uint64_t(uintptr_t(x + 25)));
    imf_emu_reset();
    /* Downloading it is no better. */
    float v[64];
    float *z = device_array<float>(64, false);
    cudaMemcpy(v, z, sizeof v, cudaMemcpyDeviceToHost);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_UNINITIALISED);
    imf_emu_reset();
    cudaFree(x);
    cudaFree(y);
    cudaFree(z);
}
END_TEST

START_TEST(use_after_free)
{
    fresh();
    float *x = device_array<float>(64), *y = device_array<float>(64);
    cudaFree(x);
    IMF_LAUNCH(copy_vectors, 1, 8, 0, 0, reinterpret_cast<float4 *>(y), x);
    const struct imf_emu_report *r = expect(IMF_EMU_USE_AFTER_FREE);
    ck_assert(strstr(r->text, "freed allocation"));
    fresh();
    ck_assert_int_eq(cudaFree(x), cudaErrorInvalidValue); /* twice */
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_USE_AFTER_FREE);
    imf_emu_reset();
    cudaFree(y);
}
END_TEST

START_TEST(host_pointer_on_device)
{
    fresh();
    std::vector<float> v(64);
    float *y = device_array<float>(64);
    IMF_LAUNCH(copy_vectors, 1, 8, 0, 0, reinterpret_cast<float4 *>(y), v.data());
    expect(IMF_EMU_HOST_POINTER);
    fresh();
    IMF_LAUNCH(copy_vectors, 1, 8, 0, 0, reinterpret_cast<float4 *>(y),
               static_cast<const float *>(nullptr));
    expect(IMF_EMU_HOST_POINTER);
    imf_emu_reset();
    cudaFree(y);
}
END_TEST

/* ---- divergence ---- */

__global__ void barrier_in_branches(float *x)
{
    if (threadIdx.x < 32) {
        __syncthreads();
        x[threadIdx.x] = 1.0f;
    } else {
        x[threadIdx.x] = 2.0f;
        __syncthreads();
    }
}

__global__ void barrier_after_return(float *x, unsigned n)
{
    if (threadIdx.x >= n)
        return;
    __syncthreads();
    x[threadIdx.x] = 1.0f;
}

__global__ void shuffle_in_branch(float *x)
{
    float v = x[threadIdx.x];
    if (threadIdx.x < 16)
        v += __shfl_xor_sync(0xffffffffu, v, 1);
    x[threadIdx.x] = v;
}

__global__ void shuffle_half(float *x)
{
    float v = x[threadIdx.x];
    if (threadIdx.x < 16)
        v += __shfl_xor_sync(0x0000ffffu, v, 1);
    x[threadIdx.x] = v;
}

START_TEST(divergent_barriers)
{
    fresh();
    float *x = device_array<float>(64);
    IMF_LAUNCH(barrier_in_branches, 1, 64, 0, 0, x);
    const struct imf_emu_report *r = expect(IMF_EMU_DIVERGENT_BARRIER);
    ck_assert(strstr(r->text, "test_emu.cu:"));
    fresh();
    IMF_LAUNCH(barrier_after_return, 1, 64, 0, 0, x, 64u);
    expect(0);
    IMF_LAUNCH(barrier_after_return, 1, 64, 0, 0, x, 60u);
    expect(IMF_EMU_DIVERGENT_BARRIER);
    fresh();
    IMF_LAUNCH(shuffle_half, 1, 32, 0, 0, x);
    expect(0);
    IMF_LAUNCH(shuffle_in_branch, 1, 32, 0, 0, x);
    expect(IMF_EMU_DIVERGENT_WARP);
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

/* ---- cp.async ---- */

/* Sums rows of 32 float4 through a ring of two buffers. `bug`: 1 no wait, 2 no barrier after the
 * wait, 3 no barrier before a buffer is filled again. */
template <int bug> __global__ void ring(float *dst, const float4 *src, int rows)
{
    IMF_SHARED(float4, buffer, [2][32]);
    float sum = 0.0f;
    cp_async16(&buffer[0][threadIdx.x], src + threadIdx.x);
    cp_async_commit();
    for (int row = 0; row < rows; row++) {
        if (row + 1 < rows)
            cp_async16(&buffer[(row + 1) % 2][threadIdx.x], src + (row + 1) * 32 + threadIdx.x);
        cp_async_commit();
        if (bug != 1)
            cp_async_wait<1>();
        if (bug != 2)
            __syncthreads();
        sum += buffer[row % 2][31 - threadIdx.x].x;
        if (bug != 3)
            __syncthreads();
    }
    dst[threadIdx.x] = sum;
}

__global__ void partial_copy(float *dst, const float *src, int bytes)
{
    IMF_SHARED(float4, s, [1]);
    cp_async16(s, src, bytes);
    cp_async_commit();
    cp_async_wait<0>();
    dst[0] = s[0].x, dst[1] = s[0].y, dst[2] = s[0].z, dst[3] = s[0].w;
}

START_TEST(cp_async_pipelines)
{
    fresh();
    std::vector<float> v(5 * 128);
    for (size_t i = 0; i < v.size(); i++)
        v[i] = float(i);
    float *src = device_copy(v), *x = device_array<float>(32);
    const float4 *rows = reinterpret_cast<const float4 *>(src);
    IMF_LAUNCH(ring<0>, 1, 32, 0, 0, x, rows, 5);
    expect(0);
    float want = 0.0f;
    for (int r = 0; r < 5; r++)
        want += v[size_t(r * 128 + 4 * 31)];
    ck_assert(host_copy(x, 32)[0] == want);
    IMF_LAUNCH(ring<1>, 1, 32, 0, 0, x, rows, 5);
    expect(IMF_EMU_ASYNC_PENDING);
    fresh();
    IMF_LAUNCH(ring<2>, 1, 32, 0, 0, x, rows, 5);
    ck_assert(cudaDeviceSynchronize() != cudaSuccess);
    bool seen = false;
    for (int i = 0; imf_emu_report_at(i); i++)
        seen |= imf_emu_report_at(i)->kind == IMF_EMU_RACE ||
                imf_emu_report_at(i)->kind == IMF_EMU_ASYNC_PENDING;
    ck_assert(seen);
    /* Seen as a race by threads that read before the refill, as a pending copy by those after it.
     */
    fresh();
    IMF_LAUNCH(ring<3>, 1, 32, 0, 0, x, rows, 5);
    expect(IMF_EMU_ASYNC_PENDING);
    fresh();
    /* The tail is zeroed, and bytes beyond src_bytes are never read. */
    float *y = device_copy(std::vector<float>{1, 2, 3});
    IMF_LAUNCH(partial_copy, 1, 1, 0, 0, x, y, 12);
    expect(0);
    ck_assert(host_copy(x, 4)[2] == 3.0f && host_copy(x, 4)[3] == 0.0f);
    IMF_LAUNCH(partial_copy, 1, 1, 0, 0, x, y, 16);
    expect(IMF_EMU_OUT_OF_BOUNDS);
    imf_emu_reset();
    cudaFree(src);
    cudaFree(x);
    cudaFree(y);
}
END_TEST

/* ---- fragment layouts: the formulas of the PTX ISA, written out here once more ---- */

/* "Matrix Fragments for mma.m16n8k16 with floating point type", groupID = laneid >> 2,
 * threadID_in_group = laneid % 4. */
static void a_position(int lane, int i, int *row, int *col)
{
    int group = lane >> 2, in_group = lane % 4;
    *row = (i >= 0 && i < 2) || (i >= 4 && i < 6) ? group : group + 8;
    *col = i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
}

static void b_position(int lane, int i, int *row, int *col)
{
    int group = lane >> 2, in_group = lane % 4;
    *row = i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
    *col = group;
}

static void c_position(int lane, int i, int *row, int *col)
{
    int group = lane >> 2, in_group = lane % 4;
    *row = i < 2 ? group : group + 8;
    *col = in_group * 2 + (i & 1);
}

__global__ void raw_mma(float *d, const uint32_t *a, const uint32_t *b)
{
    float acc[4];
    uint32_t fa[4], fb[2];
    for (int i = 0; i < 4; i++) {
        acc[i] = d[threadIdx.x * 4 + i];
        fa[i] = a[threadIdx.x * 4 + i];
    }
    fb[0] = b[threadIdx.x * 2];
    fb[1] = b[threadIdx.x * 2 + 1];
    mma_bf16_16816(acc, fa, fb);
    for (int i = 0; i < 4; i++)
        d[threadIdx.x * 4 + i] = acc[i];
}

static float small_value(int seed)
{
    return float((seed * 2654435761u >> 24) % 17) - 8.0f; /* exact in bfloat16 and in the sums */
}

START_TEST(mma_layout)
{
    fresh();
    float A[16][16], B[16][8], C[16][8];
    for (int i = 0; i < 256; i++)
        A[i / 16][i % 16] = small_value(i);
    for (int i = 0; i < 128; i++) {
        B[i / 8][i % 8] = small_value(i + 300);
        C[i / 8][i % 8] = small_value(i + 700);
    }
    std::vector<uint32_t> a(128), b(64);
    std::vector<float> d(128);
    for (int lane = 0; lane < 32; lane++) {
        int r, c;
        for (int i = 0; i < 8; i++) {
            a_position(lane, i, &r, &c);
            a[size_t(lane * 4 + i / 2)] |= uint32_t(imf_emu_bf16_bits(A[r][c])) << (16 * (i & 1));
        }
        for (int i = 0; i < 4; i++) {
            b_position(lane, i, &r, &c);
            b[size_t(lane * 2 + i / 2)] |= uint32_t(imf_emu_bf16_bits(B[r][c])) << (16 * (i & 1));
            c_position(lane, i, &r, &c);
            d[size_t(lane * 4 + i)] = C[r][c];
        }
    }
    uint32_t *da = device_copy(a), *db = device_copy(b);
    float *dd = device_copy(d);
    IMF_LAUNCH(raw_mma, 1, 32, 0, 0, dd, da, db);
    expect(0);
    std::vector<float> out = host_copy(dd, 128);
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            int r, c;
            c_position(lane, i, &r, &c);
            float want = C[r][c];
            for (int k = 0; k < 16; k++)
                want += A[r][k] * B[k][c];
            ck_assert_msg(out[size_t(lane * 4 + i)] == want, "lane %d c%d: %g, want %g", lane, i,
                          double(out[size_t(lane * 4 + i)]), double(want));
        }
    ck_assert_uint_eq(imf_emu_counters_find("raw_mma")->tensor_flops, 2 * 16 * 8 * 16);
    /* mma needs the whole warp. */
    IMF_LAUNCH(raw_mma, 1, 16, 0, 0, dd, da, db);
    expect(IMF_EMU_DIVERGENT_WARP);
    imf_emu_reset();
    cudaFree(da);
    cudaFree(db);
    cudaFree(dd);
}
END_TEST

template <int count, bool trans> __global__ void raw_ldmatrix(uint32_t *dst, const uint4 *src)
{
    IMF_SHARED(uint4, s, [32]);
    s[threadIdx.x] = src[threadIdx.x];
    __syncthreads();
    uint32_t r[4] = {0, 0, 0, 0};
    const uint4 *row = &s[threadIdx.x];
    if constexpr (count == 4) {
        if (trans)
            ldmatrix_x4_trans(r, row);
        else
            ldmatrix_x4(r, row);
    } else {
        uint32_t q[2];
        if (trans)
            ldmatrix_x2_trans(q, row);
        else
            ldmatrix_x2(q, row);
        r[0] = q[0], r[1] = q[1];
    }
    for (int i = 0; i < 4; i++)
        dst[threadIdx.x * 4 + i] = r[i];
}

START_TEST(ldmatrix_layout)
{
    fresh();
    /* Element (row, column) of matrix m is 64 m + 8 row + column; matrix m's rows are at lanes 8 m
     * ... */
    std::vector<uint16_t> src(256);
    for (size_t i = 0; i < 256; i++)
        src[i] = uint16_t(i);
    uint16_t *ds = device_copy(src);
    const uint4 *rows = reinterpret_cast<const uint4 *>(ds);
    uint32_t *dd = device_array<uint32_t>(128);
    for (int variant = 0; variant < 4; variant++) {
        bool trans = variant & 1;
        int count = variant < 2 ? 4 : 2;
        if (variant == 0)
            IMF_LAUNCH((raw_ldmatrix<4, false>), 1, 32, 0, 0, dd, rows);
        else if (variant == 1)
            IMF_LAUNCH((raw_ldmatrix<4, true>), 1, 32, 0, 0, dd, rows);
        else if (variant == 2)
            IMF_LAUNCH((raw_ldmatrix<2, false>), 1, 32, 0, 0, dd, rows);
        else
            IMF_LAUNCH((raw_ldmatrix<2, true>), 1, 32, 0, 0, dd, rows);
        expect(0);
        std::vector<uint32_t> out = host_copy(dd, 128);
        for (uint32_t lane = 0; lane < 32; lane++)
            for (uint32_t m = 0; m < uint32_t(count); m++)
                for (uint32_t h = 0; h < 2; h++) {
                    uint32_t row = lane / 4, col = 2 * (lane % 4) + h;
                    uint32_t want = trans ? 64 * m + 8 * col + row : 64 * m + 8 * row + col;
                    ck_assert_uint_eq(out[lane * 4 + m] >> (16 * h) & 0xffff, want);
                }
    }
    cudaFree(ds);
    cudaFree(dd);
}
END_TEST

/* A 32 x 32 x 32 product as kernels do it: ldmatrix for both operands. `bug` exchanges two rows of
 * addresses, as a wrong fragment index does. */
template <int bug> __global__ void tile_product(float *d, const uint4 *a, const uint4 *bt)
{
    IMF_SHARED(uint4, sa, [32][5]); /* rows of 32 bf16 padded to 5 x 16 bytes: no bank conflicts */
    IMF_SHARED(uint4, sb, [32][5]);
    unsigned lane = threadIdx.x;
    for (unsigned c = 0; c < 4; c++) {
        sa[lane][c] = a[lane * 4 + c];
        sb[lane][c] = bt[lane * 4 + c];
    }
    __syncthreads();
    float acc[2][4][4] = {};
    for (unsigned k = 0; k < 2; k++) {
        uint32_t fa[2][4], fb[4][2];
        for (unsigned i = 0; i < 2; i++)
            ldmatrix_x4(fa[i], &sa[16 * i + (lane % 16 ^ bug)][2 * k + lane / 16]);
        for (unsigned j = 0; j < 4; j += 2) {
            uint32_t r[4];
            ldmatrix_x4(r, &sb[8 * j + lane / 16 * 8 + lane % 8][2 * k + lane / 8 % 2]);
            fb[j][0] = r[0], fb[j][1] = r[1], fb[j + 1][0] = r[2], fb[j + 1][1] = r[3];
        }
        mma_bf16_tile(acc, fa, fb);
    }
    for (unsigned i = 0; i < 2; i++)
        for (unsigned j = 0; j < 4; j++)
            for (unsigned e = 0; e < 4; e++)
                d[(16 * i + lane / 4 + e / 2 * 8) * 32 + 8 * j + lane % 4 * 2 + e % 2] =
                    acc[i][j][e];
}

START_TEST(wrong_fragment_index)
{
    fresh();
    std::vector<uint16_t> a(1024), b(1024);
    std::vector<float> want(1024);
    for (int i = 0; i < 1024; i++) {
        a[size_t(i)] = imf_emu_bf16_bits(small_value(i));
        b[size_t(i)] = imf_emu_bf16_bits(small_value(i + 5000));
    }
    for (int r = 0; r < 32; r++)
        for (int c = 0; c < 32; c++)
            for (int k = 0; k < 32; k++)
                want[size_t(r * 32 + c)] +=
                    small_value(r * 32 + k) * small_value(c * 32 + k + 5000);
    uint16_t *da = device_copy(a), *db = device_copy(b);
    const uint4 *va = reinterpret_cast<const uint4 *>(da),
                *vb = reinterpret_cast<const uint4 *>(db);
    float *dd = device_array<float>(1024);
    IMF_LAUNCH(tile_product<0>, 1, 32, 0, 0, dd, va, vb);
    expect(0);
    ck_assert(host_copy(dd, 1024) == want);
    const struct imf_emu_counters *c = imf_emu_counters_find("tile_product<0>");
    ck_assert_uint_eq(c->tensor_flops, 2 * 32 * 32 * 32);
    /* 8 stores and 8 ldmatrix.x4, each 4 passes of 8 rows, none twice to a bank */
    ck_assert_uint_eq(c->shared_requests, 16);
    ck_assert_uint_eq(c->shared_ideal, 64);
    ck_assert_uint_eq(c->shared_wavefronts, 64);
    IMF_LAUNCH(tile_product<1>, 1, 32, 0, 0, dd, va, vb);
    expect(0);
    ck_assert(host_copy(dd, 1024) != want);
    cudaFree(da);
    cudaFree(db);
    cudaFree(dd);
}
END_TEST

/* ---- shuffles, votes, reductions, atomics ---- */

__global__ void warp_functions(int *x)
{
    int lane = int(threadIdx.x);
    x[lane] = __shfl_sync(0xffffffffu, lane, 5);
    x[32 + lane] = __shfl_up_sync(0xffffffffu, lane, 3);
    x[64 + lane] = __shfl_down_sync(0xffffffffu, lane, 3, 8);
    x[96 + lane] = __shfl_xor_sync(0xffffffffu, lane, 16);
    x[128 + lane] = int(__ballot_sync(0xffffffffu, lane % 3 == 0));
    x[160 + lane] = __any_sync(0xffffffffu, lane == 7) + 2 * __all_sync(0xffffffffu, lane < 31);
    x[192 + lane] = int(warp_sum(float(lane))) * 1000 + int(warp_max(float(-lane)));
    x[224 + lane] = __syncthreads_count(lane < 5) * 100 + __syncthreads_or(lane == 9) * 10 +
                    __syncthreads_and(lane == 9);
}

START_TEST(warp_function_results)
{
    fresh();
    int *x = device_array<int>(256);
    IMF_LAUNCH(warp_functions, 1, 32, 0, 0, x);
    expect(0);
    std::vector<int> v = host_copy(x, 256);
    uint32_t ballot = 0;
    for (uint32_t l = 0; l < 32; l += 3)
        ballot |= 1u << l;
    for (int l = 0; l < 32; l++) {
        ck_assert_int_eq(v[size_t(l)], 5);
        ck_assert_int_eq(v[size_t(32 + l)], l < 3 ? l : l - 3);
        ck_assert_int_eq(v[size_t(64 + l)], l % 8 + 3 < 8 ? l + 3 : l);
        ck_assert_int_eq(v[size_t(96 + l)], l ^ 16);
        ck_assert_uint_eq(uint32_t(v[size_t(128 + l)]), ballot);
        ck_assert_int_eq(v[size_t(160 + l)], 1);
        ck_assert_int_eq(v[size_t(192 + l)], 496000);
        ck_assert_int_eq(v[size_t(224 + l)], 510);
    }
    cudaFree(x);
}
END_TEST

__global__ void atomics(unsigned *count, float *sum, float *plain)
{
    atomicAdd(count, 1u);
    atomicAdd(sum, 0.5f);
    if (plain)
        plain[0] = 1.0f;
}

START_TEST(atomics_do_not_race)
{
    fresh();
    unsigned *n = device_array<unsigned>(1);
    float *s = device_array<float>(1);
    IMF_LAUNCH(atomics, 4, 64, 0, 0, n, s, static_cast<float *>(nullptr));
    expect(0);
    ck_assert_uint_eq(host_copy(n, 1)[0], 256);
    ck_assert(host_copy(s, 1)[0] == 128.0f);
    IMF_LAUNCH(atomics, 1, 64, 0, 0, n, s, s); /* but a plain write beside them does */
    expect(IMF_EMU_RACE);
    imf_emu_reset();
    cudaFree(n);
    cudaFree(s);
}
END_TEST

__constant__ float table[4] = {1.0f, 2.0f, 3.0f, 4.0f};

__global__ void read_constant(float *x)
{
    x[threadIdx.x] = table[threadIdx.x];
}

START_TEST(constant_memory)
{
    fresh();
    float *x = device_array<float>(4);
    float v[2] = {7.0f, 8.0f};
    ck_assert_int_eq(cudaMemcpyToSymbol(table, v, sizeof v, 8), cudaSuccess);
    IMF_LAUNCH(read_constant, 1, 4, 0, 0, x);
    expect(0);
    ck_assert(host_copy(x, 4)[1] == 2.0f && host_copy(x, 4)[3] == 8.0f);
    cudaFree(x);
}
END_TEST

/* ---- counters ---- */

__global__ void strided_copy(float *dst, const float *src, int stride)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    dst[i] = src[i * unsigned(stride)];
}

START_TEST(counters_exact)
{
    fresh();
    float *x = device_array<float>(2048), *y = device_array<float>(2048);
    /* 4 blocks x 64 threads: 256 floats = 1 KiB each way; 4 sectors a warp. */
    IMF_LAUNCH(strided_copy, 4, 64, 0, 0, y, x, 1);
    expect(0);
    const struct imf_emu_counters *c = imf_emu_counters_find("strided_copy");
    ck_assert_uint_eq(c->launches, 1);
    ck_assert_uint_eq(c->blocks, 4);
    ck_assert_uint_eq(c->threads, 256);
    ck_assert_uint_eq(c->read_bytes, 1024);
    ck_assert_uint_eq(c->write_bytes, 1024);
    ck_assert_uint_eq(c->read_sectors, 32);
    ck_assert_uint_eq(c->write_sectors, 32);
    ck_assert_uint_eq(c->read_unique, 1024);
    ck_assert_uint_eq(c->write_unique, 1024);
    imf_emu_counters_reset();
    /* Stride 8: a sector per thread. */
    IMF_LAUNCH(strided_copy, 4, 64, 0, 0, y, x, 8);
    expect(0);
    c = imf_emu_counters_find("strided_copy");
    ck_assert_uint_eq(c->read_bytes, 1024);
    ck_assert_uint_eq(c->read_sectors, 256);
    ck_assert_uint_eq(c->read_unique, 8192);
    imf_emu_counters_reset();
    /* Stride 0: everyone the same word: one sector a warp, 32 bytes in all. */
    IMF_LAUNCH(strided_copy, 4, 64, 0, 0, y, x, 0);
    expect(0);
    c = imf_emu_counters_find("strided_copy");
    ck_assert_uint_eq(c->read_sectors, 8);
    ck_assert_uint_eq(c->read_unique, 32);
    imf_emu_counters_reset();
    IMF_LAUNCH(copy_vectors, 1, 32, 0, 0, reinterpret_cast<float4 *>(y), x);
    expect(0);
    c = imf_emu_counters_find("copy_vectors");
    ck_assert_uint_eq(c->read_bytes, 512);
    ck_assert_uint_eq(c->read_sectors, 16);
    ck_assert_uint_eq(imf_emu_launches(), 1);
    cudaFree(x);
    cudaFree(y);
}
END_TEST

__global__ void shared_stride(float *x, int stride)
{
    IMF_SHARED(float, s, [32 * 33]);
    for (unsigned i = threadIdx.x; i < 32 * 33; i += 32)
        s[i] = 0.0f;
    __syncthreads();
    x[threadIdx.x] = s[threadIdx.x * unsigned(stride)];
}

static uint64_t conflicts_at(float *x, int stride)
{
    imf_emu_counters_reset();
    IMF_LAUNCH(shared_stride, 1, 32, 0, 0, x, stride);
    expect(0);
    const struct imf_emu_counters *c = imf_emu_counters_find("shared_stride");
    ck_assert_uint_eq(c->shared_requests, 34);
    ck_assert_uint_eq(c->shared_ideal, 34);
    return c->shared_wavefronts - c->shared_ideal;
}

START_TEST(bank_conflicts)
{
    fresh();
    float *x = device_array<float>(32);
    ck_assert_uint_eq(conflicts_at(x, 0), 0); /* broadcast */
    ck_assert_uint_eq(conflicts_at(x, 1), 0);
    ck_assert_uint_eq(conflicts_at(x, 2), 1);
    ck_assert_uint_eq(conflicts_at(x, 32), 31);
    ck_assert_uint_eq(conflicts_at(x, 33), 0);
    cudaFree(x);
}
END_TEST

/* ---- limits ---- */

__global__ void nothing(void)
{
}

__global__ void use_dynamic(float *x, unsigned n)
{
    IMF_DYNAMIC_SHARED(float, s);
    s[n] = 1.0f;
    x[0] = s[n];
}

__global__ void much_static(float *x)
{
    IMF_SHARED(float, s, [12 * 1024 + 1]);
    s[0] = 1.0f;
    x[0] = s[0];
}

START_TEST(launch_limits)
{
    fresh();
    struct {
        dim3 grid, block;
    } bad[] = {{dim3(1), dim3(1025)},       {dim3(1), dim3(32, 33)}, {dim3(1), dim3(1, 1, 65)},
               {dim3(1, 65536), dim3(1)},   {dim3(0), dim3(1)},      {dim3(1), dim3(0)},
               {dim3(1, 1, 65536), dim3(1)}};
    for (auto &b : bad) {
        fresh();
        IMF_LAUNCH(nothing, b.grid, b.block, 0, 0);
        ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidConfiguration);
        ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_LIMITS);
    }
    fresh();
    IMF_LAUNCH(nothing, 1, 1024, 0, 0);
    expect(0);
    float *x = device_array<float>(1);
    IMF_LAUNCH(use_dynamic, 1, 1, 48 << 10, 0, x, 100u);
    expect(0);
    IMF_LAUNCH(use_dynamic, 1, 1, (48 << 10) + 16, 0, x, 100u);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidValue);
    fresh();
    ck_assert_int_eq(
        cudaFuncSetAttribute(use_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 232448),
        cudaSuccess);
    IMF_LAUNCH(use_dynamic, 1, 1, 232448, 0, x, 232448u / 4 - 1);
    expect(0);
    ck_assert_int_eq(
        cudaFuncSetAttribute(use_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 232449),
        cudaErrorInvalidValue);
    fresh();
    IMF_LAUNCH(much_static, 1, 1, 0, 0, x);
    expect(IMF_EMU_LIMITS);
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

/* ---- streams, events, graphs ---- */

__global__ void add_one(float *x, float by)
{
    x[threadIdx.x] += by;
}

START_TEST(host_read_before_sync)
{
    fresh();
    float *x = device_copy(std::vector<float>(1024, 3.0f)), *pinned;
    cudaStream_t s;
    ck_assert_int_eq(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    ck_assert_int_eq(cudaMallocHost(&pinned, 4096), cudaSuccess);
    cudaMemcpyAsync(pinned, x, 4096, cudaMemcpyDeviceToHost, s);
    cudaStreamSynchronize(s);
    ck_assert(pinned[17] == 3.0f);
    expect(0);
    cudaMemcpyAsync(pinned, x, 4096, cudaMemcpyDeviceToHost, s);
    volatile float early = pinned[17]; /* planted */
    ck_assert(early != 3.0f);
    ck_assert_int_eq(imf_emu_report_count(), 1);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_HOST_SYNC);
    ck_assert_uint_eq(imf_emu_report_at(0)->address, uint64_t(uintptr_t(pinned + 17)));
    cudaStreamSynchronize(s);
    ck_assert(pinned[17] == 3.0f);
    fresh();
    /* Changing the source of an upload before it has run is the same mistake; reading it is none.
     */
    cudaMemcpyAsync(x, pinned, 4096, cudaMemcpyHostToDevice, s);
    ck_assert(pinned[5] == 3.0f);
    ck_assert_int_eq(imf_emu_report_count(), 0);
    pinned[5] = 4.0f;
    ck_assert_int_eq(imf_emu_report_count(), 1);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_HOST_SYNC);
    cudaStreamSynchronize(s);
    imf_emu_reset();
    cudaFreeHost(pinned);
    cudaStreamDestroy(s);
    cudaFree(x);
}
END_TEST

START_TEST(streams_and_events)
{
    fresh();
    float *x = device_copy(std::vector<float>(32, 1.0f)), *y = device_array<float>(32);
    cudaStream_t a, b;
    cudaEvent_t e;
    cudaDeviceSynchronize(); /* y's memset is on the legacy stream, which a and b do not wait for */
    cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
    cudaEventCreate(&e);
    IMF_LAUNCH(add_one, 1, 32, 0, a, x, 1.0f);
    cudaEventRecord(e, a);
    cudaStreamWaitEvent(b, e, 0);
    cudaMemcpyAsync(y, x, 128, cudaMemcpyDeviceToDevice, b);
    ck_assert_int_eq(cudaEventQuery(e), cudaErrorNotReady);
    cudaStreamSynchronize(b);
    ck_assert_int_eq(cudaEventQuery(e), cudaSuccess);
    ck_assert(host_copy(y, 32)[0] == 2.0f);
    /* The wait forgotten: the younger stream runs first and copies the old values. */
    IMF_LAUNCH(add_one, 1, 32, 0, a, x, 1.0f);
    cudaMemcpyAsync(y, x, 128, cudaMemcpyDeviceToDevice, b);
    cudaDeviceSynchronize();
    ck_assert(host_copy(y, 32)[0] == 2.0f);
    ck_assert(host_copy(x, 32)[0] == 3.0f);
    expect(0);
    /* A blocking stream and the legacy stream wait for each other. */
    cudaStream_t c;
    cudaStreamCreate(&c);
    IMF_LAUNCH(add_one, 1, 32, 0, c, x, 1.0f);
    ck_assert(host_copy(x, 32)[0] == 4.0f);
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
    cudaStreamDestroy(c);
    ck_assert_int_eq(cudaStreamSynchronize(c), cudaErrorInvalidResourceHandle);
    cudaGetLastError();
    cudaEventDestroy(e);
    cudaFree(x);
    cudaFree(y);
}
END_TEST

START_TEST(graphs)
{
    fresh();
    float *x = device_copy(std::vector<float>(32, 0.0f)), *pinned;
    cudaStream_t s, side;
    cudaEvent_t fork, join;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    size_t nodes = 0;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&fork, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&join, cudaEventDisableTiming);
    cudaMallocHost(&pinned, 128);
    float by = 1.0f;
    ck_assert_int_eq(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    IMF_LAUNCH(add_one, 1, 32, 0, s, x, by);
    by = 100.0f; /* arguments were taken at capture */
    cudaEventRecord(fork, s);
    cudaStreamWaitEvent(side, fork, 0);
    IMF_LAUNCH(add_one, 1, 32, 0, side, x, 2.0f);
    cudaEventRecord(join, side);
    cudaStreamWaitEvent(s, join, 0);
    cudaMemcpyAsync(pinned, x, 128, cudaMemcpyDeviceToHost, s);
    ck_assert_int_eq(cudaStreamEndCapture(s, &graph), cudaSuccess);
    ck_assert_int_eq(cudaGraphGetNodes(graph, nullptr, &nodes), cudaSuccess);
    ck_assert_uint_eq(nodes, 3);
    ck_assert_uint_eq(imf_emu_launches(), 0); /* nothing has run */
    ck_assert_int_eq(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    cudaGraphDestroy(graph);
    for (int i = 1; i <= 3; i++) {
        ck_assert_int_eq(cudaGraphLaunch(exec, s), cudaSuccess);
        cudaStreamSynchronize(s);
        ck_assert(pinned[9] == 3.0f * float(i));
    }
    ck_assert_uint_eq(imf_emu_launches(), 6);
    ck_assert_uint_eq(imf_emu_counters_find("memcpy D2H")->launches, 3);
    /* Reading before the replay is synchronised is seen as well. */
    cudaGraphLaunch(exec, s);
    volatile float early = pinned[0];
    (void)early;
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_HOST_SYNC);
    cudaStreamSynchronize(s);
    fresh();
    cudaGraphExecDestroy(exec);

    /* What capture forbids. */
    cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
    ck_assert_int_eq(cudaStreamSynchronize(s), cudaErrorStreamCaptureUnsupported);
    ck_assert_int_eq(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);
    cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
    void *p;
    ck_assert_int_eq(cudaMalloc(&p, 16), cudaErrorStreamCaptureUnsupported);
    ck_assert_int_eq(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);
    /* A side stream that never joins. */
    cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
    cudaEventRecord(fork, s);
    cudaStreamWaitEvent(side, fork, 0);
    IMF_LAUNCH(add_one, 1, 32, 0, side, x, 2.0f);
    ck_assert_int_eq(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureUnjoined);
    cudaGetLastError();
    cudaFreeHost(pinned);
    cudaEventDestroy(fork);
    cudaEventDestroy(join);
    cudaStreamDestroy(s);
    cudaStreamDestroy(side);
    cudaFree(x);
    expect(0);
}
END_TEST

/* ---- injected errors ---- */

START_TEST(injected_errors)
{
    fresh();
    void *p, *q;
    imf_emu_fail_malloc(2);
    ck_assert_int_eq(cudaMalloc(&p, 100), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&q, 100), cudaErrorMemoryAllocation);
    ck_assert_ptr_null(q);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess); /* not sticky */
    ck_assert_int_eq(cudaMalloc(&q, size_t(1) << 50), cudaErrorMemoryAllocation);
    cudaFree(p);
    fresh();
    imf_emu_fail_launch(2, cudaErrorLaunchTimeout);
    IMF_LAUNCH(nothing, 1, 1, 0, 0);
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
    IMF_LAUNCH(nothing, 1, 1, 0, 0);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess); /* asynchronous: found out at the wait */
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaErrorLaunchTimeout);
    ck_assert_int_eq(cudaMalloc(&p, 100), cudaErrorLaunchTimeout); /* sticky */
    ck_assert_str_eq(cudaGetErrorName(cudaErrorLaunchTimeout), "cudaErrorLaunchTimeout");
    fresh();
    imf_emu_sick_device(0);
    ck_assert_int_eq(cudaMalloc(&p, 100), cudaErrorECCUncorrectable);
    imf_emu_reset();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cuda_emu");
    TCase *t = tcase_create("device");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, missing_barrier);
    tcase_add_test(t, missing_barrier_with_right_result);
    tcase_add_test(t, missing_syncwarp);
    tcase_add_test(t, syncwarp_is_not_syncthreads);
    tcase_add_test(t, races_are_seen_per_byte);
    tcase_add_test(t, race_between_blocks);
    tcase_add_test(t, off_by_one_global);
    tcase_add_test(t, off_by_one_shared);
    tcase_add_test(t, misaligned_vector);
    tcase_add_test(t, uninitialised_shared);
    tcase_add_test(t, uninitialised_global);
    tcase_add_test(t, use_after_free);
    tcase_add_test(t, host_pointer_on_device);
    tcase_add_test(t, divergent_barriers);
    tcase_add_test(t, cp_async_pipelines);
    tcase_add_test(t, mma_layout);
    tcase_add_test(t, ldmatrix_layout);
    tcase_add_test(t, wrong_fragment_index);
    tcase_add_test(t, warp_function_results);
    tcase_add_test(t, atomics_do_not_race);
    tcase_add_test(t, constant_memory);
    tcase_add_test(t, counters_exact);
    tcase_add_test(t, bank_conflicts);
    tcase_add_test(t, launch_limits);
    suite_add_tcase(s, t);
    t = tcase_create("runtime");
    tcase_add_test(t, host_read_before_sync);
    tcase_add_test(t, streams_and_events);
    tcase_add_test(t, graphs);
    tcase_add_test(t, injected_errors);
    suite_add_tcase(s, t);
    add_api_tests(s);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    imf_emu_reset();
    return failed ? 1 : 0;
}
