/* API keys from a file. */
#include "api/keys.h"
#include "base/read_file.h"
#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_FILE = 1 << 20, MAX_KEYS = 4096 };

struct key {
    char name[KEYS_MAX_NAME + 1];
    unsigned char secret[KEYS_MAX_LENGTH]; /* padded with zeros */
    size_t length;
};

struct keys {
    int n, capacity;
    struct key *items;
};

static size_t token(const char *text, size_t length)
{
    size_t n = 0;
    while (n < length && text[n] > ' ' && text[n] < 0x7f)
        n++;
    return n;
}

static size_t blanks(const char *text, size_t length)
{
    size_t n = 0;
    while (n < length && (text[n] == ' ' || text[n] == '\t' || text[n] == '\r'))
        n++;
    return n;
}

/* Messages name the line, never its text: it holds a secret. */
static imf_status add_line(struct keys *k, const char *line, size_t length, const char *file,
                           int number, struct imf_error *err)
{
    size_t at = blanks(line, length);
    if (at == length || line[at] == '#')
        return IMF_OK;
    size_t name = at, name_length = token(line + at, length - at);
    at += name_length;
    at += blanks(line + at, length - at);
    size_t key = at, key_length = token(line + at, length - at);
    at += key_length;
    at += blanks(line + at, length - at);
    if (at != length || key_length == 0)
        return imf__fail(err, IMF_EINVAL, "%s: line %d: expected \"name key\"", file, number);
    if (name_length > KEYS_MAX_NAME)
        return imf__fail(err, IMF_EINVAL, "%s: line %d: the name is longer than %d", file, number,
                         KEYS_MAX_NAME);
    if (key_length < KEYS_MIN_LENGTH || key_length > KEYS_MAX_LENGTH)
        return imf__fail(err, IMF_EINVAL, "%s: line %d: a key has %d to %d characters", file,
                         number, KEYS_MIN_LENGTH, KEYS_MAX_LENGTH);
    if (k->n == MAX_KEYS)
        return imf__fail(err, IMF_EINVAL, "%s: more than %d keys", file, MAX_KEYS);
    if (k->n == k->capacity) {
        int capacity = k->capacity == 0 ? 16 : k->capacity * 2;
        struct key *items = realloc(k->items, (size_t)capacity * sizeof(*items));
        if (!items)
            return imf__fail(err, IMF_EINVAL, "out of memory");
        k->items = items;
        k->capacity = capacity;
    }
    struct key *item = &k->items[k->n++];
    memset(item, 0, sizeof(*item));
    memcpy(item->name, line + name, name_length);
    memcpy(item->secret, line + key, key_length);
    item->length = key_length;
    return IMF_OK;
}

imf_status keys_parse(struct keys **out, const char *text, size_t length, const char *name,
                      struct imf_error *err)
{
    struct keys *k = calloc(1, sizeof(*k));
    if (!k)
        return imf__fail(err, IMF_EINVAL, "out of memory");
    imf_status status = IMF_OK;
    int number = 1;
    for (size_t at = 0; at < length && status == IMF_OK; number++) {
        const char *end = memchr(text + at, '\n', length - at);
        size_t line = end ? (size_t)(end - (text + at)) : length - at;
        status = add_line(k, text + at, line, name, number, err);
        at += line + 1;
    }
    if (status == IMF_OK && k->n == 0)
        status = imf__fail(err, IMF_EINVAL, "%s: no key in it", name);
    if (status != IMF_OK) {
        keys_free(k);
        return status;
    }
    *out = k;
    return IMF_OK;
}

imf_status keys_load(struct keys **out, const char *path, struct imf_error *err)
{
    struct imf_error inner = {0};
    char *text;
    size_t n;
    imf_status status = imfd_read_file(&text, &n, path, MAX_FILE, false, &inner);
    if (status != IMF_OK)
        return imf__fail(err, status, "api_keys_file %s", inner.message);
    status = keys_parse(out, text, n, path, err);
    explicit_bzero(text, n);
    free(text);
    return status;
}

void keys_free(struct keys *k)
{
    if (!k)
        return;
    if (k->items)
        explicit_bzero(k->items, (size_t)k->capacity * sizeof(*k->items));
    free(k->items);
    free(k);
}

int keys_count(const struct keys *k)
{
    return k->n;
}

const char *keys_check(const struct keys *k, const char *authorization)
{
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0)
        return NULL;
    const char *given = authorization + 7;
    given += strspn(given, " ");
    size_t length = strlen(given);
    if (length == 0 || length > KEYS_MAX_LENGTH)
        return NULL;
    unsigned char padded[KEYS_MAX_LENGTH] = {0};
    memcpy(padded, given, length);
    const struct key *found = NULL;
    for (int i = 0; i < k->n; i++) { /* all keys, all bytes, whatever matches */
        const struct key *item = &k->items[i];
        size_t difference = item->length ^ length;
        for (size_t b = 0; b < KEYS_MAX_LENGTH; b++)
            difference |= (size_t)(item->secret[b] ^ padded[b]);
        found = difference == 0 ? item : found;
    }
    return found ? found->name : NULL;
}
