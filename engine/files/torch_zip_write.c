/* torch.save's zip, written the way torch does: stored entries, data aligned to 64 bytes by a
 * padding field, zip64 records where a size or offset does not fit 32 bits. Sizes are known before
 * the data, the checksum only after it: it is patched into the local header, so no data
 * descriptors are needed. */
#include "files/torch_zip_write.h"

#include "common/error.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* ---- Bytes ----------------------------------------------------------------------------------- */

struct bytes {
    uint8_t *data;
    size_t size, capacity;
    bool failed; /* out of memory; sticky */
};

static void put(struct bytes *b, const void *data, size_t n)
{
    if (b->failed || n == 0)
        return;
    if (b->capacity - b->size < n) {
        size_t capacity = 2 * b->capacity + n + 256;
        uint8_t *grown = realloc(b->data, capacity);
        if (!grown) {
            b->failed = true;
            return;
        }
        b->data = grown;
        b->capacity = capacity;
    }
    memcpy(b->data + b->size, data, n);
    b->size += n;
}

static void put_int(struct bytes *b, uint64_t value, int n)
{
    uint8_t le[8];
    for (int i = 0; i < n; i++)
        le[i] = (uint8_t)(value >> 8 * i);
    put(b, le, (size_t)n);
}

static void put_text(struct bytes *b, const char *s)
{
    put(b, s, strlen(s));
}

/* ---- Container ------------------------------------------------------------------------------- */

