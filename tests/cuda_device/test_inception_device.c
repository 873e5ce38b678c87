/* InceptionV3 whole on the CUDA device: features and logits of one picture against
 * torch-fidelity's, in float32 (the evaluator's choice) and bfloat16; a replayed graph gives the
 * bits of the eager pass. */
#include "../golden/golden.h"
#include "imf_metrics.h"

#include <stdio.h>
#include <string.h>

enum { SIDE = 256 };

static void check_precision(enum imf_precision precision, double bound)
{
    struct imf_engine *e = golden_engine(precision);
    struct imf_inception *net = NULL;
    struct imf_error err = {0};
    static float features[IMF_FEATURES], again[IMF_FEATURES], logits[IMF_LOGITS];
    imf_status status = imf_inception_load(&net, e, INCEPTION_WEIGHTS, 1, &err);
    ck_assert_msg(status == IMF_OK, "%s", err.message);
    uint8_t *rgb = golden_read_bytes("inception/images_u8_nhwc.npy", 3 * SIDE * SIDE * 3);
    struct golden want = golden_read("inception/features_2048.npy");
    struct golden want_logits = golden_read("inception/logits_unbiased.npy");
    status = imf_inception_run(net, rgb, 1, SIDE, SIDE, features, logits, NULL);
    ck_assert_msg(status == IMF_OK, "%s", imf_engine_error(e));
    double error = golden_relative_l2(features, want.values, IMF_FEATURES);
    double logit_error = golden_relative_l2(logits, want_logits.values, IMF_LOGITS);
    printf("InceptionV3 in %s: features %.2e, logits %.2e of %.0e\n", imf_precision_name(precision),
           error, logit_error, bound);
    ck_assert_double_le(error, bound);
    ck_assert_double_le(logit_error, bound);
    ck_assert_int_eq(imf_inception_run(net, rgb, 1, SIDE, SIDE, again, NULL, NULL), IMF_OK);
    ck_assert_mem_eq(again, features, sizeof(features));
    free(want.values);
    free(want_logits.values);
    free(rgb);
    imf_inception_destroy(net);
    imf_engine_destroy(e);
}

START_TEST(test_bf16)
{
    check_precision(IMF_PRECISION_BF16, 2e-2);
}
END_TEST

START_TEST(test_fp32)
{
    check_precision(IMF_PRECISION_FP32, 1e-4);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("inception_device");
    TCase *tc = tcase_create("inception_device");
    tcase_set_timeout(tc, 900);
    tcase_add_test(tc, test_bf16);
    tcase_add_test(tc, test_fp32);
    suite_add_tcase(s, tc);
    return golden_main(s);
}
