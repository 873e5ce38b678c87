/* safetensors: 8 bytes of header length, a JSON header, the data.
 *
 * As strict as the reference implementation: ranges match the shapes, and together they are the
 * data, without gaps and overlaps. Of a name that is there twice the last counts, and what came
 * before it owns no data. More lenient towards tensors of types that are not known here: they are
 * listed, never read. */
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
    {"F32", IMF__STORED_F32, 32},          {"F16", IMF__STORED_F16, 16},
    {"BF16", IMF__STORED_BF16, 16},        {"F64", IMF__STORED_F64, 64},
    {"I64", IMF__STORED_OTHER, 64},        {"I32", IMF__STORED_OTHER, 32},
    {"I16", IMF__STORED_OTHER, 16},        {"I8", IMF__STORED_OTHER, 8},
    {"U64", IMF__STORED_OTHER, 64},        {"U32", IMF__STORED_OTHER, 32},
    {"U16", IMF__STORED_OTHER, 16},        {"U8", IMF__STORED_OTHER, 8},
    {"BOOL", IMF__STORED_OTHER, 8},        {"C64", IMF__STORED_OTHER, 64},
    {"F4", IMF__STORED_OTHER, 4},          {"F6_E2M3", IMF__STORED_OTHER, 6},
    {"F6_E3M2", IMF__STORED_OTHER, 6},     {"F8_E5M2", IMF__STORED_OTHER, 8},
    {"F8_E4M3", IMF__STORED_OTHER, 8},     {"F8_E8M0", IMF__STORED_OTHER, 8},
    {"F8_E5M2FNUZ", IMF__STORED_OTHER, 8}, {"F8_E4M3FNUZ", IMF__STORED_OTHER, 8},
};

/* What the header says of a tensor. */
struct description {
    const char *name; /* in the header's text */
    const struct dtype *dtype;
    bool typed;
    int ndim;                     /* -1: not said */
    int64_t shape[IMF__MAX_DIMS]; /* the first of them, where there are more */
    int64_t range[2];
};

/* One header being parsed. */
struct header {
    struct imf__checkpoint *c;
    struct imf__json json;
    uint32_t file;
    uint64_t data_offset;
    struct description *tensors;
    size_t count, capacity;
    bool has_metadata;
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

/* The length of an array of non-negative integers, the first `max` of them in out; -1 when it is
 * anything else. */
static int integers(struct imf__json *j, int64_t *out, int max)
{
    if (imf__json_next(j) != IMF__JSON_ARRAY)
        return -1;
    for (int n = 0;; n++) {
        enum imf__json_event event = imf__json_next(j);
        if (event == IMF__JSON_ARRAY_END)
            return n;
        if (event != IMF__JSON_NUMBER || !j->is_integer || j->integer < 0 || n == INT32_MAX)
            return -1;
        if (n < max)
            out[n] = j->integer;
    }
}

/* NULL: a type of another time. Nothing here would read it. */
static const struct dtype *find_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    }
    return NULL;
}

/* {"dtype": .., "shape": [..], "data_offsets": [begin, end]} of one tensor; other keys are none of
 * our business. */
static imf_status parse_description(struct header *h, struct description *d)
{
    struct imf__json *j = &h->json;
    if (imf__json_next(j) != IMF__JSON_OBJECT)
        return bad_header(h, d->name, "not described by an object");
    enum imf__json_event event;
    while ((event = imf__json_next(j)) == IMF__JSON_KEY) {
        bool shape = strcmp(j->string, "shape") == 0, dtype = strcmp(j->string, "dtype") == 0;
        bool range = strcmp(j->string, "data_offsets") == 0;
        if ((dtype && d->typed) || (shape && d->ndim >= 0) || (range && d->range[0] >= 0))
            return bad_header(h, d->name, "repeated key in its description");
        if (dtype) {
            if (imf__json_next(j) != IMF__JSON_STRING)
                return bad_header(h, d->name, "its dtype is no string");
            d->dtype = find_dtype(j->string);
            d->typed = true;
        } else if (shape) {
            d->ndim = integers(j, d->shape, IMF__MAX_DIMS);
            if (d->ndim < 0)
                return bad_header(h, d->name, "its shape is no list of sizes");
        } else if (range) {
            if (integers(j, d->range, 2) != 2)
                return bad_header(h, d->name, "its data_offsets are no two integers");
        } else if (!imf__json_skip(j, imf__json_next(j))) {
            return bad_header(h, d->name, "bad description");
        }
    }
    if (event != IMF__JSON_OBJECT_END)
        return bad_header(h, d->name, "bad description");
    if (!d->typed || d->ndim < 0 || d->range[0] < 0)
        return bad_header(h, d->name, "dtype, shape or data_offsets missing");
    return IMF_OK;
}

static imf_status parse_tensor(struct header *h, const char *name)
{
    if (h->count == h->capacity) {
        if (h->count >= IMF__MAX_TENSORS)
            return bad_header(h, NULL, "too many tensors");
        size_t capacity = h->capacity ? 2 * h->capacity : 256;
        struct description *grown = realloc(h->tensors, capacity * sizeof(*grown));
        if (!grown)
            return imf__fail(h->err, IMF_ENOMEM, "%s: out of memory", label(h));
        h->tensors = grown;
        h->capacity = capacity;
    }
    struct description *d = &h->tensors[h->count++];
    *d = (struct description){.name = name, .ndim = -1, .range = {-1, -1}};
    return parse_description(h, d);
}

