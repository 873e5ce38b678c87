/* zip.h. The directory is read whole and kept; entries are read as streams. */
#include "files/zip.h"

#include "common/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DIRECTORY (256u << 20)
#define END_SIZE 22
#define CENTRAL_SIZE 46
#define LOCAL_SIZE 30
#define CHUNK (1u << 16)

static imf_status bad(const struct imf__zip *z, struct imf_error *err, const char *why)
{
    return imf__fail(err, IMF_EFORMAT, "%s: zip: %s", z->file->label, why);
}

static const char cut[] = "no central directory at the end (truncated?)";

/* ---- Directory ------------------------------------------------------------------------------- */

/* Follows the zip64 locator in front of the end record at `end`, if the end record asks for it. */
static imf_status find_zip64(struct imf__zip *z, uint64_t end, struct imf_error *err)
{
    uint8_t locator[20], record[56];
    if (end < sizeof(locator))
        return bad(z, err, "no zip64 locator");
    imf_status status =
        imf__file_read(z->file, locator, sizeof(locator), end - sizeof(locator), err);
    if (status != IMF_OK)
        return status;
    if (imf__le32(locator) != 0x07064b50)
        return bad(z, err, "no zip64 locator");
    uint64_t at = imf__le64(locator + 8);
    if (at > end || end - at < sizeof(locator) + sizeof(record))
        return bad(z, err, "the zip64 record lies outside the file");
    status = imf__file_read(z->file, record, sizeof(record), at, err);
    if (status != IMF_OK)
        return status;
    if (imf__le32(record) != 0x06064b50)
        return bad(z, err, "no zip64 record where the locator says");
    z->count = imf__le64(record + 32);
    z->directory_size = imf__le64(record + 40);
    z->directory_offset = imf__le64(record + 48);
    return IMF_OK;
}

/* Whether an end record is at tail + i: its comment ends in the file, and so does the directory. A
 * line break or more behind the archive does no harm. */
static bool is_end(const uint8_t *tail, size_t i, size_t n, uint64_t at)
{
    const uint8_t *e = tail + i;
    if (imf__le32(e) != 0x06054b50 || imf__le16(e + 20) > n - i - END_SIZE)
        return false;
    uint64_t size = imf__le32(e + 12), offset = imf__le32(e + 16);
    return size == 0xFFFFFFFF || offset == 0xFFFFFFFF || offset + size <= at;
}

/* Finds the end record, the last one. */
static imf_status find_directory(struct imf__zip *z, uint64_t max_entries, struct imf_error *err)
{
    uint64_t size = z->file->size;
    if (size < END_SIZE)
        return bad(z, err, cut);
    size_t n = size < END_SIZE + 65535 ? (size_t)size : END_SIZE + 65535;
    uint8_t *tail = malloc(n);
    if (!tail)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", z->file->label);
    imf_status status = imf__file_read(z->file, tail, n, size - n, err);
    size_t i = n - END_SIZE;
    while (status == IMF_OK && i > 0 && !is_end(tail, i, n, size - n + i))
        i--;
    if (status == IMF_OK && !is_end(tail, i, n, size - n + i))
        status = bad(z, err, cut);
    if (status != IMF_OK) {
        free(tail);
        return status;
    }
    const uint8_t *e = tail + i;
    uint64_t end = size - n + i;
    bool split = imf__le16(e + 4) != 0 && imf__le16(e + 4) != 0xFFFF;
    z->count = imf__le16(e + 10);
    z->directory_size = imf__le32(e + 12);
    z->directory_offset = imf__le32(e + 16);
    bool zip64 =
        z->count == 0xFFFF || z->directory_size == 0xFFFFFFFF || z->directory_offset == 0xFFFFFFFF;
    free(tail);
    if (split)
        return bad(z, err, "split over several disks");
    status = zip64 ? find_zip64(z, end, err) : IMF_OK;
    if (status != IMF_OK)
        return status;
    if (z->directory_offset > end || z->directory_size > end - z->directory_offset)
        return bad(z, err, "the central directory lies outside the file");
    if (z->directory_size > MAX_DIRECTORY || z->count > max_entries ||
        z->count > z->directory_size / CENTRAL_SIZE)
        return bad(z, err, "the central directory has an impossible size");
    return IMF_OK;
}

/* The zip64 extra field holds those of size, packed size and header offset that did not fit. */
static bool apply_zip64(struct imf__zip_entry *e, const uint8_t *extra, size_t n)
{
    while (n >= 4) {
        size_t id = imf__le16(extra), length = imf__le16(extra + 2);
        if (length > n - 4)
            return false;
        if (id == 1) {
            uint64_t *fields[] = {&e->size, &e->packed, &e->header};
            const uint8_t *p = extra + 4;
            for (int i = 0; i < 3; i++) {
                if (*fields[i] != 0xFFFFFFFF)
                    continue;
                if (length < 8)
                    return false;
                *fields[i] = imf__le64(p);
                p += 8;
                length -= 8;
            }
            return true;
        }
        extra += 4 + length;
        n -= 4 + length;
    }
    return e->size != 0xFFFFFFFF && e->packed != 0xFFFFFFFF && e->header != 0xFFFFFFFF;
}

