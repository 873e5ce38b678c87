/* safetensors: 8 bytes of header length, a JSON header, the data.
 *
 * As strict as the reference implementation: ranges match the shapes, and together they are the
 * data, without gaps and overlaps. Stricter in that names must not repeat. More lenient towards
 * tensors of types that are not known here: they are listed, never read. */
#include "files/checkpoint_parts.h"
#include "common/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct dtype {
    const char *name;
    enum imf__stored_type type;
    uint32_t bits;
} dtypes[] = {
    {"F32", IMF__STORED_F32, 32},      {"F16", IMF__STORED_F16, 16},
    {"BF16", IMF__STORED_BF16, 16},    {"F64", IMF__STORED_F64, 64},
    {"I64", IMF__STORED_OTHER, 64},    {"I32", IMF__STORED_OTHER, 32},
    {"I16", IMF__STORED_OTHER, 16},    {"I8", IMF__STORED_OTHER, 8},
    {"U64", IMF__STORED_OTHER, 64},    {"U32", IMF__STORED_OTHER, 32},
    {"U16", IMF__STORED_OTHER, 16},    {"U8", IMF__STORED_OTHER, 8},
    {"BOOL", IMF__STORED_OTHER, 8},    {"C64", IMF__STORED_OTHER, 64},
    {"F4", IMF__STORED_OTHER, 4},      {"F6_E2M3", IMF__STORED_OTHER, 6},
    {"F6_E3M2", IMF__STORED_OTHER, 6},
};

/* One header being parsed. */
struct header {
    struct imf__checkpoint *c;
    struct imf__json json;
    uint32_t file;
    uint64_t data_offset;
    struct imf_error *err;
};

static const char *label(const struct header *h)
{
    return h->c->files[h->file].label;
}

static imf_status bad_header(const struct header *h, const char *tensor, const char *why)
{
    if (h->json.error)
        why = h->json.error;
    if (!tensor)
        return imf__fail(h->err, IMF_EFORMAT, "%s: safetensors header: %s (byte %zu)", label(h),
                         why, h->json.at);
    return imf__fail(h->err, IMF_EFORMAT, "%s: tensor \"%s\": %s", label(h),
                     imf__quote(tensor).text, why);
}

/* An array of at most `max` non-negative integers; -1 when it is anything else. */
static int integers(struct imf__json *j, int64_t *out, int max)
{
    if (imf__json_next(j) != IMF__JSON_ARRAY)
        return -1;
    for (int n = 0;; n++) {
        enum imf__json_event event = imf__json_next(j);
        if (event == IMF__JSON_ARRAY_END)
            return n;
        if (event != IMF__JSON_NUMBER || !j->is_integer || j->integer < 0 || n == max)
            return -1;
        out[n] = j->integer;
    }
}

/* NULL: a type of another time, or of eight bits. Nothing here would read it. */
static const struct dtype *find_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    }
    return NULL;
}

/* What a tensor's description holds. */
struct description {
    const struct dtype *dtype;
    bool typed;
    int64_t range[2];
};

/* Sizes in the file, and a dense stride. */
static imf_status place_tensor(struct header *h, struct imf__entry *e, const struct description *d)
{
    const char *name = e->tensor.name;
    uint64_t count = 1, bits, bytes = (uint64_t)(d->range[1] - d->range[0]);
    for (int i = e->tensor.ndim - 1; i >= 0; i--) {
        e->place.stride[i] = (int64_t)count;
        if (!imf__mul(&count, count, (uint64_t)e->tensor.shape[i]) || count > INT64_MAX / 64)
            return bad_header(h, name, "its shape overflows");
    }
    bits = d->dtype ? count * d->dtype->bits : 8 * bytes;
    uint64_t needed = (bits + 7) / 8;
    if (bits % 8 || needed != bytes)
        return imf__fail(
            h->err, IMF_EFORMAT, "%s: tensor \"%s\": its data has %llu bytes, its shape needs %llu",
            label(h), imf__quote(name).text, (unsigned long long)bytes, (unsigned long long)needed);
    e->tensor.type = d->dtype ? d->dtype->type : IMF__STORED_OTHER;
    e->place.item = d->dtype && d->dtype->bits % 8 == 0 ? d->dtype->bits / 8 : 0;
    e->place.bytes = bytes;
    /* No overflow: the data's offset is at most 100 MB, range is below 10^18. */
    e->place.offset = h->data_offset + (uint64_t)d->range[0];
    return imf__checkpoint_add(h->c, e, "its data", h->err);
}

