/* A strict, bounded pull parser for the JSON that model files carry: safetensors headers, shard
 * indexes, config.json. The engine takes no JSON library for this; requests and settings are the
 * server's business and are parsed there.
 *
 * The parser owns nothing: strings are decoded in place inside the caller's text, so they stay
 * valid as long as the text does, and no input can make it allocate. */
#ifndef IMF__JSON_H
#define IMF__JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMF__JSON_MAX_DEPTH 32

enum imf__json_event {
    IMF__JSON_ERROR, /* `error` says why; every later call returns it again */
    IMF__JSON_END,   /* after the one top-level value and nothing but white space */
    IMF__JSON_OBJECT,
    IMF__JSON_OBJECT_END,
    IMF__JSON_ARRAY,
    IMF__JSON_ARRAY_END,
    IMF__JSON_KEY, /* string, length */
    IMF__JSON_STRING,
    IMF__JSON_NUMBER, /* number, and integer when is_integer */
    IMF__JSON_TRUE,
    IMF__JSON_FALSE,
    IMF__JSON_NULL
};

struct imf__json {
    char *text;
    size_t size, at;
    int depth;
    int expect;
    bool in_object[IMF__JSON_MAX_DEPTH];
    /* The last event's value. */
    char *string;  /* UTF-8, NUL-terminated, holds no other NUL */
    size_t length; /* of string, in bytes */
    double number;
    int64_t integer;
    bool is_integer; /* written without fraction and exponent, and fits int64_t */
    const char *error;
};

/* `text` is changed by parsing and need not be NUL-terminated. */
void imf__json_init(struct imf__json *j, char *text, size_t size);
enum imf__json_event imf__json_next(struct imf__json *j);
/* Passes over the value whose first event was `first`; false on a syntax error. */
bool imf__json_skip(struct imf__json *j, enum imf__json_event first);
/* Whether n bytes are well-formed UTF-8 (no overlong forms, no surrogates). */
bool imf__utf8_valid(const char *text, size_t n);

#endif
