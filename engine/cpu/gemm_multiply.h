/* Whole matrices on our own products, over the device's threads. */
#ifndef IMF__CPU_GEMM_MULTIPLY_H
#define IMF__CPU_GEMM_MULTIPLY_H

#include "cpu/gemm/gemm.h"
#include "cpu/internal.h"

struct gemm_matrix; /* packed weights */

/* weight (N, K), bias (N) or NULL. With `other`, a second matrix (N, K), their columns alternate in
 * groups of 16, for GEMM_SWIGLU. NULL without memory. */
struct gemm_matrix *imf__gemm_matrix_create(struct cpu_device *cpu, const float *weight,
                                            const float *other, const float *bias, int N, int K);
void imf__gemm_matrix_free(struct gemm_matrix *m); /* NULL is fine */

/* dst = src (rows, K) IMF__ACT times the matrix. Prepares while the device is dry. */
imf_status imf__gemm_multiply(struct cpu_device *cpu, void *dst, enum imf__dtype dst_type,
                              const uint16_t *src, const struct gemm_matrix *m, int rows,
                              enum gemm_epilogue epilogue);

/* How a product of so many panels of B and strips of A is cut into tasks. */
struct gemm_tasks {
    int columns, rows; /* panels and strips of a task; the last may have fewer */
    int column_tasks, row_tasks;
};
struct gemm_tasks imf__gemm_tasks(int panels, int strips, size_t panel_bytes, int threads);

/* ---- Convolutions (gemm_conv.c) ----
 *
 * Pictures lie in blocks of 32 channels with a border of zeros: (C / 32, h + 2 border, w + 2
 * border, 32). Sixteen neighbouring pixels of one block are a tile of A as they lie, for every tap
 * of a kernel; a convolution is a product whose K runs over taps and blocks. */
#define GEMM_BORDER 3 /* the widest padding of any model: InceptionV3's 7 x 1 */

struct gemm_conv;

/* Weights (out, in, kh, kw), bias (out) or NULL. IMF_EUNSUPPORTED where padding is wider than the
 * border. */
imf_status imf__gemm_conv_load(struct cpu_device *cpu, struct gemm_conv **out,
                               const struct imf__conv_desc *desc, const float *weight,
                               const float *bias);
void imf__gemm_conv_free(struct gemm_conv *w); /* NULL is fine */
/* Pictures as they lie; residual NULL or one of dst's size. Borders of dst are written too. */
imf_status imf__gemm_conv_run(struct cpu_device *cpu, struct imf__image *dst,
                              const struct imf__image *src, const struct gemm_conv *w,
                              const struct imf__image *residual);

#endif
