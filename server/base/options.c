/* Command lines and --help, from a command's table; option_value.c reads the values. */
#include "base/options.h"
#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int imfd_usage_error(const struct imfd_usage *usage, const char *format, ...)
{
    fprintf(stderr, "imfd %s: ", usage->command);
    va_list ap;
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, "\nTry 'imfd %s --help'.\n", usage->command);
    return 2;
}

/* ---- Finding an option ---- */

static bool same_name(const char *a, size_t a_len, const char *b, size_t b_len)
{
    if (a_len != b_len)
        return false;
    for (size_t i = 0; i < a_len; i++) {
        char ca = a[i] == '_' ? '-' : a[i];
        if (ca != b[i])
            return false;
    }
    return true;
}

/* Walks the aliases of a row, separated by spaces; begins where *alias is NULL. */
static bool next_alias(const struct imfd_option *o, const char **alias, size_t *len)
{
    *alias = *alias ? *alias + *len : o->aliases;
    if (!*alias)
        return false;
    *alias += strspn(*alias, " ");
    *len = strcspn(*alias, " ");
    return *len > 0;
}

static bool has_name(const struct imfd_option *o, const char *name, size_t len)
{
    if (same_name(name, len, o->name, strlen(o->name)))
        return true;
    size_t n = 0;
    for (const char *alias = NULL; next_alias(o, &alias, &n);) {
        if (same_name(name, len, alias, n))
            return true;
    }
    return false;
}

static const struct imfd_option *find(const struct imfd_usage *usage, const char *name, size_t len)
{
    for (const struct imfd_option *o = usage->options; o->name; o++) {
        if (has_name(o, name, len))
            return o;
    }
    return NULL;
}

/* ---- Help ---- */

void imfd_print_wrapped(FILE *f, const char *lead, bool begun, const char *text)
{
    enum { COLUMNS = 100 };
    size_t indent = strlen(lead), column = begun ? indent : 0;
    for (text += strspn(text, " \n"); *text;) {
        size_t word = strcspn(text, " \n");
        if (column > indent && column + 1 + word > COLUMNS) {
            fputc('\n', f);
            column = 0;
        }
        fprintf(f, "%s%.*s", column == 0 ? lead : column > indent ? " " : "", (int)word, text);
        column = (column == 0 ? indent : column + (column > indent)) + word;
        text += word;
        text += strspn(text, " \n");
    }
    fputc('\n', f);
}

/* "--max-batch N, --gen-bsz" */
static void print_names(const struct imfd_option *o, char *text, size_t size)
{
    size_t n = (size_t)snprintf(text, size, "--%s%s%s", o->name, o->argument ? " " : "",
                                o->argument ? o->argument : "");
    size_t len = 0;
    for (const char *alias = NULL; n < size && next_alias(o, &alias, &len);)
        n += (size_t)snprintf(text + n, size - n, ", %s%.*s", len == 1 ? "-" : "--", (int)len,
                              alias);
}

void imfd_option_sentences(const struct imfd_option *o, char *text, size_t size)
{
    char bounds[160];
    size_t length = strlen(o->help);
    imfd_option_bounds(o, bounds, sizeof(bounds));
    snprintf(text, size, "%s%s%s%s%s", o->help, o->help[length - 1] == '.' ? "" : ".",
             o->choices ? " One of " : " ", bounds, bounds[0] ? "." : "");
}

/* Settings have sentences, in a block under the name; the rest stands beside its name. */
static void print_option(const struct imfd_usage *usage, const struct imfd_option *o)
{
    char names[160], bounds[160], help[1200];
    const char *initial = o->initial && o->initial[0] ? o->initial : NULL;
    print_names(o, names, sizeof(names));
    if (usage->settings && !o->flag_only) {
        printf("  %s (default: %s)\n", names, initial ? initial : "none");
        imfd_option_sentences(o, help, sizeof(help));
        imfd_print_wrapped(stdout, "      ", false, help);
        return;
    }
    imfd_option_bounds(o, bounds, sizeof(bounds));
    snprintf(help, sizeof(help), "%s%s%s%s%s%s%s", o->help, bounds[0] || initial ? " (" : "",
             bounds, bounds[0] && initial ? "; " : "", initial ? "default: " : "",
             initial ? initial : "", bounds[0] || initial ? ")" : "");
    bool beside = strlen(names) <= 30;
    printf("  %-30s%s", names, beside ? "  " : "\n");
    imfd_print_wrapped(stdout, "                                  ", beside, help);
}

