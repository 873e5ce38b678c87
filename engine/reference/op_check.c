/* Judging one case: values against the plain device, bits against other batches. */
#include "reference/op_run.h"
#include "common/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* float32: sums of K products, each rounded to nearest, stay within about sqrt(K) x 2^-24 of the exact
 * value relative to the whole result, in any order: 2e-6 at K = 1024, 4e-6 at 4608, the largest here;
 * Winograd within 1e-6 more. A wrong, missing or misplaced element gives 1e-3 or more in results of
 * this size, and so does TF32. Tensor cores truncate where they add, so that their errors have one
 * sign and grow with K / 16 instead: up to 8e-6 at K = 1024, 2e-5 at 2736, too much for this bound.
 * They sum bfloat16 products only (cuBLASLt may use nothing narrower than asked, and float32 is
 * computed by FFMA), whose bound below is the rounding of the inputs: 1e-3 and more. */
#define FP32_ERROR 1e-5
/* A single element may be off by more, relative to the largest of all. */
#define FP32_WORST 1e-4
/* bfloat16: at most twice the error of a plain bfloat16 version, both against float32 from the
 * same inputs (flash-attention's rule); one element at most three times the worst. */
#define BF16_ERROR_FACTOR 2
#define BF16_WORST_FACTOR 3
/* 8-bit levels: another order of summation may push a value over a rounding edge, which may happen
 * to one in a hundred, by one level. */
#define LEVELS_SHARE 0.01

/* The samples compared with the plain device, then batches in which they appear elsewhere. */
static const uint64_t seeds_of_3[] = {1, 2, 3};
static const uint64_t seeds_of_1[] = {2};
static const uint64_t seeds_of_8[] = {31, 3, 32, 33, 34, 1, 35, 2};
static const struct {
    const uint64_t *seeds;
    int B;
} other_batches[] = {{seeds_of_1, 1}, {seeds_of_8, 8}};

static const struct imf__op_case *find(size_t i)
{
    for (const struct imf__op_case *c = imf__op_token_cases; c->op; c++) {
        if (i-- == 0)
            return c;
    }
    return &imf__op_image_cases[i];
}

size_t imf__op_case_count(void)
{
    size_t n = 0;
    for (const struct imf__op_case *c = imf__op_token_cases; c->op; c++)
        n++;
    for (const struct imf__op_case *c = imf__op_image_cases; c->op; c++)
        n++;
    return n;
}

const char *imf__op_case_name(size_t i)
{
    return find(i)->op->name;
}

/* "rows=276 N=384 ..." */
static void describe(char *dst, size_t size, const struct imf__op_case *c)
{
    size_t used = 0;
    const char *name = c->op->params;
    for (int i = 0; *name && used < size; i++) {
        int len = (int)strcspn(name, " ");
        int n = snprintf(dst + used, size - used, "%s%.*s=%d", i ? " " : "", len, name, c->p[i]);
        used += n > 0 ? (size_t)n : 0;
        name += len + (name[len] == ' ');
    }
}

static imf_status run(struct imf__op_run *r, struct imf__device *d, const struct imf__op_case *c,
                      const uint64_t *seeds, int B)
{
    *r = (struct imf__op_run){.d = d, .seeds = seeds, .B = B};
    return imf__op_run(r, c);
}

static imf_status run_plain(struct imf__op_run *r, enum imf_precision precision,
                            const struct imf__op_case *c)
{
    struct imf__device *plain = NULL;
    *r = (struct imf__op_run){.B = 0};
    IMF_TRY(imf__plain_device_create(&plain, precision, NULL));
    imf_status status = run(r, plain, c, seeds_of_3, 3);
    plain->ops->destroy(plain);
    r->d = NULL;
    return status;
}

/* Errors of a against the truth b. A NaN counts as infinitely wrong. */
struct errors {
    double relative;  /* sqrt(sum (a - b)^2 / sum b^2) */
    double worst;     /* max |a - b| */
    double largest;   /* max |b| */
    double differing; /* share of elements that differ at all */
    size_t at;
};

static struct errors compare(const float *a, const float *b, size_t n)
{
    struct errors e = {0};
    double squares = 0, sum = 0;
    size_t differing = 0;
    for (size_t i = 0; i < n; i++) {
        double diff = isfinite(a[i]) ? fabs((double)a[i] - b[i]) : INFINITY;
        squares += diff * diff;
        sum += (double)b[i] * b[i];
        differing += diff != 0;
        e.largest = fmax(e.largest, fabs((double)b[i]));
        if (diff > e.worst) {
            e.worst = diff;
            e.at = i;
        }
    }
    e.relative = squares == 0 ? 0 : sum > 0 ? sqrt(squares / sum) : INFINITY;
    e.differing = n ? (double)differing / (double)n : 0;
    return e;
}

