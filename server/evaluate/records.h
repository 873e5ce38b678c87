/* What state.c and collect.c share: the state in memory and its files of records,
 * one record of EVAL_BLOCK pictures per block done. */
#ifndef IMFD_EVALUATE_RECORDS_H
#define IMFD_EVALUATE_RECORDS_H

#include "evaluate/evaluate.h"

#include <sys/types.h>

struct eval_state {
    const struct eval_job *job;
    int rank;
    struct imf_stats *stats;
    struct imf_stats *spatial; /* the same blocks; NULL: not wanted */
    int64_t *blocks;           /* in order of their records */
    int64_t count;
    int logits, features; /* files; features -1 unless wanted */
    double seconds;
    int taken_from, taken_to; /* ranks whose files rank 0 has taken over: [from, to) */
};

/* Before a node's mean and m2, in files and messages. */
struct eval_node_header {
    int64_t level, index, n;
};

/* Room for one node on its way from a file or a message into the statistics. */
struct eval_node_buffer {
    struct eval_node_header header;
    double *mean, *m2;
    size_t mean_n, m2_n;
};
IMF_MUST_CHECK imf_status eval_node_buffer_init(struct eval_node_buffer *b, int dim,
                                                struct imf_error *err);
/* Adds what was read into the buffer to the statistics. */
IMF_MUST_CHECK imf_status eval_node_buffer_put(const struct eval_node_buffer *b,
                                               struct imf_stats *stats, struct imf_error *err);
void eval_node_buffer_free(struct eval_node_buffer *b);

static inline size_t eval_record_bytes(int width)
{
    return (size_t)EVAL_BLOCK * (size_t)width * sizeof(float);
}

/* False at the end of the file too, with errno 0 then. */
bool eval_read_at(int fd, void *data, size_t n, off_t offset);

#endif
