/* Runs kernels: one fiber per thread, warps meet at warp operations, blocks one after another.
 *
 * A fiber runs until it reaches something that needs other threads. At a warp operation it parks
 * and the next runnable lane of its warp goes on; the lane that completes the mask performs the
 * operation for all and carries on, so an operation costs one switch per lane. Block barriers go
 * through the scheduler. */
#include "emu_internal.h"
#include <algorithm>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sched.h>

struct emu_exec emu;
std::recursive_mutex emu_mutex;
extern "C" {
struct imf_emu_thread *imf_emu_self;
}

/* ---- context switch ---- */

#if defined(__x86_64__)
extern "C" void imf_emu_switch(void **save_sp, void *load_sp);
__asm__(".text\n"
        ".globl imf_emu_switch\n"
        ".hidden imf_emu_switch\n"
        ".type imf_emu_switch,@function\n"
        "imf_emu_switch:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq "
        "%r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n"
        ".size imf_emu_switch, .-imf_emu_switch\n");

/* `skew` keeps the frames of 32 lanes out of the same few cache sets. */
static void *fresh_stack(char *stack, size_t skew, void (*entry)(void))
{
    uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + STACK_BYTES - skew) & ~uintptr_t(63);
    void **sp = reinterpret_cast<void **>(top);
    *--sp = nullptr; /* keeps the entry's stack aligned as after a call */
    *--sp = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++)
        *--sp = nullptr;
    return sp;
}
#else
#error "the emulator's fibers are written for x86-64"
#endif

static void switch_to(struct emu_fiber *next, void **save)
{
    imf_emu_self = next;
    imf_emu_switch(save, next->sp);
}

static void to_scheduler(struct emu_fiber *self)
{
    imf_emu_self = nullptr;
    imf_emu_switch(&self->sp, emu.scheduler_sp);
}

/* Parks the running fiber: the next runnable lane of its warp goes on, else the scheduler. */
void emu_switch_away(struct emu_fiber *self)
{
    struct emu_warp_state *w = &emu.warp[self->warp];
    w->runnable &= ~(1u << self->lane);
    uint32_t runnable = w->runnable;
    if (!runnable) {
        to_scheduler(self);
        return;
    }
    uint32_t later = runnable & ~((2u << self->lane) - 1u);
    uint32_t lane = uint32_t(__builtin_ctz(later ? later : runnable));
    switch_to(&emu.fibers[self->warp * 32 + lane], &self->sp);
}

void emu_abort_kernel(int error)
{
    emu.error = error;
    to_scheduler(emu_self());
    abort(); /* an aborted fiber is never resumed */
}

static void fiber_main(void)
{
    struct emu_fiber *self = emu_self();
    emu.launch->invoke(emu.launch->function, emu_params);
    self = emu_self();
    self->state = DONE;
    emu.live--;
    emu.warp[self->warp].alive &= ~(1u << self->lane);
    emu_switch_away(self);
    abort();
}

/* ---- block barriers ---- */

int imf_emu_barrier(int kind, int predicate, const char *file, int line)
{
    struct emu_fiber *self = emu_self();
    self->wait = {};
    self->wait.kind = kind;
    self->wait.predicate = predicate;
    self->wait.file = file;
    self->wait.line = line;
    self->state = AT_BARRIER;
    emu_switch_away(self);
    return self->wait.result;
}

static void report_divergent_barrier(struct emu_fiber *a, const char *what)
{
    imf_emu_self = a;
    emu_report(IMF_EMU_DIVERGENT_BARRIER, 0, 0, "waits at the barrier %s:%d, but %s", a->wait.file,
               a->wait.line, what);
    imf_emu_self = nullptr;
}