static imf_status parse_metadata(struct header *h)
{
    struct imf__json *j = &h->json;
    enum imf__json_event event = imf__json_next(j);
    if (h->has_metadata)
        return bad_header(h, NULL, "__metadata__ is there twice");
    h->has_metadata = true;
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

/* By name; of one name those that came later first. */
static int compare_names(const void *a, const void *b)
{
    const struct description *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->name < y->name) - (x->name > y->name);
}

static int compare_ranges(const void *a, const void *b)
{
    const struct description *x = a, *y = b;
    for (int i = 0; i < 2; i++) {
        if (x->range[i] != y->range[i])
            return x->range[i] < y->range[i] ? -1 : 1;
    }
    return 0;
}

/* Leaves the last of each name. */
static void drop_repeated(struct header *h)
{
    size_t n = 0;
    if (h->count)
        qsort(h->tensors, h->count, sizeof(*h->tensors), compare_names);
    for (size_t i = 0; i < h->count; i++) {
        if (n == 0 || strcmp(h->tensors[n - 1].name, h->tensors[i].name) != 0)
            h->tensors[n++] = h->tensors[i];
    }
    h->count = n;
}

/* Sizes in the file, and a dense stride. */
static imf_status place_tensor(struct header *h, const struct description *d)
{
    if (d->ndim > IMF__MAX_DIMS || strlen(d->name) > IMF__MAX_NAME) /* no model has such */
        return imf__checkpoint_add_skipped(h->c, "tensor", d->name, h->err);
    struct imf__entry e = {.tensor = {.name = d->name, .ndim = d->ndim},
                           .place = {.file = h->file}};
    uint64_t count = 1, bits, bytes = (uint64_t)(d->range[1] - d->range[0]);
    memcpy(e.tensor.shape, d->shape, sizeof(e.tensor.shape));
    for (int i = d->ndim - 1; i >= 0; i--) {
        e.place.stride[i] = (int64_t)count;
        if (!imf__mul(&count, count, (uint64_t)d->shape[i]) || count > INT64_MAX / 64)
            return bad_header(h, d->name, "its shape overflows");
    }
    bits = d->dtype ? count * d->dtype->bits : 8 * bytes;
    uint64_t needed = (bits + 7) / 8;
    if (bits % 8 || needed != bytes)
        return imf__fail(h->err, IMF_EFORMAT,
                         "%s: tensor \"%s\": its data has %llu bytes, its shape needs %llu",
                         label(h), imf__quote(d->name).text, (unsigned long long)bytes,
                         (unsigned long long)needed);
    e.tensor.type = d->dtype ? d->dtype->type : IMF__STORED_OTHER;
    e.place.item = d->dtype && d->dtype->bits % 8 == 0 ? d->dtype->bits / 8 : 0;
    e.place.bytes = bytes;
    /* No overflow: the data's offset is at most 100 MB, range is below 10^18. */
    e.place.offset = h->data_offset + (uint64_t)d->range[0];
    return imf__checkpoint_add(h->c, &e, "its data", h->err);
}

/* Adds the tensors, which must cover the file's data exactly. */
static imf_status place_tensors(struct header *h)
{
    int64_t at = 0;
    drop_repeated(h);
    if (h->count)
        qsort(h->tensors, h->count, sizeof(*h->tensors), compare_ranges);
    for (size_t i = 0; i < h->count; i++) {
        const struct description *d = &h->tensors[i];
        if (d->range[1] < d->range[0])
            return bad_header(h, d->name, "its data ends before it begins");
        if (i > 0 && d->range[0] < at)
            return imf__fail(h->err, IMF_EFORMAT, "%s: tensors \"%s\" and \"%s\" overlap", label(h),
                             imf__quote(h->tensors[i - 1].name).text, imf__quote(d->name).text);
        if (d->range[0] > at)
            return imf__fail(h->err, IMF_EFORMAT,
                             "%s: %llu bytes in front of tensor \"%s\" belong to none", label(h),
                             (unsigned long long)(d->range[0] - at), imf__quote(d->name).text);
        IMF_TRY(place_tensor(h, d));
        at = d->range[1];
    }
    uint64_t end = h->data_offset + (uint64_t)at, size = h->c->files[h->file].size;
    if (end > size) /* a tensor that was passed over */
        return imf__fail(h->err, IMF_EFORMAT,
                         "%s: its tensors end at byte %llu, the file has %llu (truncated?)",
                         label(h), (unsigned long long)end, (unsigned long long)size);
    if (h->count && end < size) /* a file of no tensors is refused later, for that */
        return imf__fail(h->err, IMF_EFORMAT,
                         "%s: %llu bytes behind the last tensor belong to none", label(h),
                         (unsigned long long)(size - end));
    return IMF_OK;
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
        imf__json_init(&h.json, text, (size_t)size);
        status = parse_header(&h);
        if (status == IMF_OK)
            status = place_tensors(&h);
        free(h.tensors);
    }
    free(text);
    return status;
}
