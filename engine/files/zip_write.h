/* Writing zip archives, torch's .pth and NumPy's .npz: stored entries, data aligned to 64 bytes by a
 * padding field, zip64 records where a size or offset does not fit 32 bits. */
#ifndef IMF__ZIP_WRITE_H
#define IMF__ZIP_WRITE_H

#include "files/output_file.h"

struct imf__zip_writer {
    struct imf__output *out;
    bool zip64; /* large-file records even where they are not needed */
    struct imf__zip_item {
        char name[160];
        uint64_t header, size;
        uint32_t crc;
    } * items;
    size_t count, capacity;
    uint64_t data; /* where the open entry's data began */
};

void imf__zip_writer_init(struct imf__zip_writer *z, struct imf__output *out, bool zip64);
void imf__zip_writer_free(struct imf__zip_writer *z);
/* Starts an entry of `size` bytes; its data, aligned to 64 bytes, follows by append. */
IMF_MUST_CHECK imf_status imf__zip_begin(struct imf__zip_writer *z, const char *name, uint64_t size,
                                         struct imf_error *err);
IMF_MUST_CHECK imf_status imf__zip_append(struct imf__zip_writer *z, const void *data, size_t n,
                                          struct imf_error *err);
IMF_MUST_CHECK imf_status imf__zip_end(struct imf__zip_writer *z, struct imf_error *err);
/* The central directory. */
IMF_MUST_CHECK imf_status imf__zip_finish(struct imf__zip_writer *z, struct imf_error *err);

#endif
