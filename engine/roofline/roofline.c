/* The counting device; see roofline.h. What each operation launches mirrors engine/cuda and
 * kernels/. */
#include "roofline/roofline.h"
#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 96 };

struct roofline {
    struct imf__device base;
    const struct imf__gpu *gpu;
    uintptr_t next_address; /* fictitious memory */
    struct imf__roofline_row rows[MAX_ROWS];
    int count;
};

struct imf__linear {
    int N, K, Kp;
    double element; /* bytes of the matrix's and x's elements */
    bool bias;
};

struct imf__swiglu {
    struct imf__linear both;
    int M, Mp;
};

struct imf__conv {
    struct imf__conv_desc desc;
};

/* Shares that are reached, and where each is from:
 *   memory     copies and norms of tens of megabytes reach 85 to 92 % of the bandwidth on both
 *   library    H100: 600 to 680 of 990 TFLOP/s are published for bfloat16 products of these sizes
 *              (power holds the clock below boost); RTX 4090: 150 of 165
 *   conv       H100: mma.sync reaches at most 62 % of the peak, which is wgmma's; of that our
 * kernel two thirds to three quarters, one block of eight warps an SM and copies between. RTX 4090:
 * mma.sync is the native instruction; the same three quarters attention  as conv, with as many
 * exponentials as the multipliers leave time for plain      float32 products without tensor cores:
 * 75 to 80 % None was measured by us; a card's own figures belong here when there are some. */
static const struct imf__gpu gpus[] = {
    {"H100",
     "H100 SXM: 990 TFLOP/s bf16 dense, 3.35 TB/s",
     990e12,
     67e12,
     3.35e12,
     1.5e-6,
     {[IMF__MEMORY] = 0.87,
      [IMF__LIBRARY] = 0.65,
      [IMF__CONV] = 0.44,
      [IMF__ATTENTION] = 0.30,
      [IMF__PLAIN] = 0.75}},
    {"RTX4090",
     "RTX 4090: 165 TFLOP/s bf16 dense (float32 accumulation), 1.01 TB/s",
     165.2e12,
     82.6e12,
     1.008e12,
     1.5e-6,
     {[IMF__MEMORY] = 0.90,
      [IMF__LIBRARY] = 0.90,
      [IMF__CONV] = 0.75,
      [IMF__ATTENTION] = 0.50,
      [IMF__PLAIN] = 0.75}},
};

/* NULL when the name is not known; `names` gets "H100, RTX4090". */
static const struct imf__gpu *gpu_find(const char *name, const char **names)
{
    if (names)
        *names = "H100, RTX4090";
    for (size_t i = 0; i < sizeof(gpus) / sizeof(gpus[0]); i++)
        if (strcmp(name, gpus[i].name) == 0)
            return &gpus[i];
    return NULL;
}

static struct roofline *of(struct imf__device *d)
{
    return (struct roofline *)d;
}

/* ---- counting ---- */

struct launch {
    double flops;  /* as executed */
    double useful; /* without padding; 0: the same */
    double bytes;
    enum imf__work work; /* IMF__MEMORY and IMF__PLAIN compute in float32 */
};

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static struct imf__roofline_row *row_named(struct roofline *r, const char *stage)
{
    for (int i = 0; i < r->count; i++)
        if (strcmp(r->rows[i].stage, stage) == 0)
            return &r->rows[i];
    if (r->count == MAX_ROWS)
        return &r->rows[MAX_ROWS - 1]; /* more kinds than anybody reads: the last row takes them */
    struct imf__roofline_row *row = &r->rows[r->count++];
    snprintf(row->stage, sizeof(row->stage), "%s", stage);
    return row;
}

__attribute__((format(printf, 3, 4))) static imf_status
count(struct imf__device *d, struct launch launch, const char *stage, ...)
{
    struct roofline *r = of(d);
    if (d->dry)
        return IMF_OK;
    char name[40];
    va_list args;
    va_start(args, stage);
    vsnprintf(name, sizeof(name), stage, args);
    va_end(args);
    struct imf__roofline_row *row = row_named(r, name);
    const struct imf__gpu *gpu = r->gpu;
    bool f32 = launch.work == IMF__MEMORY || launch.work == IMF__PLAIN;
    double compute = launch.flops / (f32 ? gpu->f32_flops : gpu->bf16_flops);
    double memory = launch.bytes / gpu->bandwidth;
    double reached = gpu->reached[launch.work == IMF__MEMORY ? IMF__PLAIN : launch.work];
    row->launches++;
    row->flops += launch.flops;
    row->useful_flops += launch.useful > 0.0 ? launch.useful : launch.flops;
    row->bytes += launch.bytes;
    row->seconds += larger(compute, memory) + gpu->launch_seconds;
    row->estimate +=
        larger(compute / reached, memory / gpu->reached[IMF__MEMORY]) + gpu->launch_seconds;
    return IMF_OK;
}

