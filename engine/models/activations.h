/* The activation arena: a bump allocator over one block of device memory. Without a block (base
 * NULL) it measures: it hands out fictitious addresses and remembers the peak, so that a dry run of
 * a forward pass plans the memory that the real ones will use. */
#ifndef IMF__ACTIVATIONS_H
#define IMF__ACTIVATIONS_H

#include <stddef.h>

struct imf__activations {
    char *base; /* NULL while measuring */
    size_t size, used, peak;
};

#define IMF__ACTIVATIONS_ALIGN 256

static inline size_t imf__activations_mark(const struct imf__activations *a)
{
    return a->used;
}

static inline void imf__activations_reset(struct imf__activations *a, size_t mark)
{
    a->used = mark;
}

/* 256-byte aligned; NULL when the plan was too small (never while measuring). Once it has failed,
 * every later allocation before a reset fails too, so callers may check the last one only. */
static inline void *imf__activations_alloc(struct imf__activations *a, size_t bytes)
{
    size_t at = a->used;
    a->used +=
        (bytes + IMF__ACTIVATIONS_ALIGN - 1) / IMF__ACTIVATIONS_ALIGN * IMF__ACTIVATIONS_ALIGN;
    a->peak = a->used > a->peak ? a->used : a->peak;
    if (!a->base)
        return (void *)(IMF__ACTIVATIONS_ALIGN + at);
    return a->used <= a->size ? a->base + at : NULL;
}

#endif
