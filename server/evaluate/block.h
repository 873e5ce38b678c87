/* Inside `imfd evaluate`: the block of pictures that travels from stage to stage, and the bounded
 * queue between two stages. */
#ifndef IMFD_EVALUATE_BLOCK_H
#define IMFD_EVALUATE_BLOCK_H

#include "evaluate/evaluate.h"

#include <sys/queue.h>

/* One stage holds it at a time; the run owns all of them, and frees those that a failure left on
 * their way. */
struct eval_block {
    LIST_ENTRY(eval_block) live;
    int64_t number;
    int n;        /* pictures */
    uint8_t *rgb; /* back to back; those of one size in a row are one array (n, height, width, 3) */
    size_t offset[EVAL_BLOCK];
    int width[EVAL_BLOCK], height[EVAL_BLOCK];
    int made;            /* pictures that are there: the generator's account */
    int taken;           /* pictures given to lanes: under the queue's lock */
    atomic_int left;     /* pictures without features */
    atomic_bool dropped; /* some features were left out: the work ends */
    float *features;     /* (n, 2048) */
    float *logits;       /* (n, 1008) */
    float *spatial;      /* (n, 2023), or NULL: not wanted */
};

/* Room for features and logits; NULL when memory is out. */
struct eval_block *eval_block_create(const struct eval_job *job, int64_t number);
void eval_block_free(struct eval_block *b); /* NULL is fine */

/* Any number of threads write and read. Whoever may still write is counted beforehand, so that no
 * queue looks finished before its writers have started. */
struct eval_queue {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct eval_block **items; /* a ring of `capacity` */
    int first, count, capacity;
    int writers; /* threads that may still push */
    bool closed;
};

/* False when memory is out. */
bool eval_queue_init(struct eval_queue *q, int capacity, int writers);
void eval_queue_destroy(struct eval_queue *q);
/* Waits while the queue is full. */
void eval_queue_push(struct eval_queue *q, struct eval_block *b);
/* False when nothing will come any more. *b is NULL when wait_s (0: forever) passed. */
bool eval_queue_pop(struct eval_queue *q, struct eval_block **b, double wait_s);
/* The next pictures of one size in a row, `most` at most, of the first block, which stays in the
 * queue until its last picture is taken. 0 when nothing will come any more. */
int eval_queue_take(struct eval_queue *q, int most, struct eval_block **b, int *first);
/* This thread writes no more. */
void eval_queue_leave(struct eval_queue *q);
/* Ends everybody's waiting, for good: what is pushed is left to the run, nothing comes any more. */
void eval_queue_close(struct eval_queue *q);

#endif
