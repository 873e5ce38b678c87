/* Where settings come from and in which order: defaults, the file, the environment, flags; and what
 * must hold between them. */
#include "common/error.h"
#include "settings/internal.h"

#include <stdlib.h>
#include <string.h>

void settings__note(struct settings *s, const struct imfd_option *o, enum setting_origin origin)
{
    s->origin[o - settings__usage.options] = origin;
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
        char key[IMFD_OPTION_KEY_MAX], name[IMFD_OPTION_KEY_MAX];
        size_t length = (size_t)(equals - *e) - PREFIX_LENGTH;
        const struct imfd_option *o = NULL;
        if (length < sizeof(key)) {
            for (size_t c = 0; c < length; c++) {
                char upper = (*e)[PREFIX_LENGTH + c];
                key[c] = upper >= 'A' && upper <= 'Z' ? (char)(upper - 'A' + 'a') : upper;
            }
            if (length == 6 && memcmp(key, "config", 6) == 0)
                continue;
            o = settings__find(key, length);
        }
        if (!o)
            return imf__fail(err, IMF_EINVAL, "environment: unknown setting %.*s",
                             (int)(equals - *e), *e);
        struct imf_error inner = {0};
        if (imfd_option_set(o, imfd_option_key(o, name), s, equals + 1, false, &inner) != IMF_OK)
            return imf__fail(err, IMF_EINVAL, "environment %.*s: %s", (int)(equals - *e), *e,
                             inner.message);
        settings__note(s, o, ORIGIN_ENVIRONMENT);
    }
    return IMF_OK;
}

/* What no row can say by itself. */
static imf_status check_together(struct settings *s, struct imf_error *err)
{
    long max_n = settings__find("max_n", 5) - settings__usage.options;
    size_t n = strlen(s->root_path);
    /* A request larger than the queue could never be served. */
    if (s->max_n > s->max_queue && s->origin[max_n] == ORIGIN_DEFAULT)
        s->max_n = s->max_queue;
    if (s->max_n > s->max_queue)
        return imf__fail(err, IMF_EINVAL,
                         "max_n: %d pictures in a request are more than max_queue, %d, holds",
                         s->max_n, s->max_queue);
    if (s->png_level != 0 && s->png_level != 1 && s->png_level != 9)
        return imf__fail(err, IMF_EINVAL, "png_level: %d is none of 0, 1 and 9", s->png_level);
    if (s->decode_batch > s->max_batch)
        return imf__fail(err, IMF_EINVAL, "decode_batch: %d is more than max_batch, %d",
                         s->decode_batch, s->max_batch);
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
    if (s->engine.device[0] == '\0')
        return imf__fail(err, IMF_EINVAL, "device: it is empty (auto, cpu, cuda ...)");
    return IMF_OK;
}

/* ---- All of it ---------------------------------------------------------------------------- */

/* The flags alone, into a record of their own: which file to read, and whether to print. */
static enum settings_action look_at_flags(const char **config, int argc, char **argv,
                                          char **environment)
{
    struct settings flags = {0};
    enum imfd_parsed parsed = imfd_options_parse(&settings__usage, &flags, argc, argv, NULL);
    *config = flags.config;
    for (char **e = environment; *e && *config && (*config)[0] == '\0'; e++) {
        if (strncmp(*e, "IMFD_CONFIG=", 12) == 0)
            *config = *e + 12;
    }
    enum settings_action action = parsed == IMFD_PARSED_HELP    ? SETTINGS_HELP
                                  : parsed == IMFD_PARSED_ERROR ? SETTINGS_WRONG
                                  : flags.print_defaults        ? SETTINGS_PRINT_DEFAULTS
                                  : flags.print                 ? SETTINGS_PRINT
                                                                : SETTINGS_RUN;
    settings_free(&flags);
    return action;
}

enum settings_action settings_load(struct settings *s, int argc, char **argv, char **environment)
{
    struct imf_error err = {0};
    const char *config = NULL;
    bool given[IMFD_OPTIONS_MAX] = {false};
    memset(s, 0, sizeof(*s));
    enum settings_action action = look_at_flags(&config, argc, argv, environment);
    if (action != SETTINGS_RUN && action != SETTINGS_PRINT)
        return action;
    imf_status status = imfd_options_defaults(&settings__usage, s, &err);
    if (status == IMF_OK && config[0] != '\0')
        status = settings__read_file(s, config, &err);
    if (status == IMF_OK)
        status = read_environment(s, environment, &err);
    if (status == IMF_OK &&
        imfd_options_flags(&settings__usage, s, argc, argv, NULL, given) != IMFD_PARSED_RUN)
        return SETTINGS_WRONG;
    for (int i = 0; i < IMFD_OPTIONS_MAX; i++)
        s->origin[i] = given[i] ? ORIGIN_FLAG : s->origin[i];
    if (status == IMF_OK)
        status = check_together(s, &err);
    if (status == IMF_OK)
        return action;
    (void)imfd_usage_error(&settings__usage, "%s", err.message);
    return SETTINGS_WRONG;
}

imf_status settings_parse_text(struct settings *s, const char *text, size_t length,
                               const char *name, struct imf_error *err)
{
    memset(s, 0, sizeof(*s));
    imf_status status = imfd_options_defaults(&settings__usage, s, err);
    if (status == IMF_OK)
        status = settings__read_text(s, text, length, name, err);
    if (status != IMF_OK)
        settings_free(s);
    return status;
}

void settings_free(struct settings *s)
{
    imfd_options_free(&settings__usage, s);
    cJSON_Delete(s->json);
    memset(s, 0, sizeof(*s));
}
