/* imfd bench: how fast a model runs, against what the hardware can do at most and what the vendor
 * library's product does, in the same process. They are measured in turn, round after round, because a shared machine's
 * speed changes from second to second; medians are reported. */
#include "cli/bench_roofline.h"
#include "cli/common.h"
#include "cli/commands.h"
#include "cli/demo.h"
#include "common/clock.h"
#include "common/error.h"
#include "base/png.h"
#include "cli/synthetic.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCHES_MAX = 16, ROUNDS_MAX = 1000 };
enum stage { STAGE_STEP, STAGE_DECODE, STAGE_ENCODE, STAGES };
static const char *const stage_names[] = {"step", "decode", "encode"};

/* What the server uses; see docs/performance.md. */
#define PNG_LEVEL 1

struct bench {
    struct imf_engine *engine;
    struct imf_model *model;
    const struct imf_model_info *info;
    struct imf_lane **lanes; /* (max_batch) */
    uint8_t *rgb;            /* (max_batch, H, W, 3), NULL without a decoder */
    struct png_encoder *encoder;
    int batches[BATCHES_MAX], n_batches, rounds;
    double *seconds; /* (STAGES, n_batches, rounds) of whole batches */
    double *rates;   /* (n_rates) FLOP/s of the vendor library's product */
    double *peaks;   /* (n_rates) FLOP/s of the hardware; 0 where unknown */
    int n_rates;
};

static double *seconds_of(struct bench *b, enum stage stage, int batch)
{
    return b->seconds + ((size_t)stage * (size_t)b->n_batches + (size_t)batch) * (size_t)b->rounds;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts. */
static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof(*values), by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* ---- Measuring ---- */

static imf_status measure_rate(struct bench *b)
{
    int i = b->n_rates++;
    imf_status status = imf_engine_peak_rate(b->engine, &b->peaks[i]);
    if (status != IMF_OK && status != IMF_EUNSUPPORTED)
        return status;
    return imf_engine_matmul_rate(b->engine, &b->rates[i]);
}

static imf_status start_lanes(struct bench *b, int n, struct imf_error *err)
{
    for (int i = 0; i < n; i++) {
        imf_status status = imf_lane_start(b->lanes[i], b->model, i % (b->info->classes + 1),
                                           (uint64_t)i, &b->info->defaults, err);
        if (status != IMF_OK)
            return status;
    }
    return IMF_OK;
}

static imf_status encode(struct bench *b, int n)
{
    size_t picture = (size_t)b->info->image_width * (size_t)b->info->image_height * 3;
    for (int i = 0; i < n; i++) {
        struct blob *png = NULL;
        imf_status status = png_encode(b->encoder, b->rgb + (size_t)i * picture,
                                       b->info->image_width, b->info->image_height, NULL, &png);
        if (status != IMF_OK)
            return status;
        blob_drop(png);
    }
    return IMF_OK;
}

static imf_status run_stage(struct bench *b, enum stage stage, int n, double *seconds)
{
    double start = imf__seconds();
    imf_status status = stage == STAGE_STEP     ? imf_step(b->model, b->lanes, n)
                        : stage == STAGE_DECODE ? imf_decode(b->model, b->lanes, n, b->rgb)
                                                : encode(b, n);
    *seconds = imf__seconds() - start;
    return status;
}

static imf_status engine_failed(struct bench *b, imf_status status, struct imf_error *err)
{
    const char *why = imf_engine_error(b->engine);
    return imf__fail(err, status, "%s%s%s", imf_status_sentence(status), *why ? ": " : "", why);
}

/* One round: every batch size and stage once, a matrix multiplication before each. */
static imf_status measure_round(struct bench *b, int round, struct imf_error *err)
{
    for (int i = 0; i < b->n_batches; i++) {
        for (int stage = 0; stage < (b->rgb ? STAGES : STAGE_DECODE); stage++) {
            double unused, *seconds = round < 0 ? &unused : seconds_of(b, stage, i) + round;
            imf_status status = IMF_OK;
            if (round >= 0 && stage != STAGE_ENCODE)
                status = measure_rate(b);
            if (status == IMF_OK && stage == STAGE_STEP)
                status = start_lanes(b, b->batches[i], err);
            if (status == IMF_OK)
                status = run_stage(b, stage, b->batches[i], seconds);
            if (status != IMF_OK)
                return engine_failed(b, status, err);
        }
    }
    return IMF_OK;
}

static imf_status measure(struct bench *b, struct imf_error *err)
{
    struct imfd_progress bar;
    imfd_progress_start(&bar, "measuring", "rounds", b->rounds + 1, false);
    imf_status status = measure_round(b, -1, err); /* warms caches and pages up */
    for (int round = 0; round < b->rounds && status == IMF_OK; round++) {
        imfd_progress_update(&bar, round + 1);
        status = measure_round(b, round, err);
    }
    imfd_progress_end(&bar);
    return status;
}

/* ---- Reporting ---- */

/* Highest resident memory of this process so far, in bytes; 0 where unknown. */
static double peak_rss(void)
{
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "VmHWM: %lf kB", &kib) == 1)
            break;
    }
    if (f)
        fclose(f);
    return kib * 1024;
}

