/* Command-line options: one table per command, from which parsing, bounds, errors and --help come.
 *
 * "--name value", "--name=value" and "-o value" are understood; a flag takes no value. Options and
 * operands may be mixed, "--" ends the options. Every error names the option. Long names may be
 * written with '_' for '-', as Python programs do. */
#ifndef IMFD_OPTIONS_H
#define IMFD_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum imfd_option_type {
    IMFD_OPTION_FLAG,   /* bool */
    IMFD_OPTION_INT,    /* int, within min..max */
    IMFD_OPTION_UINT64, /* uint64_t */
    IMFD_OPTION_FLOAT,  /* float, finite, within min..max */
    IMFD_OPTION_STRING, /* const char *, pointing into argv */
    IMFD_OPTION_LIST,   /* struct imfd_list: "207,360" or "0-7" or both, each within min..max */
    IMFD_OPTION_IGNORED /* accepted and without effect; takes a value when `argument` is set */
};

#define IMFD_LIST_MAX 65536

struct imfd_list {
    uint64_t *values; /* owned; imfd_list_free */
    size_t count;
};

struct imfd_option {
    const char *name;    /* long name without dashes */
    const char *aliases; /* more names, separated by spaces; one letter: "-o". NULL for none */
    enum imfd_option_type type;
    void *value;          /* the variable to set */
    bool *given;          /* set to true when the option was used; may be NULL */
    const char *argument; /* what --help calls the value; NULL for flags */
    double min, max;      /* both 0: unbounded */
    const char *help;     /* one sentence, without full stop; NULL hides it */
};

struct imfd_usage {
    const char *command;  /* "sample" */
    const char *operands; /* "FILE", or NULL when there are none */
    int max_operands;
    const char *summary;               /* a sentence or two under the usage line */
    const char *notes;                 /* after the options; NULL for none */
    const struct imfd_option *options; /* ends with an entry whose name is NULL */
};

enum imfd_parsed {
    IMFD_PARSED_RUN,   /* go on */
    IMFD_PARSED_HELP,  /* --help was printed to stdout: exit with 0 */
    IMFD_PARSED_ERROR, /* a sentence was printed to stderr: exit with 2 */
};

/* argv[0] is the command's name. Operands are stored into operands[0 .. max_operands - 1] (argv's
 * strings) and counted in *n_operands; both may be NULL when there are none. On an error variables
 * may be partly set; lists must be freed in every case. */
enum imfd_parsed imfd_options_parse(const struct imfd_usage *usage, int argc, char **argv,
                                    const char **operands, int *n_operands);

void imfd_list_free(struct imfd_list *list);

/* Prints "imfd COMMAND: sentence" to stderr, as every command does. Returns 2. */
__attribute__((format(printf, 2, 3))) int imfd_usage_error(const struct imfd_usage *usage,
                                                           const char *format, ...);

#endif
