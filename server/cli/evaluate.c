/* imfd evaluate: FID, Inception Score, KID, precision and recall of a model, or of a folder of
 * pictures. This file parses, loads, and keeps the order of things; evaluate.h says who does what.
 *
 * With several ranks every step that can fail ends in a vote (imfd_ranks_all), so that no rank
 * waits for one that gave up. */
#include "cli/commands.h"
#include "common/error.h"
#include "evaluate/report.h"
#include "evaluate/setup.h"
#include "base/options.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { EXIT_STOPPED = 130 };

/* Set by the signal handler; a handler can reach nothing but a global. */
static atomic_bool stop_requested;

static void request_stop(int signal_number)
{
    (void)signal_number;
    atomic_store(&stop_requested, true);
}

/* SIGUSR1 too: it is what mpirun hands on to its ranks without killing them a second later. A
 * second SIGINT ends the program at once. */
static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = request_stop, .sa_flags = SA_RESETHAND | SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
}

static void complain(const struct imfd_ranks *ranks, const struct imf_error *err)
{
    if (ranks->mpi.size > 1)
        fprintf(stderr, "imfd evaluate: rank %d: %s\n", ranks->mpi.rank, err->message);
    else
        fprintf(stderr, "imfd evaluate: %s\n", err->message);
}

/* True when all ranks succeeded; a rank that did not says why. */
static bool agreed(const struct imfd_ranks *ranks, imf_status status, const struct imf_error *err)
{
    if (status != IMF_OK)
        complain(ranks, err);
    return imfd_ranks_all(ranks, status == IMF_OK);
}

/* This rank's share of the blocks that are not done: neighbours stay together, so that their
 * statistics merge at once. */
static int64_t *share(const struct imfd_ranks *ranks, const uint8_t *done, int64_t blocks,
                      int64_t *n)
{
    int64_t left = 0, at = 0, size = ranks->mpi.size, rank = ranks->mpi.rank;
    for (int64_t b = 0; b < blocks; b++)
        left += !done[b];
    int64_t from = left * rank / size, to = left * (rank + 1) / size;
    int64_t *mine = malloc((size_t)(to - from) * sizeof(*mine) + 1);
    if (!mine)
        return NULL;
    *n = 0;
    for (int64_t b = 0; b < blocks; b++) {
        if (done[b])
            continue;
        if (at >= from && at < to)
            mine[(*n)++] = b;
        at++;
    }
    return mine;
}

/* What the main thread shows and tells while the work goes on. */
struct view {
    const struct imfd_ranks *ranks;
    struct imfd_progress bar;
    int64_t before, mine, others; /* pictures of earlier runs; made by this rank, by the others */
    int ended;                    /* ranks, but for this one */
};

static void show(void *user, int64_t made)
{
    struct view *v = user;
    v->mine = made;
    if (v->ranks->mpi.rank != 0) {
        v->ranks->mpi.tell(made, false);
        return;
    }
    if (v->ended < v->ranks->mpi.size - 1)
        v->others = v->ranks->mpi.heard(&v->ended);
    imfd_progress_update(&v->bar, (double)(v->before + made + v->others));
}

/* This rank's share is done, or given up: rank 0 goes on showing what the others do. */
static void show_others(struct view *v)
{
    const struct timespec nap = {.tv_nsec = 100000000};
    if (v->ranks->mpi.rank != 0)
        v->ranks->mpi.tell(v->mine, true);
    while (v->ranks->mpi.rank == 0 && v->ended < v->ranks->mpi.size - 1) {
        nanosleep(&nap, NULL);
        show(v, v->mine);
    }
}

/* Runs this rank's share with a progress bar, on rank 0, for all ranks. */
static imf_status work(const struct eval_job *job, struct eval_setup *setup,
                       struct eval_state *state, const struct imfd_ranks *ranks,
                       const uint8_t *done, struct eval_times *times, struct imf_error *err)
{
    struct view v = {.ranks = ranks};
    const struct eval_watcher watcher = {&stop_requested, show, &v};
    bool quiet = job->options.quiet || ranks->mpi.rank != 0;
    for (int64_t b = 0; b < job->blocks; b++)
        v.before += done[b] ? eval_block_images(job, b) : 0;
    imfd_progress_start(&v.bar, "evaluating", "images", (double)job->images, quiet);
    v.bar.first = (double)v.before;
    if (v.before > 0 && !quiet)
        fprintf(stderr, "imfd evaluate: going on after %lld of %lld images\n", (long long)v.before,
                (long long)job->images);
    int64_t n = 0, *mine = share(ranks, done, job->blocks, &n);
    imf_status status = mine ? eval_work(job, setup->devices, setup->n_devices, mine, n, state,
                                         &watcher, times, err)
                             : imf__fail(err, IMF_ENOMEM, "out of memory");
    show_others(&v);
    if (status == IMF_OK && !atomic_load(&stop_requested))
        imfd_progress_end(&v.bar);
    free(mine);
    return status;
}

