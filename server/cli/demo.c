/* Finding the demo model. No path is compiled in, so an installation can be moved. */
#include "cli/demo.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool found_in(struct imfd_demo *out, const char *folder, const char *place)
{
    struct imfd_demo d;
    int a =
        snprintf(d.checkpoint, sizeof(d.checkpoint), "%s/%s/mit_demo.safetensors", folder, place);
    int b = snprintf(d.decoder, sizeof(d.decoder), "%s/%s/taesd_demo.safetensors", folder, place);
    if (a < 0 || b < 0 || a >= (int)sizeof(d.checkpoint) || b >= (int)sizeof(d.decoder) ||
        access(d.checkpoint, R_OK) != 0 || access(d.decoder, R_OK) != 0)
        return false;
    *out = d;
    return true;
}

imf_status imfd_demo_find(struct imfd_demo *out, struct imf_error *err)
{
    char folder[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", folder, sizeof(folder) - 1);
    folder[n > 0 ? n : 0] = '\0';
    for (char *slash = strrchr(folder, '/'); slash; slash = strrchr(folder, '/')) {
        *slash = '\0';
        if (found_in(out, folder, "share/imfd/demo") || found_in(out, folder, "models/demo"))
            return IMF_OK;
    }
    if (err) {
        err->status = IMF_EIO;
        snprintf(err->message, sizeof(err->message),
                 "the demo model is not here: neither share/imfd/demo nor models/demo beside the "
                 "program holds mit_demo.safetensors and taesd_demo.safetensors. Name a model with "
                 "a checkpoint and a decoder of your own");
    }
    return IMF_EIO;
}
