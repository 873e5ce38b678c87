/* The CUDA runtime API: devices, their properties and attributes; the driver's functions that the
 * engine asks first. */
#include "emu_runtime.h"
#include <algorithm>
#include <stdlib.h>

struct device_state emu_device[MAX_DEVICES];
int emu_device_count = -1;
cudaError_t emu_driver_error;
thread_local int emu_current_device;

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

void emu_start(void)
{
    if (emu_device_count >= 0)
        return;
    const char *driver = getenv("IMF_EMU_DRIVER");
    emu_device_count = emu_devices();
    if (driver && !strcmp(driver, "none")) {
        emu_driver_error = cudaErrorInsufficientDriver;
        emu_device_count = 0;
    } else if (!emu_device_count) {
        emu_driver_error = cudaErrorNoDevice;
    }
    emu_read_failures();
    for (int i = 0; i < emu_device_count; i++)
        fill_prop(&emu_device[i].prop, i);
    size_t sick = env_size("IMF_EMU_SICK_DEVICE", SIZE_MAX);
    if (sick < size_t(emu_device_count))
        emu_device[sick].sick = true;
    emu_init();
}

struct cudaDeviceProp *emu_device_prop(int device)
{
    return &emu_device[device].prop;
}

cudaError_t emu_device_error(int device)
{
    emu_start();
    if (emu_driver_error)
        return emu_driver_error;
    if (emu_device[device].sick)
        return cudaErrorECCUncorrectable;
    return emu_device[device].sticky;
}

cudaError_t emu_device_ok(void)
{
    return emu_device_error(emu_current_device);
}

extern "C" {

cudaError_t cudaGetDeviceCount(int *count)
{
    emu_guard guard(emu_mutex);
    emu_start();
    if (emu_driver_error)
        return emu_set_error(emu_driver_error);
    *count = emu_device_count;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    emu_guard guard(emu_mutex);
    emu_start();
    if (emu_driver_error)
        return emu_set_error(emu_driver_error);
    if (device < 0 || device >= emu_device_count)
        return emu_set_error(cudaErrorInvalidDevice);
    emu_current_device = device;
    return emu_set_error(emu_device_error(device));
}

cudaError_t cudaGetDevice(int *device)
{
    emu_guard guard(emu_mutex);
    emu_start();
    if (emu_driver_error)
        return emu_set_error(emu_driver_error);
    *device = emu_current_device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    emu_guard guard(emu_mutex);
    emu_start();
    if (emu_driver_error)
        return emu_set_error(emu_driver_error);
    if (device < 0 || device >= emu_device_count)
        return emu_set_error(cudaErrorInvalidDevice);
    *prop = emu_device[device].prop;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
    emu_guard guard(emu_mutex);
    emu_start();
    if (emu_driver_error)
        return emu_set_error(emu_driver_error);
    if (device < 0 || device >= emu_device_count)
        return emu_set_error(cudaErrorInvalidDevice);
    const struct cudaDeviceProp *p = &emu_device[device].prop;
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
    emu_start();
    if (device < 0 || device >= emu_device_count)
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
    emu_start();
    *version = emu_driver_error == cudaErrorInsufficientDriver ? 0 : CUDART_VERSION;
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
    TRY(emu_forbid_in_capture(false));
    emu_run_all(emu_current_device);
    return emu_set_error(emu_device_ok());
}

cudaError_t cudaDeviceReset(void)
{
    emu_guard guard(emu_mutex);
    emu_start();
    for (cudaStream_t s : emu_streams)
        if (s->device == emu_current_device)
            emu_forget_queue(s);
    emu_device[emu_current_device].sticky = cudaSuccess;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    ENTER;
    size_t total = emu_device[emu_current_device].prop.totalGlobalMem,
           used = emu_memory_used(emu_current_device);
    *total_bytes = total;
    *free_bytes = used < total ? total - used : 0;
    return cudaSuccess;
}

/* ---- the driver's functions that the engine asks before it loads its CUDA module ---- */

int cuInit(unsigned flags)
{
    (void)flags;
    emu_guard guard(emu_mutex);
    emu_start();
    return emu_driver_error == cudaErrorNoDevice ? int(cudaErrorNoDevice) : 0;
}

int cuDriverGetVersion(int *version)
{
    const char *driver = getenv("IMF_EMU_DRIVER");
    *version = driver && !strcmp(driver, "old") ? 12040 : CUDART_VERSION;
    return 0;
}

int cuDeviceGetCount(int *count)
{
    emu_guard guard(emu_mutex);
    emu_start();
    *count = emu_device_count;
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    return int(cudaDeviceGetAttribute(value, static_cast<enum cudaDeviceAttr>(attribute), device));
}
}
