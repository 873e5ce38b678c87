/* The settings table and its readers. Every value, wherever it comes from, passes through its row's
 * text form, so that "64K" in the environment and in the file mean the same and fail alike. */
#include "settings.h"

#include <cjson/cJSON.h>
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum setting_type { TYPE_TEXT, TYPE_CHOICE, TYPE_INTEGER, TYPE_BYTES, TYPE_LIST, TYPE_MODELS };

struct setting_row {
    const char *key;
    enum setting_type type;
    size_t offset;
    const char *initial; /* default, in text form */
    int64_t low, high;   /* of numbers */
    const char *choices; /* "a|b|c" */
    const char *group;   /* heading in the manual; NULL: same as the row above */
    const char *help;    /* lines of at most 100 columns */
};

#define AT(field) offsetof(struct settings, field)
#define GIB ((int64_t)1 << 30)

static const struct setting_row table[] = {
    {"listen", TYPE_LIST, AT(listen), "127.0.0.1:8080", 0, 0, NULL, "Where to listen",
     "Addresses to serve on: \"127.0.0.1:8080\", \"[::]:8080\" (IPv4 too), "
     "\"unix:/run/imfd.sock\",\n"
     "\"systemd\" (the sockets of imfd.socket). Port 0 takes a free port and logs it."},
    {"metrics_listen", TYPE_TEXT, AT(metrics_listen), "", 0, 0, NULL, NULL,
     "Address of its own for /metrics; then the addresses above do not serve it. Empty: none."},
    {"root_path", TYPE_TEXT, AT(root_path), "", 0, 0, NULL, NULL,
     "Path prefix of every route (\"/images\"), for a proxy that passes it on unchanged."},
    {"models", TYPE_MODELS, AT(models), "", 0, 0, NULL, "Models and devices",
     "Models to hold, the first one being the default of requests. Each is {\"id\", "
     "\"checkpoint\",\n"
     "\"decoder\" (file, folder or \"none\"), and optionally \"device\", \"precision\"}. As a flag "
     "or in\n"
     "the environment: this JSON, or id=NAME,checkpoint=FILE,decoder=FILE with ';' between "
     "models."},
    {"device", TYPE_TEXT, AT(device), "auto", 0, 0, NULL, NULL,
     "auto (a GPU if there is one), cpu, cuda, or cuda:0,1 for several. \"fake\" computes nothing "
     "and\n"
     "is for tests of the server."},
    {"precision", TYPE_CHOICE, AT(precision), "auto", 0, 0, "auto|fp32|bf16", NULL,
     "auto is bf16 where the device has fast bfloat16, else fp32."},
    {"threads", TYPE_INTEGER, AT(threads), "0", 0, 1024, NULL, NULL,
     "Threads of the CPU device. 0: all processors this process may use."},
    {"max_batch", TYPE_INTEGER, AT(max_batch), "8", 1, 256, NULL, NULL,
     "Samples in one network evaluation. Memory for activations is planned for it at start."},
    {"decode_batch", TYPE_INTEGER, AT(decode_batch), "0", 0, 256, NULL, NULL,
     "Pictures in one decoder pass. 0: what suits the device."},
    {"max_delay_us", TYPE_INTEGER, AT(max_delay_us), "0", 0, 1000000, NULL, NULL,
     "Microseconds to wait for a fuller batch. 0 never waits while there is work, which is best\n"
     "nearly always: later requests join at the next step anyway."},
    {"max_queue", TYPE_INTEGER, AT(max_queue), "256", 1, 1000000, NULL, "Limits",
     "Pictures that may wait or run. Beyond it: 503 overloaded, with a truthful Retry-After."},
    {"max_n", TYPE_INTEGER, AT(max_n), "64", 1, 10000, NULL, NULL,
     "Pictures in one request; at most max_queue, to which the default shrinks."},
    {"max_steps", TYPE_INTEGER, AT(max_steps), "64", 1, IMF_MAX_STEPS, NULL, NULL,
     "Network evaluations a request may ask for per picture."},
    {"max_body", TYPE_BYTES, AT(max_body), "64K", 256, GIB, NULL, NULL,
     "Bytes of a request body. Beyond it: 413."},
    {"max_connections", TYPE_INTEGER, AT(max_connections), "1024", 1, 100000, NULL, NULL,
     "Open connections; more wait in the kernel. Waiting requests hold one each, so keep it above\n"
     "the clients you expect to wait."},
    {"max_per_address", TYPE_INTEGER, AT(max_per_address), "0", 0, 100000, NULL, NULL,
     "Requests for pictures waiting or running per client address; beyond it 429. 0: no limit."},
    {"rate_limit", TYPE_INTEGER, AT(rate_limit), "0", 0, 1000000000, NULL, NULL,
     "Pictures a minute per API key (per client address without keys), with bursts up to a "
     "minute's\n"
     "worth; beyond it 429. 0: no limit."},
    {"request_timeout_ms", TYPE_INTEGER, AT(request_timeout_ms), "120000", 1, 86400000, NULL, NULL,
     "Milliseconds a request may take, queue included, when it names no timeout_ms; also the most\n"
     "it may name. A request that cannot be met is refused at arrival with 504."},
    {"header_timeout_ms", TYPE_INTEGER, AT(header_timeout_ms), "10000", 100, 3600000, NULL, NULL,
     "Milliseconds from connecting to a complete header, however it trickles in."},
    {"body_timeout_ms", TYPE_INTEGER, AT(body_timeout_ms), "30000", 100, 3600000, NULL, NULL,
     "Milliseconds a body may take to arrive."},
    {"send_timeout_ms", TYPE_INTEGER, AT(send_timeout_ms), "30000", 100, 3600000, NULL, NULL,
     "Milliseconds a client may take to read 32 KiB of its reply before it is cut off."},
    {"idle_timeout_ms", TYPE_INTEGER, AT(idle_timeout_ms), "75000", 100, 3600000, NULL, NULL,
     "Milliseconds a connection may idle between requests."},
    {"drain_timeout", TYPE_INTEGER, AT(drain_timeout), "30", 0, 3600, NULL, NULL,
     "Seconds SIGTERM leaves accepted work to finish. A second signal stops at once."},
    {"api_keys_file", TYPE_TEXT, AT(api_keys_file), "", 0, 0, NULL, "Access",
     "File of API keys, one a line: \"name key\", '#' begins a comment. Then /v1 needs\n"
     "Authorization: Bearer KEY. Read again on SIGHUP. Empty: no key is asked."},
    {"cors_origins", TYPE_LIST, AT(cors_origins), "", 0, 0, NULL, NULL,
     "Origins whose pages may call the API (\"https://example.org\", or \"*\"). Empty: none."},
    {"trusted_proxies", TYPE_LIST, AT(trusted_proxies), "", 0, 0, NULL, NULL,
     "Addresses or networks (\"10.0.0.0/8\", \"::1\", \"unix\") whose X-Forwarded-For, -Proto, "
     "-Host and\n"
     "-Prefix are believed."},
    {"cache_bytes", TYPE_BYTES, AT(cache_bytes), "64M", 0, 1024 * GIB, NULL, "Pictures",
     "Bytes of finished PNGs to keep. 0: none."},
    {"png_level", TYPE_INTEGER, AT(png_level), "1", 0, 9, NULL, NULL,
     "zlib level of PNGs: 0 stores, 1 is fast, 9 is smallest. Part of a picture's identity: "
     "another\n"
     "level gives other bytes (and another ETag) for the same pixels."},
    {"log_format", TYPE_CHOICE, AT(log_format), "text", 0, 0, "text|json", "Log",
     "Lines for people or for machines."},
    {"log_level", TYPE_CHOICE, AT(log_level), "info", 0, 0, "debug|info|warn|error", NULL,
     "Least level written. info includes one line per request."},
    {"log_file", TYPE_TEXT, AT(log_file), "", 0, 0, NULL, NULL,
     "File to append to, opened again on SIGHUP. Empty: standard error."},
};

