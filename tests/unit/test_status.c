/* Status codes: every one has its own name and sentence. */
#include "imf.h"
#include "run_suite.h"

#include <check.h>

START_TEST(test_names)
{
    ck_assert_str_eq(imf_status_name(IMF_OK), "IMF_OK");
    ck_assert_str_eq(imf_status_name(IMF_EDEVICE), "IMF_EDEVICE");
    for (int i = IMF_OK; i <= IMF_EDEVICE; i++) {
        for (int j = IMF_OK; j < i; j++) {
            ck_assert_str_ne(imf_status_sentence((imf_status)i),
                             imf_status_sentence((imf_status)j));
        }
    }
}
END_TEST

START_TEST(test_precision)
{
    enum imf_precision p = IMF_PRECISION_AUTO;
    ck_assert(imf_precision_parse(&p, "bf16"));
    ck_assert_int_eq(p, IMF_PRECISION_BF16);
    ck_assert(!imf_precision_parse(&p, "int8"));
    ck_assert_int_eq(p, IMF_PRECISION_BF16);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("status");
    TCase *tc = tcase_create("status");
    tcase_add_test(tc, test_names);
    tcase_add_test(tc, test_precision);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
