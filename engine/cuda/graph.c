/* One CUDA graph per forward function and batch size, captured when a model loads: a batch of one
 * and the largest run eagerly, which loads every kernel (small and large grids may use different
 * ones), then all batch sizes are captured without running. What was
 * not prepared (InceptionV3's one size) runs eagerly the first time and is captured then. Eager and
 * replayed passes are the same launches on the same memory, hence the same bits. */
#include "cuda/internal.h"

#include <stdlib.h>

struct imf__graph {
    cudaGraphExec_t exec;
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
    free(g);
    if (status == IMF_OK)
        CUDA_TRY(c, error);
    cudaGetLastError(); /* of a capture that fn broke off */
    return status;
}

void cuda_graph_free(struct imf__device *d, struct imf__graph *g)
{
    struct cuda_device *c = cuda_of(d);
    if (!g)
        return;
    cudaSetDevice(c->ordinal);
    cudaStreamSynchronize(c->stream); /* it may still run */
    cudaGraphExecDestroy(g->exec);
    free(g);
}

imf_status cuda_graph_prepare(struct imf__device *d, struct imf__graph **slots, imf__forward_fn fn,
                              void *ctx, int max)
{
    CUDA_ENTER(d);
    IMF_TRY(fn(ctx, 1));
    if (max > 1)
        IMF_TRY(fn(ctx, max));
    for (int B = 1; B <= max; B++)
        IMF_TRY(capture(c, &slots[B - 1], fn, ctx, B));
    return cuda_sync(d);
}

imf_status cuda_graph_run(struct imf__device *d, struct imf__graph **slot, imf__forward_fn fn,
                          void *ctx, int B)
{
    CUDA_ENTER(d);
    if (d->dry || d->eager || c->capturing)
        return fn(ctx, B);
    if (!*slot) {
        IMF_TRY(fn(ctx, B));
        return capture(c, slot, fn, ctx, B);
    }
    if ((*slot)->scratch_generation != c->scratch_generation) {
        /* Another model has made the work memory grow since. Its kernels are loaded: no eager pass
         * is needed. */
        cuda_graph_free(d, *slot);
        *slot = NULL;
        IMF_TRY(capture(c, slot, fn, ctx, B));
    }
    CUDA_TRY(c, cudaGraphLaunch((*slot)->exec, c->stream));
    return IMF_OK;
}
