/* Options: one table per command, from which parsing, bounds, defaults, errors and --help come. The
 * table of `imfd serve` (settings/) is of the same rows; its values may stand in a file and in the
 * environment as well.
 *
 * On a command line "--name value", "--name=value" and "-o value" are understood; a flag takes no
 * value. Options and operands may be mixed, "--" ends the options. Every error names the option.
 * Names may be written with '_' for '-', as Python programs do. */
#ifndef IMFD_OPTIONS_H
#define IMFD_OPTIONS_H

#include "imf.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum imfd_option_type {
    IMFD_OPTION_FLAG,    /* bool */
    IMFD_OPTION_INT,     /* int, within min..max */
    IMFD_OPTION_BYTES,   /* int64_t, within min..max: "64K", "1M", "2GiB" too */
    IMFD_OPTION_UINT64,  /* uint64_t */
    IMFD_OPTION_FLOAT,   /* float, finite, within min..max */
    IMFD_OPTION_STRING,  /* const char *: the text itself, of argv, the environment or the table */
    IMFD_OPTION_CHOICE,  /* the same, one of `choices` */
    IMFD_OPTION_LIST,    /* struct imfd_list: "207,360" or "0-7" or both, each within min..max */
    IMFD_OPTION_STRINGS, /* struct imfd_strings: "a,b" or ["a", "b"] */
    IMFD_OPTION_PAIRS,   /* struct imfd_strings of "name=value", both not empty; or an object */
    IMFD_OPTION_OTHER,   /* what `other` says */
    IMFD_OPTION_IGNORED  /* accepted and without effect; takes a value when `argument` is set */
};

enum {
    IMFD_LIST_MAX = 65536,
    IMFD_STRINGS_MAX = 256, /* items */
    IMFD_OPTIONS_MAX = 64,  /* rows of a table */
    IMFD_OPTION_KEY_MAX = 64
};

struct imfd_list {
    uint64_t *values; /* owned; imfd_list_free */
    size_t count;
};

struct imfd_strings {
    char **items; /* owned; imfd_options_free */
    int n;
};

/* A type of one table's own. Both readers add to what there is. */
struct imfd_option_other {
    imf_status (*read_text)(void *value, const char *text, struct imf_error *err);
    imf_status (*read_json)(void *value, const cJSON *json, struct imf_error *err);
    imf_status (*check)(void *value, struct imf_error *err); /* after either */
    cJSON *(*json)(const void *value);
    void (*free)(void *value); /* and makes it empty */
};

struct imfd_option {
    const char *name;    /* long name without dashes, with '-' between words */
    const char *aliases; /* more names, separated by spaces; one letter: "-o". NULL for none */
    enum imfd_option_type type;
    size_t at;            /* of the variable in the command's record */
    const char *argument; /* what --help calls the value; NULL for flags */
    double min, max;      /* both 0: unbounded */
    const char *help;     /* without full stop at its end where it is one sentence; NULL hides it */
    const char *initial;  /* default as text; NULL: what the record holds */
    const char *choices;  /* "a|b|c" */
    const struct imfd_option_other *other;
    const char *group; /* heading in --help; NULL: same as the row above */
    bool flag_only;    /* of settings: stands neither in the file nor in the environment */
};

/* A row: IMFD_OPTION(INT, "rounds", offsetof(struct bench, rounds), .min = 1, .max = 9, ...). */
#define IMFD_OPTION(type_, name_, at_, ...)                                                        \
    {                                                                                              \
        .type = IMFD_OPTION_##type_, .name = (name_), .at = (at_), __VA_ARGS__                     \
    }

struct imfd_usage {
    const char *command;               /* "sample" */
    const char *operand;               /* "FILE"; NULL: takes none */
    const char *summary;               /* a sentence or two under the usage line */
    const char *notes;                 /* after the options; NULL for none */
    bool settings;                     /* rows are keys of a file and variables, too */
    const struct imfd_option *options; /* ends with an entry whose name is NULL */
};

enum imfd_parsed {
    IMFD_PARSED_RUN,   /* go on */
    IMFD_PARSED_HELP,  /* --help was printed to stdout: exit with 0 */
    IMFD_PARSED_ERROR, /* a sentence was printed to stderr: exit with 2 */
};

/* Sets the defaults in `record`, then what argv[1 .. argc - 1] says. argv[0] is the command's name.
 * *operand is one of argv's strings, or as it was where there is none; NULL where the command takes
 * none. On an error variables may be partly set; imfd_options_free frees lists in every case. */
enum imfd_parsed imfd_options_parse(const struct imfd_usage *usage, void *record, int argc,
                                    char **argv, const char **operand);
/* The two halves of it. given[i]: row i was used; may be NULL. */
IMF_MUST_CHECK imf_status imfd_options_defaults(const struct imfd_usage *usage, void *record,
                                                struct imf_error *err);
enum imfd_parsed imfd_options_flags(const struct imfd_usage *usage, void *record, int argc,
                                    char **argv, const char **operand, bool *given);
void imfd_options_free(const struct imfd_usage *usage, void *record);

/* Prints "imfd COMMAND: sentence" to stderr, as every command does. Returns 2. */
__attribute__((format(printf, 2, 3))) int imfd_usage_error(const struct imfd_usage *usage,
                                                           const char *format, ...);

void imfd_list_free(struct imfd_list *list);

/* ---- One value; option_value.c. `name` is what errors call it. ---- */

/* Sets the variable from text. `append` keeps the strings there are (a repeated flag). */
IMF_MUST_CHECK imf_status imfd_option_set(const struct imfd_option *o, const char *name,
                                          void *record, const char *text, bool append,
                                          struct imf_error *err);
/* The same from the value that a file gives it, whose strings must live as long as the record. */
IMF_MUST_CHECK imf_status imfd_option_set_json(const struct imfd_option *o, const char *name,
                                               void *record, const cJSON *value,
                                               struct imf_error *err);
/* The value as a file would give it; NULL when out of memory. The caller deletes it. */
cJSON *imfd_option_json(const struct imfd_option *o, const void *record);
void imfd_option_free(const struct imfd_option *o, void *record);
/* "4096 to 1073741824", "auto, fp32 or bf16"; empty where everything is allowed. */
void imfd_option_bounds(const struct imfd_option *o, char *text, size_t size);
/* The help and the bounds as sentences. */
void imfd_option_sentences(const struct imfd_option *o, char *text, size_t size);
/* The name as a key of a file: '_' for '-'. Returns `key`. */
const char *imfd_option_key(const struct imfd_option *o, char key[IMFD_OPTION_KEY_MAX]);

/* ---- Text for people ---- */

/* The words of `text`, in lines of at most 100 columns that begin with `lead`; of the first one that
 * much is there already where it has `begun`. */
void imfd_print_wrapped(FILE *f, const char *lead, bool begun, const char *text);

#endif
