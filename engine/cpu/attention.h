/* Attention (kernels.h), one set of functions per instruction set. */
#ifndef IMF__CPU_ATTENTION_H
#define IMF__CPU_ATTENTION_H

#include "cpu/kernels.h"
#include "common/vector.h"

void IMF__ISA_NAME(imf__attention_head)(void *dst, const void *qkv, size_t first, bool packed,
                                        bool bf16, const float *q_norm, const float *k_norm,
                                        const float *rope, int T, int NH, int HS, int head,
                                        void *work);
size_t IMF__ISA_NAME(imf__attention_work)(int T, int HS, bool bf16);
extern const struct imf__single_attention IMF__ISA_NAME(imf__single_attention);

#endif
