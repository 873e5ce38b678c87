/* What a warp does together: shuffles, votes, ldmatrix, mma.sync; and cp.async, which each thread
 * does alone.
 *
 * The fragment layouts are those of the PTX ISA ("Matrix multiply-accumulate operation using mma
 * instruction", m16n8k16 with .bf16, and "ldmatrix"); tests/cuda_emu/test_fragments.cu checks them
 * against the formulas written out a second time. A copy by cp.async lands as late as the program
 * allows: at the cp_async_wait that covers it. Until then its destination holds NaNs and may not be
 * touched. */
#include "emu_internal.h"
#include <math.h>

#define HERE reinterpret_cast<uintptr_t>(__builtin_return_address(0))

/* ---- meeting ---- */

static bool same_wait(const struct emu_wait *a, const struct emu_wait *b)
{
    return a->op == b->op && a->mask == b->mask && a->kind == b->kind && a->line == b->line;
}

typedef void (*lane_op)(uint32_t warp, uint32_t mask);

/* Parks until all lanes of `mask` ask for the same operation; the last one performs it. */
static void meet(struct emu_fiber *self, int op, uint32_t mask, int kind, void *args,
                 const char *file, int line, lane_op perform)
{
    struct emu_warp_state *w = &emu.warp[self->warp];
    struct emu_wait *wait = &self->wait;
    wait->op = op;
    wait->mask = mask;
    wait->kind = kind;
    wait->file = file;
    wait->line = line;
    wait->args = args;
    self->state = AT_WARP_OP;
    w->waiting |= 1u << self->lane;
    if (EMU_UNLIKELY(!(mask >> self->lane & 1))) {
        emu_report(IMF_EMU_DIVERGENT_WARP, 0, 0, "the lane is not in its own mask %08x at %s:%d",
                   mask, file ? file : "", line);
        emu_abort_kernel(cudaErrorLaunchFailure);
    }
    if ((w->waiting & mask) == mask) {
        struct emu_fiber *lanes = &emu.fibers[self->warp * 32];
        bool all = true;
        for (uint32_t m = mask; m && all; m &= m - 1)
            all = same_wait(&lanes[__builtin_ctz(m)].wait, wait);
        if (all) {
            w->waiting &= ~mask;
            if (emu.watch && mask == w->alive)
                emu_flush_warp(self->warp);
            perform(self->warp, mask);
            for (uint32_t m = mask; m; m &= m - 1)
                lanes[__builtin_ctz(m)].state = RUNNABLE;
            w->runnable |= mask;
            return;
        }
    }
    emu_switch_away(self);
}

static inline struct emu_fiber *lane_of(uint32_t warp, uint32_t lane)
{
    return &emu.fibers[warp * 32 + lane];
}

template <class T> static inline T *args_of(uint32_t warp, uint32_t lane)
{
    return static_cast<T *>(lane_of(warp, lane)->wait.args);
}

/* ---- __syncwarp, shuffles, votes ---- */

static void do_sync(uint32_t warp, uint32_t mask)
{
    /* Only a barrier of the whole warp orders memory for the race check (docs/cuda_emu.md, limits).
     */
    if (mask == emu.warp[warp].alive)
        emu.warp[warp].epoch++;
}

void imf_emu_warp_barrier(uint32_t mask, const char *file, int line)
{
    struct emu_fiber *self = emu_self();
    /* The default mask names 32 lanes; a block's last warp may have fewer threads, which is fine.
     */
    uint32_t n = emu.threads - self->warp * 32;
    if (n < 32 && mask == 0xffffffffu)
        mask = (1u << n) - 1u;
    meet(self, OP_SYNC, mask, 0, nullptr, file, line, do_sync);
}

struct shuffle_args {
    uint64_t value, result;
    int lane, width;
};

static void do_shuffle(uint32_t warp, uint32_t mask)
{
    for (uint32_t m = mask; m; m &= m - 1) {
        int self = __builtin_ctz(m);
        struct shuffle_args *a = args_of<struct shuffle_args>(warp, uint32_t(self));
        int segment = self & ~(a->width - 1), inside = self & (a->width - 1), source = inside;
        switch (lane_of(warp, uint32_t(self))->wait.kind) {
        case IMF_EMU_SHFL_IDX:
            source = a->lane & (a->width - 1);
            break;
        case IMF_EMU_SHFL_UP:
            source = inside - a->lane >= 0 ? inside - a->lane : inside;
            break;
        case IMF_EMU_SHFL_DOWN:
            source = inside + a->lane < a->width ? inside + a->lane : inside;
            break;
        case IMF_EMU_SHFL_XOR:
            source = (inside ^ a->lane) < a->width ? inside ^ a->lane : inside;
            break;
        }
        source += segment;
        if (!(mask >> source & 1)) {
            imf_emu_self = lane_of(warp, uint32_t(self));
            emu_report(IMF_EMU_DIVERGENT_WARP, 0, 0,
                       "shuffle at %s:%d reads lane %d, which is not in the mask %08x",
                       emu_self()->wait.file, emu_self()->wait.line, source, mask);
            emu_abort_kernel(cudaErrorLaunchFailure);
        }
        a->result = args_of<struct shuffle_args>(warp, uint32_t(source))->value;
    }
}

