/* The CUDA runtime API: devices, streams, events, copies, graphs.
 *
 * Asynchronous work is only queued. It runs when something waits for it, and no earlier: a copy's
 * bytes appear at the synchronisation, streams that are not waited for do not move, and where
 * several may run the youngest goes first. What a real GPU does only under unlucky timing happens
 * here every time. */
#include "emu_memory.h"
#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <stdlib.h>
#include <time.h>

/* ---- devices ---- */

struct device_state {
    struct cudaDeviceProp prop;
    cudaError_t sticky; /* a fault of a kernel poisons the context, as in CUDA */
    bool sick;
    cudaStream_t null_stream;
};

static struct device_state devices[MAX_DEVICES];
static int device_count = -1;
static cudaError_t driver_error;
static int malloc_countdown, launch_countdown;
static cudaError_t launch_failure;
static int live_objects;
static thread_local int current_device;
static thread_local cudaError_t last_error;

struct preset {
    const char *name, *full;
    int major, minor, sms;
    size_t memory_gib;
    int threads_per_sm, smem_per_sm, optin, l2_mib, bus;
};
static const struct preset presets[] = {
    {"H100", "Emulated H100", 9, 0, 132, 80, 2048, 233472, 232448, 50, 5120},
    {"A100", "Emulated A100", 8, 0, 108, 80, 2048, 167936, 166912, 40, 5120},
    {"4090", "Emulated RTX 4090", 8, 9, 128, 24, 1536, 102400, 101376, 72, 384},
    {"3090", "Emulated RTX 3090", 8, 6, 82, 24, 1536, 102400, 101376, 6, 384},
    {"V100", "Emulated V100", 7, 0, 80, 32, 2048, 98304, 98304, 6, 4096},
};

static size_t env_size(const char *name, size_t standard)
{
    const char *s = getenv(name);
    return s && *s ? size_t(strtoull(s, nullptr, 0)) : standard;
}

int emu_devices(void)
{
    size_t n = env_size("IMF_EMU_DEVICES", 1);
    return n > MAX_DEVICES ? int(MAX_DEVICES) : int(n);
}

static void fill_prop(struct cudaDeviceProp *p, int index)
{
    const struct preset *m = &presets[0];
    const char *want = getenv("IMF_EMU_DEVICE");
    for (const struct preset &q : presets)
        if (want && !strcmp(want, q.name))
            m = &q;
    snprintf(p->name, sizeof p->name, "%s", m->full);
    p->uuid.bytes[15] = char(index);
    p->totalGlobalMem = env_size("IMF_EMU_MEMORY", m->memory_gib << 30);
    p->sharedMemPerBlock = 48 << 10;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->memPitch = 0x7fffffff;
    p->maxThreadsPerBlock = MAX_THREADS;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->totalConstMem = 65536;
    p->major = m->major;
    p->minor = m->minor;
    p->multiProcessorCount = m->sms;
    p->canMapHostMemory = p->concurrentKernels = p->ECCEnabled = p->unifiedAddressing = 1;
    p->pciBusID = index + 1;
    p->asyncEngineCount = 3;
    p->memoryBusWidth = m->bus;
    p->l2CacheSize = m->l2_mib << 20;
    p->maxThreadsPerMultiProcessor = m->threads_per_sm;
    p->sharedMemPerMultiprocessor = size_t(m->smem_per_sm);
    p->sharedMemPerBlockOptin = size_t(m->optin);
    if (size_t shared = env_size("IMF_EMU_SHARED", 0))
        p->sharedMemPerBlockOptin = p->sharedMemPerMultiprocessor = shared;
    p->maxBlocksPerMultiProcessor = m->major == 8 && m->minor ? 24 : 32;
    p->reservedSharedMemPerBlock = m->major >= 8 ? 1024 : 0;
    p->cooperativeLaunch = 1;
}

static void start(void)
{
    if (device_count >= 0)
        return;
    const char *driver = getenv("IMF_EMU_DRIVER");
    device_count = emu_devices();
    if (driver && !strcmp(driver, "none")) {
        driver_error = cudaErrorInsufficientDriver;
        device_count = 0;
    } else if (!device_count) {
        driver_error = cudaErrorNoDevice;
    }
    malloc_countdown = int(env_size("IMF_EMU_FAIL_MALLOC", 0));
    launch_countdown = int(env_size("IMF_EMU_FAIL_LAUNCH", 0));
    launch_failure = cudaErrorLaunchFailure;
    for (int i = 0; i < device_count; i++)
        fill_prop(&devices[i].prop, i);
    size_t sick = env_size("IMF_EMU_SICK_DEVICE", SIZE_MAX);
    if (sick < size_t(device_count))
        devices[sick].sick = true;
    emu_init();
}

struct cudaDeviceProp *emu_device_prop(int device)
{
    return &devices[device].prop;
}

cudaError_t emu_set_error(cudaError_t e)
{
    if (e != cudaSuccess)
        last_error = e;
    return e;
}

static cudaError_t device_error(int device)
{
    start();
    if (driver_error)
        return driver_error;
    if (devices[device].sick)
        return cudaErrorECCUncorrectable;
    return devices[device].sticky;
}

