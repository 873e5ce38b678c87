/* imfd selfcheck: is this machine computing what it should? Every operation of the device against
 * plain loops, then a small whole network against values of the public PyTorch implementation. For
 * the day a picture looks wrong, and for new processors, drivers and builds. */
#include "cli/common.h"
#include "cli/commands.h"
#include "core/engine.h"
#include "common/error.h"
#include "reference/reference.h"
#include "cli/selfcheck_full.h"
#include "cli/selfcheck_golden.h"
#include "cli/selfcheck_invariance.h"
#include "cli/selfcheck_sustained.h"
#include "cli/synthetic.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Relative L2 error of latents: what tests/golden asks. */
#define GOLDEN_BOUND_FP32 1e-4
#define GOLDEN_BOUND_BF16 2e-2

/* ---- Operations ---- */

/* One operation over all its cases. */
struct tally {
    const char *op;
    int cases, failed, declined;
    double fullest; /* the largest error as a share of its bound */
    char message[512];
};

static void count(struct tally *t, const struct imf__op_report *r)
{
    t->cases++;
    t->declined += r->declined;
    if (r->bound > 0)
        t->fullest = fmax(t->fullest, r->error / r->bound);
    if (r->worst_bound > 0)
        t->fullest = fmax(t->fullest, r->worst / r->worst_bound);
    if (r->passed)
        return;
    if (t->failed++ == 0)
        snprintf(t->message, sizeof(t->message), "%s: %.380s", r->shape, r->message);
}

static void print_tally(const struct tally *t)
{
    printf("  %-18s %3d  %7.1f %%  %s%s\n", t->op, t->cases, 100 * t->fullest,
           t->failed ? "MISS" : "ok", t->declined ? " (some shapes not supported)" : "");
    if (t->failed)
        printf("      %d of %d cases; first: %s\n", t->failed, t->cases, t->message);
    fflush(stdout);
}

static int check_operations(struct imf__device *d, bool verbose)
{
    int failed = 0;
    struct tally t = {.op = NULL};
    printf("  operation        cases  of bound  result\n");
    for (size_t i = 0; i < imf__op_case_count(); i++) {
        struct imf__op_report r;
        if (t.op && strcmp(t.op, imf__op_case_name(i)) != 0) {
            print_tally(&t);
            t.cases = 0;
        }
        if (t.cases == 0)
            t = (struct tally){.op = imf__op_case_name(i)};
        imf__op_check(d, i, &r);
        count(&t, &r);
        failed += !r.passed;
        if (verbose)
            printf("    %s(%s): error %.2g of %.2g, worst %.2g of %.2g%s%s\n", r.op, r.shape,
                   r.error, r.bound, r.worst, r.worst_bound, r.passed ? "" : ": ", r.message);
    }
    print_tally(&t);
    return failed;
}

/* Odd sizes of the table have no library algorithm on some devices; a model's must have one. */
static void say_plain(const struct imf__device *d)
{
    if (d->plain_matrices > 0)
        printf("  %d matrices of the table ran on the plain kernel; first: %s\n", d->plain_matrices,
               d->plain_reason);
}

/* ---- The golden cases ---- */

static const struct golden_case {
    const char *name;
    struct imf__meanflow_shape shape;
    uint64_t seed; /* of its weights */
    struct imf_sampling sampling;
    const float *values;
} golden_cases[] = {
    {"MiT",
     {IMF__MIT, 4, 2, 128, 64, 341, 10, 4, 2, 32, 0, false},
     11,
     {1, 8.0f, 0.4f, 0.65f},
     golden_mit},
    {"pMF",
     {IMF__PMF, 4, 2, 160, 80, 426, 10, 3, 16, 64, 128, false},
     22,
     {1, 7.5f, 0.1f, 0.8f},
     golden_pmf},
};
enum { GOLDEN_CASES = sizeof(golden_cases) / sizeof(golden_cases[0]) };

