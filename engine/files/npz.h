/* NumPy archives (.npz, stored or deflated, zip64 included) and single arrays (.npy): enough to
 * read reference statistics and to write them. Values are float32 or float64, of either endianness
 * and order; anything else is refused by name. Every size in the file is checked before it is used.
 *
 * Threads: an archive is used by one thread at a time.
 *
 * The engine's own, and its tools': a program that serves needs imf.h alone. */
#ifndef IMF__NPZ_H
#define IMF__NPZ_H

#include "imf.h"

#define IMF__NPZ_MAX_DIMS 8
#define IMF__NPZ_MAX_ARRAYS 64

struct imf__npz; /* opaque */

struct imf__npz_array {
    char name[128]; /* without ".npy"; "" when the file is a bare .npy */
    bool is_double; /* float64, else float32 */
    int ndim;
    uint64_t shape[IMF__NPZ_MAX_DIMS];
    uint64_t count; /* product of shape, checked not to overflow */
};

/* Opens and reads the directory of the archive and the header of every array. */
IMF_MUST_CHECK imf_status imf__npz_open(struct imf__npz **out, const char *path,
                                        struct imf_error *err);
void imf__npz_close(struct imf__npz *z); /* NULL is fine */
size_t imf__npz_count(const struct imf__npz *z);
const struct imf__npz_array *imf__npz_at(const struct imf__npz *z, size_t i);
/* NULL when missing. Arrays of other types than float32 and float64 are there with count 0. */
const struct imf__npz_array *imf__npz_find(const struct imf__npz *z, const char *name);

/* All values, converted when the stored type is the other one; dst holds a->count elements. The
 * archive's checksum is verified. NaN and infinity are refused. */
IMF_MUST_CHECK imf_status imf__npz_read_double(struct imf__npz *z, const struct imf__npz_array *a,
                                               double *dst, struct imf_error *err);
IMF_MUST_CHECK imf_status imf__npz_read_float(struct imf__npz *z, const struct imf__npz_array *a,
                                              float *dst, struct imf_error *err);

/* The values of an array of bytes ("|u1", C order), piece by piece. */
struct imf__npz_bytes; /* opaque; borrows the archive */

IMF_MUST_CHECK imf_status imf__npz_bytes_open(struct imf__npz_bytes **out, const struct imf__npz *z,
                                              const struct imf__npz_array *a,
                                              struct imf_error *err);
void imf__npz_bytes_close(struct imf__npz_bytes *b); /* NULL is fine */
/* Deflated: only one thread may read at a time, and going back begins at the beginning again. */
bool imf__npz_bytes_packed(const struct imf__npz_bytes *b);
/* n bytes of the array from byte `at` on. The checksum of deflated ones is verified at their end,
 * that of stored ones is not. */
IMF_MUST_CHECK imf_status imf__npz_bytes_read(struct imf__npz_bytes *b, void *dst, uint64_t n,
                                              uint64_t at, struct imf_error *err);

/* What imf__npz_write stores; exactly one of f32 and f64 is set. */
struct imf__npz_source {
    const char *name;
    int ndim;
    int64_t shape[IMF__NPZ_MAX_DIMS];
    const float *f32;
    const double *f64;
};

/* Writes a stored .npz, first beside `path` and then renamed, so that a full disk leaves no half
 * file under the name, and waits until it is on the disk. */
IMF_MUST_CHECK imf_status imf__npz_write(const char *path, const struct imf__npz_source *arrays,
                                         size_t n, struct imf_error *err);

#endif