int imf__roofline_rows(const struct imf__device *d, const struct imf__roofline_row **rows)
{
    const struct roofline *r = (const struct roofline *)d;
    *rows = r->rows;
    return r->count;
}

void imf__roofline_reset(struct imf__device *d)
{
    memset(of(d)->rows, 0, sizeof(of(d)->rows));
    of(d)->count = 0;
}

const struct imf__gpu *imf__roofline_gpu(const struct imf__device *d)
{
    return ((const struct roofline *)d)->gpu;
}

struct imf__roofline_row imf__roofline_total(const struct imf__device *d)
{
    const struct roofline *r = (const struct roofline *)d;
    struct imf__roofline_row total = {.stage = "total"};
    for (int i = 0; i < r->count; i++) {
        total.launches += r->rows[i].launches;
        total.flops += r->rows[i].flops;
        total.useful_flops += r->rows[i].useful_flops;
        total.bytes += r->rows[i].bytes;
        total.seconds += r->rows[i].seconds;
        total.estimate += r->rows[i].estimate;
    }
    return total;
}

static int round_up(int x, int to)
{
    return (x + to - 1) / to * to;
}

static double act(const struct imf__device *d)
{
    return (double)d->act_size;
}

static double size_of(const struct imf__device *d, enum imf__dtype type)
{
    return type == IMF__F32 ? 4.0 : act(d);
}

static bool narrow(const struct imf__device *d)
{
    return d->act_size == 2;
}

/* ---- memory: addresses that nobody follows ---- */

static void destroy(struct imf__device *d)
{
    free(of(d));
}

static imf_status alloc(struct imf__device *d, void **out, size_t bytes, bool weight)
{
    struct roofline *r = of(d);
    *out = (void *)r->next_address;
    r->next_address += (bytes + 511) / 256 * 256;
    if (weight)
        d->weights_bytes += bytes;
    return IMF_OK;
}

static void release(struct imf__device *d, void *p)
{
    (void)d;
    (void)p;
}

static imf_status upload(struct imf__device *d, void *dst, const void *src, size_t bytes)
{
    (void)d, (void)dst, (void)src, (void)bytes;
    return IMF_OK;
}

/* The host's buffer keeps what it holds. */
static imf_status download(struct imf__device *d, void *dst, const void *src, size_t bytes)
{
    (void)d, (void)dst, (void)src, (void)bytes;
    return IMF_OK;
}

static imf_status sync_device(struct imf__device *d)
{
    (void)d;
    return IMF_OK;
}

static imf_status graph_run(struct imf__device *d, struct imf__graph **slot, imf__forward_fn fn,
                            void *ctx, int B)
{
    (void)d, (void)slot;
    return fn(ctx, B);
}

static void graph_free(struct imf__device *d, struct imf__graph *g)
{
    (void)d, (void)g;
}

/* ---- weights: only their shapes ---- */

static imf_status linear_load(struct imf__device *d, struct imf__linear **out, enum imf__dtype type,
                              const float *weight, const float *bias, int N, int K)
{
    (void)weight;
    struct imf__linear *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    *w = (struct imf__linear){
        .N = N, .K = K, .Kp = round_up(K, 16), .element = size_of(d, type), .bias = bias != NULL};
    d->weights_bytes += (size_t)N * (size_t)w->Kp * (size_t)w->element;
    *out = w;
    return IMF_OK;
}

static void linear_free(struct imf__device *d, struct imf__linear *w)
{
    (void)d;
    free(w);
}

static imf_status swiglu_load(struct imf__device *d, struct imf__swiglu **out, const float *w1,
                              const float *w3, int M, int K)
{
    (void)w1, (void)w3;
    struct imf__swiglu *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    w->M = M;
    w->Mp = round_up(M, 16);
    w->both =
        (struct imf__linear){.N = 2 * w->Mp, .K = K, .Kp = round_up(K, 16), .element = act(d)};
    d->weights_bytes += (size_t)w->both.N * (size_t)w->both.Kp * d->act_size;
    *out = w;
    return IMF_OK;
}

