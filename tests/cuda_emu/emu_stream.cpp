/* The CUDA runtime API: streams and events.
 *
 * Asynchronous work is only queued. It runs when something waits for it, and no earlier: a copy's
 * bytes appear at the synchronisation, streams that are not waited for do not move, and where
 * several may run the youngest goes first. What a real GPU does only under unlucky timing happens
 * here every time. */
#include "emu_runtime.h"
#include <algorithm>
#include <time.h>

uint64_t emu_sequence;
std::vector<cudaStream_t> emu_streams;
std::set<cudaEvent_t> emu_events;
std::vector<std::shared_ptr<struct capture>> emu_captures;

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) * 1e3 + double(t.tv_nsec) * 1e-6;
}

/* NULL when the handle is no stream. */
cudaStream_t emu_find_stream(cudaStream_t s)
{
    if (!s || s == cudaStreamLegacy) {
        struct device_state *d = &emu_device[emu_current_device];
        if (!d->null_stream) {
            d->null_stream = new CUstream_st();
            d->null_stream->device = emu_current_device;
            d->null_stream->legacy = true;
            emu_streams.push_back(d->null_stream);
        }
        return d->null_stream;
    }
    return std::find(emu_streams.begin(), emu_streams.end(), s) != emu_streams.end() ? s : nullptr;
}

bool emu_stream_valid(cudaStream_t s)
{
    return emu_find_stream(s) != nullptr;
}

int emu_stream_device(cudaStream_t s)
{
    return emu_find_stream(s)->device;
}

/* What CUDA's legacy default stream orders: it waits for the blocking streams and they for it. */
static void run_legacy_dependencies(cudaStream_t s, uint64_t seq)
{
    if (s->legacy) {
        for (cudaStream_t o : std::vector<cudaStream_t>(emu_streams))
            if (o->blocking && o->device == s->device)
                emu_run_stream(o, seq - 1);
    } else if (s->blocking && emu_device[s->device].null_stream) {
        emu_run_stream(emu_device[s->device].null_stream, seq - 1);
    }
}

void emu_run_stream(cudaStream_t s, uint64_t until)
{
    while (!s->queue.empty() && s->queue.front().seq <= until) {
        run_legacy_dependencies(s, s->queue.front().seq);
        if (s->queue.empty() || s->queue.front().seq > until)
            break;
        struct work_item item = std::move(s->queue.front());
        s->queue.pop_front();
        if (item.after && emu_find_stream(item.after) == item.after)
            emu_run_stream(item.after, item.after_seq);
        for (uint64_t p : item.pending)
            emu_pending_end(p);
        struct device_state *d = &emu_device[s->device];
        if (item.run && !d->sticky && !d->sick) {
            cudaError_t e = item.run();
            if (e != cudaSuccess)
                d->sticky = e;
        }
    }
}

void emu_run_all(int device)
{
    /* Youngest first: only events and the legacy stream order them. */
    std::vector<cudaStream_t> all(emu_streams.rbegin(), emu_streams.rend());
    for (cudaStream_t s : all)
        if (s->device == device)
            emu_run_stream(s, UINT64_MAX);
}

void emu_forget_queue(cudaStream_t s)
{
    for (work_item &i : s->queue)
        for (uint64_t p : i.pending)
            emu_pending_end(p);
    s->queue.clear();
}

