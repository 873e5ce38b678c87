/* A file that appears under its name only when it is complete: written beside it under a temporary
 * name, then renamed. A full disk, an error or a crash leaves what was there before.
 *
 * The engine's own, and its tools': a program that serves needs imf.h alone. */
#ifndef IMF__OUTPUT_FILE_H
#define IMF__OUTPUT_FILE_H

#include "imf.h"

#include <sys/uio.h>

struct imf__output {
    int fd;
    bool durable;           /* may be set before commit: wait until the bytes are on the disk */
    char *path, *temporary; /* NULL: written straight to path */
    uint64_t size;          /* bytes written so far, buffered ones included */
    uint8_t *buffer;
    size_t used;
};

/* What is no regular file (a pipe, /dev/stdout) is written to directly. */
IMF_MUST_CHECK imf_status imf__output_open(struct imf__output *o, const char *path,
                                           struct imf_error *err);
IMF_MUST_CHECK imf_status imf__output_write(struct imf__output *o, const void *data, size_t n,
                                            struct imf_error *err);
/* Overwrites bytes written before; fails on what is no regular file. */
IMF_MUST_CHECK imf_status imf__output_patch(struct imf__output *o, uint64_t offset,
                                            const void *data, size_t n, struct imf_error *err);
/* Flushes and renames. Whether it succeeds or not, discard must follow. */
IMF_MUST_CHECK imf_status imf__output_commit(struct imf__output *o, struct imf_error *err);
/* Frees; removes the temporary file when it was not committed. Zeroed structs are fine. */
void imf__output_discard(struct imf__output *o);

/* Open, write, commit. */
IMF_MUST_CHECK imf_status imf__output_save(const char *path, const struct iovec *pieces, int n,
                                           struct imf_error *err);
/* Makes the folder and those above it where they are missing; fails when it cannot be written to.
 */
IMF_MUST_CHECK imf_status imf__output_folder(const char *path, struct imf_error *err);

#endif