/* {"dtype": .., "shape": [..], "data_offsets": [begin, end]} of one tensor; other keys are none of
 * our business. */
static imf_status parse_tensor(struct header *h, const char *name)
{
    struct imf__json *j = &h->json;
    struct imf__entry e = {.tensor = {.name = name, .ndim = -1}, .place = {.file = h->file}};
    struct description d = {.range = {-1, -1}};
    if (imf__json_next(j) != IMF__JSON_OBJECT)
        return bad_header(h, name, "not described by an object");
    enum imf__json_event event;
    while ((event = imf__json_next(j)) == IMF__JSON_KEY) {
        bool shape = strcmp(j->string, "shape") == 0, dtype = strcmp(j->string, "dtype") == 0;
        bool range = strcmp(j->string, "data_offsets") == 0;
        if ((dtype && d.typed) || (shape && e.tensor.ndim >= 0) || (range && d.range[0] >= 0))
            return bad_header(h, name, "repeated key in its description");
        if (dtype) {
            if (imf__json_next(j) != IMF__JSON_STRING)
                return bad_header(h, name, "its dtype is no string");
            d.dtype = find_dtype(j->string);
            d.typed = true;
        } else if (shape) {
            e.tensor.ndim = integers(j, e.tensor.shape, IMF__MAX_DIMS);
            if (e.tensor.ndim < 0)
                return bad_header(h, name, "its shape is no list of up to 8 sizes");
        } else if (range) {
            if (integers(j, d.range, 2) != 2)
                return bad_header(h, name, "its data_offsets are no two integers");
        } else if (!imf__json_skip(j, imf__json_next(j))) {
            return bad_header(h, name, "bad description");
        }
    }
    if (event != IMF__JSON_OBJECT_END)
        return bad_header(h, name, "bad description");
    if (!d.typed || e.tensor.ndim < 0 || d.range[0] < 0)
        return bad_header(h, name, "dtype, shape or data_offsets missing");
    if (d.range[1] < d.range[0])
        return bad_header(h, name, "its data ends before it begins");
    return place_tensor(h, &e, &d);
}

static imf_status parse_metadata(struct header *h)
{
    struct imf__json *j = &h->json;
    enum imf__json_event event = imf__json_next(j);
    if (event == IMF__JSON_NULL)
        return IMF_OK;
    if (event != IMF__JSON_OBJECT)
        return bad_header(h, NULL, "__metadata__ is no object");
    while ((event = imf__json_next(j)) == IMF__JSON_KEY) {
        const char *key = j->string;
        if (imf__json_next(j) != IMF__JSON_STRING)
            return bad_header(h, NULL, "__metadata__ holds something that is no string");
        imf_status status = imf__checkpoint_add_meta(h->c, key, j->string, h->err);
        if (status != IMF_OK)
            return status;
    }
    return event == IMF__JSON_OBJECT_END ? IMF_OK : bad_header(h, NULL, "bad __metadata__");
}

static imf_status parse_header(struct header *h)
{
    struct imf__json *j = &h->json;
    if (imf__json_next(j) != IMF__JSON_OBJECT)
        return bad_header(h, NULL, "no object");
    enum imf__json_event event;
    while ((event = imf__json_next(j)) == IMF__JSON_KEY) {
        const char *name = j->string;
        imf_status status =
            strcmp(name, "__metadata__") == 0 ? parse_metadata(h) : parse_tensor(h, name);
        if (status != IMF_OK)
            return status;
    }
    if (event != IMF__JSON_OBJECT_END || imf__json_next(j) != IMF__JSON_END)
        return bad_header(h, NULL, "no end");
    return IMF_OK;
}

