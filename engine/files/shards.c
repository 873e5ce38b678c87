/* Weights in several files: NAME.index.json says which file holds which tensor. The files are
 * safetensors or torch's, and lie beside the index. */
#include "files/checkpoint_parts.h"
#include "common/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        status = imf__checkpoint_read_file(c, c->file_count - 1, x->err);
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

imf_status imf__shards_open(struct imf__checkpoint *c, const char *path, struct imf_error *err)
{
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
