/* safetensors: 8 bytes of header length, a JSON header, the data; and sharded ones, where
 * NAME.safetensors.index.json says which file holds which tensor.
 *
 * Stricter than needed to read the values: ranges must not overlap, must match the shapes, and
 * names must not repeat. More lenient than the reference reader in that ranges may come in any
 * order and leave gaps. */
#include "files/checkpoint_parts.h"
#include "files/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct dtype {
    const char *name;
    enum imf__stored_type type;
    uint32_t bytes;
} dtypes[] = {
    {"F32", IMF__STORED_F32, 4},       {"F16", IMF__STORED_F16, 2},
    {"BF16", IMF__STORED_BF16, 2},     {"F64", IMF__STORED_F64, 8},
    {"I64", IMF__STORED_OTHER, 8},     {"I32", IMF__STORED_OTHER, 4},
    {"I16", IMF__STORED_OTHER, 2},     {"I8", IMF__STORED_OTHER, 1},
    {"U64", IMF__STORED_OTHER, 8},     {"U32", IMF__STORED_OTHER, 4},
    {"U16", IMF__STORED_OTHER, 2},     {"U8", IMF__STORED_OTHER, 1},
    {"BOOL", IMF__STORED_OTHER, 1},    {"F8_E4M3", IMF__STORED_OTHER, 1},
    {"F8_E5M2", IMF__STORED_OTHER, 1},
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

static const struct dtype *find_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    }
    return NULL;
}

/* {"dtype": .., "shape": [..], "data_offsets": [begin, end]} of one tensor. */
static imf_status parse_tensor(struct header *h, const char *name)
{
    struct imf__json *j = &h->json;
    struct imf__entry e = {.tensor = {.name = name, .ndim = -1}, .place = {.file = h->file}};
    const struct dtype *dtype = NULL;
    int64_t range[2] = {-1, -1};
    if (imf__json_next(j) != IMF__JSON_OBJECT)
        return bad_header(h, name, "not described by an object");
    enum imf__json_event event;
    while ((event = imf__json_next(j)) == IMF__JSON_KEY) {
        if (strcmp(j->string, "dtype") == 0 && !dtype) {
            if (imf__json_next(j) != IMF__JSON_STRING)
                return bad_header(h, name, "its dtype is no string");
            dtype = find_dtype(j->string);
            if (!dtype)
                return imf__fail(h->err, IMF_EFORMAT, "%s: tensor \"%s\": unknown dtype \"%s\"",
                                 label(h), imf__quote(name).text, imf__quote(j->string).text);
        } else if (strcmp(j->string, "shape") == 0 && e.tensor.ndim < 0) {
            e.tensor.ndim = integers(j, e.tensor.shape, IMF__MAX_DIMS);
            if (e.tensor.ndim < 0)
                return bad_header(h, name, "its shape is no list of up to 8 sizes");
        } else if (strcmp(j->string, "data_offsets") == 0 && range[0] < 0) {
            if (integers(j, range, 2) != 2)
                return bad_header(h, name, "its data_offsets are no two integers");
        } else {
            return bad_header(h, name, "unknown or repeated key in its description");
        }
    }
    if (event != IMF__JSON_OBJECT_END)
        return bad_header(h, name, "bad description");
    if (!dtype || e.tensor.ndim < 0 || range[0] < 0)
        return bad_header(h, name, "dtype, shape or data_offsets missing");
    if (range[1] < range[0])
        return bad_header(h, name, "its data ends before it begins");

    uint64_t bytes = dtype->bytes;
    for (int i = e.tensor.ndim - 1; i >= 0; i--) {
        e.place.stride[i] = (int64_t)(bytes / dtype->bytes);
        if (!imf__mul(&bytes, bytes, (uint64_t)e.tensor.shape[i]) || bytes > INT64_MAX)
            return bad_header(h, name, "its shape overflows");
    }
    if (bytes != (uint64_t)(range[1] - range[0]))
        return imf__fail(h->err, IMF_EFORMAT,
                         "%s: tensor \"%s\": its data has %llu bytes, its shape needs %llu",
                         label(h), imf__quote(name).text, (unsigned long long)(range[1] - range[0]),
                         (unsigned long long)bytes);
    e.tensor.type = dtype->type;
    e.place.item = dtype->bytes;
    e.place.bytes = bytes;
    /* No overflow: the data's offset is at most 100 MB, range is below 10^18. */
    e.place.offset = h->data_offset + (uint64_t)range[0];
    return imf__checkpoint_add(h->c, &e, "its data", h->err);
}