static int compare_offsets(const void *a, const void *b)
{
    const struct imf__entry *x = *(const struct imf__entry *const *)a;
    const struct imf__entry *y = *(const struct imf__entry *const *)b;
    return x->place.offset < y->place.offset ? -1 : x->place.offset > y->place.offset;
}

/* The entries from `first` on, which are this file's, cover its data exactly. */
static imf_status check_cover(const struct header *h, size_t first)
{
    size_t n = h->c->count - first, used = 0;
    const struct imf__entry **sorted = malloc((n + 1) * sizeof(*sorted));
    if (!sorted)
        return imf__fail(h->err, IMF_ENOMEM, "%s: out of memory", label(h));
    for (size_t i = 0; i < n; i++) {
        if (h->c->entries[first + i].place.bytes)
            sorted[used++] = &h->c->entries[first + i];
    }
    qsort(sorted, used, sizeof(*sorted), compare_offsets);
    uint64_t at = h->data_offset, size = h->c->files[h->file].size;
    imf_status status = IMF_OK;
    if (n == 0)
        at = size; /* refused later, for holding nothing */
    for (size_t i = 0; i < used && status == IMF_OK; i++) {
        const struct imf__place *p = &sorted[i]->place;
        if (p->offset < at)
            status = imf__fail(h->err, IMF_EFORMAT, "%s: tensors \"%s\" and \"%s\" overlap",
                               label(h), imf__quote(sorted[i - 1]->tensor.name).text,
                               imf__quote(sorted[i]->tensor.name).text);
        else if (p->offset > at)
            status = imf__fail(h->err, IMF_EFORMAT,
                               "%s: %llu bytes in front of tensor \"%s\" belong to none", label(h),
                               (unsigned long long)(p->offset - at),
                               imf__quote(sorted[i]->tensor.name).text);
        at = p->offset + p->bytes;
    }
    if (status == IMF_OK && at != size)
        status =
            imf__fail(h->err, IMF_EFORMAT, "%s: %llu bytes behind the last tensor belong to none",
                      label(h), (unsigned long long)(size - at));
    free(sorted);
    return status;
}

bool imf__is_safetensors(const uint8_t *head, size_t n, uint64_t file_size)
{
    uint64_t size = 0;
    if (n < 9)
        return false;
    for (int i = 7; i >= 0; i--)
        size = size << 8 | head[i];
    /* A '{', or blanks in front of one. */
    return (head[8] == '{' || head[8] == ' ' || (head[8] >= '\t' && head[8] <= '\r')) &&
           size <= IMF__MAX_HEADER && size <= file_size;
}

imf_status imf__safetensors_read(struct imf__checkpoint *c, uint32_t file, struct imf_error *err)
{
    c->format = "safetensors";
    const struct imf__file *f = &c->files[file];
    uint8_t head[8];
    imf_status status = imf__file_read(f, head, sizeof(head), 0, err);
    if (status != IMF_OK)
        return status;
    uint64_t size = 0;
    for (int i = 7; i >= 0; i--)
        size = size << 8 | head[i];
    if (size > IMF__MAX_HEADER || size > f->size - sizeof(head))
        return imf__fail(err, IMF_EFORMAT,
                         "%s: safetensors header of %llu bytes in a file of %llu (truncated?)",
                         f->label, (unsigned long long)size, (unsigned long long)f->size);
    char *text = malloc((size_t)size + 1);
    if (!text)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", f->label);
    status = imf__file_read(f, text, (size_t)size, sizeof(head), err);
    if (status == IMF_OK) {
        struct header h = {.c = c, .file = file, .data_offset = sizeof(head) + size, .err = err};
        size_t first = c->count;
        imf__json_init(&h.json, text, (size_t)size);
        status = parse_header(&h);
        if (status == IMF_OK)
            status = check_cover(&h, first);
    }
    free(text);
    return status;
}
