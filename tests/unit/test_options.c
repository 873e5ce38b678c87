/* The option parser: every type, bounds, aliases, lists, and what it refuses. */
#include "base/options.h"
#include "base/read_file.h"
#include "run_suite.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct values {
    bool flag;
    int number;
    uint64_t big;
    float real;
    int64_t bytes;
    const char *text, *choice;
    struct imfd_list list;
    struct imfd_strings strings, pairs;
};

#define AT(member) offsetof(struct values, member)
static const struct imfd_option options[] = {
    IMFD_OPTION(FLAG, "flag", AT(flag), .aliases = "f", .help = "a flag"),
    IMFD_OPTION(INT, "number", AT(number), .aliases = "count gen-bsz", .argument = "N", .min = 1,
                .max = 64, .initial = "2", .help = "a count"),
    IMFD_OPTION(UINT64, "big", AT(big), .argument = "N", .help = "a large count"),
    IMFD_OPTION(BYTES, "bytes", AT(bytes), .argument = "N", .min = 1, .max = 1LL << 40,
                .initial = "64K", .help = "a size"),
    IMFD_OPTION(FLOAT, "real", AT(real), .argument = "X", .min = 0.1, .max = 1,
                .help = "a fraction"),
    IMFD_OPTION(STRING, "output", AT(text), .aliases = "o", .argument = "FILE", .help = "a file"),
    IMFD_OPTION(CHOICE, "choice", AT(choice), .argument = "NAME", .initial = "b",
                .choices = "a|b|cde", .help = "one of several"),
    IMFD_OPTION(LIST, "list", AT(list), .argument = "LIST", .min = 0, .max = 1000,
                .help = "numbers"),
    IMFD_OPTION(STRINGS, "strings", AT(strings), .argument = "LIST", .help = "texts"),
    IMFD_OPTION(PAIRS, "pairs", AT(pairs), .argument = "LIST", .help = "names with values"),
    IMFD_OPTION(IGNORED, "workdir", 0, .argument = "DIR"),
    {.name = NULL},
};
static const struct imfd_usage usage = {
    .command = "test", .operand = "FILE", .summary = "Tests.", .options = options};

/* Parses a command line given as one string; returns the result and fills v. */
static enum imfd_parsed parse(struct values *v, const char *line, const char **operand)
{
    static char copy[1024];
    const char *unasked;
    memset(v, 0, sizeof(*v));
    snprintf(copy, sizeof(copy), "test %s", line);
    char *argv[32];
    int argc = 0;
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    return imfd_options_parse(&usage, v, argc, argv, operand ? operand : &unasked);
}

START_TEST(test_values)
{
    struct values v;
    const char *operand = NULL;
    enum imfd_parsed p = parse(&v,
                               "-f --count=7 --big 18446744073709551615 file --real 0.1 -o - "
                               "--list 3,5-7,1000 --workdir x",
                               &operand);
    ck_assert_int_eq(p, IMFD_PARSED_RUN);
    ck_assert(v.flag);
    ck_assert_int_eq(v.number, 7);
    ck_assert(v.big == UINT64_MAX);
    ck_assert(v.real == 0.1f);
    ck_assert_str_eq(v.text, "-");
    ck_assert_str_eq(operand, "file");
    const uint64_t expected[] = {3, 5, 6, 7, 1000};
    ck_assert_uint_eq(v.list.count, 5);
    ck_assert_mem_eq(v.list.values, expected, sizeof(expected));
    imfd_options_free(&usage, &v);
    ck_assert_int_eq(parse(&v, "--gen_bsz 3 -- --flag", &operand), IMFD_PARSED_RUN);
    ck_assert_int_eq(v.number, 3);
    ck_assert_str_eq(operand, "--flag");
    ck_assert(!v.flag);
}
END_TEST

START_TEST(test_defaults)
{
    struct values v;
    ck_assert_int_eq(parse(&v, "", NULL), IMFD_PARSED_RUN);
    ck_assert_int_eq(v.number, 2);
    ck_assert_int_eq(v.bytes, 65536);
    ck_assert_str_eq(v.choice, "b");
    ck_assert(!v.text && !v.strings.n && !v.flag);
}
END_TEST

/* Repeated lists of texts add up, unlike everything else; JSON may stand for either. */
START_TEST(test_strings)
{
    struct values v;
    ck_assert_int_eq(parse(&v,
                           "--strings a,[::]:8080 --strings [\"b,c\"] --pairs x=1 "
                           "--pairs {\"y\":\"2\"} --bytes 1 --bytes 2MiB --choice cde",
                           NULL),
                     IMFD_PARSED_RUN);
    static const char *const expected[] = {"a", "[::]:8080", "b,c"};
    ck_assert_int_eq(v.strings.n, 3);
    for (int i = 0; i < 3; i++)
        ck_assert_str_eq(v.strings.items[i], expected[i]);
    ck_assert_int_eq(v.pairs.n, 2);
    ck_assert_str_eq(v.pairs.items[1], "y=2");
    ck_assert_int_eq(v.bytes, 2 << 20);
    ck_assert_str_eq(v.choice, "cde");
    imfd_options_free(&usage, &v);
}
END_TEST

