/* Convolutions: our own in bfloat16, where we have products of it (gemm_conv.h); else oneDNN's, one
 * picture at a time (so that a picture's bits cannot depend on its batch).
 *
 * Layouts of the latter, chosen once per device:
 *   - bfloat16, or no AVX-512: NHWC and direct convolutions;
 *   - float32 with AVX-512: blocks of 16 channels (nChw16c), where 3x3 layers run as Winograd
 * F(4,3): two to three times the arithmetic rate of the direct form, equal to 1e-6. A convolution
 * after a nearest x2 upsampling becomes four 2x2 convolutions of the small picture, one for each
 * parity of the output pixel: each 2x2 kernel holds sums of the 3x3 kernel's taps that fall on the
 * same input pixel. It is exact and needs 4/9 of the multiplications. */
#include "cpu/images.h"
#include "common/error.h"

#include <stdlib.h>
#include <string.h>

struct phase {
    dnnl_primitive_t primitive;
    dnnl_memory_t src, dst, weights, bias, scratchpad;
    void *data;
};

struct imf__conv {
    struct gemm_conv *ours; /* instead of the phases; NULL: oneDNN's */
    struct imf__conv_desc desc;
    int in, out;      /* channels as stored: rounded up to 16 in the blocked layout */
    int out_h, out_w; /* of one phase */
    int phases;       /* 1, or 4 after an upsampling: (py, px) row-major */
    struct phase phase[4];
    float *bias; /* (out) */
    bool dst_f32;
};

static int stored_channels(const struct cpu_device *cpu, int c)
{
    return cpu->blocked ? (c + IMAGE_BLOCK - 1) / IMAGE_BLOCK * IMAGE_BLOCK : c;
}

struct conv_shape {
    int in, out, kh, kw, stride, in_h, in_w, out_h, out_w;
    int pad_top, pad_left, pad_bottom, pad_right;
    dnnl_alg_kind_t algorithm;
    dnnl_data_type_t src_type, dst_type;
    dnnl_format_tag_t tag;
    bool accumulate, relu;
};

static dnnl_status_t add_post_ops(dnnl_post_ops_t ops, const struct conv_shape *s)
{
    dnnl_status_t status = dnnl_success;
    if (s->accumulate)
        status = dnnl_post_ops_append_sum(ops, 1.0f);
    if (status == dnnl_success && s->relu)
        status = dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_relu, 0.0f, 0.0f);
    return status;
}

static dnnl_status_t describe(struct cpu_device *cpu, dnnl_primitive_desc_t *pd,
                              const struct conv_shape *c)
{
    dnnl_dims_t src_dims = {1, c->in, c->in_h, c->in_w}, dst_dims = {1, c->out, c->out_h, c->out_w};
    dnnl_dims_t weight_dims = {c->out, c->in, c->kh, c->kw}, bias_dims = {c->out};
    dnnl_dims_t strides = {c->stride, c->stride};
    dnnl_dims_t pad_before = {c->pad_top, c->pad_left}, pad_after = {c->pad_bottom, c->pad_right};
    dnnl_memory_desc_t src, dst, weights, bias;
    dnnl_convolution_desc_t desc;
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t s = dnnl_memory_desc_init_by_tag(&src, 4, src_dims, c->src_type, c->tag);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(&dst, 4, dst_dims, c->dst_type, c->tag);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(&weights, 4, weight_dims, c->src_type,
                                         dnnl_format_tag_any);
    if (s == dnnl_success)
        s = dnnl_memory_desc_init_by_tag(&bias, 1, bias_dims, dnnl_f32, dnnl_x);
    if (s == dnnl_success)
        s = dnnl_convolution_forward_desc_init(&desc, dnnl_forward_inference, c->algorithm, &src,
                                               &weights, &bias, &dst, strides, pad_before,
                                               pad_after);
    if (s == dnnl_success)
        s = dnnl_post_ops_create(&ops);
    if (s == dnnl_success)
        s = add_post_ops(ops, c);
    if (s == dnnl_success)
        s = cpu_primitive_desc(cpu, pd, &desc, ops);
    dnnl_post_ops_destroy(ops);
    return s;
}

static bool is_winograd(dnnl_primitive_desc_t pd)
{
    const char *name = "";
    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name);
    return strstr(name, "wino") != NULL;
}

