#include "cli/descriptors.h"

#include "base/log.h"

#include <errno.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

enum {
    AMPLE = 256, /* beside connections */
    OWN = 64,    /* loop, log, listening sockets, devices */
    LEAST_CONNECTIONS = 8
};

/* libuv ends the process where it cannot have the pipe that its signals go through; beside it a loop
 * takes two descriptors. */
int descriptors_check(void)
{
    int ends[2][2] = {{-1, -1}, {-1, -1}}, error = 0;
    for (int i = 0; i < 2 && error == 0; i++)
        error = pipe(ends[i]) == 0 ? 0 : uv_translate_sys_error(errno);
    for (int i = 0; i < 4; i++) {
        if (ends[i / 2][i % 2] >= 0)
            close(ends[i / 2][i % 2]);
    }
    return error;
}

int64_t descriptors_for(int64_t connections, struct log *log)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)connections + AMPLE;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return connections;
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
        (void)getrlimit(RLIMIT_NOFILE, &limit);
    }
    int64_t most = limit.rlim_cur < wanted ? (int64_t)limit.rlim_cur - OWN : connections;
    most = most > LEAST_CONNECTIONS ? most : LEAST_CONNECTIONS;
    if (most >= connections)
        return connections;
    log_write(log, LOG_WARN,
              "%lld connections at a time, not max_connections (%lld): the limit on open files "
              "(ulimit -n) is %llu",
              (long long)most, (long long)connections, (unsigned long long)limit.rlim_cur);
    return most;
}
