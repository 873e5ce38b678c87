/* Classes, JSON, base64, HTTP texts, keys, proxies and limits: the server's small parts. */
#include "api/classes.h"
#include "http/text.h"
#include "base/json_write.h"
#include "api/keys.h"
#include "http/proxy.h"
#include "api/ratelimit.h"
#include "run_suite.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

START_TEST(test_classes_known)
{
    static const struct {
        int index;
        const char *id, *name;
    } known[] = {{207, "n02099601", "golden retriever"},
                 {360, "n02444819", "otter"},
                 {387, "n02509815", "lesser panda"},
                 {974, "n09288635", "geyser"},
                 {88, "n01818515", "macaw"},
                 {979, "n09468604", "valley"},
                 {417, "n02782093", "balloon"},
                 {279, "n02120079", "Arctic fox"}};
    struct classes *c = classes_create_imagenet();
    ck_assert_ptr_nonnull(c);
    ck_assert_int_eq(classes_count(c), 1000);
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        struct class_lookup found;
        const struct class_info *info = classes_get(c, known[i].index);
        ck_assert_str_eq(info->wordnet_id, known[i].id);
        ck_assert_str_eq(info->name, known[i].name);
        ck_assert_int_eq(classes_find(c, known[i].id, strlen(known[i].id), &found), CLASS_FOUND);
        ck_assert_int_eq(found.index, known[i].index);
        ck_assert_int_eq(classes_find(c, known[i].name, strlen(known[i].name), &found),
                         CLASS_FOUND);
        ck_assert_int_eq(found.index, known[i].index);
    }
    classes_destroy(c);
}
END_TEST

START_TEST(test_classes_find)
{
    static const struct {
        const char *text;
        enum class_match match;
        int index;
    } cases[] = {{"  Golden--RETRIEVER_", CLASS_FOUND, 207},
                 {"0", CLASS_FOUND, 0},
                 {"0999", CLASS_FOUND, 999},
                 {"1000", CLASS_UNKNOWN, -1},
                 {"00001", CLASS_UNKNOWN, -1},
                 {"crane", CLASS_AMBIGUOUS, -1},
                 {"golden", CLASS_UNKNOWN, -1},
                 {"N02099601", CLASS_FOUND, 207},
                 {"n00000000", CLASS_UNKNOWN, -1},
                 {" 1\t", CLASS_FOUND, 1},
                 {"-1", CLASS_UNKNOWN, -1},
                 {"_1", CLASS_UNKNOWN, -1},
                 {"1-", CLASS_UNKNOWN, -1},
                 {"- 1", CLASS_UNKNOWN, -1},
                 {"-n02099601", CLASS_UNKNOWN, -1},
                 {"", CLASS_UNKNOWN, -1},
                 {"-_ ", CLASS_UNKNOWN, -1},
                 {"red panda", CLASS_FOUND, 387}};
    struct classes *c = classes_create_imagenet();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct class_lookup found;
        enum class_match match = classes_find(c, cases[i].text, strlen(cases[i].text), &found);
        ck_assert_msg(match == cases[i].match && found.index == cases[i].index, "\"%s\"",
                      cases[i].text);
    }
    int results[5];
    ck_assert_int_eq(classes_search(c, "golden ret", 10, results, 5), 1);
    ck_assert_int_eq(results[0], 207);
    ck_assert_int_eq(classes_search(c, "", 0, results, 5), 5);
    ck_assert_int_eq(classes_search(c, "n0209960", 8, results, 5), 1);
    classes_destroy(c);
}
END_TEST

static const char *two_names(void *user, int index)
{
    (void)user;
    return index == 0 ? "cat, house cat" : NULL;
}

START_TEST(test_classes_named)
{
    struct classes *c = classes_create_named(2, two_names, NULL);
    struct class_lookup found;
    ck_assert_int_eq(classes_find(c, "House_Cat", 9, &found), CLASS_FOUND);
    ck_assert_int_eq(found.index, 0);
    ck_assert_str_eq(classes_get(c, 1)->name, "class 1");
    ck_assert_int_eq(classes_find(c, "2", 1, &found), CLASS_UNKNOWN);
    classes_destroy(c);
}
END_TEST

START_TEST(test_json_strings)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"a\"\\\n\x01", "\"a\\\"\\\\\\n\\u0001\""},
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""},
        {"\xff\xc0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buffer b;
        struct json_writer w;
        buffer_init(&b, 1000);
        json_init(&w, &b);
        json_string(&w, cases[i].in);
        buffer_append(&b, "", 1);
        ck_assert_str_eq(b.data, cases[i].out);
        buffer_free(&b);
    }
}
END_TEST

START_TEST(test_json_values)
{
    struct buffer b;
    struct json_writer w;
    buffer_init(&b, 1000);
    json_init(&w, &b);
    json_object_begin(&w);
    json_key(&w, "a");
    json_array_begin(&w);
    json_float(&w, 0.42f);
    json_float(&w, 8);
    json_float(&w, INFINITY);
    json_int(&w, INT64_MIN);
    json_u64(&w, UINT64_MAX);
    json_bool(&w, true);
    json_array_end(&w);
    json_key(&w, "b");
    json_null(&w);
    json_object_end(&w);
    buffer_append(&b, "", 1);
    ck_assert_str_eq(b.data, "{\"a\":[0.42,8,null,-9223372036854775808,18446744073709551615,true],"
                             "\"b\":null}");
    buffer_free(&b);
}
END_TEST

