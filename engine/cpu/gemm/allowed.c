/* Whether this process may use AMX tiles. */
#include "cpu/gemm/gemm.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XTILEDATA 18

static bool processor_has_tiles(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1);
}

/* The kernel's part: it saves tiles (XCR0), and lets this process have them. */
static bool kernel_gives_tiles(void)
{
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1))
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low >> 17 & 3) == 3 && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
}

bool imf__tiles_allowed(const char **why)
{
    if (why)
        *why = NULL;
    if (!processor_has_tiles())
        return false;
    if (kernel_gives_tiles())
        return true;
    if (why)
        *why = "this CPU has AMX, but the kernel does not let this process use it: slower kernels";
    return false;
}
#else
bool imf__tiles_allowed(const char **why)
{
    if (why)
        *why = NULL;
    return false;
}
#endif
