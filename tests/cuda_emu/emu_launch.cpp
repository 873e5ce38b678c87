/* The CUDA runtime API: kernels, their attributes, occupancy, the limits of a launch. */
#include "emu_runtime.h"
#include <algorithm>

static std::map<const void *, int> max_dynamic_smem;
static std::map<const void *, size_t> static_smem;

static cudaError_t check_launch(const struct imf_emu_launch_info *l, int device)
{
    const struct cudaDeviceProp *p = &emu_device[device].prop;
    uint64_t threads = uint64_t(l->block.x) * l->block.y * l->block.z;
    if (!l->grid.x || !l->grid.y || !l->grid.z || !threads || threads > MAX_THREADS ||
        l->block.x > unsigned(p->maxThreadsDim[0]) || l->block.y > unsigned(p->maxThreadsDim[1]) ||
        l->block.z > unsigned(p->maxThreadsDim[2]) || l->grid.x > unsigned(p->maxGridSize[0]) ||
        l->grid.y > unsigned(p->maxGridSize[1]) || l->grid.z > unsigned(p->maxGridSize[2])) {
        emu_report(IMF_EMU_LIMITS, 0, 0, "kernel %s: grid (%u,%u,%u) of blocks (%u,%u,%u)", l->name,
                   l->grid.x, l->grid.y, l->grid.z, l->block.x, l->block.y, l->block.z);
        return cudaErrorInvalidConfiguration;
    }
    size_t allowed = p->sharedMemPerBlock;
    if (max_dynamic_smem.count(l->function))
        allowed = std::max(allowed, size_t(max_dynamic_smem[l->function]));
    if (l->dynamic_smem > allowed) {
        emu_report(IMF_EMU_LIMITS, 0, 0,
                   "kernel %s: %zu bytes of dynamic shared memory, %zu allowed "
                   "(cudaFuncSetAttribute raises it up to %zu)",
                   l->name, l->dynamic_smem, allowed, p->sharedMemPerBlockOptin);
        return cudaErrorInvalidValue;
    }
    if (l->args_size > PARAM_BYTES) {
        emu_report(IMF_EMU_LIMITS, 0, 0, "kernel %s: %zu bytes of parameters", l->name,
                   l->args_size);
        return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

extern "C" {

cudaError_t cudaFuncSetAttribute(const void *func, enum cudaFuncAttribute attr, int value)
{
    ENTER;
    if (attr == cudaFuncAttributePreferredSharedMemoryCarveout)
        return cudaSuccess;
    size_t limit = emu_device[emu_current_device].prop.sharedMemPerBlockOptin;
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || !func || value < 0 ||
        size_t(value) > limit) {
        emu_report(IMF_EMU_LIMITS, 0, 0,
                   "cudaFuncSetAttribute asks for %d bytes of dynamic shared memory (limit %zu)",
                   value, limit);
        return emu_set_error(cudaErrorInvalidValue);
    }
    max_dynamic_smem[func] = value;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attr, const void *func)
{
    ENTER;
    memset(attr, 0, sizeof *attr);
    attr->maxThreadsPerBlock = MAX_THREADS;
    attr->sharedSizeBytes = static_smem.count(func) ? static_smem[func] : 0;
    attr->maxDynamicSharedSizeBytes =
        max_dynamic_smem.count(func) ? max_dynamic_smem[func] : 48 << 10;
    attr->ptxVersion = attr->binaryVersion =
        emu_device[emu_current_device].prop.major * 10 + emu_device[emu_current_device].prop.minor;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *func,
                                                          int block_size, size_t dynamic_smem)
{
    ENTER;
    const struct cudaDeviceProp *p = &emu_device[emu_current_device].prop;
    if (block_size < 1 || block_size > MAX_THREADS)
        return emu_set_error(cudaErrorInvalidValue);
    size_t smem = dynamic_smem + (static_smem.count(func) ? static_smem[func] : 0);
    size_t threads = (size_t(block_size) + 31) / 32 * 32;
    size_t n = std::min<size_t>(size_t(p->maxThreadsPerMultiProcessor) / threads,
                                size_t(p->maxBlocksPerMultiProcessor));
    if (smem > p->sharedMemPerBlockOptin)
        n = 0;
    else if (smem + p->reservedSharedMemPerBlock > 0)
        n = std::min(n, p->sharedMemPerMultiprocessor / (smem + p->reservedSharedMemPerBlock));
    *blocks = int(n);
    return cudaSuccess;
}

void imf_emu_launch(const struct imf_emu_launch_info *info)
{
    emu_guard guard(emu_mutex);
    cudaError_t e = emu_device_ok();
    cudaStream_t s = e == cudaSuccess ? emu_find_stream(info->stream) : nullptr;
    if (e == cudaSuccess && (!s || s->device != emu_current_device))
        e = cudaErrorInvalidResourceHandle;
    if (e == cudaSuccess)
        e = check_launch(info, s->device);
    if (e != cudaSuccess) {
        emu_set_error(e);
        return;
    }
    struct imf_emu_launch_info copy_of = *info;
    copy_of.name = emu_kernel_name(info->function, info->name);
    const char *bytes = static_cast<const char *>(info->args);
    auto args = std::make_shared<std::vector<char>>(bytes, bytes + info->args_size);
    int device = s->device;
    emu_set_error(emu_enqueue(info->stream, info->name, [copy_of, args, device] {
        struct imf_emu_launch_info l = copy_of;
        l.args = args->data();
        emu_thread_altstack();
        cudaError_t r = emu_run_kernel(&l, device);
        static_smem[l.function] = std::max(static_smem[l.function], emu.static_smem);
        return r;
    }));
}
}
