/* The keyed hash; see hash_table.h. */
#include "base/hash_table.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <pthread.h>
#include <sys/random.h>

static uint64_t secret;

static void draw_secret(void)
{
    if (getrandom(&secret, sizeof(secret), 0) != (ssize_t)sizeof(secret))
        secret = (uint64_t)(uintptr_t)&secret; /* where this process happens to lie */
}

uint64_t hash_bytes(const void *bytes, size_t size)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, draw_secret);
    return XXH3_64bits_withSeed(bytes, size, secret);
}
