/* The queues between the stages of an evaluation: pieces of one size, each picture once, whoever
 * takes them; nobody left waiting. */
#include "evaluate/block.h"

#include "run_suite.h"

#include <check.h>
#include <stdlib.h>
#include <unistd.h>

enum { BLOCKS = 24, WRITERS = 2, LANES = 3, MOST = 5 };

static const struct eval_job job = {.images = (BLOCKS - 1) * EVAL_BLOCK + 7, .blocks = BLOCKS};

struct line {
    struct eval_queue pictures, featured;
    atomic_int next;
    atomic_int taken[BLOCKS][EVAL_BLOCK];
    atomic_bool mixed; /* a piece had pictures of two sizes */
};

/* Block 3 k + 1 mixes sizes: runs of 4, 4, 4, ... pictures, where 5 are asked for. */
static struct eval_block *block(int number)
{
    struct eval_block *b = eval_block_create(&job, number);
    ck_assert_ptr_nonnull(b);
    for (int i = 0; i < b->n; i++) {
        b->width[i] = number % 3 == 1 && i / 4 % 2 ? 48 : 64;
        b->height[i] = 32;
    }
    return b;
}

static void *writer(void *user)
{
    struct line *l = user;
    int number;
    while ((number = atomic_fetch_add(&l->next, 1)) < BLOCKS)
        eval_queue_push(&l->pictures, block(number));
    eval_queue_leave(&l->pictures);
    return NULL;
}

static void *lane(void *user)
{
    struct line *l = user;
    struct eval_block *b;
    int first, m;
    while ((m = eval_queue_take(&l->pictures, MOST, &b, &first)) > 0) {
        for (int i = first; i < first + m; i++) {
            atomic_fetch_add(&l->taken[b->number][i], 1);
            b->features[(size_t)i * IMF_FEATURES] = (float)i;
            if (b->width[i] != b->width[first])
                atomic_store(&l->mixed, true);
        }
        if (atomic_fetch_sub(&b->left, m) == m)
            eval_queue_push(&l->featured, b);
    }
    eval_queue_leave(&l->featured);
    return NULL;
}

START_TEST(test_pieces)
{
    static struct line l;
    pthread_t threads[WRITERS + LANES];
    ck_assert(eval_queue_init(&l.pictures, 2, WRITERS));
    ck_assert(eval_queue_init(&l.featured, 2, LANES));
    for (int i = 0; i < WRITERS + LANES; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, i < WRITERS ? writer : lane, &l), 0);
    bool seen[BLOCKS] = {false};
    struct eval_block *b;
    while (eval_queue_pop(&l.featured, &b, 0)) {
        ck_assert_int_eq(b->n, b->number == BLOCKS - 1 ? 7 : EVAL_BLOCK);
        ck_assert(!seen[b->number]);
        seen[b->number] = true;
        for (int i = 0; i < b->n; i++) {
            ck_assert_int_eq(atomic_load(&l.taken[b->number][i]), 1);
            ck_assert(b->features[(size_t)i * IMF_FEATURES] == (float)i);
        }
        eval_block_free(b);
    }
    for (int i = 0; i < WRITERS + LANES; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < BLOCKS; i++)
        ck_assert(seen[i]);
    ck_assert(!atomic_load(&l.mixed));
    eval_queue_destroy(&l.pictures);
    eval_queue_destroy(&l.featured);
}
END_TEST

/* With nothing there a pop returns after its time, and says whether something may still come. */
START_TEST(test_waits)
{
    struct eval_queue q;
    struct eval_block *b = block(0), *got;
    ck_assert(eval_queue_init(&q, 1, 1));
    ck_assert(eval_queue_pop(&q, &got, 0.01));
    ck_assert_ptr_null(got);
    eval_queue_push(&q, b);
    eval_queue_leave(&q);
    ck_assert(eval_queue_pop(&q, &got, 0));
    ck_assert_ptr_eq(got, b);
    ck_assert(!eval_queue_pop(&q, &got, 0));
    ck_assert_ptr_null(got);
    eval_queue_destroy(&q);
    eval_block_free(b);
}
END_TEST

struct push {
    struct eval_queue *q;
    struct eval_block *b;
    atomic_bool done;
};

static void *pusher(void *user)
{
    struct push *p = user;
    eval_queue_push(p->q, p->b);
    atomic_store(&p->done, true);
    eval_queue_leave(p->q);
    return NULL;
}

/* Closing ends the waiting of who would push into a full queue; nothing comes after it. */
START_TEST(test_close)
{
    struct eval_queue q;
    struct eval_block *b = block(0), *got;
    struct push p = {.q = &q, .b = b};
    pthread_t thread;
    int first;
    ck_assert(eval_queue_init(&q, 1, 2));
    eval_queue_push(&q, b);
    ck_assert_int_eq(pthread_create(&thread, NULL, pusher, &p), 0);
    usleep(20000);
    ck_assert(!atomic_load(&p.done));
    eval_queue_close(&q);
    pthread_join(thread, NULL);
    ck_assert(!eval_queue_pop(&q, &got, 0));
    ck_assert_int_eq(eval_queue_take(&q, MOST, &got, &first), 0);
    eval_queue_destroy(&q);
    eval_block_free(b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("evaluate_queue");
    TCase *tc = tcase_create("evaluate_queue");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_pieces);
    tcase_add_test(tc, test_waits);
    tcase_add_test(tc, test_close);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
