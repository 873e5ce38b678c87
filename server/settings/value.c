/* One setting's value: from text or JSON into struct settings, back to JSON, and freeing it. Every
 * value, wherever it comes from, passes through its row's text form, so that "64K" in the
 * environment and in the file mean the same and fail alike. */
#include "common/error.h"
#include "settings/internal.h"
#include "base/json_read.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void list_free(struct string_list *l)
{
    for (int i = 0; i < l->n; i++)
        free(l->items[i]);
    free(l->items);
    *l = (struct string_list){NULL, 0};
}

static bool list_add(struct string_list *l, const char *text, size_t length)
{
    if (l->n >= SETTINGS_MAX_ITEMS)
        return false;
    char **items = realloc(l->items, (size_t)(l->n + 1) * sizeof(*items));
    if (!items)
        return false;
    l->items = items;
    char *item = strndup(text, length);
    if (!item)
        return false;
    l->items[l->n++] = item;
    return true;
}

static imf_status parse_number(int64_t *out, const struct setting_row *row, const char *text,
                               struct imf_error *err)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    bool good = end != text && errno == 0;
    if (good && row->type == TYPE_BYTES && *end != '\0') {
        const char *suffix = strchr("KMGkmg", *end);
        int shift = !suffix ? 0 : 10 * (1 + (int)(suffix - "KMGkmg") % 3);
        end++;
        if (*end == 'i')
            end++;
        if (*end == 'B')
            end++;
        good = suffix && !__builtin_mul_overflow(value, 1LL << shift, &value);
    }
    if (!good || *end != '\0')
        return imf__fail(err, IMF_EINVAL, "%s: \"%.64s\" is not a whole number%s", row->key, text,
                         row->type == TYPE_BYTES ? " of bytes (K, M and G may follow)" : "");
    if (value < row->low || value > row->high)
        return imf__fail(err, IMF_EINVAL, "%s: %lld is outside %lld..%lld", row->key, value,
                         (long long)row->low, (long long)row->high);
    *out = value;
    return IMF_OK;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t length = strlen(text);
    for (const char *c = choices; length > 0; c = strchr(c, '|') + 1) {
        if (strncmp(c, text, length) == 0 && (c[length] == '|' || c[length] == '\0'))
            return true;
        if (!strchr(c, '|'))
            break;
    }
    return false;
}

static imf_status set_list_text(struct string_list *list, const struct setting_row *row,
                                const char *text, struct imf_error *err)
{
    while (*text != '\0') {
        size_t length = strcspn(text, ",");
        const char *next = text + length + (text[length] == ',');
        while (length > 0 && *text == ' ')
            text++, length--;
        while (length > 0 && text[length - 1] == ' ')
            length--;
        if (length > 0 && !list_add(list, text, length))
            return imf__fail(err, IMF_EINVAL, "%s: too many items, or too little memory", row->key);
        text = next;
    }
    return IMF_OK;
}

static imf_status set_list_json(struct string_list *list, const struct setting_row *row,
                                const cJSON *array, struct imf_error *err)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, array)
    {
        if (!cJSON_IsString(item))
            return imf__fail(err, IMF_EINVAL, "%s: a list of strings is expected", row->key);
        if (!list_add(list, item->valuestring, strlen(item->valuestring)))
            return imf__fail(err, IMF_EINVAL, "%s: too many items, or too little memory", row->key);
    }
    return IMF_OK;
}

/* {"name": "value"}: both become "name=value". */
static imf_status set_pairs_json(struct string_list *list, const struct setting_row *row,
                                 const cJSON *object, struct imf_error *err)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, object)
    {
        char *pair = NULL;
        if (!item->string || !cJSON_IsString(item))
            return imf__fail(err, IMF_EINVAL, "%s: names with strings are expected", row->key);
        int n = asprintf(&pair, "%s=%s", item->string, item->valuestring);
        bool added = n >= 0 && !strchr(item->string, '=') && list_add(list, pair, (size_t)n);
        if (n >= 0)
            free(pair);
        if (!added)
            return imf__fail(err, IMF_EINVAL, "%s: \"%.64s\" cannot be added", row->key,
                             item->string);
    }
    return IMF_OK;
}

static imf_status check_pairs(const struct string_list *list, const struct setting_row *row,
                              struct imf_error *err)
{
    for (int i = 0; i < list->n; i++) {
        const char *pair = list->items[i], *equals = strchr(pair, '=');
        if (!equals || equals == pair || equals[1] == '\0')
            return imf__fail(err, IMF_EINVAL, "%s: \"%.64s\" is not name=value", row->key, pair);
        for (int j = 0; j < i; j++) {
            if (strncmp(list->items[j], pair, (size_t)(equals - pair) + 1) == 0)
                return imf__fail(err, IMF_EINVAL, "%s: \"%.*s\" is given twice", row->key,
                                 (int)(equals - pair), pair);
        }
    }
    return IMF_OK;
}

/* A list in JSON, as opposed to the address "[::]:8080". */
static bool looks_like_json(const struct setting_row *row, const char *text)
{
    if (row->type == TYPE_PAIRS)
        return text[0] == '{';
    if (row->type != TYPE_LIST && row->type != TYPE_MODELS)
        return false;
    return text[0] == '[' && strchr("\"{]", text[1 + strspn(text + 1, " \t\r\n")]);
}