enum { N_ROWS = sizeof(table) / sizeof(table[0]) };
static_assert(N_ROWS <= (int)SETTINGS_MAX_KEYS, "settings.origin is too short");

enum { MAX_FILE = 1 << 20, MAX_ITEMS = 256 };

__attribute__((format(printf, 2, 3))) static imf_status fail(struct imf_error *err,
                                                             const char *format, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        err->status = IMF_EINVAL;
        vsnprintf(err->message, sizeof(err->message), format, args);
        va_end(args);
    }
    return IMF_EINVAL;
}

static char *copy(const char *text, size_t length)
{
    char *s = malloc(length + 1);
    if (s != NULL) {
        memcpy(s, text, length);
        s[length] = '\0';
    }
    return s;
}

/* ---- Lists --------------------------------------------------------------------------------- */

static void list_free(struct string_list *l)
{
    for (int i = 0; i < l->n; i++)
        free(l->items[i]);
    free(l->items);
    *l = (struct string_list){NULL, 0};
}

static bool list_add(struct string_list *l, const char *text, size_t length)
{
    if (l->n >= MAX_ITEMS)
        return false;
    char **items = realloc(l->items, (size_t)(l->n + 1) * sizeof(*items));
    if (items == NULL)
        return false;
    l->items = items;
    char *item = copy(text, length);
    if (item == NULL)
        return false;
    l->items[l->n++] = item;
    return true;
}

