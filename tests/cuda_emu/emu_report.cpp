/* Reports of faults, with the place in the source and the array they concern; counters per kernel.
 */
#include "emu_internal.h"
#include <algorithm>
#include <deque>
#include <dlfcn.h>
#include <map>
#include <set>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_REPORTS = 100, MAX_PER_LAUNCH = 20 };

static std::deque<struct imf_emu_report> reports;
static int report_count, unread_count;
static bool quiet;
static std::set<std::pair<int, uintptr_t>> seen_in_launch;
static const void *seen_launch;
static uint32_t seen_epoch;

static std::deque<struct emu_kernel> kernels;
static std::map<std::string, struct emu_kernel *> kernel_index;

/* ---- places ---- */

/* The line of an instruction, through addr2line where it is installed. */
std::string emu_code(uintptr_t pc)
{
    static std::map<uintptr_t, std::string> cache;
    auto found = cache.find(pc);
    if (found != cache.end())
        return found->second;
    std::string out;
    Dl_info info;
    if (pc && dladdr(reinterpret_cast<void *>(pc), &info) && info.dli_fname) {
        char command[700], line[400];
        uintptr_t base = reinterpret_cast<uintptr_t>(info.dli_fbase);
        /* Position-independent files count from their base, others from 0: ask for both. */
        for (uintptr_t offset : {pc - 1 - base, pc - 1}) {
            snprintf(
                command, sizeof command,
                "ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD= addr2line -Cfpi -e '%s' 0x%zx 2>/dev/null",
                info.dli_fname, offset);
            FILE *f = popen(command, "r");
            out.clear();
            while (f && fgets(line, sizeof line, f)) {
                std::string s = line;
                while (!s.empty() && s.back() == '\n')
                    s.pop_back();
                /* Frames inside the CUDA headers say nothing; keep the kernel's own. */
                if (s.find("imf_emu") != std::string::npos ||
                    s.find("cuda_bf16.h") != std::string::npos)
                    continue;
                size_t at = s.find(" at ");
                if (at != std::string::npos)
                    s = s.substr(at + 4);
                size_t slash = s.rfind('/');
                if (slash != std::string::npos)
                    s = s.substr(slash + 1);
                size_t note = s.find(" (discriminator");
                if (note != std::string::npos)
                    s.resize(note);
                if (out.find(s) == std::string::npos)
                    out += (out.empty() ? "" : " in ") + s;
            }
            if (f)
                pclose(f);
            if (!out.empty() && out.find('?') == std::string::npos)
                break;
        }
        if (out.empty() || out.find("??") != std::string::npos)
            out = std::string(info.dli_sname ? info.dli_sname : info.dli_fname);
    }
    return cache[pc] = out;
}

static const struct shared_array *nearest_array(uintptr_t address)
{
    const struct shared_array *best = nullptr;
    for (const struct shared_array &a : emu.arrays)
        if (a.begin <= address + SHARED_GAP &&
            (!best || a.begin + a.size <= address || a.begin <= address))
            if (!best || a.begin > best->begin)
                best = &a;
    return best;
}

std::string emu_where(uintptr_t address)
{
    char text[300];
    if (address - emu_arena.base < emu_arena.size && emu.launch) {
        const struct shared_array *a = nearest_array(address);
        if (!a) {
            snprintf(text, sizeof text, "shared memory, but the launch has none there");
        } else {
            long off = long(address - a->begin), size = long(a->size);
            snprintf(text, sizeof text, "shared array %s (%ld bytes), %s %ld",
                     a->site ? a->site->name : "(dynamic)", size,
                     off >= size ? "past its end by" : "offset", off >= size ? off - size : off);
        }
        return text;
    }
    uintptr_t begin;
    size_t size;
    bool freed;
    const char *name = emu_allocation(address, &begin, &size, &freed);
    if (!name)
        return "no allocation";
    long off = long(address - begin);
    snprintf(text, sizeof text, "%s allocation %s (%zu bytes), %s %ld", freed ? "freed" : "device",
             name, size, off >= long(size) ? "past its end by" : "offset",
             off >= long(size) ? off - long(size) : off);
    return text;
}

/* ---- reports ---- */

static const char *kind_text(enum imf_emu_report_kind kind)
{
#define KIND_TEXT(name, text) text,
    static const char *const texts[] = {"", IMF_EMU_REPORTS(KIND_TEXT)};
    return texts[kind];
}

void emu_report(enum imf_emu_report_kind kind, uintptr_t address, uintptr_t pc, const char *format,
                ...)
{
    struct emu_fiber *self = emu_self();
    emu.reports++;
    report_count++;
    unread_count++;
    if (seen_launch != emu.launch || seen_epoch != emu.launch_epoch) {
        seen_in_launch.clear();
        seen_launch = emu.launch;
        seen_epoch = emu.launch_epoch;
    }
    /* One instruction often fails in every thread: say it once per launch. */
    if (self && pc && !seen_in_launch.insert({kind, pc}).second)
        return;
    if (seen_in_launch.size() > MAX_PER_LAUNCH)
        return;

    struct imf_emu_report r = {};
    char detail[300];
    va_list args;
    va_start(args, format);
    vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    r.kind = kind;
    r.address = address;
    std::string place, where;
    imf_emu_self = nullptr; /* the helpers below run on the host's side */
    if (self) {
        snprintf(r.kernel, sizeof r.kernel, "%s", emu.launch->name);
        r.block[0] = self->block.x, r.block[1] = self->block.y, r.block[2] = self->block.z;
        r.thread[0] = self->thread.x, r.thread[1] = self->thread.y, r.thread[2] = self->thread.z;
        if (pc)
            place = "\n    at " + emu_code(pc);
    }
    if (address)
        where = "\n    address " + emu_where(address);
    if (self)
        snprintf(r.text, sizeof r.text,
                 "cuda_emu: %s: %s%s%s\n    kernel %s, block (%u,%u,%u), thread (%u,%u,%u)",
                 kind_text(kind), detail, where.c_str(), place.c_str(), r.kernel, r.block[0],
                 r.block[1], r.block[2], r.thread[0], r.thread[1], r.thread[2]);
    else
        snprintf(r.text, sizeof r.text, "cuda_emu: %s: %s%s", kind_text(kind), detail,
                 where.c_str());
    imf_emu_self = self;
    if (!quiet)
        fprintf(stderr, "%s\n", r.text);
    if (reports.size() < MAX_REPORTS)
        reports.push_back(r);
    if (getenv("IMF_EMU_FATAL")) {
        fflush(nullptr);
        _exit(99);
    }
}

