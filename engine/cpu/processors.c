#include "cpu/processors.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

/* The quota in one cpu.max ("200000 100000", "max 100000"), in processors; 0: none. */
static int quota_of(const char *path)
{
    long quota, period;
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    int got = fscanf(f, "%ld %ld", &quota, &period);
    fclose(f);
    if (got != 2 || quota <= 0 || period <= 0 || quota / period > 4096)
        return 0;
    return (int)((quota + period - 1) / period);
}

int imf__processor_quota(const char *root, const char *group)
{
    char name[1024] = "", path[2048];
    const char *line = group;
    while (line && strncmp(line, "0::", 3) != 0) {
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    if (!line)
        return 0;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(line + 3, "\n"), line + 3);
    int least = 0;
    for (;;) { /* the group, and every one above it */
        snprintf(path, sizeof(path), "%s%s/cpu.max", root, strcmp(name, "/") == 0 ? "" : name);
        int quota = quota_of(path);
        if (quota > 0 && (least == 0 || quota < least))
            least = quota;
        char *slash = strrchr(name, '/');
        if (!slash)
            return least;
        *slash = '\0';
    }
}

int imf__processors(void)
{
    cpu_set_t set;
    char group[4096];
    int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    FILE *f = fopen("/proc/self/cgroup", "r");
    if (!f)
        return n;
    size_t size = fread(group, 1, sizeof(group) - 1, f);
    fclose(f);
    group[size] = '\0';
    int quota = imf__processor_quota("/sys/fs/cgroup", group);
    return quota > 0 && quota < n ? quota : n;
}

void imf__processor_name(char *out, size_t size)
{
    snprintf(out, size, "unknown processor");
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f)
        return;
    char line[256];
    while (fgets(line, sizeof(line), f)) {
        char *colon = strchr(line, ':');
        if (colon && strncmp(line, "model name", 10) == 0) {
            colon[strcspn(colon, "\n")] = '\0';
            snprintf(out, size, "%.80s", colon + 2);
            break;
        }
    }
    fclose(f);
}
