/* From a checkpoint to a device: reads named tensors with the shapes a model expects, one at a
 * time, and keeps account of which tensors were used, so that a file with leftovers is refused. */
#ifndef IMF__LOADER_H
#define IMF__LOADER_H

#include "files/checkpoint.h"
#include "device.h"
#include "models/model_names.h"

struct imf__loader {
    struct imf__checkpoint *ckpt;
    struct imf__device *dev;
    struct imf_error *err;
    bool *used;          /* one per tensor of the checkpoint */
    uint64_t parameters; /* read so far */
    void (*progress)(void *user, double fraction);
    void *progress_user;
    uint64_t bytes_expected, bytes_read;
};

/* key: the state dict to take (imf__checkpoint_open), or NULL. */
imf_status imf__loader_open(struct imf__loader *ld, const char *path, const char *key,
                            struct imf__device *dev, struct imf_error *err);
void imf__loader_close(struct imf__loader *ld);

/* The tensor's directory entry, marked as used; NULL when the file has none of that name. */
const struct imf__tensor *imf__loader_find(struct imf__loader *ld, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Reads all values of a tensor under any of its names (imf__checkpoint_find); *out is malloc'ed and
 * the caller's. `shape` ends with 0; a dimension of 1 more or less at the end is fine. */
#define IMF__SHAPE(...) ((const int64_t[5]){__VA_ARGS__})
imf_status imf__loader_read(struct imf__loader *ld, float **out, const int64_t shape[5],
                            const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Fails when a tensor was not used and its name (less "net.") starts with none of `skipped`. */
imf_status imf__loader_finish(struct imf__loader *ld, const char *const *skipped);

/* Turns a device's status into a sentence that names what was being loaded. */
imf_status imf__loader_fail(struct imf__loader *ld, imf_status status, const char *what);

/* A float32 vector on the device. */
imf_status imf__loader_vector(struct imf__loader *ld, float **out, const float *src, size_t n);

#endif
