/* .npz archives: directory, headers, and every array's values. */
#include "fuzz.h"

#include "files/npz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct imf__npz *z;
    struct imf_error err = {0};
    if (imf__npz_open(&z, fuzz_file(data, size), &err) != IMF_OK) {
        if (!err.message[0])
            abort();
        return 0;
    }
    for (size_t i = 0; i < imf__npz_count(z); i++) {
        const struct imf__npz_array *a = imf__npz_at(z, i);
        if (a->count > 1 << 20)
            continue;
        double *values = malloc((a->count + 1) * sizeof(double));
        if (!values)
            abort();
        if (imf__npz_read_double(z, a, values, &err) == IMF_OK) {
            for (uint64_t k = 0; k < a->count; k++) {
                if (values[k] - values[k] != 0)
                    abort(); /* NaN or infinity let through */
            }
        }
        free(values);
    }
    imf__npz_close(z);
    return 0;
}
