/* torch.save's zip format: NAME/data.pkl describes the tensors, NAME/data/KEY are the storages.
 *
 * Everything is found through the central directory, as zip wants it: local headers may hold zero
 * sizes where a data descriptor follows the data, and torch writes zip64 records above 4 GiB. Only
 * stored (uncompressed) entries can be read tensor by tensor; torch writes no others. */
#include "files/torch_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define MAX_DIRECTORY (256u << 20)
#define MAX_PICKLE_MEMORY (256u << 20)
#define END_SIZE 22
#define CENTRAL_SIZE 46
#define LOCAL_SIZE 30

struct zip_entry {
    const char *name; /* in the archive's directory buffer, not NUL-terminated */
    uint16_t name_length, flags, method;
    uint32_t crc;                  /* 0 where torch was told not to compute it */
    uint64_t packed, size, header; /* offset of the local header */
};

struct zip {
    const struct imf__file *file;
    uint8_t *directory;
    uint64_t directory_offset, directory_size, entry_count;
    struct zip_entry *entries; /* sorted by name */
    const char *prefix;        /* "mit_tiny" of mit_tiny/data.pkl */
    int prefix_length;
};

static uint32_t u16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t u32(const uint8_t *p)
{
    return u16(p) | u16(p + 2) << 16;
}

static uint64_t u64(const uint8_t *p)
{
    return u32(p) | (uint64_t)u32(p + 4) << 32;
}

static imf_status bad(const struct zip *z, struct imf_error *err, const char *why)
{
    return imf__fail(err, IMF_EFORMAT, "%s: zip: %s", z->file->label, why);
}

static const char cut[] = "no central directory at the end (truncated?)";

/* ---- Directory ------------------------------------------------------------------------------- */

/* Follows the zip64 locator in front of the end record at `end`, if the end record asks for it. */
static imf_status find_zip64(struct zip *z, uint64_t end, struct imf_error *err)
{
    uint8_t locator[20], record[56];
    if (end < sizeof(locator))
        return bad(z, err, "no zip64 locator");
    imf_status status =
        imf__file_read(z->file, locator, sizeof(locator), end - sizeof(locator), err);
    if (status != IMF_OK)
        return status;
    if (u32(locator) != 0x07064b50)
        return bad(z, err, "no zip64 locator");
    uint64_t at = u64(locator + 8);
    if (at > end || end - at < sizeof(locator) + sizeof(record))
        return bad(z, err, "the zip64 record lies outside the file");
    status = imf__file_read(z->file, record, sizeof(record), at, err);
    if (status != IMF_OK)
        return status;
    if (u32(record) != 0x06064b50)
        return bad(z, err, "no zip64 record where the locator says");
    z->entry_count = u64(record + 32);
    z->directory_size = u64(record + 40);
    z->directory_offset = u64(record + 48);
    return IMF_OK;
}

/* Finds the end record: the last one whose comment reaches exactly to the end of the file. */
static imf_status find_directory(struct zip *z, struct imf_error *err)
{
    uint64_t size = z->file->size;
    if (size < END_SIZE)
        return bad(z, err, cut);
    size_t n = size < END_SIZE + 65535 ? (size_t)size : END_SIZE + 65535;
    uint8_t *tail = malloc(n);
    if (!tail)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", z->file->label);
    imf_status status = imf__file_read(z->file, tail, n, size - n, err);
    if (status != IMF_OK) {
        free(tail);
        return status;
    }
    size_t i = n - END_SIZE;
    while (i > 0 && (u32(tail + i) != 0x06054b50 || u16(tail + i + 20) != n - i - END_SIZE))
        i--;
    const uint8_t *e = tail + i;
    uint64_t end = size - n + i;
    if (u32(e) != 0x06054b50 || u16(e + 20) != n - i - END_SIZE) {
        free(tail);
        return bad(z, err, cut);
    }
    bool split = u16(e + 4) != 0 && u16(e + 4) != 0xFFFF;
    z->entry_count = u16(e + 10);
    z->directory_size = u32(e + 12);
    z->directory_offset = u32(e + 16);
    bool zip64 = z->entry_count == 0xFFFF || z->directory_size == 0xFFFFFFFF ||
                 z->directory_offset == 0xFFFFFFFF;
    free(tail);
    if (split)
        return bad(z, err, "split over several disks");
    status = zip64 ? find_zip64(z, end, err) : IMF_OK;
    if (status != IMF_OK)
        return status;
    if (z->directory_offset > end || z->directory_size > end - z->directory_offset)
        return bad(z, err, "the central directory lies outside the file");
    if (z->directory_size > MAX_DIRECTORY || z->entry_count > IMF__MAX_TENSORS ||
        z->entry_count > z->directory_size / CENTRAL_SIZE)
        return bad(z, err, "the central directory has an impossible size");
    return IMF_OK;
}

