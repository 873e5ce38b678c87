/* Launches over the limits, occupancy, device properties. */
#include "test_emu.h"

static __global__ void nothing(void)
{
}

static __global__ void use_dynamic(float *x, unsigned n)
{
    IMF_DYNAMIC_SHARED(float, s);
    s[n] = 1.0f;
    x[0] = s[n];
}

static __global__ void much_static(float *x)
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

struct large {
    char bytes[4097 - 8];
};

static __global__ void large_parameters(large, float *)
{
}

static __global__ void static_and_dynamic(float *x)
{
    IMF_SHARED(float, s, [10 * 1024]);
    IMF_DYNAMIC_SHARED(float, d);
    s[0] = d[0] = 1.0f;
    x[0] = s[0] + d[0];
}

START_TEST(parameters_and_shared_together)
{
    fresh();
    float *x = device_array<float>(1);
    IMF_LAUNCH(large_parameters, 1, 1, 0, 0, large(), x);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidValue);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_LIMITS);
    fresh();
    ck_assert_int_eq(cudaFuncSetAttribute(static_and_dynamic,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, 200 << 10),
                     cudaSuccess);
    IMF_LAUNCH(static_and_dynamic, 1, 1, 180 << 10, 0, x);
    expect(0);
    IMF_LAUNCH(static_and_dynamic, 1, 1, 190 << 10, 0, x); /* with 40 KiB more than 227 KiB */
    expect(IMF_EMU_LIMITS);
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

START_TEST(device_properties)
{
    fresh();
    int count = 0, v = 0;
    ck_assert_int_eq(cudaGetDeviceCount(&count), cudaSuccess);
    ck_assert_int_eq(count, 2); /* main() asks for two */
    struct cudaDeviceProp p;
    ck_assert_int_eq(cudaGetDeviceProperties(&p, 1), cudaSuccess);
    ck_assert_str_eq(p.name, "Emulated H100");
    ck_assert_int_eq(p.major * 10 + p.minor, 90);
    ck_assert_uint_eq(p.totalGlobalMem, size_t(80) << 30);
    ck_assert_int_eq(p.multiProcessorCount, 132);
    ck_assert_uint_eq(p.sharedMemPerBlockOptin, 232448);
    ck_assert_uint_eq(p.sharedMemPerBlock, 49152);
    ck_assert_int_eq(p.maxThreadsPerBlock, 1024);
    ck_assert_int_eq(p.warpSize, 32);
    const struct {
        enum cudaDeviceAttr attribute;
        int value;
    } same[] = {{cudaDevAttrMultiProcessorCount, p.multiProcessorCount},
                {cudaDevAttrMaxSharedMemoryPerBlockOptin, int(p.sharedMemPerBlockOptin)},
                {cudaDevAttrMaxSharedMemoryPerBlock, int(p.sharedMemPerBlock)},
                {cudaDevAttrMaxSharedMemoryPerMultiprocessor, int(p.sharedMemPerMultiprocessor)},
                {cudaDevAttrMaxThreadsPerBlock, p.maxThreadsPerBlock},
                {cudaDevAttrMaxThreadsPerMultiProcessor, p.maxThreadsPerMultiProcessor},
                {cudaDevAttrL2CacheSize, p.l2CacheSize},
                {cudaDevAttrComputeCapabilityMajor, 9},
                {cudaDevAttrComputeCapabilityMinor, 0},
                {cudaDevAttrWarpSize, 32}};
    for (auto &t : same) {
        ck_assert_int_eq(cudaDeviceGetAttribute(&v, t.attribute, 0), cudaSuccess);
        ck_assert_int_eq(v, t.value);
    }
    ck_assert_int_eq(cudaGetDeviceProperties(&p, 2), cudaErrorInvalidDevice);
    ck_assert_int_eq(cudaDeviceGetAttribute(&v, cudaDevAttrWarpSize, -1), cudaErrorInvalidDevice);
    ck_assert_int_eq(cudaDeviceGetAttribute(&v, static_cast<enum cudaDeviceAttr>(9999), 0),
                     cudaErrorInvalidValue);
    ck_assert_int_eq(cudaSetDevice(2), cudaErrorInvalidDevice);
    ck_assert_int_eq(cudaGetDevice(&v), cudaSuccess);
    ck_assert_int_eq(v, 0);
    imf_emu_reset();
}
END_TEST

/* Blocks a multiprocessor of an H100 holds: 2048 threads, 32 blocks, 228 KiB of which each block
 * costs 1 KiB more than it asks. */
START_TEST(occupancy)
{
    const struct {
        int threads;
        size_t shared;
        int blocks;
    } t[] = {{1024, 0, 2},       {1000, 0, 2},     {256, 0, 8},      {32, 0, 32},
             {128, 72 << 10, 3}, {128, 232448, 1}, {128, 232449, 0}, {384, 0, 5}};
    fresh();
    int blocks = -1;
    for (auto &c : t) {
        ck_assert_int_eq(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, use_dynamic,
                                                                       c.threads, c.shared),
                         cudaSuccess);
        ck_assert_msg(blocks == c.blocks, "%d threads, %zu bytes: %d blocks, want %d", c.threads,
                      c.shared, blocks, c.blocks);
    }
    ck_assert_int_eq(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, use_dynamic, 1025, 0),
                     cudaErrorInvalidValue);
    cudaGetLastError();
    /* Static shared memory counts, once a launch has told how much it is. */
    float *x = device_array<float>(1);
    IMF_LAUNCH(static_and_dynamic, 1, 1, 1024, 0, x);
    expect(0);
    struct cudaFuncAttributes a;
    ck_assert_int_eq(cudaFuncGetAttributes(&a, static_and_dynamic), cudaSuccess);
    ck_assert_uint_eq(a.sharedSizeBytes, 40 << 10);
    ck_assert_int_eq(
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, static_and_dynamic, 32, 0),
        cudaSuccess);
    ck_assert_int_eq(blocks, 5);
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

TCase *limit_tests(void)
{
    TCase *t = tcase_create("limits");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, launch_limits);
    tcase_add_test(t, parameters_and_shared_together);
    tcase_add_test(t, device_properties);
    tcase_add_test(t, occupancy);
    return t;
}
