/* Settings as text: --help, --print-config and the manual, which is conf/imfd.json. */
#include "settings/internal.h"

#include <stdio.h>
#include <string.h>

static void print_value(const struct settings *s, int i, FILE *f)
{
    cJSON *json = settings__value_json(s, i);
    char *text = json ? cJSON_PrintUnformatted(json) : NULL;
    fprintf(f, "    \"%s\": %s%s", settings__table[i].key, text ? text : "null",
            i + 1 < settings__row_count ? "," : "");
    cJSON_free(text);
    cJSON_Delete(json);
}

void settings_print(const struct settings *s, FILE *f)
{
    static const char *const names[] = {"default", "file", "environment", "flag"};
    fprintf(f, "{\n");
    for (int i = 0; i < settings__row_count; i++) {
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
    if (row->choices)
        fprintf(f, "%sOne of %s.\n", lead, row->choices);
    else if (row->type == TYPE_INTEGER || row->type == TYPE_BYTES)
        fprintf(f, "%s%lld to %lld%s.\n", lead, (long long)row->low, (long long)row->high,
                row->type == TYPE_BYTES ? " bytes; as a string \"64K\", \"1M\", \"2G\" too" : "");
}

void settings_print_defaults(FILE *f)
{
    struct settings s;
    struct imf_error err;
    if (settings__set_defaults(&s, &err) != IMF_OK) {
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
    for (int i = 0; i < settings__row_count; i++) {
        if (settings__table[i].group)
            fprintf(f, "%s    // ---- %s ----\n", i > 0 ? "\n" : "", settings__table[i].group);
        fprintf(f, "\n");
        print_indented(f, "    // ", settings__table[i].help);
        print_bounds(f, "    // ", &settings__table[i]);
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
    for (int i = 0; i < settings__row_count; i++) {
        if (settings__table[i].group)
            fprintf(f, "\n%s\n", settings__table[i].group);
        char flag[40];
        snprintf(flag, sizeof(flag), "--%s", settings__table[i].key);
        for (char *c = flag + 2; *c != '\0'; c++)
            *c = *c == '_' ? '-' : *c;
        fprintf(f, "  %s (default: %s)\n", flag,
                settings__table[i].initial[0] ? settings__table[i].initial : "none");
        print_indented(f, "      ", settings__table[i].help);
        print_bounds(f, "      ", &settings__table[i]);
    }
}
