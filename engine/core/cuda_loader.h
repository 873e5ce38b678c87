/* Finding the CUDA device at run time: the driver first, then our module. */
#ifndef IMF__CUDA_LOADER_H
#define IMF__CUDA_LOADER_H

#include "device.h"

/* Opens GPU `ordinal`. IMF_EUNSUPPORTED, with the reason in err, where this machine or this build
 * has no CUDA. The module stays loaded for the rest of the process. */
imf_status imf__cuda_device_open(struct imf__device **out, int ordinal,
                                 enum imf_precision precision, struct imf_error *err);

#endif
