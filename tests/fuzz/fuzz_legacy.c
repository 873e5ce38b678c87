/* The torch legacy format: what follows the magic number and the protocol, which are put in front
 * so that mutations reach the rest. */
#include "fuzz.h"

/* The first two pickles of every file. */
static const uint8_t head[] = "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8\x50\x19.\x80\x02M\xe9\x03.";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const size_t n = sizeof(head) - 1;
    /* Seeds are whole files: their own head goes. */
    if (size >= n && memcmp(data, head, n) == 0) {
        data += n;
        size -= n;
    }
    uint8_t *file = malloc(n + size);
    if (!file)
        return 0;
    memcpy(file, head, n);
    memcpy(file + n, data, size);
    fuzz_checkpoint(file, n + size);
    free(file);
    return 0;
}
