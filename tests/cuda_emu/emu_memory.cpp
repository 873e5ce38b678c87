/* Device memory, pinned host memory, and who may touch the latter while a copy is pending.
 *
 * Every cudaMalloc gets fresh addresses with red zones around them, filled with NaNs; freed ranges
 * are given back to the system but never handed out again. A pinned buffer with a pending copy is
 * protected page by page, so that a host access before the synchronisation faults and is reported.
 */
#include "emu_memory.h"
#include <algorithm>
#include <errno.h>
#include <map>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RED_ZONE = 256, ALIGNMENT = 256, PAGE = 4096 };
#define POISON_LIMIT (size_t(64) << 20) /* larger blocks are left as the system gives them */
#define DEVICE_SPAN (size_t(96) << 30)

struct allocation {
    size_t size;
    bool freed;
    char name[24];
};

static std::map<uintptr_t, struct allocation> allocations;
static int allocation_count;
static size_t next_offset[MAX_DEVICES];
static size_t used_bytes[MAX_DEVICES];

struct pinned {
    size_t size;
    bool registered;
};
static std::map<uintptr_t, struct pinned> pinned_blocks;

struct pending {
    uintptr_t begin;
    size_t size;
    bool device_writes; /* the host may neither read nor write; else it may read */
    bool reported;
    uint64_t id;
};
static std::vector<struct pending> pendings;
static uint64_t pending_id;

static void *reserve(size_t size)
{
    void *p = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "cuda_emu: cannot reserve %zu GiB of addresses: %s\n", size >> 30,
                strerror(errno));
        abort();
    }
    return p;
}

static void reserve_space(struct emu_space *s, size_t size, size_t alignment)
{
    uintptr_t p = reinterpret_cast<uintptr_t>(reserve(size + alignment));
    s->base = (p + alignment - 1) / alignment * alignment;
    s->size = size;
    s->flags = static_cast<uint8_t *>(reserve(size));
    s->word_writes = static_cast<uint64_t *>(reserve(size * 2));
    s->word_reads = static_cast<uint64_t *>(reserve(size * 2));
    s->writes = static_cast<uint64_t *>(reserve(size * 8));
    s->reads = static_cast<uint64_t *>(reserve(size * 8));
    s->read_launch = static_cast<uint32_t *>(reserve(size / 8));
    s->write_launch = static_cast<uint32_t *>(reserve(size / 8));
}

static struct sigaction previous_segv;

/* True when the address belongs to a pinned buffer with a pending copy: reported, and let through.
 */
static bool pending_fault(uintptr_t address)
{
    for (struct pending &p : pendings)
        if (address - p.begin < p.size && !p.reported) {
            emu_report(IMF_EMU_HOST_SYNC, address, 0,
                       "the host %s byte %zu of a %zu-byte pinned buffer while a copy %s it is "
                       "pending: synchronise first",
                       p.device_writes ? "accesses" : "writes", size_t(address - p.begin), p.size,
                       p.device_writes ? "into" : "from");
            p.reported = true;
            uintptr_t begin = p.begin / PAGE * PAGE;
            mprotect(reinterpret_cast<void *>(begin),
                     (p.begin + p.size - begin + PAGE - 1) / PAGE * PAGE, PROT_READ | PROT_WRITE);
            return true;
        }
    return false;
}

static void on_segv(int sig, siginfo_t *info, void *context)
{
    (void)context;
    uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
    {
        emu_guard guard(emu_mutex);
        if (pending_fault(address))
            return;
        if (imf_emu_self) {
            emu_report(IMF_EMU_CRASH, address, 0,
                       "signal %d; the address may be wild or a stack too deep", sig);
            emu_abort_kernel(cudaErrorIllegalAddress);
        }
    }
    /* Not ours: let the program's own handler (or the default) have the repeated fault. */
    sigaction(SIGSEGV, &previous_segv, nullptr);
}

/* Kernels overflow their fiber's stack rarely, but then the handler needs another one. */
void emu_thread_altstack(void)
{
    static thread_local bool done;
    stack_t old;
    if (done)
        return;
    done = true;
    if (!sigaltstack(nullptr, &old) && !(old.ss_flags & SS_DISABLE))
        return;
    stack_t s = {};
    s.ss_size = 64 << 10;
    s.ss_sp = reserve(s.ss_size);
    sigaltstack(&s, nullptr);
}