cudaError_t emu_device_ok(void)
{
    return device_error(current_device);
}

void emu_live(int delta)
{
    live_objects += delta;
}

cudaError_t emu_take_launch_failure(void)
{
    if (launch_countdown && --launch_countdown == 0)
        return launch_failure;
    return cudaSuccess;
}

#define ENTER                                                                                      \
    emu_guard guard(emu_mutex);                                                                    \
    cudaError_t entered = emu_device_ok();                                                         \
    if (entered != cudaSuccess)                                                                    \
    return emu_set_error(entered)

/* ---- streams: queues of work ---- */

struct pending_range {
    void *host;
    size_t size;
    bool device_writes;
};

struct work_item {
    uint64_t seq;
    std::function<cudaError_t()> run;
    cudaStream_t after; /* event wait: this stream up to after_seq first */
    uint64_t after_seq;
    std::vector<pending_range> host; /* pinned memory the work uses */
    std::vector<uint64_t> pending;
};

struct graph_node {
    std::function<cudaError_t()> run;
    std::vector<pending_range> host;
};

struct capture {
    cudaStream_t origin;
    enum cudaStreamCaptureMode mode;
    bool invalid;
    std::vector<graph_node> nodes;
    std::map<cudaStream_t, size_t> last, joined; /* node counts per stream */
};

struct CUstream_st {
    int device;
    bool legacy, blocking;
    std::deque<work_item> queue;
    std::shared_ptr<struct capture> capture;
};

struct CUevent_st {
    int device;
    bool timing;
    bool recorded;
    cudaStream_t stream; /* of the last record, with its sequence number */
    uint64_t seq;
    bool done;
    double time_ms;
    std::shared_ptr<struct capture> capture;
    cudaStream_t capture_stream;
    size_t capture_count;
};

struct CUgraph_st {
    std::vector<graph_node> nodes;
};

struct CUgraphExec_st {
    std::shared_ptr<std::vector<graph_node>> nodes;
};

static uint64_t sequence;
static std::vector<cudaStream_t> streams; /* all, oldest first */
static std::set<cudaEvent_t> events;
static std::set<cudaGraph_t> graphs;
static std::set<cudaGraphExec_t> graph_execs;
static std::vector<std::shared_ptr<struct capture>> captures; /* active */

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) * 1e3 + double(t.tv_nsec) * 1e-6;
}

/* NULL when the handle is no stream. */
static cudaStream_t find_stream(cudaStream_t s)
{
    if (!s || s == cudaStreamLegacy) {
        struct device_state *d = &devices[current_device];
        if (!d->null_stream) {
            d->null_stream = new CUstream_st();
            d->null_stream->device = current_device;
            d->null_stream->legacy = true;
            streams.push_back(d->null_stream);
        }
        return d->null_stream;
    }
    return std::find(streams.begin(), streams.end(), s) != streams.end() ? s : nullptr;
}

bool emu_stream_valid(cudaStream_t s)
{
    return find_stream(s) != nullptr;
}

int emu_stream_device(cudaStream_t s)
{
    return find_stream(s)->device;
}

static void run_stream(cudaStream_t s, uint64_t until);

/* What CUDA's legacy default stream orders: it waits for the blocking streams and they for it. */
static void run_legacy_dependencies(cudaStream_t s, uint64_t seq)
{
    if (s->legacy) {
        for (cudaStream_t o : std::vector<cudaStream_t>(streams))
            if (o->blocking && o->device == s->device)
                run_stream(o, seq - 1);
    } else if (s->blocking && devices[s->device].null_stream) {
        run_stream(devices[s->device].null_stream, seq - 1);
    }
}

static void run_stream(cudaStream_t s, uint64_t until)
{
    while (!s->queue.empty() && s->queue.front().seq <= until) {
        run_legacy_dependencies(s, s->queue.front().seq);
        if (s->queue.empty() || s->queue.front().seq > until)
            break;
        struct work_item item = std::move(s->queue.front());
        s->queue.pop_front();
        if (item.after && find_stream(item.after) == item.after)
            run_stream(item.after, item.after_seq);
        for (uint64_t p : item.pending)
            emu_pending_end(p);
        struct device_state *d = &devices[s->device];
        if (item.run && !d->sticky && !d->sick) {
            cudaError_t e = item.run();
            if (e != cudaSuccess)
                d->sticky = e;
        }
    }
}

static void run_all(int device)
{
    /* Youngest first: only events and the legacy stream order them. */
    std::vector<cudaStream_t> all(streams.rbegin(), streams.rend());
    for (cudaStream_t s : all)
        if (s->device == device)
            run_stream(s, UINT64_MAX);
}

static struct capture *capturing(cudaStream_t s)
{
    return s->capture.get();
}

