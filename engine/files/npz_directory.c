/* The zip directory of an .npz: names, sizes and places of its arrays, all of them checked. */
#include "files/npz_parts.h"

#include "common/error.h"

#include <stdlib.h>
#include <string.h>

struct directory {
    uint64_t offset, size, count;
};

static imf_status find_directory(const struct imf__npz *z, struct directory *d,
                                 struct imf_error *err)
{
    enum { END = 22, MAX_COMMENT = 65535, LOCATOR = 20, END64 = 56 };
    uint64_t span = z->file_size < END + MAX_COMMENT ? z->file_size : END + MAX_COMMENT;
    unsigned char *tail = malloc(span ? span : 1);
    if (!tail)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", z->path);
    uint64_t base = z->file_size - span;
    imf_status status = imf__npz_read_at(z, tail, span, base, err);
    if (status != IMF_OK)
        goto out;
    const unsigned char *end = NULL;
    for (uint64_t i = span >= END ? span - END + 1 : 0; i-- > 0 && !end;)
        if (imf__le32(tail + i) == 0x06054b50)
            end = tail + i;
    if (!end) {
        status =
            imf__fail(err, IMF_EFORMAT,
                      "%s: not a NumPy .npz (no zip directory at its end; truncated?)", z->path);
        goto out;
    }
    d->count = imf__le16(end + 10);
    d->size = imf__le32(end + 12);
    d->offset = imf__le32(end + 16);
    uint64_t end_offset = base + (uint64_t)(end - tail);
    if (d->count == 0xffff || d->size == 0xffffffff || d->offset == 0xffffffff) {
        unsigned char locator[LOCATOR], end64[END64];
        if (end_offset < LOCATOR) {
            status = imf__fail(err, IMF_EFORMAT, "%s: damaged zip64 directory", z->path);
            goto out;
        }
        status = imf__npz_read_at(z, locator, LOCATOR, end_offset - LOCATOR, err);
        if (status != IMF_OK)
            goto out;
        status = imf__le32(locator) == 0x07064b50
                     ? imf__npz_read_at(z, end64, END64, imf__le64(locator + 8), err)
                     : imf__fail(err, IMF_EFORMAT, "%s: damaged zip64 directory", z->path);
        if (status != IMF_OK)
            goto out;
        d->count = imf__le64(end64 + 32);
        d->size = imf__le64(end64 + 40);
        d->offset = imf__le64(end64 + 48);
    }
    if (d->offset > z->file_size || d->size > z->file_size - d->offset)
        status = imf__fail(err, IMF_EFORMAT, "%s: damaged zip directory", z->path);
    else if (d->count > IMF__NPZ_MAX_ARRAYS)
        status = imf__fail(err, IMF_EFORMAT, "%s: %llu arrays; at most %d are read", z->path,
                           (unsigned long long)d->count, IMF__NPZ_MAX_ARRAYS);
out:
    free(tail);
    return status;
}

/* zip64 extra field: 8-byte values for the fields that hold all ones, in this order. */
static bool apply_zip64(const unsigned char *extra, size_t n, struct imf__npz_entry *e,
                        uint64_t *local)
{
    while (n >= 4) {
        uint16_t id = imf__le16(extra), size = imf__le16(extra + 2);
        if (size > n - 4)
            return false;
        if (id == 1) {
            uint64_t *fields[3] = {&e->size, &e->packed_size, local};
            const unsigned char *p = extra + 4, *end = p + size;
            for (int i = 0; i < 3; i++) {
                if (*fields[i] != 0xffffffff)
                    continue;
                if (end - p < 8)
                    return false;
                *fields[i] = imf__le64(p);
                p += 8;
            }
        }
        extra += 4 + size;
        n -= 4u + size;
    }
    return true;
}

