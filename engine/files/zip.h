/* Reading zip archives: torch's .pth and NumPy's .npz. Everything is found through the central
 * directory, as zip wants it: local headers may hold zero sizes where a data descriptor follows the
 * data, and sizes above 4 GiB stand in zip64 records. Entries are stored or deflated.
 *
 * Errors of a single entry go behind its name: "has a damaged header". */
#ifndef IMF__ZIP_H
#define IMF__ZIP_H

#include "files/file.h"

#include <zlib.h>

enum { IMF__ZIP_STORED = 0, IMF__ZIP_DEFLATED = 8 };

struct imf__zip_entry {
    const char *name; /* in the archive's directory, not NUL-terminated */
    uint16_t name_length, flags, method;
    uint32_t crc;                  /* 0 where torch was told not to compute it */
    uint64_t packed, size, header; /* offset of the local header */
};

struct imf__zip {
    const struct imf__file *file;
    uint8_t *directory;
    uint64_t directory_offset, directory_size, count;
    struct imf__zip_entry *entries; /* sorted by name; no two are the same */
};

/* The directory; `file` is not owned and must stay open. imf__zip_close must follow, also after a
 * failure. */
IMF_MUST_CHECK imf_status imf__zip_open(struct imf__zip *z, const struct imf__file *file,
                                        uint64_t max_entries, struct imf_error *err);
void imf__zip_close(struct imf__zip *z);
const struct imf__zip_entry *imf__zip_find(const struct imf__zip *z, const char *name,
                                           size_t length);
/* Where an entry's bytes begin, all of them checked to lie in front of the directory. */
IMF_MUST_CHECK imf_status imf__zip_locate(const struct imf__zip *z, const struct imf__zip_entry *e,
                                          uint64_t *offset, struct imf_error *err);

/* One pass over an entry's uncompressed bytes, or over a range of a file. */
struct imf__zip_stream {
    const struct imf__file *file;
    z_stream inflate;
    uint8_t *chunk;               /* NULL: stored */
    uint64_t offset, packed_left; /* next compressed byte in the file */
    uint64_t left;                /* uncompressed bytes not handed out yet */
    uint32_t crc, expected;
};

IMF_MUST_CHECK imf_status imf__zip_stream_open(struct imf__zip_stream *s, const struct imf__zip *z,
                                               const struct imf__zip_entry *e,
                                               struct imf_error *err);
/* The whole file, without any zip around it. */
void imf__zip_stream_raw(struct imf__zip_stream *s, const struct imf__file *file);
IMF_MUST_CHECK imf_status imf__zip_stream_read(struct imf__zip_stream *s, void *dst, size_t n,
                                               struct imf_error *err);
/* After the last byte: whether the checksum proves damage. */
IMF_MUST_CHECK imf_status imf__zip_stream_check(const struct imf__zip_stream *s,
                                                struct imf_error *err);
void imf__zip_stream_close(struct imf__zip_stream *s);

#endif
