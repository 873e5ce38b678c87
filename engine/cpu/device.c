/* The CPU device: oneDNN for matrix products and convolutions, our own loops (kernels.c) under
 * OpenMP for the rest. Everything runs at once on the calling thread and its OpenMP team; nothing
 * is deferred, so sync has nothing to wait for. */
#include "cpu/internal.h"
#include "cpu/processors.h"
#include "common/error.h"
#include "common/memory_room.h"

#include <gnu/libc-version.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

imf_status cpu_scratch_reserve(struct cpu_device *cpu, enum cpu_scratch which, size_t bytes)
{
    if (bytes <= cpu->scratch[which].size)
        return IMF_OK;
    void *p = cpu_memory_alloc(bytes);
    if (!p)
        return IMF_ENOMEM;
    free(cpu->scratch[which].p);
    cpu->base.scratch_bytes += bytes - cpu->scratch[which].size;
    cpu->scratch[which].p = p;
    cpu->scratch[which].size = bytes;
    return IMF_OK;
}

imf_status cpu_fail(struct cpu_device *cpu, const char *what, dnnl_status_t status)
{
    snprintf(cpu->base.error, sizeof(cpu->base.error), "oneDNN: status %d from %s", (int)status,
             what);
    return status == dnnl_out_of_memory ? IMF_ENOMEM : IMF_EDEVICE;
}

dnnl_status_t cpu_primitive_desc(struct cpu_device *cpu, dnnl_primitive_desc_t *pd,
                                 const_dnnl_op_desc_t desc, const_dnnl_post_ops_t ops)
{
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t s = dnnl_primitive_attr_create(&attr);
    if (s == dnnl_success)
        s = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (s == dnnl_success)
        s = dnnl_primitive_attr_set_post_ops(attr, ops);
    if (s == dnnl_success)
        s = dnnl_primitive_desc_create(pd, desc, attr, cpu->engine, NULL);
    dnnl_primitive_attr_destroy(attr);
    return s;
}

imf_status cpu_pack(struct cpu_device *cpu, dnnl_memory_t *out, void **data,
                    const dnnl_memory_desc_t *packed, const dnnl_memory_desc_t *plain,
                    const float *src)
{
    imf_status status = IMF_ENOMEM;
    dnnl_memory_t from = NULL, to = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t reorder = NULL;
    size_t size = dnnl_memory_desc_get_size(packed);
    void *p = cpu_weights_alloc(size);
    if (!p)
        goto out;
    status = IMF_EDEVICE;
    if (dnnl_memory_create(&from, plain, cpu->engine, (void *)src) != dnnl_success ||
        dnnl_memory_create(&to, packed, cpu->engine, p) != dnnl_success ||
        dnnl_reorder_primitive_desc_create(&pd, plain, cpu->engine, packed, cpu->engine, NULL) !=
            dnnl_success ||
        dnnl_primitive_create(&reorder, pd) != dnnl_success) {
        snprintf(cpu->base.error, sizeof(cpu->base.error), "oneDNN cannot repack weights");
        goto out;
    }
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    if (dnnl_primitive_execute(reorder, cpu->stream, 2, args) != dnnl_success ||
        dnnl_stream_wait(cpu->stream) != dnnl_success) {
        snprintf(cpu->base.error, sizeof(cpu->base.error), "oneDNN failed to repack weights");
        goto out;
    }
    cpu->base.weights_bytes += size;
    *out = to;
    *data = p;
    to = NULL;
    p = NULL;
    status = IMF_OK;
out:
    dnnl_primitive_destroy(reorder);
    dnnl_primitive_desc_destroy(pd);
    dnnl_memory_destroy(from);
    dnnl_memory_destroy(to);
    cpu_weights_free(p);
    return status;
}

static imf_status cpu_alloc(struct imf__device *d, void **out, size_t bytes, bool weight)
{
    void *p = cpu_memory_alloc(bytes);
    if (!p) {
        struct imf__memory_room room = imf__memory_room();
        snprintf(d->error, sizeof(d->error), "%s leaves %zu MB", room.limit, room.bytes >> 20);
        return IMF_ENOMEM;
    }
    if (weight)
        d->weights_bytes += bytes;
    *out = p;
    return IMF_OK;
}

static imf_status cpu_memory_free(struct imf__device *d, size_t *bytes)
{
    size_t most = cpu_memory_limit();
    (void)d;
    *bytes = imf__memory_room().bytes;
    if (*bytes > most)
        *bytes = most;
    return *bytes == SIZE_MAX ? IMF_EUNSUPPORTED : IMF_OK;
}

static void cpu_free(struct imf__device *d, void *p)
{
    (void)d;
    free(p);
}

