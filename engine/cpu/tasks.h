/* Tasks of one operation, shared out to the threads of a parallel region. Each thread has a home: a
 * run of neighbouring tasks, the same in every operation of that many tasks, so that it finds in its
 * caches what it left there; one that is through with its own takes those that others have not begun.
 */
#ifndef IMF__CPU_TASKS_H
#define IMF__CPU_TASKS_H

#include <stdatomic.h>
#include <stdbool.h>

struct cpu_tasks {
    struct {
        _Alignas(64) atomic_int taken;
    } * homes;          /* a thread each */
    atomic_int through; /* threads that found nothing left */
};

/* False without memory. */
bool cpu_tasks_create(struct cpu_tasks *t, int threads);
void cpu_tasks_free(struct cpu_tasks *t);

/* The first task of a home, of n tasks and that many threads; `home` may be `threads`: n. */
static inline int cpu_home(int home, int n, int threads)
{
    return (int)((long long)n * home / threads);
}

/* Every thread of a region, once a region:
 *     for (struct cpu_turn turn = cpu_turn_of(t, n); cpu_next(&turn);) ... turn.task ... */
struct cpu_turn {
    struct cpu_tasks *t;
    int n, threads, home, left; /* left: homes to look into, this one included */
    int task, end;              /* end of the home that the task is of */
};

struct cpu_turn cpu_turn_of(struct cpu_tasks *t, int n);
bool cpu_next(struct cpu_turn *turn);

#endif
