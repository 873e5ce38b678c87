/* NumPy's .npy files, whole arrays in memory: latents out, golden data in. C order, little-endian.
 * (Statistics in .npz archives are npz.h's.) */
#ifndef IMF__NPY_H
#define IMF__NPY_H

#include "imf.h"

#define IMF__NPY_MAX_DIMS 8

enum imf__npy_type {
    IMF__NPY_F32, /* '<f4' */
    IMF__NPY_F64, /* '<f8' */
    IMF__NPY_F16, /* '<f2', as uint16_t */
    IMF__NPY_U8,  /* '|u1' */
    IMF__NPY_I32, /* '<i4' */
    IMF__NPY_I64, /* '<i8' */
    IMF__NPY_OTHER
};

struct imf__npy {
    enum imf__npy_type type;
    int ndim;
    int64_t shape[IMF__NPY_MAX_DIMS];
    size_t count; /* product of shape */
    union {
        void *data; /* owned; imf__npy_free */
        float *f32;
        double *f64;
        uint16_t *f16;
        uint8_t *u8;
        int32_t *i32;
        int64_t *i64;
    };
};

/* What stands before the values. */
struct imf__npy_header {
    enum imf__npy_type type;
    char descr[32];  /* the dtype as written, for messages */
    bool big_endian; /* of a type above */
    bool fortran;    /* Fortran order, of two dimensions or more */
    int ndim;
    int64_t shape[IMF__NPY_MAX_DIMS];
    uint64_t count; /* product of shape, checked not to overflow */
    uint64_t bytes; /* of the values; 0 for IMF__NPY_OTHER */
};

/* Reads a header off a stream, which is then at the first value. An error goes behind the name of
 * the file or array: "is not a NumPy array". */
struct imf__zip_stream;
IMF_MUST_CHECK imf_status imf__npy_read_header(struct imf__npy_header *h, struct imf__zip_stream *s,
                                               struct imf_error *err);

/* Every size is checked before memory is asked for: the file must hold exactly what its header
 * says. Fortran order, big-endian and other types are refused by name. */
IMF_MUST_CHECK imf_status imf__npy_load(struct imf__npy *out, const char *path,
                                        struct imf_error *err);
void imf__npy_free(struct imf__npy *a); /* zeroed structs are fine */
/* What comes before the values (format 1.0), padded with blanks so that they begin at a multiple of
 * 64 bytes. Returns its length. At most eight dimensions. */
#define IMF__NPY_HEADER 512
size_t imf__npy_header(char header[IMF__NPY_HEADER], enum imf__npy_type type, int ndim,
                       const int64_t *shape);
/* The file appears under its name when it is complete. `data` has prod(shape) elements. */
IMF_MUST_CHECK imf_status imf__npy_save(const char *path, enum imf__npy_type type, int ndim,
                                        const int64_t *shape, const void *data,
                                        struct imf_error *err);

#endif
