/* The release's table, and what was measured beside it. */
#include "evaluate/report.h"
#include "evaluate/setup.h"

#include "common/error.h"
#include "models/model_names.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const struct eval_published eval_published[EVAL_PUBLISHED] = {
    {"MiT_B_2", "sd-vae", 256, 1, 8.0f, 0.40f, 0.65f, 3.32, 255.7},
    {"MiT_M_2", "sd-vae", 256, 1, 10.5f, 0.40f, 0.60f, 2.26, 258.3},
    {"MiT_L_2", "sd-vae", 256, 1, 10.5f, 0.40f, 0.60f, 1.83, 275.7},
    {"MiT_XL_2", "sd-vae", 256, 1, 8.0f, 0.42f, 0.62f, 1.72, 279.9},
    {"MiT_XL_2", "sd-vae", 256, 2, 4.0f, 0.36f, 0.64f, 1.54, 288.9},
    {"pmfDiT_B_16", "none", 256, 1, 7.5f, 0.1f, 0.8f, 3.15, 252.9},
    {"pmfDiT_L_16", "none", 256, 1, 7.0f, 0.2f, 0.7f, 2.51, 262.8},
    {"pmfDiT_H_16", "none", 256, 1, 7.0f, 0.2f, 0.6f, 2.15, 267.2},
    {"pmfDiT_B_32", "none", 512, 1, 6.5f, 0.1f, 0.7f, 3.63, 273.2},
    {"pmfDiT_L_32", "none", 512, 1, 7.5f, 0.2f, 0.6f, 2.69, 276.0},
    {"pmfDiT_H_32", "none", 512, 1, 5.5f, 0.1f, 0.6f, 2.36, 284.3},
};

/* ---- Measured ------------------------------------------------------------------------------ */

static const char *text_of(const cJSON *json, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);
    return cJSON_IsString(item) ? item->valuestring : "";
}

static double number_of(const cJSON *json, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);
    return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

/* Settings are written with seven digits. */
static bool near(const cJSON *json, const char *name, double value)
{
    return fabs(number_of(json, name) - value) < 1e-6;
}

static double noise_scale_of(const struct eval_published *p)
{
    struct imf__meanflow_shape shape;
    return imf__meanflow_named(&shape, p->model)
               ? (double)imf__meanflow_defaults(&shape).noise_scale
               : 0;
}

struct eval_measured eval_measured_of(const cJSON *results, const struct eval_published *p)
{
    const cJSON *s = cJSON_GetObjectItemCaseSensitive(results, "settings");
    const cJSON *is = cJSON_GetObjectItemCaseSensitive(results, "inception_score");
    const cJSON *inception = cJSON_GetObjectItemCaseSensitive(results, "inception");
    bool there = cJSON_HasObjectItem(results, "fid");
    return (struct eval_measured){
        .there = there,
        .comparable = there && strcmp(text_of(s, "model"), p->model) == 0 &&
                      strcmp(text_of(s, "decoder"), p->decoder) == 0 &&
                      near(s, "steps", p->steps) && near(s, "noise_scale", noise_scale_of(p)) &&
                      near(s, "omega", (double)p->omega) && near(s, "t_min", (double)p->t_min) &&
                      near(s, "t_max", (double)p->t_max) &&
                      strcmp(text_of(s, "sample_seed"), "42") == 0 &&
                      near(results, "images", 50000) && near(inception, "narrow", 1),
        .fid = number_of(results, "fid"),
        .is = number_of(is, "mean")};
}

bool eval_measured_beside(struct eval_measured rows[EVAL_PUBLISHED], const cJSON *results)
{
    bool any = false;
    for (int i = 0; i < EVAL_PUBLISHED; i++) {
        rows[i] = eval_measured_of(results, &eval_published[i]);
        rows[i].there = rows[i].comparable;
        any = any || rows[i].there;
    }
    return any;
}

/* ---- As text and HTML ---------------------------------------------------------------------- */

void eval_table_text(FILE *f, const struct eval_measured rows[EVAL_PUBLISHED])
{
    fprintf(f, "  model        NFE   omega  t_min  t_max     FID      IS   measured FID / IS\n");
    for (int i = 0; i < EVAL_PUBLISHED; i++) {
        const struct eval_published *p = &eval_published[i];
        fprintf(f, "  %-11s  %3d  %6.1f  %5.2f  %5.2f  %6.2f  %6.1f   ", p->model, p->steps,
                (double)p->omega, (double)p->t_min, (double)p->t_max, p->fid, p->is);
        if (rows[i].there)
            fprintf(f, "%.2f / %.1f%s\n", rows[i].fid, rows[i].is,
                    rows[i].comparable ? "" : "  (not comparable)");
        else
            fprintf(f, "-\n");
    }
}

void eval_table_html(FILE *f, const struct eval_measured rows[EVAL_PUBLISHED])
{
    fprintf(f, "<table>\n<tr><th>model</th><th>NFE</th><th>omega</th><th>t_min</th><th>t_max</th>"
               "<th>FID</th><th>IS</th><th>measured FID</th><th>measured IS</th></tr>\n");
    for (int i = 0; i < EVAL_PUBLISHED; i++) {
        const struct eval_published *p = &eval_published[i];
        fprintf(f,
                "<tr%s><td>%s</td><td>%d</td><td>%g</td><td>%g</td><td>%g</td><td>%.2f</td><td>"
                "%.1f</td>",
                rows[i].there ? " class=\"here\"" : "", p->model, p->steps, (double)p->omega,
                (double)p->t_min, (double)p->t_max, p->fid, p->is);
        if (rows[i].there)
            fprintf(f, "<td>%.2f%s</td><td>%.1f</td></tr>\n", rows[i].fid,
                    rows[i].comparable ? "" : " (not comparable)", rows[i].is);
        else
            fprintf(f, "<td>-</td><td>-</td></tr>\n");
    }
    fprintf(f, "</table>\n");
}

