/* JSON text into a bounded buffer. */
#include "base/json_write.h"

#include "common/utf8.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buffer_init(struct buffer *b, size_t max)
{
    memset(b, 0, sizeof(*b));
    b->max = max;
}

void buffer_free(struct buffer *b)
{
    free(b->data);
    buffer_init(b, b->max);
}

char *buffer_reserve(struct buffer *b, size_t n)
{
    if (b->failed || n > b->max - b->size) {
        b->failed = true;
        return NULL;
    }
    if (!b->data || b->size + n > b->capacity) {
        size_t capacity = b->capacity < 256 ? 256 : b->capacity;
        while (capacity < b->size + n)
            capacity = capacity > b->max / 2 ? b->max : capacity * 2;
        char *data = realloc(b->data, capacity);
        if (!data) {
            b->failed = true;
            return NULL;
        }
        b->data = data;
        b->capacity = capacity;
    }
    return b->data + b->size;
}

void buffer_append(struct buffer *b, const void *data, size_t n)
{
    char *at = n > 0 ? buffer_reserve(b, n) : NULL;
    if (at) {
        memcpy(at, data, n);
        b->size += n;
    }
}

void buffer_append_text(struct buffer *b, const char *text)
{
    buffer_append(b, text, strlen(text));
}

void buffer_printf(struct buffer *b, const char *format, ...)
{
    char text[512];
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(text, sizeof(text), format, args);
    if (n < 0) {
        b->failed = true;
    } else if ((size_t)n < sizeof(text)) {
        buffer_append(b, text, (size_t)n);
    } else {
        char *at = buffer_reserve(b, (size_t)n + 1);
        if (at) {
            vsnprintf(at, (size_t)n + 1, format, again);
            b->size += (size_t)n;
        }
    }
    va_end(again);
    va_end(args);
}

void buffer_append_u64(struct buffer *b, uint64_t value)
{
    char text[21];
    buffer_append(b, text, format_u64(text, value));
}

