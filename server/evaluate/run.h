/* Inside `imfd evaluate`: what the stages of a run share (run.c draws them). */
#ifndef IMFD_EVALUATE_RUN_H
#define IMFD_EVALUATE_RUN_H

#include "evaluate/block.h"

struct eval_run {
    const struct eval_job *job;
    const int64_t *blocks; /* to do */
    int64_t n_blocks;
    atomic_int_fast64_t next; /* index into blocks */
    atomic_int_fast64_t made; /* pictures: generated, or scored of a folder */
    const atomic_bool *stop;
    atomic_bool failed;
    struct eval_queue pictures, featured, kept;
    pthread_mutex_t lock; /* of the following; never taken together with a queue's */
    LIST_HEAD(, eval_block) live;
    struct eval_times times;
    struct imf_error error;
    imf_status status;
};

/* Bodies of the threads; each leaves its queue when it ends. */
void eval_generate(struct eval_run *r, struct eval_device *d);
void eval_read_pictures(struct eval_run *r);
void eval_features(struct eval_run *r, const struct eval_device *d, const struct eval_lane *lane);
void eval_keep_pictures(struct eval_run *r);

/* The first failure is the one that is told; all stages then let everything pass. */
void eval_fail(struct eval_run *r, imf_status status, const struct imf_error *err);
static inline bool eval_ending(const struct eval_run *r)
{
    return atomic_load(r->stop) || atomic_load(&r->failed);
}
/* The next block to make, NULL when there is none or the work ends. */
struct eval_block *eval_next_block(struct eval_run *r);
/* Adds seconds to one of r->times. */
void eval_add_time(struct eval_run *r, double *sum, double seconds);

#endif
