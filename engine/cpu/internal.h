/* Inside the CPU device: what its files share. */
#ifndef IMF__CPU_H
#define IMF__CPU_H

#include "device.h"
#include "cpu/gemm/gemm.h"
#include "cpu/kernels.h"
#include "cpu/tasks.h"

#include <dnnl.h>

/* Work memory that grows only while models load (dry runs), one block per purpose, so that two uses
 * inside one operation never overlap. */
enum cpu_scratch {
    CPU_SCRATCH_DNNL,    /* oneDNN's user scratchpad */
    CPU_SCRATCH_TENSOR,  /* an operation's own intermediate tensor */
    CPU_SCRATCH_THREADS, /* attention work, a piece per thread */
    CPU_SCRATCH_SUMS,    /* group_norm's partial sums */
    CPU_SCRATCH_ROWS,    /* a product's rows, packed or padded */
    CPU_SCRATCH_COUNT
};

struct cpu_matmul; /* a prepared matrix multiplication for one shape */

struct cpu_device {
    struct imf__device base;
    const struct imf__cpu_kernels *k;
    const struct gemm_kernel *gemm; /* our own bfloat16 products; NULL: oneDNN's */
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    int threads;
    struct cpu_tasks tasks;
    bool reproducible;  /* the same bits for any number of threads: no Winograd */
    bool row_invariant; /* matrix products of any number of rows give a row the same bits */
    bool blocked; /* images are float32 nChw16c, where Winograd convolutions live; else NHWC act */
    struct {
        void *p;
        size_t size;
    } scratch[CPU_SCRATCH_COUNT];
    struct cpu_matmul *matmuls; /* linked list, shared by all weights of equal shape */
};

static inline struct cpu_device *cpu_of(struct imf__device *d)
{
    return (struct cpu_device *)d;
}

static inline bool cpu_bf16(const struct cpu_device *cpu)
{
    return cpu->base.precision == IMF_PRECISION_BF16;
}

/* Whether rows for products (IMF__ACT) lie in panels (cpu/gemm/gemm.h); else row by row. */
static inline bool cpu_packs(const struct cpu_device *cpu)
{
    return cpu->gemm != NULL;
}

