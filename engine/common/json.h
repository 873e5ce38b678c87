/* A strict, bounded pull parser for JSON (RFC 8259, UTF-8): what model files carry (safetensors
 * headers, shard indexes, config.json), and the judge of everything that the server parses.
 *
 * Refused beside what the grammar refuses: \u0000 and lone surrogates, a byte order mark, numbers of
 * 64 characters and more, nesting beyond 32. The parser owns nothing: strings are decoded in place
 * inside the caller's text, so they stay valid as long as the text does, and no input can make it
 * allocate. */
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

/* What is wrong with a text. */
struct imf__json_fault {
    const char *why; /* NULL: nothing */
    size_t at;       /* byte */
    bool twice;      /* an object has a key twice: `key`, or its beginning */
    char key[64];
    bool no_memory; /* nothing is wrong with the text */
};

/* Whether a text is JSON from end to end, and no object has a key twice: parsers differ in which
 * of them counts. Takes memory in proportion to the text. */
bool imf__json_check(const char *text, size_t size, struct imf__json_fault *fault);

#endif
