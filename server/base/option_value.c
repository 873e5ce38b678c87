/* One option's value: from text or JSON into its variable, back to JSON, and freeing it. Every value,
 * wherever it comes from, passes through its text form, so that "64K" on a command line, in the
 * environment and in a file mean the same and fail alike. */
#include "base/json_read.h"
#include "base/options.h"
#include "common/error.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void *variable(const struct imfd_option *o, void *record)
{
    return (char *)record + o->at;
}

/* ---- Lists ---- */

void imfd_list_free(struct imfd_list *list)
{
    free(list->values);
    *list = (struct imfd_list){NULL, 0};
}

static void strings_free(struct imfd_strings *list)
{
    for (int i = 0; i < list->n; i++)
        free(list->items[i]);
    free(list->items);
    *list = (struct imfd_strings){NULL, 0};
}

static bool list_append(struct imfd_list *list, uint64_t first, uint64_t last)
{
    if (last < first || last - first >= IMFD_LIST_MAX ||
        list->count + (size_t)(last - first) >= IMFD_LIST_MAX)
        return false;
    size_t n = (size_t)(last - first) + 1;
    uint64_t *grown = realloc(list->values, (list->count + n) * sizeof(*grown));
    if (!grown)
        return false;
    for (size_t i = 0; i < n; i++)
        grown[list->count + i] = first + i;
    list->values = grown;
    list->count += n;
    return true;
}

static imf_status strings_append(struct imfd_strings *list, const char *name, const char *text,
                                 size_t length, struct imf_error *err)
{
    char **items = list->n < IMFD_STRINGS_MAX
                       ? realloc(list->items, (size_t)(list->n + 1) * sizeof(*items))
                       : NULL;
    if (items)
        list->items = items;
    char *item = items ? strndup(text, length) : NULL;
    if (!item)
        return imf__fail(err, IMF_EINVAL, "%s: too many items, or too little memory", name);
    list->items[list->n++] = item;
    return IMF_OK;
}

/* ---- Bounds ---- */

static bool bounded(const struct imfd_option *o)
{
    return o->min != 0 || o->max != 0;
}

static bool within(const struct imfd_option *o, double v)
{
    return !bounded(o) || (v >= o->min && v <= o->max);
}

/* "auto|fp32|bf16" as "auto, fp32 or bf16". */
static void print_choices(const char *choices, char *text, size_t size)
{
    size_t n = 0;
    for (const char *c = choices; *c && n + 5 < size; c++) {
        if (*c != '|')
            text[n++] = *c;
        else
            n += (size_t)snprintf(text + n, size - n, "%s", strchr(c + 1, '|') ? ", " : " or ");
    }
    text[n] = '\0';
}

void imfd_option_bounds(const struct imfd_option *o, char *text, size_t size)
{
    text[0] = '\0';
    if (o->choices)
        print_choices(o->choices, text, size);
    else if (bounded(o))
        snprintf(text, size, "%.15g to %.15g%s", o->min, o->max,
                 o->type == IMFD_OPTION_BYTES ? " bytes; \"64K\", \"1M\", \"2G\" too" : "");
}

const char *imfd_option_key(const struct imfd_option *o, char key[IMFD_OPTION_KEY_MAX])
{
    snprintf(key, IMFD_OPTION_KEY_MAX, "%s", o->name);
    for (char *c = key; *c; c++)
        *c = *c == '-' ? '_' : *c;
    return key;
}

/* "must be a whole number between 1 and 64, not 'x'" */
static imf_status refuse(const struct imfd_option *o, const char *name, const char *kind,
                         const char *text, struct imf_error *err)
{
    if (bounded(o))
        return imf__fail(err, IMF_EINVAL, "%s must be %s between %.15g and %.15g, not '%.64s'",
                         name, kind, o->min, o->max, text);
    return imf__fail(err, IMF_EINVAL, "%s must be %s, not '%.64s'", name, kind, text);
}

/* ---- Numbers ---- */