void emu_init(void)
{
    if (emu_heap.base)
        return;
    int devices = 1;
    const char *check = getenv("IMF_EMU_CHECK");
    if (check && !strcmp(check, "off"))
        emu_check_level = IMF_EMU_CHECK_OFF;
    else if (check && !strcmp(check, "count"))
        emu_check_level = IMF_EMU_CHECK_COUNT;
    if (emu_check_level == IMF_EMU_CHECK_OFF)
        emu_tracking = false;
    devices = std::max(1, emu_devices());
    emu_device_span = DEVICE_SPAN;
    reserve_space(&emu_heap, emu_device_span * size_t(devices), 1 << 21);
    reserve_space(&emu_arena, ARENA_BYTES, 1 << 12);
    emu_params = static_cast<char *>(reserve(PARAM_BYTES));
    struct sigaction sa = {};
    sa.sa_sigaction = on_segv;
    sa.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(SIGSEGV, &sa, &previous_segv);
}

/* ---- device memory ---- */

bool emu_memory_alloc(int device, size_t size, size_t total, void **out)
{
    emu_init();
    size_t rounded = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (rounded < size || rounded > total - std::min(total, used_bytes[device]))
        return false;
    if (next_offset[device] + rounded + 2 * RED_ZONE > emu_device_span) {
        if (used_bytes[device])
            return false;
        next_offset[device] = 0;
    }
    uintptr_t begin =
        emu_heap.base + size_t(device) * emu_device_span + next_offset[device] + RED_ZONE;
    next_offset[device] += rounded + RED_ZONE;
    used_bytes[device] += rounded;
    struct allocation a = {size, false, ""};
    snprintf(a.name, sizeof a.name, "#%d", ++allocation_count);
    allocations[begin] = a;
    if (emu_tracking)
        memset(emu_heap.flags + (begin - emu_heap.base), F_VALID, size);
    if (size <= POISON_LIMIT)
        memset(reinterpret_cast<void *>(begin), 0xff, size);
    *out = reinterpret_cast<void *>(begin);
    return true;
}

static void drop_pages(void *p, size_t size)
{
    uintptr_t begin = (reinterpret_cast<uintptr_t>(p) + PAGE - 1) / PAGE * PAGE;
    uintptr_t end = (reinterpret_cast<uintptr_t>(p) + size) / PAGE * PAGE;
    if (end > begin)
        madvise(reinterpret_cast<void *>(begin), end - begin, MADV_DONTNEED);
}

