/* imfd sample: draws pictures into files. All samples share one batch that is kept full: a lane
 * that has made its steps is decoded and gives its place to the next sample. */
#include "cli/common.h"
#include "cli/commands.h"
#include "cli/demo.h"
#include "common/clock.h"
#include "common/error.h"
#include "models/model_names.h"
#include "cli/sample_output.h"
#include "cli/sample_plan.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sample_options {
    const char *checkpoint, *decoder, *model, *workdir;
    struct imf_model_params params;
    bool demo;
    int batch;
    struct imfd_plan_options plan;
    struct imfd_output_options output;
    struct device_options engine;
    char workdir_path[PATH_MAX];
};

/* ---- Drawing ---- */

struct session {
    const struct imfd_usage *usage;
    struct imf_engine *engine;
    struct imf_model *model;
    const struct imfd_plan *plan;
    struct imfd_output *output;
    struct imf_lane **lanes; /* (capacity), the first `active` are at work */
    size_t *sample_of;       /* (capacity) index of the sample in each lane */
    uint8_t *rgb;            /* (capacity, H, W, 3) */
    int capacity, active;
    size_t started, finished;
};

static void swap_lanes(struct session *s, int a, int b)
{
    struct imf_lane *lane = s->lanes[a];
    size_t sample = s->sample_of[a];
    s->lanes[a] = s->lanes[b];
    s->sample_of[a] = s->sample_of[b];
    s->lanes[b] = lane;
    s->sample_of[b] = sample;
}

static imf_status fill_lanes(struct session *s, struct imf_error *err)
{
    while (s->active < s->capacity && s->started < s->plan->n) {
        const struct imfd_sample *sample = &s->plan->samples[s->started];
        imf_status status = imf_lane_start(s->lanes[s->active], s->model, sample->label,
                                           sample->seed, &sample->sampling, err);
        if (status != IMF_OK)
            return status;
        s->sample_of[s->active++] = s->started++;
    }
    return IMF_OK;
}

static imf_status engine_status(struct session *s, imf_status status, struct imf_error *err)
{
    if (status == IMF_OK)
        return IMF_OK;
    const char *why = imf_engine_error(s->engine);
    return imf__fail(err, status, "%s%s%s", imf_status_sentence(status), *why ? ": " : "", why);
}

/* Decodes the last n active lanes, hands them to the output and frees their places. */
static imf_status finish_lanes(struct session *s, int n, struct imf_error *err)
{
    const struct imf_model_info *info = imf_model_get_info(s->model);
    size_t picture = (size_t)info->image_width * (size_t)info->image_height * 3;
    int first = s->active - n;
    bool pictures = imfd_output_wants_pictures(s->output);
    imf_status status = IMF_OK;
    if (pictures)
        status = engine_status(s, imf_decode(s->model, s->lanes + first, n, s->rgb), err);
    for (int i = 0; i < n && status == IMF_OK; i++)
        status = engine_status(s, imf_lane_fetch(s->model, s->lanes[first + i]), err);
    for (int i = 0; i < n && status == IMF_OK; i++) {
        size_t sample = s->sample_of[first + i];
        status =
            imfd_output_add(s->output, sample, &s->plan->samples[sample], s->lanes[first + i]->z,
                            pictures ? s->rgb + (size_t)i * picture : NULL, err);
    }
    s->active = first;
    s->finished += (size_t)n;
    return status;
}

static imf_status draw(struct session *s, struct imfd_progress *bar, struct imf_error *err)
{
    while (s->finished < s->plan->n) {
        imf_status status = fill_lanes(s, err);
        if (status == IMF_OK)
            status = engine_status(s, imf_step(s->model, s->lanes, s->active), err);
        int done = 0; /* finished lanes move to the end of the active ones */
        for (int i = s->active - 1; i >= 0; i--) {
            if (imf_lane_finished(s->lanes[i]))
                swap_lanes(s, i, s->active - ++done);
        }
        if (status == IMF_OK && done > 0)
            status = finish_lanes(s, done, err);
        if (status != IMF_OK)
            return status;
        imfd_progress_update(bar, (double)s->finished);
    }
    return IMF_OK;
}

static imf_status session_open(struct session *s, struct imf_error *err)
{
    const struct imf_model_info *info = imf_model_get_info(s->model);
    size_t n = (size_t)info->max_batch;
    s->lanes = calloc(n, sizeof(*s->lanes));
    s->sample_of = calloc(n, sizeof(*s->sample_of));
    s->rgb = malloc(n * (size_t)info->image_width * (size_t)info->image_height * 3);
    if (!s->lanes || !s->sample_of || !s->rgb)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    for (; s->capacity < info->max_batch; s->capacity++) {
        imf_status status = imf_lane_create(&s->lanes[s->capacity], s->model);
        if (status != IMF_OK)
            return imf__fail(err, status, "%s", imf_status_sentence(status));
    }
    return IMF_OK;
}