static void swiglu_free(struct imf__device *d, struct imf__swiglu *w)
{
    (void)d;
    free(w);
}

static imf_status conv_load(struct imf__device *d, struct imf__conv **out,
                            const struct imf__conv_desc *desc, const float *weight,
                            const float *bias)
{
    (void)weight, (void)bias;
    struct imf__conv *w = calloc(1, sizeof(*w));
    if (!w)
        return IMF_ENOMEM;
    w->desc = *desc;
    d->weights_bytes +=
        (size_t)round_up(desc->in, 8) * (size_t)(desc->kh * desc->kw * desc->out) * d->act_size;
    *out = w;
    return IMF_OK;
}

static void conv_free(struct imf__device *d, struct imf__conv *w)
{
    (void)d;
    free(w);
}

/* ---- tokens ---- */

/* [convert to padded rows,] product. */
static imf_status product(struct imf__device *d, const struct imf__linear *w, double rows,
                          double dst_bytes, bool add, int useful_N, const char *stage)
{
    double N = w->N, K = w->Kp, e = w->element;
    if (w->Kp != w->K) {
        struct launch pad = {.bytes = rows * (w->K + K) * e};
        IMF_TRY(count(d, pad, "pad rows"));
    }
    struct launch launch = {
        .flops = 2 * rows * N * K,
        .useful = 2 * rows * useful_N * w->K,
        .bytes = (rows * K + N * K) * e + rows * N * dst_bytes * (add ? 2 : 1) +
                 (w->bias ? N * dst_bytes : 0),
        .work = e == 2.0 ? IMF__LIBRARY : IMF__PLAIN,
    };
    return count(d, launch, "%s", stage);
}

static imf_status linear(struct imf__device *d, void *dst, enum imf__dtype dst_type,
                         const void *src, const struct imf__linear *w, int rows,
                         enum imf__epilogue epilogue)
{
    (void)dst, (void)src;
    char stage[40];
    double size = size_of(d, dst_type);
    snprintf(stage, sizeof(stage), "linear %d x %d%s", w->N, w->K, w->element == 2.0 ? "" : " f32");
    IMF_TRY(product(d, w, rows, size, epilogue == IMF__ADD, w->N, stage));
    if (epilogue != IMF__SILU)
        return IMF_OK;
    struct launch silu = {.bytes = 2.0 * rows * w->N * size, .flops = 4.0 * rows * w->N};
    return count(d, silu, "silu");
}

static imf_status swiglu(struct imf__device *d, void *dst, const void *src,
                         const struct imf__swiglu *w, int rows)
{
    (void)dst, (void)src;
    char stage[40];
    snprintf(stage, sizeof(stage), "linear 2 x %d x %d", w->M, w->both.K);
    IMF_TRY(product(d, &w->both, rows, act(d), false, 2 * w->M, stage));
    struct launch gate = {.bytes = 3.0 * rows * w->M * act(d), .flops = 5.0 * rows * w->M};
    return count(d, gate, "swiglu");
}

static imf_status rms_norm(struct imf__device *d, void *dst, enum imf__dtype dst_type,
                           const float *src, const float *weight, int B, int T, int t0, int C,
                           float eps)
{
    (void)dst, (void)src, (void)eps;
    double n = (double)B * (T - t0) * C;
    struct launch launch = {.flops = 4 * n,
                            .bytes = n * (4 + size_of(d, dst_type)) + (weight ? 4.0 * C : 0)};
    return count(d, launch, "rms_norm");
}

static imf_status attention(struct imf__device *d, void *dst, const void *qkv, const float *q_norm,
                            const float *k_norm, const float *rope, int B, int T, int NH, int HS)
{
    (void)dst, (void)qkv, (void)q_norm, (void)k_norm, (void)rope;
    double heads = (double)B * NH, n = heads * T * HS;
    double useful = 4 * heads * T * T * HS;
    /* Queries by 16 a warp, keys by 32; K and V are read again only where a head does not fit. */
    double rereads = T > (HS > 64 ? 288 : 384) && narrow(d) ? (T + 95) / 96 : 1;
    struct launch launch = {
        .flops = narrow(d) ? 4 * heads * round_up(T, 16) * round_up(T, 32) * HS : useful,
        .useful = useful,
        .bytes = (n * (1 + 2 * rereads) + n) * act(d) + 4.0 * T * HS,
        .work = narrow(d) ? IMF__ATTENTION : IMF__PLAIN,
    };
    return count(d, launch, "attention");
}

