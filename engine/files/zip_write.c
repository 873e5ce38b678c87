/* zip_write.h: sizes are known before the data, the checksum only after it: it is patched into the
 * local header, so no data descriptors are needed. */
#include "files/zip_write.h"

#include "common/error.h"
#include "files/bytes.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

void imf__zip_writer_init(struct imf__zip_writer *z, struct imf__output *out, bool zip64)
{
    *z = (struct imf__zip_writer){.out = out, .zip64 = zip64};
}

void imf__zip_writer_free(struct imf__zip_writer *z)
{
    free(z->items);
    z->items = NULL;
}

static bool large(const struct imf__zip_writer *z, uint64_t n)
{
    return z->zip64 || n >= 0xFFFFFFFFu;
}

/* Fields that the local header and the central directory have in common. */
static void put_common(struct imf__bytes *b, const struct imf__zip_writer *z,
                       const struct imf__zip_item *item)
{
    bool big = large(z, item->size);
    imf__bytes_int(b, big ? 45 : 20, 2); /* version needed */
    imf__bytes_int(b, 0, 2);             /* flags */
    imf__bytes_int(b, 0, 2);             /* stored */
    imf__bytes_int(b, 0, 2);             /* time */
    imf__bytes_int(b, 0x21, 2); /* date: 1980-01-01, so that equal weights give equal files */
    imf__bytes_int(b, item->crc, 4);
    imf__bytes_int(b, big ? 0xFFFFFFFFu : item->size, 4);
    imf__bytes_int(b, big ? 0xFFFFFFFFu : item->size, 4);
    imf__bytes_int(b, strlen(item->name), 2);
}

imf_status imf__zip_begin(struct imf__zip_writer *z, const char *name, uint64_t size,
                          struct imf_error *err)
{
    if (z->count == z->capacity) {
        size_t capacity = z->capacity ? 2 * z->capacity : 128;
        struct imf__zip_item *grown = realloc(z->items, capacity * sizeof(*grown));
        if (!grown)
            return imf__fail(err, IMF_ENOMEM, "%.300s: out of memory", z->out->path);
        z->items = grown;
        z->capacity = capacity;
    }
    struct imf__zip_item *item = &z->items[z->count++];
    *item = (struct imf__zip_item){.header = z->out->size, .size = size};
    snprintf(item->name, sizeof(item->name), "%s", name);

    struct imf__bytes b = {0}, extra = {0};
    if (large(z, size)) {
        imf__bytes_int(&extra, 1, 2);
        imf__bytes_int(&extra, 16, 2);
        imf__bytes_int(&extra, size, 8);
        imf__bytes_int(&extra, size, 8);
    }
    uint64_t data = z->out->size + 30 + strlen(item->name) + extra.size + 4;
    size_t padding = (size_t)(-data & 63);
    imf__bytes_text(&extra, "FB"); /* torch's padding field */
    imf__bytes_int(&extra, padding, 2);
    for (size_t i = 0; i < padding; i++)
        imf__bytes_text(&extra, "Z");

    imf__bytes_int(&b, 0x04034b50, 4);
    put_common(&b, z, item);
    imf__bytes_int(&b, extra.size, 2);
    imf__bytes_text(&b, item->name);
    imf__bytes_put(&b, extra.data, extra.size);
    imf_status status = b.failed || extra.failed
                            ? imf__fail(err, IMF_ENOMEM, "%.300s: out of memory", z->out->path)
                            : imf__output_write(z->out, b.data, b.size, err);
    free(b.data);
    free(extra.data);
    z->data = z->out->size;
    return status;
}

imf_status imf__zip_append(struct imf__zip_writer *z, const void *data, size_t n,
                           struct imf_error *err)
{
    struct imf__zip_item *item = &z->items[z->count - 1];
    item->crc = (uint32_t)crc32_z(item->crc, data, n);
    return imf__output_write(z->out, data, n, err);
}

imf_status imf__zip_end(struct imf__zip_writer *z, struct imf_error *err)
{
    const struct imf__zip_item *item = &z->items[z->count - 1];
    assert(z->out->size - z->data == item->size);
    uint8_t crc[4];
    for (int i = 0; i < 4; i++)
        crc[i] = (uint8_t)(item->crc >> 8 * i);
    return imf__output_patch(z->out, item->header + 14, crc, sizeof(crc), err);
}

static void put_central(struct imf__bytes *b, const struct imf__zip_writer *z,
                        const struct imf__zip_item *item)
{
    struct imf__bytes extra = {0};
    bool big = large(z, item->size), far = large(z, item->header);
    if (big || far) {
        imf__bytes_int(&extra, 1, 2);
        imf__bytes_int(&extra, (big ? 16 : 0) + (far ? 8 : 0), 2);
        if (big) {
            imf__bytes_int(&extra, item->size, 8);
            imf__bytes_int(&extra, item->size, 8);
        }
        if (far)
            imf__bytes_int(&extra, item->header, 8);
    }
    imf__bytes_int(b, 0x02014b50, 4);
    imf__bytes_int(b, 45, 2); /* version made by */
    put_common(b, z, item);
    imf__bytes_int(b, extra.size, 2);
    imf__bytes_int(b, 0, 2); /* comment */
    imf__bytes_int(b, 0, 2); /* disk */
    imf__bytes_int(b, 0, 2); /* attributes */
    imf__bytes_int(b, 0, 4);
    imf__bytes_int(b, far ? 0xFFFFFFFFu : item->header, 4);
    imf__bytes_text(b, item->name);
    imf__bytes_put(b, extra.data, extra.size);
    b->failed |= extra.failed;
    free(extra.data);
}

imf_status imf__zip_finish(struct imf__zip_writer *z, struct imf_error *err)
{
    struct imf__bytes b = {0};
    uint64_t start = z->out->size;
    for (size_t i = 0; i < z->count; i++)
        put_central(&b, z, &z->items[i]);
    uint64_t size = b.size, end = start + size;
    bool big = large(z, start) || large(z, size) || z->count >= 0xFFFF;
    if (big) {
        imf__bytes_int(&b, 0x06064b50, 4);
        imf__bytes_int(&b, 44, 8);
        imf__bytes_int(&b, 45, 2);
        imf__bytes_int(&b, 45, 2);
        imf__bytes_int(&b, 0, 4);
        imf__bytes_int(&b, 0, 4);
        imf__bytes_int(&b, z->count, 8);
        imf__bytes_int(&b, z->count, 8);
        imf__bytes_int(&b, size, 8);
        imf__bytes_int(&b, start, 8);
        imf__bytes_int(&b, 0x07064b50, 4);
        imf__bytes_int(&b, 0, 4);
        imf__bytes_int(&b, end, 8);
        imf__bytes_int(&b, 1, 4);
    }
    imf__bytes_int(&b, 0x06054b50, 4);
    imf__bytes_int(&b, 0, 4);
    imf__bytes_int(&b, big ? 0xFFFF : z->count, 2);
    imf__bytes_int(&b, big ? 0xFFFF : z->count, 2);
    imf__bytes_int(&b, big ? 0xFFFFFFFFu : size, 4);
    imf__bytes_int(&b, big ? 0xFFFFFFFFu : start, 4);
    imf__bytes_int(&b, 0, 2);
    imf_status status = b.failed ? imf__fail(err, IMF_ENOMEM, "%.300s: out of memory", z->out->path)
                                 : imf__output_write(z->out, b.data, b.size, err);
    free(b.data);
    return status;
}
