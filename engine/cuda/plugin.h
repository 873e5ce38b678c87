/* What libimf_cuda.so exports: one function. */
#ifndef IMF__CUDA_PLUGIN_H
#define IMF__CUDA_PLUGIN_H

#include "device.h"

__attribute__((visibility("default"))) imf_status
imf__cuda_device_create(struct imf__device **out, int abi, int ordinal,
                        enum imf_precision precision, struct imf_error *err);

#endif
