/* Reading the bounds: /proc, getrlimit, control groups of both versions. */
#include "common/memory_room.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const struct imf__memory_room unknown = {SIZE_MAX, ""};

static void lower(struct imf__memory_room *room, size_t bytes, const char *limit)
{
    if (bytes < room->bytes)
        *room = (struct imf__memory_room){bytes, limit};
}

/* The number after `key` in a file of lines, in units of `unit`; SIZE_MAX when it is not there. */
static size_t number_after(const char *path, const char *key, size_t unit)
{
    char line[256];
    size_t found = SIZE_MAX, length = strlen(key);
    FILE *f = fopen(path, "re");
    while (f && found == SIZE_MAX && fgets(line, sizeof(line), f)) {
        char *end;
        if (strncmp(line, key, length) != 0)
            continue;
        unsigned long long v = strtoull(line + length, &end, 10);
        if (end != line + length && v < SIZE_MAX / unit)
            found = (size_t)v * unit;
    }
    if (f)
        fclose(f);
    return found;
}

static size_t rest(size_t most, size_t used)
{
    return used == SIZE_MAX || most == SIZE_MAX ? SIZE_MAX : most > used ? most - used : 0;
}

struct imf__memory_room imf__memory_room_limits(void)
{
    static const struct {
        int resource;
        const char *key, *name;
    } rows[] = {{RLIMIT_AS, "VmSize:", "the limit on address space (ulimit -v)"},
                {RLIMIT_DATA, "VmData:", "the limit on data (ulimit -d)"}};
    struct imf__memory_room room = unknown;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct rlimit limit;
        if (getrlimit(rows[i].resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
            continue;
        lower(&room,
              rest((size_t)limit.rlim_cur, number_after("/proc/self/status", rows[i].key, 1024)),
              rows[i].name);
    }
    return room;
}

/* Version 2: the group's own bound and those above it. In a container the path begins at its root. */
static void groups(struct imf__memory_room *room)
{
    static const char name[] = "the control group's limit on memory";
    char line[512], path[640] = "";
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof(line), f)) {
        if (strncmp(line, "0::", 3) == 0) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(path, sizeof(path), "%s", line + 3);
        }
    }
    if (f)
        fclose(f);
    for (;;) {
        char most[768], now[768];
        snprintf(most, sizeof(most), "/sys/fs/cgroup%s/memory.max", path);
        snprintf(now, sizeof(now), "/sys/fs/cgroup%s/memory.current", path);
        lower(room, rest(number_after(most, "", 1), number_after(now, "", 1)), name);
        char *slash = strrchr(path, '/');
        if (!slash)
            break;
        *slash = '\0';
    }
    lower(room,
          rest(number_after("/sys/fs/cgroup/memory/memory.limit_in_bytes", "", 1),
               number_after("/sys/fs/cgroup/memory/memory.usage_in_bytes", "", 1)),
          name);
}

struct imf__memory_room imf__memory_room(void)
{
    struct imf__memory_room room = imf__memory_room_limits();
    lower(&room, number_after("/proc/meminfo", "MemAvailable:", 1024), "what this machine has");
    groups(&room);
    return room;
}