uint64_t imf_emu_shuffle(uint32_t mask, int mode, uint64_t value, int lane, int width,
                         const char *file, int line)
{
    struct shuffle_args a = {value, 0, lane, width};
    meet(emu_self(), OP_SHUFFLE, mask, mode, &a, file, line, do_shuffle);
    return a.result;
}

struct vote_args {
    uint32_t value, result;
};

static void do_vote(uint32_t warp, uint32_t mask)
{
    int kind = lane_of(warp, uint32_t(__builtin_ctz(mask)))->wait.kind;
    uint32_t ballot = 0, sum = 0, high = 0, low = UINT32_MAX;
    for (uint32_t m = mask; m; m &= m - 1) {
        uint32_t v = args_of<struct vote_args>(warp, uint32_t(__builtin_ctz(m)))->value;
        ballot |= v ? m & -m : 0;
        sum += v;
        high = v > high ? v : high;
        low = v < low ? v : low;
    }
    for (uint32_t m = mask; m; m &= m - 1) {
        struct vote_args *a = args_of<struct vote_args>(warp, uint32_t(__builtin_ctz(m)));
        a->result = kind == IMF_EMU_BALLOT       ? ballot
                    : kind == IMF_EMU_REDUCE_ADD ? sum
                    : kind == IMF_EMU_REDUCE_MAX ? high
                                                 : low;
        if (kind == IMF_EMU_MATCH_ANY) {
            a->result = 0;
            for (uint32_t o = mask; o; o &= o - 1)
                if (args_of<struct vote_args>(warp, uint32_t(__builtin_ctz(o)))->value == a->value)
                    a->result |= o & -o;
        }
    }
}

uint32_t imf_emu_vote(uint32_t mask, int kind, uint32_t value, const char *file, int line)
{
    struct vote_args a = {value, 0};
    meet(emu_self(), OP_VOTE, mask, kind, &a, file, line, do_vote);
    return a.result;
}

uint32_t imf_emu_activemask(void)
{
    return emu.warp[emu_self()->warp].alive;
}

static void do_reduce(uint32_t warp, uint32_t mask)
{
    float v[32], next[32];
    bool max = lane_of(warp, 0)->wait.kind;
    for (uint32_t l = 0; l < 32; l++)
        v[l] = *args_of<float>(warp, l);
    for (int offset = 16; offset; offset >>= 1) {
        for (int l = 0; l < 32; l++)
            next[l] = max ? fmaxf(v[l], v[l ^ offset]) : v[l] + v[l ^ offset];
        memcpy(v, next, sizeof v);
    }
    for (uint32_t l = 0; l < 32; l++)
        *args_of<float>(warp, l) = v[l];
    (void)mask;
}

float imf_emu_warp_reduce(float x, int max)
{
    meet(emu_self(), OP_REDUCE, 0xffffffffu, max, &x, "warp_sum/warp_max", 0, do_reduce);
    return x;
}

/* ---- ldmatrix ---- */

struct ldmatrix_args {
    uint32_t *r;
    const void *row;
    int count, trans;
    uintptr_t pc;
};

static void do_ldmatrix(uint32_t warp, uint32_t mask)
{
    uint16_t rows[32][8];
    struct ldmatrix_args *first = args_of<struct ldmatrix_args>(warp, 0);
    uint32_t n = uint32_t(first->count) * 8;
    struct imf_emu_thread *caller = imf_emu_self;
    for (uint32_t l = 0; l < n; l++) {
        struct ldmatrix_args *a = args_of<struct ldmatrix_args>(warp, l);
        uintptr_t p = reinterpret_cast<uintptr_t>(a->row);
        imf_emu_self = lane_of(warp, l);
        if (EMU_UNLIKELY(p - emu_arena.base >= emu_arena.size)) {
            emu_report(IMF_EMU_OUT_OF_BOUNDS, p, a->pc, "ldmatrix reads outside shared memory");
            emu_abort_kernel(cudaErrorIllegalAddress);
        }
        if (EMU_UNLIKELY(p % 16)) {
            emu_report(IMF_EMU_MISALIGNED, p, a->pc, "ldmatrix needs 16-byte aligned rows");
            emu_abort_kernel(cudaErrorMisalignedAddress);
        }
        if (emu.watch)
            emu_access(p, 16, ACCESS_READ, 16, a->pc);
        memcpy(rows[l], a->row, 16);
    }
    imf_emu_self = caller;
    for (uint32_t l = 0; l < 32; l++) {
        uint32_t g = l / 4, t = l % 4;
        struct ldmatrix_args *a = args_of<struct ldmatrix_args>(warp, l);
        for (int i = 0; i < first->count; i++) {
            const uint16_t(*m)[8] = &rows[8 * i];
            uint32_t lo = first->trans ? m[2 * t][g] : m[g][2 * t];
            uint32_t hi = first->trans ? m[2 * t + 1][g] : m[g][2 * t + 1];
            a->r[i] = lo | hi << 16;
        }
    }
    if (emu.watch)
        emu_flush_warp(warp);
    (void)mask;
}