static void session_close(struct session *s)
{
    for (int i = 0; i < s->capacity; i++)
        imf_lane_destroy(s->lanes[i]);
    free(s->lanes);
    free(s->sample_of);
    free(s->rgb);
}

/* ---- The command ---- */

static void report(const struct session *s, const struct sample_options *o, double seconds)
{
    const struct imf_model_info *m = imf_model_get_info(s->model);
    const struct imf_engine_info *e = imf_engine_get_info(s->engine);
    bool piped = o->output.path && strcmp(o->output.path, "-") == 0;
    fprintf(piped ? stderr : stdout, "%zu %s of %s, decoder %s, on %s in %s, %.2f s:%s%s%s%s%s%s\n",
            s->plan->n, s->plan->n == 1 ? "sample" : "samples", m->name, m->decoder, e->device,
            imf_precision_name(e->precision), seconds, o->output.path ? " " : "",
            o->output.path ? o->output.path : "", o->output.folder ? " " : "",
            o->output.folder ? o->output.folder : "", o->output.latents ? " " : "",
            o->output.latents ? o->output.latents : "");
}

static int run(const struct imfd_usage *usage, const struct sample_options *o,
               struct imfd_plan *plan)
{
    struct session s = {.usage = usage, .plan = plan};
    struct imf_error err = {0};
    struct imfd_progress bar;
    struct imf_model_params params = o->params;
    params.checkpoint = o->checkpoint;
    params.decoder = o->decoder;
    params.max_batch = plan->n < (size_t)o->batch ? (int)plan->n : o->batch;
    int result = imfd_engine_open(&s.engine, usage, &o->engine);
    if (result == 0)
        result = imfd_model_open(&s.model, s.engine, usage, &params);
    if (result != 0)
        goto out;
    const char *name = imf_model_get_info(s.model)->name;
    /* The release's --model names what is to be loaded; here the file says it: they must agree. */
    if (o->model && !imf__meanflow_same_name(o->model, name)) {
        result =
            imfd_usage_error(usage, "--model %s, but %s holds %s", o->model, o->checkpoint, name);
        goto out;
    }
    imf_status status = imfd_plan_complete(plan, s.model, &err);
    if (status == IMF_OK)
        status = imfd_output_create(&s.output, &o->output, s.model, plan->n, &err);
    if (status == IMF_EINVAL) {
        result = imfd_usage_error(usage, "%s", err.message);
        goto out;
    }
    if (status == IMF_OK)
        status = session_open(&s, &err);
    imfd_progress_start(&bar, "drawing", "pictures", (double)plan->n, false);
    if (status == IMF_OK)
        status = draw(&s, &bar, &err);
    imfd_progress_end(&bar);
    if (status == IMF_OK)
        status = imfd_output_finish(s.output, &err);
    if (status != IMF_OK)
        result = imfd_fail(usage, "%s", err.message);
    else
        report(&s, o, imf__seconds() - bar.started);
out:
    session_close(&s);
    imfd_output_destroy(s.output);
    imf_model_destroy(s.model);
    imf_engine_destroy(s.engine);
    return result;
}

/* Resolves --demo, --workdir and what was left out. 0, or the exit status. */
static int complete(const struct imfd_usage *usage, struct sample_options *o,
                    struct imfd_demo *demo)
{
    struct imf_error err = {0};
    struct imfd_output_options *out = &o->output;
    if (o->demo && (o->checkpoint || o->decoder))
        return imfd_usage_error(usage, "--demo brings its own checkpoint and decoder");
    if (o->demo) {
        if (imfd_demo_find(demo, &err) != IMF_OK)
            return imfd_fail(usage, "%s", err.message);
        o->checkpoint = demo->checkpoint;
        o->decoder = demo->decoder;
    }
    if (!o->checkpoint)
        return imfd_usage_error(usage, "--ckpt-path is needed (or --demo)");
    if (!o->decoder)
        o->decoder = "none";
    if (!out->path && o->workdir) { /* as the release does */
        snprintf(o->workdir_path, sizeof(o->workdir_path), "%s/grid.png", o->workdir);
        out->path = o->workdir_path;
        struct imfd_output_options folder = {.folder = o->workdir};
        if (imfd_output_check(&folder, &err) != IMF_OK)
            return imfd_fail(usage, "%s", err.message);
    }
    if (!out->path && !out->folder && !out->latents)
        out->path = "grid.png";
    imf_status status = imfd_output_check(out, &err);
    if (status == IMF_EINVAL)
        return imfd_usage_error(usage, "%s", err.message);
    return status == IMF_OK ? 0 : imfd_fail(usage, "%s", err.message);
}

