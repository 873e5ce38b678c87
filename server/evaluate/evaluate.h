/* Inside `imfd evaluate`: what its files share.
 *
 *   ../cli/evaluate.c  the order of things
 *   options.c           flags
 *   devices.c           devices and what is loaded on them
 *   setup.c             settings, references: all that is checked before the work
 *   workdir.c           what a workdir already holds
 *   run.c               the pipeline of threads; its stages:
 *     generate.c        step and decode
 *     features.c        InceptionV3
 *     pictures.c        PNGs read and written
 *     block.c           what travels between them
 *   state.c             what is kept on disk while the work goes on
 *   collect.c           bringing it from all ranks to rank 0
 *   images.c            folders of PNGs, sample grid
 *   score.c             the numbers, once all pictures are done
 *   report.c            results.json and report.txt
 *   html.c              report.html
 *   ranks.c             several machines, through mpi_module.c
 *
 * Pictures are cut in blocks of EVAL_BLOCK. A block is the unit of everything: which rank and
 * device does it, what is saved, how statistics are added up. Its number alone decides its
 * pictures, so the result does not depend on who did what, nor on interruptions. */
#ifndef IMFD_EVALUATE_H
#define IMFD_EVALUATE_H

#include "imf.h"
#include "imf_metrics.h"
#include "base/progress.h"
#include "evaluate/ranks.h"
#include "settings/model_options.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    EVAL_BLOCK = 64,
    EVAL_GRID = 8,       /* the sample grid is at most 8 x 8 */
    EVAL_MAX_LANES = 16, /* copies of InceptionV3 (100 MB each) on one CPU device */
    EVAL_IS_SPLITS = 10,
    EVAL_SEED = 2020, /* of permutations: torch-fidelity's */
    EVAL_PR_K = 3,
};

struct eval_options {
    char **argv; /* the whole command, for the report */
    int argc;
    const char *checkpoint, *checkpoint_key, *model, *decoder, *inception, *fid_ref, *workdir,
        *images, *make_ref;
    struct device_options device;
    struct imf_sampling sampling; /* what was given; SAMPLING_UNSET */
    int num_images, batch, checkpoint_s, kid_subsets, kid_subset_size;
    float noise_scale;
    uint64_t sample_seed;
    bool num_images_given;
    bool save_samples, recursive, kid, precision_recall, keep_features, sfid, restart, quiet,
        release_table;
};

/* One device of this process, with everything loaded on it. */
struct eval_device {
    char name[256];
    struct imf_engine *engine; /* generates; NULL with --images */
    struct imf_model *model;
    struct eval_lane {
        struct imf_engine *engine; /* float32 */
        struct imf_inception *net;
    } lanes[EVAL_MAX_LANES]; /* features; on the CPU several, with a picture each: one picture on
                              * many threads would wait for the slowest 94 times */
    int n_lanes, threads;    /* threads: of the CPU device, over all lanes */
};

/* What is to be done; read-only while the threads run. */
struct eval_job {
    struct eval_options options;
    struct imf_sampling sampling; /* with --images unused */
    struct eval_source *source;   /* --images: pictures that are there already, or NULL */
    int64_t images, blocks;
    int classes, width, height; /* of generated pictures */
    bool want_features;         /* kept on disk: KID, precision/recall or --keep-features */
    bool want_spatial;          /* statistics of spatial features: sFID */
    char *settings;             /* canonical JSON text: what must agree to resume */
};

/* Seconds spent, added up over the devices of a process, and counts of this run (not of earlier
 * ones). Stages overlap. features: divided by a device's lanes; processor time where a lane is one
 * thread of the CPU. generator_waits: for features to catch up. */
struct eval_times {
    double step, decode, features, generator_waits, save, statistics;
    int64_t images;
};

/* ---- state.c ---- */

struct eval_state; /* opaque; used by the main thread */

/* Opens the files of this rank in the workdir, and reads what an earlier run left there; rank 0
 * also takes over from ranks that are no more. */
IMF_MUST_CHECK imf_status eval_state_open(struct eval_state **out, const struct eval_job *job,
                                          const struct imfd_ranks *ranks, struct imf_error *err);
/* Blocks done on any rank, as bytes (blocks), 1 = done; the same on every rank. Collective. */
IMF_MUST_CHECK imf_status eval_state_done(const struct eval_state *s,
                                          const struct imfd_ranks *ranks, uint8_t *done,
                                          struct imf_error *err);
/* Adds a block to statistics and files. */
IMF_MUST_CHECK imf_status eval_state_add(struct eval_state *s, int64_t block, int n,
                                         const float *features, const float *logits,
                                         const float *spatial, struct imf_error *err);
/* Makes all that was added survive a kill. */
IMF_MUST_CHECK imf_status eval_state_save(struct eval_state *s, double seconds,
                                          struct imf_error *err);
double eval_state_seconds(const struct eval_state *s); /* spent by earlier runs of this rank */
/* Brings everything to rank 0, where the statistics become complete; logits (images, 1008) and
 * features (images, 2048; NULL unless kept) are allocated there. Collective. */
IMF_MUST_CHECK imf_status eval_state_collect(struct eval_state *s, const struct imfd_ranks *ranks,
                                             float **logits, float **features,
                                             struct imf_error *err);
