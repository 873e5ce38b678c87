/* npy.h: magic, version, the length of a header that is a Python dict literal, the data. */
#include "files/npy.h"

#include "files/checkpoint_parts.h"
#include "files/output_file.h"

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

static bool take_shape(struct literal *l, struct imf__npy *a)
{
    if (!take(l, "("))
        return refuse(l, "its shape is no tuple");
    a->ndim = 0;
    while (!take(l, ")")) {
        skip_space(l);
        size_t n = strspn(l->p, "0123456789");
        if (n == 0 || n > 18)
            return refuse(l, "its shape holds something that is no size");
        if (a->ndim == IMF__NPY_MAX_DIMS)
            return refuse(l, "more than 8 dimensions");
        a->shape[a->ndim++] = strtoll(l->p, NULL, 10);
        l->p += n;
        if (!take(l, ",") && *l->p != ')')
            return refuse(l, "its shape is damaged");
    }
    return true;
}

static bool take_descr(struct literal *l, struct imf__npy *a)
{
    char descr[8];
    if (!take_string(l, descr, sizeof(descr)))
        return refuse(l, "a structured or unknown dtype");
    for (size_t i = 0; i < TYPES; i++) {
        if (strcmp(types[i].descr, descr) == 0) {
            a->type = (enum imf__npy_type)i;
            return true;
        }
    }
    return refuse(l, "its dtype is not little-endian f2, f4, f8, i4, i8 or u1");
}

static bool parse_header(struct literal *l, struct imf__npy *a)
{
    bool descr = false, order = false, shape = false;
    if (!take(l, "{"))
        return refuse(l, "its header is no dict");
    while (!take(l, "}")) {
        char key[16];
        if (!take_string(l, key, sizeof(key)) || !take(l, ":"))
            return refuse(l, "its header is damaged");
        if (strcmp(key, "descr") == 0 && !descr) {
            descr = take_descr(l, a);
            if (!descr)
                return false;
        } else if (strcmp(key, "fortran_order") == 0 && !order) {
            order = take(l, "False");
            if (!order)
                return refuse(l, "it is in Fortran order");
        } else if (strcmp(key, "shape") == 0 && !shape) {
            shape = take_shape(l, a);
            if (!shape)
                return false;
        } else {
            return refuse(l, "its header has an unknown or repeated key");
        }
        if (!take(l, ",") && *l->p != '}')
            return refuse(l, "its header is damaged");
    }
    skip_space(l);
    if (*l->p)
        return refuse(l, "text after its header");
    return (descr && order && shape) || refuse(l, "its header lacks a key");
}

static imf_status read_header(const struct imf__file *f, struct imf__npy *a, uint64_t *data,
                              struct imf_error *err)
{
    uint8_t head[12];
    imf_status status = imf__file_read(f, head, 10, 0, err);
    if (status != IMF_OK)
        return status;
    if (memcmp(head, "\x93NUMPY", 6) != 0 || head[6] < 1 || head[6] > 3)
        return imf__fail(err, IMF_EFORMAT, "%s: not a .npy file of version 1 to 3", f->label);
    uint64_t start = head[6] == 1 ? 10 : 12;
    status = imf__file_read(f, head, (size_t)start, 0, err);
    if (status != IMF_OK)
        return status;
    uint64_t n = head[8] | (uint64_t)head[9] << 8;
    if (start == 12)
        n |= (uint64_t)head[10] << 16 | (uint64_t)head[11] << 24;
    if (n > MAX_HEADER)
        return imf__fail(err, IMF_EFORMAT, "%s: a .npy header of %llu bytes", f->label,
                         (unsigned long long)n);
    char *text = malloc((size_t)n + 1);
    if (!text)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", f->label);
    status = imf__file_read(f, text, (size_t)n, start, err);
    if (status == IMF_OK) {
        text[n] = '\0';
        struct literal l = {.p = text, .why = ""};
        if (strlen(text) != n || !parse_header(&l, a))
            status = imf__fail(err, IMF_EFORMAT, "%s: %s", f->label,
                               l.why[0] ? l.why : "its header holds a NUL");
    }
    free(text);
    *data = start + n;
    return status;
}

/* ---- Load and save --------------------------------------------------------------------------- */

static imf_status load(const struct imf__file *f, struct imf__npy *a, struct imf_error *err)
{
    uint64_t data = 0, bytes, count = 1;
    imf_status status = read_header(f, a, &data, err);
    if (status != IMF_OK)
        return status;
    bool fits = true;
    for (int i = 0; i < a->ndim; i++)
        fits = fits && imf__mul(&count, count, (uint64_t)a->shape[i]);
    if (!fits || !imf__mul(&bytes, count, types[a->type].bytes) || bytes != f->size - data)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: its shape does not fit its size, %llu bytes of data (truncated?)",
                         f->label, (unsigned long long)(f->size - data));
    a->count = (size_t)count;
    a->data = malloc((size_t)bytes + 1);
    if (!a->data)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", f->label);
    return imf__file_read(f, a->data, (size_t)bytes, data, err);
}

imf_status imf__npy_load(struct imf__npy *out, const char *path, struct imf_error *err)
{
    struct imf__file f;
    struct imf__npy a = {0};
    imf_status status = imf__file_open(&f, path, err);
    if (status != IMF_OK)
        return status;
    status = load(&f, &a, err);
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
