/* safetensors: the input is the JSON header and the data; its length in front is right, so that
 * mutations reach the header. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = memchr(data, '\n', size);
    uint64_t header = end ? (uint64_t)(end - data) : size;
    uint8_t *file = malloc(8 + size);
    if (!file)
        return 0;
    memcpy(file, &header, 8);
    memcpy(file + 8, data, size);
    fuzz_checkpoint(file, 8 + size);
    free(file);
    return 0;
}
