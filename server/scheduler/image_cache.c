/* Byte-bounded cache of files: a hash table, and a list in order of use. */
#include "scheduler/image_cache.h"
#include "base/hash_table.h"
#include "base/list.h"

#include <stdlib.h>
#include <string.h>

struct entry {
    UT_hash_handle hh;
    struct list used; /* element of image_cache.used */
    struct picture_key key;
    struct blob *png; /* one reference */
};

struct image_cache {
    size_t capacity, bytes;
    struct entry *entries; /* hash table, by key */
    struct list used;      /* least recently used first */
};

_Static_assert(sizeof(struct picture_key) == 2 * sizeof(int32_t) + sizeof(uint64_t) +
                                                 sizeof(struct imf_sampling) +
                                                 sizeof(struct picture_encoding) + 6,
               "keys are compared as bytes: no padding");

/* Adding 0 turns -0.0 into 0.0. */
void picture_key_normalise(struct picture_key *key)
{
    key->sampling.omega += 0.0f;
    key->sampling.t_min += 0.0f;
    key->sampling.t_max += 0.0f;
}

struct image_cache *image_cache_new(size_t capacity_bytes)
{
    struct image_cache *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->capacity = capacity_bytes;
    list_init(&c->used);
    return c;
}

static size_t cost(const struct blob *png)
{
    return png->size + sizeof(*png) + sizeof(struct entry);
}

static void remove_entry(struct image_cache *c, struct entry *e)
{
    HASH_DEL(c->entries, e);
    list_remove(&e->used);
    c->bytes -= cost(e->png);
    blob_drop(e->png);
    free(e);
}

void image_cache_clear(struct image_cache *c)
{
    while (!list_empty(&c->used))
        remove_entry(c, LIST_OF(c->used.next, struct entry, used));
}

void image_cache_free(struct image_cache *c)
{
    if (!c)
        return;
    image_cache_clear(c);
    free(c);
}

static struct entry *find(const struct image_cache *c, const struct picture_key *key)
{
    struct entry *e;
    HASH_FIND(hh, c->entries, key, sizeof(*key), e);
    return e;
}

struct blob *image_cache_get(struct image_cache *c, const struct picture_key *key)
{
    struct entry *e = find(c, key);
    if (!e)
        return NULL;
    list_remove(&e->used);
    list_append(&c->used, &e->used);
    return blob_take(e->png);
}

bool image_cache_has(const struct image_cache *c, const struct picture_key *key)
{
    return find(c, key) != NULL;
}

void image_cache_put(struct image_cache *c, const struct picture_key *key, struct blob *png)
{
    if (cost(png) > c->capacity / 4 || find(c, key))
        return;
    struct entry *e = malloc(sizeof(*e));
    if (!e)
        return;
    while (c->bytes + cost(png) > c->capacity)
        remove_entry(c, LIST_OF(c->used.next, struct entry, used));
    *e = (struct entry){.key = *key};
    HASH_ADD(hh, c->entries, key, sizeof(e->key), e);
    if (!HASH_ADDED(e)) {
        free(e);
        return;
    }
    e->png = blob_take(png);
    list_append(&c->used, &e->used);
    c->bytes += cost(png);
}

size_t image_cache_bytes(const struct image_cache *c)
{
    return c->bytes;
}

size_t image_cache_entries(const struct image_cache *c)
{
    return HASH_COUNT(c->entries);
}
