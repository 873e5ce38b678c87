#include "checkpoint_parts.h"
imf_status imf__torch_legacy_open(struct imf__checkpoint *c, struct imf_error *err)
{
    return imf__fail(err, IMF_EUNSUPPORTED, "%s: torch legacy", c->path);
}
