/* torch.save's format before 1.6 (and with _use_new_zipfile_serialization=False since): five
 * pickles in a row (a magic number, the protocol 1001, the writer's type sizes, the object, the
 * list of storage keys), then for each key an 8-byte element count and the raw elements. */
#include "files/torch_state.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PICKLE_MEMORY (256u << 20)

struct region {
    const char *key;
    uint64_t offset, bytes;
    uint32_t item; /* bytes per element, 0 until a storage names the key */
};

struct legacy {
    const struct imf__file *file;
    uint32_t index; /* of the file in the checkpoint */
    struct imf__arena arena;
    struct imf__reader reader;
    struct region *regions; /* sorted by key */
    size_t count;
};

static imf_status bad(const struct legacy *l, struct imf_error *err, const char *why)
{
    return imf__fail(err, IMF_EFORMAT, "%s: torch legacy: %s", l->file->label, why);
}

static imf_status next(struct legacy *l, struct imf__pickle_value **root, struct imf_error *err)
{
    struct imf__pickle p = {0};
    imf_status status = imf__pickle_run(&p, &l->arena, &l->reader, err);
    *root = p.root;
    return status;
}

/* Magic number, protocol, and the machine it was written on. */
static imf_status check_head(struct legacy *l, struct imf_error *err)
{
    /* 0x1950a86a20f9469cfc6c */
    static const char magic[10] = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    struct imf__pickle_value *v;
    imf_status status = next(l, &v, err);
    if (status != IMF_OK)
        return status;
    if (v->kind != IMF__PICKLE_BIGINT || v->length != sizeof(magic) ||
        memcmp(v->text, magic, sizeof(magic)) != 0)
        return bad(l, err, "a pickle, but not one of torch.save");
    status = next(l, &v, err);
    if (status != IMF_OK)
        return status;
    if (v->kind != IMF__PICKLE_INT || v->integer != 1001)
        return bad(l, err, "unknown protocol");
    status = next(l, &v, err);
    if (status != IMF_OK)
        return status;
    if (v->kind != IMF__PICKLE_DICT)
        return bad(l, err, "no description of the writer's machine");
    for (uint32_t i = 0; i + 1 < v->count; i += 2) {
        if (imf__pickle_is(v->items[i], "little_endian") &&
            (v->items[i + 1]->kind != IMF__PICKLE_BOOL || !v->items[i + 1]->integer))
            return bad(l, err, "written on a big-endian machine");
    }
    return IMF_OK;
}

static int compare_regions(const void *a, const void *b)
{
    return strcmp(((const struct region *)a)->key, ((const struct region *)b)->key);
}

static struct region *find_region(const struct legacy *l, const char *key)
{
    const struct region wanted = {.key = key};
    return bsearch(&wanted, l->regions, l->count, sizeof(wanted), compare_regions);
}

/* The element size of every key: the storages of the object say. */
static imf_status assign_items(struct legacy *l, const struct imf__pickle_storage *storages,
                               struct imf_error *err)
{
    for (const struct imf__pickle_storage *s = storages; s; s = s->next) {
        struct region *r = find_region(l, s->key);
        if (r && r->item && r->item != s->item)
            return imf__fail(err, IMF_EFORMAT, "%s: storage %s has elements of %u and of %u bytes",
                             l->file->label, imf__quote(s->key).text, r->item, s->item);
        if (r)
            r->item = s->item;
    }
    return IMF_OK;
}

/* Walks over the storages behind the pickles: `keys` lists them in their order in the file. */
static imf_status find_regions(struct legacy *l, const struct imf__pickle_value *keys,
                               const struct imf__pickle_storage *storages, struct imf_error *err)
{
    if (keys->kind != IMF__PICKLE_LIST)
        return bad(l, err, "no list of storages");
    l->regions = calloc(keys->count + 1u, sizeof(*l->regions));
    if (!l->regions)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", l->file->label);
    for (uint32_t i = 0; i < keys->count; i++) {
        const struct imf__pickle_value *key = keys->items[i];
        if (key->kind != IMF__PICKLE_STRING || key->length != strlen(key->text))
            return bad(l, err, "a storage key that is no string");
        l->regions[i].key = key->text;
    }
    l->count = keys->count;
    qsort(l->regions, l->count, sizeof(*l->regions), compare_regions);
    for (size_t i = 1; i < l->count; i++) {
        if (compare_regions(&l->regions[i - 1], &l->regions[i]) == 0)
            return imf__fail(err, IMF_EFORMAT, "%s: storage %s is there twice", l->file->label,
                             imf__quote(l->regions[i].key).text);
    }
    imf_status status = assign_items(l, storages, err);
    uint64_t at = imf__reader_tell(&l->reader);
    for (uint32_t i = 0; i < keys->count && status == IMF_OK; i++) {
        struct region *r = find_region(l, keys->items[i]->text);
        uint64_t count;
        if (!r->item)
            return imf__fail(err, IMF_EFORMAT, "%s: storage %s is of no known type", l->file->label,
                             imf__quote(r->key).text);
        status = imf__file_read(l->file, &count, sizeof(count), at, err);
        if (status != IMF_OK)
            break;
        r->offset = at + sizeof(count);
        if (!imf__mul(&r->bytes, count, r->item) || !imf__add(&at, r->offset, r->bytes) ||
            at > l->file->size)
            status = imf__fail(err, IMF_EFORMAT,
                               "%s: storage %s: %llu elements of %u bytes reach past the end of "
                               "the file (truncated?)",
                               l->file->label, imf__quote(r->key).text, (unsigned long long)count,
                               r->item);
    }
    return status;
}

static imf_status find_storage(void *user, const struct imf__pickle_storage *storage,
                               struct imf__region *out, struct imf_error *err)
{
    const struct legacy *l = user;
    const struct region *r = find_region(l, storage->key);
    if (!r)
        return imf__fail(err, IMF_EFORMAT, "is missing from the file");
    *out = (struct imf__region){.file = l->index, .offset = r->offset, .bytes = r->bytes};
    return IMF_OK;
}

static imf_status read_state(struct imf__checkpoint *c, struct legacy *l, struct imf_error *err)
{
    struct imf__pickle state = {0};
    struct imf__pickle_value *keys;
    imf_status status = check_head(l, err);
    if (status == IMF_OK)
        status = imf__pickle_run(&state, &l->arena, &l->reader, err);
    if (status == IMF_OK)
        status = next(l, &keys, err);
    if (status == IMF_OK)
        status = find_regions(l, keys, state.storages, err);
    const struct imf__storage_source source = {find_storage, l, l->index};
    return status == IMF_OK ? imf__torch_state_add(c, &state, &source, err) : status;
}

imf_status imf__torch_legacy_read(struct imf__checkpoint *c, uint32_t file, struct imf_error *err)
{
    c->format = "torch legacy";
    struct legacy l = {
        .file = &c->files[file], .index = file, .arena = {.limit = MAX_PICKLE_MEMORY}};
    imf__reader_init(&l.reader, l.file, 0, l.file->size);
    imf_status status = read_state(c, &l, err);
    imf__arena_free(&l.arena);
    free(l.regions);
    return status;
}
