/* Results of an evaluation: results.json for programs; report.txt (and report.html, by
 * html.c) for people, with the published table beside the measured numbers. */
#include "evaluate/report.h"

#include "common/error.h"
#include "files/output_file.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PATH_SIZE = 4096 };

/* ---- JSON ---------------------------------------------------------------------------------- */

static void add_pair(cJSON *json, const char *name, struct imf_mean_std v)
{
    cJSON *o = cJSON_AddObjectToObject(json, name);
    cJSON_AddNumberToObject(o, "mean", v.mean);
    cJSON_AddNumberToObject(o, "std", v.std);
}

static void add_times(cJSON *json, const struct eval_report *r)
{
    const struct eval_times *t = r->times;
    cJSON *o = cJSON_AddObjectToObject(json, "seconds");
    cJSON_AddNumberToObject(o, "total", r->seconds);
    cJSON_AddNumberToObject(o, "step", t->step);
    cJSON_AddNumberToObject(o, "decode", t->decode);
    cJSON_AddNumberToObject(o, "features", t->features);
    cJSON_AddNumberToObject(o, "generator_waits", t->generator_waits);
    cJSON_AddNumberToObject(o, "save_pictures", t->save);
    cJSON_AddNumberToObject(o, "statistics", t->statistics);
    cJSON_AddNumberToObject(o, "scores", r->scores->seconds);
}

/* InceptionV3's rate beside a plain matrix multiplication's; 0 when nothing was computed. */
static double inception_rate(const struct eval_report *r)
{
    const struct eval_times *t = r->times;
    return t->features > 0 ? (double)t->images * r->inception_flops / t->features : 0;
}

static void add_speed(cJSON *json, const struct eval_report *r)
{
    double rate = inception_rate(r);
    cJSON *o = cJSON_AddObjectToObject(json, "inception");
    cJSON_AddStringToObject(o, "fingerprint", r->inception_fingerprint);
    cJSON_AddNumberToObject(o, "narrow", r->inception_narrow);
    cJSON_AddNumberToObject(o, "gflop_per_picture", r->inception_flops / 1e9);
    cJSON_AddNumberToObject(o, "gflops", rate / 1e9);
    cJSON_AddNumberToObject(o, "matmul_gflops", r->matmul_rate / 1e9);
    cJSON_AddNumberToObject(o, "ratio", r->matmul_rate > 0 ? rate / r->matmul_rate : 0);
}

static void add_scores(cJSON *json, const struct eval_scores *s)
{
    if (s->has_fid)
        cJSON_AddNumberToObject(json, "fid", s->fid);
    if (s->has_sfid)
        cJSON_AddNumberToObject(json, "sfid", s->sfid);
    if (s->has_is)
        add_pair(json, "inception_score", s->is);
    if (s->has_kid)
        add_pair(json, "kid", s->kid);
    if (s->has_pr) {
        cJSON_AddNumberToObject(json, "precision", s->pr.precision);
        cJSON_AddNumberToObject(json, "recall", s->pr.recall);
    }
}