static void models_free(struct model_settings *m)
{
    for (int i = 0; i < m->n; i++) {
        struct model_setting *s = &m->items[i];
        free(s->id);
        free(s->checkpoint);
        free(s->decoder);
        free(s->device);
        free(s->precision);
    }
    free(m->items);
    *m = (struct model_settings){NULL, 0};
}

static struct model_setting *models_add(struct model_settings *m)
{
    struct model_setting *items =
        m->n < MAX_ITEMS ? realloc(m->items, (size_t)(m->n + 1) * sizeof(*items)) : NULL;
    if (items == NULL)
        return NULL;
    m->items = items;
    struct model_setting *s = &items[m->n];
    memset(s, 0, sizeof(*s));
    m->n++;
    return s;
}

static char **model_field(struct model_setting *m, const char *name, size_t length)
{
    const struct {
        const char *name;
        char **at;
    } fields[] = {{"id", &m->id},
                  {"checkpoint", &m->checkpoint},
                  {"decoder", &m->decoder},
                  {"device", &m->device},
                  {"precision", &m->precision}};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (strlen(fields[i].name) == length && memcmp(fields[i].name, name, length) == 0)
            return fields[i].at;
    }
    return NULL;
}

/* Every field becomes a string; id and checkpoint must be given, ids must differ. */
static imf_status models_check(struct model_settings *m, struct imf_error *err)
{
    for (int i = 0; i < m->n; i++) {
        struct model_setting *s = &m->items[i];
        char **fields[] = {&s->id, &s->checkpoint, &s->decoder, &s->device, &s->precision};
        for (size_t f = 0; f < sizeof(fields) / sizeof(fields[0]); f++) {
            if (*fields[f] == NULL && (*fields[f] = copy("", 0)) == NULL)
                return fail(err, "out of memory");
        }
        if (s->checkpoint[0] == '\0')
            return fail(err, "models: entry %d names no checkpoint", i);
        if (s->id[0] == '\0')
            return fail(err, "models: entry %d has no id", i);
        for (const char *c = s->id; *c != '\0'; c++) {
            /* The id is part of URLs and of metric labels. */
            if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-", *c) ==
                NULL)
                return fail(err, "models: id \"%s\": only letters, digits, '_', '-' and '.'",
                            s->id);
        }
        for (int j = 0; j < i; j++) {
            if (strcmp(m->items[j].id, s->id) == 0)
                return fail(err, "models: id \"%s\" is given twice", s->id);
        }
        enum imf_precision precision;
        if (s->precision[0] != '\0' && !imf_precision_parse(&precision, s->precision))
            return fail(err, "models: %s: precision \"%s\" is none of auto, fp32, bf16", s->id,
                        s->precision);
    }
    return IMF_OK;
}

imf_status settings_add_model(struct settings *s, const char *id, const char *checkpoint,
                              const char *decoder)
{
    struct model_setting *m = models_add(&s->models);
    if (m == NULL)
        return IMF_ENOMEM;
    m->id = copy(id, strlen(id));
    m->checkpoint = copy(checkpoint, strlen(checkpoint));
    m->decoder = copy(decoder, strlen(decoder));
    return models_check(&s->models, NULL);
}

/* "id=A,checkpoint=F,decoder=G;id=B,..." */
static imf_status models_parse_short(struct model_settings *m, const char *text,
                                     struct imf_error *err)
{
    while (*text != '\0') {
        size_t length = strcspn(text, ";");
        const char *end = text + length;
        struct model_setting *s = length > 0 ? models_add(m) : NULL;
        if (length > 0 && s == NULL)
            return fail(err, "models: too many");
        while (text < end) {
            size_t part = strcspn(text, ",;");
            const char *equals = memchr(text, '=', part);
            if (equals == NULL)
                return fail(err, "models: \"%.*s\" is not name=value", (int)part, text);
            char **field = model_field(s, text, (size_t)(equals - text));
            if (field == NULL)
                return fail(err, "models: unknown field \"%.*s\"", (int)(equals - text), text);
            free(*field);
            if ((*field = copy(equals + 1, (size_t)(text + part - equals - 1))) == NULL)
                return fail(err, "out of memory");
            text += part + (text + part < end);
        }
        text = *end != '\0' ? end + 1 : end;
    }
    return IMF_OK;
}