static double stage_flops(const struct bench *b, enum stage stage)
{
    return stage == STAGE_STEP     ? b->info->step_flops
           : stage == STAGE_DECODE ? b->info->decode_flops
                                   : 0;
}

static void add_number_or_null(cJSON *o, const char *name, bool known, double value)
{
    cJSON_AddItemToObject(o, name, known ? cJSON_CreateNumber(value) : cJSON_CreateNull());
}

/* `flops` 0: the stage does no arithmetic to speak of; its rate and ratios are null. */
static cJSON *make_row(int batch, enum stage stage, double per_picture, double flops, double rate,
                       double peak, double at_best)
{
    cJSON *row = cJSON_CreateObject();
    double gflops = flops / per_picture / 1e9;
    cJSON_AddNumberToObject(row, "batch", batch);
    cJSON_AddStringToObject(row, "stage", stage_names[stage]);
    cJSON_AddNumberToObject(row, "seconds_per_picture", per_picture);
    add_number_or_null(row, "gflops", flops > 0, gflops);
    add_number_or_null(row, "of_peak", flops > 0 && peak > 0, gflops / peak);
    add_number_or_null(row, "best_of_peak", flops > 0 && peak > 0, at_best);
    add_number_or_null(row, "vs_onednn", flops > 0, gflops / rate);
    return row;
}

/* All results; NULL without memory. Sorts the measurements. */
static cJSON *results(struct bench *b)
{
    const struct imf_engine_info *e = imf_engine_get_info(b->engine);
    double rate = median(b->rates, b->n_rates) / 1e9, peak = median(b->peaks, b->n_rates) / 1e9;
    cJSON *root = cJSON_CreateObject(), *rows;
    cJSON_AddStringToObject(root, "device", e->device);
    cJSON_AddStringToObject(root, "description", e->description);
    cJSON_AddStringToObject(root, "precision", imf_precision_name(e->precision));
    cJSON_AddNumberToObject(root, "threads", e->threads);
    cJSON_AddStringToObject(root, "model", b->info->name);
    cJSON_AddStringToObject(root, "decoder", b->info->decoder);
    cJSON_AddNumberToObject(root, "rounds", b->rounds);
    add_number_or_null(root, "peak_gflops", peak > 0, peak);
    cJSON_AddNumberToObject(root, "matmul_gflops", rate);
    rows = cJSON_AddArrayToObject(root, "rows");
    for (int i = 0; i < b->n_batches; i++) {
        for (int stage = 0; stage < (b->rgb ? STAGES : STAGE_DECODE); stage++) {
            const double *sorted = seconds_of(b, stage, i), flops = stage_flops(b, stage);
            const double seconds = median(seconds_of(b, stage, i), b->rounds) / b->batches[i];
            const double at_best = flops * b->batches[i] / sorted[0] / b->peaks[b->n_rates - 1];
            cJSON_AddItemToArray(
                rows, make_row(b->batches[i], stage, seconds, flops, rate, peak, at_best));
        }
    }
    cJSON_AddNumberToObject(root, "peak_rss_bytes", peak_rss());
    cJSON_AddNumberToObject(root, "weights_bytes", (double)b->info->weights_bytes);
    cJSON_AddNumberToObject(root, "arena_bytes", (double)b->info->arena_bytes);
    cJSON_AddNumberToObject(root, "graph_bytes", (double)b->info->graph_bytes);
    cJSON_AddNumberToObject(root, "plain_matrices", b->info->plain_matrices);
    cJSON_AddNumberToObject(root, "load_seconds", b->info->load_seconds);
    return root;
}