/* Decimal digits only: strtoull would take signs, spaces and negative numbers. */
static bool read_digits(const char **text, uint64_t *out)
{
    if (!isdigit((unsigned char)**text))
        return false;
    uint64_t v = 0;
    for (; isdigit((unsigned char)**text); ++*text) {
        unsigned digit = (unsigned)(**text - '0');
        if (v > (UINT64_MAX - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}

static bool read_uint64(const char *text, uint64_t *out)
{
    return read_digits(&text, out) && *text == '\0';
}

static bool read_int(const char *text, int *out)
{
    uint64_t v;
    bool negative = *text == '-';
    if (!read_uint64(text + negative, &v) || v > INT32_MAX)
        return false;
    *out = negative ? -(int)v : (int)v;
    return true;
}

static bool read_bytes(const char *text, int64_t *out)
{
    uint64_t v;
    if (!read_digits(&text, &v) || v > INT64_MAX)
        return false;
    *out = (int64_t)v;
    if (*text == '\0')
        return true;
    const char *suffix = strchr("KMGkmg", *text);
    int shift = suffix ? 10 * (1 + (int)(suffix - "KMGkmg") % 3) : 0;
    text++;
    text += *text == 'i';
    text += *text == 'B';
    return suffix && *text == '\0' && !__builtin_mul_overflow(*out, (int64_t)1 << shift, out);
}

static bool read_float(const char *text, float *out)
{
    char *end;
    if (!*text || isspace((unsigned char)*text))
        return false;
    double v = strtod(text, &end);
    if (*end || !isfinite(v) || !isfinite((float)v))
        return false;
    *out = (float)v;
    return true;
}

static bool read_list(const struct imfd_option *o, const char *text, struct imfd_list *list)
{
    imfd_list_free(list); /* the last use of an option counts */
    for (;;) {
        uint64_t first, last;
        if (!read_digits(&text, &first))
            return false;
        last = first;
        if (*text == '-' && (++text, !read_digits(&text, &last)))
            return false;
        if (!within(o, (double)first) || !within(o, (double)last) ||
            !list_append(list, first, last))
            return false;
        if (*text == '\0')
            return true;
        if (*text++ != ',')
            return false;
    }
}

/* ---- Strings ---- */

static bool is_choice(const char *choices, const char *text)
{
    for (size_t length; *choices; choices += length + (choices[length] == '|')) {
        length = strcspn(choices, "|");
        if (strlen(text) == length && memcmp(choices, text, length) == 0)
            return true;
    }
    return false;
}

static imf_status read_strings(struct imfd_strings *list, const char *name, const char *text,
                               struct imf_error *err)
{
    while (*text != '\0') {
        size_t length = strcspn(text, ",");
        const char *next = text + length + (text[length] == ',');
        while (length > 0 && *text == ' ')
            text++, length--;
        while (length > 0 && text[length - 1] == ' ')
            length--;
        if (length > 0)
            IMF_TRY(strings_append(list, name, text, length, err));
        text = next;
    }
    return IMF_OK;
}

static imf_status read_strings_json(struct imfd_strings *list, const char *name, const cJSON *array,
                                    struct imf_error *err)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, array)
    {
        if (!cJSON_IsString(item))
            return imf__fail(err, IMF_EINVAL, "%s: a list of strings is expected", name);
        IMF_TRY(strings_append(list, name, item->valuestring, strlen(item->valuestring), err));
    }
    return IMF_OK;
}

/* {"name": "value"}: both become "name=value". */
static imf_status read_pairs_json(struct imfd_strings *list, const char *name, const cJSON *object,
                                  struct imf_error *err)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, object)
    {
        char *pair;
        if (!item->string || !cJSON_IsString(item))
            return imf__fail(err, IMF_EINVAL, "%s: names with strings are expected", name);
        if (strchr(item->string, '='))
            return imf__fail(err, IMF_EINVAL, "%s: \"%.64s\" cannot be added", name, item->string);
        if (asprintf(&pair, "%s=%s", item->string, item->valuestring) < 0)
            return imf__fail(err, IMF_ENOMEM, "out of memory");
        imf_status status = strings_append(list, name, pair, strlen(pair), err);
        free(pair);
        if (status != IMF_OK)
            return status;
    }
    return IMF_OK;
}

