/* Bringing the statistics and records of all ranks to rank 0. Ranks send in a fixed order; rank 0
 * receives from one after the other. */
#include "evaluate/records.h"

#include "common/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Sizes of what a rank sends. */
struct parcel {
    int64_t nodes, records;
};

static void send_nodes(const struct imf_stats *stats, const struct imfd_mpi *mpi)
{
    for (size_t i = 0; i < imf_stats_node_count(stats); i++) {
        const struct imf_stats_node *node = imf_stats_node_at(stats, i);
        struct eval_node_header n = {node->level, node->index, node->n};
        mpi->send(0, &n, sizeof(n));
        mpi->send(0, node->mean, node->mean_n * sizeof(double));
        mpi->send(0, node->m2, node->m2_n * sizeof(double));
    }
}

static void send_all(const struct eval_state *s, const struct imfd_mpi *mpi, float *record)
{
    struct parcel p = {(int64_t)imf_stats_node_count(s->stats), s->count};
    mpi->send(0, &p, sizeof(p));
    send_nodes(s->stats, mpi);
    if (s->spatial)
        send_nodes(s->spatial, mpi);
    mpi->send(0, s->blocks, (size_t)s->count * sizeof(*s->blocks));
    int files[] = {s->logits, s->features}, widths[] = {IMF_LOGITS, IMF_FEATURES};
    for (int k = 0; k < 2 && files[k] >= 0; k++) {
        size_t bytes = eval_record_bytes(widths[k]);
        for (int64_t i = 0; i < s->count; i++) {
            if (!eval_read_at(files[k], record, bytes, (off_t)((size_t)i * bytes)))
                memset(record, 0xff, bytes); /* NaN: rank 0 notices */
            mpi->send(0, record, bytes);
        }
    }
}

static imf_status receive_nodes(struct imf_stats *stats, int dim, const struct imfd_mpi *mpi,
                                int from, int64_t nodes, struct imf_error *err)
{
    struct eval_node_buffer b;
    imf_status status = eval_node_buffer_init(&b, dim, err);
    for (int64_t i = 0; i < nodes && status == IMF_OK; i++) {
        mpi->receive(from, &b.header, sizeof(b.header));
        mpi->receive(from, b.mean, b.mean_n * sizeof(double));
        mpi->receive(from, b.m2, b.m2_n * sizeof(double));
        status = eval_node_buffer_put(&b, stats, err);
    }
    eval_node_buffer_free(&b);
    return status;
}

/* A record's rows into their place; a row of NaN is a file that could not be read. */
static imf_status place(const struct eval_job *job, float *dst, int64_t block, int width,
                        const float *record, struct imf_error *err)
{
    size_t n = (size_t)eval_block_images(job, block) * (size_t)width;
    if (record[0] != record[0])
        return imf__fail(err, IMF_EIO, "%s: a rank cannot read back what it saved",
                         job->options.workdir);
    memcpy(dst + (size_t)block * EVAL_BLOCK * (size_t)width, record, n * sizeof(float));
    return IMF_OK;
}

static imf_status own_records(const struct eval_state *s, int fd, int width, float *dst,
                              float *record, struct imf_error *err)
{
    size_t bytes = eval_record_bytes(width);
    for (int64_t i = 0; i < s->count; i++) {
        if (!eval_read_at(fd, record, bytes, (off_t)((size_t)i * bytes)))
            return imf__fail(err, IMF_EIO, "%s: what was saved cannot be read back: %s",
                             s->job->options.workdir, errno ? strerror(errno) : "it is too short");
        imf_status status = place(s->job, dst, s->blocks[i], width, record, err);
        if (status != IMF_OK)
            return status;
    }
    return IMF_OK;
}

static imf_status receive_all(struct eval_state *s, const struct imfd_mpi *mpi, int from,
                              float *logits, float *features, float *record, struct imf_error *err)
{
    struct parcel p;
    mpi->receive(from, &p, sizeof(p));
    imf_status status = receive_nodes(s->stats, IMF_FEATURES, mpi, from, p.nodes, err);
    if (status == IMF_OK && s->spatial)
        status = receive_nodes(s->spatial, IMF_SPATIAL, mpi, from, p.nodes, err);
    int64_t *blocks = malloc((size_t)p.records * sizeof(*blocks) + 1);
    if (status == IMF_OK && !blocks)
        status = imf__fail(err, IMF_ENOMEM, "out of memory");
    if (status != IMF_OK) {
        free(blocks);
        return status;
    }
    mpi->receive(from, blocks, (size_t)p.records * sizeof(*blocks));
    float *to[] = {logits, features};
    int widths[] = {IMF_LOGITS, IMF_FEATURES};
    for (int k = 0; k < 2 && to[k]; k++) {
        for (int64_t i = 0; i < p.records && status == IMF_OK; i++) {
            mpi->receive(from, record, eval_record_bytes(widths[k]));
            status = place(s->job, to[k], blocks[i], widths[k], record, err);
        }
    }
    free(blocks);
    return status;
}

imf_status eval_state_collect(struct eval_state *s, const struct imfd_ranks *ranks, float **logits,
                              float **features, struct imf_error *err)
{
    float *record = malloc(eval_record_bytes(IMF_FEATURES)), *l = NULL, *f = NULL;
    if (!record)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    if (s->rank != 0) {
        send_all(s, &ranks->mpi, record);
        free(record);
        return IMF_OK;
    }
    size_t n = (size_t)s->job->images;
    l = malloc(n * IMF_LOGITS * sizeof(float));
    if (s->features >= 0)
        f = malloc(n * IMF_FEATURES * sizeof(float));
    imf_status status = IMF_OK;
    if (!l || (s->features >= 0 && !f))
        status = imf__fail(err, IMF_ENOMEM, "out of memory for the logits of %zu images", n);
    if (status == IMF_OK)
        status = own_records(s, s->logits, IMF_LOGITS, l, record, err);
    if (status == IMF_OK && f)
        status = own_records(s, s->features, IMF_FEATURES, f, record, err);
    for (int r = 1; r < ranks->mpi.size && status == IMF_OK; r++)
        status = receive_all(s, &ranks->mpi, r, l, f, record, err);
    free(record);
    if (status != IMF_OK) {
        free(l);
        free(f);
        return status;
    }
    *logits = l;
    *features = f;
    return IMF_OK;
}
