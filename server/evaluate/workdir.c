/* The workdir: made, and what it already holds looked at. */
#include "evaluate/setup.h"

#include "base/read_file.h"
#include "common/error.h"
#include "files/output_file.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_SIZE = 4096, MAX_RESULTS = 1 << 20 };

cJSON *eval_read_results(const char *workdir)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/results.json", workdir);
    char *text;
    size_t n;
    if (imfd_read_file(&text, &n, path, MAX_RESULTS, false, NULL) != IMF_OK)
        return NULL;
    cJSON *json = cJSON_Parse(text);
    free(text);
    return json;
}

static void print_old_report(const char *workdir)
{
    char path[PATH_SIZE], line[1024];
    snprintf(path, sizeof(path), "%s/report.txt", workdir);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof(line), f))
        fputs(line, stdout);
    if (f)
        fclose(f);
}

/* A finished evaluation in the workdir: the same, against the same reference, is shown again; the
 * same pictures against another reference are measured again; other settings are refused. */
static imf_status look_at_results(const struct eval_job *job, const struct eval_setup *setup,
                                  bool *finished, struct imf_error *err)
{
    cJSON *json = eval_read_results(job->options.workdir);
    if (!json)
        return IMF_OK;
    imf_status status = IMF_OK;
    cJSON *settings = cJSON_GetObjectItemCaseSensitive(json, "settings");
    cJSON *now = cJSON_Parse(job->settings);
    const cJSON *reference = cJSON_GetObjectItemCaseSensitive(json, "reference_fingerprint");
    const char *theirs = cJSON_IsString(reference) ? reference->valuestring : "";
    const char *ours = setup->reference ? setup->reference->fingerprint : "";
    if (!cJSON_Compare(settings, now, true)) {
        status = imf__fail(err, IMF_EINVAL,
                           "%s holds a finished evaluation with other settings: use another "
                           "--workdir, or --restart to discard it",
                           job->options.workdir);
    } else if (strcmp(theirs, ours) == 0 && !job->options.make_ref) {
        fprintf(stderr,
                "imfd evaluate: %s holds this evaluation already (--restart measures "
                "again)\n",
                job->options.workdir);
        print_old_report(job->options.workdir);
        *finished = true;
    }
    cJSON_Delete(json);
    cJSON_Delete(now);
    return status;
}

static void discard(const struct eval_job *job)
{
    static const char *const names[] = {"results.json", "report.txt", "report.html", "grid.png"};
    char path[PATH_SIZE];
    eval_state_remove(job);
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof(path), "%s/%s", job->options.workdir, names[i]);
        unlink(path);
    }
}

imf_status eval_workdir_prepare(const struct eval_job *job, const struct eval_setup *setup,
                                int rank, bool *finished, struct imf_error *err)
{
    char path[PATH_SIZE];
    imf_status status = imf__output_folder(job->options.workdir, err);
    if (status == IMF_OK) {
        snprintf(path, sizeof(path), "%s/grid", job->options.workdir);
        status = imf__output_folder(path, err);
    }
    if (status == IMF_OK && job->options.save_samples) {
        snprintf(path, sizeof(path), "%s/samples", job->options.workdir);
        status = imf__output_folder(path, err);
    }
    if (status != IMF_OK)
        return status;
    if (job->options.restart) {
        if (rank == 0)
            discard(job);
        else /* where the workdir is not shared */
            eval_state_remove_own(job, rank);
        return IMF_OK;
    }
    return rank == 0 ? look_at_results(job, setup, finished, err) : IMF_OK;
}