/* Draws both samples in one batch; values gets the numbers of their z that are compared. */
static imf_status draw_golden(struct imf_engine *e, const struct golden_case *c,
                              const char *checkpoint, float *values, struct imf_error *err)
{
    static const int labels[] = {3, 7};
    struct imf_model *model = NULL;
    struct imf_lane *lanes[2] = {NULL, NULL};
    struct imf_model_params p;
    imf_model_params_init(&p);
    p.checkpoint = checkpoint;
    p.decoder = "none";
    p.max_batch = 2;
    imf_status status = imf_model_load(&model, e, &p, err);
    for (int i = 0; i < 2 && status == IMF_OK; i++) {
        status = imf_lane_create(&lanes[i], model);
        if (status != IMF_OK)
            imf__fail(err, status, "%s", imf_status_sentence(status));
        else
            status = imf_lane_start(lanes[i], model, labels[i], (uint64_t)i, &c->sampling, err);
    }
    if (status == IMF_OK) {
        status = imf_step(model, lanes, 2);
        if (status != IMF_OK)
            imf__fail(err, status, "%s: %s", imf_status_sentence(status), imf_engine_error(e));
    }
    for (int i = 0; i < 2 && status == IMF_OK; i++)
        status = imf_lane_fetch(model, lanes[i]);
    size_t each = GOLDEN_VALUES / 2;
    for (size_t i = 0; i < GOLDEN_VALUES && status == IMF_OK; i++)
        values[i] = lanes[i / each]->z[i % each * (lanes[0]->z_count / each)];
    if (status == IMF_OK && imf_model_get_info(model)->plain_matrices > 0)
        status = imf__fail(err, IMF_EUNSUPPORTED, "%d matrices ran on the plain kernel; first: %s",
                           imf_model_get_info(model)->plain_matrices,
                           imf_model_get_info(model)->plain_reason);
    imf_lane_destroy(lanes[0]);
    imf_lane_destroy(lanes[1]);
    imf_model_destroy(model);
    return status;
}

/* 1 on a miss. */
static int check_golden(struct imf_engine *e, const struct golden_case *c, const char *checkpoint)
{
    struct imf_error err = {0};
    float values[GOLDEN_VALUES];
    bool bf16 = imf_engine_get_info(e)->precision == IMF_PRECISION_BF16;
    double bound = bf16 ? GOLDEN_BOUND_BF16 : GOLDEN_BOUND_FP32, difference = 0, total = 0;
    if (draw_golden(e, c, checkpoint, values, &err) != IMF_OK) {
        printf("  golden %s         MISS: %s\n", c->name, err.message);
        return 1;
    }
    for (int i = 0; i < GOLDEN_VALUES; i++) {
        double want = (double)c->values[i];
        difference += ((double)values[i] - want) * ((double)values[i] - want);
        total += want * want;
    }
    double error = sqrt(difference / total);
    bool ok = error <= bound; /* false for NaN */
    printf("  golden %s         error %.2g of %.2g  %s\n", c->name, error, bound,
           ok ? "ok" : "MISS");
    return !ok;
}

/* ---- The command ---- */

struct selfcheck {
    struct device_options engine;
    bool verbose;
    int sustain;
    const char *full, *full_decoder; /* NULL, a name that becomes synthetic weights, or a file */
    int full_batch;
};

/* Number of misses, or -1 after having said why nothing could be checked; *result is the exit
 * status then. */
static int check_precision(const struct imfd_usage *usage, const struct device_options *o,
                           const struct imfd_synthetic *weights, const struct selfcheck *s,
                           int *result)
{
    struct imf_engine *e = NULL;
    *result = imfd_engine_open(&e, usage, o);
    if (*result != 0)
        return -1;
    const struct imf_engine_info *info = imf_engine_get_info(e);
    printf("%s in %s (%s)\n", info->device, imf_precision_name(info->precision), info->description);
    int failed = check_operations(imf__engine_device(e), s->verbose);
    say_plain(imf__engine_device(e));
    for (int i = 0; i < GOLDEN_CASES; i++)
        failed += check_golden(e, &golden_cases[i], weights[i].path);
    failed += imfd_selfcheck_sustained(e, weights[0].path, s->sustain);
    bool cpu = strcmp(info->device, "cpu") == 0;
    struct imfd_full_check full = {.device = o->device,
                                   .precision = info->precision,
                                   .checkpoint = s->full,
                                   .decoder = s->full_decoder,
                                   .batch = s->full_batch};
    imf_engine_destroy(e);
    if (cpu)
        failed += imfd_selfcheck_invariance(usage, o);
    return failed + (s->full ? imfd_selfcheck_full(&full) : 0);
}

/* Whether the device has no bfloat16, as CPUs without AVX-512: no miss, but said. */
static bool lacks_bf16(const struct device_options *o)
{
    struct imf_engine_params p;
    struct imf_engine *e = NULL;
    struct imf_error err = {0};
    imf_engine_params_init(&p);
    p.device = o->device;
    p.threads = o->threads;
    p.precision = IMF_PRECISION_BF16;
    bool lacks = imf_engine_create(&e, &p, &err) == IMF_EUNSUPPORTED;
    if (lacks)
        printf("bf16 left out: %s\n", err.message);
    imf_engine_destroy(e);
    return lacks;
}

