/* bytes.h */
#include "files/bytes.h"

#include <stdlib.h>
#include <string.h>

void imf__bytes_put(struct imf__bytes *b, const void *data, size_t n)
{
    if (b->failed || n == 0)
        return;
    if (b->capacity - b->size < n) {
        size_t capacity = 2 * b->capacity + n + 256;
        uint8_t *grown = realloc(b->data, capacity);
        if (!grown) {
            b->failed = true;
            return;
        }
        b->data = grown;
        b->capacity = capacity;
    }
    memcpy(b->data + b->size, data, n);
    b->size += n;
}

void imf__bytes_int(struct imf__bytes *b, uint64_t value, int n)
{
    uint8_t le[8];
    for (int i = 0; i < n; i++)
        le[i] = (uint8_t)(value >> 8 * i);
    imf__bytes_put(b, le, (size_t)n);
}

void imf__bytes_text(struct imf__bytes *b, const char *s)
{
    imf__bytes_put(b, s, strlen(s));
}
