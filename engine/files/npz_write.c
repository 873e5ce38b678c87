/* Writing .npz: stored entries, every size in a zip64 field. */
#include "files/npz.h"

#include "common/error.h"
#include "files/npy.h"
#include "files/output_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

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

static size_t value_bytes(const struct imf__npz_source *a)
{
    size_t n = a->f64 ? 8 : 4;
    for (int i = 0; i < a->ndim; i++)
        n *= (size_t)a->shape[i];
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
    char header[IMF__NPY_HEADER];
    size_t header_size;
    uint64_t size, offset;
    uint32_t crc;
};

static imf_status put(struct imf__output *o, const void *head, size_t head_size, const char *name,
                      const void *rest, size_t rest_size, struct imf_error *err)
{
    IMF_TRY(imf__output_write(o, head, head_size, err));
    IMF_TRY(imf__output_write(o, name, strlen(name), err));
    return imf__output_write(o, rest, rest_size, err);
}

/* Local header with sizes in a zip64 field, as numpy.savez writes it; readers of both kinds agree
 * on it. The directory record repeats them. */
static imf_status write_local(struct imf__output *o, const struct imf__npz_source *a,
                              struct record *r, struct imf_error *err)
{
    unsigned char h[30 + 20] = {0};
    char name[160];
    int length = snprintf(name, sizeof(name), "%.128s.npy", a->name);
    put32(h, 0x04034b50);
    put16(h + 4, 45);
    put16(h + 12, 0x21); /* 1 January 1980: archives of equal arrays are equal files */
    put32(h + 14, r->crc);
    put32(h + 18, 0xffffffff);
    put32(h + 22, 0xffffffff);
    put16(h + 26, (uint32_t)length);
    put16(h + 28, 20);
    put16(h + 30, 1);
    put16(h + 32, 16);
    put64(h + 34, r->size);
    put64(h + 42, r->size);
    r->offset = o->size;
    IMF_TRY(put(o, h, 30, name, h + 30, 20, err));
    IMF_TRY(imf__output_write(o, r->header, r->header_size, err));
    return imf__output_write(o, value_data(a), value_bytes(a), err);
}

static imf_status write_central(struct imf__output *o, const struct imf__npz_source *a,
                                const struct record *r, struct imf_error *err)
{
    unsigned char h[46 + 28] = {0};
    char name[160];
    int length = snprintf(name, sizeof(name), "%.128s.npy", a->name);
    put32(h, 0x02014b50);
    put16(h + 4, 45);
    put16(h + 6, 45);
    put16(h + 14, 0x21);
    put32(h + 16, r->crc);
    put32(h + 20, 0xffffffff);
    put32(h + 24, 0xffffffff);
    put16(h + 28, (uint32_t)length);
    put16(h + 30, 28);
    put32(h + 42, 0xffffffff);
    put16(h + 46, 1);
    put16(h + 48, 24);
    put64(h + 50, r->size);
    put64(h + 58, r->size);
    put64(h + 66, r->offset);
    return put(o, h, 46, name, h + 46, 28, err);
}

static imf_status write_end(struct imf__output *o, size_t count, uint64_t offset,
                            struct imf_error *err)
{
    unsigned char h[56 + 20 + 22] = {0}, *locator = h + 56, *end = h + 76;
    uint64_t here = o->size;
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
    return imf__output_write(o, h, sizeof(h), err);
}

static imf_status write_zip(struct imf__output *o, const struct imf__npz_source *arrays,
                            struct record *records, size_t n, struct imf_error *err)
{
    for (size_t i = 0; i < n; i++) {
        const struct imf__npz_source *a = &arrays[i];
        struct record *r = &records[i];
        r->header_size =
            imf__npy_header(r->header, a->f64 ? IMF__NPY_F64 : IMF__NPY_F32, a->ndim, a->shape);
        r->size = r->header_size + value_bytes(a);
        r->crc = crc_of(r->header, r->header_size, a);
        IMF_TRY(write_local(o, a, r, err));
    }
    uint64_t offset = o->size;
    for (size_t i = 0; i < n; i++)
        IMF_TRY(write_central(o, &arrays[i], &records[i], err));
    return write_end(o, n, offset, err);
}

imf_status imf__npz_write(const char *path, const struct imf__npz_source *arrays, size_t n,
                          struct imf_error *err)
{
    struct imf__output o;
    struct record *records = calloc(n ? n : 1, sizeof(*records));
    if (!records)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
    imf_status status = imf__output_open(&o, path, err);
    o.durable = true; /* hours of work may be behind these numbers */
    if (status == IMF_OK)
        status = write_zip(&o, arrays, records, n, err);
    if (status == IMF_OK)
        status = imf__output_commit(&o, err);
    imf__output_discard(&o);
    free(records);
    return status;
}
