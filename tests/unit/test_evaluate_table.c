/* Which row of the release's table a finished evaluation belongs to: the one whose every setting it
 * has. */
#include "evaluate/report.h"

#include "run_suite.h"

#include <stdio.h>
#include <stdlib.h>

static const char b2[] =
    "{\"fid\": 3.3, \"inception_score\": {\"mean\": 255.1, \"std\": 2}, \"images\": 50000,"
    " \"inception\": {\"narrow\": 1}, \"settings\": {\"model\": \"MiT_B_2\", \"decoder\": "
    "\"sd-vae\","
    " \"steps\": 1, \"omega\": 8, \"t_min\": 0.4, \"t_max\": 0.65, \"noise_scale\": 1, "
    "\"sample_seed\": \"42\"}}";

static cJSON *settings_of(cJSON *results)
{
    return cJSON_GetObjectItemCaseSensitive(results, "settings");
}

START_TEST(test_row)
{
    struct eval_measured rows[EVAL_PUBLISHED];
    cJSON *results = cJSON_Parse(b2);
    ck_assert(eval_measured_beside(rows, results));
    for (int i = 0; i < EVAL_PUBLISHED; i++)
        ck_assert_int_eq(rows[i].there, i == 0);
    ck_assert_double_eq_tol(rows[0].fid, 3.3, 1e-12);
    ck_assert_double_eq_tol(rows[0].is, 255.1, 1e-12);
    cJSON_Delete(results);
}
END_TEST

/* XL has two rows, told apart by steps and guidance. */
START_TEST(test_two_steps)
{
    struct eval_measured rows[EVAL_PUBLISHED];
    cJSON *results = cJSON_Parse(b2), *s = settings_of(results);
    cJSON_ReplaceItemInObject(s, "model", cJSON_CreateString("MiT_XL_2"));
    cJSON_ReplaceItemInObject(s, "steps", cJSON_CreateNumber(2));
    cJSON_ReplaceItemInObject(s, "omega", cJSON_CreateNumber(4));
    cJSON_ReplaceItemInObject(s, "t_min", cJSON_CreateNumber(0.36));
    cJSON_ReplaceItemInObject(s, "t_max", cJSON_CreateNumber(0.64));
    ck_assert(eval_measured_beside(rows, results));
    for (int i = 0; i < EVAL_PUBLISHED; i++)
        ck_assert_int_eq(rows[i].there, i == 4);
    cJSON_Delete(results);
}
END_TEST

/* pMF has rows of its own, without a decoder, at noise scales of its own. */
START_TEST(test_pmf)
{
    struct eval_measured rows[EVAL_PUBLISHED];
    cJSON *results = cJSON_Parse(b2), *s = settings_of(results);
    cJSON_ReplaceItemInObject(s, "model", cJSON_CreateString("pmfDiT_H_32"));
    cJSON_ReplaceItemInObject(s, "decoder", cJSON_CreateString("none"));
    cJSON_ReplaceItemInObject(s, "omega", cJSON_CreateNumber(5.5));
    cJSON_ReplaceItemInObject(s, "t_min", cJSON_CreateNumber(0.1));
    cJSON_ReplaceItemInObject(s, "t_max", cJSON_CreateNumber(0.6));
    ck_assert(!eval_measured_beside(rows, results));
    cJSON_ReplaceItemInObject(s, "noise_scale", cJSON_CreateNumber(4));
    ck_assert(eval_measured_beside(rows, results));
    for (int i = 0; i < EVAL_PUBLISHED; i++)
        ck_assert_int_eq(rows[i].there, i == EVAL_PUBLISHED - 1);
    cJSON_Delete(results);
}
END_TEST

/* Any other setting: measured, but nothing to compare. */
START_TEST(test_not_comparable)
{
    static const struct {
        const char *object, *name, *text; /* object: NULL for the results themselves */
        double number;
    } changes[] = {
        {"settings", "model", "MiT_d2_h64", 0}, {"settings", "decoder", "taesd", 0},
        {"settings", "steps", NULL, 2},         {"settings", "omega", NULL, 7.5},
        {"settings", "t_min", NULL, 0.41},      {"settings", "t_max", NULL, 0.6},
        {"settings", "noise_scale", NULL, 2},   {"settings", "sample_seed", "7", 0},
        {"inception", "narrow", NULL, 16},      {NULL, "images", NULL, 49000},
    };
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        struct eval_measured rows[EVAL_PUBLISHED];
        cJSON *results = cJSON_Parse(b2);
        cJSON *in = changes[i].object ? cJSON_GetObjectItemCaseSensitive(results, changes[i].object)
                                      : results;
        cJSON_ReplaceItemInObject(in, changes[i].name,
                                  changes[i].text ? cJSON_CreateString(changes[i].text)
                                                  : cJSON_CreateNumber(changes[i].number));
        struct eval_measured m = eval_measured_of(results, &eval_published[0]);
        ck_assert_msg(m.there && !m.comparable, "%s", changes[i].name);
        ck_assert_msg(!eval_measured_beside(rows, results), "%s", changes[i].name);
        cJSON_Delete(results);
    }
}
END_TEST

START_TEST(test_without_fid)
{
    cJSON *results = cJSON_Parse(b2);
    cJSON_DeleteItemFromObject(results, "fid");
    ck_assert(!eval_measured_of(results, &eval_published[0]).there);
    ck_assert(!eval_measured_of(NULL, &eval_published[0]).there);
    cJSON_Delete(results);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("evaluate_table");
    TCase *tc = tcase_create("evaluate_table");
    tcase_add_test(tc, test_row);
    tcase_add_test(tc, test_two_steps);
    tcase_add_test(tc, test_pmf);
    tcase_add_test(tc, test_not_comparable);
    tcase_add_test(tc, test_without_fid);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