size_t format_u64(char *text, uint64_t value)
{
    char reversed[20];
    size_t n = 0;
    do {
        reversed[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    for (size_t i = 0; i < n; i++)
        text[i] = reversed[n - 1 - i];
    text[n] = '\0';
    return n;
}

/* ---- JSON ---------------------------------------------------------------------------------- */

void json_init(struct json_writer *w, struct buffer *out)
{
    memset(w, 0, sizeof(*w));
    w->out = out;
}

/* Called before every value: the comma, unless it follows its key or opens its level. */
static void separate(struct json_writer *w)
{
    if (w->after_key) {
        w->after_key = false;
        return;
    }
    if (w->comma[w->depth])
        buffer_append(w->out, ",", 1);
    w->comma[w->depth] = true;
}

static void level_begin(struct json_writer *w, const char *bracket)
{
    separate(w);
    buffer_append(w->out, bracket, 1);
    assert(w->depth + 1 < JSON_MAX_DEPTH);
    w->comma[++w->depth] = false;
}

static void level_end(struct json_writer *w, const char *bracket)
{
    assert(w->depth > 0 && !w->after_key);
    w->depth--;
    buffer_append(w->out, bracket, 1);
}

void json_object_begin(struct json_writer *w)
{
    level_begin(w, "{");
}

void json_object_end(struct json_writer *w)
{
    level_end(w, "}");
}

void json_array_begin(struct json_writer *w)
{
    level_begin(w, "[");
}

void json_array_end(struct json_writer *w)
{
    level_end(w, "]");
}

void json_key(struct json_writer *w, const char *key)
{
    separate(w);
    buffer_append(w->out, "\"", 1);
    buffer_append_text(w->out, key);
    buffer_append(w->out, "\":", 2);
    w->after_key = true;
}

/* One byte that JSON cannot carry as it is. */
static void append_escaped(struct buffer *b, unsigned char c)
{
    static const char named[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *found = c != 0 ? strchr(named, c) : NULL;
    if (found) {
        char pair[2] = {'\\', letters[found - named]};
        buffer_append(b, pair, 2);
    } else if (c < 0x20 || c == 0x7f) {
        buffer_printf(b, "\\u%04x", c);
    } else {
        buffer_append(b, "\xef\xbf\xbd", 3); /* not UTF-8: U+FFFD */
    }
}

void json_string_n(struct json_writer *w, const char *text, size_t length)
{
    separate(w);
    struct buffer *b = w->out;
    buffer_append(b, "\"", 1);
    size_t plain = 0, i = 0; /* text[plain..i) needs no escape */
    while (i < length) {
        unsigned char c = (unsigned char)text[i];
        size_t n = c < 0x20 || c == '"' || c == '\\' || c == 0x7f
                       ? 0
                       : imf__utf8_length(text + i, length - i);
        if (n > 0) {
            i += n;
            continue;
        }
        buffer_append(b, text + plain, i - plain);
        append_escaped(b, c);
        plain = ++i;
    }
    buffer_append(b, text + plain, i - plain);
    buffer_append(b, "\"", 1);
}

void json_string(struct json_writer *w, const char *text)
{
    if (!text)
        json_null(w);
    else
        json_string_n(w, text, strlen(text));
}

void json_u64(struct json_writer *w, uint64_t value)
{
    separate(w);
    buffer_append_u64(w->out, value);
}

void json_int(struct json_writer *w, int64_t value)
{
    separate(w);
    if (value < 0)
        buffer_append(w->out, "-", 1);
    buffer_append_u64(w->out, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

void json_bool(struct json_writer *w, bool value)
{
    separate(w);
    buffer_append_text(w->out, value ? "true" : "false");
}

void json_null(struct json_writer *w)
{
    separate(w);
    buffer_append(w->out, "null", 4);
}

int format_float(char *text, float value)
{
    int n = 0;
    for (int digits = 1; digits <= 9; digits++) {
        n = snprintf(text, 32, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            break;
    }
    return n;
}

void json_float(struct json_writer *w, float value)
{
    if (!isfinite(value)) {
        json_null(w);
        return;
    }
    char text[32];
    int n = format_float(text, value);
    separate(w);
    buffer_append(w->out, text, (size_t)n);
}

void json_fixed(struct json_writer *w, double value, int decimals)
{
    if (!isfinite(value)) {
        json_null(w);
        return;
    }
    separate(w);
    buffer_printf(w->out, "%.*f", decimals, value);
}

void json_raw(struct json_writer *w, const char *json, size_t length)
{
    separate(w);
    buffer_append(w->out, json, length);
}

/* ---- base64 -------------------------------------------------------------------------------- */

static const char base64_alphabet[64] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Two characters for every 12 bits, which halves the look-ups. Filled once. */
static char base64_pairs[4096][2];

static void fill_base64_pairs(void)
{
    for (int i = 0; i < 4096; i++) {
        base64_pairs[i][0] = base64_alphabet[i >> 6];
        base64_pairs[i][1] = base64_alphabet[i & 63];
    }
}

size_t base64_encode(char *dst, const uint8_t *src, size_t n)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_base64_pairs);
    char *out = dst;
    size_t i = 0;
    for (; i + 3 <= n; i += 3, out += 4) {
        uint32_t v = (uint32_t)src[i] << 16 | (uint32_t)src[i + 1] << 8 | src[i + 2];
        memcpy(out, base64_pairs[v >> 12], 2);
        memcpy(out + 2, base64_pairs[v & 4095], 2);
    }
    if (i < n) {
        uint32_t v = (uint32_t)src[i] << 16 | (i + 1 < n ? (uint32_t)src[i + 1] << 8 : 0);
        memcpy(out, base64_pairs[v >> 12], 2);
        out[2] = i + 1 < n ? base64_alphabet[v >> 6 & 63] : '=';
        out[3] = '=';
        out += 4;
    }
    return (size_t)(out - dst);
}
