/* Inside `imfd evaluate`: flags, devices, files, and what a workdir already holds. */
#ifndef IMFD_EVALUATE_SETUP_H
#define IMFD_EVALUATE_SETUP_H

#include "evaluate/evaluate.h"
#include "base/options.h"

#include <cjson/cJSON.h>

struct eval_setup {
    struct eval_device devices[MAX_DEVICES];
    int n_devices;
    char description[256];           /* of the first device */
    struct imf_reference *reference; /* --fid-ref; NULL without */
};

/* ---- options.c ---- */

/* Parses and checks what can be checked without opening files; sentences go to stderr. */
enum imfd_parsed eval_options_parse(struct eval_options *o, int argc, char **argv);

/* ---- devices.c ---- */

bool eval_is_cuda(const char *device);
/* Every device of this rank with its networks. */
IMF_MUST_CHECK imf_status eval_devices_load(struct eval_setup *s, const struct eval_job *job,
                                            const struct imfd_ranks *ranks, struct imf_error *err);
void eval_devices_free(struct eval_setup *s);
/* FLOP/s of a float32 matrix multiplication on a whole device, measured now. */
IMF_MUST_CHECK imf_status eval_matmul_rate(const struct eval_device *d, double *rate);

/* ---- setup.c ---- */

/* Loads the reference, every device of this rank with its networks, and fills in the job, of which
 * the options are set and everything else is zero.
 * IMF_EINVAL means that the command line is wrong. */
IMF_MUST_CHECK imf_status eval_setup_load(struct eval_setup *s, struct eval_job *job,
                                          const struct imfd_ranks *ranks, struct imf_error *err);
void eval_setup_free(struct eval_setup *s, struct eval_job *job);

/* ---- workdir.c ---- */

/* Makes the workdir and its folders; with --restart clears what an earlier run left; refuses one
 * with other settings. *finished: it holds this very evaluation already, which was printed. */
IMF_MUST_CHECK imf_status eval_workdir_prepare(const struct eval_job *job,
                                               const struct eval_setup *setup, int rank,
                                               bool *finished, struct imf_error *err);
/* results.json of a finished evaluation, or NULL; the caller's. */
cJSON *eval_read_results(const char *workdir);

#endif
