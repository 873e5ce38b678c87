/* Inside the emulator: the address spaces, the shadow memory, the running block, reports and
 * counters.
 *
 * Everything below is guarded by one recursive lock (emu_lock): kernels run on the host thread that
 * synchronises, one block after another, so a run is deterministic. */
#ifndef IMF_EMU_INTERNAL_H
#define IMF_EMU_INTERNAL_H

#include <functional>
#include <mutex>
#include <stdint.h>
#include <string>
#include <vector>
#include "cuda_runtime.h"
#include "imf_emu.h"

/* The machine's widest vectors, chosen at load. */
#define EMU_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#define EMU_UNLIKELY(x) __builtin_expect(!!(x), 0)

enum {
    LOG_SLACK = 64,
    MAX_DEVICES = 8,
    MAX_THREADS = 1024,
    STACK_BYTES = 128 << 10,
    ARENA_BYTES = 512 << 10, /* shared memory of the running block with its red zones */
    SHARED_GAP = 256,        /* red zone; a multiple of 128, so that banks stay where they are */
    PARAM_BYTES = 4096,      /* the hardware's limit on kernel parameters */
    LOG_ENTRIES = 512        /* accesses of one thread before its warp must meet to count them */
};

/* ---- address spaces ----
 * Device memory is one reserved range per device, never reused, so that a stale pointer stays
 * stale. Shadow, one byte per byte: bit 0 addressable, bit 1 initialised, bit 2 a cp.async is on
 * its way. */
enum { F_VALID = 1, F_INIT = 2, F_PENDING = 4, F_FREED = 8 };

struct emu_space {
    uintptr_t base;
    size_t size;
    uint8_t *flags;
    /* Last access records: per aligned word of 4 bytes, and per byte for words marked SPLIT. */
    uint64_t *word_writes, *word_reads, *writes, *reads;
    uint32_t *read_launch, *write_launch; /* per 32-byte sector: launch that touched it last */
};

extern struct emu_space emu_heap;  /* all devices, device_span bytes each */
extern struct emu_space emu_arena; /* shared memory */
extern size_t emu_device_span;
extern char *emu_params; /* PARAM_BYTES, the running kernel's arguments */

/* ---- the running block ---- */

enum thread_state { RUNNABLE, AT_WARP_OP, AT_BARRIER, YIELDED, DONE };
enum warp_op { OP_SYNC, OP_SHUFFLE, OP_VOTE, OP_REDUCE, OP_LDMATRIX, OP_MMA };

struct access_log {
    uintptr_t pc, address;
    uint32_t size;
    uint16_t shared, write;
};

struct async_copy {
    void *dst;
    const void *src;
    int size, src_bytes;
    uint32_t group;
    uintptr_t pc;
};

struct emu_wait {
    int op;
    uint32_t mask;
    const char *file;
    int line;
    void *args;
    int predicate, result, kind; /* block barriers */
};

struct emu_fiber : imf_emu_thread {
    void *sp;
    char *stack;
    uint32_t linear, lane, warp;
    enum thread_state state;
    struct emu_wait wait;
    uint32_t committed; /* cp.async groups closed so far */
    size_t async_done;  /* copies already performed, from the front of `async` */
    std::vector<async_copy> async;
    uint32_t log_count;
    struct access_log *log; /* LOG_ENTRIES and room for those of one warp operation */
};

struct emu_warp_state {
    uint32_t alive, runnable, waiting;
    uint32_t epoch; /* __syncwarp since the last block barrier */
};

struct shared_array {
    const struct imf_emu_shared_site *site; /* NULL: dynamic */
    uintptr_t begin;
    size_t size;
};

struct emu_kernel {
    struct imf_emu_counters c;
    std::string name;
};

