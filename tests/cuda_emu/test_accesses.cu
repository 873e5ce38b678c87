/* Kernels that touch what they may not: out of bounds, misaligned, uninitialised, freed, not
 * theirs. */
#include "test_emu.h"

static __global__ void off_by_one(float *dst, int n)
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

static __global__ void off_by_one_in_shared(float *x, int n)
{
    IMF_SHARED(float, s, [48]);
    IMF_SHARED(float, t, [48]);
    for (int i = 0; i <= n; i++)
        s[i] = 0.0f;
    t[0] = 0.0f;
    x[0] = s[0] + t[0];
}

static __global__ void dynamic_too_small(float *x, int n)
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

static __global__ void copy_vectors(float4 *dst, const float *src)
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

static __global__ void sum_shared(float *x, int written)
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

static __global__ void read_at(float *dst, const float *src, int index)
{
    dst[0] = src[index];
}

static __global__ void write_float4(float *dst, int offset)
{
    *reinterpret_cast<float4 *>(dst + offset) = make_float4(1, 2, 3, 4);
}

static __global__ void misaligned_in_shared(float *x, int offset)
{
    IMF_SHARED(float, s, [12]);
    for (int i = 0; i < 12; i++)
        s[i] = 0.0f;
    const float2 v = *reinterpret_cast<const float2 *>(s + offset);
    x[0] = v.x + v.y;
}

/* Before the first byte, past the last, and in the gap between two allocations. */
START_TEST(reads_out_of_bounds)
{
    fresh();
    float *x = device_array<float>(3), *y = device_array<float>(1);
    const int good[] = {0, 2}, bad[] = {-1, 3, -40, 40};
    for (int i : good)
        IMF_LAUNCH(read_at, 1, 1, 0, 0, y, x, i);
    expect(0);
    for (int i : bad) {
        fresh();
        IMF_LAUNCH(read_at, 1, 1, 0, 0, y, x, i);
        const struct imf_emu_report *r = expect(IMF_EMU_OUT_OF_BOUNDS);
        ck_assert_uint_eq(r->address, uint64_t(uintptr_t(x + i)));
    }
    imf_emu_reset();
    cudaFree(x);
    cudaFree(y);
}
END_TEST

START_TEST(misaligned_writes_and_shared)
{
    fresh();
    float *x = device_array<float>(16);
    IMF_LAUNCH(write_float4, 1, 1, 0, 0, x, 4);
    IMF_LAUNCH(misaligned_in_shared, 1, 1, 0, 0, x, 2);
    expect(0);
    IMF_LAUNCH(write_float4, 1, 1, 0, 0, x, 2);
    expect(IMF_EMU_MISALIGNED);
    fresh();
    IMF_LAUNCH(misaligned_in_shared, 1, 1, 0, 0, x, 3);
    const struct imf_emu_report *r = expect(IMF_EMU_MISALIGNED);
    ck_assert(strstr(r->text, "shared array s"));
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

/* Two GPUs: each sees its own memory only, and a stream takes work of its own GPU. */
START_TEST(memory_of_another_device)
{
    fresh();
    float *mine = device_array<float>(8), *theirs;
    cudaStream_t s;
    ck_assert_int_eq(cudaSetDevice(1), cudaSuccess);
    theirs = device_array<float>(8);
    cudaDeviceSynchronize();
    ck_assert_int_eq(cudaStreamCreate(&s), cudaSuccess);
    ck_assert_int_eq(cudaSetDevice(0), cudaSuccess);
    IMF_LAUNCH(read_at, 1, 1, 0, 0, mine, theirs, 1);
    const struct imf_emu_report *r = expect(IMF_EMU_OUT_OF_BOUNDS);
    ck_assert(strstr(r->text, "another device"));
    fresh();
    IMF_LAUNCH(read_at, 1, 1, 0, s, mine, mine, 1);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidResourceHandle);
    /* A fault poisons its own device only. */
    IMF_LAUNCH(read_at, 1, 1, 0, 0, mine, mine, 8);
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaSetDevice(1), cudaSuccess);
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
    imf_emu_reset();
    cudaFree(theirs);
    cudaStreamDestroy(s);
    ck_assert_int_eq(cudaSetDevice(0), cudaSuccess);
    cudaFree(mine);
}
END_TEST

static __global__ void trapped(int at)
{
    if (int(threadIdx.x) == at)
        __trap();
}

START_TEST(trap_ends_the_launch)
{
    fresh();
    IMF_LAUNCH(trapped, 1, 32, 0, 0, 32);
    expect(0);
    IMF_LAUNCH(trapped, 1, 32, 0, 0, 7);
    const struct imf_emu_report *r = expect(IMF_EMU_TRAP);
    ck_assert_uint_eq(r->thread[0], 7);
    imf_emu_reset();
}
END_TEST

TCase *access_tests(void)
{
    TCase *t = tcase_create("accesses");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, off_by_one_global);
    tcase_add_test(t, off_by_one_shared);
    tcase_add_test(t, misaligned_vector);
    tcase_add_test(t, uninitialised_shared);
    tcase_add_test(t, uninitialised_global);
    tcase_add_test(t, use_after_free);
    tcase_add_test(t, host_pointer_on_device);
    tcase_add_test(t, reads_out_of_bounds);
    tcase_add_test(t, misaligned_writes_and_shared);
    tcase_add_test(t, memory_of_another_device);
    tcase_add_test(t, trap_ends_the_launch);
    return t;
}
