/* Command-line options: looks names up in the command's table, converts and bounds the values. */
#include "base/options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
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

static bool has_name(const struct imfd_option *o, const char *name, size_t len)
{
    if (same_name(name, len, o->name, strlen(o->name)))
        return true;
    for (const char *alias = o->aliases; alias && *alias;) {
        size_t n = strcspn(alias, " ");
        if (same_name(name, len, alias, n))
            return true;
        alias += n;
        alias += strspn(alias, " ");
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

/* ---- Values ---- */

static bool bounded(const struct imfd_option *o)
{
    return o->min != 0 || o->max != 0;
}

static bool within(const struct imfd_option *o, double v)
{
    return !bounded(o) || (v >= o->min && v <= o->max);
}

/* "must be a whole number between 1 and 64, not 'x'" */
static int refuse(const struct imfd_usage *usage, const struct imfd_option *o, const char *kind,
                  const char *text)
{
    if (bounded(o))
        return imfd_usage_error(usage, "--%s must be %s between %.10g and %.10g, not '%s'", o->name,
                                kind, o->min, o->max, text);
    return imfd_usage_error(usage, "--%s must be %s, not '%s'", o->name, kind, text);
}

/* Decimal digits only: strtoull would take signs, spaces and negative numbers. */
static bool read_uint64(const char **text, uint64_t *out)
{
    if (!isdigit((unsigned char)**text))
        return false;
    uint64_t v = 0;
    for (; isdigit((unsigned char)**text); ++*text) {
        unsigned digit = (unsigned)(**text - '0');
        if (v > (UINT64_MAX - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}

static bool list_append(struct imfd_list *list, uint64_t first, uint64_t last)
{
    if (last < first || last - first >= IMFD_LIST_MAX ||
        list->count + (size_t)(last - first) >= IMFD_LIST_MAX)
        return false;
    size_t n = (size_t)(last - first) + 1;
    uint64_t *grown = realloc(list->values, (list->count + n) * sizeof(*grown));
    if (!grown)
        return false;
    for (size_t i = 0; i < n; i++)
        grown[list->count + i] = first + i;
    list->values = grown;
    list->count += n;
    return true;
}

static bool read_list(const struct imfd_option *o, const char *text, struct imfd_list *list)
{
    imfd_list_free(list); /* the last use of an option counts */
    for (;;) {
        uint64_t first, last;
        if (!read_uint64(&text, &first))
            return false;
        last = first;
        if (*text == '-' && (++text, !read_uint64(&text, &last)))
            return false;
        if (!within(o, (double)first) || !within(o, (double)last) ||
            !list_append(list, first, last))
            return false;
        if (*text == '\0')
            return true;
        if (*text++ != ',')
            return false;
    }
}

void imfd_list_free(struct imfd_list *list)
{
    free(list->values);
    list->values = NULL;
    list->count = 0;
}

static bool read_float(const char *text, float *out)
{
    char *end;
    if (!*text || isspace((unsigned char)*text))
        return false;
    double v = strtod(text, &end);
    if (*end || !isfinite(v) || !isfinite((float)v))
        return false;
    *out = (float)v;
    return true;
}

static bool read_int(const char *text, int *out)
{
    char *end;
    if (!isdigit((unsigned char)*text) && *text != '-')
        return false;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (end == text || *end || errno || v < -2147483647L || v > 2147483647L)
        return false;
    *out = (int)v;
    return true;
}

/* 0, or 2 after having said why. */
static int set_value(const struct imfd_usage *usage, const struct imfd_option *o, const char *text)
{
    switch (o->type) {
    case IMFD_OPTION_FLAG:
        *(bool *)o->value = true;
        break;
    case IMFD_OPTION_INT: {
        int v;
        if (!read_int(text, &v) || !within(o, v))
            return refuse(usage, o, "a whole number", text);
        *(int *)o->value = v;
        break;
    }
    case IMFD_OPTION_UINT64: {
        uint64_t v;
        const char *end = text;
        if (!read_uint64(&end, &v) || *end || !within(o, (double)v))
            return refuse(usage, o, "a whole number", text);
        *(uint64_t *)o->value = v;
        break;
    }
    case IMFD_OPTION_FLOAT: {
        float v;
        /* The bounds are compared as float: 0.1f is not between 0.1 and 1. */
        if (!read_float(text, &v) || (bounded(o) && (v < (float)o->min || v > (float)o->max)))
            return refuse(usage, o, "a number", text);
        *(float *)o->value = v;
        break;
    }
    case IMFD_OPTION_STRING:
        *(const char **)o->value = text;
        break;
    case IMFD_OPTION_LIST:
        if (!read_list(o, text, o->value))
            return refuse(usage, o, "a list of whole numbers such as 1,4,8 or 0-7", text);
        break;
    case IMFD_OPTION_IGNORED:
        break;
    }
    if (o->given)
        *o->given = true;
    return 0;
}

/* ---- Help ---- */

static void print_help(const struct imfd_usage *usage)
{
    printf("usage: imfd %s [options]%s%s\n\n%s\n\noptions:\n", usage->command,
           usage->operands ? " " : "", usage->operands ? usage->operands : "", usage->summary);
    for (const struct imfd_option *o = usage->options; o->name; o++) {
        if (!o->help)
            continue;
        char left[160];
        int n = snprintf(left, sizeof(left), "--%s%s%s", o->name, o->argument ? " " : "",
                         o->argument ? o->argument : "");
        for (const char *alias = o->aliases; alias && *alias && n > 0 && n < (int)sizeof(left);) {
            size_t len = strcspn(alias, " ");
            n += snprintf(left + n, sizeof(left) - (size_t)n, ", %s%.*s", len == 1 ? "-" : "--",
                          (int)len, alias);
            alias += len;
            alias += strspn(alias, " ");
        }
        if (n > 30)
            printf("  %s\n  %-30s  %s\n", left, "", o->help);
        else
            printf("  %-30s  %s\n", left, o->help);
    }
    printf("  %-30s  %s\n", "--help, -h", "print this text");
    if (usage->notes)
        printf("\n%s\n", usage->notes);
}

/* ---- Parsing ---- */

static bool takes_value(const struct imfd_option *o)
{
    return o->type == IMFD_OPTION_IGNORED ? o->argument != NULL : o->type != IMFD_OPTION_FLAG;
}

/* Handles argv[*i], and argv[*i + 1] when that is its value. 0, or 2 after having said why. */
static int parse_option(const struct imfd_usage *usage, int argc, char **argv, int *i)
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
            return imfd_usage_error(usage, "--%s needs a value (%s)", o->name, o->argument);
        value = argv[++*i];
    } else if (!takes_value(o) && value) {
        return imfd_usage_error(usage, "--%s takes no value", o->name);
    }
    return set_value(usage, o, value);
}

enum imfd_parsed imfd_options_parse(const struct imfd_usage *usage, int argc, char **argv,
                                    const char **operands, int *n_operands)
{
    int n = 0;
    bool only_operands = false;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (!only_operands && strcmp(arg, "--") == 0) {
            only_operands = true;
        } else if (only_operands || arg[0] != '-' || arg[1] == '\0') {
            if (n >= usage->max_operands) {
                imfd_usage_error(usage, "unexpected argument '%s'", arg);
                return IMFD_PARSED_ERROR;
            }
            operands[n++] = arg;
        } else if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            print_help(usage);
            return IMFD_PARSED_HELP;
        } else if (parse_option(usage, argc, argv, &i) != 0) {
            return IMFD_PARSED_ERROR;
        }
    }
    if (n_operands)
        *n_operands = n;
    return IMFD_PARSED_RUN;
}