void imf_emu_ldmatrix(uint32_t *r, int count, int trans, const void *row)
{
    struct ldmatrix_args a = {r, row, count, trans, HERE};
    meet(emu_self(), OP_LDMATRIX, 0xffffffffu, count * 2 + trans, &a, "ldmatrix", 0, do_ldmatrix);
}

/* ---- mma.sync.m16n8k16 ---- */

struct mma_args {
    float *d;
    const uint32_t *a, *b;
    int mi, ni;
};

typedef float vec16 __attribute__((vector_size(64)));
enum { MAX_MMA_COLUMNS = 32 * 8 };

static inline __attribute__((always_inline)) float low_half(uint32_t v)
{
    return __uint_as_float(v << 16);
}

static inline __attribute__((always_inline)) float high_half(uint32_t v)
{
    return __uint_as_float(v & 0xffff0000u);
}

/* One m16n8k16 row block times the whole width, 16 columns at a time (an odd last 8 is padding). */
static inline __attribute__((always_inline)) void mma_rows(float (*d)[MAX_MMA_COLUMNS],
                                                           const float (*a)[16],
                                                           const float (*b)[MAX_MMA_COLUMNS],
                                                           int ni)
{
    for (int j = 0; j < 8 * ni; j += 16) {
        vec16 acc[16];
        for (int i = 0; i < 16; i++)
            acc[i] = *reinterpret_cast<const vec16 *>(&d[i][j]);
        for (int k = 0; k < 16; k++) {
            vec16 bk = *reinterpret_cast<const vec16 *>(&b[k][j]);
            for (int i = 0; i < 16; i++)
                acc[i] += a[i][k] * bk;
        }
        for (int i = 0; i < 16; i++)
            *reinterpret_cast<vec16 *>(&d[i][j]) = acc[i];
    }
}

EMU_CLONES static void do_mma(uint32_t warp, uint32_t mask)
{
    static float d[16][MAX_MMA_COLUMNS] __attribute__((aligned(64)));
    static float b[16][MAX_MMA_COLUMNS] __attribute__((aligned(64)));
    static float a[16][16] __attribute__((aligned(64)));
    struct mma_args *args[32];
    (void)mask;

    for (uint32_t l = 0; l < 32; l++)
        args[l] = static_cast<struct mma_args *>(emu.fibers[warp * 32 + l].wait.args);
    int mi = args[0]->mi, ni = args[0]->ni;
    for (uint32_t l = 0; l < 32; l++) {
        const uint32_t g = l / 4, t = l % 4;
        const uint32_t *p = args[l]->b;
        for (int j = 0; j < ni; j++) {
            uint32_t c = uint32_t(8 * j) + g;
            b[2 * t][c] = low_half(p[2 * j]);
            b[2 * t + 1][c] = high_half(p[2 * j]);
            b[2 * t + 8][c] = low_half(p[2 * j + 1]);
            b[2 * t + 9][c] = high_half(p[2 * j + 1]);
        }
    }
    for (int i = 0; i < mi; i++) {
        for (uint32_t l = 0; l < 32; l++) {
            const uint32_t g = l / 4, t = l % 4;
            const uint32_t *p = args[l]->a + 4 * i;
            a[g][2 * t] = low_half(p[0]);
            a[g][2 * t + 1] = high_half(p[0]);
            a[g + 8][2 * t] = low_half(p[1]);
            a[g + 8][2 * t + 1] = high_half(p[1]);
            a[g][2 * t + 8] = low_half(p[2]);
            a[g][2 * t + 9] = high_half(p[2]);
            a[g + 8][2 * t + 8] = low_half(p[3]);
            a[g + 8][2 * t + 9] = high_half(p[3]);
            const float *s = args[l]->d + size_t(4) * size_t(ni) * size_t(i);
            for (int j = 0; j < ni; j++) {
                memcpy(&d[g][8 * uint32_t(j) + 2 * t], s + 4 * j, 8);
                memcpy(&d[g + 8][8 * uint32_t(j) + 2 * t], s + 4 * j + 2, 8);
            }
        }
        mma_rows(d, a, b, ni);
        for (uint32_t l = 0; l < 32; l++) {
            const uint32_t g = l / 4, t = l % 4;
            float *s = args[l]->d + size_t(4) * size_t(ni) * size_t(i);
            for (int j = 0; j < ni; j++) {
                memcpy(s + 4 * j, &d[g][8 * uint32_t(j) + 2 * t], 8);
                memcpy(s + 4 * j + 2, &d[g + 8][8 * uint32_t(j) + 2 * t], 8);
            }
        }
    }
    emu.stats->c.tensor_flops += uint64_t(2 * 16 * 8 * 16) * uint64_t(mi) * uint64_t(ni);
}

