/* bfloat16: every one of them survives the way to float32 and back, ties go to even, and what is not
 * a number stays so. */
#include "common/bfloat16.h"
#include "run_suite.h"

#include <check.h>
#include <math.h>

static float of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

START_TEST(test_round_trip)
{
    for (uint32_t h = 0; h <= 0xFFFF; h++) {
        float x = imf__from_bf16((uint16_t)h);
        if (isnan(x))
            ck_assert(isnan(imf__from_bf16(imf__to_bf16(x))));
        else
            ck_assert_uint_eq(imf__to_bf16(x), h);
    }
}
END_TEST

START_TEST(test_rounding)
{
    ck_assert_uint_eq(imf__to_bf16(of_bits(0x3F808000)), 0x3F80); /* a tie: down to even */
    ck_assert_uint_eq(imf__to_bf16(of_bits(0x3F818000)), 0x3F82); /* a tie: up to even */
    ck_assert_uint_eq(imf__to_bf16(of_bits(0x3F808001)), 0x3F81);
    ck_assert_uint_eq(imf__to_bf16(of_bits(0x7F7FFFFF)), 0x7F80); /* beyond the largest */
    /* Whose upper half alone would say infinity, and whose rounding would say minus zero. */
    ck_assert(isnan(imf__from_bf16(imf__to_bf16(of_bits(0x7F800001)))));
    ck_assert(isnan(imf__from_bf16(imf__to_bf16(of_bits(0x7FFFFFFF)))));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bfloat16");
    TCase *tc = tcase_create("bfloat16");
    tcase_add_test(tc, test_round_trip);
    tcase_add_test(tc, test_rounding);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
