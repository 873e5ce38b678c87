/* Watches every load and store of checked kernels.
 *
 * Checked code is compiled with -fsanitize=thread, but not linked with its runtime: the __tsan_*
 * entry points below are ours, and g++ calls them before every access with its address; the call's
 * return address names the instruction. An access is looked up by address: the thread's own stack
 * passes, device and shared memory are checked against the shadow, anything else is reported.
 *
 * Races are found from records of the last write and the last reads of each byte. A record holds
 * the epoch (it advances at every block barrier, block and launch), the thread, and how many
 * __syncwarp its warp had passed. Two accesses of one byte, one of them a write, are unordered when
 * they are of the same epoch and different threads (within a warp: with no __syncwarp between), or
 * of different blocks of one launch. No schedule needs to go wrong for a race to be seen. */
#include "emu_internal.h"
#include <algorithm>
#include <link.h>
#include <stdlib.h>

struct emu_space emu_heap, emu_arena;
size_t emu_device_span;
char *emu_params;
bool emu_tracking = true, emu_shadow_exact = true;
enum imf_emu_check emu_check_level = IMF_EMU_CHECK_FULL;

/* ---- access records ---- */

enum reader { ONE_THREAD, ONE_WARP, MANY_WARPS, MANY_BLOCKS };
enum { EPOCH_SHIFT = 32, READER_SHIFT = 30, ATOMIC_SHIFT = 29, THREAD_SHIFT = 18 };

static inline uint64_t make_record(const struct emu_fiber *self, enum reader who, bool atomic)
{
    return uint64_t(emu.epoch) << EPOCH_SHIFT | uint64_t(who) << READER_SHIFT |
           uint64_t(atomic) << ATOMIC_SHIFT | uint64_t(self->linear) << THREAD_SHIFT |
           (emu.warp[self->warp].epoch & 0x3ffff);
}

static inline uint32_t epoch_of(uint64_t r)
{
    return uint32_t(r >> EPOCH_SHIFT);
}
static inline enum reader reader_of(uint64_t r)
{
    return static_cast<enum reader>(r >> READER_SHIFT & 3);
}
static inline bool atomic_of(uint64_t r)
{
    return r >> ATOMIC_SHIFT & 1;
}
static inline uint32_t thread_of(uint64_t r)
{
    return uint32_t(r >> THREAD_SHIFT & 0x3ff);
}
static inline uint32_t warp_epoch_of(uint64_t r)
{
    return uint32_t(r & 0x3ffff);
}

/* Is the recorded access unordered with one of `self` now? `oldest`: records before it do not
 * count. */
static inline bool conflicts(uint64_t r, const struct emu_fiber *self, bool atomic, uint32_t oldest)
{
    uint32_t e = epoch_of(r);
    if (e < oldest || (atomic && atomic_of(r)))
        return false;
    if (reader_of(r) == MANY_BLOCKS)
        return true;
    if (e < emu.epoch)
        return e < emu.block_epoch;
    if (reader_of(r) == MANY_WARPS)
        return true;
    uint32_t t = thread_of(r);
    if (t == self->linear && reader_of(r) == ONE_THREAD)
        return false;
    return t / 32 != self->warp || warp_epoch_of(r) == (emu.warp[self->warp].epoch & 0x3ffff);
}

static inline uint64_t merge_reader(uint64_t old, uint64_t mine, const struct emu_fiber *self,
                                    uint32_t oldest)
{
    const uint64_t who = uint64_t(3) << READER_SHIFT;
    uint32_t e = epoch_of(old);
    if (e < oldest)
        return mine;
    if (reader_of(old) == MANY_BLOCKS || e < emu.block_epoch)
        return mine | who; /* MANY_BLOCKS */
    if (e < emu.epoch)
        return mine;
    if (thread_of(old) / 32 != self->warp || reader_of(old) == MANY_WARPS)
        return (mine & ~who) | uint64_t(MANY_WARPS) << READER_SHIFT;
    if (warp_epoch_of(old) != warp_epoch_of(mine))
        return mine;
    if (thread_of(old) == self->linear)
        return old;
    return (mine & ~who) | uint64_t(ONE_WARP) << READER_SHIFT;
}

