/* What libimf_cuda.so exports. */
#ifndef IMF__CUDA_PLUGIN_H
#define IMF__CUDA_PLUGIN_H

#include "device.h"

__attribute__((visibility("default"))) imf_status
imf__cuda_device_create(struct imf__device **out, int abi, int ordinal,
                        enum imf_precision precision, struct imf_error *err);
/* The CUDA that the module was built with, 13020 for 13.2: the driver's major version may not be
 * smaller. */
__attribute__((visibility("default"))) int imf__cuda_runtime_version(void);

#endif
