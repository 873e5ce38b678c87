/* Which mutation of the kernels is on: the one whose number is in IMF_EMU_MUTANT (see mutate.py).
 */
#include <stdlib.h>

extern "C" __attribute__((visibility("hidden"), no_sanitize("thread"))) int
imf_emu_mutant(int number)
{
    static int chosen = -1;
    if (chosen < 0) {
        const char *s = getenv("IMF_EMU_MUTANT");
        chosen = s ? atoi(s) : 0;
    }
    return number == chosen;
}
