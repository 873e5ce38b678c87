/* What the emulator's own tests share; each file of them makes one test case. */
#ifndef TEST_EMU_H
#define TEST_EMU_H

#include <check.h>
#include <stdlib.h>
#include <vector>
#include "device_intrinsics.cuh"
#include "imf_emu.h"

TCase *access_tests(void);     /* bounds, alignment, initialisation, lifetime */
TCase *async_copy_tests(void); /* cp.async */
TCase *barrier_tests(void);    /* missing, divergent */
TCase *counter_tests(void);
TCase *cublaslt_tests(void);
TCase *fragment_tests(void); /* mma, ldmatrix */
TCase *limit_tests(void);    /* launches, occupancy, device properties */
TCase *memory_tests(void);   /* the runtime's: allocations, copies */
TCase *stream_tests(void);   /* streams, events, graphs, errors */
TCase *warp_tests(void);     /* shuffles, votes, atomics, arithmetic */

static inline void fresh(void)
{
    imf_emu_reset();
    imf_emu_set_quiet(1);
    imf_emu_set_check(IMF_EMU_CHECK_FULL);
}

/* Runs what is queued; afterwards exactly the expected kind of report must be there (or none). */
static inline const struct imf_emu_report *expect(int kind)
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

template <class T> static inline T *device_array(size_t n, bool filled = true)
{
    T *p = nullptr;
    ck_assert_int_eq(cudaMalloc(&p, n * sizeof(T)), cudaSuccess);
    if (filled)
        ck_assert_int_eq(cudaMemset(p, 0, n * sizeof(T)), cudaSuccess);
    return p;
}

template <class T> static inline T *device_copy(const std::vector<T> &v)
{
    T *p = device_array<T>(v.size(), false);
    ck_assert_int_eq(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice),
                     cudaSuccess);
    return p;
}

template <class T> static inline std::vector<T> host_copy(const T *p, size_t n)
{
    std::vector<T> v(n);
    ck_assert_int_eq(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return v;
}

#endif
