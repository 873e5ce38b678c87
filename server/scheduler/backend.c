/* Which backend serves a device of the settings. */
#include "scheduler/backend.h"

#include <string.h>

const struct backend_ops *backend_for_device(const char *device)
{
    if (strcmp(device, "fake") == 0 || strncmp(device, "fake:", 5) == 0)
        return &backend_fake;
    return &backend_imf;
}
