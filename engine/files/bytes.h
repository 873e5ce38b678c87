/* Bytes being put together, little-endian. */
#ifndef IMF__BYTES_H
#define IMF__BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct imf__bytes {
    uint8_t *data; /* the owner frees */
    size_t size, capacity;
    bool failed; /* out of memory; sticky */
};

void imf__bytes_put(struct imf__bytes *b, const void *data, size_t n);
void imf__bytes_int(struct imf__bytes *b, uint64_t value, int n);
void imf__bytes_text(struct imf__bytes *b, const char *s);

#endif
