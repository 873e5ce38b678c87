/* How much memory this process may still take, and what sets the bound. */
#ifndef IMF_COMMON_MEMORY_ROOM_H
#define IMF_COMMON_MEMORY_ROOM_H

#include <stdbool.h>
#include <stddef.h>

struct imf__memory_room {
    size_t bytes;      /* SIZE_MAX: unknown */
    const char *limit; /* "the limit on address space (ulimit -v)"; "" when unknown */
};

/* The least of what the machine has, the control group and the resource limits allow. */
struct imf__memory_room imf__memory_room(void);
/* The same of the resource limits alone, where an allocation fails at once. */
struct imf__memory_room imf__memory_room_limits(void);

#endif
