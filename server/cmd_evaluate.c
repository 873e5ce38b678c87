/* imfd evaluate: FID, Inception Score, KID, precision and recall of a model, or of a folder of
 * pictures. This file parses, loads, and keeps the order of things; evaluate.h says who does what.
 *
 * With several ranks every step that can fail ends in a vote (imfd_ranks_all), so that no rank
 * waits for one that gave up. */
#include "commands.h"
#include "evaluate.h"
#include "evaluate_setup.h"
#include "options.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static int64_t images_in(const struct eval_job *job, const int64_t *blocks, int64_t n)
{
    int64_t images = 0;
    for (int64_t i = 0; i < n; i++)
        images += eval_block_images(job, blocks[i]);
    return images;
}

/* Runs this rank's share with a progress bar on rank 0. */
static imf_status work(const struct eval_job *job, struct eval_setup *setup,
                       struct eval_state *state, const struct imfd_ranks *ranks,
                       const uint8_t *done, struct eval_times *times, struct imf_error *err)
{
    int64_t n = 0, *mine = share(ranks, done, job->blocks, &n);
    if (!mine) {
        err->status = IMF_ENOMEM;
        snprintf(err->message, sizeof(err->message), "out of memory");
        return IMF_ENOMEM;
    }
    int64_t images = images_in(job, mine, n), before = 0;
    char label[48] = "evaluating";
    if (ranks->mpi.size > 1) /* the others' progress is not known here */
        snprintf(label, sizeof(label), "evaluating, rank 0 of %d", ranks->mpi.size);
    else
        before = job->images - images;
    struct imfd_progress bar;
    imfd_progress_start(&bar, label, "images", (double)(before + images),
                        job->options.quiet || ranks->mpi.rank != 0);
    bar.first = (double)before;
    if (before > 0 && !job->options.quiet)
        fprintf(stderr, "imfd evaluate: going on after %lld of %lld images\n", (long long)before,
                (long long)job->images);
    imf_status status = eval_run(job, setup->devices, setup->n_devices, mine, n, state,
                                 &stop_requested, &bar, before, times, err);
    if (status == IMF_OK && !atomic_load(&stop_requested))
        imfd_progress_end(&bar);
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
    status =
        eval_score(job, eval_state_stats(state), logits, features, setup->reference, &scores, err);
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
    uint8_t *done = calloc((size_t)job->blocks, 1);
    imf_status status = done ? eval_state_open(&state, job, ranks, &err) : IMF_ENOMEM;
    if (!agreed(ranks, status, &err))
        goto out;
    status = eval_state_done(state, ranks, done, &err);
    if (!agreed(ranks, status, &err))
        goto out;
    catch_signals();
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

int imfd_cmd_evaluate(int argc, char **argv)
{
    struct eval_job job;
    struct imfd_ranks ranks;
    struct imf_error err = {0};
    int code;
    enum imfd_parsed parsed = eval_options_parse(&job.options, argc, argv);
    if (parsed != IMFD_PARSED_RUN)
        return parsed == IMFD_PARSED_HELP ? IMFD_EXIT_OK : IMFD_EXIT_USAGE;
    if (imfd_ranks_init(&ranks, &err) != IMF_OK) {
        fprintf(stderr, "imfd evaluate: %s\n", err.message);
        return IMFD_EXIT_FAILURE;
    }
    struct eval_setup setup = {0};
    imf_status status = eval_setup_load(&setup, &job, &ranks, &err);
    if (!agreed(&ranks, status, &err))
        code = status == IMF_EINVAL ? IMFD_EXIT_USAGE : IMFD_EXIT_FAILURE;
    else
        code = begin(&job, &setup, &ranks);
    eval_setup_free(&setup, &job);
    imfd_ranks_finish(&ranks);
    return code;
}
