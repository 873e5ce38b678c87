/* The emulator's own calls, from the library that stands in for the driver. */
#ifndef TEST_EMULATOR_H
#define TEST_EMULATOR_H

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "imf_emu.h"

/* Ends the test when there is no such function: nothing below works without the emulator. */
static inline void emulator_find(const char *name, void *function)
{
    const char *path = getenv("IMFD_CUDA_DRIVER");
    void *library = path ? dlopen(path, RTLD_NOW) : NULL;
    void *symbol = library ? dlsym(library, name) : NULL;
    if (!symbol) {
        fprintf(stderr, "%s is not in IMFD_CUDA_DRIVER\n", name);
        exit(1);
    }
    memcpy(function, &symbol, sizeof(symbol));
}

/* How often kernels and products have run so far, or copies of a kind ("memcpy D2H"). Work that is
 * only enqueued does not count. */
static inline uint64_t emulator_ran(const char *copies)
{
    int (*count)(void);
    const struct imf_emu_counters *(*at)(int i);
    uint64_t n = 0;
    emulator_find("imf_emu_counters_count", &count);
    emulator_find("imf_emu_counters_at", &at);
    for (int i = 0; i < count(); i++) {
        const struct imf_emu_counters *c = at(i);
        if (copies ? strcmp(c->name, copies) == 0 : strncmp(c->name, "mem", 3) != 0)
            n += c->launches;
    }
    return n;
}

#endif
