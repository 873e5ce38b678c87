/* Memory and copies of the CUDA device. Copies go through two pinned buffers in turn, so that the
 * host's memcpy of one piece overlaps the transfer of the other, and an upload of a few hundred
 * kilobytes (the lanes of the next batch) returns while the GPU still computes the last one. */
#include "cuda/internal.h"
#include "common/bfloat16.h"

#include <stdio.h>
#include <string.h>

static double megabytes(size_t bytes)
{
    return (double)bytes / 1e6;
}

static imf_status out_of_memory(struct cuda_device *c, size_t bytes)
{
    size_t available = 0, total = 0;
    cudaGetLastError(); /* clears the error; it is not sticky */
    cudaMemGetInfo(&available, &total);
    snprintf(c->base.error, sizeof(c->base.error),
             "cuda:%d is out of memory: %.1f MB more were needed, %.1f of %.1f MB are free "
             "(weights hold %.1f MB, work memory %.1f MB)",
             c->ordinal, megabytes(bytes), megabytes(available), megabytes(total),
             megabytes(c->base.weights_bytes), megabytes(c->base.scratch_bytes));
    return IMF_ENOMEM;
}

imf_status cuda_device_malloc(struct cuda_device *c, void **out, size_t bytes)
{
    void *p = NULL;
    cudaError_t error = cudaMalloc(&p, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation)
        return out_of_memory(c, bytes);
    CUDA_TRY(c, error);
    *out = p;
    return IMF_OK;
}

/* Makes the work memory as large as the dry runs asked for. */
static imf_status grow_scratch(struct cuda_device *c)
{
    if (c->scratch_wanted <= c->scratch_capacity)
        return IMF_OK;
    if (c->capturing)
        return cuda_refuse(
            c, "a captured pass needs %zu bytes of work memory that no dry run asked for",
            c->scratch_wanted);
    CUDA_TRY(c, cudaStreamSynchronize(c->stream));
    /* The old block goes first: both together may not fit. */
    cudaFree(c->scratch);
    c->scratch = NULL;
    c->scratch_capacity = 0;
    c->scratch_generation++;
    void *p = NULL;
    imf_status status = cuda_device_malloc(c, &p, c->scratch_wanted);
    if (status != IMF_OK) {
        c->base.scratch_bytes -= c->scratch_wanted;
        c->scratch_wanted = 0;
        return status;
    }
    c->scratch = p;
    c->scratch_capacity = c->scratch_wanted;
    return IMF_OK;
}

imf_status cuda_scratch(struct cuda_device *c, void **out, size_t bytes)
{
    size_t rounded = (bytes + 255) / 256 * 256;
    if (rounded > c->scratch_wanted) {
        c->base.scratch_bytes += rounded - c->scratch_wanted;
        c->scratch_wanted = rounded;
    }
    if (!c->base.dry)
        IMF_TRY(grow_scratch(c));
    *out = c->scratch;
    return IMF_OK;
}

imf_status cuda_alloc(struct imf__device *d, void **out, size_t bytes, bool weight)
{
    CUDA_ENTER(d);
    void *p = NULL;
    if (!d->dry &&
        !weight) { /* a plan is made: what it asked for comes before more is given away */
        IMF_TRY(cuda_gemm_plans_settle(c));
        IMF_TRY(grow_scratch(c));
    }
    IMF_TRY(cuda_device_malloc(c, &p, bytes));
    cudaError_t error = cudaMemsetAsync(p, 0, bytes ? bytes : 1, c->stream);
    if (error != cudaSuccess) {
        cudaFree(p);
        CUDA_TRY(c, error);
    }
    if (weight)
        d->weights_bytes += bytes;
    *out = p;
    return IMF_OK;
}

/* cudaFree waits for the device; on a sick one it fails, and the memory goes with the context. */
void cuda_free(struct imf__device *d, void *p)
{
    struct cuda_device *c = cuda_of(d);
    if (!p)
        return;
    cudaSetDevice(c->ordinal);
    cudaFree(p);
}

