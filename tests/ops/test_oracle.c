/* The oracle and its judge: the plain device agrees with itself, and devices with typical bugs are
 * caught. Without this, "every case passed" could mean that nothing was compared. */
#include "reference/reference.h"
#include "run_suite.h"

#include <check.h>
#include <string.h>

static struct imf__device *plain(enum imf_precision precision, struct imf__device_ops *ops)
{
    struct imf__device *d = NULL;
    ck_assert_int_eq(imf__plain_device_create(&d, precision, NULL), IMF_OK);
    *ops = *d->ops;
    d->ops = ops; /* so that a test can replace entries */
    return d;
}

/* Cases of `op` that fail on d. */
static int failures(struct imf__device *d, const char *op)
{
    int failed = 0, ran = 0;
    for (size_t i = 0; i < imf__op_case_count(); i++) {
        struct imf__op_report report;
        if (strcmp(imf__op_case_name(i), op) != 0)
            continue;
        imf__op_check(d, i, &report);
        ck_assert_msg(report.passed == (report.message[0] == '\0'), "%s", report.message);
        failed += !report.passed;
        ran++;
    }
    ck_assert_int_gt(ran, 0);
    return failed;
}

static const char *const quick_ops[] = {
    "rms_norm", "scalar_embed", "patchify",       "assemble",         "euler",
    "pool2d",   "concat",       "image_tokens",   "global_mean",      "image_from_latent",
    "to_rgb8",  "resize_rgb8",  "conv2d+to_rgb8", "attention_single", "attention_picture",
};

START_TEST(test_agrees_with_itself)
{
    struct imf__device_ops ops;
    for (int precision = IMF_PRECISION_FP32; precision <= IMF_PRECISION_BF16; precision++) {
        struct imf__device *d = plain((enum imf_precision)precision, &ops);
        ck_assert_int_eq(failures(d, quick_ops[_i]), 0);
        d->ops->destroy(d);
    }
}
END_TEST

/* ---- Devices with bugs ---- */

static const struct imf__device_ops *original(void)
{
    static struct imf__device_ops ops;
    struct imf__device *d = plain(IMF_PRECISION_FP32, &ops);
    d->ops->destroy(d);
    return &ops;
}

static imf_status rms_norm_wrong_eps(struct imf__device *d, void *dst, enum imf__dtype type,
                                     const float *src, const float *weight, int B, int T, int t0,
                                     int C, float eps)
{
    return original()->rms_norm(d, dst, type, src, weight, B, T, t0, C, eps + 1e-3f);
}

/* One last-bit change in a sample of a large batch. */
static imf_status rms_norm_batch_dependent(struct imf__device *d, void *dst, enum imf__dtype type,
                                           const float *src, const float *weight, int B, int T,
                                           int t0, int C, float eps)
{
    imf_status status = original()->rms_norm(d, dst, type, src, weight, B, T, t0, C, eps);
    if (!d->dry && B == 8)
        ((uint8_t *)dst)[(size_t)5 * (size_t)(T - t0) * (size_t)C *
                         (type == IMF__ACT ? d->act_size : 4)] ^= 1;
    return status;
}

static imf_status concat_one_pixel_missing(struct imf__device *d, struct imf__image *dst,
                                           const struct imf__image *src, int c0)
{
    struct imf__image less = *src;
    if (c0 > 0)
        less.c--;
    return original()->concat(d, dst, &less, c0);
}

static imf_status euler_past_the_end(struct imf__device *d, float *z, const float *out,
                                     bool predicts_x, const float *dt, int B, int C, int S, int p)
{
    if (!d->dry)
        z[(size_t)B * (size_t)C * (size_t)S * (size_t)S] = 0;
    return original()->euler(d, z, out, predicts_x, dt, B, C, S, p);
}

static imf_status to_rgb8_ties_away(struct imf__device *d, uint8_t *rgb,
                                    const struct imf__image *src, float scale, float shift)
{
    return original()->to_rgb8(d, rgb, src, scale, shift + 1e-3f);
}

static imf_status pool2d_failing(struct imf__device *d, struct imf__image *dst,
                                 const struct imf__image *src, enum imf__pool kind, int k,
                                 int stride, int pad)
{
    if (src->n == 8)
        return IMF_EDEVICE;
    return original()->pool2d(d, dst, src, kind, k, stride, pad);
}

START_TEST(test_bugs_are_caught)
{
    struct imf__device_ops ops;
    struct imf__device *d = plain((enum imf_precision)_i, &ops);
    ops.rms_norm = rms_norm_batch_dependent;
    ck_assert_int_eq(failures(d, "rms_norm"), 7);
    ops.rms_norm = rms_norm_wrong_eps;
    if (_i == IMF_PRECISION_FP32) /* less than bfloat16's rounding */
        ck_assert_int_eq(failures(d, "rms_norm"), 7);
    ops.concat = concat_one_pixel_missing;
    ck_assert_int_eq(failures(d, "concat"), 3);
    ops.euler = euler_past_the_end;
    ck_assert_int_eq(failures(d, "euler"), 6);
    ops.to_rgb8 = to_rgb8_ties_away;
    ck_assert_int_ge(failures(d, "to_rgb8"), 1);
    ops.pool2d = pool2d_failing;
    ck_assert_int_eq(failures(d, "pool2d"), 4);
    d->ops->destroy(d);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("oracle");
    TCase *tc = tcase_create("oracle");
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_agrees_with_itself, 0,
                        (int)(sizeof(quick_ops) / sizeof(quick_ops[0])));
    tcase_add_loop_test(tc, test_bugs_are_caught, IMF_PRECISION_FP32, IMF_PRECISION_BF16 + 1);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
