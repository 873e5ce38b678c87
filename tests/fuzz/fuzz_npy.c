/* .npy files. */
#include "fuzz.h"

#include "files/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct imf__npy a;
    struct imf_error err = {0};
    if (imf__npy_load(&a, fuzz_file(data, size), &err) == IMF_OK)
        imf__npy_free(&a);
    else if (!err.message[0])
        abort();
    return 0;
}