bool cpu_winograd_available(struct cpu_device *cpu)
{
    struct conv_shape s = {
        .in = 128,
        .out = 128,
        .kh = 3,
        .kw = 3,
        .stride = 1,
        .in_h = 64,
        .in_w = 64,
        .out_h = 64,
        .out_w = 64,
        .pad_top = 1,
        .pad_left = 1,
        .pad_bottom = 1,
        .pad_right = 1,
        .algorithm = dnnl_convolution_winograd,
        .src_type = dnnl_f32,
        .dst_type = dnnl_f32,
        .tag = dnnl_nChw16c,
    };
    dnnl_primitive_desc_t pd = NULL;
    bool yes = describe(cpu, &pd, &s) == dnnl_success && is_winograd(pd);
    dnnl_primitive_desc_destroy(pd);
    return yes;
}

/* Winograd pays for 3x3 layers with many channels on both sides: with few, its transforms cost more than the multiplications they save. Which variant
 * oneDNN takes depends on the number of threads, and with it the last bits: not for a reproducible
 * engine. */
static bool prefers_winograd(const struct cpu_device *cpu, const struct conv_shape *s)
{
    return cpu->blocked && !cpu->reproducible && s->kh == 3 && s->kw == 3 && s->stride == 1 &&
           s->in >= 32 && s->out >= 32;
}

static dnnl_status_t choose(struct cpu_device *cpu, dnnl_primitive_desc_t *pd, struct conv_shape *s)
{
    if (prefers_winograd(cpu, s)) {
        s->algorithm = dnnl_convolution_winograd;
        if (describe(cpu, pd, s) == dnnl_success)
            return dnnl_success;
    }
    s->algorithm = dnnl_convolution_direct;
    return describe(cpu, pd, s);
}

static imf_status phase_load(struct cpu_device *cpu, struct imf__conv *w, struct phase *p,
                             struct conv_shape *s, const float *weight)
{
    dnnl_primitive_desc_t pd = NULL;
    DNNL_TRY(cpu, choose(cpu, &pd, s));
    dnnl_memory_desc_t packed = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0), plain;
    const dnnl_memory_desc_t *scratchpad =
        dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    dnnl_dims_t dims = {s->out, s->in, s->kh, s->kw};
    imf_status status =
        cpu_scratch_reserve(cpu, CPU_SCRATCH_DNNL, dnnl_memory_desc_get_size(scratchpad));
    dnnl_status_t e = dnnl_memory_desc_init_by_tag(&plain, 4, dims, dnnl_f32, dnnl_oihw);
    if (status == IMF_OK && e == dnnl_success)
        status = cpu_pack(cpu, &p->weights, &p->data, &packed, &plain, weight);
    const struct {
        dnnl_memory_t *memory;
        dnnl_query_t query;
        int index;
        void *data;
    } memories[] = {
        {&p->src, dnnl_query_src_md, 0, DNNL_MEMORY_NONE},
        {&p->dst, dnnl_query_dst_md, 0, DNNL_MEMORY_NONE},
        {&p->bias, dnnl_query_weights_md, 1, w->bias},
        {&p->scratchpad, dnnl_query_scratchpad_md, 0, DNNL_MEMORY_NONE},
    };
    for (size_t i = 0; i < sizeof(memories) / sizeof(memories[0]) && e == dnnl_success; i++)
        e = dnnl_memory_create(
            memories[i].memory,
            dnnl_primitive_desc_query_md(pd, memories[i].query, memories[i].index), cpu->engine,
            memories[i].data);
    if (e == dnnl_success)
        e = dnnl_primitive_create(&p->primitive, pd);
    dnnl_primitive_desc_destroy(pd);
    if (status == IMF_OK && e != dnnl_success)
        status = cpu_fail(cpu, "a convolution", e);
    return status;
}

/* The 2x2 kernel of output parity (py, px): rows of the 3x3 kernel that meet the same input row are
 * added. Parity 0 sees rows {0}, {1, 2}; parity 1 sees {0, 1}, {2}. */
static void fold_upsample(float *dst /* (2, 2) */, const float *src /* (3, 3) */, int py, int px)
{
    memset(dst, 0, 4 * sizeof(float));
    for (int y = 0; y < 3; y++) {
        for (int x = 0; x < 3; x++)
            dst[(y + 1 - py) / 2 * 2 + (x + 1 - px) / 2] += src[y * 3 + x];
    }
}

