/* From pictures to features: the lanes of all devices take pictures from one queue, piece by piece,
 * whatever block they belong to; who finishes a block's last picture hands the block on. */
#include "evaluate/run.h"

#include "common/clock.h"
#include "common/error.h"

#include <time.h>

/* What a lane's work costs: processor time where a lane is one thread of the CPU, since it shares
 * the processors with the generator; elsewhere the time that passes. */
static double lane_clock(const struct eval_lane *lane)
{
    struct timespec t;
    if (imf_engine_get_info(lane->engine)->threads != 1)
        return imf__seconds();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static imf_status run_piece(struct eval_run *r, const struct eval_device *d,
                            const struct eval_lane *lane, struct eval_block *b, int i, int m)
{
    double start = lane_clock(lane);
    imf_status status = imf_inception_run(lane->net, b->rgb + b->offset[i], m, b->height[i],
                                          b->width[i], b->features + (size_t)i * IMF_FEATURES,
                                          b->logits + (size_t)i * IMF_LOGITS,
                                          b->spatial ? b->spatial + (size_t)i * IMF_SPATIAL : NULL);
    if (status != IMF_OK) {
        struct imf_error err;
        const char *why = imf_engine_error(lane->engine);
        (void)imf__fail(&err, status, "%s: InceptionV3: %s", d->name,
                        *why ? why : imf_status_sentence(status));
        eval_fail(r, status, &err);
        return status;
    }
    /* All lanes of a device together take that much. */
    eval_add_time(r, &r->times.features, (lane_clock(lane) - start) / d->n_lanes);
    if (r->job->source) /* reading is far ahead: progress is what is scored */
        atomic_fetch_add(&r->made, m);
    return IMF_OK;
}

void eval_features(struct eval_run *r, const struct eval_device *d, const struct eval_lane *lane)
{
    struct eval_block *b;
    int i, m;
    while ((m = eval_queue_take(&r->pictures, imf_inception_batch(lane->net), &b, &i)) > 0) {
        /* Blocks that were read ahead of a stop are not waited for; generated ones are worth it. */
        bool drop = atomic_load(&r->failed) || (r->job->source && atomic_load(r->stop));
        if (drop || run_piece(r, d, lane, b, i, m) != IMF_OK)
            atomic_store(&b->dropped, true);
        if (atomic_fetch_sub(&b->left, m) == m)
            eval_queue_push(&r->featured, b);
    }
    eval_queue_leave(&r->featured);
}
