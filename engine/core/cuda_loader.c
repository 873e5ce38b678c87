/* One binary for every machine: CUDA is looked for when asked for. libcuda.so.1 (the driver's)
 * comes first, since without it the module would only load cuBLASLt's half gigabyte to say no; then
 * libimf_cuda.so from IMFD_CUDA_MODULE, beside the executable, or the library folder.
 * IMFD_CUDA_DRIVER names another driver library; the tests' emulator is one. Nothing is ever
 * dlclosed: CUDA does not survive it. */
#include "core/cuda_loader.h"
#include "common/error.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODULE "libimf_cuda.so"

/* The driver's functions, declared here so that the engine builds without CUDA's headers. */
typedef int (*init_fn)(unsigned flags);
typedef int (*version_fn)(int *version);
typedef int (*count_fn)(int *count);
typedef int (*attribute_fn)(int *value, int attribute, int device);
#define COMPUTE_CAPABILITY_MAJOR 75 /* CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR */

/* A symbol as a function: ISO C has no cast from object to function pointers, POSIX asks for it. */
static void find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof(symbol));
}

/* GPUs that the driver has; *version is the newest CUDA that it speaks. */
static int driver_devices(int *version, char *reason, size_t size)
{
    const char *name = getenv("IMFD_CUDA_DRIVER");
    void *driver = dlopen(name && *name ? name : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!driver) {
        snprintf(reason, size, "no NVIDIA driver: %s", dlerror());
        return 0;
    }
    init_fn init;
    version_fn get_version;
    count_fn get_count;
    attribute_fn get_attribute;
    find(driver, "cuInit", &init);
    find(driver, "cuDriverGetVersion", &get_version);
    find(driver, "cuDeviceGetCount", &get_count);
    find(driver, "cuDeviceGetAttribute", &get_attribute);
    if (!init || !get_version || !get_count || !get_attribute) {
        snprintf(reason, size, "the NVIDIA driver library lacks cuInit or cuDeviceGetCount");
        return 0;
    }
    int status = init(0), count = 0;
    if (status == 0)
        status = get_version(version);
    if (status == 0)
        status = get_count(&count);
    if (status != 0 || count < 1) {
        snprintf(reason, size, "the NVIDIA driver finds no GPU (CUDA error %d)", status);
        return 0;
    }
    /* Ordinals must stay the driver's, so the count ends at the first GPU that is too old. */
    for (int i = 0; i < count; i++) {
        int major = 0;
        if (get_attribute(&major, COMPUTE_CAPABILITY_MAJOR, i) != 0 || major < 8) {
            snprintf(reason, size, "GPU %d has compute capability %d.x; 8.0 is needed", i, major);
            return i;
        }
    }
    return count;
}

/* The path of the module, or false when there is none. */
static bool module_path(char *path, size_t size)
{
    const char *named = getenv("IMFD_CUDA_MODULE");
    if (named && *named)
        return (size_t)snprintf(path, size, "%s", named) < size && access(path, R_OK) == 0;
    char self[3072];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (length > 0) {
        self[length] = '\0';
        char *slash = strrchr(self, '/');
        if (slash)
            *slash = '\0';
        static const char *const beside[] = {"", "/../lib/imfd", "/../engine/cuda"};
        for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++) {
            if ((size_t)snprintf(path, size, "%s%s/" MODULE, self, beside[i]) < size &&
                access(path, R_OK) == 0)
                return true;
        }
    }
    snprintf(path, size, IMF_CUDA_MODULE_DIR "/" MODULE);
    return access(path, R_OK) == 0;
}

/* Our module, loaded, or NULL and why not: it may be missing, or cuBLASLt may. */
static void *open_module(char *reason, size_t size)
{
    char path[4096];
    if (!module_path(path, sizeof(path))) {
        snprintf(reason, size,
                 "there is a GPU, but this build has no CUDA engine (" MODULE
                 " is not beside the program nor in " IMF_CUDA_MODULE_DIR ")");
        return NULL;
    }
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module)
        snprintf(reason, size, "there is a GPU, but the CUDA engine cannot be loaded: %s",
                 dlerror());
    return module;
}

/* Whether a driver of that version runs our module. */
static bool module_suits(void *module, int driver, char *reason, size_t size)
{
    int (*runtime_version)(void);
    find(module, "imf__cuda_runtime_version", &runtime_version);
    if (!runtime_version) {
        snprintf(reason, size, MODULE " is no CUDA engine of imfd");
        return false;
    }
    int built = runtime_version();
    if (driver / 1000 >= built / 1000)
        return true;
    snprintf(reason, size,
             "there is a GPU, but its driver is too old: it speaks CUDA %d.%d, this build needs "
             "%d.0",
             driver / 1000, driver % 1000 / 10, built / 1000);
    return false;
}

int imf_cuda_device_count(char *reason, size_t reason_size)
{
    char text[256] = "";
    int version = 0, count = driver_devices(&version, text, sizeof(text));
    if (count > 0) {
        void *module = open_module(text, sizeof(text));
        if (!module || !module_suits(module, version, text, sizeof(text)))
            count = 0;
    }
    if (count == 0 && reason && reason_size > 0)
        snprintf(reason, reason_size, "%s", text);
    return count;
}

imf_status imf__cuda_device_open(struct imf__device **out, int ordinal,
                                 enum imf_precision precision, struct imf_error *err)
{
    char reason[256];
    int count = imf_cuda_device_count(reason, sizeof(reason));
    if (count == 0)
        return imf__fail(err, IMF_EUNSUPPORTED, "%s", reason);
    if (ordinal < 0 || ordinal >= count)
        return imf__fail(err, IMF_EINVAL, "there is no cuda:%d; this machine has %d GPU%s", ordinal,
                         count, count == 1 ? "" : "s");
    void *module = open_module(reason, sizeof(reason));
    if (!module)
        return imf__fail(err, IMF_EUNSUPPORTED, "%s", reason);
    imf__cuda_device_create_fn create;
    find(module, "imf__cuda_device_create", &create);
    if (!create)
        return imf__fail(err, IMF_EUNSUPPORTED, MODULE " is no CUDA engine of imfd");
    return create(out, IMF__DEVICE_ABI, ordinal, precision, err);
}
