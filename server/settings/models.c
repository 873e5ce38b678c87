/* The setting "models": a list of objects, each with the same few fields of text. */
#include "common/error.h"
#include "settings/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t offset;
} fields[] = {{"id", offsetof(struct model_setting, id)},
              {"checkpoint", offsetof(struct model_setting, checkpoint)},
              {"key", offsetof(struct model_setting, key)},
              {"noise_scale", offsetof(struct model_setting, noise_scale)},
              {"decoder", offsetof(struct model_setting, decoder)},
              {"device", offsetof(struct model_setting, device)},
              {"precision", offsetof(struct model_setting, precision)}};
enum { N_FIELDS = sizeof(fields) / sizeof(fields[0]) };

static char **field_at(const struct model_setting *m, int f)
{
    return (char **)((char *)(uintptr_t)m + fields[f].offset);
}

static char **find_field(struct model_setting *m, const char *name, size_t length)
{
    for (int f = 0; f < N_FIELDS; f++) {
        if (strlen(fields[f].name) == length && memcmp(fields[f].name, name, length) == 0)
            return field_at(m, f);
    }
    return NULL;
}

static void models_free(void *value)
{
    struct model_settings *m = value;
    for (int i = 0; i < m->n; i++) {
        for (int f = 0; f < N_FIELDS; f++)
            free(*field_at(&m->items[i], f));
    }
    free(m->items);
    *m = (struct model_settings){NULL, 0};
}

static struct model_setting *models_add(struct model_settings *m)
{
    struct model_setting *items =
        m->n < IMFD_STRINGS_MAX ? realloc(m->items, (size_t)(m->n + 1) * sizeof(*items)) : NULL;
    if (!items)
        return NULL;
    m->items = items;
    struct model_setting *s = &items[m->n];
    memset(s, 0, sizeof(*s));
    m->n++;
    return s;
}

/* ---- What must hold ------------------------------------------------------------------------ */