static bool all_done(const struct eval_job *job, const uint8_t *done)
{
    for (int64_t b = 0; b < job->blocks; b++)
        if (!done[b])
            return false;
    return true;
}

/* Rank 0, with everything collected: numbers, pictures, reports. */
static imf_status conclude(const struct eval_job *job, const struct eval_setup *setup,
                           const struct eval_state *state, const struct imfd_ranks *ranks,
                           const struct eval_times *times, const float *logits,
                           const float *features, struct imf_error *err)
{
    struct eval_scores scores;
    struct eval_report report = {
        .job = job,
        .scores = &scores,
        .times = times,
        .model = setup->devices[0].model ? imf_model_get_info(setup->devices[0].model) : NULL,
        .inception_narrow = imf_inception_narrow(setup->devices[0].lanes[0].net),
        .inception_fingerprint = imf_inception_fingerprint(setup->devices[0].lanes[0].net),
        .device = setup->description,
        .ranks = ranks->mpi.size,
        .devices = setup->n_devices,
        .seconds = eval_state_seconds(state),
        .inception_flops = imf_inception_flops(setup->devices[0].lanes[0].net)};
    imf_status status = IMF_OK;
    if (times->images > 0)
        status = eval_matmul_rate(&setup->devices[0], &report.matmul_rate);
    if (status != IMF_OK) /* a figure for the report: not worth losing the evaluation for */
        report.matmul_rate = 0;
    status = eval_score(job, state, logits, features, setup->reference, &scores, err);
    if (status == IMF_OK)
        status = eval_write_grid(job, err);
    if (status == IMF_OK)
        status = eval_write_reports(&report, err);
    if (status == IMF_OK)
        eval_print_report(&report);
    return status;
}

static int finish_all(const struct eval_job *job, const struct eval_setup *setup,
                      struct eval_state *state, struct imfd_ranks *ranks,
                      const struct eval_times *times)
{
    struct imf_error err = {0};
    float *logits = NULL, *features = NULL;
    imf_status status = eval_state_collect(state, ranks, &logits, &features, &err);
    if (status != IMF_OK) {
        complain(ranks, &err);
        imfd_ranks_give_up(ranks); /* the others may be waiting in a send */
        return IMFD_EXIT_FAILURE;
    }
    if (ranks->mpi.rank == 0)
        status = conclude(job, setup, state, ranks, times, logits, features, &err);
    free(logits);
    free(features);
    if (!agreed(ranks, status, &err))
        return IMFD_EXIT_FAILURE;
    if (ranks->mpi.rank == 0)
        eval_state_remove(job);
    else
        eval_state_remove_own(job, ranks->mpi.rank);
    return IMFD_EXIT_OK;
}

/* What a stopped run says. */
static int stopped(const struct eval_job *job, const struct imfd_ranks *ranks, const uint8_t *done)
{
    int64_t images = 0;
    for (int64_t b = 0; b < job->blocks; b++)
        images += done[b] ? eval_block_images(job, b) : 0;
    if (ranks->mpi.rank == 0)
        fprintf(
            stderr,
            "\nimfd evaluate: stopped and saved after %lld of %lld images; run the same command "
            "again to go on\n",
            (long long)images, (long long)job->images);
    return EXIT_STOPPED;
}