static imf_status check_pairs(const struct imfd_strings *list, const char *name,
                              struct imf_error *err)
{
    for (int i = 0; i < list->n; i++) {
        const char *pair = list->items[i], *equals = strchr(pair, '=');
        if (!equals || equals == pair || equals[1] == '\0')
            return imf__fail(err, IMF_EINVAL, "%s: \"%.64s\" is not name=value", name, pair);
        for (int j = 0; j < i; j++) {
            if (strncmp(list->items[j], pair, (size_t)(equals - pair) + 1) == 0)
                return imf__fail(err, IMF_EINVAL, "%s: \"%.*s\" is given twice", name,
                                 (int)(equals - pair), pair);
        }
    }
    return IMF_OK;
}

/* ---- What may be JSON, wherever it stands ---- */

static bool is_structured(const struct imfd_option *o)
{
    return o->type == IMFD_OPTION_STRINGS || o->type == IMFD_OPTION_PAIRS ||
           o->type == IMFD_OPTION_OTHER;
}

/* A list in JSON, as opposed to the address "[::]:8080". */
static bool looks_like_json(const struct imfd_option *o, const char *text)
{
    if (o->type == IMFD_OPTION_PAIRS)
        return text[0] == '{';
    return text[0] == '[' && strchr("\"{]", text[1 + strspn(text + 1, " \t\r\n")]);
}

/* From `json`, or from text where that is NULL. */
static imf_status read_structured(const struct imfd_option *o, const char *name, void *at,
                                  const char *text, const cJSON *json, bool append,
                                  struct imf_error *err)
{
    if (o->type == IMFD_OPTION_OTHER) {
        if (!append)
            o->other->free(at);
        IMF_TRY(json ? o->other->read_json(at, json, err) : o->other->read_text(at, text, err));
        return o->other->check(at, err);
    }
    if (!append)
        strings_free(at);
    if (!json)
        IMF_TRY(read_strings(at, name, text, err));
    else if (o->type == IMFD_OPTION_STRINGS)
        IMF_TRY(read_strings_json(at, name, json, err));
    else
        IMF_TRY(read_pairs_json(at, name, json, err));
    return o->type == IMFD_OPTION_PAIRS ? check_pairs(at, name, err) : IMF_OK;
}

static imf_status set_structured(const struct imfd_option *o, const char *name, void *at,
                                 const char *text, bool append, struct imf_error *err)
{
    if (!looks_like_json(o, text))
        return read_structured(o, name, at, text, NULL, append, err);
    struct imf__json_fault fault;
    cJSON *json = json_read(text, strlen(text), &fault);
    if (!json)
        return imf__fail(err, IMF_EINVAL, "%s: the list is not valid JSON: %s%s%s", name, fault.why,
                         fault.twice ? ": " : "", fault.key);
    imf_status status = read_structured(o, name, at, NULL, json, append, err);
    cJSON_Delete(json);
    return status;
}

/* ---- All types ---- */

imf_status imfd_option_set(const struct imfd_option *o, const char *name, void *record,
                           const char *text, bool append, struct imf_error *err)
{
    void *at = variable(o, record);
    switch (o->type) {
    case IMFD_OPTION_FLAG:
        *(bool *)at = true;
        break;
    case IMFD_OPTION_INT: {
        int v;
        if (!read_int(text, &v) || !within(o, v))
            return refuse(o, name, "a whole number", text, err);
        *(int *)at = v;
        break;
    }
    case IMFD_OPTION_BYTES: {
        int64_t v;
        if (!read_bytes(text, &v) || !within(o, (double)v))
            return refuse(o, name, "a number of bytes (K, M and G may follow)", text, err);
        *(int64_t *)at = v;
        break;
    }
    case IMFD_OPTION_UINT64: {
        uint64_t v;
        if (!read_uint64(text, &v) || !within(o, (double)v))
            return refuse(o, name, "a whole number", text, err);
        *(uint64_t *)at = v;
        break;
    }
    case IMFD_OPTION_FLOAT: {
        float v;
        /* The bounds are compared as float: 0.1f is not between 0.1 and 1. */
        if (!read_float(text, &v) || (bounded(o) && (v < (float)o->min || v > (float)o->max)))
            return refuse(o, name, "a number", text, err);
        *(float *)at = v;
        break;
    }
    case IMFD_OPTION_CHOICE: {
        char choices[128];
        print_choices(o->choices, choices, sizeof(choices));
        if (!is_choice(o->choices, text))
            return refuse(o, name, choices, text, err);
        *(const char **)at = text;
        break;
    }
    case IMFD_OPTION_STRING:
        *(const char **)at = text;
        break;
    case IMFD_OPTION_LIST:
        if (!read_list(o, text, at))
            return refuse(o, name, "a list of whole numbers such as 1,4,8 or 0-7", text, err);
        break;
    case IMFD_OPTION_STRINGS:
    case IMFD_OPTION_PAIRS:
    case IMFD_OPTION_OTHER:
        return set_structured(o, name, at, text, append, err);
    case IMFD_OPTION_IGNORED:
        break;
    }
    return IMF_OK;
}

