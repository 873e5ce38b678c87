/* Tensors of a request: JSON, nested or flat, or bytes behind the JSON. */
#include "api/inference.h"
#include "common/utf8.h"

#include <math.h>
#include <string.h>

enum { MAX_DIMENSIONS = 4, MAX_VALUES = 4096 };

enum kind { SIGNED, UNSIGNED, FLOAT, BYTES };

static const struct datatype {
    const char *name;
    enum kind kind;
    size_t size;
} datatypes[] = {{"INT64", SIGNED, 8},    {"INT32", SIGNED, 4},    {"INT16", SIGNED, 2},
                 {"INT8", SIGNED, 1},     {"UINT64", UNSIGNED, 8}, {"UINT32", UNSIGNED, 4},
                 {"UINT16", UNSIGNED, 2}, {"UINT8", UNSIGNED, 1},  {"FP32", FLOAT, 4},
                 {"FP64", FLOAT, 8},      {"BYTES", BYTES, 0}};

static const struct datatype *find_datatype(const cJSON *value)
{
    for (size_t i = 0; cJSON_IsString(value) && i < sizeof(datatypes) / sizeof(datatypes[0]); i++) {
        if (strcmp(datatypes[i].name, value->valuestring) == 0)
            return &datatypes[i];
    }
    return NULL;
}

/* How many values the shape holds: [n], or [n, 1] as batching servers have it. 0 when it is none.
 */
static size_t shape_count(const cJSON *shape)
{
    int dimensions = cJSON_IsArray(shape) ? cJSON_GetArraySize(shape) : 0;
    if (dimensions < 1 || dimensions > MAX_DIMENSIONS)
        return 0;
    size_t count = 0;
    for (const cJSON *d = shape->child; d; d = d->next) {
        double v = cJSON_IsNumber(d) ? d->valuedouble : 0;
        if (v != floor(v) || v < 1 || v > MAX_VALUES || (count > 0 && v != 1))
            return 0;
        if (count == 0)
            count = (size_t)v;
    }
    return count;
}

/* Moves the leaves of nested lists into `out`. */
static bool flatten(const cJSON *data, const struct datatype *type, int depth, cJSON *out,
                    size_t *count, const char *name, struct api_problem *p)
{
    for (const cJSON *v = data->child; v; v = v->next) {
        if (cJSON_IsArray(v)) {
            if (depth == MAX_DIMENSIONS || !flatten(v, type, depth + 1, out, count, name, p))
                return depth < MAX_DIMENSIONS
                           ? false
                           : api_problem_set(p, API_INVALID, NULL, "%.40s: data is nested too deep",
                                             name);
            continue;
        }
        bool fits = type->kind == BYTES ? cJSON_IsString(v) : cJSON_IsNumber(v);
        if (!fits || ++*count > MAX_VALUES)
            return api_problem_set(p, API_INVALID, NULL, "%.40s: data holds what is no %s", name,
                                   type->name);
        cJSON *item = cJSON_Duplicate(v, false);
        if (!item || !cJSON_AddItemToArray(out, item)) {
            cJSON_Delete(item);
            return api_problem_memory(p);
        }
    }
    return true;
}

static double read_number(const struct datatype *type, const char *at)
{
    uint64_t bits = 0;
    for (size_t i = 0; i < type->size; i++)
        bits |= (uint64_t)(uint8_t)at[i] << (8 * i);
    if (type->kind == UNSIGNED)
        return (double)bits;
    if (type->kind == SIGNED) {
        unsigned shift = 64 - 8 * (unsigned)type->size;
        return (double)((int64_t)(bits << shift) >> shift);
    }
    if (type->size == 4) {
        uint32_t half = (uint32_t)bits;
        float f;
        memcpy(&f, &half, sizeof(f));
        return (double)f;
    }
    double d;
    memcpy(&d, &bits, sizeof(d));
    return d;
}

