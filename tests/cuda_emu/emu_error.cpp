/* The CUDA runtime API: errors, the last one of each thread, injected ones; and what tests ask of
 * the emulator. */
#include "emu_runtime.h"
#include <stdlib.h>

static int malloc_countdown, launch_countdown;
static cudaError_t launch_failure;
static int live_objects;
static thread_local cudaError_t last_error;

cudaError_t emu_set_error(cudaError_t e)
{
    if (e != cudaSuccess)
        last_error = e;
    return e;
}

void emu_live(int delta)
{
    live_objects += delta;
}

static int countdown_of(const char *name)
{
    const char *s = getenv(name);
    return s ? int(strtol(s, nullptr, 0)) : 0;
}

void emu_read_failures(void)
{
    malloc_countdown = countdown_of("IMF_EMU_FAIL_MALLOC");
    launch_countdown = countdown_of("IMF_EMU_FAIL_LAUNCH");
    launch_failure = cudaErrorLaunchFailure;
}

bool emu_malloc_fails(void)
{
    return malloc_countdown && --malloc_countdown == 0;
}

cudaError_t emu_take_launch_failure(void)
{
    if (launch_countdown && --launch_countdown == 0)
        return launch_failure;
    return cudaSuccess;
}

extern "C" {

cudaError_t cudaGetLastError(void)
{
    emu_guard guard(emu_mutex);
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

const char *cudaGetErrorName(cudaError_t error)
{
#define ERROR_NAME(name, value, text)                                                              \
    case name:                                                                                     \
        return #name;
    switch (error) {
        IMF_EMU_ERRORS(ERROR_NAME)
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
#define ERROR_TEXT(name, value, text)                                                              \
    case name:                                                                                     \
        return text;
    switch (error) {
        IMF_EMU_ERRORS(ERROR_TEXT)
    }
    return "unrecognized error code";
}

/* ---- what tests ask of the emulator ---- */

void imf_emu_reset(void)
{
    emu_guard guard(emu_mutex);
    emu_start();
    for (int i = 0; i < emu_device_count; i++) {
        emu_device[i].sticky = cudaSuccess;
        emu_device[i].sick = false;
    }
    for (cudaStream_t s : emu_streams)
        emu_forget_queue(s);
    last_error = cudaSuccess;
    malloc_countdown = launch_countdown = 0;
    emu_forget_reports();
    imf_emu_counters_reset();
}

void imf_emu_fail_malloc(int n)
{
    emu_guard guard(emu_mutex);
    emu_start();
    malloc_countdown = n;
}

void imf_emu_fail_launch(int n, int error)
{
    emu_guard guard(emu_mutex);
    emu_start();
    launch_countdown = n;
    launch_failure = static_cast<cudaError_t>(error ? error : cudaErrorLaunchFailure);
}

void imf_emu_sick_device(int device)
{
    emu_guard guard(emu_mutex);
    emu_start();
    if (device >= 0 && device < emu_device_count)
        emu_device[device].sick = true;
}

size_t imf_emu_device_bytes(int device)
{
    emu_guard guard(emu_mutex);
    emu_start();
    return device >= 0 && device < emu_device_count ? emu_memory_used(device) : 0;
}

int imf_emu_live_objects(void)
{
    emu_guard guard(emu_mutex);
    return live_objects + emu_pinned_live();
}
}