static imf_status scalar_embed(struct imf__device *d, float *dst, const float *values, int rows)
{
    (void)dst, (void)values;
    struct launch launch = {.bytes = rows * 4.0 * 257};
    return count(d, launch, "embed");
}

static imf_status patchify(struct imf__device *d, void *dst, enum imf__dtype dst_type,
                           const float *z, int B, int C, int S, int p)
{
    (void)dst, (void)z, (void)p;
    struct launch launch = {.bytes = (4.0 + size_of(d, dst_type)) * B * C * S * S};
    return count(d, launch, "embed");
}

static imf_status assemble(struct imf__device *d, float *x, const float *tokens,
                           const float *classes, const int32_t *labels, const float *scalars,
                           const float *patches, const float *positions, int B, int P, int D)
{
    (void)x, (void)tokens, (void)classes, (void)labels, (void)scalars, (void)patches;
    struct launch launch = {.bytes = 4.0 * D * (B * (20.0 + 2 * P + 5) + 20 + (positions ? P : 0))};
    return count(d, launch, "assemble");
}

static imf_status euler(struct imf__device *d, float *z, const float *out, bool predicts_x,
                        const float *dt, int B, int C, int S, int p)
{
    (void)z, (void)out, (void)predicts_x, (void)dt, (void)p;
    struct launch launch = {.bytes = 12.0 * B * C * S * S, .flops = 2.0 * B * C * S * S};
    return count(d, launch, "euler");
}

static imf_status attention_single(struct imf__device *d, float *dst, const float *q,
                                   const float *k, const float *v, int n, int T, int C)
{
    (void)dst, (void)q, (void)k, (void)v;
    double flat = (double)n * T * C, square = (double)n * T * T;
    struct launch scores = {
        .flops = 2 * square * C, .bytes = 8 * flat + 4 * square, .work = IMF__PLAIN};
    struct launch softmax = {.bytes = 8 * square, .flops = 4 * square};
    struct launch weighted = {
        .flops = 2 * square * C, .bytes = 4 * square + 8 * flat, .work = IMF__PLAIN};
    IMF_TRY(count(d, scores, "VAE attention"));
    IMF_TRY(count(d, softmax, "VAE attention"));
    return count(d, weighted, "VAE attention");
}

/* ---- pictures ---- */

static double pixels_of(const struct imf__image *img)
{
    return (double)img->n * img->h * img->w;
}

static double bytes_of(const struct imf__device *d, const struct imf__image *img)
{
    return pixels_of(img) * round_up(img->c, 8) * (img->f32 ? 4.0 : act(d));
}

static size_t image_bytes(const struct imf__device *d, const struct imf__image *img)
{
    return (size_t)bytes_of(d, img);
}

/* What every operation says that writes pixels and no statistics. */
static void forget_statistics(struct imf__image *img)
{
    img->norm_groups = img->norm_strips = 0;
}

static imf_status image_from_latent(struct imf__device *d, struct imf__image *dst, const float *z,
                                    const float *scale, const float *shift, bool clamp3)
{
    (void)z, (void)scale, (void)shift, (void)clamp3;
    forget_statistics(dst);
    struct launch launch = {.bytes = pixels_of(dst) * dst->c * 4 + bytes_of(d, dst)};
    return count(d, launch, "image_from_latent");
}

/* FLOPs that the tensor-core kernels execute: whole tiles of pixels, channels and k. */
static double conv_flops(const struct imf__device *d, const struct imf__conv_desc *s,
                         const struct imf__image *dst)
{
    int in = round_up(s->in, 8), taps = s->kh * s->kw;
    if (!narrow(d))
        return 2.0 * pixels_of(dst) * s->out * s->in * taps;
    bool tiled = s->kh == 3 && s->kw == 3 && s->stride == 1 && s->pad_h == 1 && s->pad_w == 1;
    if (tiled) {
        int columns = s->out <= 16 ? 16 : s->out <= 64 ? 64 : 128;
        double channels = 2.0 * dst->n * round_up(s->out, columns) * round_up(in, 16);
        if (s->upsample2x) /* four parities, 2 x 2 taps each, over the input's pixels */
            return channels * round_up(s->in_h, 16) * round_up(s->in_w, 16) * 16;
        return channels * round_up(dst->h, 16) * round_up(dst->w, 16) * taps;
    }
    double tiles = (pixels_of(dst) + 127) / 128;
    return 2.0 * (double)(long long)tiles * 128 * round_up(s->out, 64) * round_up(taps * in, 32);
}

