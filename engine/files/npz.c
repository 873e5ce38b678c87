/* NumPy archives: a zip (zip.h) of .npy arrays (npy.h). An entry is read as a stream, so no copy of a
 * large array is held beside the caller's. */
#include "files/npz.h"

#include "common/error.h"
#include "files/npy.h"
#include "files/output_file.h"
#include "files/zip.h"
#include "files/zip_write.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK (1u << 16)

struct entry {
    struct imf__npz_array array; /* first: an array pointer is an entry pointer */
    struct imf__npy_header header;
    const struct imf__zip_entry *packed; /* NULL: the file is a bare .npy */
};

struct imf__npz {
    struct imf__file file;
    struct imf__zip zip;
    struct entry *entries;
    size_t count;
};

/* "x.npz: array "mu" is encrypted" */
static imf_status named(const struct imf__npz *z, const char *name, imf_status status,
                        const struct imf_error *why, struct imf_error *err)
{
    if (status == IMF_OK)
        return IMF_OK;
    if (!name[0])
        return imf__fail(err, status, "%s: %.280s", z->file.label, why->message);
    return imf__fail(err, status, "%s: array \"%s\" %.200s", z->file.label, imf__quote(name).text,
                     why->message);
}

/* ---- Opening --------------------------------------------------------------------------------- */

static imf_status open_stream(struct imf__zip_stream *s, const struct imf__npz *z,
                              const struct entry *e, struct imf_error *err)
{
    if (e->packed)
        return imf__zip_stream_open(s, &z->zip, e->packed, err);
    imf__zip_stream_raw(s, &z->file);
    return IMF_OK;
}

static imf_status read_header(const struct imf__npz *z, struct entry *e, struct imf_error *err)
{
    struct imf__npz_array *a = &e->array;
    struct imf__npy_header *h = &e->header;
    struct imf__zip_stream s;
    IMF_TRY(open_stream(&s, z, e, err));
    imf_status status = imf__npy_read_header(h, &s, err);
    uint64_t left = s.left;
    imf__zip_stream_close(&s);
    if (status != IMF_OK)
        return status;
    a->is_double = h->type == IMF__NPY_F64;
    a->ndim = h->ndim;
    for (int i = 0; i < h->ndim; i++)
        a->shape[i] = (uint64_t)h->shape[i];
    if (h->type != IMF__NPY_F32 && h->type != IMF__NPY_F64)
        return IMF_OK; /* readable by nobody; the caller's message names what it needs */
    a->count = h->count;
    if (left != h->bytes)
        return imf__fail(err, IMF_EFORMAT, "has %llu bytes of values, its header promises %llu",
                         (unsigned long long)left, (unsigned long long)h->bytes);
    return IMF_OK;
}

/* The array's name: the entry's without ".npy". */
static imf_status name_array(struct entry *e, struct imf_error *err)
{
    const char *name = e->packed->name;
    size_t n = e->packed->name_length;
    if (n > 4 && memcmp(name + n - 4, ".npy", 4) == 0)
        n -= 4;
    if (n >= sizeof(e->array.name) || memchr(name, '\0', n))
        return imf__fail(err, IMF_EFORMAT, "has a name of %zu bytes", n);
    memcpy(e->array.name, name, n);
    e->array.name[n] = '\0';
    return IMF_OK;
}

static imf_status read_archive(struct imf__npz *z, struct imf_error *err)
{
    IMF_TRY(imf__zip_open(&z->zip, &z->file, IMF__NPZ_MAX_ARRAYS, err));
    z->entries = calloc((size_t)z->zip.count + 1, sizeof(*z->entries));
    if (!z->entries)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", z->file.label);
    for (; z->count < z->zip.count; z->count++) {
        struct entry *e = &z->entries[z->count];
        struct imf_error why = {0};
        e->packed = &z->zip.entries[z->count];
        imf_status status = name_array(e, &why);
        if (status == IMF_OK && imf__npz_find(z, e->array.name))
            status = imf__fail(&why, IMF_EFORMAT, "is there twice");
        if (status == IMF_OK)
            status = read_header(z, e, &why);
        IMF_TRY(named(z, e->array.name[0] ? e->array.name : "?", status, &why, err));
    }
    return IMF_OK;
}

static imf_status read_bare(struct imf__npz *z, struct imf_error *err)
{
    struct imf_error why = {0};
    z->entries = calloc(1, sizeof(*z->entries));
    if (!z->entries)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", z->file.label);
    z->count = 1;
    return named(z, "", read_header(z, &z->entries[0], &why), &why, err);
}

