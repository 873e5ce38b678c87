/* The CUDA runtime API: copies and memset. A copy is checked when it is asked for and again when it
 * runs, and takes along what the shadow memory knows of its source. */
#include "emu_runtime.h"

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
    cudaStream_t s = emu_find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    TRY(check_copy(r, kind));
    if (!r.width || !r.height)
        return cudaSuccess;
    if (wait)
        TRY(emu_forbid_in_capture(false));
    std::vector<pending_range> host;
    std::shared_ptr<std::vector<char>> staged;
    size_t dspan = r.dpitch * (r.height - 1) + r.width, sspan = r.spitch * (r.height - 1) + r.width;
    if (!wait && !emu_capturing(s)) {
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
    TRY(emu_enqueue_work(
        s, [r, staged] { return perform_copy(r); }, std::move(host)));
    if (wait) {
        emu_run_stream(s, UINT64_MAX);
        return emu_set_error(emu_device_ok());
    }
    return cudaSuccess;
}

extern "C" {

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
    cudaStream_t s = emu_find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    if (!size)
        return cudaSuccess;
    if (!emu_check_range(dst, size, false, "cudaMemset"))
        return emu_set_error(cudaErrorInvalidValue);
    TRY(emu_enqueue_work(s,
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
}
