/* Shared immutable bytes with a reference count: a finished file or the pixels of a picture, held at
 * the same time by the cache and by any number of replies. Reference counts are atomic: take and
 * drop on any thread. The bytes are written once, before the blob is shared. */
#ifndef BLOB_H
#define BLOB_H

#include <stddef.h>
#include <stdint.h>

struct blob {
    int refs;    /* atomic */
    size_t size; /* bytes in data */
    /* Files of pictures: their text occupies data[text_offset, text_offset + text_size). */
    size_t text_offset, text_size;
    uint8_t data[];
};

struct blob *blob_new(size_t size);     /* one reference, bytes not set; NULL when out of memory */
struct blob *blob_take(struct blob *b); /* returns b */
void blob_drop(struct blob *b);         /* NULL is fine */

#endif
