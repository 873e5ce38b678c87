/* The CUDA runtime API: device memory and pinned host memory. The address spaces are in
 * emu_memory.cpp. */
#include "emu_runtime.h"

extern "C" {

cudaError_t cudaMalloc(void **ptr, size_t size)
{
    ENTER;
    TRY(emu_forbid_in_capture(true));
    if (!ptr)
        return emu_set_error(cudaErrorInvalidValue);
    *ptr = nullptr;
    if (emu_malloc_fails())
        return emu_set_error(cudaErrorMemoryAllocation);
    if (!size)
        return cudaSuccess;
    if (!emu_memory_alloc(emu_current_device, size,
                          emu_device[emu_current_device].prop.totalGlobalMem, ptr))
        return emu_set_error(cudaErrorMemoryAllocation);
    return cudaSuccess;
}

cudaError_t cudaFree(void *ptr)
{
    emu_guard guard(emu_mutex);
    emu_start();
    if (emu_driver_error)
        return emu_set_error(emu_driver_error);
    if (!ptr)
        return emu_set_error(emu_device_ok());
    TRY(emu_forbid_in_capture(true));
    emu_run_all(emu_current_device); /* cudaFree waits for the device */
    if (!emu_memory_free(ptr))
        return emu_set_error(cudaErrorInvalidValue);
    return emu_set_error(emu_device_ok());
}

cudaError_t cudaMallocAsync(void **ptr, size_t size, cudaStream_t stream)
{
    {
        emu_guard guard(emu_mutex);
        cudaStream_t s = emu_device_ok() == cudaSuccess ? emu_find_stream(stream) : nullptr;
        if (s && emu_capturing(s))
            return emu_set_error(cudaErrorStreamCaptureUnsupported);
    }
    return cudaMalloc(ptr, size);
}

cudaError_t cudaFreeAsync(void *ptr, cudaStream_t stream)
{
    ENTER;
    cudaStream_t s = emu_find_stream(stream);
    if (!s)
        return emu_set_error(cudaErrorInvalidResourceHandle);
    TRY(emu_enqueue_work(
        s, [ptr] { return emu_memory_free(ptr) ? cudaSuccess : cudaErrorInvalidValue; }, {}));
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **ptr, size_t size, unsigned int flags)
{
    (void)flags;
    ENTER;
    TRY(emu_forbid_in_capture(true));
    if (emu_malloc_fails() || !emu_pinned_alloc(size, ptr))
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
    emu_start();
    if (emu_driver_error)
        return emu_set_error(emu_driver_error);
    if (!ptr)
        return cudaSuccess;
    for (int d = 0; d < emu_device_count; d++)
        emu_run_all(d);
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
    emu_start();
    for (int d = 0; d < emu_device_count; d++)
        emu_run_all(d);
    return emu_set_error(emu_pinned_free(ptr, true) ? cudaSuccess
                                                    : cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *ptr)
{
    ENTER;
    memset(a, 0, sizeof *a);
    a->device = emu_current_device;
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
}