/* What a row reads as text, it reads as JSON, and writes again. */
START_TEST(test_json)
{
    static const struct {
        const char *row, *json, *back; /* back NULL: refused */
    } cases[] = {
        {"number", "7", "7"},
        {"number", "\"7\"", "7"},
        {"number", "1.5", NULL},
        {"number", "65", NULL},
        {"number", "[7]", NULL},
        {"bytes", "\"1K\"", "1024"},
        {"bytes", "9", "9"},
        {"bytes", "1e30", NULL},
        {"bytes", "-1", NULL},
        {"choice", "\"a\"", "\"a\""},
        {"choice", "\"cd\"", NULL},
        {"choice", "1", NULL},
        {"strings", "[\"a\",\"b\"]", "[\"a\",\"b\"]"},
        {"strings", "\"a, b\"", "[\"a\",\"b\"]"},
        {"strings", "[1]", NULL},
        {"strings", "{}", NULL},
        {"pairs", "{\"a\":\"b\"}", "{\"a\":\"b\"}"},
        {"pairs", "{\"a\":\"\"}", NULL},
        {"pairs", "{\"a=\":\"b\"}", NULL},
        {"pairs", "[\"a=b\"]", NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct values v = {0};
        struct imf_error err = {0};
        const struct imfd_option *o = options;
        while (strcmp(o->name, cases[i].row) != 0)
            o++;
        cJSON *json = cJSON_Parse(cases[i].json);
        imf_status status = imfd_option_set_json(o, "this", &v, json, &err);
        ck_assert_msg((status == IMF_OK) == (cases[i].back != NULL), "%s: %s", cases[i].json,
                      err.message);
        if (status == IMF_OK) {
            cJSON *back = imfd_option_json(o, &v);
            char *text = cJSON_PrintUnformatted(back);
            ck_assert_str_eq(text, cases[i].back);
            cJSON_free(text);
            cJSON_Delete(back);
        } else {
            ck_assert_ptr_eq(strstr(err.message, "this"), err.message);
        }
        imfd_options_free(&usage, &v);
        cJSON_Delete(json);
    }
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
    "--bytes 1X",
    "--bytes 1KBi",
    "--bytes 0",
    "--bytes 99999999999G",
    "--choice c",
    "--choice=",
    "--choice a|b",
    "--pairs a",
    "--pairs =a",
    "--pairs a=b --pairs a=c",
    "--pairs {",
    "--strings [\"a\"",
    "--number -1",
    "--number 4294967297",
};

START_TEST(test_refused)
{
    struct values v;
    const char *operand;
    /* "--" alone only ends the options. */
    enum imfd_parsed expected =
        strcmp(refused[_i], "--") == 0 ? IMFD_PARSED_RUN : IMFD_PARSED_ERROR;
    ck_assert_msg(parse(&v, refused[_i], &operand) == expected, "'%s'", refused[_i]);
    imfd_options_free(&usage, &v);
}
END_TEST

START_TEST(test_help)
{
    struct values v;
    ck_assert_int_eq(parse(&v, "--flag --help", NULL), IMFD_PARSED_HELP);
}
END_TEST

/* Files of any kind, up to the bound and not a byte beyond it. */
START_TEST(test_read_file)
{
    static const size_t sizes[] = {0, 1, 4094, 4095, 4096, 10000};
    char path[] = "/tmp/imfd-read-XXXXXX", *text;
    size_t n;
    struct imf_error err = {0};
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        ck_assert_int_eq(ftruncate(fd, (off_t)sizes[i]), 0);
        ck_assert_int_eq(imfd_read_file(&text, &n, path, sizes[i], false, &err), IMF_OK);
        ck_assert_uint_eq(n, sizes[i]);
        ck_assert(text[n] == '\0');
        free(text);
        if (sizes[i] > 0)
            ck_assert_int_eq(imfd_read_file(&text, &n, path, sizes[i] - 1, false, &err),
                             IMF_EINVAL);
    }
    close(fd);
    unlink(path);
    ck_assert_int_eq(imfd_read_file(&text, &n, "/proc/self/status", 1 << 20, false, &err), IMF_OK);
    ck_assert_uint_gt(n, 100); /* of a file that says it has no bytes */
    free(text);
    ck_assert_int_eq(imfd_read_file(&text, &n, "/", 100, false, &err), IMF_EIO);
    ck_assert_int_eq(imfd_read_file(&text, &n, path, 100, false, &err), IMF_EIO);
    ck_assert_ptr_eq(strstr(err.message, path), err.message);
    ck_assert_int_eq(imfd_read_file(&text, &n, "-", 100, false, &err), IMF_EIO);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("options");
    TCase *tc = tcase_create("options");
    tcase_add_test(tc, test_values);
    tcase_add_loop_test(tc, test_refused, 0, (int)(sizeof(refused) / sizeof(refused[0])));
    tcase_add_test(tc, test_defaults);
    tcase_add_test(tc, test_strings);
    tcase_add_test(tc, test_json);
    tcase_add_test(tc, test_help);
    tcase_add_test(tc, test_read_file);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