static imf_status models_parse_json(struct model_settings *m, const cJSON *array,
                                    struct imf_error *err)
{
    const cJSON *entry;
    if (!cJSON_IsArray(array))
        return fail(err, "models: a list of objects is expected");
    cJSON_ArrayForEach(entry, array)
    {
        struct model_setting *s = cJSON_IsObject(entry) ? models_add(m) : NULL;
        if (s == NULL)
            return fail(err, "models: a list of objects is expected");
        const cJSON *value;
        cJSON_ArrayForEach(value, entry)
        {
            char **field = model_field(s, value->string, strlen(value->string));
            if (field == NULL)
                return fail(err, "models: unknown field \"%.64s\"", value->string);
            if (*field != NULL)
                return fail(err, "models: field \"%s\" is given twice", value->string);
            if (!cJSON_IsString(value))
                return fail(err, "models: field \"%s\" is not a string", value->string);
            if ((*field = copy(value->valuestring, strlen(value->valuestring))) == NULL)
                return fail(err, "out of memory");
        }
    }
    return IMF_OK;
}

/* ---- One value ----------------------------------------------------------------------------- */

static imf_status parse_number(int64_t *out, const struct setting_row *row, const char *text,
                               struct imf_error *err)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    bool good = end != text && errno == 0;
    if (good && row->type == TYPE_BYTES && *end != '\0') {
        const char *suffix = strchr("KMGkmg", *end);
        int shift = suffix == NULL ? 0 : 10 * (1 + (int)(suffix - "KMGkmg") % 3);
        end++;
        if (*end == 'i')
            end++;
        if (*end == 'B')
            end++;
        good = suffix != NULL && !__builtin_mul_overflow(value, 1LL << shift, &value);
    }
    if (!good || *end != '\0')
        return fail(err, "%s: \"%.64s\" is not a whole number%s", row->key, text,
                    row->type == TYPE_BYTES ? " of bytes (K, M and G may follow)" : "");
    if (value < row->low || value > row->high)
        return fail(err, "%s: %lld is outside %lld..%lld", row->key, value, (long long)row->low,
                    (long long)row->high);
    *out = value;
    return IMF_OK;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t length = strlen(text);
    for (const char *c = choices; length > 0; c = strchr(c, '|') + 1) {
        if (strncmp(c, text, length) == 0 && (c[length] == '|' || c[length] == '\0'))
            return true;
        if (strchr(c, '|') == NULL)
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
            return fail(err, "%s: too many items", row->key);
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
            return fail(err, "%s: a list of strings is expected", row->key);
        if (!list_add(list, item->valuestring, strlen(item->valuestring)))
            return fail(err, "%s: too many items", row->key);
    }
    return IMF_OK;
}

/* A list in JSON, as opposed to the address "[::]:8080". */
static bool looks_like_json(const char *text)
{
    return text[0] == '[' && strchr("\"{]", text[1 + strspn(text + 1, " \t\r\n")]) != NULL;
}

/* Sets a row from text; a list may be JSON. `append` keeps the items there are (a repeated flag).
 */
static imf_status set_text(struct settings *s, int i, const char *text, enum setting_origin origin,
                           bool append, struct imf_error *err)
{
    const struct setting_row *row = &table[i];
    void *at = (char *)s + row->offset;
    imf_status status = IMF_OK;
    cJSON *json = NULL;
    if ((row->type == TYPE_LIST || row->type == TYPE_MODELS) && looks_like_json(text)) {
        json = cJSON_ParseWithOpts(text, NULL, true);
        if (json == NULL)
            return fail(err, "%s: the list is not valid JSON", row->key);
    }
    switch (row->type) {
    case TYPE_INTEGER:
    case TYPE_BYTES:
        status = parse_number(at, row, text, err);
        break;
    case TYPE_CHOICE:
        if (!is_choice(row->choices, text)) {
            status = fail(err, "%s: \"%.64s\" is none of %s", row->key, text, row->choices);
            break;
        }
        /* fall through */
    case TYPE_TEXT: {
        char *value = copy(text, strlen(text));
        if (value == NULL)
            return fail(err, "out of memory");
        free(*(char **)at);
        *(char **)at = value;
        break;
    }
    case TYPE_LIST:
        if (!append)
            list_free(at);
        status =
            json != NULL ? set_list_json(at, row, json, err) : set_list_text(at, row, text, err);
        break;
    case TYPE_MODELS:
        if (!append)
            models_free(at);
        status =
            json != NULL ? models_parse_json(at, json, err) : models_parse_short(at, text, err);
        if (status == IMF_OK)
            status = models_check(at, err);
        break;
    }
    cJSON_Delete(json);
    s->origin[i] = origin;
    return status;
}

static int find_row(const char *key, size_t length)
{
    for (int i = 0; i < N_ROWS; i++) {
        bool same = strlen(table[i].key) == length;
        for (size_t c = 0; same && c < length; c++)
            same = table[i].key[c] == (key[c] == '-' ? '_' : key[c]);
        if (same)
            return i;
    }
    return -1;
}

