/* npy.h: magic, version, the length of a header that is a Python dict literal, the data. */
#include "files/npy.h"

#include "common/error.h"
#include "files/output_file.h"
#include "files/zip.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HEADER 65536

static const struct {
    const char *descr;
    size_t bytes;
} types[] = {{"<f4", 4}, {"<f8", 8}, {"<f2", 2}, {"|u1", 1}, {"<i4", 4}, {"<i8", 8}};
#define TYPES (sizeof(types) / sizeof(types[0]))

/* ---- Header ---------------------------------------------------------------------------------- */

/* {'descr': '<f4', 'fortran_order': False, 'shape': (7, 4), } with the keys in any order. */
struct literal {
    const char *p; /* NUL-terminated */
    const char *why;
};

static void skip_space(struct literal *l)
{
    while (*l->p == ' ' || *l->p == '\n' || *l->p == '\t')
        l->p++;
}

static bool take(struct literal *l, const char *token)
{
    size_t n = strlen(token);
    skip_space(l);
    if (strncmp(l->p, token, n) != 0)
        return false;
    l->p += n;
    return true;
}

static bool refuse(struct literal *l, const char *why)
{
    l->why = why;
    return false;
}

/* A quoted string without escapes. */
static bool take_string(struct literal *l, char *out, size_t size)
{
    skip_space(l);
    char quote = *l->p;
    if (quote != '\'' && quote != '"')
        return false;
    size_t n = strcspn(l->p + 1, "'\"\\");
    if (n >= size || l->p[1 + n] != quote)
        return false;
    memcpy(out, l->p + 1, n);
    out[n] = '\0';
    l->p += n + 2;
    return true;
}

static bool take_shape(struct literal *l, struct imf__npy_header *h)
{
    if (!take(l, "("))
        return refuse(l, "has a shape that is no tuple");
    h->ndim = 0;
    while (!take(l, ")")) {
        skip_space(l);
        size_t n = strspn(l->p, "0123456789");
        if (n == 0 || n > 18)
            return refuse(l, "has something that is no size in its shape");
        if (h->ndim == IMF__NPY_MAX_DIMS)
            return refuse(l, "has more than 8 dimensions");
        h->shape[h->ndim++] = strtoll(l->p, NULL, 10);
        l->p += n;
        if (!take(l, ",") && *l->p != ')')
            return refuse(l, "has a damaged shape");
    }
    return true;
}

/* Passes over a list of fields; brackets inside strings do not occur in dtypes. */
static bool take_structure(struct literal *l)
{
    int depth = 0;
    do {
        depth += (*l->p == '[' || *l->p == '(') - (*l->p == ']' || *l->p == ')');
        if (!*l->p++)
            return false;
    } while (depth > 0);
    return true;
}

static bool take_descr(struct literal *l, struct imf__npy_header *h)
{
    h->type = IMF__NPY_OTHER;
    skip_space(l);
    if (*l->p == '[') {
        snprintf(h->descr, sizeof(h->descr), "structured");
        return take_structure(l) || refuse(l, "has a damaged dtype");
    }
    if (!take_string(l, h->descr, sizeof(h->descr)))
        return refuse(l, "has a damaged dtype");
    char little[sizeof(h->descr)];
    memcpy(little, h->descr, sizeof(little));
    h->big_endian = little[0] == '>';
    if (h->big_endian)
        little[0] = '<';
    for (size_t i = 0; i < TYPES; i++) {
        if (strcmp(types[i].descr, little) == 0)
            h->type = (enum imf__npy_type)i;
    }
    return true;
}

static bool parse_header(struct literal *l, struct imf__npy_header *h)
{
    bool descr = false, order = false, shape = false;
    if (!take(l, "{"))
        return refuse(l, "has a header that is no dict");
    while (!take(l, "}")) {
        char key[16];
        if (!take_string(l, key, sizeof(key)) || !take(l, ":"))
            return refuse(l, "has a damaged header");
        if (strcmp(key, "descr") == 0 && !descr) {
            descr = take_descr(l, h);
            if (!descr)
                return false;
        } else if (strcmp(key, "fortran_order") == 0 && !order) {
            h->fortran = take(l, "True");
            order = h->fortran || take(l, "False");
            if (!order)
                return refuse(l, "has neither Fortran nor C order");
        } else if (strcmp(key, "shape") == 0 && !shape) {
            shape = take_shape(l, h);
            if (!shape)
                return false;
        } else {
            return refuse(l, "has an unknown or repeated key in its header");
        }
        if (!take(l, ",") && *l->p != '}')
            return refuse(l, "has a damaged header");
    }
    skip_space(l);
    if (*l->p)
        return refuse(l, "has text after its header");
    return (descr && order && shape) || refuse(l, "has a header that lacks a key");
}

static imf_status measure(struct imf__npy_header *h, struct imf_error *err)
{
    h->count = 1;
    h->fortran = h->fortran && h->ndim > 1;
    for (int i = 0; i < h->ndim; i++) {
        if (!imf__mul(&h->count, h->count, (uint64_t)h->shape[i]) || h->count > INT64_MAX / 16)
            return imf__fail(err, IMF_EFORMAT, "has a shape that overflows");
    }
    h->bytes = h->type == IMF__NPY_OTHER ? 0 : h->count * types[h->type].bytes;
    return IMF_OK;
}

