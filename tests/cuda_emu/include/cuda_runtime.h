/* <cuda_runtime.h> of the emulator: the API, and for C++ the device side of CUDA C++. */
#ifndef IMF_EMU_CUDA_RUNTIME_H
#define IMF_EMU_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus
#include "imf_emu_device.h"
#endif
#endif