static int measure(struct eval_job *job, struct eval_setup *setup, struct imfd_ranks *ranks)
{
    struct imf_error err = {0};
    struct eval_state *state = NULL;
    struct eval_times times = {0};
    int code = IMFD_EXIT_FAILURE;
    catch_signals(); /* before the ranks first meet: whoever goes on knows that all catch them */
    uint8_t *done = calloc((size_t)job->blocks, 1);
    imf_status status = done ? eval_state_open(&state, job, ranks, &err) : IMF_ENOMEM;
    if (!agreed(ranks, status, &err))
        goto out;
    status = eval_state_done(state, ranks, done, &err);
    if (!agreed(ranks, status, &err))
        goto out;
    status = work(job, setup, state, ranks, done, &times, &err);
    if (!agreed(ranks, status, &err))
        goto out;
    status = eval_state_done(state, ranks, done, &err);
    if (!agreed(ranks, status, &err))
        goto out;
    code = all_done(job, done) ? finish_all(job, setup, state, ranks, &times)
                               : stopped(job, ranks, done);
out:
    eval_state_close(state);
    free(done);
    return code;
}

/* After loading: agreement of the ranks, what the workdir holds, then the work. */
static int begin(struct eval_job *job, struct eval_setup *setup, struct imfd_ranks *ranks)
{
    struct imf_error err = {0};
    if (!imfd_ranks_same(ranks, job->settings, strlen(job->settings))) {
        if (ranks->mpi.rank == 0)
            fprintf(stderr, "imfd evaluate: the ranks have different files, flags or kinds of "
                            "device; they must agree for one result\n");
        return IMFD_EXIT_FAILURE;
    }
    bool finished = false;
    imf_status status = eval_workdir_prepare(job, setup, ranks->mpi.rank, &finished, &err);
    if (!agreed(ranks, status, &err))
        return IMFD_EXIT_FAILURE;
    if (!imfd_ranks_all(ranks, !finished))
        return IMFD_EXIT_OK;
    return measure(job, setup, ranks);
}

/* One evaluation from loading to reports. */
static int evaluate(const struct eval_options *options, struct imfd_ranks *ranks)
{
    struct eval_job job = {.options = *options};
    struct imf_error err = {0};
    struct eval_setup setup = {0};
    int code;
    imf_status status = eval_setup_load(&setup, &job, ranks, &err);
    if (!agreed(ranks, status, &err))
        code = status == IMF_EINVAL ? IMFD_EXIT_USAGE : IMFD_EXIT_FAILURE;
    else
        code = begin(&job, &setup, ranks);
    eval_setup_free(&setup, &job);
    return code;
}

/* Every row of the release's table whose checkpoint is there, each in a workdir of its own; then
 * the table. */
static int evaluate_table(const struct eval_options *options, struct imfd_ranks *ranks)
{
    struct eval_table table;
    struct imf_error err = {0};
    imf_status status = eval_table_plan(&table, options, &err);
    if (!agreed(ranks, status, &err))
        return status == IMF_EINVAL ? IMFD_EXIT_USAGE : IMFD_EXIT_FAILURE;
    for (int i = 0; i < EVAL_PUBLISHED; i++) {
        if (!table.rows[i].checkpoint[0])
            continue;
        if (ranks->mpi.rank == 0 && !options->quiet)
            fprintf(stderr, "imfd evaluate: %s, %d step%s\n", table.rows[i].options.checkpoint,
                    table.rows[i].options.sampling.steps,
                    table.rows[i].options.sampling.steps == 1 ? "" : "s");
        int code = evaluate(&table.rows[i].options, ranks);
        if (code != IMFD_EXIT_OK)
            return code;
    }
    if (ranks->mpi.rank == 0)
        status = eval_table_write(&table, options, &err);
    return agreed(ranks, status, &err) ? IMFD_EXIT_OK : IMFD_EXIT_FAILURE;
}

int imfd_cmd_evaluate(int argc, char **argv)
{
    struct eval_options options;
    struct imfd_ranks ranks;
    struct imf_error err = {0};
    enum imfd_parsed parsed = eval_options_parse(&options, argc, argv);
    if (parsed != IMFD_PARSED_RUN)
        return parsed == IMFD_PARSED_HELP ? IMFD_EXIT_OK : IMFD_EXIT_USAGE;
    if (imfd_ranks_init(&ranks, &err) != IMF_OK) {
        fprintf(stderr, "imfd evaluate: %s\n", err.message);
        return IMFD_EXIT_FAILURE;
    }
    int code =
        options.release_table ? evaluate_table(&options, &ranks) : evaluate(&options, &ranks);
    imfd_ranks_finish(&ranks);
    return code;
}
