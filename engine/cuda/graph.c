/* One CUDA graph per forward function and batch size. The first call runs the pass eagerly, which
 * loads every kernel and gives the caller its result, and then captures it; later calls replay.
 * Eager and replayed passes are the same launches on the same memory, hence the same bits. A pass
 * that downloads on its way (a test that looks at every stage) cannot be captured and stays eager.
 */
#include "cuda_device.h"

#include <stdlib.h>

struct imf__graph {
    cudaGraphExec_t exec; /* NULL: the pass cannot be captured and runs eagerly */
    unsigned scratch_generation;
};

static imf_status capture(struct cuda_device *c, struct imf__graph **out, imf__forward_fn fn,
                          void *ctx, int B)
{
    cudaGraph_t graph = NULL;
    struct imf__graph *g = calloc(1, sizeof(*g));
    if (!g)
        return IMF_ENOMEM;
    cudaError_t error = cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal);
    if (error != cudaSuccess) {
        free(g);
        CUDA_TRY(c, error);
    }
    c->capturing = true;
    c->capture_broken = false;
    imf_status status = fn(ctx, B);
    c->capturing = false;
    /* Ends the capture even when fn failed, else the stream stays unusable. */
    error = cudaStreamEndCapture(c->stream, &graph);
    if (status == IMF_OK && error == cudaSuccess)
        error = cudaGraphInstantiate(&g->exec, graph, 0);
    if (graph)
        cudaGraphDestroy(graph);
    if (status == IMF_OK && error == cudaSuccess) {
        g->scratch_generation = c->scratch_generation;
        *out = g;
        return IMF_OK;
    }
    if (c->capture_broken && !c->sick) {
        cudaGetLastError();
        g->scratch_generation = c->scratch_generation;
        *out = g;
        return IMF_OK;
    }
    free(g);
    if (status == IMF_OK)
        CUDA_TRY(c, error);
    return status;
}

void cuda_graph_free(struct imf__device *d, struct imf__graph *g)
{
    struct cuda_device *c = cuda_of(d);
    if (!g)
        return;
    cudaSetDevice(c->ordinal);
    cudaStreamSynchronize(c->stream); /* it may still run */
    if (g->exec)
        cudaGraphExecDestroy(g->exec);
    free(g);
}

/* With slot NULL the pass always runs eagerly: selfcheck compares the two. */
imf_status cuda_graph_run(struct imf__device *d, struct imf__graph **slot, imf__forward_fn fn,
                          void *ctx, int B)
{
    CUDA_ENTER(d);
    if (d->dry || !slot || c->capturing)
        return fn(ctx, B);
    if (*slot && (*slot)->scratch_generation != c->scratch_generation) {
        cuda_graph_free(d, *slot); /* another model has made the work memory grow since */
        *slot = NULL;
    }
    if (*slot && !(*slot)->exec)
        return fn(ctx, B);
    if (*slot) {
        CUDA_TRY(c, cudaGraphLaunch((*slot)->exec, c->stream));
        return IMF_OK;
    }
    IMF_TRY(fn(ctx, B));
    return capture(c, slot, fn, ctx, B);
}