static inline size_t cpu_round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Left to the libraries: oneDNN (for its kernels) and OpenMP (for its threads' stacks) do not survive
 * an allocation that fails. */
#define CPU_LIBRARIES_BYTES ((size_t)96 << 20)

/* memory.c. Zeroed memory on whole pages, huge ones where the kernel has them and it is long enough;
 * NULL when there is none. free() takes it. */
void *cpu_memory_alloc(size_t bytes);
/* The same for matrices that stay, which share huge pages; from any thread. */
void *cpu_weights_alloc(size_t bytes);
void cpu_weights_free(void *p); /* NULL is fine */
/* What may be allocated under the resource limits; SIZE_MAX: any number of bytes. */
size_t cpu_memory_limit(void);

/* Makes the block at least `bytes` long; what it held is lost when it grows. */
imf_status cpu_scratch_reserve(struct cpu_device *cpu, enum cpu_scratch which, size_t bytes);
static inline void *cpu_scratch(const struct cpu_device *cpu, enum cpu_scratch which)
{
    return cpu->scratch[which].p;
}

/* Records a failure of the device as a sentence and returns IMF_EDEVICE. */
imf_status cpu_fail(struct cpu_device *cpu, const char *what, dnnl_status_t status);

#define DNNL_TRY(cpu, call)                                                                        \
    do {                                                                                           \
        dnnl_status_t dnnl_try_status = (call);                                                    \
        if (dnnl_try_status != dnnl_success)                                                       \
            return cpu_fail(cpu, #call, dnnl_try_status);                                          \
    } while (0)

/* A primitive's description with these post-operations. The scratchpad is always ours: oneDNN's own
 * is not safe between threads, and memory is planned at load. */
dnnl_status_t cpu_primitive_desc(struct cpu_device *cpu, dnnl_primitive_desc_t *pd,
                                 const_dnnl_op_desc_t desc, const_dnnl_post_ops_t ops);

/* Repacks host float32 data into the layout of `packed`, in memory that the caller owns and frees
 * after destroying *out. */
imf_status cpu_pack(struct cpu_device *cpu, dnnl_memory_t *out, void **data,
                    const dnnl_memory_desc_t *packed, const dnnl_memory_desc_t *plain,
                    const float *src);

/* gemm_multiply.c */
size_t cpu_act_bytes(const struct imf__device *d, size_t rows, size_t K);

/* matmul.c */
imf_status cpu_linear_load(struct imf__device *d, struct imf__linear **out, enum imf__dtype type,
                           const float *weight, const float *bias, int N, int K);
void cpu_linear_free(struct imf__device *d, struct imf__linear *w);
imf_status cpu_swiglu_load(struct imf__device *d, struct imf__swiglu **out, const float *w1,
                           const float *w3, int M, int K);
void cpu_swiglu_free(struct imf__device *d, struct imf__swiglu *w);
imf_status cpu_linear(struct imf__device *d, void *dst, enum imf__dtype dst_type, const void *src,
                      const struct imf__linear *w, int rows, enum imf__epilogue epilogue);
imf_status cpu_swiglu(struct imf__device *d, void *dst, const void *src,
                      const struct imf__swiglu *w, int rows);
imf_status cpu_attention_single(struct imf__device *d, float *dst, const float *q, const float *k,
                                const float *v, int n, int T, int C);
imf_status cpu_attention_picture(struct imf__device *d, struct imf__image *dst,
                                 const struct imf__image *qkv);
imf_status cpu_matmul_rate(struct imf__device *d, double *flops_per_second);
imf_status cpu_peak_rate(struct imf__device *d, double *flops_per_second);
void cpu_matmuls_free(struct cpu_device *cpu);
bool cpu_matmul_is_row_invariant(struct cpu_device *cpu);

/* conv.c */
imf_status cpu_conv_load(struct imf__device *d, struct imf__conv **out,
                         const struct imf__conv_desc *desc, const float *weight, const float *bias);
void cpu_conv_free(struct imf__device *d, struct imf__conv *w);
imf_status cpu_conv2d(struct imf__device *d, struct imf__image *dst, const struct imf__image *src,
                      const struct imf__conv *w, const struct imf__image *residual);
bool cpu_winograd_available(struct cpu_device *cpu);

/* tokens.c */
imf_status cpu_rms_norm(struct imf__device *d, void *dst, enum imf__dtype dst_type,
                        const float *src, const float *weight, int B, int T, int t0, int C,
                        float eps);
imf_status cpu_attention(struct imf__device *d, void *dst, const void *qkv, const float *q_norm,
                         const float *k_norm, const float *rope, int B, int T, int NH, int HS);
imf_status cpu_scalar_embed(struct imf__device *d, float *dst, const float *values, int rows);
imf_status cpu_patchify(struct imf__device *d, void *dst, enum imf__dtype dst_type, const float *z,
                        int B, int C, int S, int p);
imf_status cpu_assemble(struct imf__device *d, float *x, const float *tokens, const float *classes,
                        const int32_t *labels, const float *scalars, const float *patches,
                        const float *positions, int B, int P, int D);
imf_status cpu_euler(struct imf__device *d, float *z, const float *out, bool predicts_x,
                     const float *dt, int B, int C, int S, int p);

/* images.c */
size_t cpu_image_bytes(const struct imf__device *d, const struct imf__image *img);
/* Where the layout has one: zeros all around each plane. */
void cpu_image_clear_border(const struct cpu_device *cpu, struct imf__image *img);
imf_status cpu_image_from_latent(struct imf__device *d, struct imf__image *dst, const float *z,
                                 const float *scale, const float *shift, bool clamp3);
imf_status cpu_group_norm(struct imf__device *d, struct imf__image *dst,
                          const struct imf__image *src, const float *gamma, const float *beta,
                          int groups, float eps, bool silu);
imf_status cpu_pool2d(struct imf__device *d, struct imf__image *dst, const struct imf__image *src,
                      enum imf__pool kind, int k, int stride, int pad);
imf_status cpu_concat(struct imf__device *d, struct imf__image *dst, const struct imf__image *src,
                      int c0);
imf_status cpu_image_to_tokens(struct imf__device *d, float *dst, const struct imf__image *src);
imf_status cpu_tokens_to_image(struct imf__device *d, struct imf__image *dst, const float *src,
                               bool add);
imf_status cpu_global_mean(struct imf__device *d, float *dst, const struct imf__image *src);
imf_status cpu_resize_rgb8(struct imf__device *d, struct imf__image *dst, const uint8_t *rgb, int n,
                           int H, int W);
imf_status cpu_to_rgb8(struct imf__device *d, uint8_t *rgb, const struct imf__image *src,
                       float scale, float shift);

#endif
