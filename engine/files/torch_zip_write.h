/* The zip container and the pickle of a .pth being written; used by weights_write.c only. */
#ifndef IMF__TORCH_ZIP_WRITE_H
#define IMF__TORCH_ZIP_WRITE_H

#include "files/output_file.h"
#include "files/weights_write.h"

struct imf__zip_writer {
    struct imf__output *out;
    char prefix[64]; /* folder inside the archive */
    bool zip64;      /* large-file records even where they are not needed */
    struct imf__zip_item {
        char name[96];
        uint64_t header, size;
        uint32_t crc;
    } * items;
    size_t count, capacity;
    uint64_t data; /* where the open entry's data began */
};

/* `path` gives the prefix: its last component without suffix. */
void imf__zip_writer_init(struct imf__zip_writer *z, struct imf__output *out, const char *path,
                          bool zip64);
void imf__zip_writer_free(struct imf__zip_writer *z);
/* Starts an entry PREFIX/name of `size` bytes; its data, aligned to 64 bytes, follows by append. */
IMF_MUST_CHECK imf_status imf__zip_begin(struct imf__zip_writer *z, const char *name, uint64_t size,
                                         struct imf_error *err);
IMF_MUST_CHECK imf_status imf__zip_append(struct imf__zip_writer *z, const void *data, size_t n,
                                          struct imf_error *err);
IMF_MUST_CHECK imf_status imf__zip_end(struct imf__zip_writer *z, struct imf_error *err);
/* The central directory. */
IMF_MUST_CHECK imf_status imf__zip_finish(struct imf__zip_writer *z, struct imf_error *err);

/* PREFIX/data.pkl and what torch.load looks at before it: the entry of tensor i of the list is
 * data/i, counting only tensors that are written. */
IMF_MUST_CHECK imf_status imf__zip_write_pickle(struct imf__zip_writer *z,
                                                const struct imf__weights_params *p,
                                                struct imf_error *err);

#endif