static int compare_text(const char *a, size_t n, const char *b, size_t m)
{
    int order = memcmp(a, b, n < m ? n : m);
    return order ? order : n < m ? -1 : n > m;
}

static int compare_entries(const void *a, const void *b)
{
    const struct imf__zip_entry *x = a, *y = b;
    return compare_text(x->name, x->name_length, y->name, y->name_length);
}

static imf_status parse_directory(struct imf__zip *z, struct imf_error *err)
{
    const uint8_t *p = z->directory;
    size_t left = (size_t)z->directory_size;
    for (uint64_t i = 0; i < z->count; i++) {
        struct imf__zip_entry *e = &z->entries[i];
        if (left < CENTRAL_SIZE || imf__le32(p) != 0x02014b50)
            return bad(z, err, "the central directory is damaged");
        size_t name = imf__le16(p + 28), extra = imf__le16(p + 30), comment = imf__le16(p + 32);
        if (left - CENTRAL_SIZE < name + extra + comment)
            return bad(z, err, "the central directory is damaged");
        *e = (struct imf__zip_entry){.name = (const char *)p + CENTRAL_SIZE,
                                     .name_length = (uint16_t)name,
                                     .flags = (uint16_t)imf__le16(p + 8),
                                     .method = (uint16_t)imf__le16(p + 10),
                                     .crc = imf__le32(p + 16),
                                     .packed = imf__le32(p + 20),
                                     .size = imf__le32(p + 24),
                                     .header = imf__le32(p + 42)};
        if (!apply_zip64(e, p + CENTRAL_SIZE + name, extra))
            return bad(z, err, "a zip64 field is damaged");
        p += CENTRAL_SIZE + name + extra + comment;
        left -= CENTRAL_SIZE + name + extra + comment;
    }
    qsort(z->entries, (size_t)z->count, sizeof(*z->entries), compare_entries);
    for (uint64_t i = 1; i < z->count; i++) {
        if (compare_entries(&z->entries[i - 1], &z->entries[i]) == 0) {
            char name[64];
            snprintf(name, sizeof(name), "%.*s", z->entries[i].name_length, z->entries[i].name);
            return imf__fail(err, IMF_EFORMAT, "%s: zip: entry \"%s\" is there twice",
                             z->file->label, imf__quote(name).text);
        }
    }
    return IMF_OK;
}

imf_status imf__zip_open(struct imf__zip *z, const struct imf__file *file, uint64_t max_entries,
                         struct imf_error *err)
{
    *z = (struct imf__zip){.file = file};
    imf_status status = find_directory(z, max_entries, err);
    if (status != IMF_OK)
        return status;
    z->directory = malloc((size_t)z->directory_size + 1);
    z->entries = calloc((size_t)z->count + 1, sizeof(*z->entries));
    if (!z->directory || !z->entries)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", z->file->label);
    status =
        imf__file_read(z->file, z->directory, (size_t)z->directory_size, z->directory_offset, err);
    return status == IMF_OK ? parse_directory(z, err) : status;
}

void imf__zip_close(struct imf__zip *z)
{
    free(z->directory);
    free(z->entries);
    z->directory = NULL;
    z->entries = NULL;
}

/* ---- Entries --------------------------------------------------------------------------------- */