static imf_status set_defaults(struct settings *s, struct imf_error *err)
{
    memset(s, 0, sizeof(*s));
    for (int i = 0; i < N_ROWS; i++) {
        imf_status status = set_text(s, i, table[i].initial, ORIGIN_DEFAULT, false, err);
        if (status != IMF_OK)
            return status;
    }
    return IMF_OK;
}

/* ---- File ---------------------------------------------------------------------------------- */

/* Turns // and C comments into blanks, keeping line breaks so that error positions hold. */
static void blank_comments(char *text, size_t length)
{
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        if (in_string) {
            if (text[i] == '\\')
                i++;
            else if (text[i] == '"')
                in_string = false;
        } else if (text[i] == '"') {
            in_string = true;
        } else if (text[i] == '/' && i + 1 < length && text[i + 1] == '/') {
            while (i < length && text[i] != '\n')
                text[i++] = ' ';
        } else if (text[i] == '/' && i + 1 < length && text[i + 1] == '*') {
            text[i] = text[i + 1] = ' ';
            for (i += 2; i < length; i++) {
                bool end = text[i] == '*' && i + 1 < length && text[i + 1] == '/';
                if (text[i] != '\n')
                    text[i] = ' ';
                if (end) {
                    text[++i] = ' ';
                    break;
                }
            }
        }
    }
}

static imf_status set_json(struct settings *s, int i, const cJSON *value, const char *name,
                           struct imf_error *err)
{
    const struct setting_row *row = &table[i];
    bool listy = row->type == TYPE_LIST || row->type == TYPE_MODELS;
    struct imf_error inner = {0};
    imf_status status;
    const cJSON *odd = row->type == TYPE_LIST && cJSON_IsArray(value) ? value->child : NULL;
    while (odd != NULL && cJSON_IsString(odd))
        odd = odd->next;
    if (odd != NULL) {
        status = fail(&inner, "%s: a list of strings is expected", row->key);
    } else if (cJSON_IsArray(value) && listy) {
        char *text = cJSON_PrintUnformatted(value);
        if (text == NULL)
            return fail(err, "out of memory");
        status = set_text(s, i, text, ORIGIN_FILE, false, &inner);
        cJSON_free(text);
    } else if (cJSON_IsString(value) && row->type != TYPE_MODELS) {
        status = set_text(s, i, value->valuestring, ORIGIN_FILE, false, &inner);
    } else if (cJSON_IsNumber(value) && (row->type == TYPE_INTEGER || row->type == TYPE_BYTES)) {
        char text[40];
        double v = value->valuedouble;
        snprintf(text, sizeof(text), v == floor(v) && fabs(v) < 1e18 ? "%.0f" : "%g", v);
        status = set_text(s, i, text, ORIGIN_FILE, false, &inner);
    } else {
        status = fail(&inner, "%s: %s is expected", row->key,
                      listy                       ? "a list"
                      : row->type == TYPE_INTEGER ? "a whole number"
                      : row->type == TYPE_BYTES   ? "a number of bytes"
                                                  : "a string");
    }
    return status == IMF_OK ? IMF_OK : fail(err, "%s: %s", name, inner.message);
}

static imf_status parse_text(struct settings *s, const char *text, size_t length, const char *name,
                             struct imf_error *err)
{
    char *plain = copy(text, length);
    if (plain == NULL)
        return fail(err, "out of memory");
    blank_comments(plain, length);
    const char *end = NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(plain, length + 1, &end, true);
    imf_status status = IMF_OK;
    if (root == NULL) {
        int line = 1;
        for (const char *c = plain; end != NULL && c < end; c++)
            line += *c == '\n';
        status = fail(err, "%s: line %d: not valid JSON", name, line);
    } else if (!cJSON_IsObject(root)) {
        status = fail(err, "%s: one object { ... } is expected", name);
    }
    bool seen[N_ROWS] = {false};
    for (const cJSON *value = root != NULL ? root->child : NULL; value != NULL && status == IMF_OK;
         value = value->next) {
        int i = find_row(value->string, strlen(value->string));
        if (i < 0)
            status = fail(err, "%s: unknown key \"%.64s\"", name, value->string);
        else if (seen[i])
            status = fail(err, "%s: key \"%s\" is given twice", name, table[i].key);
        else
            status = set_json(s, i, value, name, err);
        if (i >= 0)
            seen[i] = true;
    }
    cJSON_Delete(root);
    free(plain);
    return status;
}

imf_status settings_parse_text(struct settings *s, const char *text, size_t length,
                               const char *name, struct imf_error *err)
{
    imf_status status = set_defaults(s, err);
    if (status == IMF_OK)
        status = parse_text(s, text, length, name, err);
    if (status != IMF_OK)
        settings_free(s);
    return status;
}

