/* The same device code without instrumentation: right results, and the checks that remain. */
#include <check.h>
#include <stdlib.h>
#include <time.h>
#include <vector>
#include "device_intrinsics.cuh"
#include "imf_emu.h"

/* d (64 x 64) += a (64 x k) bt (64 x k)^T by 4 warps of 32 x 32, through shared memory, a row of
 * blocks. */
static __global__ void product(float *d, const uint4 *a, const uint4 *bt, int k)
{
    IMF_SHARED(uint4, sa, [64][5]);
    IMF_SHARED(uint4, sb, [64][5]);
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, m0 = warp / 2 * 32,
             n0 = warp % 2 * 32;
    float acc[2][4][4] = {};
    for (int k0 = 0; k0 < k / 8; k0 += 4) {
        for (unsigned i = threadIdx.x; i < 256; i += 128) {
            cp_async16(&sa[i / 4][i % 4], a + (i / 4) * unsigned(k / 8) + unsigned(k0) + i % 4);
            cp_async16(&sb[i / 4][i % 4], bt + (i / 4) * unsigned(k / 8) + unsigned(k0) + i % 4);
        }
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        for (unsigned kk = 0; kk < 2; kk++) {
            uint32_t fa[2][4], fb[4][2], r[4];
            for (unsigned i = 0; i < 2; i++)
                ldmatrix_x4(fa[i], &sa[m0 + 16 * i + lane % 16][2 * kk + lane / 16]);
            for (unsigned j = 0; j < 4; j += 2) {
                ldmatrix_x4(r, &sb[n0 + 8 * j + lane / 16 * 8 + lane % 8][2 * kk + lane / 8 % 2]);
                fb[j][0] = r[0], fb[j][1] = r[1], fb[j + 1][0] = r[2], fb[j + 1][1] = r[3];
            }
            mma_bf16_tile(acc, fa, fb);
        }
        __syncthreads();
    }
    for (unsigned i = 0; i < 2; i++)
        for (unsigned j = 0; j < 4; j++)
            for (unsigned e = 0; e < 4; e++)
                d[(m0 + 16 * i + lane / 4 + e / 2 * 8) * 64 + n0 + 8 * j + lane % 4 * 2 + e % 2] =
                    acc[i][j][e];
}

static __global__ void wild(float *x)
{
    x[size_t(1) << 45] = 1.0f;
}

static __global__ void waits_for_ever(float *x)
{
    if (threadIdx.x < 16)
        __syncwarp();
    else
        __syncthreads();
    x[threadIdx.x] = 0.0f;
}

START_TEST(fast_product)
{
    const int k = 2048;
    std::vector<uint16_t> a(64 * k), b(64 * k);
    for (size_t i = 0; i < a.size(); i++) {
        a[i] = imf_emu_bf16_bits(float(i % 7) - 3.0f);
        b[i] = imf_emu_bf16_bits(float(i % 5) - 2.0f);
    }
    uint16_t *da, *db;
    float *dd;
    cudaMalloc(&da, a.size() * 2);
    cudaMalloc(&db, b.size() * 2);
    cudaMalloc(&dd, 64 * 64 * 4);
    cudaMemcpy(da, a.data(), a.size() * 2, cudaMemcpyHostToDevice);
    cudaMemcpy(db, b.data(), b.size() * 2, cudaMemcpyHostToDevice);
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    IMF_LAUNCH(product, 1, 128, 0, 0, dd, reinterpret_cast<const uint4 *>(da),
               reinterpret_cast<const uint4 *>(db), k);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    std::vector<float> d(64 * 64);
    ck_assert_int_eq(cudaMemcpy(d.data(), dd, d.size() * 4, cudaMemcpyDeviceToHost), cudaSuccess);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    double s = double(t1.tv_sec - t0.tv_sec) + double(t1.tv_nsec - t0.tv_nsec) * 1e-9;
    printf("product: %.2f GFLOP/s\n", 2.0 * 64 * 64 * k / s * 1e-9);
    for (size_t r = 0; r < 64; r += 9)
        for (size_t c = 0; c < 64; c++) {
            float want = 0.0f;
            for (size_t i = 0; i < size_t(k); i++)
                want += (float((r * size_t(k) + i) % 7) - 3.0f) *
                        (float((c * size_t(k) + i) % 5) - 2.0f);
            ck_assert_msg(d[r * 64 + c] == want, "(%zu, %zu): %g, want %g", r, c,
                          double(d[r * 64 + c]), double(want));
        }
    ck_assert_uint_eq(imf_emu_counters_find("product")->tensor_flops, 2ull * 64 * 64 * k);
    cudaFree(da);
    cudaFree(db);
    cudaFree(dd);
}
END_TEST

/* Faults end the launch with a report, not the process. */
START_TEST(fast_faults)
{
    imf_emu_reset();
    imf_emu_set_quiet(1);
    float *x;
    cudaMalloc(&x, 256);
    IMF_LAUNCH(wild, 1, 32, 0, 0, x);
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_CRASH);
    ck_assert_str_eq(imf_emu_report_at(0)->kernel, "wild");
    imf_emu_reset();
    IMF_LAUNCH(waits_for_ever, 1, 64, 0, 0, x);
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaErrorLaunchTimeout);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_DIVERGENT_WARP);
    imf_emu_reset();
    cudaFree(x);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cuda_emu_unchecked");
    TCase *t = tcase_create("fast");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, fast_product);
    tcase_add_test(t, fast_faults);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
