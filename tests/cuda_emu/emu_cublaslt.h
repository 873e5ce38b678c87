/* What the emulated cuBLASLt keeps in the library's opaque structures, and its matrix product. */
#ifndef EMU_CUBLASLT_H
#define EMU_CUBLASLT_H

#include "emu_internal.h"
#include "cublasLt.h"

struct layout {
    uint32_t type, order;
    uint64_t rows, cols;
    int64_t ld;
    int32_t batch;
    int64_t stride;
};
static_assert(sizeof(struct layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "fits");

struct desc {
    int32_t compute, scale, pointer_mode, transa, transb, transc, fill;
    uint32_t epilogue;
    const void *bias;
    int64_t bias_stride;
    int32_t bias_type;
};
static_assert(sizeof(struct desc) <= sizeof(cublasLtMatmulDescOpaque_t), "fits");

struct preference {
    uint64_t workspace;
    uint32_t reduction_mask, min_align[4];
};
static_assert(sizeof(struct preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "fits");

/* One call, complete. */
struct product {
    struct layout a, b, c, d;
    struct desc desc;
    const void *pa, *pb, *pc;
    void *pd;
    float alpha, beta;
    uint64_t chunk;
};

static inline size_t element(uint32_t type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

/* Checks the operands, multiplies, counts (emu_matmul.cpp); runs when the stream comes to it. */
cudaError_t emu_run_product(const struct product &g);

#endif
