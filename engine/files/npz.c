/* Reading .npz and .npy: a zip directory (npz_directory.c), a small text header per array, and
 * values that are stored or deflated. An entry is read as a stream, so no copy of a large array is
 * held beside the caller's. Writing is in npz_write.c. */
#include "files/npz_parts.h"

#include "common/error.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { CHUNK = 1 << 16 };

/* One pass over an entry's uncompressed bytes. */
struct stream {
    const struct imf__npz *z;
    const struct imf__npz_entry *e;
    z_stream inflate;
    uint64_t offset, packed_left; /* next compressed byte in the file */
    uint64_t left;                /* uncompressed bytes not handed out yet */
    uint32_t crc;
    unsigned char *chunk;
};

imf_status imf__npz_read_at(const struct imf__npz *z, void *dst, uint64_t n, uint64_t offset,
                            struct imf_error *err)
{
    if (offset > z->file_size || n > z->file_size - offset)
        return imf__fail(err, IMF_EFORMAT, "%s: truncated: needs %llu bytes at %llu, file has %llu",
                         z->path, (unsigned long long)n, (unsigned long long)offset,
                         (unsigned long long)z->file_size);
    unsigned char *p = dst;
    while (n > 0) {
        ssize_t got = pread(z->fd, p, n > (1 << 30) ? (1 << 30) : (size_t)n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return imf__fail(err, IMF_EIO, "%s: read failed: %s", z->path,
                             got < 0 ? strerror(errno) : "the file became shorter");
        p += got;
        n -= (uint64_t)got;
        offset += (uint64_t)got;
    }
    return IMF_OK;
}

/* ---- Streams ------------------------------------------------------------------------------- */

static imf_status stream_open(struct stream *s, const struct imf__npz *z,
                              const struct imf__npz_entry *e, struct imf_error *err)
{
    memset(s, 0, sizeof(*s));
    s->z = z;
    s->e = e;
    s->offset = e->data_offset;
    s->packed_left = e->packed_size;
    s->left = e->size;
    s->crc = (uint32_t)crc32(0, NULL, 0);
    if (e->method == IMF__NPZ_DEFLATED) {
        s->chunk = malloc(CHUNK);
        if (!s->chunk || inflateInit2(&s->inflate, -MAX_WBITS) != Z_OK) {
            free(s->chunk);
            s->chunk = NULL;
            return imf__fail(err, IMF_ENOMEM, "%s: out of memory", z->path);
        }
    }
    return IMF_OK;
}

static void stream_close(struct stream *s)
{
    if (s->chunk)
        inflateEnd(&s->inflate);
    free(s->chunk);
}

static imf_status stream_inflate(struct stream *s, void *dst, size_t n, struct imf_error *err)
{
    s->inflate.next_out = dst;
    s->inflate.avail_out = (uInt)n;
    while (s->inflate.avail_out > 0) {
        if (s->inflate.avail_in == 0 && s->packed_left > 0) {
            uint64_t take = s->packed_left < CHUNK ? s->packed_left : CHUNK;
            imf_status status = imf__npz_read_at(s->z, s->chunk, take, s->offset, err);
            if (status != IMF_OK)
                return status;
            s->offset += take;
            s->packed_left -= take;
            s->inflate.next_in = s->chunk;
            s->inflate.avail_in = (uInt)take;
        }
        int rc = inflate(&s->inflate, Z_NO_FLUSH);
        if (rc == Z_STREAM_END && s->inflate.avail_out == 0)
            break;
        if (rc != Z_OK)
            return imf__fail(err, IMF_EFORMAT,
                             "%s: array \"%s\": damaged or truncated deflate data", s->z->path,
                             s->e->array.name);
    }
    return IMF_OK;
}

/* Next n bytes; n is at most 2^30. */
static imf_status stream_read(struct stream *s, void *dst, size_t n, struct imf_error *err)
{
    if (n > s->left)
        return imf__fail(err, IMF_EFORMAT, "%s: array \"%s\": truncated, %llu bytes missing",
                         s->z->path, s->e->array.name, (unsigned long long)(n - s->left));
    imf_status status;
    if (s->e->method == IMF__NPZ_DEFLATED) {
        status = stream_inflate(s, dst, n, err);
    } else {
        status = imf__npz_read_at(s->z, dst, n, s->offset, err);
        s->offset += n;
    }
    if (status != IMF_OK)
        return status;
    s->left -= n;
    s->crc = (uint32_t)crc32(s->crc, dst, (uInt)n);
    return IMF_OK;
}

/* ---- .npy headers -------------------------------------------------------------------------- */

/* Text after `'key':` in the header's Python dict, or NULL. */
static const char *dict_value(const char *header, const char *key)
{
    const char *p = strstr(header, key);
    if (!p)
        return NULL;
    p = strchr(p + strlen(key), ':');
    if (!p)
        return NULL;
    p++;
    while (*p == ' ')
        p++;
    return p;
}

static bool parse_shape(const char *p, struct imf__npz_array *a)
{
    if (*p++ != '(')
        return false;
    a->ndim = 0;
    a->count = 1;
    for (;;) {
        while (*p == ' ' || *p == ',')
            p++;
        if (*p == ')')
            return true;
        if (*p < '0' || *p > '9' || a->ndim == IMF__NPZ_MAX_DIMS)
            return false;
        char *end;
        errno = 0;
        uint64_t d = strtoull(p, &end, 10);
        if (errno || __builtin_mul_overflow(a->count, d, &a->count) || a->count > UINT64_MAX / 16)
            return false;
        a->shape[a->ndim++] = d;
        p = end;
    }
}

static imf_status parse_dict(const struct imf__npz *z, struct imf__npz_entry *e, const char *header,
                             struct imf_error *err)
{
    const char *name = e->array.name;
    const char *descr = dict_value(header, "'descr'");
    const char *order = dict_value(header, "'fortran_order'");
    const char *shape = dict_value(header, "'shape'");
    if (!descr || !order || !shape || !parse_shape(shape, &e->array))
        return imf__fail(err, IMF_EFORMAT, "%s: array \"%s\": damaged .npy header", z->path, name);
    size_t n = 0;
    if (*descr == '\'' || *descr == '"')
        for (descr++; descr[n] && descr[n] != '\'' && descr[n] != '"'; n++)
            ;
    snprintf(e->descr, sizeof(e->descr), "%.*s", (int)(n < 31 ? n : 31), descr);
    e->fortran = strncmp(order, "True", 4) == 0 && e->array.ndim > 1;
    bool f4 = strcmp(e->descr, "<f4") == 0, f8 = strcmp(e->descr, "<f8") == 0;
    e->array.is_double = f8;
    if (!f4 && !f8) {
        e->array.count = 0; /* readable by nobody; the caller's message names what it needs */
        return IMF_OK;
    }
    uint64_t bytes = e->array.count * (f8 ? 8 : 4);
    if (e->size - e->header_bytes != bytes)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: array \"%s\": header promises %llu bytes of values, entry has %llu",
                         z->path, name, (unsigned long long)bytes,
                         (unsigned long long)(e->size - e->header_bytes));
    return IMF_OK;
}