/* One string of a BYTES tensor: its length in 4 bytes, then as many. */
static cJSON *read_string(const char **at, const char *end)
{
    char text[CLASSES_MAX_QUERY + 1];
    if (end - *at < 4)
        return NULL;
    uint32_t n = 0;
    for (int i = 0; i < 4; i++)
        n |= (uint32_t)(uint8_t)(*at)[i] << (8 * i);
    if (n >= sizeof(text) || end - *at - 4 < (ptrdiff_t)n || !imf__utf8_valid(*at + 4, n) ||
        memchr(*at + 4, '\0', n))
        return NULL;
    memcpy(text, *at + 4, n);
    text[n] = '\0';
    *at += 4 + n;
    return cJSON_CreateString(text);
}

static bool read_binary(const struct datatype *type, size_t count, const char *at, size_t size,
                        cJSON *out, const char *name, struct api_problem *p)
{
    const char *end = at + size;
    if (type->kind != BYTES && size != count * type->size)
        return api_problem_set(p, API_INVALID, NULL, "%.40s: %zu bytes are not %zu of %s", name,
                               size, count, type->name);
    for (size_t i = 0; i < count; i++) {
        cJSON *item = type->kind == BYTES
                          ? read_string(&at, end)
                          : cJSON_CreateNumber(read_number(type, at + i * type->size));
        if (!item || !cJSON_AddItemToArray(out, item)) {
            cJSON_Delete(item);
            return api_problem_set(p, API_INVALID, NULL, "%.40s: its bytes are no list of names",
                                   name);
        }
    }
    if (type->kind == BYTES && at != end)
        return api_problem_set(p, API_INVALID, NULL, "%.40s: bytes are left over", name);
    return true;
}

static bool fill(const cJSON *tensor, const char **binary, const char *end, cJSON *out,
                 struct api_problem *p)
{
    const char *name = cJSON_GetObjectItemCaseSensitive(tensor, "name")->valuestring;
    const struct datatype *type =
        find_datatype(cJSON_GetObjectItemCaseSensitive(tensor, "datatype"));
    size_t count = shape_count(cJSON_GetObjectItemCaseSensitive(tensor, "shape")), found = 0;
    const cJSON *data = cJSON_GetObjectItemCaseSensitive(tensor, "data");
    const cJSON *size = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(tensor, "parameters"), "binary_data_size");
    if (!type)
        return api_problem_set(p, API_INVALID, NULL,
                               "%.40s: its datatype is none of INT64, BYTES, "
                               "FP32 and their like",
                               name);
    if (count == 0)
        return api_problem_set(p, API_INVALID, NULL, "%.40s: a shape [n] of at most %d is expected",
                               name, MAX_VALUES);
    if ((data != NULL) == (size != NULL))
        return api_problem_set(p, API_INVALID, NULL,
                               "%.40s: either data or parameters.binary_data_size is expected",
                               name);
    if (size) {
        double bytes = cJSON_IsNumber(size) ? size->valuedouble : -1;
        if (bytes != floor(bytes) || bytes < 0 || bytes > (double)(end - *binary))
            return api_problem_set(p, API_INVALID, NULL,
                                   "%.40s: the body does not hold its binary_data_size", name);
        const char *at = *binary;
        *binary += (size_t)bytes;
        return read_binary(type, count, at, (size_t)bytes, out, name, p);
    }
    if (!cJSON_IsArray(data))
        return api_problem_set(p, API_INVALID, NULL, "%.40s: data is no list", name);
    if (!flatten(data, type, 1, out, &found, name, p))
        return false;
    if (found != count)
        return api_problem_set(p, API_INVALID, NULL,
                               "%.40s: %zu values do not fill the shape of %zu", name, found,
                               count);
    return true;
}

cJSON *infer_values(const cJSON *tensor, const char **binary, const char *end,
                    struct api_problem *p)
{
    cJSON *out = cJSON_CreateArray();
    if (!out)
        api_problem_memory(p);
    else if (fill(tensor, binary, end, out, p))
        return out;
    cJSON_Delete(out);
    return NULL;
}
