/* Results of an evaluation: results.json for programs, report.txt and report.html for people, with
 * the published table beside the measured numbers. */
#include "evaluate.h"

#include "error.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PATH_SIZE = 4096 };

/* FID-50k and IS that the release reports, at its sampling settings. */
static const struct published {
    const char *model;
    int steps;
    float omega, t_min, t_max;
    double fid, is;
} published[] = {
    {"MiT_B_2", 1, 8.0f, 0.40f, 0.65f, 3.32, 255.7},
    {"MiT_M_2", 1, 10.5f, 0.40f, 0.60f, 2.26, 258.3},
    {"MiT_L_2", 1, 10.5f, 0.40f, 0.60f, 1.83, 275.7},
    {"MiT_XL_2", 1, 8.0f, 0.42f, 0.62f, 1.72, 279.9},
    {"MiT_XL_2", 2, 4.0f, 0.36f, 0.64f, 1.54, 288.9},
};
enum { PUBLISHED = sizeof(published) / sizeof(published[0]) };

/* Whether this run is one the release reports, down to every setting. */
static bool comparable(const struct eval_report *r, const struct published *p)
{
    const struct imf_sampling *s = &r->job->sampling;
    return r->model && strcmp(r->model->name, p->model) == 0 && s->steps == p->steps &&
           fabsf(s->omega - p->omega) < 1e-6f && fabsf(s->t_min - p->t_min) < 1e-6f &&
           fabsf(s->t_max - p->t_max) < 1e-6f && r->job->images == 50000 &&
           r->job->options.sample_seed == 42;
}

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
    cJSON_AddNumberToObject(o, "gflop_per_picture", r->inception_flops / 1e9);
    cJSON_AddNumberToObject(o, "gflops", rate / 1e9);
    cJSON_AddNumberToObject(o, "matmul_gflops", r->matmul_rate / 1e9);
    cJSON_AddNumberToObject(o, "ratio", r->matmul_rate > 0 ? rate / r->matmul_rate : 0);
}

static void add_scores(cJSON *json, const struct eval_scores *s)
{
    if (s->has_fid)
        cJSON_AddNumberToObject(json, "fid", s->fid);
    add_pair(json, "inception_score", s->is);
    if (s->has_kid)
        add_pair(json, "kid", s->kid);
    if (s->has_pr) {
        cJSON_AddNumberToObject(json, "precision", s->pr.precision);
        cJSON_AddNumberToObject(json, "recall", s->pr.recall);
    }
}

static cJSON *to_json(const struct eval_report *r)
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

static void text_table(FILE *f, const struct eval_report *r)
{
    const struct eval_scores *s = r->scores;
    fprintf(f,
            "\nThe release's table (FID-50k, guidance and steps as released) beside this run:\n\n"
            "  model     NFE   omega  t_min  t_max     FID      IS   measured FID / IS\n");
    bool any = false;
    for (int i = 0; i < PUBLISHED; i++) {
        const struct published *p = &published[i];
        fprintf(f, "  %-8s  %3d  %6.1f  %5.2f  %5.2f  %6.2f  %6.1f   ", p->model, p->steps,
                (double)p->omega, (double)p->t_min, (double)p->t_max, p->fid, p->is);
        if (comparable(r, p) && s->has_fid) {
            fprintf(f, "%.2f / %.1f\n", s->fid, s->is.mean);
            any = true;
        } else {
            fprintf(f, "-\n");
        }
    }
    if (any)
        return;
    fprintf(f,
            "\n  This run is in none of these rows: another model, other settings, another number"
            " of\n  images or another seed");
    if (s->has_fid)
        fprintf(f, "; it measured FID %.2f, IS %.1f", s->fid, s->is.mean);
    fprintf(f, ".\n");
}

static void text_report(FILE *f, const struct eval_report *r)
{
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
    fprintf(f, "Inception Score   %.6f +- %.6f\n", s->is.mean, s->is.std);
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
    text_table(f, r);
}

void eval_print_report(const struct eval_report *r)
{
    text_report(stdout, r);
    fflush(stdout);
}

/* ---- HTML ---------------------------------------------------------------------------------- */

static void html_text(FILE *f, const char *s)
{
    for (; *s; s++) {
        switch (*s) {
        case '<':
            fputs("&lt;", f);
            break;
        case '>':
            fputs("&gt;", f);
            break;
        case '&':
            fputs("&amp;", f);
            break;
        case '"':
            fputs("&quot;", f);
            break;
        default:
            fputc(*s, f);
        }
    }
}