const struct imf_stats *eval_state_stats(const struct eval_state *s);
const struct imf_stats *eval_state_spatial(const struct eval_state *s); /* NULL: not wanted */
void eval_state_close(struct eval_state *s);
/* Removes the state files: the work is done and its result written. */
void eval_state_remove(const struct eval_job *job);
/* Only those of this rank: on a machine whose workdir rank 0 may not see. */
void eval_state_remove_own(const struct eval_job *job, int rank);

/* ---- run.c ---- */

/* The main thread's view of the work: when to stop, and whom to tell how many pictures of this
 * call are made. `progress` is called several times a second. */
struct eval_watcher {
    const atomic_bool *stop;
    void (*progress)(void *user, int64_t made);
    void *user;
};

/* Does the blocks listed, on all devices, until done, *stop, or a failure; saves now and then.
 * Called by the main thread. IMF_OK also when stopped: the caller looks at eval_state. */
IMF_MUST_CHECK imf_status eval_work(const struct eval_job *job, struct eval_device *devices,
                                    int n_devices, const int64_t *blocks, int64_t n_blocks,
                                    struct eval_state *state, const struct eval_watcher *watcher,
                                    struct eval_times *times, struct imf_error *err);
static inline int eval_block_images(const struct eval_job *job, int64_t block)
{
    int64_t left = job->images - block * EVAL_BLOCK;
    return left < EVAL_BLOCK ? (int)left : EVAL_BLOCK;
}

/* ---- images.c ---- */

/* ---- source.c ---- */

struct eval_source; /* opaque: a folder of PNG, JPEG and WebP, or the samples of an .npz */

/* `path` is a folder (with its sub-folders when `recursive`), or an .npz that holds arr_0, bytes of
 * (n, height, width, 3), as the ADM suite takes it. At most `limit` pictures (0: all), in the order
 * of their paths. */
IMF_MUST_CHECK imf_status eval_source_open(struct eval_source **out, const char *path,
                                           bool recursive, int64_t limit, struct imf_error *err);
void eval_source_close(struct eval_source *s); /* NULL is fine */
int64_t eval_source_count(const struct eval_source *s);
/* "60 PNG, 3 JPEG; left out: 1 of other formats": `text` has room for 160 bytes. */
void eval_source_describe(const struct eval_source *s, char text[160]);
/* Names, sizes and times of what is read, so that a changed folder is noticed: 32 digits. */
IMF_MUST_CHECK imf_status eval_source_fingerprint(const struct eval_source *s, char text[33],
                                                  struct imf_error *err);
/* Whether pictures are better read one after the other, by one thread: going back is slow. */
bool eval_source_in_order(const struct eval_source *s);
/* Picture i: rgb (height, width, 3), malloc'd. Any thread. */
IMF_MUST_CHECK imf_status eval_source_read(struct eval_source *s, int64_t i, uint8_t **rgb,
                                           int *width, int *height, struct imf_error *err);

/* ---- png_read.c, lossy_read.c ---- */

/* rgb (height, width, 3), malloc'd. Any kind of PNG; see png_read.c. */
IMF_MUST_CHECK imf_status eval_read_png(const char *path, uint8_t **rgb, int *width, int *height,
                                        struct imf_error *err);
/* JPEG and WebP, as Pillow's convert("RGB") gives them. */
IMF_MUST_CHECK imf_status eval_read_jpeg(const char *path, uint8_t **rgb, int *width, int *height,
                                         struct imf_error *err);
IMF_MUST_CHECK imf_status eval_read_webp(const char *path, uint8_t **rgb, int *width, int *height,
                                         struct imf_error *err);

/* ---- images.c ---- */

/* Picture number `image` as a file of the workdir, where it belongs there: samples/NNNNN.png with
 * --save-samples, and a copy for the grid when it is one of those. */
IMF_MUST_CHECK imf_status eval_keep_picture(const struct eval_job *job, int64_t image,
                                            const uint8_t *rgb, int width, int height,
                                            struct imf_error *err);
/* workdir/grid.png of the pictures kept for it; those that are missing (made on a machine with
 * another workdir) stay grey. */
IMF_MUST_CHECK imf_status eval_write_grid(const struct eval_job *job, struct imf_error *err);

/* ---- score.c ---- */

struct eval_scores {
    bool has_is, has_fid, has_sfid, has_kid, has_pr;
    double fid, sfid;
    struct imf_mean_std is, kid;
    struct imf_precision_recall pr;
    char reference_fingerprint[33];
    double seconds;
};
IMF_MUST_CHECK imf_status eval_score(const struct eval_job *job, const struct eval_state *state,
                                     const float *logits, const float *features,
                                     const struct imf_reference *reference, struct eval_scores *out,
                                     struct imf_error *err);

/* ---- report.c ---- */

struct eval_report {
    const struct eval_job *job;
    const struct eval_scores *scores;
    const struct eval_times *times;     /* of rank 0 */
    const struct imf_model_info *model; /* NULL with --images */
    const char *inception_fingerprint, *device;
    int inception_narrow;                /* 1: the published network */
    int ranks, devices;                  /* devices of rank 0 */
    double seconds;                      /* wall clock of rank 0, earlier runs included */
    double inception_flops, matmul_rate; /* FLOP per picture; FLOP/s measured in this run */
};
/* results.json, report.txt and report.html in the workdir. */
IMF_MUST_CHECK imf_status eval_write_reports(const struct eval_report *r, struct imf_error *err);
/* The same text as report.txt. */
void eval_print_report(const struct eval_report *r);

#endif
