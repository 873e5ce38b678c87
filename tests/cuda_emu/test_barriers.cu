/* Kernels with a missing or divergent barrier: races in shared and global memory, between threads,
 * warps and blocks; warp operations whose lanes do not come. */
#include "test_emu.h"

template <bool barrier> static __global__ void reverse_block(float *x)
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
template <bool barrier> static __global__ void reuse_buffer(float *x)
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
    ck_assert(strstr(r->text, "test_barriers.cu:"));
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

template <bool barrier> static __global__ void warp_exchange(float *x)
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
static __global__ void syncwarp_between_warps(float *x)
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
static __global__ void bytes_of_a_word(uint8_t *dst, uint16_t *dst2, unsigned overlap)
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

static __global__ void all_blocks_write_one(float *x)
{
    if (threadIdx.x == 0)
        x[0] = 1.0f;
}

static __global__ void read_neighbour_block(float *y, const float *x, float *z)
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

static __global__ void barrier_in_branches(float *x)
{
    if (threadIdx.x < 32) {
        __syncthreads();
        x[threadIdx.x] = 1.0f;
    } else {
        x[threadIdx.x] = 2.0f;
        __syncthreads();
    }
}

static __global__ void barrier_after_return(float *x, unsigned n)
{
    if (threadIdx.x >= n)
        return;
    __syncthreads();
    x[threadIdx.x] = 1.0f;
}

static __global__ void shuffle_in_branch(float *x)
{
    float v = x[threadIdx.x];
    if (threadIdx.x < 16)
        v += __shfl_xor_sync(0xffffffffu, v, 1);
    x[threadIdx.x] = v;
}

static __global__ void shuffle_half(float *x)
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
    ck_assert(strstr(r->text, "test_barriers.cu:"));
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

TCase *barrier_tests(void)
{
    TCase *t = tcase_create("barriers");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, missing_barrier);
    tcase_add_test(t, missing_barrier_with_right_result);
    tcase_add_test(t, missing_syncwarp);
    tcase_add_test(t, syncwarp_is_not_syncthreads);
    tcase_add_test(t, races_are_seen_per_byte);
    tcase_add_test(t, race_between_blocks);
    tcase_add_test(t, divergent_barriers);
    return t;
}