static void report_race(uintptr_t address, uint64_t other, bool write, bool other_write,
                        uintptr_t pc)
{
    char who[120];
    uint32_t t = thread_of(other);
    const struct emu_fiber *f = &emu.fibers[t];
    if (epoch_of(other) < emu.block_epoch || reader_of(other) == MANY_BLOCKS)
        snprintf(who, sizeof who, "another block of this launch");
    else if (reader_of(other) == ONE_THREAD)
        snprintf(who, sizeof who, "thread (%u,%u,%u)", f->thread.x, f->thread.y, f->thread.z);
    else if (reader_of(other) == ONE_WARP)
        snprintf(who, sizeof who, "several threads of warp %u", t / 32);
    else
        snprintf(who, sizeof who, "several warps");
    emu_report(IMF_EMU_RACE, address, pc, "%s after a %s by %s with no barrier between",
               write ? "write" : "read", other_write ? "write" : "read", who);
}

/* ---- one access ---- */

static inline bool all_flags(const uint8_t *f, size_t n, uint8_t want)
{
    switch (n) {
    case 16:
        uint64_t v[2];
        memcpy(v, f, 16);
        return ((v[0] & v[1]) & (0x0101010101010101u * want)) == 0x0101010101010101u * want &&
               !((v[0] | v[1]) & 0x0101010101010101u * F_PENDING);
    case 8:
        uint64_t w;
        memcpy(&w, f, 8);
        return (w & (0x0101010101010101u * (want | F_PENDING))) == 0x0101010101010101u * want;
    case 4:
        uint32_t u;
        memcpy(&u, f, 4);
        return (u & (0x01010101u * (want | F_PENDING))) == 0x01010101u * want;
    default:
        for (size_t i = 0; i < n; i++)
            if ((f[i] & (want | F_PENDING)) != want)
                return false;
        return true;
    }
}

static void bad_access(struct emu_space *space, uintptr_t address, size_t size, enum access kind,
                       uintptr_t pc)
{
    static const char *const verbs[] = {"read", "write", "atomic", "cp.async write"};
    uint8_t *f = space->flags + (address - space->base);
    for (size_t i = 0; i < size; i++) {
        if (!(f[i] & F_VALID)) {
            if (f[i] & F_FREED)
                emu_report(IMF_EMU_USE_AFTER_FREE, address + i, pc, "%s of %zu bytes", verbs[kind],
                           size);
            else
                emu_report(IMF_EMU_OUT_OF_BOUNDS, address + i, pc, "%s of %zu bytes", verbs[kind],
                           size);
            emu_abort_kernel(cudaErrorIllegalAddress);
        }
        if (f[i] & F_PENDING) {
            emu_report(IMF_EMU_ASYNC_PENDING, address + i, pc, "%s of %zu bytes", verbs[kind],
                       size);
            for (size_t j = 0; j < size; j++)
                f[j] = uint8_t(F_VALID | F_INIT);
            return;
        }
    }
    if (!emu_shadow_exact && space == &emu_heap)
        return;
    for (size_t i = 0; i < size; i++)
        if (!(f[i] & F_INIT)) {
            emu_report(IMF_EMU_UNINITIALISED, address + i, pc, "%s of %zu bytes", verbs[kind],
                       size);
            for (size_t j = 0; j < size; j++)
                f[j] |= F_INIT;
            return;
        }
}

/* Sets the record at `at`, after asking whether it conflicts. False: it does, and that was
 * reported. */
