/* The pull parser of json.h. One function per kind of token; `expect` is the whole grammar state
 * beside the stack of open brackets. */
#include "files/json.h"

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

static size_t put_utf8(char *dst, unsigned code)
{
    if (code < 0x80) {
        dst[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        dst[0] = (char)(0xC0 | code >> 6);
        dst[1] = (char)(0x80 | (code & 63));
        return 2;
    }
    if (code < 0x10000) {
        dst[0] = (char)(0xE0 | code >> 12);
        dst[1] = (char)(0x80 | (code >> 6 & 63));
        dst[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    dst[0] = (char)(0xF0 | code >> 18);
    dst[1] = (char)(0x80 | (code >> 12 & 63));
    dst[2] = (char)(0x80 | (code >> 6 & 63));
    dst[3] = (char)(0x80 | (code & 63));
    return 4;
}

/* Bytes of the well-formed UTF-8 sequence at p (no overlong forms, no surrogates); 0 if none. */
static size_t utf8_length(const unsigned char *p, size_t left)
{
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || left < n)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    }
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ||
        (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F))
        return 0;
    return n;
}

bool imf__utf8_valid(const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t length = utf8_length((const unsigned char *)text + i, n - i);
        if (!length)
            return false;
        i += length;
    }
    return true;
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
    return put_utf8(dst, (unsigned)code);
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
            n = utf8_length((const unsigned char *)j->text + j->at, j->size - j->at);
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
    /* 18 digits always fit. */
    j->is_integer = integer && n <= 18;
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