static imf_status read_file(struct settings *s, const char *path, struct imf_error *err)
{
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return fail(err, "%s: %s", path, strerror(errno));
    imf_status status = IMF_OK;
    char *text = malloc(MAX_FILE);
    size_t n = text != NULL ? fread(text, 1, MAX_FILE, f) : 0;
    if (text == NULL)
        status = fail(err, "out of memory");
    else if (ferror(f))
        status = fail(err, "%s: %s", path, strerror(errno));
    else if (n == MAX_FILE)
        status = fail(err, "%s: larger than %d bytes", path, MAX_FILE - 1);
    else
        status = parse_text(s, text, n, path, err);
    fclose(f);
    free(text);
    if (status == IMF_OK) {
        s->file = copy(path, strlen(path));
        if (s->file == NULL)
            status = fail(err, "out of memory");
    }
    return status;
}

/* ---- Environment and flags ----------------------------------------------------------------- */

static const char prefix[] = "IMFD_";
enum { PREFIX_LENGTH = sizeof(prefix) - 1 };

/* Kubernetes gives every pod such variables about a Service that happens to be called "imfd". */
static bool is_service_link(const char *name)
{
    return strncmp(name, "IMFD_PORT", 9) == 0 || strncmp(name, "IMFD_SERVICE_", 13) == 0;
}

/* The engine's own, see engine/cuda_loader.c: they name libraries and are no settings. */
static bool is_engine_variable(const char *name)
{
    return strncmp(name, "IMFD_CUDA_DRIVER=", 17) == 0 ||
           strncmp(name, "IMFD_CUDA_MODULE=", 17) == 0;
}

static imf_status read_environment(struct settings *s, char **environment, struct imf_error *err)
{
    for (char **e = environment; *e != NULL; e++) {
        const char *equals = strchr(*e, '=');
        if (equals == NULL || strncmp(*e, prefix, PREFIX_LENGTH) != 0 || is_service_link(*e) ||
            is_engine_variable(*e))
            continue;
        char key[64];
        size_t length = (size_t)(equals - *e) - PREFIX_LENGTH;
        int i = -1;
        if (length < sizeof(key)) {
            for (size_t c = 0; c < length; c++) {
                char upper = (*e)[PREFIX_LENGTH + c];
                key[c] = upper >= 'A' && upper <= 'Z' ? (char)(upper - 'A' + 'a') : upper;
            }
            if (length == 6 && memcmp(key, "config", 6) == 0)
                continue;
            i = find_row(key, length);
        }
        if (i < 0)
            return fail(err, "environment: unknown setting %.*s", (int)(equals - *e), *e);
        struct imf_error inner = {0};
        if (set_text(s, i, equals + 1, ORIGIN_ENVIRONMENT, false, &inner) != IMF_OK)
            return fail(err, "environment %.*s: %s", (int)(equals - *e), *e, inner.message);
    }
    return IMF_OK;
}

/* Splits "--key=value" or "--key value". Returns the value, or NULL with err set. */
static const char *flag_value(int *a, int argc, char **argv, size_t *key_length,
                              struct imf_error *err)
{
    const char *flag = argv[*a] + 2, *equals = strchr(flag, '=');
    if (equals != NULL) {
        *key_length = (size_t)(equals - flag);
        return equals + 1;
    }
    *key_length = strlen(flag);
    if (*a + 1 >= argc) {
        (void)fail(err, "flag --%s needs a value", flag);
        return NULL;
    }
    return argv[++*a];
}

static imf_status read_flags(struct settings *s, const char **config, enum settings_action *action,
                             int argc, char **argv, struct imf_error *err)
{
    bool apply = config == NULL; /* first pass: find --config and the actions; second: set */
    for (int a = 1; a < argc; a++) {
        const char *arg = argv[a];
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            *action = SETTINGS_HELP;
            continue;
        } else if (strcmp(arg, "--print-config") == 0) {
            *action = SETTINGS_PRINT;
            continue;
        } else if (strcmp(arg, "--print-default-config") == 0) {
            *action = SETTINGS_PRINT_DEFAULTS;
            continue;
        } else if (strncmp(arg, "--", 2) != 0) {
            return fail(err, "unexpected argument \"%.64s\" (settings are --key value)", arg);
        }
        size_t length;
        const char *key = arg + 2, *value = flag_value(&a, argc, argv, &length, err);
        bool is_config = length == 6 && memcmp(key, "config", 6) == 0;
        int i = is_config ? -1 : find_row(key, length);
        if (!is_config && i < 0)
            return fail(err, "unknown flag --%.*s (see imfd serve --help)", (int)length, key);
        if (value == NULL)
            return IMF_EINVAL;
        if (is_config && !apply)
            *config = value;
        struct imf_error inner = {0};
        if (!is_config && apply &&
            set_text(s, i, value, ORIGIN_FLAG, s->origin[i] == ORIGIN_FLAG, &inner) != IMF_OK)
            return fail(err, "flag --%.*s: %s", (int)length, key, inner.message);
    }
    return IMF_OK;
}