/* The zip64 extra field holds those of size, packed size and header offset that did not fit. */
static bool apply_zip64(struct zip_entry *e, const uint8_t *extra, size_t n)
{
    while (n >= 4) {
        size_t id = u16(extra), length = u16(extra + 2);
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
                *fields[i] = u64(p);
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
    const struct zip_entry *x = a, *y = b;
    return compare_text(x->name, x->name_length, y->name, y->name_length);
}

static imf_status parse_directory(struct zip *z, struct imf_error *err)
{
    const uint8_t *p = z->directory;
    size_t left = (size_t)z->directory_size;
    for (uint64_t i = 0; i < z->entry_count; i++) {
        struct zip_entry *e = &z->entries[i];
        if (left < CENTRAL_SIZE || u32(p) != 0x02014b50)
            return bad(z, err, "the central directory is damaged");
        size_t name = u16(p + 28), extra = u16(p + 30), comment = u16(p + 32);
        if (left - CENTRAL_SIZE < name + extra + comment)
            return bad(z, err, "the central directory is damaged");
        *e = (struct zip_entry){.name = (const char *)p + CENTRAL_SIZE,
                                .name_length = (uint16_t)name,
                                .flags = (uint16_t)u16(p + 8),
                                .method = (uint16_t)u16(p + 10),
                                .crc = u32(p + 16),
                                .packed = u32(p + 20),
                                .size = u32(p + 24),
                                .header = u32(p + 42)};
        if (!apply_zip64(e, p + CENTRAL_SIZE + name, extra))
            return bad(z, err, "a zip64 field is damaged");
        p += CENTRAL_SIZE + name + extra + comment;
        left -= CENTRAL_SIZE + name + extra + comment;
    }
    qsort(z->entries, (size_t)z->entry_count, sizeof(*z->entries), compare_entries);
    for (uint64_t i = 1; i < z->entry_count; i++) {
        if (compare_entries(&z->entries[i - 1], &z->entries[i]) == 0) {
            char name[64];
            snprintf(name, sizeof(name), "%.*s", z->entries[i].name_length, z->entries[i].name);
            return imf__fail(err, IMF_EFORMAT, "%s: zip: entry \"%s\" is there twice",
                             z->file->label, imf__quote(name).text);
        }
    }
    return IMF_OK;
}

static imf_status read_directory(struct zip *z, struct imf_error *err)
{
    imf_status status = find_directory(z, err);
    if (status != IMF_OK)
        return status;
    z->directory = malloc((size_t)z->directory_size + 1);
    z->entries = calloc((size_t)z->entry_count + 1, sizeof(*z->entries));
    if (!z->directory || !z->entries)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", z->file->label);
    status =
        imf__file_read(z->file, z->directory, (size_t)z->directory_size, z->directory_offset, err);
    return status == IMF_OK ? parse_directory(z, err) : status;
}

/* ---- Entries --------------------------------------------------------------------------------- */

static const struct zip_entry *find_entry(const struct zip *z, const char *name, size_t length)
{
    size_t low = 0, high = (size_t)z->entry_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct zip_entry *e = &z->entries[middle];
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

/* Where an entry's bytes begin; an error goes behind the entry's name. The local header must agree
 * in name; its sizes may be zero. */
static imf_status locate(const struct zip *z, const struct zip_entry *e, uint64_t *offset,
                         struct imf_error *err)
{
    if (e->flags & 1)
        return imf__fail(err, IMF_EFORMAT, "is encrypted");
    if (e->method != 0 || e->packed != e->size)
        return imf__fail(err, IMF_EUNSUPPORTED,
                         "is compressed (method %d); torch.save never does that", e->method);
    uint8_t local[LOCAL_SIZE];
    if (e->header > z->directory_offset || z->directory_offset - e->header < LOCAL_SIZE)
        return imf__fail(err, IMF_EFORMAT, "has its header outside the file");
    imf_status status = imf__file_read(z->file, local, sizeof(local), e->header, err);
    if (status != IMF_OK)
        return status;
    uint64_t start = e->header + LOCAL_SIZE + u16(local + 26) + u16(local + 28);
    if (u32(local) != 0x04034b50 || u16(local + 26) != e->name_length || u16(local + 8) != 0)
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
    if (start > z->directory_offset || e->size > z->directory_offset - start)
        return imf__fail(err, IMF_EFORMAT, "has %llu bytes, which reach past the end of the data",
                         (unsigned long long)e->size);
    *offset = start;
    return IMF_OK;
}

/* Finds "PREFIX/data.pkl", which names the prefix of everything else. */
static const struct zip_entry *find_pickle(struct zip *z)
{
    static const char suffix[] = "/data.pkl";
    const size_t n = sizeof(suffix) - 1;
    for (uint64_t i = 0; i < z->entry_count; i++) {
        const struct zip_entry *e = &z->entries[i];
        if (e->name_length > n && memcmp(e->name + e->name_length - n, suffix, n) == 0 &&
            !memchr(e->name, '/', e->name_length - n)) {
            z->prefix = e->name;
            z->prefix_length = (int)(e->name_length - n);
            return e;
        }
    }
    return NULL;
}

/* The entry PREFIX/name; NULL when it is not there. */
static const struct zip_entry *find_in_prefix(const struct zip *z, const char *name)
{
    char *path;
    int n = asprintf(&path, "%.*s/%s", z->prefix_length, z->prefix, name);
    if (n < 0)
        return NULL;
    const struct zip_entry *e = find_entry(z, path, (size_t)n);
    free(path);
    return e;
}

static imf_status find_storage(void *user, const struct imf__pickle_storage *storage,
                               struct imf__region *out, struct imf_error *err)
{
    const struct zip *z = user;
    char name[80];
    snprintf(name, sizeof(name), "data/%s", storage->key);
    const struct zip_entry *e = find_in_prefix(z, name);
    if (!e)
        return imf__fail(err, IMF_EFORMAT, "is missing from the zip");
    imf_status status = locate(z, e, &out->offset, err);
    if (status != IMF_OK)
        return status;
    uint64_t needed;
    if (!imf__mul(&needed, storage->count, storage->item) || needed > e->size)
        return imf__fail(err, IMF_EFORMAT, "has %llu bytes, %llu needed",
                         (unsigned long long)e->size,
                         (unsigned long long)storage->count * storage->item);
    out->bytes = e->size;
    out->crc = e->crc;
    return IMF_OK;
}

/* An error from locate() with the entry's name in front. */
static imf_status locate_named(const struct zip *z, const struct zip_entry *e, const char *name,
                               uint64_t *offset, struct imf_error *err)
{
    struct imf_error why = {0};
    imf_status status = locate(z, e, offset, &why);
    if (status != IMF_OK)
        return imf__fail(err, status, "%s: zip entry %s %.200s", z->file->label, name, why.message);
    return IMF_OK;
}

/* torch 2 writes PREFIX/byteorder; older ones were always little-endian. */
static imf_status check_byte_order(const struct zip *z, struct imf_error *err)
{
    const struct zip_entry *e = find_in_prefix(z, "byteorder");
    if (!e)
        return IMF_OK;
    char text[6] = {0};
    uint64_t offset = 0;
    imf_status status = locate_named(z, e, "byteorder", &offset, err);
    if (status == IMF_OK && e->size == sizeof(text))
        status = imf__file_read(z->file, text, sizeof(text), offset, err);
    if (status == IMF_OK && memcmp(text, "little", sizeof(text)) != 0)
        return imf__fail(err, IMF_EUNSUPPORTED, "%s: written on a big-endian machine",
                         z->file->label);
    return status;
}

/* The checksum of data.pkl, before anything in it is believed. */
static imf_status check_pickle(struct imf__checkpoint *c, const struct zip *z,
                               const struct zip_entry *e, uint64_t offset, struct imf_error *err)
{
    uint32_t crc = 0;
    for (uint64_t done = 0; e->crc && done < e->size;) {
        size_t n = e->size - done < IMF__BUFFER ? (size_t)(e->size - done) : IMF__BUFFER;
        imf_status status = imf__file_read(z->file, c->buffer, n, offset + done, err);
        if (status != IMF_OK)
            return status;
        crc = (uint32_t)crc32_z(crc, c->buffer, n);
        done += n;
    }
    if (imf__crc_differs(crc, e->crc))
        return imf__fail(err, IMF_EFORMAT, "%s: zip entry data.pkl is damaged (checksum)",
                         z->file->label);
    return IMF_OK;
}

static imf_status read_state(struct imf__checkpoint *c, struct zip *z, struct imf_error *err)
{
    imf_status status = read_directory(z, err);
    if (status != IMF_OK)
        return status;
    const struct zip_entry *e = find_pickle(z);
    if (!e)
        return bad(z, err, "no data.pkl inside: not written by torch.save");
    if (find_in_prefix(z, "constants.pkl"))
        return imf__fail(err, IMF_EUNSUPPORTED, "%s: a TorchScript program, not a state dict",
                         z->file->label);
    uint64_t offset = 0;
    status = check_byte_order(z, err);
    if (status == IMF_OK)
        status = locate_named(z, e, "data.pkl", &offset, err);
    if (status == IMF_OK)
        status = check_pickle(c, z, e, offset, err);
    if (status != IMF_OK)
        return status;
    struct imf__arena arena = {.limit = MAX_PICKLE_MEMORY};
    struct imf__reader reader;
    struct imf__pickle p = {0};
    imf__reader_init(&reader, z->file, offset, offset + e->size);
    status = imf__pickle_run(&p, &arena, &reader, err);
    if (status == IMF_OK) {
        const struct imf__storage_source source = {find_storage, z, (uint32_t)(z->file - c->files)};
        status = imf__torch_state_add(c, &p, &source, err);
    }
    imf__arena_free(&arena);
    return status;
}

imf_status imf__torch_zip_read(struct imf__checkpoint *c, uint32_t file, struct imf_error *err)
{
    c->format = "torch zip";
    struct zip z = {.file = &c->files[file]};
    imf_status status = read_state(c, &z, err);
    free(z.directory);
    free(z.entries);
    return status;
}