static inline bool visit_write(uint64_t *w, const uint64_t *r, const struct emu_fiber *self,
                               uint64_t mine, uint32_t oldest, uintptr_t address, uintptr_t pc)
{
    bool fine = true;
    if (EMU_UNLIKELY(conflicts(*w, self, atomic_of(mine), oldest))) {
        report_race(address, *w, true, true, pc);
        fine = false;
    } else if (EMU_UNLIKELY(conflicts(*r, self, false, oldest))) {
        report_race(address, *r, true, false, pc);
        fine = false;
    }
    *w = mine;
    return fine;
}

static inline bool visit_read(const uint64_t *w, uint64_t *r, const struct emu_fiber *self,
                              uint64_t mine, uint32_t oldest, uintptr_t address, uintptr_t pc)
{
    bool fine = true;
    if (EMU_UNLIKELY(conflicts(*w, self, false, oldest))) {
        report_race(address, *w, false, true, pc);
        fine = false;
    }
    if (*r != mine)
        *r = merge_reader(*r, mine, self, oldest);
    return fine;
}

#define SPLIT UINT64_MAX /* look at the word's four bytes */

static void split_word(uint64_t *word, uint64_t *bytes)
{
    if (*word == SPLIT)
        return;
    for (int i = 0; i < 4; i++)
        bytes[i] = *word;
    *word = SPLIT;
}

static void join_word(uint64_t *word, const uint64_t *bytes)
{
    if (bytes[0] == bytes[1] && bytes[0] == bytes[2] && bytes[0] == bytes[3])
        *word = bytes[0];
}

/* Bytes [off, off + n) of one word. */
static __attribute__((noinline)) bool race_bytes(struct emu_space *space, size_t off, size_t n,
                                                 bool write, uint64_t mine, uint32_t oldest,
                                                 uintptr_t pc)
{
    const struct emu_fiber *self = emu_self();
    uint64_t *ww = space->word_writes + off / 4, *wr = space->word_reads + off / 4;
    uint64_t *w = space->writes + off / 4 * 4, *r = space->reads + off / 4 * 4;
    bool fine = true;
    split_word(ww, w);
    split_word(wr, r);
    for (size_t i = off % 4; i < off % 4 + n && fine; i++) {
        uintptr_t address = space->base + off / 4 * 4 + i;
        fine = write ? visit_write(&w[i], &r[i], self, mine, oldest, address, pc)
                     : visit_read(&w[i], &r[i], self, mine, oldest, address, pc);
    }
    join_word(ww, w);
    join_word(wr, r);
    return fine;
}

static inline void check_races(struct emu_space *space, uintptr_t address, size_t size,
                               enum access kind, uintptr_t pc)
{
    const struct emu_fiber *self = emu_self();
    size_t off = address - space->base;
    bool write = kind != ACCESS_READ, fine = true;
    uint32_t oldest = space == &emu_heap ? emu.launch_epoch : emu.block_epoch;
    uint64_t mine = make_record(self, ONE_THREAD, kind == ACCESS_ATOMIC);

    if (size == 16 && off % 4 == 0) {
        /* The words of a vector nearly always share one history: then one look does for all. */
        uint64_t *w = space->word_writes + off / 4, *r = space->word_reads + off / 4;
        uint64_t differ = (w[0] ^ w[1]) | (w[0] ^ w[2]) | (w[0] ^ w[3]);
        differ |= (r[0] ^ r[1]) | (r[0] ^ r[2]) | (r[0] ^ r[3]);
        if (!differ && *w != SPLIT && *r != SPLIT) {
            if (write) {
                (void)visit_write(w, r, self, mine, oldest, address, pc);
                w[1] = w[2] = w[3] = w[0];
            } else if (*r != mine) {
                (void)visit_read(w, r, self, mine, oldest, address, pc);
                r[1] = r[2] = r[3] = r[0];
            } else {
                (void)visit_read(w, r, self, mine, oldest, address, pc);
            }
            return;
        }
    }
    for (size_t end = off + size; off < end && fine;) {
        uint64_t *w = space->word_writes + off / 4, *r = space->word_reads + off / 4;
        size_t n = 4 - off % 4 < end - off ? 4 - off % 4 : end - off;
        if (EMU_UNLIKELY(n < 4 || *w == SPLIT || *r == SPLIT))
            fine = race_bytes(space, off, n, write, mine, oldest, pc);
        else if (write)
            fine = visit_write(w, r, self, mine, oldest, space->base + off, pc);
        else
            fine = visit_read(w, r, self, mine, oldest, space->base + off, pc);
        off += n;
    }
}

