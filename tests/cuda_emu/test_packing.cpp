/* Where a convolution's weights lie, as kernels.h says and conv_sm90.cu's tensor map reads them. */
#include "test_emu.h"
#include "kernels.h"

static int permuted(int o)
{
    const int t = o % 32 / 8,
              pair = o % 8 / 2; /* channels 8 t + 2 pair + e are rows 8 pair + 2 t + e */
    return o / 32 * 32 + 8 * pair + 2 * t + o % 2;
}

static void check_sm90(enum k_conv_path path, int in, int out, int k, int parities)
{
    struct k_conv c = {};
    c.in = in, c.out = out, c.kh = c.kw = k, c.upsample2x = parities > 1;
    const int taps = parities > 1 ? 4 : k * k, chunks = (in + 63) / 64,
              rows = (out + 127) / 128 * 128;
    const size_t count = k_conv_weight_count(path, &c);
    ck_assert_uint_eq(count, static_cast<size_t>(rows) * parities * chunks * taps * 64);
    ck_assert_int_eq(k_conv_weight_taps(path, &c), parities * taps);
    for (int o = 0; o < out; o++)
        for (int i = 0; i < in; i++)
            for (int t = 0; t < parities * taps; t++) {
                size_t at = static_cast<size_t>(permuted(o)) * parities + t / taps;
                at = (at * chunks + i / 64) * taps + t % taps;
                ck_assert_uint_eq(k_conv_weight_index(path, &c, o, i, t), at * 64 + i % 64);
            }
}

START_TEST(sm90)
{
    check_sm90(K_CONV_SM90, 200, 136, 3, 1);
    check_sm90(K_CONV_SM90, 72, 65, 1, 1);
    check_sm90(K_CONV_SM90_UP, 130, 128, 3, 4);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("packing");
    TCase *c = tcase_create("convolutions");
    tcase_add_test(c, sm90);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
