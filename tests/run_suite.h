/* Running a suite of check: the end of every main. */
#ifndef RUN_SUITE_H
#define RUN_SUITE_H

#include <check.h>

/* Runs and frees the suite. CK_FORK_GETENV runs each test in a process of its own, unless the
 * environment says CK_FORK=no; CK_NOFORK is for tests whose threads (an OpenMP team's, say) do not
 * survive a fork. Returns what main returns. */
static inline int run_suite(Suite *s, enum fork_status forks)
{
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, forks);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

#endif