static void html_row(FILE *f, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void html_row(FILE *f, const char *name, const char *format, ...)
{
    char value[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(value, sizeof(value), format, ap);
    va_end(ap);
    fprintf(f, "<tr><th>%s</th><td>", name);
    html_text(f, value);
    fprintf(f, "</td></tr>\n");
}

static void html_published(FILE *f, const struct eval_report *r)
{
    const struct eval_scores *s = r->scores;
    fprintf(f, "<h2>The release's table beside this run</h2>\n<table>\n<tr><th>model</th><th>NFE"
               "</th><th>omega</th><th>t_min</th><th>t_max</th><th>FID</th><th>IS</th><th>measured "
               "FID</th><th>measured IS</th></tr>\n");
    for (int i = 0; i < PUBLISHED; i++) {
        const struct published *p = &published[i];
        bool here = comparable(r, p) && s->has_fid;
        fprintf(f,
                "<tr%s><td>%s</td><td>%d</td><td>%g</td><td>%g</td><td>%g</td><td>%.2f</td><td>"
                "%.1f</td>",
                here ? " class=\"here\"" : "", p->model, p->steps, (double)p->omega,
                (double)p->t_min, (double)p->t_max, p->fid, p->is);
        if (here)
            fprintf(f, "<td>%.2f</td><td>%.1f</td></tr>\n", s->fid, s->is.mean);
        else
            fprintf(f, "<td>-</td><td>-</td></tr>\n");
    }
    fprintf(f, "</table>\n");
}

static void html_settings(FILE *f, const struct eval_report *r)
{
    fprintf(f, "<h2>Settings</h2>\n<table>\n");
    cJSON *settings = cJSON_Parse(r->job->settings);
    for (const cJSON *c = settings ? settings->child : NULL; c; c = c->next) {
        if (cJSON_IsString(c))
            html_row(f, c->string, "%s", c->valuestring);
        else if (cJSON_IsNumber(c))
            html_row(f, c->string, "%.9g", c->valuedouble);
    }
    cJSON_Delete(settings);
    fprintf(f, "</table>\n");
}

static void html_report(FILE *f, const struct eval_report *r)
{
    const struct eval_scores *s = r->scores;
    fprintf(f,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>imfd evaluate"
            "</title>\n<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem "
            "auto;padding:0 1rem}table{border-collapse:collapse}th,td{border:1px solid #bbb;"
            "padding:.2rem .6rem;text-align:left}.here{background:#dff3df}img{max-width:100%%}"
            "</style></head>\n<body>\n<h1>");
    html_text(f, r->model ? r->model->name : r->job->options.images);
    fprintf(f, "</h1>\n<table>\n");
    if (s->has_fid)
        html_row(f, "FID", "%.6f", s->fid);
    html_row(f, "Inception Score", "%.6f \302\261 %.6f", s->is.mean, s->is.std);
    if (s->has_kid)
        html_row(f, "KID", "%.8f \302\261 %.8f", s->kid.mean, s->kid.std);
    if (s->has_pr) {
        html_row(f, "Precision", "%.6f", s->pr.precision);
        html_row(f, "Recall", "%.6f", s->pr.recall);
    }
    html_row(f, "Images", "%lld", (long long)r->job->images);
    html_row(f, "Time", "%.1f s on %s, %d rank%s", r->seconds, r->device, r->ranks,
             r->ranks == 1 ? "" : "s");
    fprintf(f, "</table>\n");
    html_published(f, r);
    html_settings(f, r);
    fprintf(
        f, "<h2>Samples</h2>\n<p><img src=\"grid.png\" alt=\"sample grid\"></p>\n</body></html>\n");
}

/* ---- Files --------------------------------------------------------------------------------- */

static imf_status write_file(const struct eval_report *r, const char *name,
                             void (*body)(FILE *f, const struct eval_report *r),
                             struct imf_error *err)
{
    char path[PATH_SIZE], temporary[PATH_SIZE + 8];
    snprintf(path, sizeof(path), "%s/%s", r->job->options.workdir, name);
    snprintf(temporary, sizeof(temporary), "%s.tmp", path);
    FILE *f = fopen(temporary, "w");
    if (!f)
        return imf__fail(err, IMF_EIO, "%s: %s", path, strerror(errno));
    body(f, r);
    bool ok = fflush(f) == 0 && !ferror(f) && fsync(fileno(f)) == 0;
    int cause = errno;
    ok = fclose(f) == 0 && ok;
    if (ok && rename(temporary, path) == 0)
        return IMF_OK;
    unlink(temporary);
    return imf__fail(err, IMF_EIO, "%s: cannot be written: %s%s", path, strerror(cause),
                     cause == ENOSPC ? "; free some space and run the same command again" : "");
}

static void json_report(FILE *f, const struct eval_report *r)
{
    cJSON *json = to_json(r);
    char *text = cJSON_Print(json);
    if (text)
        fprintf(f, "%s\n", text);
    free(text);
    cJSON_Delete(json);
}

imf_status eval_write_reports(const struct eval_report *r, struct imf_error *err)
{
    imf_status status = write_file(r, "report.txt", text_report, err);
    if (status == IMF_OK)
        status = write_file(r, "report.html", html_report, err);
    if (status == IMF_OK) /* last: its presence says that the evaluation is complete */
        status = write_file(r, "results.json", json_report, err);
    return status;
}
