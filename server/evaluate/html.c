/* report.html of an evaluation. */
#include "evaluate/report.h"

#include <cjson/cJSON.h>
#include <stdarg.h>

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

void eval_html_begin(FILE *f, const char *title)
{
    fprintf(f,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>imfd evaluate"
            "</title>\n<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem "
            "auto;padding:0 1rem}table{border-collapse:collapse}th,td{border:1px solid #bbb;"
            "padding:.2rem .6rem;text-align:left}.here{background:#dff3df}img{max-width:100%%}"
            "</style></head>\n<body>\n<h1>");
    html_text(f, title);
    fprintf(f, "</h1>\n");
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

void eval_html_report(FILE *f, const struct eval_report *r)
{
    const struct eval_scores *s = r->scores;
    struct eval_measured rows[EVAL_PUBLISHED];
    eval_html_begin(f, r->model ? r->model->name : r->job->options.images);
    fprintf(f, "<table>\n");
    if (s->has_fid)
        html_row(f, "FID", "%.6f", s->fid);
    if (s->has_sfid)
        html_row(f, "sFID", "%.6f", s->sfid);
    if (s->has_is)
        html_row(f, "Inception Score", "%.6f \302\261 %.6f", s->is.mean, s->is.std);
    if (s->has_kid)
        html_row(f, "KID", "%.8f \302\261 %.8f", s->kid.mean, s->kid.std);
    if (s->has_pr) {
        html_row(f, "Precision", "%.6f", s->pr.precision);
        html_row(f, "Recall", "%.6f", s->pr.recall);
    }
    if (r->inception_narrow > 1)
        html_row(f, "InceptionV3", "a test's, of %d times fewer channels", r->inception_narrow);
    html_row(f, "Images", "%lld", (long long)r->job->images);
    html_row(f, "Time", "%.1f s on %s, %d rank%s", r->seconds, r->device, r->ranks,
             r->ranks == 1 ? "" : "s");
    fprintf(f, "</table>\n");
    fprintf(f, "<h2>The release's table beside this run</h2>\n");
    cJSON *results = eval_results(r);
    (void)eval_measured_beside(rows, results);
    cJSON_Delete(results);
    eval_table_html(f, rows);
    html_settings(f, r);
    fprintf(
        f, "<h2>Samples</h2>\n<p><img src=\"grid.png\" alt=\"sample grid\"></p>\n</body></html>\n");
}
