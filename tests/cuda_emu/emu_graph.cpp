/* The CUDA runtime API: graphs, by capture and replay. What a capturing stream is given is kept as
 * a list of nodes instead of being queued; a launch queues the whole list as one piece of work. */
#include "emu_runtime.h"
#include <algorithm>

static std::set<cudaGraph_t> graphs;
static std::set<cudaGraphExec_t> graph_execs;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    ENTER;
    cudaStream_t s = emu_find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    if (s->legacy)
        return emu_set_error(cudaErrorStreamCaptureUnsupported);
    if (emu_capturing(s))
        return emu_set_error(cudaErrorStreamCaptureUnmatched);
    s->capture = std::make_shared<struct capture>();
    s->capture->origin = s;
    s->capture->mode = mode;
    s->capture->thread = std::this_thread::get_id();
    emu_captures.push_back(s->capture);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    ENTER;
    cudaStream_t s = emu_find_stream(stream);
    if (!s || !graph)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    *graph = nullptr;
    std::shared_ptr<struct capture> c = s->capture;
    if (!c || c->origin != s)
        return emu_set_error(cudaErrorStreamCaptureUnmatched);
    emu_captures.erase(std::find(emu_captures.begin(), emu_captures.end(), c));
    for (cudaStream_t o : emu_streams)
        if (o->capture == c)
            o->capture.reset();
    for (cudaEvent_t e : emu_events)
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
    cudaStream_t s = emu_find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    *status = !emu_capturing(s)     ? cudaStreamCaptureStatusNone
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
    size_t total = emu_device[emu_current_device].prop.totalGlobalMem;
    size_t bytes = (64 << 10) + 512 * graph->nodes.size(); /* a guess at what the driver takes */
    void *memory = nullptr;
    if (emu_malloc_fails() || !emu_memory_alloc(emu_current_device, bytes, total, &memory))
        return emu_set_error(cudaErrorMemoryAllocation);
    cudaGraphExec_t x = new CUgraphExec_st();
    x->memory = memory;
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
    return emu_set_error(graph_execs.count(exec) && emu_find_stream(stream)
                             ? cudaSuccess
                             : cudaErrorInvalidResourceHandle);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    ENTER;
    cudaStream_t s = emu_find_stream(stream);
    if (!s || !graph_execs.count(exec))
        return emu_set_error(cudaErrorInvalidResourceHandle);
    std::shared_ptr<std::vector<graph_node>> nodes = exec->nodes;
    std::vector<pending_range> host;
    for (const graph_node &n : *nodes)
        host.insert(host.end(), n.host.begin(), n.host.end());
    TRY(emu_enqueue_work(
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
    emu_memory_free(exec->memory);
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
}