/* Host weights (out, in, kh, kw) with channels as stored and, for a phase, folded. */
static float *stored_weights(const struct imf__conv *w, const float *weight, int phase)
{
    const struct imf__conv_desc *d = &w->desc;
    size_t taps = (size_t)d->kh * (size_t)d->kw, kept = w->phases == 4 ? 4 : taps;
    float *dst = calloc((size_t)w->out * (size_t)w->in * kept, sizeof(float));
    if (!dst)
        return NULL;
    for (int o = 0; o < d->out; o++) {
        for (int i = 0; i < d->in; i++) {
            const float *from = weight + ((size_t)o * (size_t)d->in + (size_t)i) * taps;
            float *to = dst + ((size_t)o * (size_t)w->in + (size_t)i) * kept;
            if (w->phases == 4)
                fold_upsample(to, from, phase / 2, phase % 2);
            else
                memcpy(to, from, taps * sizeof(float));
        }
    }
    return dst;
}

static struct conv_shape shape_of(const struct cpu_device *cpu, const struct imf__conv *w,
                                  int phase)
{
    const struct imf__conv_desc *d = &w->desc;
    struct conv_shape s = {
        .in = w->in,
        .out = w->out,
        .kh = d->kh,
        .kw = d->kw,
        .stride = d->stride,
        .in_h = d->in_h,
        .in_w = d->in_w,
        .out_h = w->out_h,
        .out_w = w->out_w,
        .pad_top = d->pad_h,
        .pad_left = d->pad_w,
        .pad_bottom = d->pad_h,
        .pad_right = d->pad_w,
        .src_type = cpu_bf16(cpu) ? dnnl_bf16 : dnnl_f32,
        .dst_type = cpu_bf16(cpu) && !w->dst_f32 ? dnnl_bf16 : dnnl_f32,
        .tag = cpu->blocked ? dnnl_nChw16c : dnnl_nhwc,
        .accumulate = d->residual,
        .relu = d->relu,
    };
    if (w->phases == 4) {
        s.kh = s.kw = 2;
        s.pad_top = 1 - phase / 2;
        s.pad_bottom = phase / 2;
        s.pad_left = 1 - phase % 2;
        s.pad_right = phase % 2;
    } else {
        /* What the last window does not reach is no padding. */
        s.pad_bottom = (s.out_h - 1) * s.stride + s.kh - s.in_h - s.pad_top;
        s.pad_right = (s.out_w - 1) * s.stride + s.kw - s.in_w - s.pad_left;
    }
    return s;
}

static size_t phase_bytes(const struct cpu_device *cpu, const struct imf__conv *w)
{
    return (size_t)w->out_h * (size_t)w->out_w * (size_t)w->out * cpu->base.act_size;
}

static imf_status phases_load(struct cpu_device *cpu, struct imf__conv *w, const float *weight)
{
    for (int i = 0; i < w->phases; i++) {
        struct conv_shape s = shape_of(cpu, w, i);
        float *stored = stored_weights(w, weight, i);
        if (!stored)
            return IMF_ENOMEM;
        imf_status status = phase_load(cpu, w, &w->phase[i], &s, stored);
        free(stored);
        if (status != IMF_OK)
            return status;
    }
    if (w->phases == 4)
        IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_TENSOR, phase_bytes(cpu, w)));
    return IMF_OK;
}

imf_status cpu_conv_load(struct imf__device *d, struct imf__conv **out,
                         const struct imf__conv_desc *desc, const float *weight, const float *bias)
{
    struct cpu_device *cpu = cpu_of(d);
    struct imf__conv *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    w->desc = *desc;
    w->in = stored_channels(cpu, desc->in);
    w->out = stored_channels(cpu, desc->out);
    w->phases = desc->upsample2x ? 4 : 1;
    w->dst_f32 = desc->f32_out;
    w->out_h = desc->upsample2x ? desc->in_h
                                : (desc->in_h + 2 * desc->pad_h - desc->kh) / desc->stride + 1;
    w->out_w = desc->upsample2x ? desc->in_w
                                : (desc->in_w + 2 * desc->pad_w - desc->kw) / desc->stride + 1;
    imf_status status = IMF_ENOMEM;
    if (cpu->gemm) {
        status = imf__gemm_conv_load(cpu, &w->ours, desc, weight, bias);
    } else if ((w->bias = cpu_memory_alloc((size_t)w->out * sizeof(float)))) {
        if (bias)
            memcpy(w->bias, bias, (size_t)desc->out * sizeof(float));
        d->weights_bytes += (size_t)w->out * sizeof(float);
        status = phases_load(cpu, w, weight);
    }
    if (status != IMF_OK) {
        cpu_conv_free(d, w);
        return status;
    }
    *out = w;
    return IMF_OK;
}