/* Every live thread waits at a block barrier: is it the same one? Then lets them all go on. */
static void release_barrier(void)
{
    struct emu_fiber *first = nullptr;
    int count = 0, all = 1;
    char text[200];

    for (uint32_t i = 0; i < emu.threads; i++) {
        struct emu_fiber *f = &emu.fibers[i];
        if (f->state == DONE)
            continue;
        if (!first)
            first = f;
        count += f->wait.predicate != 0;
        all &= f->wait.predicate != 0;
        if (f->wait.line != first->wait.line || f->wait.kind != first->wait.kind ||
            (f->wait.file != first->wait.file && strcmp(f->wait.file, first->wait.file))) {
            snprintf(text, sizeof text, "thread (%u,%u,%u) waits at %s:%d", f->thread.x,
                     f->thread.y, f->thread.z, f->wait.file, f->wait.line);
            report_divergent_barrier(first, text);
            emu.error = cudaErrorLaunchFailure;
            return;
        }
    }
    if (emu.live != emu.threads && emu.full) {
        for (uint32_t i = 0; i < emu.threads; i++)
            if (emu.fibers[i].state == DONE) {
                struct emu_fiber *f = &emu.fibers[i];
                snprintf(text, sizeof text, "thread (%u,%u,%u) has returned without reaching it",
                         f->thread.x, f->thread.y, f->thread.z);
                break;
            }
        report_divergent_barrier(first, text);
    }
    emu.epoch++;
    emu.stats->c.barriers++;
    for (uint32_t i = 0; i < emu.warps; i++) {
        emu.warp[i].runnable = emu.warp[i].alive;
        emu.warp[i].epoch = 0;
    }
    for (uint32_t i = 0; i < emu.threads; i++) {
        struct emu_fiber *f = &emu.fibers[i];
        if (f->state == DONE)
            continue;
        f->state = RUNNABLE;
        f->wait.result = f->wait.kind == IMF_EMU_SYNC_COUNT ? count
                         : f->wait.kind == IMF_EMU_SYNC_AND ? all
                                                            : count != 0;
    }
}

static const char *op_name(int op)
{
    static const char *const names[] = {"__syncwarp",  "shuffle",  "vote",
                                        "warp_reduce", "ldmatrix", "mma"};
    return names[op];
}

/* No fiber can run, yet some are alive: tells who waits for whom. */
static void report_stuck(void)
{
    struct emu_fiber *at_op = nullptr, *at_barrier = nullptr;
    for (uint32_t i = 0; i < emu.threads; i++) {
        struct emu_fiber *f = &emu.fibers[i];
        if (f->state == AT_WARP_OP && !at_op)
            at_op = f;
        if (f->state == AT_BARRIER && !at_barrier)
            at_barrier = f;
    }
    emu.error = cudaErrorLaunchTimeout;
    if (at_op) {
        /* the first lane of its mask that is missing */
        struct emu_fiber *other = nullptr;
        for (uint32_t l = 0; l < 32 && !other; l++) {
            struct emu_fiber *f = &emu.fibers[at_op->warp * 32 + l];
            if ((at_op->wait.mask >> l & 1) &&
                (f >= emu.fibers + emu.threads || f->state != AT_WARP_OP ||
                 f->wait.op != at_op->wait.op || f->wait.mask != at_op->wait.mask ||
                 f->wait.line != at_op->wait.line))
                other = f;
        }
        const char *file = at_op->wait.file ? at_op->wait.file : "";
        imf_emu_self = at_op;
        if (!other || other >= emu.fibers + emu.threads)
            emu_report(IMF_EMU_DIVERGENT_WARP, 0, 0,
                       "%s at %s:%d needs lanes that the block does not have",
                       op_name(at_op->wait.op), file, at_op->wait.line);
        else
            emu_report(IMF_EMU_DIVERGENT_WARP, 0, 0,
                       "%s (mask %08x) at %s:%d waits for lane %u, which %s %s:%d",
                       op_name(at_op->wait.op), at_op->wait.mask, file, at_op->wait.line,
                       other->lane,
                       other->state == DONE         ? "has returned;"
                       : other->state == AT_BARRIER ? "waits at the block barrier"
                                                    : "waits at another warp operation,",
                       other->wait.file ? other->wait.file : "", other->wait.line);
        imf_emu_self = nullptr;
    } else if (at_barrier) {
        report_divergent_barrier(at_barrier, "the others never come");
    }
}

/* ---- blocks ---- */

