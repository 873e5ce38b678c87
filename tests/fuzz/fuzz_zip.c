/* The torch zip: whole files that begin like one. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 4 && memcmp(data, "PK\3\4", 4) == 0)
        fuzz_checkpoint(data, size);
    return 0;
}
