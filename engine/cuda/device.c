/* The CUDA device: creation, errors, and the table. See internal.h for the rules. */
#include "cuda/internal.h"
#include "cuda/plugin.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

imf_status cuda_enter(struct cuda_device *c)
{
    if (c->sick)
        return IMF_EDEVICE;
    cudaError_t error = cudaSetDevice(c->ordinal);
    if (error != cudaSuccess)
        return cuda_failed(c, error, "cudaSetDevice", __FILE__, __LINE__);
    return IMF_OK;
}

static const char *base_name(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

imf_status cuda_failed(struct cuda_device *c, cudaError_t error, const char *what, const char *file,
                       int line)
{
    snprintf(c->base.error, sizeof(c->base.error), "cuda:%d: %s (%s) at %s:%d: %.100s", c->ordinal,
             cudaGetErrorString(error), cudaGetErrorName(error), base_name(file), line, what);
    cudaGetLastError(); /* else the next good launch reports this one */
    if (error == cudaErrorMemoryAllocation)
        return IMF_ENOMEM;
    /* Our launchers answer this to shapes they cannot do, before anything was enqueued. */
    if (error == cudaErrorInvalidValue)
        return IMF_EUNSUPPORTED;
    c->sick = true;
    return IMF_EDEVICE;
}

imf_status cuda_lt_failed(struct cuda_device *c, cublasStatus_t status, const char *what,
                          const char *file, int line)
{
    snprintf(c->base.error, sizeof(c->base.error), "cuda:%d: cuBLASLt: %s at %s:%d: %.100s",
             c->ordinal, cublasLtGetStatusString(status), base_name(file), line, what);
    if (status == CUBLAS_STATUS_ALLOC_FAILED)
        return IMF_ENOMEM;
    c->sick = true;
    return IMF_EDEVICE;
}

imf_status cuda_refuse(struct cuda_device *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(c->base.error, sizeof(c->base.error), format, args);
    va_end(args);
    return IMF_EUNSUPPORTED;
}

/* On a sick device every call below answers with its error, and still frees what is the host's. */
static void cuda_destroy(struct imf__device *d)
{
    struct cuda_device *c = cuda_of(d);
    cudaSetDevice(c->ordinal);
    if (c->stream)
        cudaStreamSynchronize(c->stream);
    if (c->copies)
        cudaStreamSynchronize(c->copies);
    cuda_attention_plans_free(c);
    cuda_gemm_plans_free(c);
    if (c->lt_preference)
        cublasLtMatmulPreferenceDestroy(c->lt_preference);
    if (c->lt)
        cublasLtDestroy(c->lt);
    for (int i = 0; i < 2; i++) {
        if (c->staging[i].done)
            cudaEventDestroy(c->staging[i].done);
        cudaFreeHost(c->staging[i].pinned);
    }
    cudaFree(c->scratch);
    cudaFree(c->lt_workspace);
    if (c->copies)
        cudaStreamDestroy(c->copies);
    if (c->stream)
        cudaStreamDestroy(c->stream);
    free(c);
}

static const struct imf__device_ops ops = {
    .destroy = cuda_destroy,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .upload = cuda_upload,
    .download = cuda_download,
    .sync = cuda_sync,
    .copy = cuda_copy,
    .graph_run = cuda_graph_run,
    .graph_free = cuda_graph_free,
    .graph_prepare = cuda_graph_prepare,
    .transfer_create = cuda_transfer_create,
    .transfer_free = cuda_transfer_free,
    .transfer_begin = cuda_transfer_begin,
    .transfer_end = cuda_transfer_end,
    .memory_free = cuda_memory_free,
    .linear_load = cuda_linear_load,
    .linear_free = cuda_linear_free,
    .swiglu_load = cuda_swiglu_load,
    .swiglu_free = cuda_swiglu_free,
    .conv_load = cuda_conv_load,
    .conv_free = cuda_conv_free,
    .linear = cuda_linear,
    .swiglu = cuda_swiglu,
    .rms_norm = cuda_rms_norm,
    .attention = cuda_attention,
    .scalar_embed = cuda_scalar_embed,
    .patchify = cuda_patchify,
    .assemble = cuda_assemble,
    .euler = cuda_euler,
    .attention_single = cuda_attention_single,
    .image_bytes = cuda_image_bytes,
    .image_from_latent = cuda_image_from_latent,
    .conv2d = cuda_conv2d,
    .group_norm = cuda_group_norm,
    .pool2d = cuda_pool2d,
    .concat = cuda_concat,
    .image_to_tokens = cuda_image_to_tokens,
    .tokens_to_image = cuda_tokens_to_image,
    .global_mean = cuda_global_mean,
    .resize_rgb8 = cuda_resize_rgb8,
    .to_rgb8 = cuda_to_rgb8,
    .matmul_rate = cuda_matmul_rate,
};

static void describe(struct cuda_device *c, const struct cudaDeviceProp *prop)
{
    struct imf_engine_info *info = &c->base.info;
    int runtime = 0;
    size_t lt = cublasLtGetVersion();
    const char *conv = k_conv_sm90_on() ? " conv_sm90" : ""; /* it sums in another order */
    cudaRuntimeGetVersion(&runtime);
    snprintf(info->device, sizeof(info->device), "cuda:%d", c->ordinal);
    snprintf(info->description, sizeof(info->description),
             "%.80s, sm_%d, %d SMs, %.1f GB, CUDA %d.%d, cuBLASLt %zu.%zu%s", prop->name, c->sm,
             prop->multiProcessorCount, (double)prop->totalGlobalMem / 1e9, runtime / 1000,
             runtime % 1000 / 10, lt / 10000, lt / 100 % 100, conv);
    /* cuBLASLt chooses by GPU and version, and its algorithms round in their own order. */
    snprintf(c->base.build, sizeof(c->base.build), "cuda sm_%d %d SMs cuBLASLt %zu.%zu.%zu%s",
             c->sm, prop->multiProcessorCount, lt / 10000, lt / 100 % 100, lt % 100, conv);
    info->precision = c->base.precision;
    info->threads = 1;
    info->overlaps = true;
    cudaMemGetInfo(&info->memory_free, &info->memory_total);
}

/* 32 MiB is what NVIDIA recommends for Hopper and later, 4 MiB before. */
static imf_status open_libraries(struct cuda_device *c)
{
    CUDA_TRY(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking));
    CUDA_TRY(c, cudaStreamCreateWithFlags(&c->copies, cudaStreamNonBlocking));
    for (int i = 0; i < 2; i++) {
        CUDA_TRY(c, cudaMallocHost(&c->staging[i].pinned, CUDA_STAGING_BYTES));
        CUDA_TRY(c, cudaEventCreateWithFlags(&c->staging[i].done, cudaEventDisableTiming));
    }
    c->lt_workspace_bytes = (size_t)(c->sm >= 90 ? 32 : 4) << 20;
    CUDA_TRY(c, cudaMalloc(&c->lt_workspace, c->lt_workspace_bytes));
    c->base.scratch_bytes = c->lt_workspace_bytes;
    CUDA_LT_TRY(c, cublasLtCreate(&c->lt));
    CUDA_LT_TRY(c, cublasLtMatmulPreferenceCreate(&c->lt_preference));
    CUDA_LT_TRY(c, cublasLtMatmulPreferenceSetAttribute(
                       c->lt_preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                       &c->lt_workspace_bytes, sizeof(c->lt_workspace_bytes)));
    uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
    CUDA_LT_TRY(c, cublasLtMatmulPreferenceSetAttribute(c->lt_preference,
                                                        CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                        &no_reduction, sizeof(no_reduction)));
    return IMF_OK;
}

