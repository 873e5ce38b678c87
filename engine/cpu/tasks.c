/* Tasks for threads (tasks.h). */
#include "cpu/tasks.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

bool cpu_tasks_create(struct cpu_tasks *t, int threads)
{
    size_t bytes = (size_t)threads * sizeof(*t->homes);
    atomic_init(&t->through, 0);
    t->homes = aligned_alloc(64, bytes);
    if (t->homes)
        memset(t->homes, 0, bytes);
    return t->homes != NULL;
}

void cpu_tasks_free(struct cpu_tasks *t)
{
    free(t->homes);
}

struct cpu_turn cpu_turn_of(struct cpu_tasks *t, int n)
{
    const int threads = omp_get_num_threads();
    return (struct cpu_turn){
        .t = t, .n = n, .threads = threads, .home = omp_get_thread_num(), .left = threads};
}

/* The last to find nothing leaves everything as it was: the next region begins after it. */
static void leave(struct cpu_turn *turn)
{
    struct cpu_tasks *t = turn->t;
    if (atomic_fetch_add(&t->through, 1) + 1 < turn->threads)
        return;
    for (int i = 0; i < turn->threads; i++)
        atomic_store_explicit(&t->homes[i].taken, 0, memory_order_relaxed);
    atomic_store(&t->through, 0);
}

bool cpu_next(struct cpu_turn *turn)
{
    for (; turn->left > 0; turn->left--) {
        const int first = cpu_home(turn->home, turn->n, turn->threads);
        turn->end = cpu_home(turn->home + 1, turn->n, turn->threads);
        turn->task = first + atomic_fetch_add_explicit(&turn->t->homes[turn->home].taken, 1,
                                                       memory_order_relaxed);
        if (turn->task < turn->end)
            return true;
        turn->home = (turn->home + 1) % turn->threads;
    }
    leave(turn);
    return false;
}
