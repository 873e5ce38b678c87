/* The runtime's memory: allocations, pinned memory, copies of all kinds and the mistakes in them.
 */
#include "test_emu.h"

START_TEST(copies_of_rows)
{
    fresh();
    std::vector<float> v(32), back(32, -1.0f);
    for (int i = 0; i < 32; i++)
        v[size_t(i)] = float(i);
    float *x = device_array<float>(40), *y = device_array<float>(40, false);
    /* 4 rows of 5 floats: from a pitch of 8 on the host to 10 on the device, then within the device
     */
    ck_assert_int_eq(cudaMemcpy2D(x, 40, v.data(), 32, 20, 4, cudaMemcpyHostToDevice), cudaSuccess);
    ck_assert_int_eq(cudaMemcpy2DAsync(y, 40, x, 40, 20, 4, cudaMemcpyDeviceToDevice, 0),
                     cudaSuccess);
    ck_assert_int_eq(cudaMemcpy2D(back.data(), 32, y, 40, 20, 4, cudaMemcpyDefault), cudaSuccess);
    for (size_t r = 0; r < 4; r++)
        for (size_t c = 0; c < 8; c++)
            ck_assert(back[r * 8 + c] == (c < 5 ? v[r * 8 + c] : -1.0f));
    expect(0);
    /* What lies between the rows was not copied, so it is as uninitialised as before. */
    float one;
    cudaMemcpy(&one, y + 5, 4, cudaMemcpyDeviceToHost);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_UNINITIALISED);
    fresh();
    ck_assert_int_eq(cudaMemcpy2D(x, 16, v.data(), 32, 20, 4, cudaMemcpyHostToDevice),
                     cudaErrorInvalidPitchValue);
    imf_emu_reset();
    cudaFree(x);
    cudaFree(y);
}
END_TEST

START_TEST(copies_gone_wrong)
{
    fresh();
    std::vector<float> v(64, 1.0f);
    float *x = device_array<float>(16), *freed = device_array<float>(16);
    cudaFree(freed);
    ck_assert_int_ne(cudaMemcpy(x, v.data(), 17 * 4, cudaMemcpyHostToDevice), cudaSuccess);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_OUT_OF_BOUNDS);
    fresh();
    ck_assert_int_ne(cudaMemcpy(v.data(), x + 1, 16 * 4, cudaMemcpyDeviceToHost), cudaSuccess);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_OUT_OF_BOUNDS);
    fresh();
    ck_assert_int_ne(cudaMemset(x, 0, 65), cudaSuccess);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_OUT_OF_BOUNDS);
    fresh();
    ck_assert_int_ne(cudaMemcpy(freed, v.data(), 64, cudaMemcpyHostToDevice), cudaSuccess);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_USE_AFTER_FREE);
    fresh();
    ck_assert_int_ne(cudaMemset(freed, 0, 4), cudaSuccess);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_USE_AFTER_FREE);
    fresh();
    ck_assert_int_eq(cudaMemcpy(x, v.data(), 4, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_API);
    fresh();
    ck_assert_int_eq(cudaFree(x + 1), cudaErrorInvalidValue); /* not what cudaMalloc returned */
    imf_emu_reset();
    ck_assert_int_eq(cudaFree(x), cudaSuccess);
    ck_assert_int_eq(cudaFree(nullptr), cudaSuccess);
}
END_TEST

/* A copy still queued when its device memory is freed: cudaFree waits, cudaFreeAsync keeps the
 * order. */
