/* Shared immutable bytes with a reference count. */
#include "base/blob.h"

#include <assert.h>
#include <stdlib.h>

struct blob *blob_new(size_t size)
{
    if (size > SIZE_MAX - sizeof(struct blob))
        return NULL;
    struct blob *b = malloc(sizeof(*b) + size);
    if (!b)
        return NULL;
    b->refs = 1;
    b->size = size;
    b->text_offset = b->text_size = 0;
    return b;
}

struct blob *blob_take(struct blob *b)
{
    int before = __atomic_fetch_add(&b->refs, 1, __ATOMIC_RELAXED);
    assert(before > 0);
    (void)before;
    return b;
}

void blob_drop(struct blob *b)
{
    if (!b)
        return;
    /* Release: our reads of the bytes come before the free; acquire: so do those of the others. */
    int before = __atomic_fetch_sub(&b->refs, 1, __ATOMIC_ACQ_REL);
    assert(before > 0);
    if (before == 1)
        free(b);
}
