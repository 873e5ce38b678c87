/* The pull parser of json.h. One function per kind of token; `expect` is the whole grammar state
 * beside the stack of open brackets. */
#include "common/json.h"

#include "common/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum expect { VALUE, VALUE_OR_END, KEY, KEY_OR_END, COMMA_OR_END, NOTHING };

void imf__json_init(struct imf__json *j, char *text, size_t size)
{
    memset(j, 0, sizeof(*j));
    j->text = text;
    j->size = size;
    j->expect = VALUE;
}

static enum imf__json_event fail(struct imf__json *j, const char *why)
{
    if (!j->error)
        j->error = why;
    return IMF__JSON_ERROR;
}

static void skip_space(struct imf__json *j)
{
    while (j->at < j->size && (j->text[j->at] == ' ' || j->text[j->at] == '\t' ||
                               j->text[j->at] == '\n' || j->text[j->at] == '\r'))
        j->at++;
}

static void after_value(struct imf__json *j)
{
    j->expect = j->depth ? COMMA_OR_END : NOTHING;
}

/* Four hex digits at text[at]; -1 when there are none. */
static int hex4(const struct imf__json *j, size_t at)
{
    if (j->size - at < 4)
        return -1;
    int v = 0;
    for (size_t i = at; i < at + 4; i++) {
        char c = j->text[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* Decodes the escape whose backslash was at text[at - 1] to dst; bytes written, 0 on an error. */
static size_t escape(struct imf__json *j, char *dst)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (j->at >= j->size)
        return 0;
    char c = j->text[j->at++];
    if (c != 'u') {
        const char *p = c ? strchr(from, c) : NULL;
        if (!p)
            return 0;
        *dst = to[p - from];
        return 1;
    }
    int code = hex4(j, j->at);
    j->at += 4;
    if (code == 0)
        fail(j, "\\u0000 in a string"); /* C's strings would end there */
    if (code <= 0 || (code >= 0xDC00 && code < 0xE000))
        return 0; /* not hex, a NUL, or half a surrogate pair */
    if (code >= 0xD800 && code < 0xDC00) {
        if (j->size - j->at < 6 || j->text[j->at] != '\\' || j->text[j->at + 1] != 'u')
            return 0;
        int low = hex4(j, j->at + 2);
        if (low < 0xDC00 || low > 0xDFFF)
            return 0;
        j->at += 6;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    return imf__utf8_put(dst, (unsigned)code);
}

/* The string whose opening quote is at text[at]. A decoded string is never longer than its source,
 * so it is written over it, and its NUL lands at the latest on the closing quote. */
static bool string(struct imf__json *j)
{
    char *dst = j->text + j->at + 1;
    j->string = dst;
    for (j->at++; j->at < j->size;) {
        unsigned char c = (unsigned char)j->text[j->at];
        if (c == '"') {
            j->at++;
            *dst = '\0';
            j->length = (size_t)(dst - j->string);
            return true;
        }
        if (c < 0x20) {
            fail(j, "control character in a string");
            return false;
        }
        size_t n;
        if (c == '\\') {
            j->at++;
            n = escape(j, dst);
            if (!n) {
                fail(j, "bad escape in a string");
                return false;
            }
        } else {
            n = imf__utf8_length(j->text + j->at, j->size - j->at);
            if (!n) {
                fail(j, "a string is not UTF-8");
                return false;
            }
            memmove(dst, j->text + j->at, n);
            j->at += n;
        }
        dst += n;
    }
    fail(j, "a string has no end");
    return false;
}

static bool digits(const struct imf__json *j, size_t *at)
{
    size_t from = *at;
    while (*at < j->size && j->text[*at] >= '0' && j->text[*at] <= '9')
        (*at)++;
    return *at > from;
}

static enum imf__json_event number(struct imf__json *j)
{
    size_t at = j->at;
    if (j->text[at] != '-' && (j->text[at] < '0' || j->text[at] > '9'))
        return fail(j, "no value where one is expected");
    if (j->text[at] == '-')
        at++;
    size_t first = at;
    if (!digits(j, &at) || (j->text[first] == '0' && at - first > 1))
        return fail(j, "bad number");
    bool integer = true;
    if (at < j->size && j->text[at] == '.') {
        integer = false;
        at++;
        if (!digits(j, &at))
            return fail(j, "bad number");
    }
    if (at < j->size && (j->text[at] == 'e' || j->text[at] == 'E')) {
        integer = false;
        at++;
        if (at < j->size && (j->text[at] == '+' || j->text[at] == '-'))
            at++;
        if (!digits(j, &at))
            return fail(j, "bad number");
    }
    char copy[64];
    size_t n = at - j->at;
    if (n >= sizeof(copy))
        return fail(j, "a number is too long");
    memcpy(copy, j->text + j->at, n);
    copy[n] = '\0';
    j->at = at;
    j->number = strtod(copy, NULL);
    /* 18 digits always fit; no integer is -0. */
    j->is_integer = integer && n <= 18 && strcmp(copy, "-0") != 0;
    j->integer = j->is_integer ? strtoll(copy, NULL, 10) : 0;
    after_value(j);
    return IMF__JSON_NUMBER;
}

static enum imf__json_event word(struct imf__json *j, const char *name, enum imf__json_event event)
{
    size_t n = strlen(name);
    if (j->size - j->at < n || memcmp(j->text + j->at, name, n) != 0)
        return fail(j, "unknown word");
    j->at += n;
    after_value(j);
    return event;
}

static enum imf__json_event open_bracket(struct imf__json *j, bool object)
{
    if (j->depth == IMF__JSON_MAX_DEPTH)
        return fail(j, "nested too deeply");
    j->in_object[j->depth++] = object;
    j->at++;
    j->expect = object ? KEY_OR_END : VALUE_OR_END;
    return object ? IMF__JSON_OBJECT : IMF__JSON_ARRAY;
}

static enum imf__json_event close_bracket(struct imf__json *j, bool object)
{
    if (j->depth == 0 || j->in_object[j->depth - 1] != object)
        return fail(j, "brackets do not match");
    j->depth--;
    j->at++;
    after_value(j);
    return object ? IMF__JSON_OBJECT_END : IMF__JSON_ARRAY_END;
}

static enum imf__json_event key(struct imf__json *j)
{
    if (j->text[j->at] != '"')
        return fail(j, "a key is missing");
    if (!string(j))
        return IMF__JSON_ERROR;
    skip_space(j);
    if (j->at >= j->size || j->text[j->at] != ':')
        return fail(j, "no colon after a key");
    j->at++;
    j->expect = VALUE;
    return IMF__JSON_KEY;
}

static enum imf__json_event value(struct imf__json *j)
{
    switch (j->text[j->at]) {
    case '{':
        return open_bracket(j, true);
    case '[':
        return open_bracket(j, false);
    case '"':
        if (!string(j))
            return IMF__JSON_ERROR;
        after_value(j);
        return IMF__JSON_STRING;
    case 't':
        return word(j, "true", IMF__JSON_TRUE);
    case 'f':
        return word(j, "false", IMF__JSON_FALSE);
    case 'n':
        return word(j, "null", IMF__JSON_NULL);
    default:
        return number(j);
    }
}

enum imf__json_event imf__json_next(struct imf__json *j)
{
    if (j->error)
        return IMF__JSON_ERROR;
    if (j->at == 0 && j->size >= 3 && memcmp(j->text, "\xEF\xBB\xBF", 3) == 0)
        return fail(j, "a byte order mark");
    skip_space(j);
    if (j->expect == NOTHING)
        return j->at == j->size ? IMF__JSON_END : fail(j, "text after the end");
    if (j->at >= j->size)
        return fail(j, "the text ends early");
    char c = j->text[j->at];
    if (j->expect != VALUE && j->expect != KEY && (c == '}' || c == ']'))
        return close_bracket(j, c == '}');
    if (j->expect == COMMA_OR_END) {
        if (c != ',')
            return fail(j, "a comma is missing");
        j->at++;
        j->expect = j->in_object[j->depth - 1] ? KEY : VALUE;
        skip_space(j);
        if (j->at >= j->size)
            return fail(j, "the text ends early");
    }
    return j->expect == KEY || j->expect == KEY_OR_END ? key(j) : value(j);
}

bool imf__json_skip(struct imf__json *j, enum imf__json_event first)
{
    if (first == IMF__JSON_ERROR || first == IMF__JSON_END)
        return false;
    if (first != IMF__JSON_OBJECT && first != IMF__JSON_ARRAY)
        return true;
    int depth = j->depth - 1; /* of what surrounds the value */
    while (j->depth > depth) {
        if (imf__json_next(j) == IMF__JSON_ERROR)
            return false;
    }
    return true;
}

/* ---- Whole texts ----------------------------------------------------------------------------- */

/* A key, and the number of the object it is in. */
struct key {
    unsigned object;
    const char *name;
};

struct keys {
    struct key *items;
    size_t count, capacity;
};

static bool add_key(struct keys *k, unsigned object, const char *name)
{
    if (k->count == k->capacity) {
        size_t capacity = k->capacity ? 2 * k->capacity : 64;
        struct key *grown = realloc(k->items, capacity * sizeof(*grown));
        if (!grown)
            return false;
        k->items = grown;
        k->capacity = capacity;
    }
    k->items[k->count++] = (struct key){object, name};
    return true;
}

static int compare_keys(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    if (x->object != y->object)
        return x->object < y->object ? -1 : 1;
    return strcmp(x->name, y->name);
}

static bool collect_keys(struct imf__json *j, struct keys *keys)
{
    unsigned objects[IMF__JSON_MAX_DEPTH + 1] = {0}, next = 0;
    for (;;) {
        enum imf__json_event event = imf__json_next(j);
        if (event == IMF__JSON_ERROR || event == IMF__JSON_END)
            return true;
        if (event == IMF__JSON_OBJECT)
            objects[j->depth] = next++;
        if (event == IMF__JSON_KEY && !add_key(keys, objects[j->depth], j->string))
            return false;
    }
}

bool imf__json_check(const char *text, size_t size, struct imf__json_fault *fault)
{
    *fault = (struct imf__json_fault){.why = NULL};
    char *copy = malloc(size + 1); /* strings are decoded in place */
    struct keys keys = {NULL, 0, 0};
    struct imf__json j;
    if (copy) {
        if (size)
            memcpy(copy, text, size);
        imf__json_init(&j, copy, size);
    }
    if (!copy || !collect_keys(&j, &keys)) {
        fault->why = "out of memory";
        fault->no_memory = true;
    } else if (j.error) {
        fault->why = j.error;
        fault->at = j.at < size ? j.at : size;
    } else if (keys.count > 1) {
        qsort(keys.items, keys.count, sizeof(*keys.items), compare_keys);
        for (size_t i = 1; i < keys.count && !fault->why; i++) {
            if (compare_keys(&keys.items[i - 1], &keys.items[i]) != 0)
                continue;
            fault->why = "a key is given twice";
            fault->twice = true;
            fault->at = (size_t)(keys.items[i].name - copy);
            snprintf(fault->key, sizeof(fault->key), "%s", keys.items[i].name);
        }
    }
    free(keys.items);
    free(copy);
    return !fault->why;
}
