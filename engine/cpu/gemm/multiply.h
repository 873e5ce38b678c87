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

/* dst = src (rows, K) bfloat16 times the matrix. Prepares while the device is dry. */
imf_status imf__gemm_multiply(struct cpu_device *cpu, void *dst, bool bf16, const uint16_t *src,
                              const struct gemm_matrix *m, int rows, enum gemm_epilogue epilogue);

#endif