/* What no row can say by itself. */
static imf_status check_together(struct settings *s, struct imf_error *err)
{
    int max_n = find_row("max_n", 5);
    size_t n = strlen(s->root_path);
    /* A request larger than the queue could never be served. */
    if (s->max_n > s->max_queue && s->origin[max_n] == ORIGIN_DEFAULT)
        s->max_n = s->max_queue;
    if (s->max_n > s->max_queue)
        return fail(err, "max_n: %lld pictures in a request are more than max_queue, %lld, holds",
                    (long long)s->max_n, (long long)s->max_queue);
    if (s->decode_batch > s->max_batch)
        return fail(err, "decode_batch: %lld is more than max_batch, %lld",
                    (long long)s->decode_batch, (long long)s->max_batch);
    if (n > 0 && (s->root_path[0] != '/' || s->root_path[n - 1] == '/' || n > 200 ||
                  strpbrk(s->root_path, "?#% \"\\<>") != NULL))
        return fail(err, "root_path: \"%.100s\" must begin with '/' and not end with it",
                    s->root_path);
    for (int i = 0; i < s->cors_origins.n; i++) {
        const char *origin = s->cors_origins.items[i], *host = strstr(origin, "://");
        if (strcmp(origin, "*") != 0 &&
            (host == NULL || host[3] == '\0' || strpbrk(host + 3, "/?# \r\n\t\"") != NULL))
            return fail(err, "cors_origins: \"%.100s\" is no origin such as https://example.org",
                        origin);
    }
    if (s->listen.n == 0)
        return fail(err, "listen: no address is given");
    if (s->device[0] == '\0')
        return fail(err, "device: it is empty (auto, cpu, cuda ...)");
    return IMF_OK;
}

imf_status settings_load(struct settings *s, enum settings_action *action, int argc, char **argv,
                         char **environment, struct imf_error *err)
{
    const char *config = NULL;
    *action = SETTINGS_RUN;
    for (char **e = environment; *e != NULL; e++) {
        if (strncmp(*e, "IMFD_CONFIG=", 12) == 0)
            config = *e + 12;
    }
    imf_status status = set_defaults(s, err);
    if (status == IMF_OK)
        status = read_flags(s, &config, action, argc, argv, err);
    if (status == IMF_OK && (*action == SETTINGS_HELP || *action == SETTINGS_PRINT_DEFAULTS))
        return IMF_OK;
    if (status == IMF_OK && config != NULL && config[0] != '\0')
        status = read_file(s, config, err);
    if (status == IMF_OK)
        status = read_environment(s, environment, err);
    if (status == IMF_OK)
        status = read_flags(s, NULL, action, argc, argv, err);
    if (status == IMF_OK)
        status = check_together(s, err);
    if (status != IMF_OK)
        settings_free(s);
    return status;
}

void settings_free(struct settings *s)
{
    for (int i = 0; i < N_ROWS; i++) {
        void *at = (char *)s + table[i].offset;
        switch (table[i].type) {
        case TYPE_TEXT:
        case TYPE_CHOICE:
            free(*(char **)at);
            break;
        case TYPE_LIST:
            list_free(at);
            break;
        case TYPE_MODELS:
            models_free(at);
            break;
        case TYPE_INTEGER:
        case TYPE_BYTES:
            break;
        }
    }
    free(s->file);
    memset(s, 0, sizeof(*s));
}

/* ---- Printing ------------------------------------------------------------------------------ */

static cJSON *value_json(const struct settings *s, const struct setting_row *row)
{
    const void *at = (const char *)s + row->offset;
    if (row->type == TYPE_INTEGER || row->type == TYPE_BYTES)
        return cJSON_CreateNumber((double)*(const int64_t *)at);
    if (row->type == TYPE_LIST) {
        const struct string_list *list = at;
        cJSON *array = cJSON_CreateArray();
        for (int i = 0; i < list->n; i++)
            cJSON_AddItemToArray(array, cJSON_CreateString(list->items[i]));
        return array;
    }
    if (row->type == TYPE_MODELS) {
        const struct model_settings *models = at;
        cJSON *array = cJSON_CreateArray();
        for (int i = 0; i < models->n; i++) {
            const struct model_setting *m = &models->items[i];
            cJSON *entry = cJSON_CreateObject();
            cJSON_AddStringToObject(entry, "id", m->id);
            cJSON_AddStringToObject(entry, "checkpoint", m->checkpoint);
            if (m->decoder[0] != '\0')
                cJSON_AddStringToObject(entry, "decoder", m->decoder);
            if (m->device[0] != '\0')
                cJSON_AddStringToObject(entry, "device", m->device);
            if (m->precision[0] != '\0')
                cJSON_AddStringToObject(entry, "precision", m->precision);
            cJSON_AddItemToArray(array, entry);
        }
        return array;
    }
    return cJSON_CreateString(*(char *const *)at);
}

