/* Writing JSON into a bounded, growing buffer, and base64.
 *
 * A json_writer appends text; commas and nesting are its business, so callers name keys and values
 * only. Whatever the bytes given, the output is valid UTF-8 JSON: control characters are escaped
 * and bytes that are no UTF-8 become U+FFFD. A writer that ran out of memory (or of its maximum)
 * stays `failed` and ignores further calls: check once, at the end. */
#ifndef JSON_WRITE_H
#define JSON_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that grow up to `max`. */
struct buffer {
    char *data;
    size_t size, capacity, max;
    bool failed;
};

void buffer_init(struct buffer *b, size_t max);
void buffer_free(struct buffer *b); /* may be initialised again */
/* Room for `n` more bytes at the end, or NULL; the caller adds what it wrote to `size`. */
char *buffer_reserve(struct buffer *b, size_t n);
void buffer_append(struct buffer *b, const void *data, size_t n);
void buffer_append_text(struct buffer *b, const char *text);
__attribute__((format(printf, 2, 3))) void buffer_printf(struct buffer *b, const char *format, ...);
void buffer_append_u64(struct buffer *b, uint64_t value);

enum { JSON_MAX_DEPTH = 16 };

struct json_writer {
    struct buffer *out; /* borrowed */
    int depth;
    bool comma[JSON_MAX_DEPTH]; /* a value was written on this level */
    bool after_key;
};

void json_init(struct json_writer *w, struct buffer *out);
void json_object_begin(struct json_writer *w);
void json_object_end(struct json_writer *w);
void json_array_begin(struct json_writer *w);
void json_array_end(struct json_writer *w);
void json_key(struct json_writer *w, const char *key);     /* ASCII without quotes or backslashes */
void json_string(struct json_writer *w, const char *text); /* NULL writes null */
void json_string_n(struct json_writer *w, const char *text, size_t length);
void json_u64(struct json_writer *w, uint64_t value);
void json_int(struct json_writer *w, int64_t value);
void json_bool(struct json_writer *w, bool value);
void json_null(struct json_writer *w);
/* Shortest text that reads back as the same float; infinities and NaN become null. */
void json_float(struct json_writer *w, float value);
void json_fixed(struct json_writer *w, double value, int decimals);
void json_raw(struct json_writer *w, const char *json, size_t length); /* a whole value */

/* Shortest decimal text that reads back as `value` ("8", "0.42"). `text` has room for 32 bytes;
 * returns its length. */
int format_float(char *text, float value);

/* Decimal digits and a NUL, at most 21 bytes; returns their number. */
size_t format_u64(char *text, uint64_t value);

static inline size_t base64_length(size_t n)
{
    return (n + 2) / 3 * 4;
}
/* Writes base64_length(n) characters, no terminator, and returns that length. */
size_t base64_encode(char *dst, const uint8_t *src, size_t n);

#endif