void imf_emu_mma_bf16(float *d, const uint32_t *a, const uint32_t *b, int mi, int ni)
{
    struct mma_args args = {d, a, b, mi, ni};
    if (EMU_UNLIKELY(ni * 8 > MAX_MMA_COLUMNS)) {
        emu_report(IMF_EMU_LIMITS, 0, HERE, "a warp tile wider than %d columns", MAX_MMA_COLUMNS);
        emu_abort_kernel(cudaErrorNotSupported);
    }
    meet(emu_self(), OP_MMA, 0xffffffffu, mi * 1000 + ni, &args, "mma", 0, do_mma);
}

/* ---- cp.async ---- */

void imf_emu_cp_async(void *dst, const void *src, int size, int src_bytes)
{
    struct emu_fiber *self = emu_self();
    uintptr_t d = reinterpret_cast<uintptr_t>(dst), s = reinterpret_cast<uintptr_t>(src);
    size_t n = size_t(size), used = size_t(src_bytes);
    if (EMU_UNLIKELY(src_bytes < 0 || src_bytes > size)) {
        emu_report(IMF_EMU_API, d, HERE, "cp.async of %d bytes with src_bytes = %d", size,
                   src_bytes);
        emu_abort_kernel(cudaErrorLaunchFailure);
    }
    if (EMU_UNLIKELY(d % n || s % n)) {
        emu_report(IMF_EMU_MISALIGNED, d % n ? d : s, HERE,
                   "cp.async of %d bytes, %s not aligned to them", size,
                   d % n ? "destination" : "source");
        emu_abort_kernel(cudaErrorMisalignedAddress);
    }
    if (EMU_UNLIKELY(d - emu_arena.base >= emu_arena.size)) {
        emu_report(IMF_EMU_OUT_OF_BOUNDS, d, HERE, "cp.async writes outside shared memory");
        emu_abort_kernel(cudaErrorIllegalAddress);
    }
    if (EMU_UNLIKELY(used && s - emu_heap.base >= emu_heap.size)) {
        emu_report(IMF_EMU_HOST_POINTER, s, HERE, "cp.async reads memory that is not the device's");
        emu_abort_kernel(cudaErrorIllegalAddress);
    }
    if (emu.watch) {
        if (used)
            emu_access(s, used, ACCESS_READ, 1, HERE);
        emu_access(d, n, ACCESS_ASYNC_WRITE, n, HERE);
        emu_yield_when_full();
    }
    if (n == 16)
        memset(dst, 0xff, 16);
    else
        memset(dst, 0xff, n);
    self->async.push_back({dst, src, size, src_bytes, self->committed, HERE});
}

void imf_emu_cp_async_commit(void)
{
    emu_self()->committed++;
}

void imf_emu_cp_async_wait(int pending)
{
    struct emu_fiber *self = emu_self();
    uint32_t in_flight = uint32_t(pending);
    if (self->committed <= in_flight)
        return;
    uint32_t done = self->committed - in_flight;
    size_t i = self->async_done, n = self->async.size();
    for (; i < n && self->async[i].group < done; i++) {
        const struct async_copy *c = &self->async[i];
        if (c->src_bytes == 16) {
            memcpy(c->dst, c->src, 16);
        } else {
            memcpy(c->dst, c->src, size_t(c->src_bytes));
            memset(static_cast<char *>(c->dst) + c->src_bytes, 0, size_t(c->size - c->src_bytes));
        }
        if (emu.full)
            emu_async_landed(reinterpret_cast<uintptr_t>(c->dst), size_t(c->size));
    }
    self->async_done = i;
    if (i == n) {
        self->async.clear();
        self->async_done = 0;
    }
}