imf_status cuda_memory_free(struct imf__device *d, size_t *bytes)
{
    CUDA_ENTER(d);
    size_t total = 0;
    CUDA_TRY(c, cudaMemGetInfo(bytes, &total));
    return IMF_OK;
}

imf_status cuda_may_wait(struct cuda_device *c)
{
    if (!c->capturing)
        return IMF_OK;
    return cuda_refuse(c, "a pass that copies to or from the host cannot be captured");
}

imf_status cuda_upload(struct imf__device *d, void *dst, const void *src, size_t bytes)
{
    CUDA_ENTER(d);
    CUDA_DRY_STOPS_HERE(c);
    IMF_TRY(cuda_may_wait(c));
    for (size_t done = 0; done < bytes;) {
        size_t piece = bytes - done < CUDA_STAGING_BYTES ? bytes - done : CUDA_STAGING_BYTES;
        struct cuda_staging *s = &c->staging[c->next_staging];
        c->next_staging ^= 1;
        CUDA_TRY(c, cudaEventSynchronize(s->done));
        memcpy(s->pinned, (const char *)src + done, piece);
        CUDA_TRY(c, cudaMemcpyAsync((char *)dst + done, s->pinned, piece, cudaMemcpyHostToDevice,
                                    c->stream));
        CUDA_TRY(c, cudaEventRecord(s->done, c->stream));
        done += piece;
    }
    return IMF_OK;
}

imf_status cuda_copy(struct imf__device *d, void *dst, const void *src, size_t bytes)
{
    CUDA_ENTER(d);
    CUDA_DRY_STOPS_HERE(c);
    CUDA_TRY(c, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, c->stream));
    return IMF_OK;
}

imf_status cuda_download(struct imf__device *d, void *dst, const void *src, size_t bytes)
{
    CUDA_ENTER(d);
    CUDA_DRY_STOPS_HERE(c);
    IMF_TRY(cuda_may_wait(c));
    struct cuda_staging *pending = NULL;
    size_t pending_at = 0, pending_bytes = 0;
    for (size_t done = 0; done < bytes || pending;) {
        struct cuda_staging *s = NULL;
        size_t piece = bytes - done < CUDA_STAGING_BYTES ? bytes - done : CUDA_STAGING_BYTES;
        if (piece > 0) {
            s = &c->staging[c->next_staging];
            c->next_staging ^= 1;
            CUDA_TRY(c, cudaEventSynchronize(s->done));
            CUDA_TRY(c, cudaMemcpyAsync(s->pinned, (const char *)src + done, piece,
                                        cudaMemcpyDeviceToHost, c->stream));
            CUDA_TRY(c, cudaEventRecord(s->done, c->stream));
        }
        if (pending) {
            CUDA_TRY(c, cudaEventSynchronize(pending->done));
            memcpy((char *)dst + pending_at, pending->pinned, pending_bytes);
        }
        pending = s;
        pending_at = done;
        pending_bytes = piece;
        done += piece;
    }
    return IMF_OK;
}

imf_status cuda_sync(struct imf__device *d)
{
    CUDA_ENTER(d);
    IMF_TRY(cuda_may_wait(c));
    CUDA_TRY(c, cudaStreamSynchronize(c->stream));
    return IMF_OK;
}

imf_status cuda_weight_upload(struct cuda_device *c, void **out, const void *host, size_t bytes)
{
    void *p = NULL;
    IMF_TRY(cuda_alloc(&c->base, &p, bytes, true));
    bool dry = c->base.dry; /* weights are real even when a model loads while planning */
    c->base.dry = false;
    imf_status status = cuda_upload(&c->base, p, host, bytes);
    c->base.dry = dry;
    if (status != IMF_OK) {
        cuda_free(&c->base, p);
        return status;
    }
    *out = p;
    return IMF_OK;
}

void cuda_pack(void *dst, enum k_type type, const float *src, size_t n)
{
    if (type == K_F32) {
        memcpy(dst, src, n * sizeof(float));
        return;
    }
    uint16_t *out = dst;
    for (size_t i = 0; i < n; i++)
        out[i] = imf__to_bf16(src[i]);
}