void imf__zip_writer_init(struct imf__zip_writer *z, struct imf__output *out, const char *path,
                          bool zip64)
{
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    const char *dot = strrchr(name, '.');
    int n = dot && dot > name ? (int)(dot - name) : (int)strlen(name);
    *z = (struct imf__zip_writer){.out = out, .zip64 = zip64};
    snprintf(z->prefix, sizeof(z->prefix), "%.*s", n < 60 ? n : 60, name);
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
static void put_common(struct bytes *b, const struct imf__zip_writer *z,
                       const struct imf__zip_item *item)
{
    bool big = large(z, item->size);
    put_int(b, big ? 45 : 20, 2); /* version needed */
    put_int(b, 0, 2);             /* flags */
    put_int(b, 0, 2);             /* stored */
    put_int(b, 0, 2);             /* time */
    put_int(b, 0x21, 2);          /* date: 1980-01-01, so that equal weights give equal files */
    put_int(b, item->crc, 4);
    put_int(b, big ? 0xFFFFFFFFu : item->size, 4);
    put_int(b, big ? 0xFFFFFFFFu : item->size, 4);
    put_int(b, strlen(item->name), 2);
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
    snprintf(item->name, sizeof(item->name), "%s/%.30s", z->prefix, name);

    struct bytes b = {0}, extra = {0};
    if (large(z, size)) {
        put_int(&extra, 1, 2);
        put_int(&extra, 16, 2);
        put_int(&extra, size, 8);
        put_int(&extra, size, 8);
    }
    uint64_t data = z->out->size + 30 + strlen(item->name) + extra.size + 4;
    size_t padding = (size_t)(-data & 63);
    put_text(&extra, "FB"); /* torch's padding field */
    put_int(&extra, padding, 2);
    for (size_t i = 0; i < padding; i++)
        put_text(&extra, "Z");

    put_int(&b, 0x04034b50, 4);
    put_common(&b, z, item);
    put_int(&b, extra.size, 2);
    put_text(&b, item->name);
    put(&b, extra.data, extra.size);
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

static void put_central(struct bytes *b, const struct imf__zip_writer *z,
                        const struct imf__zip_item *item)
{
    struct bytes extra = {0};
    bool big = large(z, item->size), far = large(z, item->header);
    if (big || far) {
        put_int(&extra, 1, 2);
        put_int(&extra, (big ? 16 : 0) + (far ? 8 : 0), 2);
        if (big) {
            put_int(&extra, item->size, 8);
            put_int(&extra, item->size, 8);
        }
        if (far)
            put_int(&extra, item->header, 8);
    }
    put_int(b, 0x02014b50, 4);
    put_int(b, 45, 2); /* version made by */
    put_common(b, z, item);
    put_int(b, extra.size, 2);
    put_int(b, 0, 2); /* comment */
    put_int(b, 0, 2); /* disk */
    put_int(b, 0, 2); /* attributes */
    put_int(b, 0, 4);
    put_int(b, far ? 0xFFFFFFFFu : item->header, 4);
    put_text(b, item->name);
    put(b, extra.data, extra.size);
    b->failed |= extra.failed;
    free(extra.data);
}

imf_status imf__zip_finish(struct imf__zip_writer *z, struct imf_error *err)
{
    struct bytes b = {0};
    uint64_t start = z->out->size;
    for (size_t i = 0; i < z->count; i++)
        put_central(&b, z, &z->items[i]);
    uint64_t size = b.size, end = start + size;
    bool big = large(z, start) || large(z, size) || z->count >= 0xFFFF;
    if (big) {
        put_int(&b, 0x06064b50, 4);
        put_int(&b, 44, 8);
        put_int(&b, 45, 2);
        put_int(&b, 45, 2);
        put_int(&b, 0, 4);
        put_int(&b, 0, 4);
        put_int(&b, z->count, 8);
        put_int(&b, z->count, 8);
        put_int(&b, size, 8);
        put_int(&b, start, 8);
        put_int(&b, 0x07064b50, 4);
        put_int(&b, 0, 4);
        put_int(&b, end, 8);
        put_int(&b, 1, 4);
    }
    put_int(&b, 0x06054b50, 4);
    put_int(&b, 0, 4);
    put_int(&b, big ? 0xFFFF : z->count, 2);
    put_int(&b, big ? 0xFFFF : z->count, 2);
    put_int(&b, big ? 0xFFFFFFFFu : size, 4);
    put_int(&b, big ? 0xFFFFFFFFu : start, 4);
    put_int(&b, 0, 2);
    imf_status status = b.failed ? imf__fail(err, IMF_ENOMEM, "%.300s: out of memory", z->out->path)
                                 : imf__output_write(z->out, b.data, b.size, err);
    free(b.data);
    return status;
}

/* ---- Pickle ---------------------------------------------------------------------------------- */

static void pickle_text(struct bytes *b, const char *s)
{
    put_text(b, "X"); /* BINUNICODE */
    put_int(b, strlen(s), 4);
    put_text(b, s);
}

static void pickle_int(struct bytes *b, uint64_t n)
{
    if (n <= INT32_MAX) {
        put_text(b, "J"); /* BININT */
        put_int(b, n, 4);
    } else {
        put_text(b, "\x8a\x08"); /* LONG1 of 8 bytes */
        put_int(b, n, 8);
    }
}

static void pickle_tuple(struct bytes *b, int n, const int64_t *values)
{
    put_text(b, "(");
    for (int i = 0; i < n; i++)
        pickle_int(b, (uint64_t)values[i]);
    put_text(b, "t");
}

static const char *storage_class(enum imf__stored_type type)
{
    return type == IMF__STORED_F16    ? "ctorch\nHalfStorage\n"
           : type == IMF__STORED_BF16 ? "ctorch\nBFloat16Storage\n"
                                      : "ctorch\nFloatStorage\n";
}

/* _rebuild_tensor_v2(storage, 0, shape, stride, False, OrderedDict()) */
static void pickle_tensor(struct bytes *b, const struct imf__name *name, size_t key,
                          enum imf__stored_type type)
{
    int64_t stride[4], count = 1;
    for (int i = name->ndim - 1; i >= 0; i--) {
        stride[i] = count;
        count *= name->shape[i];
    }
    char text[24];
    snprintf(text, sizeof(text), "%zu", key);
    put_text(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pickle_text(b, "storage");
    put_text(b, storage_class(type));
    pickle_text(b, text);
    pickle_text(b, "cpu");
    pickle_int(b, (uint64_t)count);
    put_text(b, "tQ"); /* the tuple is a persistent id */
    pickle_int(b, 0);
    pickle_tuple(b, name->ndim, name->shape);
    pickle_tuple(b, name->ndim, stride);
    put_text(b, "\x89" /* False */ "ccollections\nOrderedDict\n)RtR");
}

static imf_status write_entry(struct imf__zip_writer *z, const char *name, const void *data,
                              size_t n, struct imf_error *err)
{
    imf_status status = imf__zip_begin(z, name, n, err);
    if (status == IMF_OK)
        status = imf__zip_append(z, data, n, err);
    return status == IMF_OK ? imf__zip_end(z, err) : status;
}

imf_status imf__zip_write_pickle(struct imf__zip_writer *z, const struct imf__weights_params *p,
                                 struct imf_error *err)
{
    struct bytes b = {0};
    put_text(&b, "\x80\x02" /* protocol 2 */ "ccollections\nOrderedDict\n)R(");
    size_t key = 0;
    for (size_t i = 0; i < p->names->count; i++) {
        const struct imf__name *name = &p->names->items[i];
        if (name->ndim == 0)
            continue;
        pickle_text(&b, name->name);
        pickle_tensor(&b, name, key++, p->type);
    }
    put_text(&b, "u.");
    imf_status status = b.failed ? imf__fail(err, IMF_ENOMEM, "%.300s: out of memory", z->out->path)
                                 : write_entry(z, "data.pkl", b.data, b.size, err);
    free(b.data);
    if (status == IMF_OK)
        status = write_entry(z, "byteorder", "little", 6, err);
    return status == IMF_OK ? write_entry(z, "version", "3\n", 2, err) : status;
}
