/* Inside `imfd evaluate`: what the writers of reports share. */
#ifndef IMFD_EVALUATE_REPORT_H
#define IMFD_EVALUATE_REPORT_H

#include "evaluate/evaluate.h"

#include <cjson/cJSON.h>

#include <stdio.h>

/* ---- table.c ---- */

/* A row of the releases' tables: FID-50k and IS at its sampling settings. */
struct eval_published {
    const char *model;
    const char *decoder; /* "sd-vae", or "none" */
    int side;            /* of the pictures */
    int steps;
    float omega, t_min, t_max;
    double fid, is;
};
enum { EVAL_PUBLISHED = 11 };
extern const struct eval_published eval_published[EVAL_PUBLISHED];

/* What this machine measured for each row. */
struct eval_measured {
    bool there;
    bool comparable; /* the row's very settings, networks and number of images */
    double fid, is;
};
/* What results.json (or NULL) says, beside a row. */
struct eval_measured eval_measured_of(const cJSON *results, const struct eval_published *p);
/* One run beside the whole table: only in rows it compares with. False when it is in none. */
bool eval_measured_beside(struct eval_measured rows[EVAL_PUBLISHED], const cJSON *results);
void eval_table_text(FILE *f, const struct eval_measured rows[EVAL_PUBLISHED]);
void eval_table_html(FILE *f, const struct eval_measured rows[EVAL_PUBLISHED]);

/* --release-table: an evaluation for every row whose checkpoint is in the folder. */
struct eval_table {
    struct eval_table_row {
        char checkpoint[4096], workdir[4096], fid_ref[4096]; /* "": not there */
        struct eval_options options;                         /* borrows the three */
    } rows[EVAL_PUBLISHED];
};
IMF_MUST_CHECK imf_status eval_table_plan(struct eval_table *t, const struct eval_options *o,
                                          struct imf_error *err);
/* From the results of all rows: to stdout, and as table.txt and table.html. */
IMF_MUST_CHECK imf_status eval_table_write(const struct eval_table *t, const struct eval_options *o,
                                           struct imf_error *err);

/* ---- html.c ---- */

void eval_html_report(FILE *f, const struct eval_report *r);
/* Head of a page, up to and with its <h1>. */
void eval_html_begin(FILE *f, const char *title);

/* ---- report.c ---- */

/* The content of results.json; the caller's. */
cJSON *eval_results(const struct eval_report *r);
/* WORKDIR/NAME, replaced as a whole by what `body` prints of `user`. */
IMF_MUST_CHECK imf_status eval_write_file(const char *workdir, const char *name,
                                          void (*body)(FILE *f, const void *user), const void *user,
                                          struct imf_error *err);

#endif