static void start_block(uint64_t index, const struct imf_emu_launch_info *l)
{
    uint3 bid;
    bid.x = unsigned(index % l->grid.x);
    bid.y = unsigned(index / l->grid.x % l->grid.y);
    bid.z = unsigned(index / l->grid.x / l->grid.y);
    emu.block_index = index;
    emu.epoch++;
    emu.block_epoch = emu.epoch;
    emu.live = emu.threads;

    /* shared memory: whatever the last block left is gone */
    memset(emu_arena.flags, 0, emu.arena_used);
    emu.arrays.clear();
    emu.arena_used = SHARED_GAP;
    emu.static_smem = 0;
    if (l->dynamic_smem) {
        size_t rounded = (l->dynamic_smem + 127) / 128 * 128;
        emu.arrays.push_back({nullptr, emu_arena.base + SHARED_GAP, l->dynamic_smem});
        memset(emu_arena.flags + SHARED_GAP, F_VALID, l->dynamic_smem);
        memset(reinterpret_cast<void *>(emu_arena.base + SHARED_GAP), 0xff, rounded);
        emu.arena_used += rounded + SHARED_GAP;
    }
    uint32_t t = 0;
    for (unsigned z = 0; z < l->block.z; z++)
        for (unsigned y = 0; y < l->block.y; y++)
            for (unsigned x = 0; x < l->block.x; x++, t++) {
                struct emu_fiber *f = &emu.fibers[t];
                f->thread.x = x;
                f->thread.y = y;
                f->thread.z = z;
                f->block = bid;
                f->block_dim.x = l->block.x;
                f->block_dim.y = l->block.y;
                f->block_dim.z = l->block.z;
                f->grid_dim.x = l->grid.x;
                f->grid_dim.y = l->grid.y;
                f->grid_dim.z = l->grid.z;
                f->state = RUNNABLE;
                f->committed = 0;
                f->async.clear();
                f->async_done = 0;
                f->log_count = 0;
                f->sp = fresh_stack(f->stack, (t % 32) * 320, fiber_main);
            }
    for (uint32_t w = 0; w < emu.warps; w++) {
        uint32_t n = std::min(32u, emu.threads - w * 32);
        uint32_t all = n == 32 ? 0xffffffffu : (1u << n) - 1u;
        emu.warp[w] = {all, all, 0, 0};
    }
}

/* True when lanes parked only to have their accesses counted can go on. */
static bool wake_yielded(uint32_t warp)
{
    uint32_t woken = 0;
    for (uint32_t l = 0; l < 32 && warp * 32 + l < emu.threads; l++) {
        struct emu_fiber *f = &emu.fibers[warp * 32 + l];
        if (f->state == YIELDED) {
            f->state = RUNNABLE;
            woken |= 1u << l;
        }
    }
    emu.warp[warp].runnable |= woken;
    return woken != 0;
}

static void run_block(void)
{
    while (!emu.error) {
        bool progress = false;
        for (uint32_t w = 0; w < emu.warps && !emu.error; w++) {
            do {
                while (emu.warp[w].runnable && !emu.error) {
                    uint32_t lane = uint32_t(__builtin_ctz(emu.warp[w].runnable));
                    progress = true;
                    switch_to(&emu.fibers[w * 32 + lane], &emu.scheduler_sp);
                }
                if (emu.watch && !emu.error)
                    emu_flush_warp(w);
            } while (!emu.error && wake_yielded(w));
        }
        if (emu.error || !emu.live)
            break;
        uint32_t waiting = 0;
        for (uint32_t i = 0; i < emu.threads; i++)
            waiting += emu.fibers[i].state == AT_BARRIER;
        if (waiting == emu.live)
            release_barrier();
        else if (!progress)
            report_stuck();
    }
    imf_emu_self = nullptr;
}

