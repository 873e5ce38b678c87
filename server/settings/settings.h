/* Settings of `imfd serve`: one table (table.c) gives each key its name, type, default,
 * bounds and help; the file, the environment, the flags, --help, --print-config and conf/imfd.json
 * all come from it. A flag wins over the environment, the environment over the file, the file over
 * the default. */
#ifndef SETTINGS_H
#define SETTINGS_H

#include "imf.h"

#include <stdint.h>
#include <stdio.h>

struct string_list {
    char **items;
    int n;
};

struct model_setting { /* "" where not given */
    char *id, *checkpoint, *key, *decoder, *noise_scale, *device, *precision;
};

struct model_settings {
    struct model_setting *items;
    int n;
};

enum setting_origin { ORIGIN_DEFAULT, ORIGIN_FILE, ORIGIN_ENVIRONMENT, ORIGIN_FLAG };

enum { SETTINGS_MAX_KEYS = 64 };

/* Values as the program uses them; the comment of a field is in the table. Owned: settings_free. */
struct settings {
    struct string_list listen;
    struct model_settings models;
    struct string_list aliases; /* "NAME=ID", both not empty */
    char *model_dir, *model_name;
    char *device, *precision;
    int64_t threads, max_batch, decode_batch;
    int64_t max_queue, max_n, max_steps, max_delay_us;
    int64_t max_body, max_connections, max_connections_per_address, max_per_address;
    int64_t request_timeout_ms, drain_timeout, stall_timeout;
    int64_t header_timeout_ms, body_timeout_ms, send_timeout_ms, idle_timeout_ms;
    char *api_keys_file;
    int64_t rate_limit;
    struct string_list cors_origins, allowed_hosts, trusted_proxies;
    char *cross_site;
    char *root_path;
    char *size_policy;
    int64_t cache_bytes, png_level;
    char *log_format, *log_level, *log_file;
    char *metrics_listen;

    enum setting_origin origin[SETTINGS_MAX_KEYS]; /* by table row */
    char *file;                                    /* the configuration file read, or NULL */
};

enum settings_action { SETTINGS_RUN, SETTINGS_HELP, SETTINGS_PRINT, SETTINGS_PRINT_DEFAULTS };

/* Reads defaults, the file (--config or IMFD_CONFIG), `environment` (an environ-like list) and the
 * flags argv[1..argc-1]. On failure err names the key and the cause, and *s is empty. */
IMF_MUST_CHECK imf_status settings_load(struct settings *s, enum settings_action *action, int argc,
                                        char **argv, char **environment, struct imf_error *err);
void settings_free(struct settings *s);
IMF_MUST_CHECK imf_status settings_add_model(struct settings *s, const char *id,
                                             const char *checkpoint, const char *decoder);

void settings_print_help(FILE *f);
/* The settings in effect as a configuration file, each with where it came from. */
void settings_print(const struct settings *s, FILE *f);
/* The manual: every key with its help and default. conf/imfd.json is this text. */
void settings_print_defaults(FILE *f);

/* Reads one configuration text over the defaults; what settings_load does with a file. */
IMF_MUST_CHECK imf_status settings_parse_text(struct settings *s, const char *text, size_t length,
                                              const char *name, struct imf_error *err);

#endif
