/* Which of cuBLASLt's algorithms a product runs by; gemm.c and gemm_plan.c only. */
#ifndef IMF__CUDA_GEMM_PLAN_H
#define IMF__CUDA_GEMM_PLAN_H

#include "internal.h"

/* The choice for one shape; all products of the shape share it. */
struct cuda_gemm_plan {
    struct cuda_gemm_plan *next;
    struct cuda_gemm_shape shape; /* its bias is not looked at, only whether there is one */
    bool usable;                  /* false: cuBLASLt has no algorithm that suits us */
    cublasLtMatmulAlgo_t many, few;
    int few_rows; /* up to so many rows run by `few`; 0: none do */
    int most;     /* rows whose bits have been compared with those of fewer rows */
    int wanted;   /* rows that dry runs asked for */
};

struct cuda_gemm {
    struct cuda_gemm_shape shape;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    struct cuda_gemm_plan *plan;
    int n, batch; /* what the layouts say now */
};

static inline const cublasLtMatmulAlgo_t *cuda_gemm_algorithm(const struct cuda_gemm_plan *p, int n)
{
    return n <= p->few_rows ? &p->few : &p->many;
}

/* Finds or makes the plan for g's shape. */
imf_status cuda_gemm_plan_for(struct cuda_device *c, struct cuda_gemm *g);
/* Has the layouts say this size. */
imf_status cuda_gemm_resize(struct cuda_device *c, struct cuda_gemm *g, int n, int batch);
/* Whether cuBLASLt would run this size by `algo`. */
bool cuda_gemm_takes(struct cuda_device *c, struct cuda_gemm *g, const cublasLtMatmulAlgo_t *algo,
                     int n, int batch);
imf_status cuda_gemm_run_by(struct cuda_device *c, struct cuda_gemm *g,
                            const cublasLtMatmulAlgo_t *algo, void *D, const void *A, const void *B,
                            int n, int batch, float alpha);
imf_status cuda_fill_rows(struct cuda_device *c, void *memory, enum k_type type, int64_t row,
                          int64_t rows, float sign);

#endif