bool emu_memory_free(void *p)
{
    auto a = allocations.find(reinterpret_cast<uintptr_t>(p));
    if (a == allocations.end() || a->second.freed) {
        emu_report(a == allocations.end() ? IMF_EMU_API : IMF_EMU_USE_AFTER_FREE,
                   reinterpret_cast<uintptr_t>(p), 0, "cudaFree of %s",
                   a == allocations.end() ? "no allocation's start" : "freed memory");
        return false;
    }
    size_t size = a->second.size, off = reinterpret_cast<uintptr_t>(p) - emu_heap.base;
    a->second.freed = true;
    used_bytes[off / emu_device_span] -= (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    drop_pages(p, size);
    if (emu_tracking) {
        drop_pages(emu_heap.word_writes + off / 4, size * 2);
        drop_pages(emu_heap.word_reads + off / 4, size * 2);
        drop_pages(emu_heap.writes + off, size * 8);
        drop_pages(emu_heap.reads + off, size * 8);
        memset(emu_heap.flags + off, F_FREED, size);
    }
    return true;
}

size_t emu_memory_used(int device)
{
    return used_bytes[device];
}

const char *emu_allocation(uintptr_t address, uintptr_t *begin, size_t *size, bool *freed)
{
    auto a = allocations.upper_bound(address);
    *freed = false;
    if (a == allocations.begin())
        return nullptr;
    --a;
    if (address - a->first > a->second.size + 4096)
        return nullptr;
    *begin = a->first;
    *size = a->second.size;
    *freed = a->second.freed;
    return a->second.name;
}

/* ---- pinned memory ---- */

bool emu_pinned_alloc(size_t size, void **out)
{
    emu_init();
    size_t pages = (std::max<size_t>(size, 1) + PAGE - 1) / PAGE * PAGE;
    void *p = mmap(nullptr, pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return false;
    pinned_blocks[reinterpret_cast<uintptr_t>(p)] = {size, false};
    *out = p;
    return true;
}

bool emu_pinned_register(void *p, size_t size)
{
    if (emu_pinned_find(p))
        return false;
    pinned_blocks[reinterpret_cast<uintptr_t>(p)] = {size, true};
    return true;
}

bool emu_pinned_free(void *p, bool registered)
{
    auto b = pinned_blocks.find(reinterpret_cast<uintptr_t>(p));
    if (b == pinned_blocks.end() || b->second.registered != registered)
        return false;
    if (!registered)
        munmap(p, (std::max<size_t>(b->second.size, 1) + PAGE - 1) / PAGE * PAGE);
    pinned_blocks.erase(b);
    return true;
}

int emu_pinned_live(void)
{
    return int(pinned_blocks.size());
}

bool emu_pinned_find(const void *p)
{
    auto b = pinned_blocks.upper_bound(reinterpret_cast<uintptr_t>(p));
    if (b == pinned_blocks.begin())
        return false;
    --b;
    return reinterpret_cast<uintptr_t>(p) - b->first < std::max<size_t>(b->second.size, 1);
}

/* The pages that hold nothing but bytes of the range (or the unused end of its block). */
static void whole_pages(uintptr_t begin, size_t size, uintptr_t *first, uintptr_t *last)
{
    uintptr_t end = begin + size;
    auto b = pinned_blocks.upper_bound(begin);
    *first = (begin + PAGE - 1) / PAGE * PAGE;
    *last = end / PAGE * PAGE;
    if (b != pinned_blocks.begin()) {
        --b;
        if (!b->second.registered && end == b->first + b->second.size)
            *last = (end + PAGE - 1) / PAGE * PAGE;
    }
}

static void protect(const struct pending *p, int protection)
{
    uintptr_t first, last;
    whole_pages(p->begin, p->size, &first, &last);
    if (last > first)
        mprotect(reinterpret_cast<void *>(first), last - first, protection);
}

static int pending_protection(const struct pending *p)
{
    return p->device_writes ? PROT_NONE : PROT_READ;
}

uint64_t emu_pending_begin(void *host, size_t size, bool device_writes)
{
    if (!emu_pinned_find(host) || !size)
        return 0;
    struct pending p = {reinterpret_cast<uintptr_t>(host), size, device_writes, false,
                        ++pending_id};
    if (device_writes) {
        for (const struct pending &o : pendings)
            if (o.begin < p.begin + size && p.begin < o.begin + o.size)
                protect(&o, PROT_READ | PROT_WRITE);
        memset(host, 0xff, size);
    }
    pendings.push_back(p);
    for (const struct pending &o : pendings)
        if (!o.reported)
            protect(&o, pending_protection(&o));
    return p.id;
}

void emu_pending_end(uint64_t id)
{
    for (size_t i = 0; i < pendings.size(); i++)
        if (pendings[i].id == id) {
            protect(&pendings[i], PROT_READ | PROT_WRITE);
            pendings.erase(pendings.begin() + long(i));
            break;
        }
    for (const struct pending &o : pendings)
        if (!o.reported)
            protect(&o, pending_protection(&o));
}

/* ---- ranges used by the host's side and by library calls ---- */

bool emu_in_heap(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) - emu_heap.base < emu_heap.size;
}

static bool range_has(const uint8_t *f, size_t n, uint8_t want, size_t *at)
{
    for (size_t i = 0; i < n; i += 4096) {
        size_t m = std::min<size_t>(4096, n - i);
        uint8_t all = 0xff;
        for (size_t j = 0; j < m; j++)
            all &= f[i + j];
        if ((all & want) != want) {
            for (size_t j = 0; j < m; j++)
                if ((f[i + j] & want) != want) {
                    *at = i + j;
                    return false;
                }
        }
    }
    return true;
}

bool emu_check_range(const void *p, size_t size, bool read, const char *what)
{
    uintptr_t address = reinterpret_cast<uintptr_t>(p), begin;
    size_t length, at = 0;
    bool freed;
    if (!size)
        return true;
    const char *name = emu_allocation(address, &begin, &length, &freed);
    if (!name || freed || address < begin || address - begin > length ||
        size > length - (address - begin)) {
        emu_report(freed && name ? IMF_EMU_USE_AFTER_FREE : IMF_EMU_OUT_OF_BOUNDS, address, 0,
                   "%s of %zu bytes", what, size);
        return false;
    }
    if (read && emu_tracking && emu_shadow_exact && emu_check_level == IMF_EMU_CHECK_FULL &&
        !range_has(emu_heap.flags + (address - emu_heap.base), size, F_INIT, &at)) {
        emu_report(IMF_EMU_UNINITIALISED, address + at, 0, "%s of %zu bytes (byte %zu of them)",
                   what, size, at);
        memset(emu_heap.flags + (address - emu_heap.base), F_VALID | F_INIT, size);
        return false;
    }
    return true;
}

void emu_mark_written(const void *p, size_t size)
{
    if (emu_tracking && emu_in_heap(p))
        memset(emu_heap.flags + (reinterpret_cast<uintptr_t>(p) - emu_heap.base), F_VALID | F_INIT,
               size);
}

/* Called from the static constructors of every translation unit with device code. */
int imf_emu_register_module(int checked)
{
    static int any_checked;
    any_checked |= checked;
    emu_tracking = any_checked && emu_check_level != IMF_EMU_CHECK_OFF;
    if (!checked)
        emu_shadow_exact = false;
    return 0;
}
