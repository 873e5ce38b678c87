/* Where the demo model lies: the small trained model that works without any download. */
#ifndef IMFD_DEMO_H
#define IMFD_DEMO_H

#include "imf.h"

#include <limits.h>

struct imfd_demo {
    char checkpoint[PATH_MAX]; /* .../mit_demo.safetensors */
    char decoder[PATH_MAX];    /* .../taesd_demo.safetensors */
};

/* Looks beside the running program, upwards: PREFIX/share/imfd/demo where it is installed, and
 * models/demo of the source tree it was built in. IMF_EIO, with a sentence that tells what to do,
 * when there is none. */
IMF_MUST_CHECK imf_status imfd_demo_find(struct imfd_demo *out, struct imf_error *err);

#endif
