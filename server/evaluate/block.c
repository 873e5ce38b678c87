/* Blocks and the queues between stages: see block.h. */
#include "evaluate/block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct eval_block *eval_block_create(const struct eval_job *job, int64_t number)
{
    struct eval_block *b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    b->number = number;
    b->n = eval_block_images(job, number);
    atomic_init(&b->left, b->n);
    b->features = malloc((size_t)b->n * IMF_FEATURES * sizeof(float));
    b->logits = malloc((size_t)b->n * IMF_LOGITS * sizeof(float));
    if (job->want_spatial)
        b->spatial = malloc((size_t)b->n * IMF_SPATIAL * sizeof(float));
    if (b->features && b->logits && (b->spatial || !job->want_spatial))
        return b;
    eval_block_free(b);
    return NULL;
}

void eval_block_free(struct eval_block *b)
{
    if (!b)
        return;
    free(b->rgb);
    free(b->features);
    free(b->logits);
    free(b->spatial);
    free(b);
}

bool eval_queue_init(struct eval_queue *q, int capacity, int writers)
{
    memset(q, 0, sizeof(*q));
    q->items = calloc((size_t)capacity, sizeof(struct eval_block *));
    q->capacity = capacity;
    q->writers = writers;
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&q->changed, &attr);
    pthread_condattr_destroy(&attr);
    return q->items != NULL;
}

void eval_queue_destroy(struct eval_queue *q)
{
    free(q->items);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->changed);
}

void eval_queue_push(struct eval_queue *q, struct eval_block *b)
{
    pthread_mutex_lock(&q->lock);
    while (q->count == q->capacity && !q->closed)
        pthread_cond_wait(&q->changed, &q->lock);
    if (!q->closed)
        q->items[(q->first + q->count++) % q->capacity] = b;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

/* With the lock: waits for a first block until the time given (NULL: forever), or until none will
 * come. */
static void wait_for_block(struct eval_queue *q, const struct timespec *until)
{
    while (q->count == 0 && q->writers > 0) {
        if (!until)
            pthread_cond_wait(&q->changed, &q->lock);
        else if (pthread_cond_timedwait(&q->changed, &q->lock, until) == ETIMEDOUT)
            return;
    }
}

static void remove_first(struct eval_queue *q)
{
    q->first = (q->first + 1) % q->capacity;
    q->count--;
    pthread_cond_broadcast(&q->changed);
}

bool eval_queue_pop(struct eval_queue *q, struct eval_block **b, double wait_s)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    long ns = until.tv_nsec + (long)(wait_s * 1e9);
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    pthread_mutex_lock(&q->lock);
    wait_for_block(q, wait_s > 0 ? &until : NULL);
    *b = q->count > 0 ? q->items[q->first] : NULL;
    if (*b)
        remove_first(q);
    bool open = *b || q->writers > 0;
    pthread_mutex_unlock(&q->lock);
    return open;
}

int eval_queue_take(struct eval_queue *q, int most, struct eval_block **b, int *first)
{
    int m = 0;
    pthread_mutex_lock(&q->lock);
    wait_for_block(q, NULL);
    if (q->count > 0) {
        struct eval_block *head = q->items[q->first];
        int i = head->taken;
        while (m < most && i + m < head->n && head->width[i + m] == head->width[i] &&
               head->height[i + m] == head->height[i])
            m++;
        head->taken += m;
        *b = head;
        *first = i;
        if (head->taken == head->n)
            remove_first(q);
    }
    pthread_mutex_unlock(&q->lock);
    return m;
}

void eval_queue_leave(struct eval_queue *q)
{
    pthread_mutex_lock(&q->lock);
    if (!q->closed)
        q->writers--;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

void eval_queue_close(struct eval_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    q->count = q->writers = 0;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
}