imf_status imf__npz_parse_header(const struct imf__npz *z, struct imf__npz_entry *e,
                                 struct imf_error *err)
{
    struct stream s;
    unsigned char magic[12];
    char header[4096];
    imf_status status = stream_open(&s, z, e, err);
    if (status != IMF_OK)
        return status;
    status = stream_read(&s, magic, 10, err);
    if (status != IMF_OK)
        goto out;
    if (memcmp(magic, "\x93NUMPY", 6) != 0 || magic[6] < 1 || magic[6] > 3) {
        status =
            imf__fail(err, IMF_EFORMAT, "%s: \"%s\" is not a NumPy array", z->path, e->array.name);
        goto out;
    }
    uint32_t length = imf__le16(magic + 8);
    e->header_bytes = 10;
    if (magic[6] >= 2) { /* versions 2 and 3 have a 32-bit length */
        status = stream_read(&s, magic + 10, 2, err);
        if (status != IMF_OK)
            goto out;
        length = imf__le32(magic + 8);
        e->header_bytes = 12;
    }
    if (length >= sizeof(header)) {
        status = imf__fail(err, IMF_EFORMAT, "%s: array \"%s\": .npy header of %u bytes", z->path,
                           e->array.name, length);
        goto out;
    }
    status = stream_read(&s, header, length, err);
    if (status != IMF_OK)
        goto out;
    header[length] = '\0';
    e->header_bytes += length;
    status = parse_dict(z, e, header, err);
out:
    stream_close(&s);
    return status;
}

/* ---- Interface ----------------------------------------------------------------------------- */

