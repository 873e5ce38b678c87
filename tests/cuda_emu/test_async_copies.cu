/* cp.async: pipelines with one mistake each, partial copies, bad addresses. */
#include "test_emu.h"

/* Sums rows of 32 float4 through a ring of two buffers. `bug`: 1 no wait, 2 no barrier after the
 * wait, 3 no barrier before a buffer is filled again. */
template <int bug> static __global__ void ring(float *dst, const float4 *src, int rows)
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

static __global__ void partial_copy(float *dst, const float *src, int bytes)
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

static __global__ void copy_one(float *dst, const float *src, int from, int to)
{
    IMF_SHARED(float4, s, [2]);
    float *t = reinterpret_cast<float *>(s);
    for (int i = 0; i < 8; i++)
        t[i] = 0.0f;
    __syncwarp();
    cp_async8(t + to, src + from);
    cp_async4(t + to + 2, src + from + 2);
    cp_async_commit();
    cp_async_wait<0>();
    for (int i = 0; i < 3; i++)
        dst[i] = t[to + i];
}

static __global__ void copy_to(float *dst, const float4 *src, int out_of_shared)
{
    IMF_SHARED(float4, s, [2]);
    cp_async16(out_of_shared ? reinterpret_cast<float4 *>(dst) : s + 2, src);
    cp_async_commit();
    cp_async_wait<0>();
}

START_TEST(cp_async_addresses)
{
    fresh();
    float *x = device_copy(std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7}), *y = device_array<float>(8);
    IMF_LAUNCH(copy_one, 1, 1, 0, 0, y, x, 2, 4);
    expect(0);
    ck_assert(host_copy(y, 3) == (std::vector<float>{2, 3, 4}));
    IMF_LAUNCH(copy_one, 1, 1, 0, 0, y, x, 1, 4); /* 8 bytes from a multiple of 4 */
    expect(IMF_EMU_MISALIGNED);
    fresh();
    IMF_LAUNCH(copy_one, 1, 1, 0, 0, y, x, 2, 3);
    expect(IMF_EMU_MISALIGNED);
    fresh();
    const float4 *v = reinterpret_cast<const float4 *>(x);
    IMF_LAUNCH(copy_to, 1, 1, 0, 0, y, v, 0);
    expect(IMF_EMU_OUT_OF_BOUNDS); /* past the shared array */
    fresh();
    IMF_LAUNCH(copy_to, 1, 1, 0, 0, y, v, 1);
    expect(IMF_EMU_OUT_OF_BOUNDS); /* not shared memory at all */
    fresh();
    float *raw = device_array<float>(8, false);
    IMF_LAUNCH(copy_one, 1, 1, 0, 0, y, raw, 2, 4);
    expect(IMF_EMU_UNINITIALISED);
    imf_emu_reset();
    cudaFree(x);
    cudaFree(y);
    cudaFree(raw);
}
END_TEST

TCase *async_copy_tests(void)
{
    TCase *t = tcase_create("cp.async");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, cp_async_pipelines);
    tcase_add_test(t, cp_async_addresses);
    return t;
}