/* Strips of the statistics that a convolution leaves for group_norm, as k_conv3x3_strips. */
static int norm_strips(const struct imf__device *d, const struct imf__conv_desc *s)
{
    bool tiled = s->kh == 3 && s->kw == 3 && s->stride == 1 && s->pad_h == 1 && s->pad_w == 1;
    int columns = s->out <= 16 ? 16 : s->out <= 64 ? 64 : 128, groups = s->norm_groups;
    if (!narrow(d) || !tiled || s->f32_out || groups < 1 || s->out % groups != 0 ||
        s->out / groups % 4 != 0 || columns % (s->out / groups) != 0)
        return 0;
    return (s->in_h + 15) / 16 * ((s->in_w + 15) / 16) * (s->upsample2x ? 4 : 1);
}

static imf_status conv2d(struct imf__device *d, struct imf__image *dst,
                         const struct imf__image *src, const struct imf__conv *w,
                         const struct imf__image *residual)
{
    const struct imf__conv_desc *s = &w->desc;
    double taps = s->kh * s->kw;
    dst->norm_strips = norm_strips(d, s);
    dst->norm_groups = dst->norm_strips ? s->norm_groups : 0;
    double statistics = 16.0 * dst->n * dst->norm_strips * dst->norm_groups;
    bool summed = narrow(d) && s->upsample2x && s->kh == 3 && s->kw == 3;
    struct launch launch = {
        .flops = conv_flops(d, s, dst),
        .useful = 2 * pixels_of(dst) * s->out * s->in * (summed ? 4 : taps),
        .bytes = bytes_of(d, src) + bytes_of(d, dst) + (residual ? bytes_of(d, dst) : 0) +
                 (summed ? 16 : taps) * round_up(s->in, 8) * s->out * act(d) + statistics,
        .work = narrow(d) ? IMF__CONV : IMF__PLAIN,
    };
    return count(d, launch, "conv %dx%d at %d x %d", s->kh, s->kw, dst->h, dst->w);
}

static imf_status group_norm(struct imf__device *d, struct imf__image *dst,
                             const struct imf__image *src, const float *gamma, const float *beta,
                             int groups, float eps, bool silu)
{
    (void)gamma, (void)beta, (void)eps, (void)silu;
    int strip = 32768 / round_up(src->c, 8) ? 32768 / round_up(src->c, 8) : 1;
    bool gathered = src->norm_groups == groups;
    int strips = gathered ? src->norm_strips : (src->h * src->w + strip - 1) / strip;
    double partial = 16.0 * src->n * strips * groups, scales = 8.0 * src->n * round_up(src->c, 8);
    double elements = pixels_of(src) * src->c;
    struct launch statistics = {.bytes = bytes_of(d, src) + partial, .flops = 3 * elements};
    struct launch combine = {.bytes = partial + scales + 8.0 * src->c};
    struct launch apply = {.bytes = bytes_of(d, src) + bytes_of(d, dst) + scales,
                           .flops = 6 * elements};
    forget_statistics(dst);
    if (!gathered)
        IMF_TRY(count(d, statistics, "group_norm at %d x %d", dst->h, dst->w));
    IMF_TRY(count(d, combine, "group_norm at %d x %d", dst->h, dst->w));
    return count(d, apply, "group_norm at %d x %d", dst->h, dst->w);
}

static imf_status pool2d(struct imf__device *d, struct imf__image *dst,
                         const struct imf__image *src, enum imf__pool kind, int k, int stride,
                         int pad)
{
    (void)kind, (void)stride, (void)pad;
    forget_statistics(dst);
    struct launch launch = {.bytes = bytes_of(d, src) + bytes_of(d, dst),
                            .flops = pixels_of(dst) * dst->c * k * k};
    return count(d, launch, "pool");
}

static imf_status concat(struct imf__device *d, struct imf__image *dst,
                         const struct imf__image *src, int c0)
{
    (void)c0;
    forget_statistics(dst);
    struct launch launch = {.bytes = 2 * bytes_of(d, src)};
    return count(d, launch, "concat");
}

