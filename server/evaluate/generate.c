/* The generator of a device: step and decode, batch after batch.
 *
 * Where the device overlaps (a GPU), a decoding stays begun until the next one has begun, across
 * batches and blocks: while the device computes it, the pictures before it travel to the host and
 * the noise of the next batch is drawn. Elsewhere a decoding is ended as soon as it was begun. */
#include "evaluate/run.h"

#include "common/clock.h"
#include "common/error.h"

#include <stdlib.h>

/* A decoding that was begun. */
struct pending {
    struct eval_block *block;
    int first, n;
};

struct generator {
    struct eval_run *run;
    struct eval_device *device;
    struct imf_lane **lanes; /* (batch) */
    int batch, decode_batch;
    struct pending pending[IMF_DECODES];
    int pendings, lag; /* `lag` of them stay begun after the call that began them */
    double waited;     /* seconds, for room in the queue */
    struct imf_error error;
};

static imf_status device_failed(struct generator *g, imf_status status, const char *what)
{
    const char *why = imf_engine_error(g->device->engine);
    return imf__fail(&g->error, status, "%s: %s: %s", g->device->name, what,
                     *why ? why : imf_status_sentence(status));
}

/* The release's labels and seeds: image k of N has label k / (N / classes) and seed
 * k XOR sample_seed. */
static imf_status start_lanes(struct generator *g, int64_t image, int n)
{
    const struct eval_job *job = g->run->job;
    for (int i = 0; i < n; i++) {
        int64_t k = image + i;
        int32_t label = (int32_t)(k / (job->images / job->classes));
        IMF_TRY(imf_lane_start(g->lanes[i], g->device->model, label,
                               (uint64_t)k ^ job->options.sample_seed, &job->sampling, &g->error));
    }
    return IMF_OK;
}

static imf_status step(struct generator *g, int64_t image, int n)
{
    double start = imf__seconds();
    IMF_TRY(start_lanes(g, image, n));
    for (int i = 0; i < g->run->job->sampling.steps; i++) {
        imf_status status = imf_step(g->device->model, g->lanes, n);
        if (status != IMF_OK)
            return device_failed(g, status, "generating");
    }
    eval_add_time(g->run, &g->run->times.step, imf__seconds() - start);
    return IMF_OK;
}

/* Fetches the pictures of the oldest decoding; hands its block on when they were its last. */
static imf_status end_decode(struct generator *g)
{
    struct eval_run *r = g->run;
    struct pending p = g->pending[0];
    uint8_t *rgb[EVAL_BLOCK];
    for (int i = 0; i < p.n; i++)
        rgb[i] = p.block->rgb + p.block->offset[p.first + i];
    imf_status status = imf_decode_end(g->device->model, rgb);
    if (status != IMF_OK)
        return device_failed(g, status, "decoding");
    g->pendings--;
    for (int i = 0; i < g->pendings; i++)
        g->pending[i] = g->pending[i + 1];
    p.block->made += p.n;
    atomic_fetch_add(&r->made, p.n);
    if (p.block->made == p.block->n) {
        double start = imf__seconds();
        eval_queue_push(&r->pictures, p.block);
        g->waited += imf__seconds() - start;
    }
    return IMF_OK;
}

/* The pictures of n lanes, to be picture `first` and up of a block. */
static imf_status decode(struct generator *g, struct eval_block *b, int first, int n)
{
    double start = imf__seconds(), waited = g->waited;
    for (int i = 0; i < n; i += g->decode_batch) {
        int m = n - i < g->decode_batch ? n - i : g->decode_batch;
        imf_status status = imf_decode_begin(g->device->model, g->lanes + i, m);
        if (status != IMF_OK)
            return device_failed(g, status, "decoding");
        g->pending[g->pendings++] = (struct pending){b, first + i, m};
        while (g->pendings > g->lag)
            IMF_TRY(end_decode(g));
    }
    eval_add_time(g->run, &g->run->times.decode, imf__seconds() - start - (g->waited - waited));
    return IMF_OK;
}

/* Leaves the block as far as it came when the work ends in between. */
static imf_status make_block(struct generator *g, struct eval_block *b)
{
    const struct eval_job *job = g->run->job;
    size_t picture = (size_t)job->width * (size_t)job->height * 3;
    b->rgb = malloc((size_t)b->n * picture);
    if (!b->rgb)
        return imf__fail(&g->error, IMF_ENOMEM, "out of memory");
    for (int i = 0; i < b->n; i++) {
        b->offset[i] = (size_t)i * picture;
        b->width[i] = job->width;
        b->height[i] = job->height;
    }
    for (int i = 0; i < b->n && !eval_ending(g->run); i += g->batch) {
        int m = b->n - i < g->batch ? b->n - i : g->batch;
        IMF_TRY(step(g, b->number * EVAL_BLOCK + i, m));
        IMF_TRY(decode(g, b, i, m));
    }
    return IMF_OK;
}

static imf_status make_blocks(struct generator *g)
{
    struct eval_block *b;
    for (int i = 0; i < g->batch; i++)
        IMF_TRY(imf_lane_create(&g->lanes[i], g->device->model));
    while ((b = eval_next_block(g->run)))
        IMF_TRY(make_block(g, b));
    while (g->pendings > 0)
        IMF_TRY(end_decode(g));
    return IMF_OK;
}

void eval_generate(struct eval_run *r, struct eval_device *d)
{
    const struct imf_model_info *info = imf_model_get_info(d->model);
    struct generator g = {.run = r,
                          .device = d,
                          .batch = info->max_batch,
                          .decode_batch = info->decode_batch,
                          .lag = imf_engine_get_info(d->engine)->overlaps ? IMF_DECODES - 1 : 0};
    g.lanes = calloc((size_t)g.batch, sizeof(struct imf_lane *));
    imf_status status = g.lanes ? make_blocks(&g) : IMF_ENOMEM;
    if (status != IMF_OK && !g.error.message[0])
        (void)imf__fail(&g.error, status, "%s", imf_status_sentence(status));
    if (status != IMF_OK)
        eval_fail(r, status, &g.error);
    for (int i = 0; g.lanes && i < g.batch; i++)
        imf_lane_destroy(g.lanes[i]);
    free(g.lanes);
    eval_add_time(r, &r->times.generator_waits, g.waited);
    eval_queue_leave(&r->pictures);
}