static double number(const cJSON *object, const char *key)
{
    return cJSON_GetNumberValue(cJSON_GetObjectItem(object, key));
}

static const char *text(const cJSON *object, const char *key)
{
    const char *value = cJSON_GetStringValue(cJSON_GetObjectItem(object, key));
    return value ? value : "";
}

static void print_table(const cJSON *r)
{
    printf("%s, decoder %s, on %s (%s) in %s\n", text(r, "model"), text(r, "decoder"),
           text(r, "device"), text(r, "description"), text(r, "precision"));
    if (cJSON_IsNumber(cJSON_GetObjectItem(r, "peak_gflops")))
        printf("the hardware's peak: %.0f GFLOP/s; ", number(r, "peak_gflops"));
    printf("the library's product: %.0f GFLOP/s\n\n", number(r, "matmul_gflops"));
    printf("batch  stage   ms/picture  GFLOP/s  of peak  at best  vs library\n");
    for (const cJSON *row = cJSON_GetObjectItem(r, "rows")->child; row; row = row->next) {
        printf("%5.0f  %-6s  %10.3f", number(row, "batch"), text(row, "stage"),
               1e3 * number(row, "seconds_per_picture"));
        if (cJSON_IsNumber(cJSON_GetObjectItem(row, "gflops")))
            printf("  %7.0f", number(row, "gflops"));
        if (cJSON_IsNumber(cJSON_GetObjectItem(row, "of_peak")))
            printf("  %6.1f%%  %6.1f%%", 100 * number(row, "of_peak"),
                   100 * number(row, "best_of_peak"));
        else
            printf("%18s", "");
        if (cJSON_IsNumber(cJSON_GetObjectItem(row, "vs_onednn")))
            printf("  %9.2fx", number(row, "vs_onednn"));
        printf("\n");
    }
    printf("\nloaded in %.2f s; weights %.1f MB, arena %.1f MB, peak memory %.1f MB",
           number(r, "load_seconds"), number(r, "weights_bytes") / 1e6,
           number(r, "arena_bytes") / 1e6, number(r, "peak_rss_bytes") / 1e6);
    if (number(r, "graph_bytes") > 0)
        printf(", captured passes %.1f MB of the device's", number(r, "graph_bytes") / 1e6);
    printf("\n");
}

static int print_results(const struct imfd_usage *usage, struct bench *b, bool json)
{
    cJSON *r = results(b);
    char *printed = json ? cJSON_Print(r) : NULL;
    if (json && printed)
        puts(printed);
    else if (!json)
        print_table(r);
    bool ok = (!json || printed) && fflush(stdout) == 0;
    cJSON_free(printed);
    cJSON_Delete(r);
    return ok ? 0 : imfd_fail(usage, "the results cannot be written");
}

/* ---- The command ---- */

struct bench_options {
    const char *model, *decoder, *roofline;
    struct imfd_list batches;
    int rounds;
    bool json, demo;
    struct device_options engine;
    struct imf_model_params params;
};

static imf_status bench_open(struct bench *b, struct imf_error *err)
{
    size_t n = (size_t)b->info->max_batch, stages = (size_t)STAGES * (size_t)b->n_batches;
    size_t picture = (size_t)b->info->image_width * (size_t)b->info->image_height * 3;
    b->lanes = calloc(n, sizeof(*b->lanes));
    b->seconds = calloc(stages * (size_t)b->rounds, sizeof(*b->seconds));
    b->rates = calloc(stages * (size_t)b->rounds, sizeof(*b->rates));
    b->peaks = calloc(stages * (size_t)b->rounds, sizeof(*b->peaks));
    if (!b->lanes || !b->seconds || !b->rates || !b->peaks)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    if (picture && !(b->rgb = calloc(n, picture)))
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        if (imf_lane_create(&b->lanes[i], b->model) != IMF_OK)
            return imf__fail(err, IMF_ENOMEM, "out of memory");
    }
    if (png_encoder_create(&b->encoder, PNG_LEVEL) != IMF_OK)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    return IMF_OK;
}