const struct imf__zip_entry *imf__zip_find(const struct imf__zip *z, const char *name,
                                           size_t length)
{
    size_t low = 0, high = (size_t)z->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct imf__zip_entry *e = &z->entries[middle];
        int order = compare_text(name, length, e->name, e->name_length);
        if (order == 0)
            return e;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

imf_status imf__zip_locate(const struct imf__zip *z, const struct imf__zip_entry *e,
                           uint64_t *offset, struct imf_error *err)
{
    if (e->flags & 1)
        return imf__fail(err, IMF_EFORMAT, "is encrypted");
    if (e->method != IMF__ZIP_STORED && e->method != IMF__ZIP_DEFLATED)
        return imf__fail(err, IMF_EUNSUPPORTED, "is compressed in a way (%d) that is not read here",
                         e->method);
    /* Deflate expands at most 1032 times: a larger promise is a lie, and memory is never asked for
     * on the word of a few bytes. */
    if (e->method == IMF__ZIP_STORED ? e->packed != e->size : e->size / 1032 > e->packed + 1)
        return imf__fail(err, IMF_EFORMAT, "has sizes that contradict each other");
    uint8_t local[LOCAL_SIZE];
    if (e->header > z->directory_offset || z->directory_offset - e->header < LOCAL_SIZE)
        return imf__fail(err, IMF_EFORMAT, "has its header outside the file");
    imf_status status = imf__file_read(z->file, local, sizeof(local), e->header, err);
    if (status != IMF_OK)
        return status;
    uint64_t start = e->header + LOCAL_SIZE + imf__le16(local + 26) + imf__le16(local + 28);
    if (imf__le32(local) != 0x04034b50 || imf__le16(local + 26) != e->name_length ||
        imf__le16(local + 8) != e->method)
        return imf__fail(err, IMF_EFORMAT, "has a damaged header");
    char *name = malloc(e->name_length + 1u);
    if (!name)
        return imf__fail(err, IMF_ENOMEM, "needs memory that is not there");
    status = imf__file_read(z->file, name, e->name_length, e->header + LOCAL_SIZE, err);
    if (status == IMF_OK && memcmp(name, e->name, e->name_length) != 0)
        status = imf__fail(err, IMF_EFORMAT, "has a damaged header");
    free(name);
    if (status != IMF_OK)
        return status;
    if (start > z->directory_offset || e->packed > z->directory_offset - start)
        return imf__fail(err, IMF_EFORMAT, "has %llu bytes, which reach past the end of the data",
                         (unsigned long long)e->packed);
    *offset = start;
    return IMF_OK;
}

/* ---- Streams --------------------------------------------------------------------------------- */

imf_status imf__zip_stream_open(struct imf__zip_stream *s, const struct imf__zip *z,
                                const struct imf__zip_entry *e, struct imf_error *err)
{
    *s = (struct imf__zip_stream){.file = z->file,
                                  .packed_left = e->packed,
                                  .left = e->size,
                                  .crc = (uint32_t)crc32_z(0, NULL, 0),
                                  .expected = e->crc};
    IMF_TRY(imf__zip_locate(z, e, &s->offset, err));
    if (e->method == IMF__ZIP_STORED)
        return IMF_OK;
    s->chunk = malloc(CHUNK);
    if (!s->chunk || inflateInit2(&s->inflate, -MAX_WBITS) != Z_OK) {
        free(s->chunk);
        s->chunk = NULL;
        return imf__fail(err, IMF_ENOMEM, "needs memory that is not there");
    }
    return IMF_OK;
}

void imf__zip_stream_raw(struct imf__zip_stream *s, const struct imf__file *file)
{
    *s = (struct imf__zip_stream){.file = file, .packed_left = file->size, .left = file->size};
}

static imf_status stream_inflate(struct imf__zip_stream *s, void *dst, size_t n,
                                 struct imf_error *err)
{
    s->inflate.next_out = dst;
    s->inflate.avail_out = (uInt)n;
    while (s->inflate.avail_out > 0) {
        if (s->inflate.avail_in == 0 && s->packed_left > 0) {
            size_t take = s->packed_left < CHUNK ? (size_t)s->packed_left : CHUNK;
            IMF_TRY(imf__file_read(s->file, s->chunk, take, s->offset, err));
            s->offset += take;
            s->packed_left -= take;
            s->inflate.next_in = s->chunk;
            s->inflate.avail_in = (uInt)take;
        }
        int rc = inflate(&s->inflate, Z_NO_FLUSH);
        if (rc == Z_STREAM_END && s->inflate.avail_out == 0)
            break;
        if (rc != Z_OK)
            return imf__fail(err, IMF_EFORMAT, "has damaged or truncated deflate data");
    }
    return IMF_OK;
}

imf_status imf__zip_stream_read(struct imf__zip_stream *s, void *dst, size_t n,
                                struct imf_error *err)
{
    if (n > s->left)
        return imf__fail(err, IMF_EFORMAT, "is truncated, %llu bytes are missing",
                         (unsigned long long)(n - s->left));
    for (uint8_t *p = dst; n > 0;) {
        size_t take = n < 1u << 30 ? n : 1u << 30;
        if (s->chunk) {
            IMF_TRY(stream_inflate(s, p, take, err));
        } else {
            IMF_TRY(imf__file_read(s->file, p, take, s->offset, err));
            s->offset += take;
        }
        s->crc = (uint32_t)crc32_z(s->crc, p, take);
        s->left -= take;
        p += take;
        n -= take;
    }
    return IMF_OK;
}

imf_status imf__zip_stream_check(const struct imf__zip_stream *s, struct imf_error *err)
{
    return imf__crc_differs(s->crc, s->expected)
               ? imf__fail(err, IMF_EFORMAT, "is damaged (checksum)")
               : IMF_OK;
}

void imf__zip_stream_close(struct imf__zip_stream *s)
{
    if (s->chunk)
        inflateEnd(&s->inflate);
    free(s->chunk);
    s->chunk = NULL;
}