/* Stacks and access logs of the largest block's threads, reserved once. */
static void allocate_fibers(void)
{
    size_t each = STACK_BYTES + 4096;
    char *p = static_cast<char *>(mmap(nullptr, each * MAX_THREADS, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (p == MAP_FAILED) {
        perror("cuda_emu: stacks");
        abort();
    }
    emu.fibers = new emu_fiber[MAX_THREADS]();
    size_t log = LOG_ENTRIES + LOG_SLACK;
    struct access_log *logs = static_cast<struct access_log *>(
        mmap(nullptr, log * MAX_THREADS * sizeof *logs, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (logs == MAP_FAILED) {
        perror("cuda_emu: logs");
        abort();
    }
    for (uint32_t i = 0; i < MAX_THREADS; i++) {
        mprotect(p + i * each, 4096, PROT_NONE);
        emu.fibers[i].stack = p + i * each + 4096;
        emu.fibers[i].log = logs + i * log;
        emu.fibers[i].linear = i;
        emu.fibers[i].lane = i % 32;
        emu.fibers[i].warp = i / 32;
    }
}

cudaError_t emu_run_kernel(const struct imf_emu_launch_info *info, int device)
{
    emu_init();
    if (!emu.fibers)
        allocate_fibers();
    if (!info->checked)
        emu_shadow_exact = false;
    emu.launch = info;
    emu.device = device;
    emu.stats = emu_stats(info->name);
    emu.full = info->checked && emu_tracking && emu_check_level == IMF_EMU_CHECK_FULL;
    emu.watch = info->checked && emu_tracking && emu_check_level != IMF_EMU_CHECK_OFF;
    emu.error = 0;
    emu.reports = 0;
    emu.threads = info->block.x * info->block.y * info->block.z;
    emu.warps = (emu.threads + 31) / 32;
    emu.launch_epoch = ++emu.epoch;
    memcpy(emu_params, info->args, info->args_size);

    uint64_t blocks = uint64_t(info->grid.x) * info->grid.y * info->grid.z;
    struct imf_emu_counters *c = &emu.stats->c;
    c->launches++;
    c->blocks += blocks;
    c->threads += blocks * emu.threads;
    for (int i = 0; i < 3; i++) {
        c->grid[i] = (&info->grid.x)[i];
        c->block[i] = (&info->block.x)[i];
    }
    for (uint64_t b = 0; b < blocks && !emu.error; b++) {
        start_block(b, info);
        run_block();
    }
    c->static_smem = emu.static_smem;
    c->dynamic_smem = info->dynamic_smem;
    imf_emu_self = nullptr;
    emu.launch = nullptr;
    if (emu.error)
        return static_cast<cudaError_t>(emu.error);
    return emu.reports ? cudaErrorLaunchFailure : cudaSuccess;
}

/* ---- shared memory ---- */

void *imf_emu_shared(const struct imf_emu_shared_site *site)
{
    for (const struct shared_array &a : emu.arrays)
        if (a.site == site)
            return reinterpret_cast<void *>(a.begin);
    size_t rounded = (site->size + 127) / 128 * 128;
    size_t limit = emu_device_prop(emu.device)->sharedMemPerBlock;
    emu.static_smem += site->size;
    size_t optin = emu_device_prop(emu.device)->sharedMemPerBlockOptin;
    if (emu.static_smem > limit || emu.static_smem + emu.launch->dynamic_smem > optin ||
        emu.arena_used + rounded + SHARED_GAP > ARENA_BYTES) {
        emu_report(
            IMF_EMU_LIMITS, 0, 0,
            "static shared memory %zu bytes (limit %zu) + dynamic %zu bytes (limit together %zu)",
            emu.static_smem, limit, emu.launch->dynamic_smem, optin);
        emu_abort_kernel(cudaErrorLaunchOutOfResources);
    }
    uintptr_t begin = emu_arena.base + emu.arena_used;
    emu.arrays.push_back({site, begin, site->size});
    memset(emu_arena.flags + emu.arena_used, F_VALID, site->size);
    memset(reinterpret_cast<void *>(begin), 0xff, rounded);
    emu.arena_used += rounded + SHARED_GAP;
    return reinterpret_cast<void *>(begin);
}

void *imf_emu_dynamic_shared(void)
{
    return reinterpret_cast<void *>(emu_arena.base + SHARED_GAP);
}

uint32_t imf_emu_shared_address(const void *p)
{
    return uint32_t(reinterpret_cast<uintptr_t>(p) - emu_arena.base);
}

void imf_emu_fence(void)
{
}

void imf_emu_trap(const char *file, int line)
{
    emu_report(IMF_EMU_TRAP, 0, 0, "__trap() at %s:%d", file, line);
    emu_abort_kernel(cudaErrorLaunchFailure);
}
