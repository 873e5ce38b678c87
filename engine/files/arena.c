/* The bounded arena of checkpoint_parts.h. */
#include "files/checkpoint_parts.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES (64u << 10)

struct imf__arena_block {
    struct imf__arena_block *next;
    size_t used, size;
    _Alignas(16) uint8_t bytes[];
};

void *imf__arena_alloc(struct imf__arena *a, size_t size)
{
    if (size > SIZE_MAX / 2)
        return NULL;
    size = (size + 15) & ~(size_t)15;
    if (a->limit && (a->used > a->limit || size > a->limit - a->used))
        return NULL;
    struct imf__arena_block *b = a->blocks;
    if (!b || b->size - b->used < size) {
        size_t bytes = size > BLOCK_BYTES ? size : BLOCK_BYTES;
        b = malloc(sizeof(*b) + bytes);
        if (!b)
            return NULL;
        b->used = 0;
        b->size = bytes;
        b->next = a->blocks;
        a->blocks = b;
    }
    void *p = b->bytes + b->used;
    b->used += size;
    a->used += size;
    return memset(p, 0, size);
}

char *imf__arena_string(struct imf__arena *a, const char *s, size_t length)
{
    char *p = length < SIZE_MAX ? imf__arena_alloc(a, length + 1) : NULL;
    if (p && length)
        memcpy(p, s, length);
    return p;
}

void imf__arena_free(struct imf__arena *a)
{
    while (a->blocks) {
        struct imf__arena_block *next = a->blocks->next;
        free(a->blocks);
        a->blocks = next;
    }
    a->used = 0;
}
