# Host sources of the CUDA device, and kernels; shared by the real module and the emulator's.
set(IMF_CUDA_HOST_SOURCES
    ${PROJECT_SOURCE_DIR}/engine/cuda/device.c
    ${PROJECT_SOURCE_DIR}/engine/cuda/gemm.c
    ${PROJECT_SOURCE_DIR}/engine/cuda/gemm_plan.c
    ${PROJECT_SOURCE_DIR}/engine/cuda/graph.c
    ${PROJECT_SOURCE_DIR}/engine/cuda/images.c
    ${PROJECT_SOURCE_DIR}/engine/cuda/matrices.c
    ${PROJECT_SOURCE_DIR}/engine/cuda/memory.c
    ${PROJECT_SOURCE_DIR}/engine/cuda/tokens.c
    ${PROJECT_SOURCE_DIR}/engine/cuda/transfer.c
    ${PROJECT_SOURCE_DIR}/engine/common/status.c
)
set(IMF_KERNEL_SOURCES
    ${PROJECT_SOURCE_DIR}/kernels/attention.cu
    ${PROJECT_SOURCE_DIR}/kernels/conv.cu
    ${PROJECT_SOURCE_DIR}/kernels/conv3x3.cu
    ${PROJECT_SOURCE_DIR}/kernels/embed.cu
    ${PROJECT_SOURCE_DIR}/kernels/group_norm.cu
    ${PROJECT_SOURCE_DIR}/kernels/linear.cu
    ${PROJECT_SOURCE_DIR}/kernels/picture.cu
    ${PROJECT_SOURCE_DIR}/kernels/rms_norm.cu
    ${PROJECT_SOURCE_DIR}/kernels/swiglu.cu
)
# Compiled for sm_90a alone; for the emulator it holds stubs.
set(IMF_KERNEL_SM90_SOURCES ${PROJECT_SOURCE_DIR}/kernels/conv_sm90.cu)