struct emu_exec {
    const struct imf_emu_launch_info *launch; /* NULL when no kernel runs */
    int device;
    struct emu_kernel *stats;
    bool watch, full; /* accesses are counted / checked */
    uint32_t epoch, launch_epoch, block_epoch;
    uint64_t block_index;
    uint32_t threads, warps;
    uint32_t live; /* threads not done */
    struct emu_fiber *fibers;
    struct emu_warp_state warp[MAX_THREADS / 32];
    void *scheduler_sp;
    int error;   /* cudaError_t that ended the launch, or 0 */
    int reports; /* within this launch */
    std::vector<shared_array> arrays;
    size_t arena_used, static_smem;
};
extern struct emu_exec emu;
extern std::recursive_mutex emu_mutex;
typedef std::lock_guard<std::recursive_mutex> emu_guard;

static inline struct emu_fiber *emu_self(void)
{
    return static_cast<struct emu_fiber *>(imf_emu_self);
}

/* Runs all blocks of a launch; returns what the device reports. */
cudaError_t emu_run_kernel(const struct imf_emu_launch_info *info, int device);
/* From inside a kernel: ends the launch with this error. Does not return. */
[[noreturn]] void emu_abort_kernel(int error);
/* Blocks the fiber until others of its warp (or block) let it on. */
void emu_switch_away(struct emu_fiber *self);
/* Lets the other lanes catch up when the running one has logged enough. */
static inline void emu_yield_when_full(void)
{
    struct emu_fiber *self = emu_self();
    if (EMU_UNLIKELY(self->log_count >= LOG_ENTRIES)) {
        self->state = YIELDED;
        emu_switch_away(self);
    }
}

void emu_init(void); /* reserves the address spaces, once */

/* ---- checks (emu_check.cpp) ---- */

enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_ATOMIC, ACCESS_ASYNC_WRITE };
void emu_access(uintptr_t address, size_t size, enum access kind, size_t alignment, uintptr_t pc);
/* Counts the warp's logged accesses request by request (emu_count.cpp). */
void emu_flush_warp(uint32_t warp);
void emu_async_landed(uintptr_t dst, size_t size); /* cp_async_wait made the bytes visible */
/* A range used by the host's side or a library call: false and a report when it is no good
 * (emu_memory.cpp). */
bool emu_check_range(const void *p, size_t size, bool read, const char *what);
void emu_mark_written(const void *p, size_t size);
bool emu_in_heap(const void *p);
/* Shadow memory is kept at all: false when only code without checks is loaded (whole-model runs).
 */
extern bool emu_tracking;
/* No code without checks has run, so the shadow tells the truth about initialisation. */
extern bool emu_shadow_exact;
extern enum imf_emu_check emu_check_level;

/* ---- reports (emu_report.cpp) ---- */

void emu_report(enum imf_emu_report_kind kind, uintptr_t address, uintptr_t pc, const char *format,
                ...) __attribute__((format(printf, 4, 5)));
std::string emu_where(uintptr_t address); /* "shared array `s` (4096 bytes) + 12" */
std::string emu_code(uintptr_t pc);       /* file:line of an address in a kernel */
const char *emu_allocation(uintptr_t address, uintptr_t *begin, size_t *size, bool *freed);

void emu_forget_reports(void);

/* ---- counters ---- */
struct emu_kernel *emu_stats(const char *name);
const char *emu_kernel_name(const void *function, const char *fallback);
void emu_count_matmul(const char *name, uint64_t read, uint64_t write, uint64_t flops);

/* ---- the runtime (emu_device.cpp, emu_error.cpp, emu_stream.cpp), for cuBLASLt ---- */

/* Puts work on a stream (or into the graph being captured on it); errors it returns become sticky.
 */
cudaError_t emu_enqueue(cudaStream_t stream, const char *what, std::function<cudaError_t()> work);
cudaError_t emu_device_ok(void); /* the calling thread's device: sick, or a sticky error */
int emu_stream_device(cudaStream_t stream);
bool emu_stream_valid(cudaStream_t stream);
cudaError_t emu_take_launch_failure(void); /* an injected launch failure that is due */
struct cudaDeviceProp *emu_device_prop(int device);
void emu_live(int delta); /* live handles */
cudaError_t emu_set_error(cudaError_t e);

#endif