/* ---- --release-table ------------------------------------------------------------------------- */

/* Under our name of the model or a published one: iMF-B-2 for MiT_B_2, pMF-B-16 for pmfDiT_B_16. */
static bool find_checkpoint(char path[4096], const char *folder, const char *model)
{
    static const char *const endings[] = {"pth", "pt", "safetensors", "bin"};
    char other[32] = "";
    if (strncmp(model, "pmfDiT_", 7) == 0)
        snprintf(other, sizeof(other), "pMF-%c-%s", model[7], model + 9);
    else if (strncmp(model, "MiT_", 4) == 0)
        snprintf(other, sizeof(other), "iMF-%.*s-2", (int)strcspn(model + 4, "_"), model + 4);
    for (size_t i = 0; i < 2 * sizeof(endings) / sizeof(endings[0]); i++) {
        const char *name = i % 2 ? other : model;
        if (name[0] && snprintf(path, 4096, "%s/%s.%s", folder, name, endings[i / 2]) < 4096 &&
            access(path, R_OK) == 0)
            return true;
    }
    path[0] = '\0';
    return false;
}

/* The reference for pictures of a size: --fid-ref itself, which is of 256 x 256 unless its name
 * says 512, or the one in its folder. "" when there is none. */
static void find_reference(char path[4096], const char *fid_ref, int side)
{
    struct stat st;
    const char *name = strrchr(fid_ref, '/');
    int of = strstr(name ? name : fid_ref, "512") ? 512 : 256;
    path[0] = '\0';
    if (stat(fid_ref, &st) == 0 && S_ISDIR(st.st_mode)) {
        if (snprintf(path, 4096, "%s/jit_in%d_stats.npz", fid_ref, side) >= 4096 ||
            access(path, R_OK) != 0)
            path[0] = '\0';
    } else if (of == side && snprintf(path, 4096, "%s", fid_ref) >= 4096) {
        path[0] = '\0';
    }
}

imf_status eval_table_plan(struct eval_table *t, const struct eval_options *o,
                           struct imf_error *err)
{
    int found = 0;
    for (int i = 0; i < EVAL_PUBLISHED; i++) {
        struct eval_table_row *row = &t->rows[i];
        const struct eval_published *p = &eval_published[i];
        row->checkpoint[0] = '\0';
        find_reference(row->fid_ref, o->fid_ref, p->side);
        if (!row->fid_ref[0] || !find_checkpoint(row->checkpoint, o->checkpoint, p->model))
            continue;
        bool decodes = strcmp(p->decoder, "none") != 0;
        if (decodes && !o->decoder)
            return imf__fail(err, IMF_EINVAL, "--release-table: %s needs --decoder", p->model);
        if (snprintf(row->workdir, sizeof(row->workdir), "%s/%s_%dnfe", o->workdir, p->model,
                     p->steps) >= (int)sizeof(row->workdir))
            return imf__fail(err, IMF_EINVAL, "--workdir: path too long");
        row->options = *o;
        row->options.checkpoint = row->checkpoint;
        row->options.fid_ref = row->fid_ref;
        row->options.decoder = decodes ? o->decoder : "none";
        row->options.workdir = row->workdir;
        row->options.sampling = (struct imf_sampling){p->steps, p->omega, p->t_min, p->t_max};
        found++;
    }
    if (found == 0)
        return imf__fail(
            err, IMF_EINVAL,
            "--release-table: %s is no folder that holds iMF-B-2.pth (or MiT_B_2.pth), "
            "iMF-M-2.pth, iMF-L-2.pth, iMF-XL-2.pth, pMF-B-16.pt, ... or pMF-H-32.pt with a "
            "reference for its size of picture in --fid-ref",
            o->checkpoint);
    return IMF_OK;
}

static void print_text(FILE *f, const void *user)
{
    fprintf(f, "The release's table (FID-50k, guidance and steps as released), and what was "
               "measured:\n\n");
    eval_table_text(f, user);
}

static void print_html(FILE *f, const void *user)
{
    eval_html_begin(f, "The release's table");
    eval_table_html(f, user);
    fprintf(f, "</body></html>\n");
}

imf_status eval_table_write(const struct eval_table *t, const struct eval_options *o,
                            struct imf_error *err)
{
    struct eval_measured rows[EVAL_PUBLISHED] = {{0}};
    for (int i = 0; i < EVAL_PUBLISHED; i++) {
        cJSON *results = t->rows[i].checkpoint[0] ? eval_read_results(t->rows[i].workdir) : NULL;
        rows[i] = eval_measured_of(results, &eval_published[i]);
        cJSON_Delete(results);
    }
    imf_status status = eval_write_file(o->workdir, "table.txt", print_text, rows, err);
    if (status == IMF_OK)
        status = eval_write_file(o->workdir, "table.html", print_html, rows, err);
    printf("\n");
    print_text(stdout, rows);
    fflush(stdout);
    return status;
}