imf_status imf__npz_open(struct imf__npz **out, const char *path, struct imf_error *err)
{
    struct imf__npz *z = calloc(1, sizeof(*z));
    if (!z)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
    imf_status status = imf__file_open(&z->file, path, err);
    if (status != IMF_OK) {
        free(z);
        return status;
    }
    uint8_t magic[6] = {0};
    if (z->file.size >= sizeof(magic))
        status = imf__file_read(&z->file, magic, sizeof(magic), 0, err);
    if (status == IMF_OK)
        status = memcmp(magic, "\x93NUMPY", sizeof(magic)) == 0 ? read_bare(z, err)
                                                                : read_archive(z, err);
    if (status != IMF_OK) {
        imf__npz_close(z);
        return status;
    }
    *out = z;
    return IMF_OK;
}

void imf__npz_close(struct imf__npz *z)
{
    if (!z)
        return;
    imf__zip_close(&z->zip);
    imf__file_close(&z->file);
    free(z->entries);
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
    for (size_t i = 0; i < z->count; i++) {
        if (strcmp(z->entries[i].array.name, name) == 0)
            return &z->entries[i].array;
    }
    return NULL;
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* Where values go, in C order, while they come in the order of the file. */
struct walk {
    const struct imf__npy_header *h;
    uint64_t next; /* place in C order of the next value */
    uint64_t step[IMF__NPY_MAX_DIMS], index[IMF__NPY_MAX_DIMS];
    double *d; /* one of the two is set */
    float *f;
};

static void walk_init(struct walk *w, const struct imf__npy_header *h, double *d, float *f)
{
    *w = (struct walk){.h = h, .d = d, .f = f};
    uint64_t step = 1;
    for (int i = h->ndim - 1; i >= 0; i--) {
        w->step[i] = step;
        step *= (uint64_t)h->shape[i];
    }
}

/* In Fortran order the first index runs fastest. */
static void walk_on(struct walk *w)
{
    if (!w->h->fortran) {
        w->next++;
        return;
    }
    for (int i = 0; i < w->h->ndim; i++) {
        w->next += w->step[i];
        if (++w->index[i] < (uint64_t)w->h->shape[i])
            return;
        w->next -= w->step[i] * (uint64_t)w->h->shape[i];
        w->index[i] = 0;
    }
}

static double value_at(const struct imf__npy_header *h, const uint8_t *p)
{
    if (h->type == IMF__NPY_F64) {
        uint64_t bits = imf__le64(p);
        bits = h->big_endian ? __builtin_bswap64(bits) : bits;
        double v;
        memcpy(&v, &bits, 8);
        return v;
    }
    uint32_t bits = imf__le32(p);
    bits = h->big_endian ? __builtin_bswap32(bits) : bits;
    float v;
    memcpy(&v, &bits, 4);
    return (double)v;
}

/* n values; false when one is not finite. */
static bool convert(struct walk *w, const uint8_t *src, size_t n, size_t width)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++, walk_on(w)) {
        double v = value_at(w->h, src + width * i);
        finite = finite && isfinite(v);
        if (w->d)
            w->d[w->next] = v;
        else
            w->f[w->next] = (float)v;
    }
    return finite;
}

static imf_status read_stream(struct imf__zip_stream *s, const struct entry *e, struct walk *w,
                              struct imf_error *err)
{
    struct imf__npy_header again;
    uint8_t *buffer = malloc(CHUNK);
    if (!buffer)
        return imf__fail(err, IMF_ENOMEM, "needs memory that is not there");
    size_t width = e->array.is_double ? 8 : 4;
    imf_status status = imf__npy_read_header(&again, s, err); /* the values are behind it */
    for (uint64_t left = e->array.count; left > 0 && status == IMF_OK;) {
        size_t n = left < CHUNK / width ? (size_t)left : CHUNK / width;
        status = imf__zip_stream_read(s, buffer, n * width, err);
        if (status == IMF_OK && !convert(w, buffer, n, width))
            status = imf__fail(err, IMF_EFORMAT, "holds a NaN or an infinity");
        left -= n;
    }
    if (status == IMF_OK)
        status = imf__zip_stream_check(s, err);
    free(buffer);
    return status;
}

