/* Helpers of the checkpoint tests: temporary files from bytes, and opening them. */
#ifndef CHECKPOINT_FILES_H
#define CHECKPOINT_FILES_H

#include "files/checkpoint.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Opens `size` bytes as if they were a file, from memory. On IMF_OK *out is set. */
static inline imf_status open_bytes(struct imf__checkpoint **out, const void *bytes, size_t size,
                                    struct imf_error *err)
{
    int fd = memfd_create("checkpoint", MFD_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, size), (ssize_t)size);
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    memset(err, 0, sizeof(*err));
    imf_status status = imf__checkpoint_open(out, path, NULL, err);
    close(fd);
    ck_assert(status == IMF_OK || (err->status == status && err->message[0]));
    return status;
}

/* Reads every readable tensor; the first failure, or IMF_OK. */
static inline imf_status read_all(struct imf__checkpoint *c, struct imf_error *err)
{
    for (size_t i = 0; i < imf__checkpoint_count(c); i++) {
        const struct imf__tensor *t = imf__checkpoint_at(c, i);
        if (t->type == IMF__STORED_OTHER || t->count > 1u << 26)
            continue;
        float *values = malloc((t->count + 1) * sizeof(float));
        ck_assert_ptr_nonnull(values);
        imf_status status = imf__checkpoint_read(c, t, values, err);
        free(values);
        if (status != IMF_OK)
            return status;
    }
    return IMF_OK;
}

/* The whole file in memory; NULL when it is not there. The caller frees. */
static inline uint8_t *slurp(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    uint8_t *bytes = malloc(*size + 1);
    ck_assert_ptr_nonnull(bytes);
    ck_assert_uint_eq(fread(bytes, 1, *size, f), *size);
    fclose(f);
    return bytes;
}

#endif