int imf__cuda_runtime_version(void)
{
    return CUDART_VERSION;
}

imf_status imf__cuda_device_create(struct imf__device **out, int abi, int ordinal,
                                   enum imf_precision precision, struct imf_error *err)
{
    if (abi != IMF__DEVICE_ABI)
        return imf__fail(err, IMF_EUNSUPPORTED,
                         "the CUDA module speaks device table %d, this program %d: install both "
                         "from one build",
                         IMF__DEVICE_ABI, abi);
    struct cudaDeviceProp prop;
    cudaError_t error = cudaGetDeviceProperties(&prop, ordinal);
    if (error != cudaSuccess)
        return imf__fail(err, IMF_EDEVICE, "cuda:%d cannot be used: %s", ordinal,
                         cudaGetErrorString(error));
    if (prop.major < 8)
        return imf__fail(err, IMF_EUNSUPPORTED,
                         "cuda:%d is a %s of compute capability %d.%d; 8.0 (Ampere) is the oldest "
                         "with bfloat16 tensor cores",
                         ordinal, prop.name, prop.major, prop.minor);
    struct cuda_device *c = calloc(1, sizeof(*c));
    if (!c)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    c->base.ops = &ops;
    c->base.precision = precision == IMF_PRECISION_FP32 ? IMF_PRECISION_FP32 : IMF_PRECISION_BF16;
    c->act = c->base.precision == IMF_PRECISION_FP32 ? K_F32 : K_BF16;
    c->base.act_size = cuda_type_size(c->act);
    c->base.decode_batch = 8;
    c->base.feature_multiple = 16;
    c->ordinal = ordinal;
    c->sm = prop.major * 10 + prop.minor;
    imf_status status = cuda_enter(c);
    if (status == IMF_OK)
        status = open_libraries(c);
    if (status != IMF_OK) {
        imf__fail(err, status, "%s", c->base.error);
        cuda_destroy(&c->base);
        return status;
    }
    describe(c, &prop);
    *out = &c->base;
    return IMF_OK;
}