static imf_status cpu_copy(struct imf__device *d, void *dst, const void *src, size_t bytes)
{
    if (!d->dry)
        memcpy(dst, src, bytes);
    return IMF_OK;
}

static imf_status cpu_sync(struct imf__device *d)
{
    (void)d;
    return IMF_OK;
}

/* Work is done as it is asked for, so there is nothing to capture. The thread count is set here
 * since it belongs to the calling thread, which may not be the one that created the device. */
static imf_status cpu_graph_run(struct imf__device *d, struct imf__graph **slot, imf__forward_fn fn,
                                void *ctx, int B)
{
    (void)slot;
    omp_set_num_threads(cpu_of(d)->threads);
    return fn(ctx, B);
}

static void cpu_graph_free(struct imf__device *d, struct imf__graph *g)
{
    (void)d;
    (void)g;
}

static void cpu_destroy(struct imf__device *d)
{
    struct cpu_device *cpu = cpu_of(d);
    cpu_matmuls_free(cpu);
    for (int i = 0; i < CPU_SCRATCH_COUNT; i++)
        free(cpu->scratch[i].p);
    cpu_tasks_free(&cpu->tasks);
    if (cpu->stream)
        dnnl_stream_destroy(cpu->stream);
    if (cpu->engine)
        dnnl_engine_destroy(cpu->engine);
    free(cpu);
}

static const struct imf__device_ops cpu_ops = {
    .destroy = cpu_destroy,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .act_bytes = cpu_act_bytes,
    .memory_free = cpu_memory_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .sync = cpu_sync,
    .graph_run = cpu_graph_run,
    .graph_free = cpu_graph_free,
    .linear_load = cpu_linear_load,
    .linear_free = cpu_linear_free,
    .swiglu_load = cpu_swiglu_load,
    .swiglu_free = cpu_swiglu_free,
    .conv_load = cpu_conv_load,
    .conv_free = cpu_conv_free,
    .linear = cpu_linear,
    .swiglu = cpu_swiglu,
    .rms_norm = cpu_rms_norm,
    .attention = cpu_attention,
    .scalar_embed = cpu_scalar_embed,
    .patchify = cpu_patchify,
    .assemble = cpu_assemble,
    .euler = cpu_euler,
    .attention_single = cpu_attention_single,
    .attention_picture = cpu_attention_picture,
    .image_bytes = cpu_image_bytes,
    .image_from_latent = cpu_image_from_latent,
    .conv2d = cpu_conv2d,
    .group_norm = cpu_group_norm,
    .pool2d = cpu_pool2d,
    .concat = cpu_concat,
    .image_to_tokens = cpu_image_to_tokens,
    .tokens_to_image = cpu_tokens_to_image,
    .global_mean = cpu_global_mean,
    .resize_rgb8 = cpu_resize_rgb8,
    .to_rgb8 = cpu_to_rgb8,
    .matmul_rate = cpu_matmul_rate,
    .peak_rate = cpu_peak_rate,
};

static bool onednn_has_amx(void)
{
#if defined(__x86_64__)
    return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_amx) ==
           dnnl_cpu_isa_avx512_core_amx;
#else
    return false;
#endif
}