/* Constants, tables and literals live in the program's own images; they are no tensor memory. */
static bool in_image(uintptr_t address)
{
    struct find {
        uintptr_t address;
        bool found;
    } f = {address, false};
    static uintptr_t begin, end;
    if (address - begin < end - begin)
        return true;
    dl_iterate_phdr(
        [](struct dl_phdr_info *info, size_t, void *user) {
            struct find *want = static_cast<struct find *>(user);
            for (int i = 0; i < info->dlpi_phnum; i++) {
                const ElfW(Phdr) *p = &info->dlpi_phdr[i];
                if (p->p_type == PT_LOAD &&
                    want->address - (info->dlpi_addr + p->p_vaddr) < p->p_memsz) {
                    begin = info->dlpi_addr + p->p_vaddr;
                    end = begin + p->p_memsz;
                    want->found = true;
                    return 1;
                }
            }
            return 0;
        },
        &f);
    return f.found;
}

static void count_global(uintptr_t address, size_t size, bool write)
{
    struct imf_emu_counters *c = &emu.stats->c;
    uint32_t *touched = write ? emu_heap.write_launch : emu_heap.read_launch;
    size_t first = (address - emu_heap.base) / 32, last = (address - emu_heap.base + size - 1) / 32;
    uint64_t fresh = 0;
    for (size_t s = first; s <= last; s++) {
        fresh += touched[s] != emu.launch_epoch;
        touched[s] = emu.launch_epoch;
    }
    if (write) {
        c->write_bytes += size;
        c->write_unique += 32 * fresh;
    } else {
        c->read_bytes += size;
        c->read_unique += 32 * fresh;
    }
}

static void stray_access(uintptr_t address, size_t size, enum access kind, uintptr_t pc)
{
    if (address - reinterpret_cast<uintptr_t>(emu_params) < PARAM_BYTES || in_image(address))
        return;
    if (address - reinterpret_cast<uintptr_t>(emu.fibers[0].stack) <
        (STACK_BYTES + 4096) * size_t(MAX_THREADS))
        emu_report(IMF_EMU_OUT_OF_BOUNDS, address, pc, "%zu bytes in another thread's local memory",
                   size);
    else
        emu_report(IMF_EMU_HOST_POINTER, address, pc,
                   "%s of %zu bytes, neither device nor shared memory",
                   kind == ACCESS_READ ? "read" : "write", size);
    emu_abort_kernel(cudaErrorIllegalAddress);
}

