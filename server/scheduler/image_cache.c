/* Byte-bounded cache of files: a chained hash table that doubles, and a list in order of use. */
#include "scheduler/image_cache.h"
#include "base/list.h"

#include <stdlib.h>
#include <string.h>

struct entry {
    struct list used;   /* element of image_cache.used */
    struct entry *next; /* in its bucket */
    uint64_t hash;
    struct picture_key key;
    struct blob *png; /* one reference */
};

struct image_cache {
    size_t capacity, bytes, entries;
    struct entry **bucket;
    size_t bucket_count; /* power of two */
    struct list used;    /* least recently used first */
};

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9E3779B97F4A7C15u; /* the golden ratio, odd */
    return h ^ h >> 29;
}

/* Adding 0 turns -0.0 into 0.0: keys that compare equal hash equal. */
static uint64_t float_bits(float f)
{
    uint32_t bits;
    f += 0.0f;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

uint64_t picture_key_hash(const struct picture_key *key)
{
    uint64_t h = mix(0, (uint64_t)(uint32_t)key->model << 32 | (uint32_t)key->label);
    h = mix(h, key->seed);
    h = mix(h, (uint64_t)(uint32_t)key->sampling.steps << 32 | float_bits(key->sampling.omega));
    h = mix(h, float_bits(key->sampling.t_min) << 32 | float_bits(key->sampling.t_max));
    h = mix(h, (uint64_t)key->encoding.format << 8 | key->encoding.quality);
    return h ^ h >> 32;
}

bool picture_key_equal(const struct picture_key *a, const struct picture_key *b)
{
    return a->model == b->model && a->label == b->label && a->seed == b->seed &&
           a->sampling.steps == b->sampling.steps && a->sampling.omega == b->sampling.omega &&
           a->sampling.t_min == b->sampling.t_min && a->sampling.t_max == b->sampling.t_max &&
           a->encoding.format == b->encoding.format && a->encoding.quality == b->encoding.quality;
}

struct image_cache *image_cache_new(size_t capacity_bytes)
{
    struct image_cache *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return NULL;
    c->capacity = capacity_bytes;
    c->bucket_count = 64;
    c->bucket = calloc(c->bucket_count, sizeof(struct entry *));
    if (c->bucket == NULL) {
        free(c);
        return NULL;
    }
    list_init(&c->used);
    return c;
}

static size_t cost(const struct blob *png)
{
    return png->size + sizeof(*png) + sizeof(struct entry);
}

static void remove_entry(struct image_cache *c, struct entry *e)
{
    struct entry **link = &c->bucket[e->hash & (c->bucket_count - 1)];
    while (*link != e)
        link = &(*link)->next;
    *link = e->next;
    list_remove(&e->used);
    c->bytes -= cost(e->png);
    c->entries--;
    blob_drop(e->png);
    free(e);
}

void image_cache_free(struct image_cache *c)
{
    if (c == NULL)
        return;
    while (!list_empty(&c->used))
        remove_entry(c, LIST_OF(c->used.next, struct entry, used));
    free(c->bucket);
    free(c);
}

static struct entry *find(const struct image_cache *c, const struct picture_key *key, uint64_t hash)
{
    struct entry *e = c->bucket[hash & (c->bucket_count - 1)];
    while (e != NULL && (e->hash != hash || !picture_key_equal(&e->key, key)))
        e = e->next;
    return e;
}

struct blob *image_cache_get(struct image_cache *c, const struct picture_key *key)
{
    struct entry *e = find(c, key, picture_key_hash(key));
    if (e == NULL)
        return NULL;
    list_remove(&e->used);
    list_append(&c->used, &e->used);
    return blob_take(e->png);
}

bool image_cache_has(const struct image_cache *c, const struct picture_key *key)
{
    return find(c, key, picture_key_hash(key)) != NULL;
}

/* Twice the buckets; when there is no memory the chains just get longer. */
static void grow(struct image_cache *c)
{
    size_t count = 2 * c->bucket_count;
    struct entry **bucket = calloc(count, sizeof(struct entry *));
    if (bucket == NULL)
        return;
    LIST_EACH(it, &c->used)
    {
        struct entry *e = LIST_OF(it, struct entry, used);
        e->next = bucket[e->hash & (count - 1)];
        bucket[e->hash & (count - 1)] = e;
    }
    free(c->bucket);
    c->bucket = bucket;
    c->bucket_count = count;
}

void image_cache_put(struct image_cache *c, const struct picture_key *key, struct blob *png)
{
    uint64_t hash = picture_key_hash(key);
    if (cost(png) > c->capacity / 4 || find(c, key, hash) != NULL)
        return;
    struct entry *e = malloc(sizeof(*e));
    if (e == NULL)
        return;
    while (c->bytes + cost(png) > c->capacity)
        remove_entry(c, LIST_OF(c->used.next, struct entry, used));
    if (c->entries >= c->bucket_count)
        grow(c);
    *e = (struct entry){.hash = hash, .key = *key, .png = blob_take(png)};
    e->next = c->bucket[hash & (c->bucket_count - 1)];
    c->bucket[hash & (c->bucket_count - 1)] = e;
    list_append(&c->used, &e->used);
    c->bytes += cost(png);
    c->entries++;
}

size_t image_cache_bytes(const struct image_cache *c)
{
    return c->bytes;
}

size_t image_cache_entries(const struct image_cache *c)
{
    return c->entries;
}