/* Fills the report's errors and bounds; the message when they do not agree. */
static void judge(struct imf__op_report *report, const struct imf__op_case *c,
                  const struct imf__op_run *got, const struct imf__op_run *truth,
                  const struct imf__op_run *plain)
{
    struct errors e = compare(got->result, truth->result, truth->count);
    report->error = e.relative;
    report->worst = e.worst;
    if (c->op->levels) {
        e = compare(got->result, plain->result, plain->count);
        report->error = e.differing;
        report->worst = e.worst;
        report->bound = LEVELS_SHARE;
        report->worst_bound = 1;
    } else {
        report->bound = FP32_ERROR;
        report->worst_bound = FP32_WORST * e.largest;
        if (plain != truth) {
            struct errors p = compare(plain->result, truth->result, truth->count);
            report->bound = fmax(report->bound, BF16_ERROR_FACTOR * p.relative);
            report->worst_bound = fmax(report->worst_bound, BF16_WORST_FACTOR * p.worst);
        }
    }
    if (report->error <= report->bound && report->worst <= report->worst_bound)
        return;
    size_t per_sample = truth->count / 3;
    snprintf(report->message, sizeof(report->message),
             "seed %d, element %zu of %zu: got %.9g, plain %.9g, truth %.9g; error %.3g (bound "
             "%.3g), worst %.3g (bound %.3g)",
             (int)seeds_of_3[e.at / per_sample], e.at % per_sample, per_sample,
             (double)got->result[e.at], (double)plain->result[e.at], (double)truth->result[e.at],
             report->error, report->bound, report->worst, report->worst_bound);
}

/* Every sample of `base` (a batch of three) that appears in `other` must have the same bits. */
static void check_invariance(struct imf__op_report *report, const struct imf__op_run *base,
                             const struct imf__op_run *other)
{
    size_t n = base->count / (size_t)base->B;
    for (int i = 0; i < base->B; i++) {
        for (int j = 0; j < other->B; j++) {
            const float *a = base->result + (size_t)i * n, *b = other->result + (size_t)j * n;
            if (base->seeds[i] != other->seeds[j] || memcmp(a, b, n * sizeof(float)) == 0)
                continue;
            size_t at = 0;
            /* Bits, not values. NOLINTNEXTLINE(bugprone-suspicious-memory-comparison) */
            while (memcmp(a + at, b + at, sizeof(*a)) == 0)
                at++;
            snprintf(report->message, sizeof(report->message),
                     "depends on the batch: seed %d, element %zu: %.9g in slot %d of %d, %.9g in "
                     "slot %d of %d",
                     (int)base->seeds[i], at, (double)a[at], i, base->B, (double)b[at], j,
                     other->B);
            return;
        }
    }
}

static void device_failed(struct imf__op_report *report, struct imf__device *d, imf_status status,
                          int B)
{
    report->status = status;
    snprintf(report->message, sizeof(report->message), "%s at batch %d%s%s",
             imf_status_sentence(status), B, d->error[0] ? ": " : "", d->error);
}

void imf__op_check(struct imf__device *d, size_t i, struct imf__op_report *report)
{
    const struct imf__op_case *c = find(i);
    struct imf__op_run truth = {0}, plain_bf16 = {0}, got = {0}, other = {0};
    *report = (struct imf__op_report){.op = c->op->name};
    describe(report->shape, sizeof(report->shape), c);

    bool bf16 = d->precision == IMF_PRECISION_BF16;
    imf_status status = run_plain(&truth, IMF_PRECISION_FP32, c);
    if (status == IMF_OK && bf16)
        status = run_plain(&plain_bf16, IMF_PRECISION_BF16, c);
    if (status != IMF_OK) {
        report->status = status;
        snprintf(report->message, sizeof(report->message), "the plain device: %s",
                 imf_status_sentence(status));
        goto out;
    }
    status = run(&got, d, c, seeds_of_3, 3);
    if (status == IMF_EUNSUPPORTED && c->rare) {
        report->passed = report->declined = true;
        goto out;
    }
    if (status != IMF_OK) {
        device_failed(report, d, status, 3);
        goto out;
    }
    judge(report, c, &got, &truth, bf16 ? &plain_bf16 : &truth);
    for (size_t k = 0; k < sizeof(other_batches) / sizeof(other_batches[0]); k++) {
        if (report->message[0])
            goto out;
        status = run(&other, d, c, other_batches[k].seeds, other_batches[k].B);
        if (status != IMF_OK) {
            device_failed(report, d, status, other_batches[k].B);
            goto out;
        }
        check_invariance(report, &got, &other);
        if (other.complaint)
            got.complaint = other.complaint;
        free(other.result);
        other.result = NULL;
    }
    if (got.complaint && !report->message[0])
        snprintf(report->message, sizeof(report->message), "%s", got.complaint);
    report->passed = report->message[0] == '\0';
out:
    free(truth.result);
    free(plain_bf16.result);
    free(got.result);
    free(other.result);
}