START_TEST(test_buffer_maximum)
{
    struct buffer b;
    buffer_init(&b, 10);
    buffer_append_text(&b, "");
    ck_assert(!b.failed && b.size == 0);
    ck_assert_ptr_nonnull(buffer_reserve(&b, 0));
    buffer_append(&b, "12345678", 8);
    ck_assert(!b.failed);
    buffer_append(&b, "abc", 3);
    ck_assert(b.failed);
    ck_assert_uint_eq(b.size, 8);
    ck_assert_ptr_null(buffer_reserve(&b, SIZE_MAX));
    buffer_free(&b);
}
END_TEST

START_TEST(test_base64)
{
    static const struct {
        const char *in, *out;
    } cases[] = {{"", ""},
                 {"f", "Zg=="},
                 {"fo", "Zm8="},
                 {"foo", "Zm9v"},
                 {"foob", "Zm9vYg=="},
                 {"fooba", "Zm9vYmE="},
                 {"foobar", "Zm9vYmFy"}};
    char out[16];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t n = strlen(cases[i].in);
        size_t written = base64_encode(out, (const uint8_t *)cases[i].in, n);
        ck_assert_uint_eq(written, base64_length(n));
        out[written] = '\0';
        ck_assert_str_eq(out, cases[i].out);
    }
}
END_TEST

START_TEST(test_accept)
{
    static const struct {
        const char *accept, *type;
        double quality;
        int specificity;
    } cases[] = {{NULL, "image/png", 1, 0},
                 {"", "image/png", 1, 0},
                 {"image/png", "image/png", 1, 2},
                 {"image/*;q=0.25", "image/png", 0.25, 1},
                 {"*/*;q=0.1, image/png;q=0.9", "image/png", 0.9, 2},
                 {"image/png;q=0, */*", "image/png", 0, 2},
                 {"image/png;level=1;q=0.5", "image/png", 0.5, 2},
                 {"image/pngx, image/pn", "image/png", 0, 0},
                 {",,, image/png ;q=7", "image/png", 0, 2}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int specificity;
        double q = accept_quality(cases[i].accept, cases[i].type, &specificity);
        ck_assert_msg(fabs(q - cases[i].quality) < 1e-9 && specificity == cases[i].specificity,
                      "case %zu: %g, %d", i, q, specificity);
    }
}
END_TEST

