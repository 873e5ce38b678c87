/* Counts what a warp's accesses cost: lanes' accesses by one instruction form one request, which
 * needs so many sectors of L2 or so many passes over the banks of shared memory. */
#include "emu_internal.h"
#include <algorithm>

struct lane_access {
    uint32_t lane;
    const struct access_log *a;
};

static void count_shared_request(const struct lane_access *group, size_t n)
{
    struct imf_emu_counters *c = &emu.stats->c;
    uint32_t size = group[0].a->size;
    uint32_t lanes = size >= 16 ? 8 : size == 8 ? 16 : 32; /* per pass over the banks */
    c->shared_requests++;
    /* The common shapes: all lanes read one place, or neighbours read neighbours. */
    if (n == 32 && group[0].a->address % size == 0) {
        uintptr_t step = group[1].a->address - group[0].a->address;
        size_t i = 2;
        if (step == 0 || (step == size && size >= 4)) {
            while (i < n && group[i].a->address == group[0].a->address + i * step)
                i++;
            if (i == n) {
                c->shared_wavefronts += 32 / lanes;
                c->shared_ideal += 32 / lanes;
                return;
            }
        }
    }
    for (size_t i = 0; i < n;) {
        uint32_t words[32][32];
        uint8_t count[32] = {0};
        uint32_t worst = 0, phase = group[i].lane / lanes;
        for (; i < n && group[i].lane / lanes == phase; i++) {
            uintptr_t begin = (group[i].a->address - emu_arena.base) / 4;
            uintptr_t end = (group[i].a->address - emu_arena.base + group[i].a->size + 3) / 4;
            for (uintptr_t word = begin; word < end; word++) {
                uint32_t bank = word % 32, k = 0;
                while (k < count[bank] && words[bank][k] != uint32_t(word))
                    k++;
                if (k == count[bank] && k < 32)
                    words[bank][count[bank]++] = uint32_t(word);
                worst = std::max<uint32_t>(worst, count[bank]);
            }
        }
        c->shared_wavefronts += worst;
        c->shared_ideal++;
    }
}

static void count_global_request(const struct lane_access *group, size_t n)
{
    uintptr_t sectors[256];
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        uintptr_t first = group[i].a->address / 32;
        uintptr_t last = (group[i].a->address + group[i].a->size - 1) / 32;
        for (uintptr_t s = first; s <= last; s++) {
            size_t k = count;
            while (k && sectors[k - 1] != s)
                k--;
            if (!k && count < 256)
                sectors[count++] = s;
        }
    }
    if (group[0].a->write)
        emu.stats->c.write_sectors += count;
    else
        emu.stats->c.read_sectors += count;
}

static void count_request(const struct lane_access *group, size_t n)
{
    if (group[0].a->shared)
        count_shared_request(group, n);
    else
        count_global_request(group, n);
}

/* Lanes took different paths: the k-th access by an instruction in each lane belongs together. */
static void flush_diverged(struct emu_fiber *lanes, uint32_t n)
{
    struct entry {
        uintptr_t pc;
        uint32_t occurrence;
        struct lane_access x;
    };
    static std::vector<entry> all;
    static std::vector<std::pair<uintptr_t, uint32_t>> order;
    all.clear();
    for (uint32_t l = 0; l < n; l++) {
        order.clear();
        for (uint32_t i = 0; i < lanes[l].log_count; i++)
            order.push_back({lanes[l].log[i].pc, i});
        std::sort(order.begin(), order.end());
        uint32_t k = 0;
        for (size_t i = 0; i < order.size(); i++) {
            k = i && order[i].first == order[i - 1].first ? k + 1 : 0;
            all.push_back({order[i].first, k, {l, &lanes[l].log[order[i].second]}});
        }
    }
    std::sort(all.begin(), all.end(), [](const entry &a, const entry &b) {
        return a.pc != b.pc                   ? a.pc < b.pc
               : a.occurrence != b.occurrence ? a.occurrence < b.occurrence
                                              : a.x.lane < b.x.lane;
    });
    for (size_t i = 0; i < all.size();) {
        struct lane_access group[32] = {};
        size_t k = 0, j = i;
        for (; j < all.size() && all[j].pc == all[i].pc && all[j].occurrence == all[i].occurrence;
             j++)
            if (k < 32 && all[j].x.a->shared == all[i].x.a->shared)
                group[k++] = all[j].x;
        count_request(group, k);
        i = j;
    }
}

void emu_flush_warp(uint32_t warp)
{
    struct emu_fiber *lanes = &emu.fibers[warp * 32];
    uint32_t n = std::min(32u, emu.threads - warp * 32), active = 0, ids[32];
    for (uint32_t l = 0; l < n; l++)
        if (lanes[l].log_count)
            ids[active++] = l;
    if (!active)
        return;
    size_t entries = lanes[ids[0]].log_count;
    bool together = true;
    for (uint32_t i = 1; i < active && together; i++)
        together = lanes[ids[i]].log_count == entries;
    for (size_t e = 0; e < entries && together; e++)
        for (uint32_t i = 1; i < active && together; i++)
            together = lanes[ids[i]].log[e].pc == lanes[ids[0]].log[e].pc &&
                       lanes[ids[i]].log[e].shared == lanes[ids[0]].log[e].shared;
    if (together) {
        struct lane_access group[32] = {};
        for (size_t e = 0; e < entries; e++) {
            for (uint32_t i = 0; i < active; i++)
                group[i] = {ids[i], &lanes[ids[i]].log[e]};
            count_request(group, active);
        }
    } else {
        flush_diverged(lanes, n);
    }
    for (uint32_t i = 0; i < active; i++)
        lanes[ids[i]].log_count = 0;
}