static void bench_close(struct bench *b)
{
    for (int i = 0; b->lanes && i < b->info->max_batch; i++)
        imf_lane_destroy(b->lanes[i]);
    free(b->lanes);
    free(b->seconds);
    free(b->rates);
    free(b->peaks);
    free(b->rgb);
    png_encoder_destroy(b->encoder);
    imf_model_destroy(b->model);
    imf_engine_destroy(b->engine);
}

/* A file is taken as it is; a name becomes a synthetic file. */
static int resolve(const struct imfd_usage *usage, const char **path, struct imfd_synthetic *s)
{
    struct imf_error err = {0};
    if (!imfd_synthetic_known(*path))
        return 0;
    if (imfd_synthetic_make(s, *path, &err) != IMF_OK)
        return imfd_fail(usage, "%s", err.message);
    *path = s->path;
    return 0;
}

static int load(struct bench *b, const struct imfd_usage *usage, struct bench_options *o)
{
    struct imfd_synthetic mit = {.folder = ""}, decoder = {.folder = ""};
    struct imfd_demo demo;
    struct imf_error err = {0};
    struct imf_model_params params = o->params;
    int result = 0;
    if (o->demo && imfd_demo_find(&demo, &err) != IMF_OK)
        return imfd_fail(usage, "%s", err.message);
    bool synthetic = !o->demo && !params.checkpoint;
    if (o->demo)
        params.checkpoint = demo.checkpoint;
    else if (synthetic)
        params.checkpoint = o->model;
    params.decoder = o->demo ? demo.decoder : o->decoder ? o->decoder : "none";
    if (!o->decoder && synthetic && imfd_synthetic_draws_latents(o->model))
        params.decoder = "sd-vae";
    for (int i = 0; i < b->n_batches; i++)
        params.max_batch = b->batches[i] > params.max_batch ? b->batches[i] : params.max_batch;
    result = imfd_engine_open(&b->engine, usage, &o->engine);
    if (result == 0 && synthetic)
        result = resolve(usage, &params.checkpoint, &mit);
    if (result == 0)
        result = resolve(usage, &params.decoder, &decoder);
    if (result == 0)
        result = imfd_model_open(&b->model, b->engine, usage, &params);
    imfd_synthetic_remove(&mit);
    imfd_synthetic_remove(&decoder);
    if (result == 0 && o->model &&
        !imf__meanflow_same_name(o->model, imf_model_get_info(b->model)->name))
        result = imfd_fail(usage, "%s holds %s, not --model %s", params.checkpoint,
                           imf_model_get_info(b->model)->name, o->model);
    return result;
}

static int predict(const struct imfd_usage *usage, struct bench *b, bool json)
{
    struct imf_error err = {0};
    cJSON *r = imfd_roofline_count(b->engine, b->model, b->lanes, b->batches, b->n_batches, &err);
    if (!r)
        return imfd_fail(usage, "%s", err.message);
    char *printed = json ? cJSON_Print(r) : NULL;
    if (json && printed)
        puts(printed);
    else if (!json)
        imfd_roofline_print(r);
    bool ok = (!json || printed) && fflush(stdout) == 0;
    cJSON_free(printed);
    cJSON_Delete(r);
    return ok ? 0 : imfd_fail(usage, "the results cannot be written");
}