/* One record of the central directory; *used is its length. */
static imf_status parse_entry(const struct imf__npz *z, const unsigned char *p, size_t n,
                              struct imf__npz_entry *e, size_t *used, struct imf_error *err)
{
    if (n < 46 || imf__le32(p) != 0x02014b50)
        return imf__fail(err, IMF_EFORMAT, "%s: damaged zip directory", z->path);
    size_t name = imf__le16(p + 28), extra = imf__le16(p + 30), comment = imf__le16(p + 32);
    if (46 + name + extra + comment > n)
        return imf__fail(err, IMF_EFORMAT, "%s: damaged zip directory", z->path);
    *used = 46 + name + extra + comment;
    size_t keep = name > 4 && memcmp(p + 46 + name - 4, ".npy", 4) == 0 ? name - 4 : name;
    if (keep >= sizeof(e->array.name) || memchr(p + 46, '\0', name))
        return imf__fail(err, IMF_EFORMAT, "%s: array name of %zu bytes", z->path, keep);
    memcpy(e->array.name, p + 46, keep);
    e->array.name[keep] = '\0';
    uint64_t local = imf__le32(p + 42);
    e->method = imf__le16(p + 10);
    e->crc = imf__le32(p + 16);
    e->packed_size = imf__le32(p + 20);
    e->size = imf__le32(p + 24);
    if (!apply_zip64(p + 46 + name, extra, e, &local))
        return imf__fail(err, IMF_EFORMAT, "%s: array \"%s\": damaged zip64 sizes", z->path,
                         e->array.name);
    if (imf__le16(p + 8) & 1)
        return imf__fail(err, IMF_EFORMAT, "%s: array \"%s\" is encrypted", z->path, e->array.name);
    if (e->method != IMF__NPZ_STORED && e->method != IMF__NPZ_DEFLATED)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: array \"%s\": compression method %d; write it with numpy.savez",
                         z->path, e->array.name, e->method);
    unsigned char head[30];
    imf_status status = imf__npz_read_at(z, head, sizeof(head), local, err);
    if (status != IMF_OK)
        return status;
    e->data_offset = local + 30 + imf__le16(head + 26) + imf__le16(head + 28);
    /* Deflate expands at most 1032 times: a larger promise is a lie, and memory is never allocated
     * on the word of a few bytes. */
    bool fits = e->data_offset <= z->file_size && e->packed_size <= z->file_size - e->data_offset;
    bool honest = e->method == IMF__NPZ_STORED ? e->size == e->packed_size
                                               : e->size / 1032 <= e->packed_size + 1;
    if (imf__le32(head) != 0x04034b50 || !fits || !honest)
        return imf__fail(err, IMF_EFORMAT, "%s: array \"%s\": sizes in the zip directory are wrong",
                         z->path, e->array.name);
    return IMF_OK;
}

imf_status imf__npz_read_directory(struct imf__npz *z, struct imf_error *err)
{
    struct directory d = {0};
    imf_status status = find_directory(z, &d, err);
    if (status != IMF_OK)
        return status;
    unsigned char *bytes = malloc(d.size ? d.size : 1);
    z->entries = calloc(d.count ? d.count : 1, sizeof(*z->entries));
    if (!bytes || !z->entries) {
        status = imf__fail(err, IMF_ENOMEM, "%s: out of memory", z->path);
        goto out;
    }
    status = imf__npz_read_at(z, bytes, d.size, d.offset, err);
    size_t at = 0;
    for (uint64_t i = 0; i < d.count && status == IMF_OK; i++) {
        size_t used = 0;
        struct imf__npz_entry *e = &z->entries[i];
        status = parse_entry(z, bytes + at, d.size - at, e, &used, err);
        if (status != IMF_OK)
            break;
        at += used;
        if (imf__npz_find(z, e->array.name)) {
            status = imf__fail(err, IMF_EFORMAT, "%s: array \"%s\" appears twice", z->path,
                               e->array.name);
            break;
        }
        status = imf__npz_parse_header(z, e, err);
        z->count++;
    }
out:
    free(bytes);
    return status;
}