static inline __attribute__((always_inline)) void
access_memory(uintptr_t address, size_t size, enum access kind, size_t alignment, uintptr_t pc)
{
    struct emu_fiber *self = emu_self();
    struct emu_space *space;
    if (address - reinterpret_cast<uintptr_t>(self->stack) < STACK_BYTES)
        return;
    if (address - emu_heap.base < emu_heap.size)
        space = &emu_heap;
    else if (address - emu_arena.base < emu_arena.size)
        space = &emu_arena;
    else {
        stray_access(address, size, kind, pc);
        return;
    }
    if (emu.full) {
        uint8_t *f = space->flags + (address - space->base);
        bool write = kind == ACCESS_WRITE || kind == ACCESS_ASYNC_WRITE;
        if (EMU_UNLIKELY(address & (alignment - 1))) {
            emu_report(IMF_EMU_MISALIGNED, address, pc, "%s of %zu bytes",
                       kind == ACCESS_READ ? "read" : "write", size);
            emu_abort_kernel(cudaErrorMisalignedAddress);
        }
        if (space == &emu_heap &&
            EMU_UNLIKELY((address - emu_heap.base) / emu_device_span != size_t(emu.device))) {
            emu_report(IMF_EMU_OUT_OF_BOUNDS, address, pc, "memory of another device");
            emu_abort_kernel(cudaErrorIllegalAddress);
        }
        if (EMU_UNLIKELY(!all_flags(f, size, write ? F_VALID : F_VALID | F_INIT)))
            bad_access(space, address, size, kind, pc);
        check_races(space, address, size, kind, pc);
        if (write)
            memset(f, kind == ACCESS_WRITE ? F_VALID | F_INIT : F_VALID | F_PENDING, size);
    }
    if (space == &emu_heap)
        count_global(address, size, kind != ACCESS_READ);
    self->log[self->log_count++] = {pc, address, uint32_t(size), space == &emu_arena,
                                    kind != ACCESS_READ};
}

void emu_access(uintptr_t address, size_t size, enum access kind, size_t alignment, uintptr_t pc)
{
    access_memory(address, size, kind, alignment, pc);
}

void emu_async_landed(uintptr_t dst, size_t size)
{
    size_t off = dst - emu_arena.base;
    uint64_t mine = make_record(emu_self(), ONE_THREAD, false);
    memset(emu_arena.flags + off, F_VALID | F_INIT, size);
    for (size_t i = 0; i < size; i += 4) /* copies are 4, 8 or 16 bytes, aligned */
        emu_arena.word_writes[(off + i) / 4] = mine;
}

void imf_emu_atomic(const volatile void *p, int size)
{
    if (!emu.watch)
        return;
    emu_access(reinterpret_cast<uintptr_t>(p), size_t(size), ACCESS_ATOMIC, size_t(size),
               reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
    emu_yield_when_full();
}

/* ---- what the compiler calls ---- */

static inline __attribute__((always_inline)) void hook(void *p, size_t size, enum access kind,
                                                       size_t alignment, void *pc)
{
    if (!imf_emu_self || !emu.watch)
        return;
    access_memory(reinterpret_cast<uintptr_t>(p), size, kind, alignment,
                  reinterpret_cast<uintptr_t>(pc));
    emu_yield_when_full();
}

#define HOOK(name, size, kind, alignment)                                                          \
    void __tsan_##name(void *p)                                                                    \
    {                                                                                              \
        hook(p, size, kind, alignment, __builtin_return_address(0));                               \
    }
#define HOOKS(size)                                                                                \
    HOOK(read##size, size, ACCESS_READ, size)                                                      \
    HOOK(write##size, size, ACCESS_WRITE, size)                                                    \
    HOOK(unaligned_read##size, size, ACCESS_READ, 1)                                               \
    HOOK(unaligned_write##size, size, ACCESS_WRITE, 1)                                             \
    HOOK(volatile_read##size, size, ACCESS_READ, size)                                             \
    HOOK(volatile_write##size, size, ACCESS_WRITE, size)                                           \
    HOOK(unaligned_volatile_read##size, size, ACCESS_READ, 1)                                      \
    HOOK(unaligned_volatile_write##size, size, ACCESS_WRITE, 1)

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void *p, size_t size)
{
    if (size)
        hook(p, size, ACCESS_READ, 1, __builtin_return_address(0));
}

void __tsan_write_range(void *p, size_t size)
{
    if (size)
        hook(p, size, ACCESS_WRITE, 1, __builtin_return_address(0));
}

void __tsan_init(void)
{
}

void __tsan_func_entry(void *)
{
}

void __tsan_func_exit(void)
{
}

void __tsan_vptr_update(void *, void *)
{
}

void __tsan_vptr_read(void *)
{
}
}
