/* Limits per client. The rate's are found by a 64-bit hash of its name alone: two clients that
 * share one would share their limit, which nobody can bring about on purpose, as the hash is keyed.
 */
#include "api/ratelimit.h"
#include "base/hash_table.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- Pictures a minute ----------------------------------------------------------------------- */

/* A fixed size whatever number of clients shows up, so no table that grows. */
enum { SETS = 4096, WAYS = 4 };

struct bucket {
    uint64_t client; /* hash; 0: empty */
    uint64_t at_ms;  /* when `tokens` was right */
    double tokens;
};

struct rate_limit {
    double capacity, per_ms;
    struct bucket buckets[SETS][WAYS];
};

struct rate_limit *rate_limit_create(int64_t per_minute)
{
    struct rate_limit *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->capacity = (double)per_minute;
    r->per_ms = (double)per_minute / 60000;
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
    uint64_t h = hash_bytes(client, strlen(client));
    h += h == 0; /* which marks an empty place */
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
    UT_hash_handle hh;
    uint32_t count;
    char client[];
};

enum client_counted client_counts_add(struct client_count **counts, const char *client,
                                      uint32_t limit)
{
    struct client_count *c;
    HASH_FIND_STR(*counts, client, c);
    if (!c) {
        size_t size = strlen(client) + 1;
        c = calloc(1, sizeof(*c) + size);
        if (!c)
            return CLIENT_NO_MEMORY;
        memcpy(c->client, client, size);
        HASH_ADD_STR(*counts, client, c);
        if (!HASH_ADDED(c)) {
            free(c);
            return CLIENT_NO_MEMORY;
        }
    }
    if (c->count >= limit)
        return CLIENT_AT_LIMIT;
    c->count++;
    return CLIENT_COUNTED;
}

void client_counts_remove(struct client_count **counts, const char *client)
{
    struct client_count *c;
    HASH_FIND_STR(*counts, client, c);
    assert(c && c->count > 0);
    if (--c->count > 0)
        return;
    HASH_DEL(*counts, c);
    free(c);
}