#define AT(member) offsetof(struct sample_options, member)

int imfd_cmd_sample(int argc, char **argv)
{
    struct sample_options o = {0};
    struct imfd_plan plan = {.n = 0};
    struct imfd_demo demo;
    struct imf_error err = {0};
    imfd_plan_options_init(&o.plan);
    imf_model_params_init(&o.params);
    static const struct imfd_option options[] = {
        OPTION_CHECKPOINT(AT(checkpoint)),
        OPTION_CHECKPOINT_KEY(AT(params.checkpoint_key)),
        OPTION_NOISE_SCALE(AT(params.noise_scale)),
        OPTION_DECODER(AT(decoder)),
        IMFD_OPTION(FLAG, "demo", AT(demo), .help = "use the demo model that comes with imfd"),
        OPTION_MODEL(AT(model), OPTION_MODEL_HELP),
        IMFD_OPTION(
            STRING, "classes", AT(plan.classes), .aliases = "class labels", .argument = "LIST",
            .help = "indices, WordNet ids or names, such as 207,0-7,cat,\"golden retriever\""),
        IMFD_OPTION(LIST, "seeds", AT(plan.seeds), .aliases = "seed", .argument = "LIST",
                    .help = "one for each class, or one for all (default: 0,1,2,...)"),
        IMFD_OPTION(INT, "num-images", AT(plan.num_images), .argument = "N", .min = 1,
                    .max = 1000000,
                    .help = "all classes in turn; picture k has the seed k XOR --sample-seed"),
        IMFD_OPTION(UINT64, "sample-seed", AT(plan.sample_seed), .argument = "N", .initial = "42",
                    .help = "for --num-images"),
        IMFD_OPTION(
            STRING, "per-sample", AT(plan.per_sample), .argument = "FILE",
            .help =
                "JSON list of {\"class\", \"seed\", \"steps\", \"omega\", \"t_min\", \"t_max\"}"),
        OPTIONS_SAMPLING(AT(plan.sampling)),
        OPTION_MAX_BATCH(AT(batch), "8", "samples computed together"),
        OPTIONS_DEVICE(AT(engine)),
        IMFD_OPTION(STRING, "output", AT(output.path), .aliases = "o", .argument = "FILE",
                    .help = "grid as .png, or pictures as uint8 .npy, or - (default: grid.png)"),
        IMFD_OPTION(INT, "columns", AT(output.columns), .argument = "N", .min = 1, .max = 4096,
                    .help = "of the grid (default: by number, 8 pictures in 2 rows of 4)"),
        IMFD_OPTION(STRING, "save-images", AT(output.folder), .argument = "DIR",
                    .help = "write every picture as a PNG file of its own"),
        IMFD_OPTION(STRING, "save-latents", AT(output.latents), .argument = "FILE",
                    .help = "write the latents as float32 .npy (n, channels, size, size)"),
        IMFD_OPTION(STRING, "workdir", AT(workdir), .argument = "DIR",
                    .help = "without --output: write DIR/grid.png"),
        IMFD_OPTION(IGNORED, "fid-ref", 0, .argument = "FILE"),
        IMFD_OPTION(IGNORED, "save-samples", 0, ),
        {.name = NULL},
    };
    const struct imfd_usage usage = {
        .command = "sample",
        .summary = "Draws pictures. Without classes and seeds: the release's grid of eight.",
        .notes = "The flags --fid-ref and --save-samples of the release are accepted and have no "
                 "effect here.\nA class equal to the number of classes, or \"none\", is the "
                 "unconditional one.",
        .options = options,
    };
    enum imfd_parsed parsed = imfd_options_parse(&usage, &o, argc, argv, NULL);
    int result = parsed == IMFD_PARSED_ERROR ? IMFD_EXIT_USAGE : IMFD_EXIT_OK;
    if (parsed == IMFD_PARSED_RUN) {
        imf_status status = imfd_plan_make(&plan, &o.plan, &err);
        if (status == IMF_EINVAL)
            result = imfd_usage_error(&usage, "%s", err.message);
        else if (status != IMF_OK)
            result = imfd_fail(&usage, "%s", err.message);
        if (result == 0)
            result = complete(&usage, &o, &demo);
        if (result == 0)
            result = run(&usage, &o, &plan);
    }
    imfd_plan_free(&plan);
    imfd_plan_options_free(&o.plan);
    return result;
}
