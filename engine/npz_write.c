/* Writing .npz (stored entries) and .npy. The file is written under a temporary name and renamed
 * when it is complete and on disk, so a full disk never leaves half a file under the real name. */
#include "npz.h"

#include "error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { MAX_HEADER = 512 };

static void put16(unsigned char *p, uint32_t v)
{
    p[0] = (unsigned char)v;
    p[1] = (unsigned char)(v >> 8);
}

static void put32(unsigned char *p, uint32_t v)
{
    put16(p, v);
    put16(p + 2, v >> 16);
}

static void put64(unsigned char *p, uint64_t v)
{
    put32(p, (uint32_t)v);
    put32(p + 4, (uint32_t)(v >> 32));
}

/* The .npy header of an array, padded to 64 bytes as NumPy does; returns its length. */
static size_t npy_header(char header[MAX_HEADER], const struct imf__npz_source *a)
{
    char shape[256] = "";
    size_t n = 0;
    for (int i = 0; i < a->ndim; i++)
        n += (size_t)snprintf(shape + n, sizeof(shape) - n, "%llu,%s",
                              (unsigned long long)a->shape[i], i + 1 < a->ndim ? " " : "");
    if (a->ndim > 1)
        shape[n - 1] = '\0'; /* only one-element tuples keep their comma */
    int len = snprintf(header + 10, MAX_HEADER - 10,
                       "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
                       a->f64 ? "<f8" : "<f4", shape);
    size_t total = (10 + (size_t)len + 1 + 63) / 64 * 64;
    memset(header + 10 + len, ' ', total - 10 - (size_t)len);
    header[total - 1] = '\n';
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    put16((unsigned char *)header + 8, (uint32_t)(total - 10));
    return total;
}

static size_t value_bytes(const struct imf__npz_source *a)
{
    size_t n = a->f64 ? 8 : 4;
    for (int i = 0; i < a->ndim; i++)
        n *= a->shape[i];
    return n;
}

static const unsigned char *value_data(const struct imf__npz_source *a)
{
    return a->f64 ? (const unsigned char *)a->f64 : (const unsigned char *)a->f32;
}

static uint32_t crc_of(const char *header, size_t header_size, const struct imf__npz_source *a)
{
    uLong crc = crc32(0, (const unsigned char *)header, (uInt)header_size);
    const unsigned char *p = value_data(a);
    for (size_t left = value_bytes(a); left > 0;) {
        size_t n = left < (1 << 30) ? left : (1 << 30);
        crc = crc32(crc, p, (uInt)n);
        p += n;
        left -= n;
    }
    return (uint32_t)crc;
}

struct record {
    char header[MAX_HEADER];
    size_t header_size;
    uint64_t size, offset;
    uint32_t crc;
};

/* Local header with sizes in a zip64 field, as numpy.savez writes it; readers of both kinds agree
 * on it. The directory record repeats them. */
static bool write_local(FILE *f, const struct imf__npz_source *a, struct record *r)
{
    unsigned char h[30 + 20] = {0};
    size_t name = strlen(a->name) + 4;
    put32(h, 0x04034b50);
    put16(h + 4, 45);
    put16(h + 12, 0x21); /* 1 January 1980: archives of equal arrays are equal files */
    put32(h + 14, r->crc);
    put32(h + 18, 0xffffffff);
    put32(h + 22, 0xffffffff);
    put16(h + 26, (uint32_t)name);
    put16(h + 28, 20);
    put16(h + 30, 1);
    put16(h + 32, 16);
    put64(h + 34, r->size);
    put64(h + 42, r->size);
    r->offset = (uint64_t)ftello(f);
    return fwrite(h, 1, 30, f) == 30 && fprintf(f, "%s.npy", a->name) == (int)name &&
           fwrite(h + 30, 1, 20, f) == 20 &&
           fwrite(r->header, 1, r->header_size, f) == r->header_size &&
           fwrite(value_data(a), 1, value_bytes(a), f) == value_bytes(a);
}

static bool write_central(FILE *f, const struct imf__npz_source *a, const struct record *r)
{
    unsigned char h[46 + 28] = {0};
    size_t name = strlen(a->name) + 4;
    put32(h, 0x02014b50);
    put16(h + 4, 45);
    put16(h + 6, 45);
    put16(h + 14, 0x21);
    put32(h + 16, r->crc);
    put32(h + 20, 0xffffffff);
    put32(h + 24, 0xffffffff);
    put16(h + 28, (uint32_t)name);
    put16(h + 30, 28);
    put32(h + 42, 0xffffffff);
    put16(h + 46, 1);
    put16(h + 48, 24);
    put64(h + 50, r->size);
    put64(h + 58, r->size);
    put64(h + 66, r->offset);
    return fwrite(h, 1, 46, f) == 46 && fprintf(f, "%s.npy", a->name) == (int)name &&
           fwrite(h + 46, 1, 28, f) == 28;
}

static bool write_end(FILE *f, size_t count, uint64_t offset)
{
    unsigned char h[56 + 20 + 22] = {0}, *locator = h + 56, *end = h + 76;
    uint64_t here = (uint64_t)ftello(f);
    put32(h, 0x06064b50);
    put64(h + 4, 44);
    put16(h + 12, 45);
    put16(h + 14, 45);
    put64(h + 24, count);
    put64(h + 32, count);
    put64(h + 40, here - offset);
    put64(h + 48, offset);
    put32(locator, 0x07064b50);
    put64(locator + 8, here);
    put32(locator + 16, 1);
    put32(end, 0x06054b50);
    put16(end + 8, (uint32_t)count);
    put16(end + 10, (uint32_t)count);
    put32(end + 12, 0xffffffff);
    put32(end + 16, 0xffffffff);
    return fwrite(h, 1, sizeof(h), f) == sizeof(h);
}

static bool write_zip(FILE *f, const struct imf__npz_source *arrays, struct record *records,
                      size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct record *r = &records[i];
        r->header_size = npy_header(r->header, &arrays[i]);
        r->size = r->header_size + value_bytes(&arrays[i]);
        r->crc = crc_of(r->header, r->header_size, &arrays[i]);
        if (!write_local(f, &arrays[i], r))
            return false;
    }
    uint64_t offset = (uint64_t)ftello(f);
    for (size_t i = 0; i < n; i++)
        if (!write_central(f, &arrays[i], &records[i]))
            return false;
    return write_end(f, n, offset);
}

imf_status imf__npz_write(const char *path, const struct imf__npz_source *arrays, size_t n,
                          struct imf_error *err)
{
    char temporary[4096];
    if (snprintf(temporary, sizeof(temporary), "%s.tmp", path) >= (int)sizeof(temporary))
        return imf__fail(err, IMF_EINVAL, "path too long");
    struct record *records = calloc(n ? n : 1, sizeof(*records));
    if (!records)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
    FILE *f = fopen(temporary, "wb");
    if (!f) {
        free(records);
        return imf__fail(err, IMF_EIO, "%s: %s", temporary, strerror(errno));
    }
    bool ok = write_zip(f, arrays, records, n) && fflush(f) == 0 && fsync(fileno(f)) == 0;
    int cause = errno;
    ok = fclose(f) == 0 && ok;
    free(records);
    if (ok && rename(temporary, path) == 0)
        return IMF_OK;
    if (ok)
        cause = errno;
    unlink(temporary);
    return imf__fail(err, IMF_EIO, "%s: cannot be written: %s%s", path, strerror(cause),
                     cause == ENOSPC ? "; free some space and run the same command again" : "");
}
