/* Files that are read: whole ranges or an error, sizes checked before they are used, names made fit
 * for messages. */
#ifndef IMF__FILE_H
#define IMF__FILE_H

#include "imf.h"

struct imf__file {
    int fd;
    uint64_t size;
    bool in_memory;  /* made by this program, on no disk */
    char label[192]; /* the path as messages show it: its end, when it is very long */
};

/* Opens a regular file for reading. */
IMF_MUST_CHECK imf_status imf__file_open(struct imf__file *f, const char *path,
                                         struct imf_error *err);
void imf__file_close(struct imf__file *f);
/* All `size` bytes at `offset`, or an error: IMF_EFORMAT when the file ends before them. */
IMF_MUST_CHECK imf_status imf__file_read(const struct imf__file *f, void *dst, size_t size,
                                         uint64_t offset, struct imf_error *err);
/* The whole file, at most `max` bytes of it, with a NUL behind; the caller frees. */
IMF_MUST_CHECK imf_status imf__file_load(char **text, size_t *size, const char *path, size_t max,
                                         struct imf_error *err);

/* Shortens a name from a file and hides what a terminal could act on, for messages. */
struct imf__quoted {
    char text[112];
};
struct imf__quoted imf__quote(const char *name);

/* Little-endian numbers. */
static inline uint32_t imf__le16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}
static inline uint32_t imf__le32(const uint8_t *p)
{
    return imf__le16(p) | imf__le16(p + 2) << 16;
}
static inline uint64_t imf__le64(const uint8_t *p)
{
    return imf__le32(p) | (uint64_t)imf__le32(p + 4) << 32;
}

/* a * b and a + b; false when they do not fit. */
static inline bool imf__mul(uint64_t *out, uint64_t a, uint64_t b)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool imf__add(uint64_t *out, uint64_t a, uint64_t b)
{
    return !__builtin_add_overflow(a, b, out);
}

/* Whether a checksum proves damage. A stored 0 proves nothing: torch writes it when told not to
 * compute any. Fuzz targets do without, or mutations would get no further. */
static inline bool imf__crc_differs(uint32_t computed, uint32_t stored)
{
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    (void)computed;
    (void)stored;
    return false;
#else
    return stored && computed != stored;
#endif
}

#endif