static const struct imf__cpu_kernels *choose_kernels(void)
{
#if defined(__x86_64__)
    /* The library may be held back with ONEDNN_MAX_CPU_ISA; our loops follow, so that one setting
     * tests what an older processor would compute. */
    dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    bool avx512 = isa != dnnl_cpu_isa_avx2_vnni && isa > dnnl_cpu_isa_avx2;
    bool bf16 = avx512 && (isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
    if (bf16 && __builtin_cpu_supports("avx512bf16"))
        return &imf__cpu_kernels_avx512_bf16;
    if (avx512 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return &imf__cpu_kernels_avx512;
    if (isa >= dnnl_cpu_isa_avx2 && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        return &imf__cpu_kernels_avx2;
#endif
    return &imf__cpu_kernels_generic;
}

/* Our own products, where the CPU multiplies pairs of bfloat16; ONEDNN_MAX_CPU_ISA holds them back
 * too. */
static const struct gemm_kernel *choose_products(void)
{
#if defined(__x86_64__)
    const char *why;
    if (choose_kernels() != &imf__cpu_kernels_avx512_bf16)
        return NULL;
    if (onednn_has_amx() && imf__tiles_allowed(&why))
        return &imf__gemm_tiles;
    return &imf__gemm_dot;
#else
    return NULL;
#endif
}

/* What oneDNN's bfloat16 needs. */
static bool cpu_bf16_available(void)
{
#if defined(__x86_64__)
    return choose_kernels() == &imf__cpu_kernels_avx512 ||
           choose_kernels() == &imf__cpu_kernels_avx512_bf16;
#else
    return false;
#endif
}

static void describe(struct cpu_device *cpu)
{
    struct imf_engine_info *info = &cpu->base.info;
    const dnnl_version_t *v = dnnl_version();
    char name[96];
    imf__processor_name(name, sizeof(name));
    snprintf(info->device, sizeof(info->device), "cpu");
    const char *why = NULL;
    imf__tiles_allowed(&why);
    snprintf(info->description, sizeof(info->description),
             "%s, %d thread%s, %s kernels%s%s, oneDNN %d.%d.%d%s%s", name, cpu->threads,
             cpu->threads == 1 ? "" : "s", cpu->k->isa, cpu->gemm ? ", products on " : "",
             cpu->gemm ? cpu->gemm->name : "", v->major, v->minor, v->patch,
             onednn_has_amx() ? " with AMX" : "", why ? "; the system refuses AMX" : "");
    /* oneDNN chooses a Winograd variant by the number of threads, and its bits with it. Our own
     * loops' bits depend on what the compiler made of them and on the C library's exp and log. */
    snprintf(cpu->base.build, sizeof(cpu->base.build),
             "cpu %s %s oneDNN %d.%d.%d isa %d winograd %d compiler %.32s libc %.16s", cpu->k->isa,
             cpu->gemm ? cpu->gemm->name : "", v->major, v->minor, v->patch,
             (int)dnnl_get_effective_cpu_isa(),
             cpu->blocked && !cpu->reproducible ? cpu->threads : 0, __VERSION__,
             gnu_get_libc_version());
    info->precision = cpu->base.precision;
    info->threads = cpu->threads;
    long pages = sysconf(_SC_PHYS_PAGES);
    size_t room = imf__memory_room().bytes;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    info->memory_total = pages > 0 ? (size_t)pages * page : 0;
    info->memory_free = room == SIZE_MAX ? 0 : room;
}

imf_status imf__cpu_device_create(struct imf__device **out, const struct imf_engine_params *p,
                                  struct imf_error *err)
{
    if (p->threads < 0 || p->threads > 1024)
        return imf__fail(err, IMF_EINVAL, "threads must be 0 (all processors) to 1024, not %d",
                         p->threads);
    const struct imf__memory_room room = imf__memory_room_limits();
    if (cpu_memory_limit() == 0)
        return imf__fail(
            err, IMF_ENOMEM,
            "the CPU device needs %zu MB for its libraries alone, but %s leaves %zu MB",
            CPU_LIBRARIES_BYTES >> 20, room.limit, room.bytes >> 20);
    struct cpu_device *cpu = calloc(1, sizeof(*cpu));
    if (!cpu)
        return imf__fail(err, IMF_ENOMEM, "no memory for the CPU device");
    cpu->base.ops = &cpu_ops;
    cpu->base.immediate = true;
    cpu->k = choose_kernels();
    cpu->threads = p->threads ? p->threads : imf__processors();
    cpu->reproducible = p->reproducible;
    bool fast_bf16 = false;
#if defined(__x86_64__)
    fast_bf16 = cpu->k == &imf__cpu_kernels_avx512_bf16;
#endif
    cpu->base.precision = p->precision != IMF_PRECISION_AUTO ? p->precision
                          : fast_bf16                        ? IMF_PRECISION_BF16
                                                             : IMF_PRECISION_FP32;
    cpu->base.act_size = cpu_bf16(cpu) ? 2 : 4;
    cpu->base.decode_batch = 1; /* one picture fills the machine and keeps memory small */
    if (!cpu_tasks_create(&cpu->tasks, cpu->threads)) {
        cpu_destroy(&cpu->base);
        return imf__fail(err, IMF_ENOMEM, "no memory for the CPU device");
    }
    omp_set_num_threads(cpu->threads);
    if (dnnl_engine_create(&cpu->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&cpu->stream, cpu->engine, dnnl_stream_default_flags) != dnnl_success) {
        cpu_destroy(&cpu->base);
        return imf__fail(err, IMF_EDEVICE, "oneDNN has no CPU engine here");
    }
    if (cpu_bf16(cpu) && !cpu_bf16_available()) {
        cpu_destroy(&cpu->base);
        return imf__fail(
            err, IMF_EUNSUPPORTED,
            "bf16 on the CPU needs AVX-512; this processor has none: use fp32 or auto");
    }
    if (cpu_bf16(cpu))
        cpu->gemm = choose_products();
    cpu->base.attends_pictures = cpu->gemm != NULL;
    cpu->row_invariant = cpu_matmul_is_row_invariant(cpu);
    if (!cpu->row_invariant)
        cpu->base.feature_multiple = 8; /* of the widths that jit_1x1 has (matmul.c) */
    cpu->blocked = !cpu_bf16(cpu) && cpu_winograd_available(cpu);
    describe(cpu);
    *out = &cpu->base;
    return IMF_OK;
}