static int run(const struct imfd_usage *usage, struct bench_options *o)
{
    char device[64];
    struct bench b = {.rounds = o->rounds};
    struct imf_error err = {0};
    static const int default_batches[] = {1, 4, 8};
    if (!o->params.checkpoint && !o->model && !o->demo)
        return imfd_usage_error(usage, "give --ckpt-path FILE, --model NAME or --demo");
    if (o->demo && (o->model || o->params.checkpoint || o->decoder))
        return imfd_usage_error(usage, "--demo brings its own model and decoder");
    if (o->model && !o->params.checkpoint && !imfd_synthetic_known(o->model))
        return imfd_usage_error(usage,
                                "--model '%s' is no name such as MiT_B_2; a checkpoint is "
                                "given with --ckpt-path",
                                o->model);
    if (o->batches.count > BATCHES_MAX)
        return imfd_usage_error(usage, "--batch takes at most %d sizes", BATCHES_MAX);
    b.n_batches = o->batches.count ? (int)o->batches.count : 3;
    for (int i = 0; i < b.n_batches; i++)
        b.batches[i] = o->batches.count ? (int)o->batches.values[i] : default_batches[i];

    if (o->roofline) {
        snprintf(device, sizeof(device), "roofline:%s", o->roofline);
        o->engine.device = device;
    }
    int result = load(&b, usage, o);
    imf_status status = IMF_OK;
    if (result == 0) {
        b.info = imf_model_get_info(b.model);
        status = bench_open(&b, &err);
        if (status == IMF_OK && !o->roofline)
            status = measure(&b, &err);
        if (status == IMF_OK && o->roofline)
            result = predict(usage, &b, o->json);
        else
            result = status == IMF_OK ? print_results(usage, &b, o->json)
                                      : imfd_fail(usage, "%s", err.message);
        /* Such figures are no measure of the model. */
        if (result == 0 && b.info->plain_matrices > 0)
            result = imfd_fail(
                usage, "%d matrix products ran on a plain kernel, a hundred times slower: %s",
                b.info->plain_matrices, b.info->plain_reason);
    }
    bench_close(&b);
    return result;
}

#define AT(member) offsetof(struct bench_options, member)

int imfd_cmd_bench(int argc, char **argv)
{
    struct bench_options o = {0};
    imf_model_params_init(&o.params);
    static const struct imfd_option options[] = {
        OPTION_CHECKPOINT(AT(params.checkpoint)),
        OPTION_CHECKPOINT_KEY(AT(params.checkpoint_key)),
        OPTION_NOISE_SCALE(AT(params.noise_scale)),
        OPTION_MODEL(AT(model), "with a checkpoint: fail unless it holds this model; without: this "
                                "model, MiT_B_2 ... MiT_XL_2, pmfDiT_B_16 ... pmfDiT_H_32, with "
                                "synthetic weights"),
        IMFD_OPTION(
            STRING, "decoder", AT(decoder), .argument = "NAME|FILE",
            .help = "sd-vae, taesd (synthetic), a file, or none (default: sd-vae for MiT's names)"),
        IMFD_OPTION(FLAG, "demo", AT(demo), .help = "measure the demo model that comes with imfd"),
        IMFD_OPTION(LIST, "batch", AT(batches), .aliases = "max-batch batches gen-bsz",
                    .argument = "LIST", .min = 1, .max = IMF_MAX_BATCH, .initial = "1,4,8",
                    .help = "batch sizes"),
        IMFD_OPTION(INT, "rounds", AT(rounds), .argument = "N", .min = 1, .max = ROUNDS_MAX,
                    .initial = "5", .help = "measurements of each, of which the median is shown"),
        IMFD_OPTION(STRING, "roofline", AT(roofline), .argument = "GPU",
                    .help = "predict the times on an H100 or RTX4090 from bytes and FLOPs instead "
                            "of measuring"),
        IMFD_OPTION(FLAG, "json", AT(json), .help = "print JSON"),
        OPTIONS_DEVICE(AT(engine)),
        {.name = NULL},
    };
    const struct imfd_usage usage = {
        .command = "bench",
        .summary =
            "Measures network evaluations, decoding and PNG encoding, against the hardware's peak\n"
            "and the vendor library's product of the same precision, measured in turn with them.",
        .notes = "Rates are of the arithmetic that the model needs (direct convolution). \"of "
                 "peak\" divides\nthe median by what instructions on registers alone reach on the "
                 "same threads, \"at best\"\nthe best round by the best of those, \"vs library\" "
                 "by oneDNN's or cuBLAS's product.",
        .options = options,
    };
    enum imfd_parsed parsed = imfd_options_parse(&usage, &o, argc, argv, NULL);
    int result = parsed == IMFD_PARSED_ERROR ? IMFD_EXIT_USAGE : IMFD_EXIT_OK;
    if (parsed == IMFD_PARSED_RUN)
        result = run(&usage, &o);
    imfd_list_free(&o.batches);
    return result;
}
