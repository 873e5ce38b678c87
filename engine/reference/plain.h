/* Shared inside the plain device: its element types and packed weights. */
#ifndef IMF__PLAIN_H
#define IMF__PLAIN_H

#include "reference/reference.h"

struct imf__linear {
    enum imf__dtype type;
    int N, K;
    float *weight; /* (N, K), rounded to bfloat16 where type is ACT and the precision BF16 */
    float *bias;   /* (N) or NULL */
};

struct imf__swiglu {
    int M, K;
    float *w1, *w3; /* (M, K) */
};

struct imf__conv {
    struct imf__conv_desc desc;
    float *weight; /* (out, kh, kw, in) */
    float *bias;   /* (out) or NULL */
};

/* Elements of an act (or f32) array. */
float imf__plain_get(const struct imf__device *d, enum imf__dtype type, const void *p, size_t i);
void imf__plain_set(const struct imf__device *d, enum imf__dtype type, void *p, size_t i,
                    double value);
/* What storing a value as act does to it. */
double imf__plain_act(const struct imf__device *d, double value);
/* Copy of n floats, rounded as act when asked; NULL without memory. Counted as weights. */
float *imf__plain_copy(struct imf__device *d, const float *src, size_t n, bool act);

/* plain_tokens.c and plain_images.c: their entries of the table. */
void imf__plain_fill_tokens(struct imf__device_ops *ops);
void imf__plain_fill_images(struct imf__device_ops *ops);

#endif