cudaError_t emu_enqueue_work(cudaStream_t s, std::function<cudaError_t()> run,
                             std::vector<pending_range> host, cudaStream_t after,
                             uint64_t after_seq)
{
    if (struct capture *c = emu_capturing(s)) {
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
        for (auto &c : emu_captures)
            if (c->mode != cudaStreamCaptureModeRelaxed && c->origin->blocking &&
                c->origin->device == s->device) {
                c->invalid = true;
                return cudaErrorStreamCaptureImplicit;
            }
    struct work_item item = {++emu_sequence, std::move(run), after, after_seq, std::move(host), {}};
    for (const pending_range &r : item.host)
        if (uint64_t id = emu_pending_begin(r.host, r.size, r.device_writes))
            item.pending.push_back(id);
    s->queue.push_back(std::move(item));
    return cudaSuccess;
}

cudaError_t emu_enqueue(cudaStream_t stream, const char *what, std::function<cudaError_t()> work)
{
    (void)what;
    cudaStream_t s = emu_find_stream(stream);
    if (!s)
        return cudaErrorInvalidResourceHandle;
    cudaError_t injected = emu_take_launch_failure();
    if (injected != cudaSuccess)
        return emu_enqueue_work(s, [injected] { return injected; }, {});
    return emu_enqueue_work(s, std::move(work), {});
}

/* Does a call that waits (or, if `unsafe`, one that may) spoil this capture? What waits for a whole
 * device spoils those on it; else it is the capture's mode that says whom it minds. */
static bool spoils(const struct capture *c, bool unsafe)
{
    if (!unsafe && c->origin->device == emu_current_device)
        return true;
    return c->mode == cudaStreamCaptureModeGlobal ||
           (c->mode == cudaStreamCaptureModeThreadLocal && c->thread == std::this_thread::get_id());
}

cudaError_t emu_forbid_in_capture(bool unsafe_only)
{
    for (auto &c : emu_captures)
        if (spoils(c.get(), unsafe_only)) {
            c->invalid = true;
            return cudaErrorStreamCaptureUnsupported;
        }
    return cudaSuccess;
}

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int priority)
{
    (void)priority;
    ENTER;
    cudaStream_t s = new CUstream_st();
    s->device = emu_current_device;
    s->blocking = !(flags & cudaStreamNonBlocking);
    emu_streams.push_back(s);
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
    emu_start();
    cudaStream_t s = stream ? emu_find_stream(stream) : nullptr;
    if (!s || s->legacy)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    emu_run_stream(s, UINT64_MAX);
    emu_streams.erase(std::find(emu_streams.begin(), emu_streams.end(), s));
    delete s;
    emu_live(-1);
    return emu_set_error(emu_device_ok());
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    ENTER;
    cudaStream_t s = emu_find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    TRY(emu_forbid_in_capture(emu_capturing(s) == nullptr));
    emu_run_stream(s, UINT64_MAX);
    return emu_set_error(emu_device_error(s->device));
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    ENTER;
    cudaStream_t s = emu_find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    TRY(emu_forbid_in_capture(emu_capturing(s) == nullptr));
    if (s->queue.empty())
        return cudaSuccess;
    emu_run_stream(s, s->queue.front().seq); /* polling makes progress, one step a time */
    TRY(emu_device_error(s->device));
    return cudaErrorNotReady;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *user)
{
    ENTER;
    cudaStream_t s = emu_find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    TRY(emu_enqueue_work(s,
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
    e->device = emu_current_device;
    e->timing = !(flags & cudaEventDisableTiming);
    e->done = true;
    emu_events.insert(e);
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
    if (!emu_events.erase(event))
        return emu_set_error(cudaErrorInvalidResourceHandle);
    delete event;
    emu_live(-1);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    ENTER;
    cudaStream_t s = emu_find_stream(stream);
    if (!s || !emu_events.count(event) || event->device != s->device)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    if (emu_capturing(s)) {
        event->capture = s->capture;
        event->capture_stream = s;
        event->capture_count = s->capture->last.count(s) ? s->capture->last[s] : 0;
        return cudaSuccess;
    }
    event->capture.reset();
    uint64_t seq = emu_sequence + 1;
    TRY(emu_enqueue_work(s,
                         [event, seq] {
                             if (emu_events.count(event) && event->seq == seq) {
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
    cudaStream_t s = emu_find_stream(stream);
    if (!s || !emu_events.count(event))
        return emu_set_error(cudaErrorInvalidResourceHandle);
    if (event->capture) {
        std::shared_ptr<struct capture> c = event->capture;
        if (emu_capturing(s) && s->capture != c)
            return emu_set_error(cudaErrorStreamCaptureUnsupported);
        s->capture = c;
        size_t &joined = c->joined[event->capture_stream];
        joined = std::max(joined, event->capture_count);
        return cudaSuccess;
    }
    if (emu_capturing(s)) {
        s->capture->invalid = true; /* depends on work outside the capture */
        return emu_set_error(cudaErrorStreamCaptureUnsupported);
    }
    if (!event->recorded)
        return cudaSuccess;
    TRY(emu_enqueue_work(s, nullptr, {}, event->done ? nullptr : event->stream, event->seq));
    return cudaSuccess;
}

static cudaError_t wait_event(cudaEvent_t event)
{
    if (!emu_events.count(event))
        return cudaErrorInvalidResourceHandle;
    if (event->capture)
        return cudaErrorStreamCaptureUnsupported;
    if (!event->done && emu_find_stream(event->stream) == event->stream)
        emu_run_stream(event->stream, event->seq);
    return emu_device_error(event->device);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    ENTER;
    TRY(emu_forbid_in_capture(true));
    return emu_set_error(wait_event(event));
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    ENTER;
    if (!emu_events.count(event))
        return emu_set_error(cudaErrorInvalidResourceHandle);
    if (event->done)
        return cudaSuccess;
    cudaStream_t s = event->stream;
    if (emu_find_stream(s) == s && !s->queue.empty())
        emu_run_stream(s, s->queue.front().seq);
    TRY(emu_device_error(event->device));
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start_event, cudaEvent_t end)
{
    ENTER;
    if (!emu_events.count(start_event) || !emu_events.count(end) || !start_event->timing ||
        !end->timing || !start_event->recorded || !end->recorded)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    if (!start_event->done || !end->done)
        return cudaErrorNotReady;
    *ms = float(end->time_ms - start_event->time_ms);
    return cudaSuccess;
}
}