static cudaError_t enqueue(cudaStream_t s, std::function<cudaError_t()> run,
                           std::vector<pending_range> host, cudaStream_t after = nullptr,
                           uint64_t after_seq = 0)
{
    if (struct capture *c = capturing(s)) {
        if (c->invalid)
            return cudaErrorStreamCaptureInvalidated;
        if (run) {
            c->nodes.push_back({std::move(run), std::move(host)});
            c->last[s] = c->nodes.size();
        }
        return cudaSuccess;
    }
    /* A blocking stream in global capture forbids the legacy stream. */
    if (s->legacy)
        for (auto &c : captures)
            if (c->mode != cudaStreamCaptureModeRelaxed && c->origin->blocking &&
                c->origin->device == s->device) {
                c->invalid = true;
                return cudaErrorStreamCaptureImplicit;
            }
    struct work_item item = {++sequence, std::move(run), after, after_seq, std::move(host), {}};
    for (const pending_range &r : item.host)
        if (uint64_t id = emu_pending_begin(r.host, r.size, r.device_writes))
            item.pending.push_back(id);
    s->queue.push_back(std::move(item));
    return cudaSuccess;
}

cudaError_t emu_enqueue(cudaStream_t stream, const char *what, std::function<cudaError_t()> work)
{
    (void)what;
    cudaStream_t s = find_stream(stream);
    if (!s)
        return cudaErrorInvalidResourceHandle;
    cudaError_t injected = emu_take_launch_failure();
    if (injected != cudaSuccess)
        return enqueue(s, [injected] { return injected; }, {});
    return enqueue(s, std::move(work), {});
}

/* Waiting calls are forbidden while this thread captures, unless relaxed. */
static cudaError_t forbid_in_capture(bool unsafe_only)
{
    for (auto &c : captures)
        if (!unsafe_only || c->mode != cudaStreamCaptureModeRelaxed) {
            c->invalid = true;
            return cudaErrorStreamCaptureUnsupported;
        }
    return cudaSuccess;
}

#define TRY(call)                                                                                  \
    do {                                                                                           \
        cudaError_t try_error = (call);                                                            \
        if (try_error != cudaSuccess)                                                              \
            return emu_set_error(try_error);                                                       \
    } while (0)