imf_status settings__set_text(struct settings *s, int i, const char *text,
                              enum setting_origin origin, bool append, struct imf_error *err)
{
    const struct setting_row *row = &settings__table[i];
    void *at = (char *)s + row->offset;
    imf_status status = IMF_OK;
    cJSON *json = NULL;
    if (looks_like_json(row, text)) {
        struct imf__json_fault fault;
        json = json_read(text, strlen(text), &fault);
        if (!json)
            return imf__fail(err, IMF_EINVAL, "%s: the list is not valid JSON: %s%s%s", row->key,
                             fault.why, fault.twice ? ": " : "", fault.key);
    }
    switch (row->type) {
    case TYPE_INTEGER:
    case TYPE_BYTES:
        status = parse_number(at, row, text, err);
        break;
    case TYPE_CHOICE:
        if (!is_choice(row->choices, text)) {
            status = imf__fail(err, IMF_EINVAL, "%s: \"%.64s\" is none of %s", row->key, text,
                               row->choices);
            break;
        }
        /* fall through */
    case TYPE_TEXT: {
        char *value = strdup(text);
        if (!value)
            return imf__fail(err, IMF_EINVAL, "out of memory");
        free(*(char **)at);
        *(char **)at = value;
        break;
    }
    case TYPE_LIST:
        if (!append)
            list_free(at);
        status = json ? set_list_json(at, row, json, err) : set_list_text(at, row, text, err);
        break;
    case TYPE_PAIRS:
        if (!append)
            list_free(at);
        status = json ? set_pairs_json(at, row, json, err) : set_list_text(at, row, text, err);
        if (status == IMF_OK)
            status = check_pairs(at, row, err);
        break;
    case TYPE_MODELS:
        if (!append)
            settings__models_free(at);
        status = json ? settings__models_parse_json(at, json, err)
                      : settings__models_parse_short(at, text, err);
        if (status == IMF_OK)
            status = settings__models_check(at, err);
        break;
    }
    cJSON_Delete(json);
    s->origin[i] = origin;
    return status;
}

imf_status settings__set_json(struct settings *s, int i, const cJSON *value, struct imf_error *err)
{
    const struct setting_row *row = &settings__table[i];
    bool listy = row->type == TYPE_LIST || row->type == TYPE_MODELS;
    const cJSON *odd = row->type == TYPE_LIST && cJSON_IsArray(value) ? value->child : NULL;
    while (odd && cJSON_IsString(odd))
        odd = odd->next;
    if (odd)
        return imf__fail(err, IMF_EINVAL, "%s: a list of strings is expected", row->key);
    if ((cJSON_IsArray(value) && listy) || (cJSON_IsObject(value) && row->type == TYPE_PAIRS)) {
        char *text = cJSON_PrintUnformatted(value);
        if (!text)
            return imf__fail(err, IMF_EINVAL, "out of memory");
        imf_status status = settings__set_text(s, i, text, ORIGIN_FILE, false, err);
        cJSON_free(text);
        return status;
    }
    if (cJSON_IsString(value) && row->type != TYPE_MODELS)
        return settings__set_text(s, i, value->valuestring, ORIGIN_FILE, false, err);
    if (cJSON_IsNumber(value) && (row->type == TYPE_INTEGER || row->type == TYPE_BYTES)) {
        char text[40];
        double v = value->valuedouble;
        snprintf(text, sizeof(text), v == floor(v) && fabs(v) < 1e18 ? "%.0f" : "%g", v);
        return settings__set_text(s, i, text, ORIGIN_FILE, false, err);
    }
    return imf__fail(err, IMF_EINVAL, "%s: %s is expected", row->key,
                     listy                       ? "a list"
                     : row->type == TYPE_PAIRS   ? "an object"
                     : row->type == TYPE_INTEGER ? "a whole number"
                     : row->type == TYPE_BYTES   ? "a number of bytes"
                                                 : "a string");
}

void settings__value_free(struct settings *s, int i)
{
    void *at = (char *)s + settings__table[i].offset;
    switch (settings__table[i].type) {
    case TYPE_TEXT:
    case TYPE_CHOICE:
        free(*(char **)at);
        break;
    case TYPE_LIST:
    case TYPE_PAIRS:
        list_free(at);
        break;
    case TYPE_MODELS:
        settings__models_free(at);
        break;
    case TYPE_INTEGER:
    case TYPE_BYTES:
        break;
    }
}

static cJSON *list_json(const struct string_list *list)
{
    cJSON *array = cJSON_CreateArray();
    for (int i = 0; i < list->n; i++)
        cJSON_AddItemToArray(array, cJSON_CreateString(list->items[i]));
    return array;
}

static cJSON *pairs_json(const struct string_list *list)
{
    cJSON *object = cJSON_CreateObject();
    for (int i = 0; i < list->n; i++) {
        char name[256];
        const char *equals = strchr(list->items[i], '=');
        snprintf(name, sizeof(name), "%.*s", (int)(equals - list->items[i]), list->items[i]);
        cJSON_AddStringToObject(object, name, equals + 1);
    }
    return object;
}

cJSON *settings__value_json(const struct settings *s, int i)
{
    const void *at = (const char *)s + settings__table[i].offset;
    switch (settings__table[i].type) {
    case TYPE_INTEGER:
    case TYPE_BYTES:
        return cJSON_CreateNumber((double)*(const int64_t *)at);
    case TYPE_LIST:
        return list_json(at);
    case TYPE_PAIRS:
        return pairs_json(at);
    case TYPE_MODELS:
        return settings__models_json(at);
    case TYPE_TEXT:
    case TYPE_CHOICE:
        break;
    }
    return cJSON_CreateString(*(char *const *)at);
}
