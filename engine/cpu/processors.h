/* How many processors this process may use, and what they are called. */
#ifndef IMF__CPU_PROCESSORS_H
#define IMF__CPU_PROCESSORS_H

#include <stddef.h>

/* Of the processors that the scheduler may put it on, as many as its quota pays for (cgroup v2
 * cpu.max, rounded up): more threads would be stopped in the middle of a step. At least 1. */
int imf__processors(void);

/* The quota of a control group and those above it, in processors rounded up; 0: none. `root` is
 * where cgroup v2 is mounted, `group` the text of /proc/self/cgroup. */
int imf__processor_quota(const char *root, const char *group);

void imf__processor_name(char *out, size_t size);

#endif
