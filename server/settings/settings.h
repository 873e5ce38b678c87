/* Settings of `imfd serve`: one table (table.c) gives each key its name, type, default,
 * bounds and help; the file, the environment, the flags, --help, --print-config and conf/imfd.json
 * all come from it. A flag wins over the environment, the environment over the file, the file over
 * the default. */
#ifndef SETTINGS_H
#define SETTINGS_H

#include "base/options.h"
#include "settings/model_options.h"

#include <stdint.h>
#include <stdio.h>

struct model_setting { /* "" where not given */
    char *id, *checkpoint, *key, *decoder, *noise_scale, *device, *precision;
};

struct model_settings {
    struct model_setting *items;
    int n;
};

enum setting_origin { ORIGIN_DEFAULT, ORIGIN_FILE, ORIGIN_ENVIRONMENT, ORIGIN_FLAG };

/* Values as the program uses them; the comment of a field is in the table. settings_free frees the
 * lists; texts are of argv, of the environment or of `json`. */
struct settings {
    const char *config;
    bool print, print_defaults;
    struct imfd_strings listen;
    struct model_settings models;
    struct imfd_strings aliases; /* "NAME=ID", both not empty */
    const char *model_dir, *model_name;
    struct device_options engine;
    int max_batch, decode_batch;
    int max_queue, max_n, max_steps, max_delay_us;
    int64_t max_body;
    int max_connections, max_connections_per_address, max_per_address;
    int request_timeout_ms, drain_timeout, stall_timeout;
    int header_timeout_ms, body_timeout_ms, send_timeout_ms, idle_timeout_ms;
    const char *api_keys_file;
    int rate_limit;
    struct imfd_strings cors_origins, allowed_hosts, trusted_proxies;
    const char *cross_site;
    const char *root_path;
    const char *size_policy;
    int64_t cache_bytes;
    int png_level;
    const char *log_format, *log_level, *log_file;
    const char *metrics_listen;

    enum setting_origin origin[IMFD_OPTIONS_MAX]; /* by table row */
    const char *file;                             /* the configuration file read, or NULL */
    cJSON *json;                                  /* what it says; owned */
};

enum settings_action {
    SETTINGS_RUN,
    SETTINGS_PRINT,
    SETTINGS_PRINT_DEFAULTS,
    SETTINGS_HELP, /* was printed: exit with 0 */
    SETTINGS_WRONG /* and it was said on stderr: exit with 2 */
};

/* Reads defaults, the file (--config or IMFD_CONFIG), `environment` (an environ-like list) and the
 * flags argv[1..argc-1], which must all outlive *s. Wherever a setting is wrong, the sentence names
 * its key. settings_free in every case. */
enum settings_action settings_load(struct settings *s, int argc, char **argv, char **environment);
void settings_free(struct settings *s);
IMF_MUST_CHECK imf_status settings_add_model(struct settings *s, const char *id,
                                             const char *checkpoint, const char *decoder);

/* The settings in effect as a configuration file, each with where it came from. */
void settings_print(const struct settings *s, FILE *f);
/* The manual: every key with its help and default. conf/imfd.json is this text. */
void settings_print_defaults(FILE *f);

/* Reads one configuration text over the defaults; what settings_load does with a file. On failure
 * err names the key and the cause, and *s is empty. */
IMF_MUST_CHECK imf_status settings_parse_text(struct settings *s, const char *text, size_t length,
                                              const char *name, struct imf_error *err);

#endif
