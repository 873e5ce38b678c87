/* What the fuzz targets share: the input as a file. */
#ifndef FUZZ_H
#define FUZZ_H

#include "files/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Path of a file in memory that holds the input; the same file every time. */
static inline const char *fuzz_file(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("fuzz", 0);
        if (fd < 0)
            abort();
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
    return path;
}

/* Opens the input as a checkpoint and reads all of it. A failure must carry a sentence. */
static inline void fuzz_checkpoint(const uint8_t *data, size_t size)
{
    struct imf__checkpoint *c;
    struct imf_error err = {0};
    imf_status status = imf__checkpoint_open(&c, fuzz_file(data, size), NULL, &err);
    if (status != IMF_OK) {
        if (err.status != status || !err.message[0])
            abort();
        return;
    }
    for (size_t i = 0; i < imf__checkpoint_count(c); i++) {
        const struct imf__tensor *t = imf__checkpoint_at(c, i);
        if (imf__checkpoint_find(c, t->name) != t)
            abort();
        if (t->count > 1 << 20)
            continue;
        float *values = malloc((t->count + 1) * sizeof(float));
        if (!values)
            abort();
        if (imf__checkpoint_read(c, t, values, &err) == IMF_OK) {
            for (uint64_t k = 0; k < t->count; k++) {
                if (values[k] - values[k] != 0)
                    abort(); /* NaN or infinity let through */
            }
        }
        free(values);
    }
    imf__checkpoint_close(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
