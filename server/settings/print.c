/* Settings as text: --help, --print-config and the manual, which is conf/imfd.json. */
#include "settings/internal.h"

#include <stdio.h>
#include <string.h>

/* One line of an object, without its end. */
static void print_value(const struct settings *s, const struct imfd_option *o, FILE *f)
{
    char key[IMFD_OPTION_KEY_MAX];
    cJSON *json = imfd_option_json(o, s);
    char *text = json ? cJSON_PrintUnformatted(json) : NULL;
    fprintf(f, "    \"%s\": %s%s", imfd_option_key(o, key), text ? text : "null",
            o[1].name ? "," : "");
    cJSON_free(text);
    cJSON_Delete(json);
}

void settings_print(const struct settings *s, FILE *f)
{
    static const char *const names[] = {"default", "file", "environment", "flag"};
    fprintf(f, "{\n");
    for (const struct imfd_option *o = settings__usage.options; o->name; o++) {
        enum setting_origin origin = s->origin[o - settings__usage.options];
        if (o->flag_only)
            continue;
        print_value(s, o, f);
        fprintf(f, " // %s", names[origin]);
        if (origin == ORIGIN_FILE)
            fprintf(f, " %s", s->file);
        fprintf(f, "\n");
    }
    fprintf(f, "}\n");
}

void settings_print_defaults(FILE *f)
{
    struct settings s = {0};
    struct imf_error err;
    if (imfd_options_defaults(&settings__usage, &s, &err) != IMF_OK) {
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
    bool first = true;
    for (const struct imfd_option *o = settings__usage.options; o->name; o++) {
        char text[1200];
        if (o->flag_only)
            continue;
        if (o->group)
            fprintf(f, "%s    // ---- %s ----\n", first ? "" : "\n", o->group);
        first = false;
        fprintf(f, "\n");
        imfd_option_sentences(o, text, sizeof(text));
        imfd_print_wrapped(f, "    // ", false, text);
        print_value(&s, o, f);
        fprintf(f, "\n");
    }
    fprintf(f, "}\n");
    settings_free(&s);
}
