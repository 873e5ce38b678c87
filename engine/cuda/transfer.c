/* Downloads that overlap the next batch. The source is copied aside on the device, in order with
 * what computes it (a megabyte takes a microsecond there), so that the next batch may overwrite it
 * at once; from there it crosses the bus on a stream of its own, into pinned memory.
 *
 *   stream   ... this batch | copy aside | next batch ...
 *   copies                    ready -> device to host -> done */
#include "cuda/internal.h"

#include <stdlib.h>

struct imf__transfer {
    void *aside, *pinned;
    size_t capacity;
    cudaEvent_t ready; /* `aside` holds the bytes */
    cudaEvent_t done;  /* `pinned` does, and `aside` may be filled anew */
};

void cuda_transfer_free(struct imf__device *d, struct imf__transfer *t)
{
    struct cuda_device *c = cuda_of(d);
    if (!t)
        return;
    cudaSetDevice(c->ordinal);
    cudaStreamSynchronize(c->copies); /* one that nobody ended may still be on its way */
    if (t->ready)
        cudaEventDestroy(t->ready);
    if (t->done)
        cudaEventDestroy(t->done);
    cudaFreeHost(t->pinned);
    cudaFree(t->aside);
    free(t);
}

static imf_status allocate(struct cuda_device *c, struct imf__transfer *t, size_t bytes)
{
    IMF_TRY(cuda_alloc(&c->base, &t->aside, bytes, false));
    CUDA_TRY(c, cudaMallocHost(&t->pinned, bytes));
    CUDA_TRY(c, cudaEventCreateWithFlags(&t->ready, cudaEventDisableTiming));
    CUDA_TRY(c, cudaEventCreateWithFlags(&t->done, cudaEventDisableTiming));
    t->capacity = bytes;
    return IMF_OK;
}

imf_status cuda_transfer_create(struct imf__device *d, struct imf__transfer **out, size_t bytes)
{
    CUDA_ENTER(d);
    struct imf__transfer *t = calloc(1, sizeof(*t));
    if (!t)
        return IMF_ENOMEM;
    imf_status status = allocate(c, t, bytes);
    if (status != IMF_OK) {
        cuda_transfer_free(d, t);
        return status;
    }
    *out = t;
    return IMF_OK;
}

imf_status cuda_transfer_begin(struct imf__device *d, struct imf__transfer *t, const void *src,
                               size_t bytes)
{
    CUDA_ENTER(d);
    CUDA_DRY_STOPS_HERE(c);
    IMF_TRY(cuda_may_wait(c));
    if (bytes > t->capacity)
        return cuda_refuse(c, "a transfer of %zu bytes was given %zu", t->capacity, bytes);
    /* The last transfer's copy to the host, if nobody has waited for it. */
    CUDA_TRY(c, cudaStreamWaitEvent(c->stream, t->done, 0));
    CUDA_TRY(c, cudaMemcpyAsync(t->aside, src, bytes, cudaMemcpyDeviceToDevice, c->stream));
    CUDA_TRY(c, cudaEventRecord(t->ready, c->stream));
    CUDA_TRY(c, cudaStreamWaitEvent(c->copies, t->ready, 0));
    CUDA_TRY(c, cudaMemcpyAsync(t->pinned, t->aside, bytes, cudaMemcpyDeviceToHost, c->copies));
    CUDA_TRY(c, cudaEventRecord(t->done, c->copies));
    return IMF_OK;
}

imf_status cuda_transfer_end(struct imf__device *d, struct imf__transfer *t, const void **host)
{
    CUDA_ENTER(d);
    CUDA_TRY(c, cudaEventSynchronize(t->done));
    *host = t->pinned;
    return IMF_OK;
}