static imf_status image_to_tokens(struct imf__device *d, float *dst, const struct imf__image *src)
{
    (void)dst;
    struct launch launch = {.bytes = bytes_of(d, src) + 4 * pixels_of(src) * src->c};
    return count(d, launch, "tokens and images");
}

static imf_status tokens_to_image(struct imf__device *d, struct imf__image *dst, const float *src,
                                  bool add)
{
    (void)src;
    forget_statistics(dst);
    struct launch launch = {.bytes =
                                bytes_of(d, dst) * (add ? 2 : 1) + 4 * pixels_of(dst) * dst->c};
    return count(d, launch, "tokens and images");
}

static imf_status global_mean(struct imf__device *d, float *dst, const struct imf__image *src)
{
    (void)dst;
    struct launch launch = {.bytes = bytes_of(d, src) + 4.0 * src->n * src->c};
    return count(d, launch, "global_mean");
}

static imf_status resize_rgb8(struct imf__device *d, struct imf__image *dst, const uint8_t *rgb,
                              int n, int H, int W)
{
    (void)rgb;
    forget_statistics(dst);
    struct launch launch = {.bytes = 3.0 * n * H * W + bytes_of(d, dst)};
    return count(d, launch, "resize_rgb8");
}

static imf_status to_rgb8(struct imf__device *d, uint8_t *rgb, const struct imf__image *src,
                          float scale, float shift)
{
    (void)rgb, (void)scale, (void)shift;
    struct launch launch = {.bytes = bytes_of(d, src) + 3 * pixels_of(src)};
    return count(d, launch, "to_rgb8");
}

static imf_status matmul_rate(struct imf__device *d, double *flops_per_second)
{
    const struct imf__gpu *gpu = imf__roofline_gpu(d);
    *flops_per_second = narrow(d) ? gpu->bf16_flops : gpu->f32_flops;
    return IMF_OK;
}

static const struct imf__device_ops ops = {
    .destroy = destroy,
    .alloc = alloc,
    .free = release,
    .upload = upload,
    .download = download,
    .sync = sync_device,
    .graph_run = graph_run,
    .graph_free = graph_free,
    .linear_load = linear_load,
    .linear_free = linear_free,
    .swiglu_load = swiglu_load,
    .swiglu_free = swiglu_free,
    .conv_load = conv_load,
    .conv_free = conv_free,
    .linear = linear,
    .swiglu = swiglu,
    .rms_norm = rms_norm,
    .attention = attention,
    .scalar_embed = scalar_embed,
    .patchify = patchify,
    .assemble = assemble,
    .euler = euler,
    .attention_single = attention_single,
    .image_bytes = image_bytes,
    .image_from_latent = image_from_latent,
    .conv2d = conv2d,
    .group_norm = group_norm,
    .pool2d = pool2d,
    .concat = concat,
    .image_to_tokens = image_to_tokens,
    .tokens_to_image = tokens_to_image,
    .global_mean = global_mean,
    .resize_rgb8 = resize_rgb8,
    .to_rgb8 = to_rgb8,
    .matmul_rate = matmul_rate,
};

imf_status imf__roofline_device_create(struct imf__device **out, const char *gpu,
                                       enum imf_precision precision, struct imf_error *err)
{
    const char *names;
    const struct imf__gpu *found = gpu_find(gpu, &names);
    if (!found)
        return imf__fail(err, IMF_EINVAL, "no figures are known for a GPU named \"%.60s\"; try %s",
                         gpu, names);
    struct roofline *r = calloc(1, sizeof(*r));
    if (!r)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    bool fp32 = precision == IMF_PRECISION_FP32;
    r->base.ops = &ops;
    r->base.precision = fp32 ? IMF_PRECISION_FP32 : IMF_PRECISION_BF16;
    r->base.act_size = fp32 ? 4 : 2;
    r->base.decode_batch = 8; /* as the CUDA device */
    r->base.feature_multiple = 16;
    r->gpu = found;
    r->next_address = (uintptr_t)1 << 40;
    snprintf(r->base.info.device, sizeof(r->base.info.device), "roofline:%s", found->name);
    snprintf(r->base.info.description, sizeof(r->base.info.description), "%s (predicted)",
             found->describe);
    r->base.info.precision = r->base.precision;
    r->base.info.threads = 1;
    *out = &r->base;
    return IMF_OK;
}