static imf_status parse_metadata(struct header *h)
{
    struct imf__json *j = &h->json;
    if (imf__json_next(j) != IMF__JSON_OBJECT)
        return bad_header(h, NULL, "__metadata__ is no object");
    enum imf__json_event event;
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

/* Entries from `first` on are this file's. */
static imf_status check_overlap(const struct header *h, size_t first)
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
    imf_status status = IMF_OK;
    for (size_t i = 1; i < used && status == IMF_OK; i++) {
        if (sorted[i - 1]->place.offset + sorted[i - 1]->place.bytes > sorted[i]->place.offset)
            status = imf__fail(h->err, IMF_EFORMAT, "%s: tensors \"%s\" and \"%s\" overlap",
                               label(h), imf__quote(sorted[i - 1]->tensor.name).text,
                               imf__quote(sorted[i]->tensor.name).text);
    }
    free(sorted);
    return status;
}

/* Adds the tensors of an opened file. */
static imf_status read_file(struct imf__checkpoint *c, uint32_t file, struct imf_error *err)
{
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
            status = check_overlap(&h, first);
    }
    free(text);
    return status;
}

imf_status imf__safetensors_open(struct imf__checkpoint *c, struct imf_error *err)
{
    c->format = "safetensors";
    return read_file(c, 0, err);
}

/* ---- Sharded --------------------------------------------------------------------------------- */

/* name -> shard, as the index promises. */
struct promise {
    const char *name, *shard; /* in the index's text */
};

struct index {
    struct imf__checkpoint *c;
    struct imf__file file;
    struct imf__json json;
    char *text;
    struct promise *promises;
    size_t count, capacity;
    struct imf_error *err;
};

static imf_status bad_index(const struct index *x, const char *why)
{
    return imf__fail(x->err, IMF_EFORMAT, "%s: shard index: %s", x->file.label,
                     x->json.error ? x->json.error : why);
}

static imf_status parse_weight_map(struct index *x)
{
    struct imf__json *j = &x->json;
    if (x->promises || imf__json_next(j) != IMF__JSON_OBJECT)
        return bad_index(x, "weight_map is no object, or there twice");
    enum imf__json_event event;
    while ((event = imf__json_next(j)) == IMF__JSON_KEY) {
        const char *name = j->string;
        if (imf__json_next(j) != IMF__JSON_STRING)
            return bad_index(x, "weight_map holds something that is no file name");
        const char *shard = j->string;
        /* The file must lie beside the index. */
        if (!shard[0] || strchr(shard, '/') || strchr(shard, '\\') || shard[0] == '.')
            return imf__fail(x->err, IMF_EFORMAT, "%s: tensor \"%s\": \"%s\" is no plain file name",
                             x->file.label, imf__quote(name).text, imf__quote(shard).text);
        if (x->count == x->capacity) {
            if (x->count >= IMF__MAX_TENSORS)
                return bad_index(x, "too many tensors");
            size_t capacity = x->capacity ? 2 * x->capacity : 256;
            struct promise *grown = realloc(x->promises, capacity * sizeof(*grown));
            if (!grown)
                return imf__fail(x->err, IMF_ENOMEM, "%s: out of memory", x->file.label);
            x->promises = grown;
            x->capacity = capacity;
        }
        x->promises[x->count++] = (struct promise){name, shard};
    }
    return event == IMF__JSON_OBJECT_END ? IMF_OK : bad_index(x, "bad weight_map");
}

