/* What the files of the emulated runtime API share: devices, streams and their queues, captures. */
#ifndef EMU_RUNTIME_H
#define EMU_RUNTIME_H

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include "emu_memory.h"

/* ---- devices (emu_device.cpp) ---- */

struct device_state {
    struct cudaDeviceProp prop;
    cudaError_t sticky; /* a fault of a kernel poisons the context, as in CUDA */
    bool sick;
    cudaStream_t null_stream;
};

extern struct device_state emu_device[MAX_DEVICES];
extern int emu_device_count;
extern cudaError_t emu_driver_error;
extern thread_local int emu_current_device;

void emu_start(void); /* reads the environment, once */
cudaError_t emu_device_error(int device);

/* ---- errors (emu_error.cpp) ---- */

bool emu_malloc_fails(void);  /* an injected failure is due */
void emu_read_failures(void); /* of the environment */

#define ENTER                                                                                      \
    emu_guard guard(emu_mutex);                                                                    \
    cudaError_t entered = emu_device_ok();                                                         \
    if (entered != cudaSuccess)                                                                    \
    return emu_set_error(entered)

#define TRY(call)                                                                                  \
    do {                                                                                           \
        cudaError_t try_error = (call);                                                            \
        if (try_error != cudaSuccess)                                                              \
            return emu_set_error(try_error);                                                       \
    } while (0)

/* ---- streams (emu_stream.cpp): queues of work ---- */

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
    std::thread::id thread; /* that began it */
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
    void *memory; /* what it holds on the device */
};

extern uint64_t emu_sequence;
extern std::vector<cudaStream_t> emu_streams; /* all, oldest first */
extern std::set<cudaEvent_t> emu_events;
extern std::vector<std::shared_ptr<struct capture>> emu_captures; /* active */

/* NULL when the handle is no stream. */
cudaStream_t emu_find_stream(cudaStream_t s);
void emu_run_stream(cudaStream_t s, uint64_t until);
void emu_run_all(int device);
void emu_forget_queue(cudaStream_t s);

/* Also what a capture records; `after`: another stream up to after_seq first. */
cudaError_t emu_enqueue_work(cudaStream_t s, std::function<cudaError_t()> run,
                             std::vector<pending_range> host, cudaStream_t after = nullptr,
                             uint64_t after_seq = 0);

static inline struct capture *emu_capturing(cudaStream_t s)
{
    return s->capture.get();
}

/* Waiting calls are forbidden while this thread captures, unless relaxed; in global mode to the
 * other threads too. */
cudaError_t emu_forbid_in_capture(bool unsafe_only);

#endif
