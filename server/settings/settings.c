/* Where settings come from and in which order: defaults, the file, the environment, flags; and what
 * must hold between them. */
#include "common/error.h"
#include "settings/internal.h"

#include <stdlib.h>
#include <string.h>

imf_status settings__set_defaults(struct settings *s, struct imf_error *err)
{
    memset(s, 0, sizeof(*s));
    for (int i = 0; i < settings__row_count; i++) {
        imf_status status =
            settings__set_text(s, i, settings__table[i].initial, ORIGIN_DEFAULT, false, err);
        if (status != IMF_OK)
            return status;
    }
    return IMF_OK;
}

/* ---- Environment and flags ----------------------------------------------------------------- */

static const char prefix[] = "IMFD_";
enum { PREFIX_LENGTH = sizeof(prefix) - 1 };

/* Kubernetes gives every pod such variables about a Service that happens to be called "imfd". */
static bool is_service_link(const char *name)
{
    return strncmp(name, "IMFD_PORT", 9) == 0 || strncmp(name, "IMFD_SERVICE_", 13) == 0;
}

/* The engine's own, see engine/core/cuda_loader.c: they name libraries and are no settings. */
static bool is_engine_variable(const char *name)
{
    return strncmp(name, "IMFD_CUDA_DRIVER=", 17) == 0 ||
           strncmp(name, "IMFD_CUDA_MODULE=", 17) == 0;
}

static imf_status read_environment(struct settings *s, char **environment, struct imf_error *err)
{
    for (char **e = environment; *e; e++) {
        const char *equals = strchr(*e, '=');
        if (!equals || strncmp(*e, prefix, PREFIX_LENGTH) != 0 || is_service_link(*e) ||
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
            i = settings__find(key, length);
        }
        if (i < 0)
            return imf__fail(err, IMF_EINVAL, "environment: unknown setting %.*s",
                             (int)(equals - *e), *e);
        struct imf_error inner = {0};
        if (settings__set_text(s, i, equals + 1, ORIGIN_ENVIRONMENT, false, &inner) != IMF_OK)
            return imf__fail(err, IMF_EINVAL, "environment %.*s: %s", (int)(equals - *e), *e,
                             inner.message);
    }
    return IMF_OK;
}

/* Splits "--key=value" or "--key value". Returns the value, or NULL with err set. */
static const char *flag_value(int *a, int argc, char **argv, size_t *key_length,
                              struct imf_error *err)
{
    const char *flag = argv[*a] + 2, *equals = strchr(flag, '=');
    if (equals) {
        *key_length = (size_t)(equals - flag);
        return equals + 1;
    }
    *key_length = strlen(flag);
    if (*a + 1 >= argc) {
        (void)imf__fail(err, IMF_EINVAL, "flag --%s needs a value", flag);
        return NULL;
    }
    return argv[++*a];
}

static imf_status read_flags(struct settings *s, const char **config, enum settings_action *action,
                             int argc, char **argv, struct imf_error *err)
{
    bool apply = !config; /* first pass: find --config and the actions; second: set */
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
            return imf__fail(err, IMF_EINVAL,
                             "unexpected argument \"%.64s\" (settings are --key value)", arg);
        }
        size_t length;
        const char *key = arg + 2, *value = flag_value(&a, argc, argv, &length, err);
        bool is_config = length == 6 && memcmp(key, "config", 6) == 0;
        int i = is_config ? -1 : settings__find(key, length);
        if (!is_config && i < 0)
            return imf__fail(err, IMF_EINVAL, "unknown flag --%.*s (see imfd serve --help)",
                             (int)length, key);
        if (!value)
            return IMF_EINVAL;
        if (is_config && !apply)
            *config = value;
        struct imf_error inner = {0};
        if (!is_config && apply &&
            settings__set_text(s, i, value, ORIGIN_FLAG, s->origin[i] == ORIGIN_FLAG, &inner) !=
                IMF_OK)
            return imf__fail(err, IMF_EINVAL, "flag --%.*s: %s", (int)length, key, inner.message);
    }
    return IMF_OK;
}

/* What no row can say by itself. */
static imf_status check_together(struct settings *s, struct imf_error *err)
{
    int max_n = settings__find("max_n", 5);
    size_t n = strlen(s->root_path);
    /* A request larger than the queue could never be served. */
    if (s->max_n > s->max_queue && s->origin[max_n] == ORIGIN_DEFAULT)
        s->max_n = s->max_queue;
    if (s->max_n > s->max_queue)
        return imf__fail(err, IMF_EINVAL,
                         "max_n: %lld pictures in a request are more than max_queue, %lld, holds",
                         (long long)s->max_n, (long long)s->max_queue);
    if (s->png_level != 0 && s->png_level != 1 && s->png_level != 9)
        return imf__fail(err, IMF_EINVAL, "png_level: %lld is none of 0, 1 and 9",
                         (long long)s->png_level);
    if (s->decode_batch > s->max_batch)
        return imf__fail(err, IMF_EINVAL, "decode_batch: %lld is more than max_batch, %lld",
                         (long long)s->decode_batch, (long long)s->max_batch);
    if (n > 0 && (s->root_path[0] != '/' || s->root_path[n - 1] == '/' || n > 200 ||
                  strpbrk(s->root_path, "?#% \"\\<>")))
        return imf__fail(err, IMF_EINVAL,
                         "root_path: \"%.100s\" must begin with '/' and not end with it",
                         s->root_path);
    for (int i = 0; i < s->cors_origins.n; i++) {
        const char *origin = s->cors_origins.items[i], *host = strstr(origin, "://");
        if (strcmp(origin, "*") != 0 &&
            (!host || host[3] == '\0' || strpbrk(host + 3, "/?# \r\n\t\"")))
            return imf__fail(err, IMF_EINVAL,
                             "cors_origins: \"%.100s\" is no origin such as https://example.org",
                             origin);
    }
    if (s->listen.n == 0)
        return imf__fail(err, IMF_EINVAL, "listen: no address is given");
    if (s->device[0] == '\0')
        return imf__fail(err, IMF_EINVAL, "device: it is empty (auto, cpu, cuda ...)");
    return IMF_OK;
}

/* ---- All of it ---------------------------------------------------------------------------- */

imf_status settings_load(struct settings *s, enum settings_action *action, int argc, char **argv,
                         char **environment, struct imf_error *err)
{
    const char *config = NULL;
    *action = SETTINGS_RUN;
    for (char **e = environment; *e; e++) {
        if (strncmp(*e, "IMFD_CONFIG=", 12) == 0)
            config = *e + 12;
    }
    imf_status status = settings__set_defaults(s, err);
    if (status == IMF_OK)
        status = read_flags(s, &config, action, argc, argv, err);
    if (status == IMF_OK && (*action == SETTINGS_HELP || *action == SETTINGS_PRINT_DEFAULTS))
        return IMF_OK;
    if (status == IMF_OK && config && config[0] != '\0')
        status = settings__read_file(s, config, err);
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

imf_status settings_parse_text(struct settings *s, const char *text, size_t length,
                               const char *name, struct imf_error *err)
{
    imf_status status = settings__set_defaults(s, err);
    if (status == IMF_OK)
        status = settings__read_text(s, text, length, name, err);
    if (status != IMF_OK)
        settings_free(s);
    return status;
}

void settings_free(struct settings *s)
{
    for (int i = 0; i < settings__row_count; i++)
        settings__value_free(s, i);
    free(s->file);
    memset(s, 0, sizeof(*s));
}
