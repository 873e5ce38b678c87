/* The engine's JSON parser: events of good texts, refusal of bad ones, bounds. */
#include "common/json.h"
#include "run_suite.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* Parses a heap copy without a NUL, so that AddressSanitizer sees any read past the end; returns
 * the last event and, when asked, how many there were. */
static enum imf__json_event parse(const char *text, size_t size, int *events)
{
    char *copy = malloc(size ? size : 1);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, text, size);
    struct imf__json j;
    imf__json_init(&j, copy, size);
    enum imf__json_event event;
    int n = 0;
    do {
        event = imf__json_next(&j);
        n++;
    } while (event != IMF__JSON_END && event != IMF__JSON_ERROR);
    ck_assert(event == IMF__JSON_END || j.error);
    if (events)
        *events = n;
    free(copy);
    return event;
}

static const char good[] = " {\"a\": [1, -2.5e3, true, false, null], \"b\\u00e9\\ud83d\\ude00\": "
                           "{\"c\": \"x\\n\\\"\\\\\"}, \"\": []} ";

START_TEST(test_events)
{
    char text[sizeof(good)];
    memcpy(text, good, sizeof(good));
    struct imf__json j;
    imf__json_init(&j, text, sizeof(good) - 1);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_OBJECT);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_KEY);
    ck_assert_str_eq(j.string, "a");
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_ARRAY);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_NUMBER);
    ck_assert(j.is_integer);
    ck_assert_int_eq(j.integer, 1);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_NUMBER);
    ck_assert(!j.is_integer);
    ck_assert_double_eq(j.number, -2500.0);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_TRUE);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_FALSE);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_NULL);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_ARRAY_END);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_KEY);
    ck_assert_str_eq(j.string, "b\xC3\xA9\xF0\x9F\x98\x80");
    ck_assert_uint_eq(j.length, 7);
    enum imf__json_event first = imf__json_next(&j);
    ck_assert_int_eq(first, IMF__JSON_OBJECT);
    ck_assert(imf__json_skip(&j, first));
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_KEY);
    ck_assert_str_eq(j.string, "");
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_ARRAY);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_ARRAY_END);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_OBJECT_END);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_END);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_END);
}
END_TEST

START_TEST(test_refused)
{
    static const char *const texts[] = {
        "",
        " ",
        "{",
        "[",
        "}",
        "]",
        "[}",
        "{]",
        "[1,]",
        "{\"a\":1,}",
        "{,}",
        "[,1]",
        "{\"a\"}",
        "{\"a\" 1}",
        "{1:2}",
        "{a:1}",
        "[1 2]",
        "01",
        "-",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x1",
        "tru",
        "nul",
        "True",
        "NaN",
        "Infinity",
        "\"",
        "\"a",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\x01\"",
        "\"\n\"",
        "\"\xC0\x80\"",
        "\"\xED\xA0\x80\"",
        "\"\xF5\x80\x80\x80\"",
        "\"\xE2\x82\"",
        "1 1",
        "{} x",
        "[1]]",
        "'a'",
        "/**/1",
        "11111111111111111111111111111111111111111111111111111111111111111111111111",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        ck_assert_msg(parse(texts[i], strlen(texts[i]), NULL) == IMF__JSON_ERROR, "accepted: %s",
                      texts[i]);
}
END_TEST

START_TEST(test_depth)
{
    char text[2 * IMF__JSON_MAX_DEPTH + 2];
    memset(text, '[', IMF__JSON_MAX_DEPTH);
    memset(text + IMF__JSON_MAX_DEPTH, ']', IMF__JSON_MAX_DEPTH);
    ck_assert_int_eq(parse(text, 2 * IMF__JSON_MAX_DEPTH, NULL), IMF__JSON_END);
    memset(text, '[', IMF__JSON_MAX_DEPTH + 1);
    ck_assert_int_eq(parse(text, IMF__JSON_MAX_DEPTH + 1, NULL), IMF__JSON_ERROR);
}
END_TEST

/* Whole texts: what is wrong, where, and keys that one object has twice. */
START_TEST(test_check)
{
    static const struct {
        const char *text, *why;
        size_t at;
        const char *key;
    } cases[] = {
        {"{\"a\":1,\"b\":{\"a\":2},\"c\":[{\"a\":1},{\"a\":1}]}", NULL, 0, ""},
        {" 1 ", NULL, 0, ""},
        {"{\"a\":1,\"b\":2,\"a\":3}", "twice", 14, "a"},
        {"{\"x\":[{\"ab\":1,\"\\u0061b\":2}]}", "twice", 15, "ab"},
        {"{\"\":1,\"\":2}", "twice", 7, ""},
        {"{\"a\":01}", "number", 5, ""},
        {"{\"a\\u0000b\":1}", "\\u0000", 9, ""},
        {"\xEF\xBB\xBF{}", "byte order mark", 0, ""},
        {"[1,]", "no value", 3, ""},
        {"", "ends early", 0, ""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct imf__json_fault fault;
        bool fine = imf__json_check(cases[i].text, strlen(cases[i].text), &fault);
        ck_assert_msg(fine == !cases[i].why, "%s: %s", cases[i].text, fault.why);
        if (fine)
            continue;
        ck_assert_msg(strstr(fault.why, cases[i].why), "%s: says \"%s\"", cases[i].text, fault.why);
        ck_assert_msg(fault.at == cases[i].at, "%s: at %zu", cases[i].text, fault.at);
        ck_assert_str_eq(fault.key, cases[i].key);
        ck_assert(fault.twice == !strcmp(cases[i].why, "twice"));
        ck_assert(!fault.no_memory);
    }
}
END_TEST

/* Every prefix of a good text is refused, every one-byte change ends in END or ERROR. */
START_TEST(test_mutations)
{
    size_t size = strlen(good), last = size - 1; /* the text ends with a space */
    for (size_t n = 0; n < last; n++)
        ck_assert_int_eq(parse(good, n, NULL), IMF__JSON_ERROR);
    char text[sizeof(good)];
    for (size_t i = 0; i < size; i++) {
        for (int b = 0; b < 256; b++) {
            memcpy(text, good, sizeof(good));
            text[i] = (char)b;
            int events;
            parse(text, size, &events);
            ck_assert_int_le(events, (int)size + 1);
        }
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("json");
    TCase *tc = tcase_create("json");
    tcase_add_test(tc, test_events);
    tcase_add_test(tc, test_refused);
    tcase_add_test(tc, test_depth);
    tcase_add_test(tc, test_check);
    tcase_add_test(tc, test_mutations);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