START_TEST(frees_wait_their_turn)
{
    fresh();
    float *x = device_array<float>(64), *y, *pinned;
    cudaStream_t s;
    cudaDeviceSynchronize();
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    ck_assert_int_eq(cudaMallocHost(&pinned, 256), cudaSuccess);
    cudaMemcpyAsync(pinned, x, 256, cudaMemcpyDeviceToHost, s);
    ck_assert_int_eq(cudaFree(x), cudaSuccess);
    ck_assert(pinned[63] == 0.0f);
    ck_assert_int_eq(cudaMallocAsync(reinterpret_cast<void **>(&y), 256, s), cudaSuccess);
    cudaMemsetAsync(y, 0x40, 256, s);
    cudaMemcpyAsync(pinned, y, 256, cudaMemcpyDeviceToHost, s);
    ck_assert_int_eq(cudaFreeAsync(y, s), cudaSuccess);
    ck_assert_int_eq(cudaStreamSynchronize(s), cudaSuccess);
    ck_assert(pinned[5] == __uint_as_float(0x40404040u));
    expect(0);
    cudaMemsetAsync(y, 0, 256, s);
    ck_assert_int_eq(imf_emu_report_at(0)->kind, IMF_EMU_USE_AFTER_FREE);
    imf_emu_reset();
    cudaFreeHost(pinned);
    cudaStreamDestroy(s);
}
END_TEST

START_TEST(pointers_and_amounts)
{
    fresh();
    size_t free_before, free_after, total;
    struct cudaPointerAttributes a;
    static char block[8192] __attribute__((aligned(4096)));
    ck_assert_int_eq(cudaMemGetInfo(&free_before, &total), cudaSuccess);
    ck_assert_uint_eq(total, size_t(80) << 30);
    float *x = device_array<float>(1000), *pinned;
    cudaMemGetInfo(&free_after, &total);
    ck_assert_uint_ge(free_before - free_after, 4000);
    ck_assert_uint_eq(imf_emu_device_bytes(0), free_before - free_after);
    cudaPointerGetAttributes(&a, x + 1);
    ck_assert(a.type == cudaMemoryTypeDevice && a.device == 0);
    cudaMallocHost(&pinned, 64);
    cudaPointerGetAttributes(&a, pinned);
    ck_assert(a.type == cudaMemoryTypeHost);
    cudaPointerGetAttributes(&a, block);
    ck_assert(a.type == cudaMemoryTypeUnregistered);
    ck_assert_int_eq(cudaHostRegister(block, sizeof block, 0), cudaSuccess);
    ck_assert_int_eq(cudaHostRegister(block, sizeof block, 0),
                     cudaErrorHostMemoryAlreadyRegistered);
    cudaPointerGetAttributes(&a, block + 100);
    ck_assert(a.type == cudaMemoryTypeHost);
    ck_assert_int_eq(cudaHostUnregister(block), cudaSuccess);
    ck_assert_int_eq(cudaHostUnregister(block), cudaErrorHostMemoryNotRegistered);
    ck_assert_int_eq(cudaFreeHost(block), cudaErrorInvalidValue);
    imf_emu_reset();
    cudaFreeHost(pinned);
    cudaFree(x);
    ck_assert_uint_eq(imf_emu_device_bytes(0), 0);
}
END_TEST

/* From pageable memory the bytes are taken at the call; from pinned memory when the copy runs. */
START_TEST(when_the_host_is_read)
{
    fresh();
    std::vector<float> v(16, 1.0f);
    float *x = device_array<float>(16);
    cudaDeviceSynchronize();
    cudaMemcpyAsync(x, v.data(), 64, cudaMemcpyHostToDevice, 0);
    v[3] = 2.0f;
    ck_assert(host_copy(x, 16)[3] == 1.0f);
    cudaMemcpyAsync(v.data(), x, 64, cudaMemcpyDeviceToHost, 0); /* pageable: done at the return */
    ck_assert(v[3] == 1.0f);
    expect(0);
    cudaFree(x);
}
END_TEST

TCase *memory_tests(void)
{
    TCase *t = tcase_create("memory");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, copies_of_rows);
    tcase_add_test(t, copies_gone_wrong);
    tcase_add_test(t, frees_wait_their_turn);
    tcase_add_test(t, pointers_and_amounts);
    tcase_add_test(t, when_the_host_is_read);
    return t;
}
