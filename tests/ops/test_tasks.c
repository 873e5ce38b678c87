/* Work shared out to threads (cpu/tasks.h, cpu/gemm_multiply.h): every piece once, whoever comes late,
 * and evenly, from one thread to 64. */
#include "cpu/gemm_multiply.h"
#include "cpu/tasks.h"
#include "run_suite.h"

#include <check.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const int threads_of[] = {1, 2, 3, 7, 16, 64};
enum { THREADS = sizeof(threads_of) / sizeof(threads_of[0]) };

/* One region; thread `late` begins when the others may be through with its tasks. */
static void share(struct cpu_tasks *t, int n, int threads, int late)
{
    atomic_int *done = calloc((size_t)n + 1, sizeof(*done));
    ck_assert_ptr_nonnull(done);
    bool beyond = false;
#pragma omp parallel num_threads(threads) reduction(| : beyond)
    {
        if (omp_get_thread_num() == late)
            usleep(2000);
        for (struct cpu_turn turn = cpu_turn_of(t, n); cpu_next(&turn);) {
            beyond |= turn.task < 0 || turn.task >= turn.end || turn.end > n;
            if (turn.task >= 0 && turn.task < n)
                atomic_fetch_add(&done[turn.task], 1);
        }
    }
    ck_assert(!beyond);
    for (int i = 0; i < n; i++)
        ck_assert_msg(done[i] == 1, "task %d of %d ran %d times on %d threads", i, n, done[i],
                      threads);
    free(done);
}

START_TEST(test_every_task_once)
{
    static const int counts[] = {0, 1, 2, 5, 63, 64, 65, 1000};
    const int threads = threads_of[_i];
    struct cpu_tasks t;
    ck_assert(cpu_tasks_create(&t, threads));
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        share(&t, counts[i], threads, -1);
        share(&t, counts[i], threads, 0);
        share(&t, counts[i], threads, threads - 1);
    }
    cpu_tasks_free(&t);
}
END_TEST

START_TEST(test_homes)
{
    const int threads = threads_of[_i];
    for (int n = 0; n < 300; n++) {
        ck_assert_int_eq(cpu_home(0, n, threads), 0);
        ck_assert_int_eq(cpu_home(threads, n, threads), n);
        for (int h = 0; h < threads; h++) {
            int size = cpu_home(h + 1, n, threads) - cpu_home(h, n, threads);
            ck_assert_int_ge(size, n / threads);
            ck_assert_int_le(size, (n + threads - 1) / threads);
        }
    }
}
END_TEST

struct product {
    int N, K, panel; /* columns of a panel: 16 where pairs make one */
};

/* Of B and of XL: q, k and v; attention's output; w1 and w3; w2. */
static const struct product products[] = {
    {2304, 768, 32},  {768, 768, 32},   {2048, 768, 16},  {768, 2048, 32},
    {3072, 1024, 32}, {1024, 1024, 32}, {2730, 1024, 16}, {1024, 2730, 32},
};

/* Blocks of 32 x 32 sums in the largest home. */
static int largest_home(const struct gemm_tasks *t, int panels, int strips, int threads)
{
    int largest = 0;
    for (int h = 0; h < threads; h++) {
        int blocks = 0, n = t->column_tasks * t->row_tasks;
        for (int i = cpu_home(h, n, threads); i < cpu_home(h + 1, n, threads); i++) {
            int column = i % t->column_tasks * t->columns, row = i / t->column_tasks * t->rows;
            int columns = panels - column < t->columns ? panels - column : t->columns;
            blocks += columns * (strips - row < t->rows ? strips - row : t->rows);
        }
        largest = blocks > largest ? blocks : largest;
    }
    return largest;
}

/* One sample has 276 rows, four have 1104. */
START_TEST(test_products_are_even)
{
    const int threads = threads_of[_i];
    for (int samples = 1; samples <= 4; samples += 3) {
        for (size_t i = 0; i < sizeof(products) / sizeof(products[0]); i++) {
            const struct product *p = &products[i];
            const int panels = (p->N + p->panel - 1) / p->panel, strips = (samples * 276 + 31) / 32;
            const struct gemm_tasks t =
                imf__gemm_tasks(panels, strips, gemm_packed(1, p->K) * 2, threads);
            ck_assert_int_ge(t.columns * t.column_tasks, panels);
            ck_assert_int_lt(t.columns * (t.column_tasks - 1), panels);
            ck_assert_int_ge(t.rows * t.row_tasks, strips);
            ck_assert_int_lt(t.rows * (t.row_tasks - 1), strips);
            const double even = (double)panels * strips / threads;
            const int largest = largest_home(&t, panels, strips, threads);
            ck_assert_msg(largest <= 1.2 * even,
                          "%d x %d x %d on %d threads: %d blocks, evenly %.1f", samples * 276, p->K,
                          p->N, threads, largest, even);
        }
    }
}
END_TEST

/* Narrow and short ones, of small models: every block is some task's. */
START_TEST(test_small_products_are_covered)
{
    const int threads = threads_of[_i];
    for (int panels = 1; panels < 20; panels++) {
        for (int strips = 1; strips < 40; strips++) {
            struct gemm_tasks t = imf__gemm_tasks(panels, strips, 9 * 2048, threads);
            ck_assert(t.columns >= 1 && t.rows >= 1);
            ck_assert(t.columns * t.column_tasks >= panels && t.rows * t.row_tasks >= strips);
            ck_assert(t.columns * (t.column_tasks - 1) < panels &&
                      t.rows * (t.row_tasks - 1) < strips);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tasks");
    TCase *tc = tcase_create("sharing");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, test_every_task_once, 0, THREADS);
    tcase_add_loop_test(tc, test_homes, 0, THREADS);
    tcase_add_loop_test(tc, test_products_are_even, 0, THREADS);
    tcase_add_loop_test(tc, test_small_products_are_covered, 0, THREADS);
    suite_add_tcase(suite, tc);
    return run_suite(suite, CK_FORK_GETENV);
}
