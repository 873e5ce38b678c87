/* Running one operation of the case table on some device: seeded inputs, buffers full of garbage,
 * and the result as floats. Shared by op_run.c, op_tokens.c, op_images.c and op_check.c. */
#ifndef IMF__OP_RUN_H
#define IMF__OP_RUN_H

#include "reference/reference.h"

enum { OP_PARAMS = 14, OP_HELD = 16 };

struct imf__op_run;

struct imf__op_case {
    const struct imf__op *op;
    int p[OP_PARAMS];
    bool rare; /* no model has this shape: IMF_EUNSUPPORTED is an answer */
};

struct imf__op {
    const char *name;
    const char *params; /* names of p[], separated by spaces */
    imf_status (*run)(struct imf__op_run *r, const int *p);
    bool levels; /* the result is 8-bit levels: compared by level, not by relative error */
};

struct imf__op_run {
    struct imf__device *d;
    const uint64_t *seeds; /* of each sample */
    int B;
    /* Result, one sample after the other. */
    float *result;
    size_t count;
    const char *complaint; /* what went wrong beside values, e.g. a write past the end; or NULL */
    /* Everything to free afterwards. */
    void *host[OP_HELD], *device[OP_HELD];
    int n_host, n_device;
    struct imf__linear *linear;
    struct imf__swiglu *swiglu;
    struct imf__conv *conv;
};

#define CASE(op, ...)                                                                              \
    {                                                                                              \
        &op, {__VA_ARGS__}, false                                                                  \
    }
#define RARE(op, ...)                                                                              \
    {                                                                                              \
        &op, {__VA_ARGS__}, true                                                                   \
    }

/* Tables; op is NULL at the end. */
extern const struct imf__op_case imf__op_token_cases[], imf__op_image_cases[];

/* Runs a case; the caller takes r->result. Everything else is freed. */
imf_status imf__op_run(struct imf__op_run *r, const struct imf__op_case *c);

/* n values of variance about amplitude^2, the same for the same seed and tag everywhere. act: they
 * are bfloat16 numbers, so that both precisions start from the same values. */
imf_status imf__op_values(struct imf__op_run *r, float **out, uint64_t seed, int tag, size_t n,
                          float amplitude, bool act);
/* per_sample values for each sample, seeded by the sample. */
imf_status imf__op_samples(struct imf__op_run *r, float **out, int tag, size_t per_sample,
                           float amplitude, bool act);
/* Device copy of n host floats, as float32 or act. */
imf_status imf__op_upload(struct imf__op_run *r, void **out, const float *src, size_t n,
                          enum imf__dtype type);
imf_status imf__op_upload_bytes(struct imf__op_run *r, void **out, const void *src, size_t bytes);
/* Rows for products (IMF__ACT) from and to host floats, by operations that copy numbers exactly:
 * patches of one pixel, and a product with ones on the diagonal. */
imf_status imf__act_put(struct imf__device *d, void *dst, const float *src, size_t rows, size_t K);
imf_status imf__act_get(struct imf__device *d, float *dst, const void *src, size_t rows, size_t K);
/* (rows, K) as imf__op_upload, imf__op_output and imf__op_take have n elements. */
imf_status imf__op_upload_rows(struct imf__op_run *r, void **out, const float *src, size_t rows,
                               size_t K, enum imf__dtype type);
imf_status imf__op_output_rows(struct imf__op_run *r, void **out, size_t rows, size_t K,
                               enum imf__dtype type);
imf_status imf__op_take_rows(struct imf__op_run *r, const void *src, size_t rows, size_t K,
                             enum imf__dtype type);
/* Device memory for n elements full of garbage, guarded behind its end. */
imf_status imf__op_output(struct imf__op_run *r, void **out, size_t n, enum imf__dtype type);
/* Downloads n elements from imf__op_output's memory as the result and checks the guard. */
imf_status imf__op_take(struct imf__op_run *r, const void *src, size_t n, enum imf__dtype type);
/* The same for bytes. */
imf_status imf__op_take_levels(struct imf__op_run *r, const uint8_t *src, size_t n);

/* Image of garbage; image holding (n, h, w, c) values; an image as result. */
imf_status imf__op_image(struct imf__op_run *r, struct imf__image *img);
imf_status imf__op_image_load(struct imf__op_run *r, struct imf__image *img, const float *values);
imf_status imf__op_image_take(struct imf__op_run *r, const struct imf__image *img);

/* Once dry, then for real, as models do. */
#define OP_CALL(r, call)                                                                           \
    do {                                                                                           \
        (r)->d->dry = true;                                                                        \
        imf_status op__status = (call);                                                            \
        (r)->d->dry = false;                                                                       \
        if (op__status == IMF_OK)                                                                  \
            op__status = (call);                                                                   \
        if (op__status != IMF_OK)                                                                  \
            return op__status;                                                                     \
    } while (0)

#endif