int imf_emu_report_count(void)
{
    emu_guard guard(emu_mutex);
    return report_count;
}

const struct imf_emu_report *imf_emu_report_at(int i)
{
    emu_guard guard(emu_mutex);
    return i >= 0 && size_t(i) < reports.size() ? &reports[size_t(i)] : nullptr;
}

void imf_emu_set_quiet(int value)
{
    quiet = value;
}

void emu_forget_reports(void)
{
    reports.clear();
    report_count = 0;
    unread_count = 0;
}

void imf_emu_set_check(enum imf_emu_check level)
{
    emu_guard guard(emu_mutex);
    emu_check_level = level;
}

/* ---- counters ---- */

struct emu_kernel *emu_stats(const char *name)
{
    auto found = kernel_index.find(name);
    if (found != kernel_index.end())
        return found->second;
    kernels.emplace_back();
    struct emu_kernel *k = &kernels.back();
    k->c = {};
    k->name = name;
    k->c.name = k->name.c_str();
    return kernel_index[name] = k;
}

void emu_count_matmul(const char *name, uint64_t read, uint64_t write, uint64_t flops)
{
    struct imf_emu_counters *c = &emu_stats(name)->c;
    c->launches++;
    c->read_bytes += read;
    c->read_unique += read;
    c->read_sectors += (read + 31) / 32;
    c->write_bytes += write;
    c->write_unique += write;
    c->write_sectors += (write + 31) / 32;
    c->tensor_flops += flops;
}

static bool is_copy(const struct emu_kernel &k)
{
    return k.name.rfind("memcpy ", 0) == 0 || k.name.rfind("memset", 0) == 0;
}

int imf_emu_counters_count(void)
{
    return int(kernels.size());
}

const struct imf_emu_counters *imf_emu_counters_at(int i)
{
    return i >= 0 && size_t(i) < kernels.size() ? &kernels[size_t(i)].c : nullptr;
}

const struct imf_emu_counters *imf_emu_counters_find(const char *name)
{
    for (struct emu_kernel &k : kernels)
        if (k.name == name)
            return &k.c;
    return nullptr;
}

void imf_emu_counters_reset(void)
{
    emu_guard guard(emu_mutex);
    kernel_index.clear();
    kernels.clear();
    emu.stats = nullptr;
}

uint64_t imf_emu_launches(void)
{
    uint64_t n = 0;
    for (const struct emu_kernel &k : kernels)
        n += is_copy(k) ? 0 : k.c.launches;
    return n;
}

int imf_emu_counters_write(const char *path)
{
    emu_guard guard(emu_mutex);
    FILE *f = fopen(path, "w");
    if (!f)
        return -1;
    fprintf(f, "[\n");
    for (size_t i = 0; i < kernels.size(); i++) {
        const struct imf_emu_counters *c = &kernels[i].c;
        fprintf(f, "  {\"name\": \"%s\", \"launches\": %lu, \"blocks\": %lu, \"threads\": %lu,",
                c->name, c->launches, c->blocks, c->threads);
        fprintf(f, " \"grid\": [%u, %u, %u], \"block\": [%u, %u, %u],", c->grid[0], c->grid[1],
                c->grid[2], c->block[0], c->block[1], c->block[2]);
        fprintf(f, " \"static_smem\": %lu, \"dynamic_smem\": %lu,", c->static_smem,
                c->dynamic_smem);
        fprintf(f, " \"read_bytes\": %lu, \"write_bytes\": %lu,", c->read_bytes, c->write_bytes);
        fprintf(f, " \"read_sectors\": %lu, \"write_sectors\": %lu,", c->read_sectors,
                c->write_sectors);
        fprintf(f, " \"read_unique\": %lu, \"write_unique\": %lu,", c->read_unique,
                c->write_unique);
        fprintf(f, " \"shared_requests\": %lu, \"shared_wavefronts\": %lu, \"shared_ideal\": %lu,",
                c->shared_requests, c->shared_wavefronts, c->shared_ideal);
        fprintf(f, " \"tensor_flops\": %lu, \"barriers\": %lu}%s\n", c->tensor_flops, c->barriers,
                i + 1 < kernels.size() ? "," : "");
    }
    fprintf(f, "]\n");
    return fclose(f) ? -1 : 0;
}

/* ---- the end of the process: unread reports must not pass for success ---- */

struct at_exit {
    ~at_exit()
    {
        const char *path = getenv("IMF_EMU_COUNTERS");
        if (path && *path)
            (void)imf_emu_counters_write(path);
        if (unread_count) {
            fprintf(stderr, "cuda_emu: %d fault(s) reported\n", unread_count);
            fflush(nullptr);
            _exit(99);
        }
    }
};
static struct at_exit at_exit; /* last in the file: destroyed before what it prints */
