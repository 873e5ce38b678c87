/* Limits per client, keyed by a 64-bit hash of its name with a secret seed: two clients that share
 * one would share their limit, which nobody can bring about on purpose. */
#include "api/ratelimit.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static uint64_t random_seed(void)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        seed = (uint64_t)(uintptr_t)&seed;
    return seed;
}

static uint64_t hash_client(const char *client, uint64_t seed)
{
    uint64_t h = XXH3_64bits_withSeed(client, strlen(client), seed);
    return h != 0 ? h : 1; /* 0 marks an empty place */
}

/* ---- Pictures a minute ----------------------------------------------------------------------- */

enum { SETS = 4096, WAYS = 4 };

struct bucket {
    uint64_t client; /* hash; 0: empty */
    uint64_t at_ms;  /* when `tokens` was right */
    double tokens;
};

struct rate_limit {
    double capacity, per_ms;
    uint64_t seed;
    struct bucket buckets[SETS][WAYS];
};

struct rate_limit *rate_limit_create(int64_t per_minute)
{
    struct rate_limit *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return NULL;
    r->capacity = (double)per_minute;
    r->per_ms = (double)per_minute / 60000;
    r->seed = random_seed();
    return r;
}

void rate_limit_destroy(struct rate_limit *r)
{
    free(r);
}

/* The client's bucket, refilled; when its set is full, the one unused for longest gives way (it has
 * refilled most). */
static struct bucket *bucket_of(struct rate_limit *r, const char *client, uint64_t now_ms)
{
    uint64_t h = hash_client(client, r->seed);
    struct bucket *set = r->buckets[h % SETS], *b = &set[0];
    for (int i = 0; i < WAYS; i++) {
        if (set[i].client == h) {
            b = &set[i];
            break;
        }
        if (set[i].client == 0 || (b->client != 0 && set[i].at_ms < b->at_ms))
            b = &set[i];
    }
    if (b->client != h)
        *b = (struct bucket){h, now_ms, r->capacity};
    if (now_ms > b->at_ms) {
        b->tokens += (double)(now_ms - b->at_ms) * r->per_ms;
        b->at_ms = now_ms;
        if (b->tokens > r->capacity)
            b->tokens = r->capacity;
    }
    return b;
}

bool rate_limit_take(struct rate_limit *r, const char *client, uint32_t cost, uint64_t now_ms,
                     uint64_t *retry_ms)
{
    struct bucket *b = bucket_of(r, client, now_ms);
    double wanted = (double)cost < r->capacity ? (double)cost : r->capacity;
    if (b->tokens + 1e-9 < wanted) {
        *retry_ms = (uint64_t)((wanted - b->tokens) / r->per_ms) + 1;
        return false;
    }
    b->tokens -= wanted;
    return true;
}

void rate_limit_return(struct rate_limit *r, const char *client, uint32_t cost, uint64_t now_ms)
{
    struct bucket *b = bucket_of(r, client, now_ms);
    b->tokens += (double)cost < r->capacity ? (double)cost : r->capacity;
    if (b->tokens > r->capacity)
        b->tokens = r->capacity;
}

/* ---- Requests at a time ---------------------------------------------------------------------- */

struct client_count {
    uint64_t client; /* hash; 0: empty */
    uint32_t count;
};

struct client_counts {
    uint64_t seed;
    uint32_t size, used; /* size is a power of two, at least twice the clients */
    struct client_count items[];
};

struct client_counts *client_counts_create(uint32_t most)
{
    uint32_t size = 64;
    while (size < 1u << 30 && size < 2 * (uint64_t)most)
        size *= 2;
    struct client_counts *c = calloc(1, sizeof(*c) + size * sizeof(c->items[0]));
    if (c == NULL)
        return NULL;
    c->seed = random_seed();
    c->size = size;
    return c;
}

void client_counts_destroy(struct client_counts *c)
{
    free(c);
}

/* The client's place, or the empty one where it would go. */
static uint32_t place_of(const struct client_counts *c, uint64_t h)
{
    uint32_t i = (uint32_t)h & (c->size - 1);
    while (c->items[i].client != 0 && c->items[i].client != h)
        i = (i + 1) & (c->size - 1);
    return i;
}

bool client_counts_add(struct client_counts *c, const char *client, uint32_t limit)
{
    uint64_t h = hash_client(client, c->seed);
    struct client_count *item = &c->items[place_of(c, h)];
    if (item->client == 0) {
        if (c->used >= c->size / 2)
            return false;
        *item = (struct client_count){h, 0};
        c->used++;
    }
    if (item->count >= limit)
        return false;
    item->count++;
    return true;
}

void client_counts_remove(struct client_counts *c, const char *client)
{
    uint32_t i = place_of(c, hash_client(client, c->seed));
    assert(c->items[i].client != 0 && c->items[i].count > 0);
    if (--c->items[i].count > 0)
        return;
    c->items[i].client = 0;
    c->used--;
    /* Those after the gap that probed past it move up. */
    for (uint32_t j = (i + 1) & (c->size - 1); c->items[j].client != 0;
         j = (j + 1) & (c->size - 1)) {
        struct client_count moved = c->items[j];
        c->items[j].client = 0;
        c->items[place_of(c, moved.client)] = moved;
    }
}