static imf_status check_id(const struct model_settings *m, int i, struct imf_error *err)
{
    const char *id = m->items[i].id;
    if (id[0] == '\0')
        return imf__fail(err, IMF_EINVAL, "models: entry %d has no id", i);
    /* The id is part of URLs and of metric labels. */
    if (id[strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")] != '\0')
        return imf__fail(err, IMF_EINVAL,
                         "models: id \"%s\": only letters, digits, '_', '-' and '.'", id);
    for (int j = 0; j < i; j++) {
        if (strcmp(m->items[j].id, id) == 0)
            return imf__fail(err, IMF_EINVAL, "models: id \"%s\" is given twice", id);
    }
    return IMF_OK;
}

/* Of a model the same holds as of all. */
static const struct imfd_option noise_scale_row = OPTION_NOISE_SCALE(0);
static const struct imfd_option precision_row = OPTION_PRECISION(0);

static imf_status check_field(const char *id, const struct imfd_option *o, const char *text,
                              struct imf_error *err)
{
    union {
        float scale;
        const char *precision;
    } unused;
    char key[IMFD_OPTION_KEY_MAX], name[128];
    snprintf(name, sizeof(name), "models: %.64s: %s", id, imfd_option_key(o, key));
    return text[0] == '\0' ? IMF_OK : imfd_option_set(o, name, &unused, text, false, err);
}

/* Every field becomes a string; id and checkpoint must be given, ids must differ. */
static imf_status models_check(void *value, struct imf_error *err)
{
    struct model_settings *m = value;
    for (int i = 0; i < m->n; i++) {
        struct model_setting *s = &m->items[i];
        for (int f = 0; f < N_FIELDS; f++) {
            char **field = field_at(s, f);
            if (!*field && !(*field = strdup("")))
                return imf__fail(err, IMF_EINVAL, "out of memory");
        }
        if (s->checkpoint[0] == '\0')
            return imf__fail(err, IMF_EINVAL, "models: entry %d names no checkpoint", i);
        IMF_TRY(check_id(m, i, err));
        IMF_TRY(check_field(s->id, &noise_scale_row, s->noise_scale, err));
        IMF_TRY(check_field(s->id, &precision_row, s->precision, err));
    }
    return IMF_OK;
}

imf_status settings_add_model(struct settings *s, const char *id, const char *checkpoint,
                              const char *decoder)
{
    struct model_setting *m = models_add(&s->models);
    if (!m)
        return IMF_ENOMEM;
    m->id = strdup(id);
    m->checkpoint = strdup(checkpoint);
    m->decoder = strdup(decoder);
    if (!m->id || !m->checkpoint || !m->decoder)
        return IMF_ENOMEM;
    return models_check(&s->models, NULL);
}

/* ---- Text and JSON ------------------------------------------------------------------------- */

static imf_status read_short(void *value, const char *text, struct imf_error *err)
{
    struct model_settings *m = value;
    while (*text != '\0') {
        size_t length = strcspn(text, ";");
        const char *end = text + length;
        struct model_setting *s = length > 0 ? models_add(m) : NULL;
        if (length > 0 && !s)
            return imf__fail(err, IMF_EINVAL, "models: too many");
        while (text < end) {
            size_t part = strcspn(text, ",;");
            const char *equals = memchr(text, '=', part);
            if (!equals)
                return imf__fail(err, IMF_EINVAL, "models: \"%.*s\" is not name=value", (int)part,
                                 text);
            char **field = find_field(s, text, (size_t)(equals - text));
            if (!field)
                return imf__fail(err, IMF_EINVAL, "models: unknown field \"%.*s\"",
                                 (int)(equals - text), text);
            free(*field);
            if (!(*field = strndup(equals + 1, (size_t)(text + part - equals - 1))))
                return imf__fail(err, IMF_EINVAL, "out of memory");
            text += part + (text + part < end);
        }
        text = *end != '\0' ? end + 1 : end;
    }
    return IMF_OK;
}

static imf_status read_json(void *value, const cJSON *array, struct imf_error *err)
{
    struct model_settings *m = value;
    const cJSON *entry;
    if (!cJSON_IsArray(array))
        return imf__fail(err, IMF_EINVAL, "models: a list of objects is expected");
    cJSON_ArrayForEach(entry, array)
    {
        struct model_setting *s = cJSON_IsObject(entry) ? models_add(m) : NULL;
        if (!s)
            return imf__fail(err, IMF_EINVAL, "models: a list of objects is expected");
        const cJSON *field_json;
        cJSON_ArrayForEach(field_json, entry)
        {
            char **field = find_field(s, field_json->string, strlen(field_json->string));
            if (!field)
                return imf__fail(err, IMF_EINVAL, "models: unknown field \"%.64s\"",
                                 field_json->string);
            if (*field)
                return imf__fail(err, IMF_EINVAL, "models: field \"%s\" is given twice",
                                 field_json->string);
            char number[32];
            bool is_number = cJSON_IsNumber(field_json) && field == &s->noise_scale;
            if (!cJSON_IsString(field_json) && !is_number)
                return imf__fail(err, IMF_EINVAL, "models: field \"%s\" is not a string",
                                 field_json->string);
            snprintf(number, sizeof(number), "%g", field_json->valuedouble);
            if (!(*field = strdup(is_number ? number : field_json->valuestring)))
                return imf__fail(err, IMF_EINVAL, "out of memory");
        }
    }
    return IMF_OK;
}

static cJSON *models_json(const void *value)
{
    const struct model_settings *m = value;
    cJSON *array = cJSON_CreateArray();
    for (int i = 0; i < m->n; i++) {
        cJSON *entry = cJSON_CreateObject();
        for (int f = 0; f < N_FIELDS; f++) {
            const char *text = *field_at(&m->items[i], f);
            if (text[0] != '\0')
                cJSON_AddStringToObject(entry, fields[f].name, text);
        }
        cJSON_AddItemToArray(array, entry);
    }
    return array;
}

const struct imfd_option_other settings__models_type = {.read_text = read_short,
                                                        .read_json = read_json,
                                                        .check = models_check,
                                                        .json = models_json,
                                                        .free = models_free};