imf_status imf__npz_open(struct imf__npz **out, const char *path, struct imf_error *err)
{
    struct imf__npz *z = calloc(1, sizeof(*z));
    if (!z || !(z->path = strdup(path))) {
        free(z);
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
    }
    imf_status status;
    struct stat st;
    unsigned char magic[6] = {0};
    z->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (z->fd < 0 || fstat(z->fd, &st) != 0) {
        status = imf__fail(err, IMF_EIO, "%s: %s", path, strerror(errno));
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        status = imf__fail(err, IMF_EIO, "%s: not a regular file", path);
        goto fail;
    }
    z->file_size = (uint64_t)st.st_size;
    if (z->file_size >= sizeof(magic)) {
        status = imf__npz_read_at(z, magic, sizeof(magic), 0, err);
        if (status != IMF_OK)
            goto fail;
    }
    if (memcmp(magic, "\x93NUMPY", 6) == 0) {
        z->bare = true;
        z->count = 1;
        z->entries = calloc(1, sizeof(*z->entries));
        if (!z->entries) {
            status = imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
            goto fail;
        }
        z->entries[0].size = z->entries[0].packed_size = z->file_size;
        status = imf__npz_parse_header(z, &z->entries[0], err);
    } else {
        status = imf__npz_read_directory(z, err);
    }
    if (status != IMF_OK)
        goto fail;
    *out = z;
    return IMF_OK;
fail:
    imf__npz_close(z);
    return status;
}

void imf__npz_close(struct imf__npz *z)
{
    if (!z)
        return;
    if (z->fd >= 0)
        close(z->fd);
    free(z->entries);
    free(z->path);
    free(z);
}

size_t imf__npz_count(const struct imf__npz *z)
{
    return z->count;
}

const struct imf__npz_array *imf__npz_at(const struct imf__npz *z, size_t i)
{
    return &z->entries[i].array;
}

const struct imf__npz_array *imf__npz_find(const struct imf__npz *z, const char *name)
{
    for (size_t i = 0; i < z->count; i++)
        if (strcmp(z->entries[i].array.name, name) == 0)
            return &z->entries[i].array;
    return NULL;
}

/* Values of one chunk into dst_d or dst_f, whichever is set. */
static bool convert(const struct imf__npz_array *a, const unsigned char *src, size_t n,
                    double *dst_d, float *dst_f)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        double v;
        if (a->is_double) {
            memcpy(&v, src + 8 * i, 8);
        } else {
            float f;
            memcpy(&f, src + 4 * i, 4);
            v = (double)f;
        }
        finite = finite && isfinite(v);
        if (dst_d)
            dst_d[i] = v;
        else
            dst_f[i] = (float)v;
    }
    return finite;
}

static imf_status read_values(struct imf__npz *z, const struct imf__npz_array *a, double *dst_d,
                              float *dst_f, struct imf_error *err)
{
    const struct imf__npz_entry *e = NULL;
    for (size_t i = 0; i < z->count; i++)
        if (&z->entries[i].array == a)
            e = &z->entries[i];
    if (!e || (strcmp(e->descr, "<f4") != 0 && strcmp(e->descr, "<f8") != 0))
        return imf__fail(err, IMF_EFORMAT,
                         "%s: array \"%s\" has type %s; float32 or float64 needed", z->path,
                         a->name, e ? e->descr : "?");
    if (e->fortran)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: array \"%s\" is in Fortran order; save numpy.ascontiguousarray of it",
                         z->path, a->name);
    struct stream s;
    unsigned char *buffer = malloc(CHUNK > 4096 ? CHUNK : 4096);
    if (!buffer)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", z->path);
    imf_status status = stream_open(&s, z, e, err);
    if (status != IMF_OK)
        goto out;
    for (uint64_t skip = e->header_bytes; skip > 0 && status == IMF_OK;) {
        size_t n = skip < 4096 ? (size_t)skip : 4096;
        status = stream_read(&s, buffer, n, err);
        skip -= n;
    }
    size_t width = a->is_double ? 8 : 4, per_chunk = CHUNK / width;
    for (uint64_t i = 0; i < a->count && status == IMF_OK;) {
        size_t n = a->count - i < per_chunk ? (size_t)(a->count - i) : per_chunk;
        status = stream_read(&s, buffer, n * width, err);
        if (status == IMF_OK &&
            !convert(a, buffer, n, dst_d ? dst_d + i : NULL, dst_f ? dst_f + i : NULL))
            status = imf__fail(err, IMF_EFORMAT, "%s: array \"%s\" holds a NaN or an infinity",
                               z->path, a->name);
        i += n;
    }
    if (status == IMF_OK && !z->bare && s.crc != e->crc)
        status = imf__fail(err, IMF_EFORMAT,
                           "%s: array \"%s\": checksum differs, the file is "
                           "damaged",
                           z->path, a->name);
    stream_close(&s);
out:
    free(buffer);
    return status;
}

imf_status imf__npz_read_double(struct imf__npz *z, const struct imf__npz_array *a, double *dst,
                                struct imf_error *err)
{
    return read_values(z, a, dst, NULL, err);
}

imf_status imf__npz_read_float(struct imf__npz *z, const struct imf__npz_array *a, float *dst,
                               struct imf_error *err)
{
    return read_values(z, a, NULL, dst, err);
}