START_TEST(test_accept_encoding)
{
    static const struct {
        const char *accept;
        bool accepted;
    } cases[] = {{NULL, false},
                 {"", false},
                 {"gzip", true},
                 {"br, GZIP ;q=0.5", true},
                 {"gzip;q=0, *", false},
                 {"*, gzip;q=0", false},
                 {"*", true},
                 {"*;q=0.0", false},
                 {"gzipx, xgzip", false},
                 {",,deflate", false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        ck_assert_msg(encoding_accepted(cases[i].accept, "gzip") == cases[i].accepted, "%zu", i);
}
END_TEST

START_TEST(test_texts)
{
    char text[8];
    ck_assert(percent_decode(text, sizeof(text), "a%20b+c", 7, false));
    ck_assert_str_eq(text, "a b+c");
    ck_assert(percent_decode(text, sizeof(text), "a+b", 3, true));
    ck_assert_str_eq(text, "a b");
    static const char *const bad[] = {"%", "%2", "%zz", "%00", "%0a", "12345678"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_msg(!percent_decode(text, sizeof(text), bad[i], strlen(bad[i]), false), "%s",
                      bad[i]);
    ck_assert(etag_matches("\"a\", W/\"b\"", "\"b\""));
    ck_assert(etag_matches("*", "\"b\""));
    ck_assert(!etag_matches("\"a", "\"b\""));
    ck_assert(!etag_matches("b", "\"b\""));
    ck_assert(request_id_valid("A-1._:+/=@"));
    ck_assert(!request_id_valid("") && !request_id_valid("a b") && !request_id_valid("a\n"));
    struct query_pair pair;
    const char *query = "&a=1&&b&c=%41+x";
    ck_assert_int_eq(query_next(&query, &pair), 1);
    ck_assert_str_eq(pair.key, "a");
    ck_assert_int_eq(query_next(&query, &pair), 1);
    ck_assert_str_eq(pair.value, "");
    ck_assert_int_eq(query_next(&query, &pair), 1);
    ck_assert_str_eq(pair.value, "A x");
    ck_assert_int_eq(query_next(&query, &pair), 0);
}
END_TEST

START_TEST(test_keys)
{
    struct keys *k = NULL;
    struct imf_error err;
    static const char text[] = "# comment\n\n a  secret-one\r\nb secret-two";
    ck_assert_int_eq(keys_parse(&k, text, sizeof(text) - 1, "f", &err), IMF_OK);
    ck_assert_int_eq(keys_count(k), 2);
    ck_assert_str_eq(keys_check(k, "Bearer secret-one"), "a");
    ck_assert_str_eq(keys_check(k, "bearer  secret-two"), "b");
    static const char *const wrong[] = {NULL,
                                        "",
                                        "Bearer",
                                        "Bearer ",
                                        "Bearer secret-on",
                                        "Bearer secret-onex",
                                        "Basic secret-one",
                                        "secret-one"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_ptr_null(keys_check(k, wrong[i]));
    keys_free(k);
    static const char *const bad[] = {"", "a", "a short", "a secret-one extra",
                                      "# only a comment\n"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ck_assert_int_ne(keys_parse(&k, bad[i], strlen(bad[i]), "f", &err), IMF_OK);
        ck_assert_ptr_null(strstr(err.message, "secret"));
    }
}
END_TEST

START_TEST(test_proxy)
{
    struct proxy_trust *t = NULL;
    struct imf_error err;
    char *items[] = {(char *)"10.0.0.0/9", (char *)"2001:db8::/33", (char *)"::1"};
    char client[PROXY_ADDRESS_SIZE];
    ck_assert_int_eq(proxy_trust_create(&t, items, 3, &err), IMF_OK);
    ck_assert(proxy_trusted(t, "10.127.0.1") && !proxy_trusted(t, "10.128.0.1"));
    ck_assert(proxy_trusted(t, "2001:db8::5") && !proxy_trusted(t, "2001:db8:8000::5"));
    ck_assert(proxy_trusted(t, "::1") && !proxy_trusted(t, "::2") && !proxy_trusted(t, "unix"));
    ck_assert(proxy_trusted(t, "::ffff:10.0.0.1"));
    proxy_client(t, "9.9.9.9", "1.1.1.1", client);
    ck_assert_str_eq(client, "9.9.9.9");
    proxy_client(t, "10.0.0.1", "6.6.6.6, 1.1.1.1 ,10.0.0.2", client);
    ck_assert_str_eq(client, "1.1.1.1");
    proxy_trust_destroy(t);
    static const char *const bad[] = {"10.0.0.0/33", "x", "::/129", "10.0.0.0/", "10.0.0.0/-1", ""};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char *item = (char *)bad[i];
        ck_assert_int_ne(proxy_trust_create(&t, &item, 1, &err), IMF_OK);
    }
}
END_TEST

START_TEST(test_rate)
{
    struct rate_limit *r = rate_limit_create(60);
    uint64_t retry = 0;
    ck_assert(rate_limit_take(r, "a", 60, 1000, &retry));
    ck_assert(!rate_limit_take(r, "a", 1, 1000, &retry));
    ck_assert(retry >= 1000 && retry <= 1002);
    ck_assert(rate_limit_take(r, "b", 60, 1000, &retry));
    ck_assert(rate_limit_take(r, "a", 1, 1000 + retry, &retry));
    ck_assert(
        rate_limit_take(r, "c", 500, 1000, &retry)); /* more than a bucket: a full one will do */
    ck_assert(!rate_limit_take(r, "c", 500, 2000, &retry));
    rate_limit_return(r, "a", 5, 2000);
    ck_assert(rate_limit_take(r, "a", 5, 2000, &retry));
    rate_limit_destroy(r);
}
END_TEST

START_TEST(test_counts)
{
    struct client_count *c = NULL;
    char name[32];
    /* Against a plain array, through removals. */
    int model[60] = {0};
    unsigned state = 1;
    for (int i = 0; i < 20000; i++) {
        state = state * 1103515245 + 12345;
        int who = (int)(state >> 16) % 60;
        snprintf(name, sizeof(name), "client %d", who);
        if (state >> 30 != 0) {
            bool added = client_counts_add(&c, name, 3) == CLIENT_COUNTED;
            ck_assert_int_eq(added, model[who] < 3);
            model[who] += added;
        } else if (model[who] > 0) {
            client_counts_remove(&c, name);
            model[who]--;
        }
    }
    for (int who = 0; who < 60; who++) {
        snprintf(name, sizeof(name), "client %d", who);
        while (model[who]-- > 0)
            client_counts_remove(&c, name);
    }
    ck_assert_ptr_null(c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("server text");
    TCase *tc = tcase_create("text");
    tcase_add_test(tc, test_classes_known);
    tcase_add_test(tc, test_classes_find);
    tcase_add_test(tc, test_classes_named);
    tcase_add_test(tc, test_json_strings);
    tcase_add_test(tc, test_json_values);
    tcase_add_test(tc, test_buffer_maximum);
    tcase_add_test(tc, test_base64);
    tcase_add_test(tc, test_accept);
    tcase_add_test(tc, test_accept_encoding);
    tcase_add_test(tc, test_texts);
    tcase_add_test(tc, test_keys);
    tcase_add_test(tc, test_proxy);
    tcase_add_test(tc, test_rate);
    tcase_add_test(tc, test_counts);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
