/* Finished files, the least recently used dropped first, bounded in bytes. Not thread-safe: the
 * scheduler calls it under its lock. */
#ifndef IMAGE_CACHE_H
#define IMAGE_CACHE_H

#include "base/blob.h"
#include "scheduler/scheduler.h"

struct image_cache; /* opaque */

/* capacity 0 makes a cache that holds nothing. NULL when out of memory. */
struct image_cache *image_cache_new(size_t capacity_bytes);
void image_cache_free(struct image_cache *c);
/* Makes the entry the most recently used and returns its blob with a reference for the caller, or
 * NULL. */
struct blob *image_cache_get(struct image_cache *c, const struct picture_key *key);
bool image_cache_has(const struct image_cache *c, const struct picture_key *key);
/* Takes a reference of its own. What is larger than a quarter of the cache is not kept. An entry
 * counts with its bookkeeping. A key that is there already stays as it is. */
void image_cache_put(struct image_cache *c, const struct picture_key *key, struct blob *png);
void image_cache_clear(struct image_cache *c);
size_t image_cache_bytes(const struct image_cache *c);
size_t image_cache_entries(const struct image_cache *c);

#endif