static imf_status parse_index(struct index *x)
{
    struct imf__json *j = &x->json;
    if (imf__json_next(j) != IMF__JSON_OBJECT)
        return bad_index(x, "no object");
    enum imf__json_event event;
    while ((event = imf__json_next(j)) == IMF__JSON_KEY) {
        if (strcmp(j->string, "weight_map") == 0) {
            imf_status status = parse_weight_map(x);
            if (status != IMF_OK)
                return status;
        } else if (!imf__json_skip(j, imf__json_next(j))) {
            return bad_index(x, "bad value");
        }
    }
    if (event != IMF__JSON_OBJECT_END || imf__json_next(j) != IMF__JSON_END)
        return bad_index(x, "no end");
    return x->count ? IMF_OK : bad_index(x, "no weight_map");
}

static int compare_promises(const void *a, const void *b)
{
    const struct promise *x = a, *y = b;
    int order = strcmp(x->shard, y->shard);
    return order ? order : strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(const struct imf__entry *const *)a)->tensor.name,
                  (*(const struct imf__entry *const *)b)->tensor.name);
}

/* Opens one shard and checks that it holds exactly the n tensors promised of it. */
static imf_status read_shard(struct index *x, const char *folder, const struct promise *p, size_t n)
{
    struct imf__checkpoint *c = x->c;
    char *path;
    if (asprintf(&path, "%s%s", folder, p->shard) < 0)
        return imf__fail(x->err, IMF_ENOMEM, "%s: out of memory", x->file.label);
    size_t first = c->count;
    imf_status status = imf__checkpoint_add_file(c, path, x->err);
    if (status == IMF_OK)
        status = read_file(c, c->file_count - 1, x->err);
    free(path);
    if (status != IMF_OK)
        return status;

    size_t found = c->count - first;
    const struct imf__entry **sorted = malloc((found + 1) * sizeof(*sorted));
    if (!sorted)
        return imf__fail(x->err, IMF_ENOMEM, "%s: out of memory", x->file.label);
    for (size_t i = 0; i < found; i++)
        sorted[i] = &c->entries[first + i];
    qsort(sorted, found, sizeof(*sorted), compare_names);
    for (size_t i = 0, k = 0; status == IMF_OK && (i < n || k < found); i++, k++) {
        int order = i == n ? 1 : k == found ? -1 : strcmp(p[i].name, sorted[k]->tensor.name);
        if (order < 0)
            status = imf__fail(x->err, IMF_EFORMAT, "%s: tensor \"%s\" is not in %s", x->file.label,
                               imf__quote(p[i].name).text, imf__quote(p->shard).text);
        else if (order > 0)
            status = imf__fail(x->err, IMF_EFORMAT, "%s: tensor \"%s\" of %s is not in the index",
                               x->file.label, imf__quote(sorted[k]->tensor.name).text,
                               imf__quote(p->shard).text);
    }
    free(sorted);
    return status;
}

static imf_status read_index(struct index *x, const char *path)
{
    if (x->file.size > IMF__MAX_HEADER)
        return bad_index(x, "too large");
    x->text = malloc((size_t)x->file.size + 1);
    const char *slash = strrchr(path, '/');
    char *folder = strndup(path, slash ? (size_t)(slash - path) + 1 : 0);
    imf_status status = IMF_OK;
    if (!x->text || !folder)
        status = imf__fail(x->err, IMF_ENOMEM, "%s: out of memory", x->file.label);
    if (status == IMF_OK)
        status = imf__file_read(&x->file, x->text, (size_t)x->file.size, 0, x->err);
    if (status == IMF_OK) {
        imf__json_init(&x->json, x->text, (size_t)x->file.size);
        status = parse_index(x);
    }
    if (status == IMF_OK)
        qsort(x->promises, x->count, sizeof(*x->promises), compare_promises);
    for (size_t i = 0, n; status == IMF_OK && i < x->count; i += n) {
        const struct promise *p = &x->promises[i];
        for (n = 1; i + n < x->count && strcmp(p[n].shard, p->shard) == 0; n++)
            ;
        status = read_shard(x, folder, p, n);
    }
    free(folder);
    return status;
}

imf_status imf__safetensors_open_index(struct imf__checkpoint *c, const char *path,
                                       struct imf_error *err)
{
    c->format = "safetensors";
    struct index x = {.c = c, .err = err};
    imf_status status = imf__file_open(&x.file, path, err);
    if (status != IMF_OK)
        return status;
    status = read_index(&x, path);
    imf__file_close(&x.file);
    free(x.promises);
    free(x.text);
    return status;
}
