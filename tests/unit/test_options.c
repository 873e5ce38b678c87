/* The option parser: every type, bounds, aliases, lists, and what it refuses. */
#include "base/options.h"
#include "run_suite.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct values {
    bool flag, given;
    int number;
    uint64_t big;
    float real;
    const char *text;
    struct imfd_list list;
};

/* Parses a command line given as one string; returns the result and fills v. */
static enum imfd_parsed parse(struct values *v, const char *line, const char **operand, int *n)
{
    static char copy[1024];
    const struct imfd_option options[] = {
        {"flag", "f", IMFD_OPTION_FLAG, &v->flag, NULL, NULL, 0, 0, "a flag"},
        {"number", "count gen-bsz", IMFD_OPTION_INT, &v->number, &v->given, "N", 1, 64, "a count"},
        {"big", NULL, IMFD_OPTION_UINT64, &v->big, NULL, "N", 0, 0, "a large count"},
        {"real", NULL, IMFD_OPTION_FLOAT, &v->real, NULL, "X", 0.1, 1, "a fraction"},
        {"output", "o", IMFD_OPTION_STRING, &v->text, NULL, "FILE", 0, 0, "a file"},
        {"list", NULL, IMFD_OPTION_LIST, &v->list, NULL, "LIST", 0, 1000, "numbers"},
        {"workdir", NULL, IMFD_OPTION_IGNORED, NULL, NULL, "DIR", 0, 0, NULL},
        {.name = NULL},
    };
    const struct imfd_usage usage = {.command = "test",
                                     .operands = "FILE",
                                     .max_operands = 1,
                                     .summary = "Tests.",
                                     .options = options};
    memset(v, 0, sizeof(*v));
    snprintf(copy, sizeof(copy), "test %s", line);
    char *argv[32];
    int argc = 0;
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    const char *operands[1] = {NULL};
    enum imfd_parsed parsed = imfd_options_parse(&usage, argc, argv, operands, n);
    if (operand)
        *operand = operands[0];
    return parsed;
}

START_TEST(test_values)
{
    struct values v;
    const char *operand;
    int n = 0;
    enum imfd_parsed p = parse(&v,
                               "-f --count=7 --big 18446744073709551615 file --real 0.1 -o - "
                               "--list 3,5-7,1000 --workdir x",
                               &operand, &n);
    ck_assert_int_eq(p, IMFD_PARSED_RUN);
    ck_assert(v.flag && v.given);
    ck_assert_int_eq(v.number, 7);
    ck_assert(v.big == UINT64_MAX);
    ck_assert(v.real == 0.1f);
    ck_assert_str_eq(v.text, "-");
    ck_assert_int_eq(n, 1);
    ck_assert_str_eq(operand, "file");
    const uint64_t expected[] = {3, 5, 6, 7, 1000};
    ck_assert_uint_eq(v.list.count, 5);
    ck_assert_mem_eq(v.list.values, expected, sizeof(expected));
    imfd_list_free(&v.list);
    ck_assert_int_eq(parse(&v, "--gen_bsz 3 -- --flag", &operand, &n), IMFD_PARSED_RUN);
    ck_assert_int_eq(v.number, 3);
    ck_assert_str_eq(operand, "--flag");
    ck_assert(!v.flag);
}
END_TEST

static const char *const refused[] = {
    "--unknown",
    "-x",
    "--",
    "--number",
    "--number 0",
    "--number 65",
    "--number 1.5",
    "--number 1x",
    "--number=",
    "--flag=1",
    "--big -1",
    "--big 18446744073709551616",
    "--real nan",
    "--real 1e99",
    "--real 0.09",
    "--real 0,5",
    "--list 1,",
    "--list ,1",
    "--list 7-3",
    "--list 1001",
    "--list -1",
    "--list 1;2",
    "--number 99999999999999999999",
    "a b",
    "-flag",
    "--o x",
    "--workdir",
    "--list 0-99999999999",
};

START_TEST(test_refused)
{
    struct values v;
    const char *operand;
    int n;
    /* "--" alone only ends the options. */
    enum imfd_parsed expected =
        strcmp(refused[_i], "--") == 0 ? IMFD_PARSED_RUN : IMFD_PARSED_ERROR;
    ck_assert_msg(parse(&v, refused[_i], &operand, &n) == expected, "'%s'", refused[_i]);
    imfd_list_free(&v.list);
}
END_TEST

START_TEST(test_help)
{
    struct values v;
    int n;
    ck_assert_int_eq(parse(&v, "--flag --help", NULL, &n), IMFD_PARSED_HELP);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("options");
    TCase *tc = tcase_create("options");
    tcase_add_test(tc, test_values);
    tcase_add_loop_test(tc, test_refused, 0, (int)(sizeof(refused) / sizeof(refused[0])));
    tcase_add_test(tc, test_help);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