/* A name becomes the path of synthetic weights. */
static int make_full(const struct imfd_usage *usage, const char **name, struct imfd_synthetic *made)
{
    struct imf_error err = {0};
    if (!*name || !imfd_synthetic_known(*name))
        return 0;
    if (imfd_synthetic_make(made, *name, &err) != IMF_OK)
        return imfd_fail(usage, "%s", err.message);
    *name = made->path;
    return 0;
}

static int run(const struct imfd_usage *usage, struct selfcheck *s)
{
    struct device_options *o = &s->engine;
    struct imfd_synthetic model = {.folder = ""}, decoder = {.folder = ""};
    static const char *const both[] = {"fp32", "bf16"};
    struct imfd_synthetic weights[GOLDEN_CASES] = {{.folder = ""}};
    struct imf_error err = {0};
    bool all = strcmp(o->precision, "auto") == 0;
    int failed = 0, result = 0;
    for (int i = 0; i < GOLDEN_CASES && result == 0; i++) {
        const struct golden_case *c = &golden_cases[i];
        if (imfd_synthetic_make_shape(&weights[i], &c->shape, c->seed, &err) != IMF_OK)
            result = imfd_fail(usage, "%s", err.message);
    }
    if (s->full && !s->full_decoder)
        s->full_decoder = imfd_synthetic_draws_latents(s->full) ? "sd-vae" : "none";
    if (result == 0)
        result = make_full(usage, &s->full, &model);
    if (result == 0)
        result = make_full(usage, &s->full_decoder, &decoder);
    int precisions = all && !lacks_bf16(o) ? 2 : 1;
    for (int i = 0; i < precisions && result == 0; i++) {
        if (all)
            o->precision = both[i];
        failed += check_precision(usage, o, weights, s, &result);
    }
    for (int i = 0; i < GOLDEN_CASES; i++)
        imfd_synthetic_remove(&weights[i]);
    imfd_synthetic_remove(&model);
    imfd_synthetic_remove(&decoder);
    if (result != 0)
        return result;
    if (failed)
        printf("%d %s\n", failed, failed == 1 ? "miss" : "misses");
    else
        printf("all as it should be\n");
    return failed ? IMFD_EXIT_FAILURE : IMFD_EXIT_OK;
}

#define AT(member) offsetof(struct selfcheck, member)

int imfd_cmd_selfcheck(int argc, char **argv)
{
    struct selfcheck s = {0};
    static const struct imfd_option options[] = {
        OPTIONS_DEVICE(AT(engine)),
        IMFD_OPTION(FLAG, "verbose", AT(verbose), .aliases = "v", .help = "print every case"),
        IMFD_OPTION(INT, "sustain", AT(sustain), .argument = "SECONDS", .min = 0, .max = 86400,
                    .initial = "1", .help = "how long to draw the same samples over and over"),
        IMFD_OPTION(
            STRING, "full", AT(full), .argument = "NAME|FILE",
            .help =
                "also draw with a model of full size, such as MiT_XL_2, and on the CPU beside it"),
        IMFD_OPTION(STRING, "full-decoder", AT(full_decoder), .argument = "NAME|FILE",
                    .help = "its decoder (default: sd-vae where it draws latents)"),
        IMFD_OPTION(INT, "full-batch", AT(full_batch), .argument = "N", .min = 2,
                    .max = IMF_MAX_BATCH, .initial = "64", .help = "samples drawn together"),
        {.name = NULL},
    };
    const struct imfd_usage usage = {
        .command = "selfcheck",
        .summary = "Compares every operation of the device with plain loops, and a small network "
                   "with known\nresults, in both precisions, where the device has both, unless one "
                   "is named. Exit\nstatus 1 on a miss.",
        .notes = "\"of bound\" is the largest error of an operation as a share of what is "
                 "allowed. Every case\nalso runs at batch sizes 1, 3 and 8, where a sample's bits "
                 "must not change; on a CPU,\nlayers of a published size run in odd batches and "
                 "with other numbers of threads as well.",
        .options = options,
    };
    enum imfd_parsed parsed = imfd_options_parse(&usage, &s, argc, argv, NULL);
    if (parsed != IMFD_PARSED_RUN)
        return parsed == IMFD_PARSED_ERROR ? IMFD_EXIT_USAGE : IMFD_EXIT_OK;
    return run(&usage, &s);
}