static imf_status read_values(struct imf__npz *z, const struct imf__npz_array *a, double *d,
                              float *f, struct imf_error *err)
{
    const struct entry *e = (const struct entry *)a;
    struct imf__zip_stream s;
    struct imf_error why = {0};
    struct walk w;
    imf_status status;
    if (e->header.type != IMF__NPY_F32 && e->header.type != IMF__NPY_F64) {
        status = imf__fail(&why, IMF_EFORMAT, "has type %s; float32 or float64 needed",
                           imf__quote(e->header.descr).text);
        return named(z, a->name, status, &why, err);
    }
    walk_init(&w, &e->header, d, f);
    status = open_stream(&s, z, e, &why);
    if (status == IMF_OK) {
        status = read_stream(&s, e, &w, &why);
        imf__zip_stream_close(&s);
    }
    return named(z, a->name, status, &why, err);
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

/* ---- Bytes ----------------------------------------------------------------------------------- */

struct imf__npz_bytes {
    const struct imf__npz *z;
    const struct entry *e;
    struct imf__zip_stream s; /* behind the header */
    uint64_t offset;          /* stored: of the first value in the file */
    uint64_t next;            /* deflated: of the value that the stream gives next */
};

/* At the first value; *s is closed by imf__zip_stream_close whatever happens. */
static imf_status rewind_bytes(struct imf__npz_bytes *b, struct imf_error *err)
{
    const struct imf__npy_header *h = &b->e->header;
    struct imf__npy_header again;
    imf__zip_stream_close(&b->s);
    b->next = 0;
    IMF_TRY(open_stream(&b->s, b->z, b->e, err));
    IMF_TRY(imf__npy_read_header(&again, &b->s, err));
    b->offset = b->s.offset;
    return b->s.left == h->bytes ? IMF_OK : imf__fail(err, IMF_EFORMAT, "does not hold its shape");
}

imf_status imf__npz_bytes_open(struct imf__npz_bytes **out, const struct imf__npz *z,
                               const struct imf__npz_array *a, struct imf_error *err)
{
    const struct entry *e = (const struct entry *)(const void *)a;
    const struct imf__npy_header *h = &e->header;
    struct imf_error why = {0};
    struct imf__npz_bytes *b = calloc(1, sizeof(*b));
    if (!b)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", z->file.label);
    b->z = z;
    b->e = e;
    imf_status status;
    if (h->type != IMF__NPY_U8 || h->fortran)
        status = imf__fail(&why, IMF_EFORMAT, "is %s%s, not bytes (uint8, C order)",
                           h->fortran ? "Fortran-ordered " : "", h->descr);
    else
        status = rewind_bytes(b, &why);
    if (status != IMF_OK) {
        imf__npz_bytes_close(b);
        return named(z, a->name, status, &why, err);
    }
    *out = b;
    return IMF_OK;
}

void imf__npz_bytes_close(struct imf__npz_bytes *b)
{
    if (!b)
        return;
    imf__zip_stream_close(&b->s);
    free(b);
}

bool imf__npz_bytes_packed(const struct imf__npz_bytes *b)
{
    return b->e->packed && b->e->packed->method != IMF__ZIP_STORED;
}

static imf_status inflate_to(struct imf__npz_bytes *b, uint8_t *dst, uint64_t n, uint64_t at,
                             struct imf_error *err)
{
    if (at < b->next)
        IMF_TRY(rewind_bytes(b, err));
    for (; b->next < at;) { /* what is left out passes through the caller's memory */
        uint64_t skip = at - b->next < n ? at - b->next : n;
        IMF_TRY(imf__zip_stream_read(&b->s, dst, (size_t)skip, err));
        b->next += skip;
    }
    IMF_TRY(imf__zip_stream_read(&b->s, dst, (size_t)n, err));
    b->next += n;
    return b->s.left == 0 ? imf__zip_stream_check(&b->s, err) : IMF_OK;
}

imf_status imf__npz_bytes_read(struct imf__npz_bytes *b, void *dst, uint64_t n, uint64_t at,
                               struct imf_error *err)
{
    struct imf_error why = {0};
    if (!imf__npz_bytes_packed(b))
        return imf__file_read(&b->z->file, dst, n, b->offset + at, err);
    return named(b->z, b->e->array.name, inflate_to(b, dst, n, at, &why), &why, err);
}

/* ---- Writing --------------------------------------------------------------------------------- */

static imf_status write_array(struct imf__zip_writer *z, const struct imf__npz_source *a,
                              struct imf_error *err)
{
    char name[160], header[IMF__NPY_HEADER];
    size_t head = imf__npy_header(header, a->f64 ? IMF__NPY_F64 : IMF__NPY_F32, a->ndim, a->shape);
    size_t bytes = a->f64 ? 8 : 4;
    for (int i = 0; i < a->ndim; i++)
        bytes *= (size_t)a->shape[i];
    snprintf(name, sizeof(name), "%.128s.npy", a->name);
    IMF_TRY(imf__zip_begin(z, name, head + bytes, err));
    IMF_TRY(imf__zip_append(z, header, head, err));
    IMF_TRY(imf__zip_append(z, a->f64 ? (const void *)a->f64 : (const void *)a->f32, bytes, err));
    return imf__zip_end(z, err);
}

imf_status imf__npz_write(const char *path, const struct imf__npz_source *arrays, size_t n,
                          struct imf_error *err)
{
    struct imf__output o;
    struct imf__zip_writer z;
    imf_status status = imf__output_open(&o, path, err);
    o.durable = true; /* hours of work may be behind these numbers */
    imf__zip_writer_init(&z, &o, false);
    for (size_t i = 0; i < n && status == IMF_OK; i++)
        status = write_array(&z, &arrays[i], err);
    if (status == IMF_OK)
        status = imf__zip_finish(&z, err);
    if (status == IMF_OK)
        status = imf__output_commit(&o, err);
    imf__zip_writer_free(&z);
    imf__output_discard(&o);
    return status;
}
