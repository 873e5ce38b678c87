/* What npz.c and npz_directory.c share: an open archive and its entries. */
#ifndef IMF__NPZ_PARTS_H
#define IMF__NPZ_PARTS_H

#include "files/npz.h"

enum { IMF__NPZ_STORED = 0, IMF__NPZ_DEFLATED = 8 };

struct imf__npz_entry {
    struct imf__npz_array array;
    char descr[32];        /* dtype as in the header, for messages */
    bool fortran;          /* Fortran order: accepted for one dimension only */
    uint64_t data_offset;  /* of the entry's bytes in the file */
    uint64_t packed_size;  /* bytes in the file */
    uint64_t size;         /* bytes after inflating */
    uint64_t header_bytes; /* of the .npy header, before the values */
    uint32_t crc;
    int method;
};

struct imf__npz {
    char *path;
    int fd;
    uint64_t file_size;
    bool bare; /* a .npy: no zip around it, no checksum */
    struct imf__npz_entry *entries;
    size_t count;
};

static inline uint16_t imf__le16(const unsigned char *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t imf__le32(const unsigned char *p)
{
    return (uint32_t)imf__le16(p) | (uint32_t)imf__le16(p + 2) << 16;
}

static inline uint64_t imf__le64(const unsigned char *p)
{
    return (uint64_t)imf__le32(p) | (uint64_t)imf__le32(p + 4) << 32;
}

/* n bytes at an offset of the file; a sentence when it is shorter. */
imf_status imf__npz_read_at(const struct imf__npz *z, void *dst, uint64_t n, uint64_t offset,
                            struct imf_error *err);
/* Reads the zip directory and, through imf__npz_parse_header, the header of every array. */
imf_status imf__npz_read_directory(struct imf__npz *z, struct imf_error *err);
/* Fills e->array and what belongs to it from the array's own header. */
imf_status imf__npz_parse_header(const struct imf__npz *z, struct imf__npz_entry *e,
                                 struct imf_error *err);

#endif
