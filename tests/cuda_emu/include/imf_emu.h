/* What a test says to the emulator and asks of it: reports of faults, counters, injected errors.
 * All of it is process-wide and thread-safe; pointers stay valid until imf_emu_reset(). */
#ifndef IMF_EMU_H
#define IMF_EMU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define IMF_EMU_REPORTS(X)                                                                         \
    X(OUT_OF_BOUNDS, "out-of-bounds access")                                                       \
    X(USE_AFTER_FREE, "use after free")                                                            \
    X(HOST_POINTER, "host pointer used on the device")                                             \
    X(MISALIGNED, "misaligned access")                                                             \
    X(UNINITIALISED, "read of uninitialised memory")                                               \
    X(ASYNC_PENDING, "access to a cp.async destination before cp_async_wait")                      \
    X(RACE, "race")                                                                                \
    X(DIVERGENT_BARRIER, "divergent barrier")                                                      \
    X(DIVERGENT_WARP, "divergent warp operation")                                                  \
    X(LIMITS, "launch over the hardware's limits")                                                 \
    X(HOST_SYNC, "host access to a buffer of a pending copy")                                      \
    X(API, "wrong use of the API")                                                                 \
    X(CRASH, "crash inside a kernel")                                                              \
    X(TRAP, "trap")

#define IMF_EMU_REPORT_ENUM(name, text) IMF_EMU_##name,
enum imf_emu_report_kind { IMF_EMU_NO_REPORT, IMF_EMU_REPORTS(IMF_EMU_REPORT_ENUM) };

struct imf_emu_report {
    enum imf_emu_report_kind kind;
    char kernel[96];    /* "" for host-side reports */
    unsigned block[3];  /* blockIdx */
    unsigned thread[3]; /* threadIdx */
    uint64_t address;   /* 0 where there is none */
    char text[700];     /* the whole report as printed, several lines */
};

/* How many reports since the start or the last reset, and the i-th of them (the first 100 are
 * kept). */
int imf_emu_report_count(void);
const struct imf_emu_report *imf_emu_report_at(int i);

/* Forgets reports, counters, sticky errors, injected errors; keeps memory and handles. */
void imf_emu_reset(void);
/* 1: reports are kept but not printed. */
void imf_emu_set_quiet(int quiet);

/* FULL finds faults and counts; COUNT counts only; OFF runs checked code at little cost. The
 * default is FULL, or IMF_EMU_CHECK=full|count|off. Code built without checks is never watched. */
enum imf_emu_check { IMF_EMU_CHECK_OFF, IMF_EMU_CHECK_COUNT, IMF_EMU_CHECK_FULL };
void imf_emu_set_check(enum imf_emu_check level);

/* One per kernel name (template arguments included), for cuBLASLt ("cublasLtMatmul MxNxK"), and for
 * copies ("memcpy H2D" and so on). Bytes of plain loads and stores need checked code. */
struct imf_emu_counters {
    const char *name;
    uint64_t launches;
    uint64_t blocks, threads;
    uint64_t read_bytes, write_bytes; /* global memory, as the threads asked */
    uint64_t read_sectors,
        write_sectors; /* 32-byte sectors after coalescing within a warp: L2 traffic */
    uint64_t read_unique,
        write_unique; /* bytes of distinct sectors per launch: DRAM traffic with an ideal L2 */
    uint64_t shared_requests;   /* warp-wide shared-memory accesses */
    uint64_t shared_wavefronts; /* passes the banks need for them */
    uint64_t shared_ideal;      /* passes without conflicts; conflicts = wavefronts - ideal */
    uint64_t tensor_flops;      /* mma.sync and cuBLASLt, 2 per multiply-add */
    uint64_t barriers;          /* __syncthreads, once per block */
    unsigned grid[3], block[3]; /* of the last launch */
    uint64_t static_smem, dynamic_smem; /* of the last launch */
};
int imf_emu_counters_count(void);
const struct imf_emu_counters *imf_emu_counters_at(int i);
const struct imf_emu_counters *imf_emu_counters_find(const char *name); /* or NULL */
void imf_emu_counters_reset(void);
uint64_t imf_emu_launches(void); /* kernels and matmuls since the last reset */
/* A JSON array of the above; also written at exit to the file named by IMF_EMU_COUNTERS. 0 on
 * success. */
int imf_emu_counters_write(const char *path);

/* The n-th next allocation (device, pinned, a graph's) fails, 1 = the next; 0 = none. Also
 * IMF_EMU_FAIL_MALLOC. */
void imf_emu_fail_malloc(int n);
/* The n-th next kernel launch, matmul or replayed node of a graph fails with `error` (a
 * cudaError_t), sticky; 0 = none. Also IMF_EMU_FAIL_LAUNCH=n. */
void imf_emu_fail_launch(int n, int error);
/* Every call on this device fails with an ECC error from now on. */
void imf_emu_sick_device(int device);
/* Bytes and count of live device allocations, of pinned host allocations and of handles. */
size_t imf_emu_device_bytes(int device);
int imf_emu_live_objects(void);

#ifdef __cplusplus
}
#endif
#endif