imf_status imfd_option_set_json(const struct imfd_option *o, const char *name, void *record,
                                const cJSON *value, struct imf_error *err)
{
    bool listed = is_structured(o);
    if (o->type == IMFD_OPTION_PAIRS ? cJSON_IsObject(value) : listed && cJSON_IsArray(value))
        return read_structured(o, name, variable(o, record), NULL, value, false, err);
    if (cJSON_IsString(value) && o->type != IMFD_OPTION_OTHER)
        return imfd_option_set(o, name, record, value->valuestring, false, err);
    if (cJSON_IsNumber(value) && (o->type == IMFD_OPTION_INT || o->type == IMFD_OPTION_BYTES)) {
        char text[40];
        double v = value->valuedouble;
        snprintf(text, sizeof(text), v == floor(v) && fabs(v) < 1e18 ? "%.0f" : "%g", v);
        return imfd_option_set(o, name, record, text, false, err);
    }
    return imf__fail(err, IMF_EINVAL, "%s: %s is expected", name,
                     o->type == IMFD_OPTION_PAIRS   ? "an object"
                     : listed                       ? "a list"
                     : o->type == IMFD_OPTION_INT   ? "a whole number"
                     : o->type == IMFD_OPTION_BYTES ? "a number of bytes"
                                                    : "a string");
}

void imfd_option_free(const struct imfd_option *o, void *record)
{
    void *at = variable(o, record);
    if (o->type == IMFD_OPTION_LIST)
        imfd_list_free(at);
    else if (o->type == IMFD_OPTION_OTHER)
        o->other->free(at);
    else if (is_structured(o))
        strings_free(at);
}

/* ---- Back to JSON ---- */

static cJSON *strings_json(const struct imfd_strings *list)
{
    cJSON *array = cJSON_CreateArray();
    for (int i = 0; i < list->n; i++)
        cJSON_AddItemToArray(array, cJSON_CreateString(list->items[i]));
    return array;
}

static cJSON *pairs_json(const struct imfd_strings *list)
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

cJSON *imfd_option_json(const struct imfd_option *o, const void *record)
{
    const void *at = (const char *)record + o->at;
    switch (o->type) {
    case IMFD_OPTION_FLAG:
        return cJSON_CreateBool(*(const bool *)at);
    case IMFD_OPTION_INT:
        return cJSON_CreateNumber(*(const int *)at);
    case IMFD_OPTION_BYTES:
        return cJSON_CreateNumber((double)*(const int64_t *)at);
    case IMFD_OPTION_FLOAT:
        return cJSON_CreateNumber((double)*(const float *)at);
    case IMFD_OPTION_STRINGS:
        return strings_json(at);
    case IMFD_OPTION_PAIRS:
        return pairs_json(at);
    case IMFD_OPTION_OTHER:
        return o->other->json(at);
    case IMFD_OPTION_STRING:
    case IMFD_OPTION_CHOICE:
        return cJSON_CreateString(*(const char *const *)at);
    case IMFD_OPTION_UINT64: /* of commands, which have no file */
    case IMFD_OPTION_LIST:
    case IMFD_OPTION_IGNORED:
        break;
    }
    return cJSON_CreateNull();
}
