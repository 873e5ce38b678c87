/* The counters, on kernels whose figures are known. */
#include <unistd.h>
#include "test_emu.h"

static __global__ void copy_vectors(float4 *dst, const float *src)
{
    dst[threadIdx.x] = *reinterpret_cast<const float4 *>(src + 4 * threadIdx.x);
}

static __global__ void strided_copy(float *dst, const float *src, int stride)
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

static __global__ void shared_stride(float *x, int stride)
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

static __global__ void two_barriers(float *x)
{
    IMF_SHARED(float, s, [64]);
    s[threadIdx.x] = 1.0f;
    __syncthreads();
    float v = s[63 - threadIdx.x];
    __syncthreads();
    x[blockIdx.x * 64 + threadIdx.x] = v;
}

/* Lanes that take different paths: what one instruction asks for is still one request. */
static __global__ void diverged(float *dst, const float *src)
{
    IMF_SHARED(float, s, [32]);
    float v = 0.0f;
    if (threadIdx.x % 2)
        v = src[threadIdx.x];
    for (unsigned i = 0; i <= threadIdx.x; i++)
        s[threadIdx.x] = v;
    dst[threadIdx.x] = v;
}

START_TEST(barriers_and_divergence)
{
    fresh();
    float *x = device_array<float>(192), *y = device_array<float>(32);
    cudaDeviceSynchronize();
    imf_emu_counters_reset();
    IMF_LAUNCH(two_barriers, 3, 64, 128, 0, x);
    IMF_LAUNCH(diverged, 1, 32, 0, 0, y, x);
    expect(0);
    const struct imf_emu_counters *c = imf_emu_counters_find("two_barriers");
    ck_assert_uint_eq(c->barriers, 6);
    ck_assert_uint_eq(c->shared_requests, 3 * 2 * 2);
    ck_assert_uint_eq(c->static_smem, 256);
    ck_assert_uint_eq(c->dynamic_smem, 128);
    ck_assert_uint_eq(c->grid[0], 3);
    ck_assert_uint_eq(c->block[0], 64);
    c = imf_emu_counters_find("diverged");
    ck_assert_uint_eq(c->read_bytes, 64);
    ck_assert_uint_eq(c->read_sectors, 4);
    ck_assert_uint_eq(c->write_sectors, 4);
    ck_assert_uint_eq(c->shared_requests, 32);
    ck_assert_uint_eq(c->shared_wavefronts, 32);
    ck_assert_uint_eq(imf_emu_launches(), 2);
    cudaFree(x);
    cudaFree(y);
}
END_TEST

/* ldmatrix of eight rows 32 bytes apart falls on half the banks; 128 bytes apart, all on the same.
 */
static __global__ void strided_ldmatrix(uint32_t *dst, int stride)
{
    IMF_SHARED(uint4, s, [32 * 8]);
    for (unsigned i = threadIdx.x; i < 32 * 8; i += 32)
        s[i] = make_uint4(0, 0, 0, 0);
    __syncwarp();
    uint32_t r[4];
    ldmatrix_x4(r, &s[threadIdx.x * unsigned(stride)]);
    dst[threadIdx.x] = r[0];
}

START_TEST(bank_conflicts_of_ldmatrix)
{
    fresh();
    uint32_t *x = device_array<uint32_t>(32);
    const int stride[] = {1, 2, 4, 5, 8}, conflicts[] = {0, 1, 3, 0, 7};
    for (int i = 0; i < 5; i++) {
        imf_emu_counters_reset();
        IMF_LAUNCH(strided_ldmatrix, 1, 32, 0, 0, x, stride[i]);
        expect(0);
        const struct imf_emu_counters *c = imf_emu_counters_find("strided_ldmatrix");
        ck_assert_uint_eq(c->shared_wavefronts - c->shared_ideal, 4 * conflicts[i]);
    }
    cudaFree(x);
}
END_TEST

/* COUNT counts the same and finds nothing; OFF does neither. */
START_TEST(check_levels)
{
    fresh();
    float *x = device_array<float>(32), *y = device_array<float>(64);
    cudaDeviceSynchronize();
    imf_emu_set_check(IMF_EMU_CHECK_COUNT);
    imf_emu_counters_reset();
    IMF_LAUNCH(strided_copy, 1, 64, 0, 0, y, x, 1); /* reads 32 floats past the end */
    expect(0);
    ck_assert_uint_eq(imf_emu_counters_find("strided_copy")->read_bytes, 256);
    imf_emu_set_check(IMF_EMU_CHECK_OFF);
    imf_emu_counters_reset();
    IMF_LAUNCH(strided_copy, 1, 64, 0, 0, y, x, 1);
    expect(0);
    ck_assert_uint_eq(imf_emu_counters_find("strided_copy")->launches, 1);
    ck_assert_uint_eq(imf_emu_counters_find("strided_copy")->read_bytes, 0);
    imf_emu_set_check(IMF_EMU_CHECK_FULL);
    IMF_LAUNCH(strided_copy, 1, 64, 0, 0, y, x, 1);
    expect(IMF_EMU_OUT_OF_BOUNDS);
    imf_emu_reset();
    cudaFree(x);
    cudaFree(y);
}
END_TEST

START_TEST(counters_as_json)
{
    fresh();
    char path[] = "/tmp/imf_emu_counters_XXXXXX", text[4096];
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    float *x = device_array<float>(256);
    cudaDeviceSynchronize();
    imf_emu_counters_reset();
    IMF_LAUNCH(two_barriers, 1, 64, 0, 0, x);
    expect(0);
    ck_assert_int_eq(imf_emu_counters_write(path), 0);
    ssize_t n = read(fd, text, sizeof text - 1);
    ck_assert_int_gt(n, 0);
    text[n] = 0;
    ck_assert_int_eq(text[0], '[');
    ck_assert(strstr(text, "\"two_barriers\""));
    ck_assert(strstr(text, "\"write_bytes\": 256"));
    ck_assert_int_ne(imf_emu_counters_write("/nowhere/at/all"), 0);
    close(fd);
    unlink(path);
    cudaFree(x);
}
END_TEST

TCase *counter_tests(void)
{
    TCase *t = tcase_create("counters");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, counters_exact);
    tcase_add_test(t, bank_conflicts);
    tcase_add_test(t, barriers_and_divergence);
    tcase_add_test(t, bank_conflicts_of_ldmatrix);
    tcase_add_test(t, check_levels);
    tcase_add_test(t, counters_as_json);
    return t;
}