void cpu_conv_free(struct imf__device *d, struct imf__conv *w)
{
    (void)d;
    if (!w)
        return;
    for (int i = 0; i < w->phases; i++) {
        struct phase *p = &w->phase[i];
        dnnl_primitive_destroy(p->primitive);
        dnnl_memory_destroy(p->src);
        dnnl_memory_destroy(p->dst);
        dnnl_memory_destroy(p->weights);
        dnnl_memory_destroy(p->bias);
        dnnl_memory_destroy(p->scratchpad);
        cpu_weights_free(p->data);
    }
    imf__gemm_conv_free(w->ours);
    free(w->bias);
    free(w);
}

static imf_status phase_run(struct cpu_device *cpu, const struct phase *p, void *dst,
                            const void *src)
{
    dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, p->src}, {DNNL_ARG_WEIGHTS, p->weights},       {DNNL_ARG_BIAS, p->bias},
        {DNNL_ARG_DST, p->dst}, {DNNL_ARG_SCRATCHPAD, p->scratchpad},
    };
    DNNL_TRY(cpu, dnnl_memory_set_data_handle(p->src, (void *)src));
    DNNL_TRY(cpu, dnnl_memory_set_data_handle(p->dst, dst));
    DNNL_TRY(cpu, dnnl_memory_set_data_handle(p->scratchpad, cpu_scratch(cpu, CPU_SCRATCH_DNNL)));
    DNNL_TRY(cpu, dnnl_primitive_execute(p->primitive, cpu->stream, 5, args));
    DNNL_TRY(cpu, dnnl_stream_wait(cpu->stream));
    return IMF_OK;
}

/* Spreads a phase's picture (h, w) over every second pixel of dst (2h, 2w). `run` bytes a pixel;
 * the blocked layout repeats the picture for each block of channels. */
static void interleave(char *dst, const char *src, int planes, int h, int w, size_t run, int py,
                       int px)
{
#pragma omp parallel for collapse(2) schedule(static)
    for (int c = 0; c < planes; c++) {
        for (int y = 0; y < h; y++) {
            const char *from = src + ((size_t)c * (size_t)h + (size_t)y) * (size_t)w * run;
            char *to =
                dst + (((size_t)c * (size_t)h + (size_t)y) * 2 + (size_t)py) * (size_t)w * 2 * run +
                (size_t)px * run;
            for (int x = 0; x < w; x++)
                memcpy(to + (size_t)x * 2 * run, from + (size_t)x * run, run);
        }
    }
}

static imf_status upsampled(struct cpu_device *cpu, char *dst, const char *src,
                            const struct imf__conv *w)
{
    int planes = cpu->blocked ? w->out / IMAGE_BLOCK : 1;
    size_t run = (size_t)(cpu->blocked ? IMAGE_BLOCK : w->out) * cpu->base.act_size;
    char *part = cpu_scratch(cpu, CPU_SCRATCH_TENSOR);
    for (int i = 0; i < 4; i++) {
        IMF_TRY(phase_run(cpu, &w->phase[i], part, src));
        interleave(dst, part, planes, w->out_h, w->out_w, run, i / 2, i % 2);
    }
    return IMF_OK;
}

imf_status cpu_conv2d(struct imf__device *d, struct imf__image *dst, const struct imf__image *src,
                      const struct imf__conv *w, const struct imf__image *residual)
{
    struct cpu_device *cpu = cpu_of(d);
    int up = w->phases == 4 ? 2 : 1;
    if (dst->c != w->desc.out || src->c != w->desc.in || dst->n != src->n ||
        src->h != w->desc.in_h || src->w != w->desc.in_w || dst->h != w->out_h * up ||
        dst->w != w->out_w * up || dst->f32 != w->dst_f32 || (residual != NULL) != w->desc.residual)
        return IMF_EINVAL;
    if (w->ours)
        return imf__gemm_conv_run(cpu, dst, src, w->ours, residual);
    image_written(dst);
    if (d->dry)
        return IMF_OK;
    const struct layout from_layout = layout_of(cpu, src), to_layout = layout_of(cpu, dst);
    size_t src_bytes = from_layout.sample * (from_layout.bf16 ? 2 : 4);
    size_t dst_bytes = to_layout.sample * (to_layout.bf16 ? 2 : 4);
    if (residual && residual->data != dst->data)
        memcpy(dst->data, residual->data, dst_bytes * (size_t)dst->n);
    for (int n = 0; n < dst->n; n++) {
        char *to = (char *)dst->data + (size_t)n * dst_bytes;
        const char *from = (const char *)src->data + (size_t)n * src_bytes;
        if (w->phases == 4)
            IMF_TRY(upsampled(cpu, to, from, w));
        else
            IMF_TRY(phase_run(cpu, &w->phase[0], to, from));
    }
    return IMF_OK;
}