cJSON *eval_results(const struct eval_report *r)
{
    const struct eval_job *job = r->job;
    cJSON *json = cJSON_CreateObject();
    add_scores(json, r->scores);
    cJSON_AddNumberToObject(json, "images", (double)job->images);
    cJSON_AddItemToObject(json, "settings", cJSON_Parse(job->settings));
    cJSON *paths = cJSON_AddObjectToObject(json, "files");
    const struct eval_options *o = &job->options;
    const char *const names[] = {"checkpoint", "decoder",   "images",
                                 "inception",  "reference", "made_reference"};
    const char *const values[] = {o->checkpoint, o->decoder, o->images,
                                  o->inception,  o->fid_ref, o->make_ref};
    for (int i = 0; i < 6; i++)
        if (values[i])
            cJSON_AddStringToObject(paths, names[i], values[i]);
    if (r->scores->has_fid)
        cJSON_AddStringToObject(json, "reference_fingerprint", r->scores->reference_fingerprint);
    cJSON *command = cJSON_AddArrayToObject(json, "command");
    cJSON_AddItemToArray(command, cJSON_CreateString("imfd"));
    for (int i = 0; i < o->argc; i++)
        cJSON_AddItemToArray(command, cJSON_CreateString(o->argv[i]));
    cJSON *metric = cJSON_AddObjectToObject(json, "metrics");
    cJSON_AddNumberToObject(metric, "is_splits", EVAL_IS_SPLITS);
    cJSON_AddNumberToObject(metric, "seed", EVAL_SEED);
    cJSON_AddNumberToObject(metric, "kid_subsets", o->kid_subsets);
    cJSON_AddNumberToObject(metric, "kid_subset_size", o->kid_subset_size);
    cJSON_AddNumberToObject(metric, "precision_recall_k", EVAL_PR_K);
    cJSON_AddStringToObject(json, "imfd", imf_version());
    cJSON_AddStringToObject(json, "device", r->device);
    cJSON_AddNumberToObject(json, "ranks", r->ranks);
    cJSON_AddNumberToObject(json, "devices_per_rank", r->devices);
    add_times(json, r);
    add_speed(json, r);
    char when[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    cJSON_AddStringToObject(json, "finished", when);
    return json;
}

/* ---- Text ---------------------------------------------------------------------------------- */

static void text_report(FILE *f, const void *user)
{
    const struct eval_report *r = user;
    struct eval_measured rows[EVAL_PUBLISHED];
    const struct eval_job *job = r->job;
    const struct eval_scores *s = r->scores;
    const struct imf_sampling *p = &job->sampling;
    if (r->model)
        fprintf(f,
                "%s with decoder %s: %lld images, %d step%s, omega %g, t_min %g, t_max %g, "
                "sample seed %llu\n",
                r->model->name, r->model->decoder, (long long)job->images, p->steps,
                p->steps == 1 ? "" : "s", (double)p->omega, (double)p->t_min, (double)p->t_max,
                (unsigned long long)job->options.sample_seed);
    else
        fprintf(f, "%s: %lld images\n", job->options.images, (long long)job->images);
    fprintf(f, "\n");
    if (s->has_fid)
        fprintf(f, "FID               %.6f   (against %s)\n", s->fid, job->options.fid_ref);
    if (s->has_sfid)
        fprintf(f, "sFID              %.6f   (spatial features, as the ADM suite has them)\n",
                s->sfid);
    if (s->has_is)
        fprintf(f, "Inception Score   %.6f +- %.6f\n", s->is.mean, s->is.std);
    else
        fprintf(f, "Inception Score   needs %d pictures\n", EVAL_IS_SPLITS);
    if (s->has_kid)
        fprintf(f, "KID               %.8f +- %.8f   (%d subsets of %d)\n", s->kid.mean, s->kid.std,
                job->options.kid_subsets, job->options.kid_subset_size);
    if (s->has_pr)
        fprintf(f, "Precision         %.6f\nRecall            %.6f   (k = %d)\n", s->pr.precision,
                s->pr.recall, EVAL_PR_K);
    if (job->options.make_ref)
        fprintf(f, "Statistics        written to %s\n", job->options.make_ref);
    const struct eval_times *t = r->times;
    double rate = inception_rate(r);
    fprintf(f, "\n%s, %d rank%s: %.1f s in all", r->device, r->ranks, r->ranks == 1 ? "" : "s",
            r->seconds);
    if (t->images > 0)
        fprintf(f,
                "; of rank 0: step %.1f s, decode %.1f s, features %.1f s, generator waiting "
                "%.1f s",
                t->step, t->decode, t->features, t->generator_waits);
    fprintf(f, "\n");
    if (rate > 0 && r->matmul_rate > 0)
        fprintf(f,
                "InceptionV3 %.0f GFLOP/s, %.0f %% of a float32 matrix multiplication here "
                "(%.0f GFLOP/s)\n",
                rate / 1e9, 100 * rate / r->matmul_rate, r->matmul_rate / 1e9);
    if (r->inception_narrow > 1)
        fprintf(f,
                "This InceptionV3 has %d times fewer channels than the published one: a test's, "
                "whose numbers\ncompare with nothing but themselves\n",
                r->inception_narrow);
    fprintf(f, "\nThe release's table (FID-50k, guidance and steps as released) beside this "
               "run:\n\n");
    cJSON *results = eval_results(r);
    bool any = eval_measured_beside(rows, results);
    cJSON_Delete(results);
    eval_table_text(f, rows);
    if (!any)
        fprintf(f, "\n  This run is in none of these rows: another model, other settings, another "
                   "number of\n  images or another seed.\n");
}

void eval_print_report(const struct eval_report *r)
{
    text_report(stdout, r);
    fflush(stdout);
}

/* ---- Files --------------------------------------------------------------------------------- */

imf_status eval_write_file(const char *workdir, const char *name,
                           void (*body)(FILE *f, const void *user), const void *user,
                           struct imf_error *err)
{
    char path[PATH_SIZE], *text = NULL;
    size_t size = 0;
    snprintf(path, sizeof(path), "%s/%s", workdir, name);
    FILE *f = open_memstream(&text, &size);
    if (f)
        body(f, user);
    if (!f || fclose(f) != 0) {
        free(text);
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
    }
    imf_status status = imf__output_save(path, &(struct iovec){text, size}, 1, err);
    free(text);
    if (status != IMF_OK && err && strstr(err->message, strerror(ENOSPC))) {
        size_t n = strlen(err->message);
        snprintf(err->message + n, sizeof(err->message) - n,
                 "; free some space and run the same command again");
    }
    return status;
}

static void json_report(FILE *f, const void *user)
{
    cJSON *json = eval_results(user);
    char *text = cJSON_Print(json);
    if (text)
        fprintf(f, "%s\n", text);
    free(text);
    cJSON_Delete(json);
}

static void html_report(FILE *f, const void *user)
{
    eval_html_report(f, user);
}

imf_status eval_write_reports(const struct eval_report *r, struct imf_error *err)
{
    const char *workdir = r->job->options.workdir;
    imf_status status = eval_write_file(workdir, "report.txt", text_report, r, err);
    if (status == IMF_OK)
        status = eval_write_file(workdir, "report.html", html_report, r, err);
    if (status == IMF_OK) /* last: its presence says that the evaluation is complete */
        status = eval_write_file(workdir, "results.json", json_report, r, err);
    return status;
}