static void print_value(const struct settings *s, int i, FILE *f)
{
    cJSON *json = value_json(s, &table[i]);
    char *text = json != NULL ? cJSON_PrintUnformatted(json) : NULL;
    fprintf(f, "    \"%s\": %s%s", table[i].key, text != NULL ? text : "null",
            i + 1 < N_ROWS ? "," : "");
    cJSON_free(text);
    cJSON_Delete(json);
}

void settings_print(const struct settings *s, FILE *f)
{
    static const char *const names[] = {"default", "file", "environment", "flag"};
    fprintf(f, "{\n");
    for (int i = 0; i < N_ROWS; i++) {
        print_value(s, i, f);
        fprintf(f, " // %s", names[s->origin[i]]);
        if (s->origin[i] == ORIGIN_FILE)
            fprintf(f, " %s", s->file);
        fprintf(f, "\n");
    }
    fprintf(f, "}\n");
}

static void print_indented(FILE *f, const char *lead, const char *text)
{
    while (*text != '\0') {
        size_t length = strcspn(text, "\n");
        fprintf(f, "%s%.*s\n", lead, (int)length, text);
        text += length + (text[length] == '\n');
    }
}

/* "4096..1073741824", "auto|fp32|bf16" or "". */
static void print_bounds(FILE *f, const char *lead, const struct setting_row *row)
{
    if (row->choices != NULL)
        fprintf(f, "%sOne of %s.\n", lead, row->choices);
    else if (row->type == TYPE_INTEGER || row->type == TYPE_BYTES)
        fprintf(f, "%s%lld to %lld%s.\n", lead, (long long)row->low, (long long)row->high,
                row->type == TYPE_BYTES ? " bytes; as a string \"64K\", \"1M\", \"2G\" too" : "");
}

void settings_print_defaults(FILE *f)
{
    struct settings s;
    struct imf_error err;
    if (set_defaults(&s, &err) != IMF_OK) {
        settings_free(&s);
        return;
    }
    fprintf(
        f,
        "// Configuration of `imfd serve --config FILE`: every setting with its default.\n"
        "//\n"
        "// Each key is also a flag (--max-queue 64) and an environment variable\n"
        "// (IMFD_MAX_QUEUE=64); a flag wins over the environment, the environment over this\n"
        "// file. Unknown keys stop the start. `imfd serve --print-config` shows the result and\n"
        "// where each value came from. This text is `imfd serve --print-default-config`.\n{\n");
    for (int i = 0; i < N_ROWS; i++) {
        if (table[i].group != NULL)
            fprintf(f, "%s    // ---- %s ----\n", i > 0 ? "\n" : "", table[i].group);
        fprintf(f, "\n");
        print_indented(f, "    // ", table[i].help);
        print_bounds(f, "    // ", &table[i]);
        print_value(&s, i, f);
        fprintf(f, "\n");
    }
    fprintf(f, "}\n");
    settings_free(&s);
}

void settings_print_help(FILE *f)
{
    fprintf(
        f,
        "usage: imfd serve [--config FILE] [--KEY VALUE]...\n\n"
        "Serves pictures over HTTP. Every setting is a flag, an environment variable IMFD_KEY and\n"
        "a key of the JSON file; a flag wins over the environment, that over the file. Flags of\n"
        "lists (--listen, --models ...) may be repeated.\n\n"
        "  --config FILE           JSON file, comments allowed (or IMFD_CONFIG)\n"
        "  --print-config          show the settings in effect and where each came from\n"
        "  --print-default-config  the commented configuration file\n"
        "  --help                  this text\n");
    for (int i = 0; i < N_ROWS; i++) {
        if (table[i].group != NULL)
            fprintf(f, "\n%s\n", table[i].group);
        char flag[40];
        snprintf(flag, sizeof(flag), "--%s", table[i].key);
        for (char *c = flag + 2; *c != '\0'; c++)
            *c = *c == '_' ? '-' : *c;
        fprintf(f, "  %s (default: %s)\n", flag, table[i].initial[0] ? table[i].initial : "none");
        print_indented(f, "      ", table[i].help);
        print_bounds(f, "      ", &table[i]);
    }
}