extern "C" {

/* ---- errors ---- */

cudaError_t cudaGetLastError(void)
{
    emu_guard guard(emu_mutex);
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

const char *cudaGetErrorName(cudaError_t error)
{
#define ERROR_NAME(name, value, text)                                                              \
    case name:                                                                                     \
        return #name;
    switch (error) {
        IMF_EMU_ERRORS(ERROR_NAME)
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
#define ERROR_TEXT(name, value, text)                                                              \
    case name:                                                                                     \
        return text;
    switch (error) {
        IMF_EMU_ERRORS(ERROR_TEXT)
    }
    return "unrecognized error code";
}

/* ---- devices ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    emu_guard guard(emu_mutex);
    start();
    if (driver_error)
        return emu_set_error(driver_error);
    *count = device_count;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    emu_guard guard(emu_mutex);
    start();
    if (driver_error)
        return emu_set_error(driver_error);
    if (device < 0 || device >= device_count)
        return emu_set_error(cudaErrorInvalidDevice);
    current_device = device;
    return emu_set_error(device_error(device));
}

cudaError_t cudaGetDevice(int *device)
{
    emu_guard guard(emu_mutex);
    start();
    if (driver_error)
        return emu_set_error(driver_error);
    *device = current_device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    emu_guard guard(emu_mutex);
    start();
    if (driver_error)
        return emu_set_error(driver_error);
    if (device < 0 || device >= device_count)
        return emu_set_error(cudaErrorInvalidDevice);
    *prop = devices[device].prop;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
    emu_guard guard(emu_mutex);
    start();
    if (driver_error)
        return emu_set_error(driver_error);
    if (device < 0 || device >= device_count)
        return emu_set_error(cudaErrorInvalidDevice);
    const struct cudaDeviceProp *p = &devices[device].prop;
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = p->maxThreadsPerBlock;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = int(p->sharedMemPerBlock);
        return cudaSuccess;
    case cudaDevAttrWarpSize:
        *value = 32;
        return cudaSuccess;
    case cudaDevAttrMaxRegistersPerBlock:
        *value = p->regsPerBlock;
        return cudaSuccess;
    case cudaDevAttrClockRate:
        *value = 1755000;
        return cudaSuccess;
    case cudaDevAttrMemoryClockRate:
        *value = 2619000;
        return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
        *value = p->multiProcessorCount;
        return cudaSuccess;
    case cudaDevAttrGlobalMemoryBusWidth:
        *value = p->memoryBusWidth;
        return cudaSuccess;
    case cudaDevAttrL2CacheSize:
        *value = p->l2CacheSize;
        return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = p->maxThreadsPerMultiProcessor;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p->major;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p->minor;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = int(p->sharedMemPerMultiprocessor);
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = int(p->sharedMemPerBlockOptin);
        return cudaSuccess;
    }
    return emu_set_error(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int len, int device)
{
    emu_guard guard(emu_mutex);
    start();
    if (device < 0 || device >= device_count)
        return emu_set_error(cudaErrorInvalidDevice);
    snprintf(id, size_t(len), "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned int flags)
{
    (void)flags;
    ENTER;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    emu_guard guard(emu_mutex);
    start();
    *version = driver_error == cudaErrorInsufficientDriver ? 0 : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    ENTER;
    TRY(forbid_in_capture(false));
    run_all(current_device);
    return emu_set_error(emu_device_ok());
}

cudaError_t cudaDeviceReset(void)
{
    emu_guard guard(emu_mutex);
    start();
    for (cudaStream_t s : streams)
        if (s->device == current_device) {
            for (work_item &i : s->queue)
                for (uint64_t p : i.pending)
                    emu_pending_end(p);
            s->queue.clear();
        }
    devices[current_device].sticky = cudaSuccess;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    ENTER;
    size_t total = devices[current_device].prop.totalGlobalMem,
           used = emu_memory_used(current_device);
    *total_bytes = total;
    *free_bytes = used < total ? total - used : 0;
    return cudaSuccess;
}

/* ---- memory ---- */

cudaError_t cudaMalloc(void **ptr, size_t size)
{
    ENTER;
    TRY(forbid_in_capture(true));
    if (!ptr)
        return emu_set_error(cudaErrorInvalidValue);
    *ptr = nullptr;
    if (malloc_countdown && --malloc_countdown == 0)
        return emu_set_error(cudaErrorMemoryAllocation);
    if (!size)
        return cudaSuccess;
    if (!emu_memory_alloc(current_device, size, devices[current_device].prop.totalGlobalMem, ptr))
        return emu_set_error(cudaErrorMemoryAllocation);
    return cudaSuccess;
}

cudaError_t cudaFree(void *ptr)
{
    emu_guard guard(emu_mutex);
    start();
    if (driver_error)
        return emu_set_error(driver_error);
    if (!ptr)
        return emu_set_error(emu_device_ok());
    TRY(forbid_in_capture(true));
    run_all(current_device); /* cudaFree waits for the device */
    if (!emu_memory_free(ptr))
        return emu_set_error(cudaErrorInvalidValue);
    return emu_set_error(emu_device_ok());
}

cudaError_t cudaMallocAsync(void **ptr, size_t size, cudaStream_t stream)
{
    {
        emu_guard guard(emu_mutex);
        cudaStream_t s = emu_device_ok() == cudaSuccess ? find_stream(stream) : nullptr;
        if (s && capturing(s))
            return emu_set_error(cudaErrorStreamCaptureUnsupported);
    }
    return cudaMalloc(ptr, size);
}

cudaError_t cudaFreeAsync(void *ptr, cudaStream_t stream)
{
    ENTER;
    cudaStream_t s = find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    TRY(enqueue(s, [ptr] { return emu_memory_free(ptr) ? cudaSuccess : cudaErrorInvalidValue; },
                {}));
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **ptr, size_t size, unsigned int flags)
{
    (void)flags;
    ENTER;
    TRY(forbid_in_capture(true));
    if (!emu_pinned_alloc(size, ptr))
        return emu_set_error(cudaErrorMemoryAllocation);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **ptr, size_t size)
{
    return cudaHostAlloc(ptr, size, 0);
}

cudaError_t cudaFreeHost(void *ptr)
{
    emu_guard guard(emu_mutex);
    start();
    if (driver_error)
        return emu_set_error(driver_error);
    if (!ptr)
        return cudaSuccess;
    for (int d = 0; d < device_count; d++)
        run_all(d);
    return emu_set_error(emu_pinned_free(ptr, false) ? emu_device_ok() : cudaErrorInvalidValue);
}

cudaError_t cudaHostRegister(void *ptr, size_t size, unsigned int flags)
{
    (void)flags;
    ENTER;
    return emu_set_error(emu_pinned_register(ptr, size) ? cudaSuccess
                                                        : cudaErrorHostMemoryAlreadyRegistered);
}

cudaError_t cudaHostUnregister(void *ptr)
{
    emu_guard guard(emu_mutex);
    start();
    for (int d = 0; d < device_count; d++)
        run_all(d);
    return emu_set_error(emu_pinned_free(ptr, true) ? cudaSuccess
                                                    : cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *ptr)
{
    ENTER;
    memset(a, 0, sizeof *a);
    a->device = current_device;
    if (emu_in_heap(ptr)) {
        a->type = cudaMemoryTypeDevice;
        a->device = int((reinterpret_cast<uintptr_t>(ptr) - emu_heap.base) / emu_device_span);
        a->devicePointer = const_cast<void *>(ptr);
    } else if (emu_pinned_find(ptr)) {
        a->type = cudaMemoryTypeHost;
        a->hostPointer = a->devicePointer = const_cast<void *>(ptr);
    }
    return cudaSuccess;
}

struct copy_rect {
    char *dst;
    const char *src;
    size_t dpitch, spitch, width, height;
    bool from_device, to_device;
};

static cudaError_t perform_copy(const struct copy_rect &r)
{
    static const char *const names[2][2] = {{"memcpy H2H", "memcpy H2D"},
                                            {"memcpy D2H", "memcpy D2D"}};
    struct imf_emu_counters *c = &emu_stats(names[r.from_device][r.to_device])->c;
    c->launches++;
    for (size_t y = 0; y < r.height; y++) {
        char *d = r.dst + y * r.dpitch;
        const char *s = r.src + y * r.spitch;
        if (r.from_device) {
            (void)emu_check_range(s, r.width, !r.to_device, "source of a copy");
            c->read_bytes += r.width;
        }
        if (r.to_device) {
            if (!emu_check_range(d, r.width, false, "destination of a copy"))
                return cudaErrorIllegalAddress;
            c->write_bytes += r.width;
        }
        if (r.from_device && r.to_device && emu_tracking) {
            memmove(emu_heap.flags + (reinterpret_cast<uintptr_t>(d) - emu_heap.base),
                    emu_heap.flags + (reinterpret_cast<uintptr_t>(s) - emu_heap.base), r.width);
            memmove(d, s, r.width);
            continue;
        }
        memmove(d, s, r.width);
        if (r.to_device)
            emu_mark_written(d, r.width);
    }
    return cudaSuccess;
}

static cudaError_t check_copy(const struct copy_rect &r, enum cudaMemcpyKind kind)
{
    static const bool from[] = {false, false, true, true}, to[] = {false, true, false, true};
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
        return cudaErrorInvalidMemcpyDirection;
    if (kind != cudaMemcpyDefault && (from[kind] != r.from_device || to[kind] != r.to_device)) {
        emu_report(IMF_EMU_API, 0, 0, "copy with kind %d from %s memory to %s memory", int(kind),
                   r.from_device ? "device" : "host", r.to_device ? "device" : "host");
        return cudaErrorInvalidValue;
    }
    if (r.height > 1 && (r.dpitch < r.width || r.spitch < r.width))
        return cudaErrorInvalidPitchValue;
    for (size_t y = 0; y < r.height && r.width; y++)
        if ((r.from_device &&
             !emu_check_range(r.src + y * r.spitch, r.width, false, "source of a copy")) ||
            (r.to_device &&
             !emu_check_range(r.dst + y * r.dpitch, r.width, false, "destination of a copy")))
            return cudaErrorInvalidValue;
    return cudaSuccess;
}

static cudaError_t copy(struct copy_rect r, enum cudaMemcpyKind kind, cudaStream_t stream,
                        bool wait)
{
    ENTER;
    r.from_device = emu_in_heap(r.src);
    r.to_device = emu_in_heap(r.dst);
    cudaStream_t s = find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    TRY(check_copy(r, kind));
    if (!r.width || !r.height)
        return cudaSuccess;
    if (wait)
        TRY(forbid_in_capture(false));
    std::vector<pending_range> host;
    std::shared_ptr<std::vector<char>> staged;
    size_t dspan = r.dpitch * (r.height - 1) + r.width, sspan = r.spitch * (r.height - 1) + r.width;
    if (!wait && !capturing(s)) {
        if (!r.to_device && !emu_pinned_find(r.dst)) {
            wait = true; /* into pageable memory: CUDA returns when it is done */
        } else if (!r.from_device && !emu_pinned_find(r.src)) {
            staged = std::make_shared<std::vector<char>>(r.src, r.src + sspan);
            r.src = staged->data();
        }
    }
    if (!wait) {
        if (!r.to_device)
            host.push_back({r.dst, dspan, true});
        if (!r.from_device && !staged)
            host.push_back({const_cast<char *>(r.src), sspan, false});
    }
    TRY(enqueue(
        s, [r, staged] { return perform_copy(r); }, std::move(host)));
    if (wait) {
        run_stream(s, UINT64_MAX);
        return emu_set_error(emu_device_ok());
    }
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    return copy(
        {static_cast<char *>(dst), static_cast<const char *>(src), size, size, size, 1, 0, 0}, kind,
        stream, false);
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t size, enum cudaMemcpyKind kind)
{
    return copy(
        {static_cast<char *>(dst), static_cast<const char *>(src), size, size, size, 1, 0, 0}, kind,
        nullptr, true);
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dpitch, const void *src, size_t spitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    return copy({static_cast<char *>(dst), static_cast<const char *>(src), dpitch, spitch, width,
                 height, 0, 0},
                kind, stream, false);
}

cudaError_t cudaMemcpy2D(void *dst, size_t dpitch, const void *src, size_t spitch, size_t width,
                         size_t height, enum cudaMemcpyKind kind)
{
    return copy({static_cast<char *>(dst), static_cast<const char *>(src), dpitch, spitch, width,
                 height, 0, 0},
                kind, nullptr, true);
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t size, cudaStream_t stream)
{
    ENTER;
    cudaStream_t s = find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    if (!size)
        return cudaSuccess;
    if (!emu_check_range(dst, size, false, "cudaMemset"))
        return emu_set_error(cudaErrorInvalidValue);
    TRY(enqueue(s,
                [=]() -> cudaError_t {
                    if (!emu_check_range(dst, size, false, "cudaMemset"))
                        return cudaErrorIllegalAddress;
                    struct imf_emu_counters *c = &emu_stats("memset")->c;
                    c->launches++;
                    c->write_bytes += size;
                    memset(dst, value, size);
                    emu_mark_written(dst, size);
                    return cudaSuccess;
                },
                {}));
    return cudaSuccess;
}

cudaError_t cudaMemset(void *dst, int value, size_t size)
{
    return cudaMemsetAsync(dst, value, size, nullptr);
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int priority)
{
    (void)priority;
    ENTER;
    cudaStream_t s = new CUstream_st();
    s->device = current_device;
    s->blocking = !(flags & cudaStreamNonBlocking);
    streams.push_back(s);
    emu_live(1);
    *stream = s;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags)
{
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithPriority(stream, 0, 0);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    if (least)
        *least = 0;
    if (greatest)
        *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    emu_guard guard(emu_mutex);
    start();
    cudaStream_t s = stream ? find_stream(stream) : nullptr;
    if (!s || s->legacy)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    run_stream(s, UINT64_MAX);
    streams.erase(std::find(streams.begin(), streams.end(), s));
    delete s;
    emu_live(-1);
    return emu_set_error(emu_device_ok());
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    ENTER;
    cudaStream_t s = find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    TRY(forbid_in_capture(capturing(s) == nullptr));
    run_stream(s, UINT64_MAX);
    return emu_set_error(device_error(s->device));
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    ENTER;
    cudaStream_t s = find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    TRY(forbid_in_capture(capturing(s) == nullptr));
    if (s->queue.empty())
        return cudaSuccess;
    run_stream(s, s->queue.front().seq); /* polling makes progress, one step a time */
    TRY(device_error(s->device));
    return cudaErrorNotReady;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *user)
{
    ENTER;
    cudaStream_t s = find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    TRY(enqueue(s,
                [fn, user] {
                    fn(user);
                    return cudaSuccess;
                },
                {}));
    return cudaSuccess;
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    ENTER;
    cudaEvent_t e = new CUevent_st();
    e->device = current_device;
    e->timing = !(flags & cudaEventDisableTiming);
    e->done = true;
    events.insert(e);
    emu_live(1);
    *event = e;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    emu_guard guard(emu_mutex);
    if (!events.erase(event))
        return emu_set_error(cudaErrorInvalidResourceHandle);
    delete event;
    emu_live(-1);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    ENTER;
    cudaStream_t s = find_stream(stream);
    if (!s || !events.count(event) || event->device != s->device)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    if (capturing(s)) {
        event->capture = s->capture;
        event->capture_stream = s;
        event->capture_count = s->capture->last.count(s) ? s->capture->last[s] : 0;
        return cudaSuccess;
    }
    event->capture.reset();
    uint64_t seq = sequence + 1;
    TRY(enqueue(s,
                [event, seq] {
                    if (events.count(event) && event->seq == seq) {
                        event->done = true;
                        event->time_ms = now_ms();
                    }
                    return cudaSuccess;
                },
                {}));
    event->recorded = true;
    event->done = false;
    event->stream = s;
    event->seq = seq;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    (void)flags;
    ENTER;
    cudaStream_t s = find_stream(stream);
    if (!s || !events.count(event))
        return emu_set_error(cudaErrorInvalidResourceHandle);
    if (event->capture) {
        std::shared_ptr<struct capture> c = event->capture;
        if (capturing(s) && s->capture != c)
            return emu_set_error(cudaErrorStreamCaptureUnsupported);
        s->capture = c;
        size_t &joined = c->joined[event->capture_stream];
        joined = std::max(joined, event->capture_count);
        return cudaSuccess;
    }
    if (capturing(s)) {
        s->capture->invalid = true; /* depends on work outside the capture */
        return emu_set_error(cudaErrorStreamCaptureUnsupported);
    }
    if (!event->recorded)
        return cudaSuccess;
    TRY(enqueue(s, nullptr, {}, event->done ? nullptr : event->stream, event->seq));
    return cudaSuccess;
}

static cudaError_t wait_event(cudaEvent_t event)
{
    if (!events.count(event))
        return cudaErrorInvalidResourceHandle;
    if (event->capture)
        return cudaErrorStreamCaptureUnsupported;
    if (!event->done && find_stream(event->stream) == event->stream)
        run_stream(event->stream, event->seq);
    return device_error(event->device);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    ENTER;
    TRY(forbid_in_capture(true));
    return emu_set_error(wait_event(event));
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    ENTER;
    if (!events.count(event))
        return emu_set_error(cudaErrorInvalidResourceHandle);
    if (event->done)
        return cudaSuccess;
    cudaStream_t s = event->stream;
    if (find_stream(s) == s && !s->queue.empty())
        run_stream(s, s->queue.front().seq);
    TRY(device_error(event->device));
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start_event, cudaEvent_t end)
{
    ENTER;
    if (!events.count(start_event) || !events.count(end) || !start_event->timing || !end->timing ||
        !start_event->recorded || !end->recorded)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    if (!start_event->done || !end->done)
        return cudaErrorNotReady;
    *ms = float(end->time_ms - start_event->time_ms);
    return cudaSuccess;
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    ENTER;
    cudaStream_t s = find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    if (s->legacy)
        return emu_set_error(cudaErrorStreamCaptureUnsupported);
    if (capturing(s))
        return emu_set_error(cudaErrorStreamCaptureUnmatched);
    s->capture = std::make_shared<struct capture>();
    s->capture->origin = s;
    s->capture->mode = mode;
    captures.push_back(s->capture);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    ENTER;
    cudaStream_t s = find_stream(stream);
    if (!s || !graph)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    *graph = nullptr;
    std::shared_ptr<struct capture> c = s->capture;
    if (!c || c->origin != s)
        return emu_set_error(cudaErrorStreamCaptureUnmatched);
    captures.erase(std::find(captures.begin(), captures.end(), c));
    for (cudaStream_t o : streams)
        if (o->capture == c)
            o->capture.reset();
    for (cudaEvent_t e : events)
        if (e->capture == c)
            e->capture.reset();
    if (c->invalid)
        return emu_set_error(cudaErrorStreamCaptureInvalidated);
    for (const auto &l : c->last)
        if (l.first != s && (!c->joined.count(l.first) || c->joined[l.first] < l.second))
            return emu_set_error(cudaErrorStreamCaptureUnjoined);
    cudaGraph_t g = new CUgraph_st();
    g->nodes = std::move(c->nodes);
    graphs.insert(g);
    emu_live(1);
    *graph = g;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    ENTER;
    cudaStream_t s = find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    *status = !capturing(s)         ? cudaStreamCaptureStatusNone
              : s->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                    : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    (void)flags;
    ENTER;
    if (!graphs.count(graph))
        return emu_set_error(cudaErrorInvalidValue);
    cudaGraphExec_t x = new CUgraphExec_st();
    x->nodes = std::make_shared<std::vector<graph_node>>(graph->nodes);
    graph_execs.insert(x);
    emu_live(1);
    *exec = x;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph,
                                          unsigned long long flags)
{
    return cudaGraphInstantiate(exec, graph, flags);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    ENTER;
    return emu_set_error(graph_execs.count(exec) && find_stream(stream)
                             ? cudaSuccess
                             : cudaErrorInvalidResourceHandle);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    ENTER;
    cudaStream_t s = find_stream(stream);
    if (!s || !graph_execs.count(exec))
        return emu_set_error(cudaErrorInvalidResourceHandle);
    std::shared_ptr<std::vector<graph_node>> nodes = exec->nodes;
    std::vector<pending_range> host;
    for (const graph_node &n : *nodes)
        host.insert(host.end(), n.host.begin(), n.host.end());
    TRY(enqueue(
        s,
        [nodes]() -> cudaError_t {
            for (const graph_node &n : *nodes) {
                cudaError_t e = emu_take_launch_failure();
                if (e == cudaSuccess)
                    e = n.run();
                if (e != cudaSuccess)
                    return e;
            }
            return cudaSuccess;
        },
        std::move(host)));
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    emu_guard guard(emu_mutex);
    if (!graph_execs.erase(exec))
        return emu_set_error(cudaErrorInvalidValue);
    delete exec;
    emu_live(-1);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    emu_guard guard(emu_mutex);
    if (!graphs.erase(graph))
        return emu_set_error(cudaErrorInvalidValue);
    delete graph;
    emu_live(-1);
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    ENTER;
    if (!graphs.count(graph) || nodes)
        return emu_set_error(cudaErrorInvalidValue);
    *count = graph->nodes.size();
    return cudaSuccess;
}

/* ---- kernels ---- */

static std::map<const void *, int> max_dynamic_smem;
static std::map<const void *, size_t> static_smem;

cudaError_t cudaFuncSetAttribute(const void *func, enum cudaFuncAttribute attr, int value)
{
    ENTER;
    if (attr == cudaFuncAttributePreferredSharedMemoryCarveout)
        return cudaSuccess;
    size_t limit = devices[current_device].prop.sharedMemPerBlockOptin;
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || !func || value < 0 ||
        size_t(value) > limit) {
        emu_report(IMF_EMU_LIMITS, 0, 0,
                   "cudaFuncSetAttribute asks for %d bytes of dynamic shared memory (limit %zu)",
                   value, limit);
        return emu_set_error(cudaErrorInvalidValue);
    }
    max_dynamic_smem[func] = value;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attr, const void *func)
{
    ENTER;
    memset(attr, 0, sizeof *attr);
    attr->maxThreadsPerBlock = MAX_THREADS;
    attr->sharedSizeBytes = static_smem.count(func) ? static_smem[func] : 0;
    attr->maxDynamicSharedSizeBytes =
        max_dynamic_smem.count(func) ? max_dynamic_smem[func] : 48 << 10;
    attr->ptxVersion = attr->binaryVersion =
        devices[current_device].prop.major * 10 + devices[current_device].prop.minor;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *func,
                                                          int block_size, size_t dynamic_smem)
{
    ENTER;
    const struct cudaDeviceProp *p = &devices[current_device].prop;
    if (block_size < 1 || block_size > MAX_THREADS)
        return emu_set_error(cudaErrorInvalidValue);
    size_t smem = dynamic_smem + (static_smem.count(func) ? static_smem[func] : 0);
    size_t threads = (size_t(block_size) + 31) / 32 * 32;
    size_t n = std::min<size_t>(size_t(p->maxThreadsPerMultiProcessor) / threads,
                                size_t(p->maxBlocksPerMultiProcessor));
    if (smem > p->sharedMemPerBlockOptin)
        n = 0;
    else
        n = std::min(n, p->sharedMemPerMultiprocessor / (smem + p->reservedSharedMemPerBlock + 1));
    *blocks = int(n);
    return cudaSuccess;
}

static cudaError_t check_launch(const struct imf_emu_launch_info *l, int device)
{
    const struct cudaDeviceProp *p = &devices[device].prop;
    uint64_t threads = uint64_t(l->block.x) * l->block.y * l->block.z;
    if (!l->grid.x || !l->grid.y || !l->grid.z || !threads || threads > MAX_THREADS ||
        l->block.x > unsigned(p->maxThreadsDim[0]) || l->block.y > unsigned(p->maxThreadsDim[1]) ||
        l->block.z > unsigned(p->maxThreadsDim[2]) || l->grid.x > unsigned(p->maxGridSize[0]) ||
        l->grid.y > unsigned(p->maxGridSize[1]) || l->grid.z > unsigned(p->maxGridSize[2])) {
        emu_report(IMF_EMU_LIMITS, 0, 0, "kernel %s: grid (%u,%u,%u) of blocks (%u,%u,%u)", l->name,
                   l->grid.x, l->grid.y, l->grid.z, l->block.x, l->block.y, l->block.z);
        return cudaErrorInvalidConfiguration;
    }
    size_t allowed = p->sharedMemPerBlock;
    if (max_dynamic_smem.count(l->function))
        allowed = std::max(allowed, size_t(max_dynamic_smem[l->function]));
    if (l->dynamic_smem > allowed) {
        emu_report(IMF_EMU_LIMITS, 0, 0,
                   "kernel %s: %zu bytes of dynamic shared memory, %zu allowed "
                   "(cudaFuncSetAttribute raises it up to %zu)",
                   l->name, l->dynamic_smem, allowed, p->sharedMemPerBlockOptin);
        return cudaErrorInvalidValue;
    }
    if (l->args_size > PARAM_BYTES) {
        emu_report(IMF_EMU_LIMITS, 0, 0, "kernel %s: %zu bytes of parameters", l->name,
                   l->args_size);
        return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

void imf_emu_launch(const struct imf_emu_launch_info *info)
{
    emu_guard guard(emu_mutex);
    cudaError_t e = emu_device_ok();
    cudaStream_t s = e == cudaSuccess ? find_stream(info->stream) : nullptr;
    if (e == cudaSuccess && (!s || s->device != current_device))
        e = cudaErrorInvalidResourceHandle;
    if (e == cudaSuccess)
        e = check_launch(info, s->device);
    if (e != cudaSuccess) {
        emu_set_error(e);
        return;
    }
    struct imf_emu_launch_info copy_of = *info;
    copy_of.name = emu_kernel_name(info->function, info->name);
    const char *bytes = static_cast<const char *>(info->args);
    auto args = std::make_shared<std::vector<char>>(bytes, bytes + info->args_size);
    int device = s->device;
    emu_set_error(emu_enqueue(info->stream, info->name, [copy_of, args, device] {
        struct imf_emu_launch_info l = copy_of;
        l.args = args->data();
        emu_thread_altstack();
        cudaError_t r = emu_run_kernel(&l, device);
        static_smem[l.function] = std::max(static_smem[l.function], emu.static_smem);
        return r;
    }));
}

/* ---- the driver's functions that the engine asks before it loads its CUDA module ---- */

int cuInit(unsigned flags)
{
    (void)flags;
    emu_guard guard(emu_mutex);
    start();
    return driver_error == cudaErrorNoDevice ? int(cudaErrorNoDevice) : 0;
}

int cuDeviceGetCount(int *count)
{
    emu_guard guard(emu_mutex);
    start();
    *count = device_count;
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    return int(cudaDeviceGetAttribute(value, static_cast<enum cudaDeviceAttr>(attribute), device));
}

/* ---- what tests ask of the emulator ---- */

void imf_emu_reset(void)
{
    emu_guard guard(emu_mutex);
    start();
    for (int i = 0; i < device_count; i++) {
        devices[i].sticky = cudaSuccess;
        devices[i].sick = false;
    }
    for (cudaStream_t s : streams) {
        for (work_item &i : s->queue)
            for (uint64_t p : i.pending)
                emu_pending_end(p);
        s->queue.clear();
    }
    last_error = cudaSuccess;
    malloc_countdown = launch_countdown = 0;
    emu_forget_reports();
    imf_emu_counters_reset();
}

void imf_emu_fail_malloc(int n)
{
    emu_guard guard(emu_mutex);
    start();
    malloc_countdown = n;
}

void imf_emu_fail_launch(int n, int error)
{
    emu_guard guard(emu_mutex);
    start();
    launch_countdown = n;
    launch_failure = static_cast<cudaError_t>(error ? error : cudaErrorLaunchFailure);
}

void imf_emu_sick_device(int device)
{
    emu_guard guard(emu_mutex);
    start();
    if (device >= 0 && device < device_count)
        devices[device].sick = true;
}

size_t imf_emu_device_bytes(int device)
{
    emu_guard guard(emu_mutex);
    start();
    return device >= 0 && device < device_count ? emu_memory_used(device) : 0;
}

int imf_emu_live_objects(void)
{
    emu_guard guard(emu_mutex);
    return live_objects + emu_pinned_live();
}
}