imf_status imf__npy_read_header(struct imf__npy_header *h, struct imf__zip_stream *s,
                                struct imf_error *err)
{
    uint8_t head[12];
    *h = (struct imf__npy_header){.type = IMF__NPY_OTHER};
    if (s->left < 10)
        return imf__fail(err, IMF_EFORMAT, "is no NumPy array: %llu bytes",
                         (unsigned long long)s->left);
    IMF_TRY(imf__zip_stream_read(s, head, 10, err));
    if (memcmp(head, "\x93NUMPY", 6) != 0 || head[6] < 1 || head[6] > 3)
        return imf__fail(err, IMF_EFORMAT, "is not a NumPy array of version 1 to 3");
    uint64_t n = imf__le16(head + 8);
    if (head[6] > 1) { /* versions 2 and 3 have a length of 32 bits */
        IMF_TRY(imf__zip_stream_read(s, head + 10, 2, err));
        n = imf__le32(head + 8);
    }
    if (n > MAX_HEADER)
        return imf__fail(err, IMF_EFORMAT, "has a header of %llu bytes", (unsigned long long)n);
    char *text = malloc((size_t)n + 1);
    if (!text)
        return imf__fail(err, IMF_ENOMEM, "needs memory that is not there");
    imf_status status = imf__zip_stream_read(s, text, (size_t)n, err);
    if (status == IMF_OK) {
        text[n] = '\0';
        struct literal l = {.p = text, .why = ""};
        if (strlen(text) != n || !parse_header(&l, h))
            status =
                imf__fail(err, IMF_EFORMAT, "%s", l.why[0] ? l.why : "has a NUL in its header");
    }
    free(text);
    return status == IMF_OK ? measure(h, err) : status;
}

/* ---- Load and save --------------------------------------------------------------------------- */

static imf_status load(const struct imf__file *f, struct imf__npy *a, struct imf_error *err)
{
    struct imf__zip_stream s;
    struct imf__npy_header h;
    imf__zip_stream_raw(&s, f);
    IMF_TRY(imf__npy_read_header(&h, &s, err));
    if (h.type == IMF__NPY_OTHER || h.big_endian)
        return imf__fail(err, IMF_EFORMAT,
                         "is of type %s, not little-endian f2, f4, f8, i4, i8 or u1", h.descr);
    if (h.fortran)
        return imf__fail(err, IMF_EFORMAT, "is in Fortran order");
    if (h.bytes != s.left)
        return imf__fail(err, IMF_EFORMAT, "has %llu bytes of data, its shape needs %llu",
                         (unsigned long long)s.left, (unsigned long long)h.bytes);
    a->type = h.type;
    a->ndim = h.ndim;
    memcpy(a->shape, h.shape, sizeof(a->shape));
    a->count = (size_t)h.count;
    a->data = malloc((size_t)h.bytes + 1);
    if (!a->data)
        return imf__fail(err, IMF_ENOMEM, "needs memory that is not there");
    return imf__zip_stream_read(&s, a->data, (size_t)h.bytes, err);
}

imf_status imf__npy_load(struct imf__npy *out, const char *path, struct imf_error *err)
{
    struct imf__file f;
    struct imf__npy a = {0};
    imf_status status = imf__file_open(&f, path, err);
    if (status != IMF_OK)
        return status;
    struct imf_error why = {0};
    status = load(&f, &a, &why);
    if (status != IMF_OK)
        imf__fail(err, status, "%s: %.280s", f.label, why.message);
    imf__file_close(&f);
    if (status == IMF_OK)
        *out = a;
    else
        imf__npy_free(&a);
    return status;
}

void imf__npy_free(struct imf__npy *a)
{
    free(a->data);
    *a = (struct imf__npy){0};
}

size_t imf__npy_header(char header[IMF__NPY_HEADER], enum imf__npy_type type, int ndim,
                       const int64_t *shape)
{
    assert(ndim >= 0 && ndim <= IMF__NPY_MAX_DIMS);
    char *text = header + 10; /* after magic, version and length */
    size_t size = IMF__NPY_HEADER - 10;
    int n = snprintf(text, size, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                     types[type].descr);
    for (int i = 0; i < ndim; i++)
        n += snprintf(text + n, size - (size_t)n, "%lld%s", (long long)shape[i],
                      ndim == 1      ? ","
                      : i + 1 < ndim ? ", "
                                     : "");
    n += snprintf(text + n, size - (size_t)n, "), }");
    while ((10 + n + 1) % 64)
        text[n++] = ' ';
    text[n++] = '\n';
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = (char)n;
    header[9] = (char)(n >> 8);
    return 10 + (size_t)n;
}

imf_status imf__npy_save(const char *path, enum imf__npy_type type, int ndim, const int64_t *shape,
                         const void *data, struct imf_error *err)
{
    char header[IMF__NPY_HEADER];
    size_t count = 1;
    for (int i = 0; i < ndim; i++)
        count *= (size_t)shape[i];
    const struct iovec pieces[] = {{header, imf__npy_header(header, type, ndim, shape)},
                                   {(void *)data, count * types[type].bytes}};
    return imf__output_save(path, pieces, 2, err);
}