static void print_help(const struct imfd_usage *usage)
{
    printf("usage: imfd %s [options]%s%s\n\n", usage->command, usage->operand ? " " : "",
           usage->operand ? usage->operand : "");
    imfd_print_wrapped(stdout, "", false, usage->summary);
    printf("\noptions:\n");
    for (const struct imfd_option *o = usage->options; o->name; o++) {
        if (o->group)
            printf("\n%s\n", o->group);
        if (o->help)
            print_option(usage, o);
    }
    printf("%s  %-30s  %s\n", usage->settings ? "\n" : "", "--help, -h", "print this text");
    if (usage->notes)
        printf("\n%s\n", usage->notes);
}

/* ---- Parsing ---- */

static bool takes_value(const struct imfd_option *o)
{
    return o->type == IMFD_OPTION_IGNORED ? o->argument != NULL : o->type != IMFD_OPTION_FLAG;
}

/* 0, or 2 after having said why. A setting is called what it is called everywhere. */
static int set_value(const struct imfd_usage *usage, void *record, const struct imfd_option *o,
                     const char *text, bool again)
{
    char key[IMFD_OPTION_KEY_MAX], name[IMFD_OPTION_KEY_MAX + 2];
    struct imf_error err = {0};
    bool setting = usage->settings && !o->flag_only;
    snprintf(name, sizeof(name), "--%s", o->name);
    if (imfd_option_set(o, setting ? imfd_option_key(o, key) : name, record, text, again, &err) ==
        IMF_OK)
        return 0;
    if (setting)
        return imfd_usage_error(usage, "flag %s: %s", name, err.message);
    return imfd_usage_error(usage, "%s", err.message);
}

/* Handles argv[*i], and argv[*i + 1] when that is its value. 0, or 2 after having said why. */
static int parse_option(const struct imfd_usage *usage, void *record, bool *given, int argc,
                        char **argv, int *i)
{
    const char *arg = argv[*i];
    const char *name = arg + 1 + (arg[1] == '-');
    size_t len = strcspn(name, "=");
    /* One letter after one dash, a word after two. */
    bool well_formed = arg[1] == '-' ? len > 1 : len == 1;
    const struct imfd_option *o = well_formed ? find(usage, name, len) : NULL;
    if (!o)
        return imfd_usage_error(usage, "unknown option '%.*s'", (int)(name - arg) + (int)len, arg);
    const char *value = name[len] == '=' ? name + len + 1 : NULL;
    if (takes_value(o) && !value) {
        if (*i + 1 >= argc)
            return imfd_usage_error(usage, "--%s needs a value%s%s%s", o->name,
                                    o->argument ? " (" : "", o->argument ? o->argument : "",
                                    o->argument ? ")" : "");
        value = argv[++*i];
    } else if (!takes_value(o) && value) {
        return imfd_usage_error(usage, "--%s takes no value", o->name);
    }
    bool *row = &given[o - usage->options], again = *row;
    *row = true;
    return set_value(usage, record, o, value, again);
}

enum imfd_parsed imfd_options_flags(const struct imfd_usage *usage, void *record, int argc,
                                    char **argv, const char **operand, bool *given)
{
    bool unasked[IMFD_OPTIONS_MAX] = {false};
    bool only_operands = false, has_operand = false;
    given = given ? given : unasked;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (!only_operands && strcmp(arg, "--") == 0) {
            only_operands = true;
        } else if (only_operands || arg[0] != '-' || arg[1] == '\0') {
            if (!usage->operand || has_operand) {
                imfd_usage_error(usage, "unexpected argument '%s'", arg);
                return IMFD_PARSED_ERROR;
            }
            *operand = arg;
            has_operand = true;
        } else if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            print_help(usage);
            return IMFD_PARSED_HELP;
        } else if (parse_option(usage, record, given, argc, argv, &i) != 0) {
            return IMFD_PARSED_ERROR;
        }
    }
    return IMFD_PARSED_RUN;
}

imf_status imfd_options_defaults(const struct imfd_usage *usage, void *record,
                                 struct imf_error *err)
{
    char key[IMFD_OPTION_KEY_MAX];
    for (const struct imfd_option *o = usage->options; o->name; o++) {
        if (o->initial)
            IMF_TRY(imfd_option_set(o, imfd_option_key(o, key), record, o->initial, false, err));
    }
    return IMF_OK;
}

enum imfd_parsed imfd_options_parse(const struct imfd_usage *usage, void *record, int argc,
                                    char **argv, const char **operand)
{
    struct imf_error err = {0};
    if (imfd_options_defaults(usage, record, &err) != IMF_OK) {
        imfd_usage_error(usage, "%s", err.message);
        return IMFD_PARSED_ERROR;
    }
    return imfd_options_flags(usage, record, argc, argv, operand, NULL);
}

void imfd_options_free(const struct imfd_usage *usage, void *record)
{
    for (const struct imfd_option *o = usage->options; o->name; o++)
        imfd_option_free(o, record);
}
