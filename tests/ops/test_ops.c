/* Runs the table of operation cases on one device.
 *
 *   test_ops DEVICE PRECISION [OPERATION [CASE]]   e.g. test_ops cpu bf16 conv2d, or conv2d 3
 *
 * DEVICE is "plain" (the oracle itself) or what imf_engine_create takes. Prints one line a failure
 * (operation, shape, seed, values) and a summary; exits with 1 when a case failed, 77 where the
 * device has not this precision. */
#include "reference/reference.h"
#ifdef IMF_HAVE_ENGINE
#include "core/engine.h"
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SKIPPED = 77 };

/* All cases, or those of the operation `only`, or its `number`-th (from 1) when that is not 0. */
static int run_cases(struct imf__device *d, const char *only, size_t number)
{
    size_t ran = 0, failed = 0, seen = 0;
    for (size_t i = 0; i < imf__op_case_count(); i++) {
        struct imf__op_report report;
        if (only && strcmp(only, imf__op_case_name(i)) != 0)
            continue;
        if (++seen != number && number)
            continue;
        imf__op_check(d, i, &report);
        ran++;
        if (!report.passed) {
            failed++;
            printf("FAILED %s(%s): %s\n", report.op, report.shape, report.message);
        } else if (report.declined) {
            printf("declined %s(%s)\n", report.op, report.shape);
        } else if (only) {
            printf("ok %s(%s): error %.2g of %.2g, worst %.2g of %.2g\n", report.op, report.shape,
                   report.error, report.bound, report.worst, report.worst_bound);
        }
    }
    printf("%s %s: %zu of %zu cases failed\n", d->info.device, imf_precision_name(d->precision),
           failed, ran);
    return ran == 0 || failed ? 1 : 0;
}

static int run_plain(enum imf_precision precision, const char *only, size_t number)
{
    struct imf__device *d = NULL;
    if (imf__plain_device_create(&d, precision, NULL) != IMF_OK)
        return 1;
    int result = run_cases(d, only, number);
    d->ops->destroy(d);
    return result;
}

#ifdef IMF_HAVE_ENGINE
static int run_engine(const char *device, enum imf_precision precision, const char *only,
                      size_t number)
{
    struct imf_engine *e = NULL;
    struct imf_engine_params p;
    struct imf_error err;
    imf_engine_params_init(&p);
    p.device = device;
    p.precision = precision;
    imf_status status = imf_engine_create(&e, &p, &err);
    if (status != IMF_OK) {
        printf("%s: %s\n", device, err.message);
        return status == IMF_EUNSUPPORTED ? SKIPPED : 1;
    }
    int result = run_cases(imf__engine_device(e), only, number);
    imf_engine_destroy(e);
    return result;
}
#endif

int main(int argc, char **argv)
{
    enum imf_precision precision;
    if (argc < 3 || argc > 5 || !imf_precision_parse(&precision, argv[2])) {
        fprintf(stderr, "usage: test_ops DEVICE fp32|bf16 [OPERATION [CASE]]\n");
        return 2;
    }
    const char *only = argc > 3 ? argv[3] : NULL;
    const size_t number = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;
    if (strcmp(argv[1], "plain") == 0)
        return run_plain(precision, only, number);
#ifdef IMF_HAVE_ENGINE
    return run_engine(argv[1], precision, only, number);
#else
    return 1;
#endif
}
