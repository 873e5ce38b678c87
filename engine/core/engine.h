/* Inside the engine: an engine is one device plus the rules for using it.
 *
 * The engine's own, and its tools': a program that serves needs imf.h alone. */
#ifndef IMF__ENGINE_H
#define IMF__ENGINE_H

#include "device.h"

struct imf_engine {
    struct imf__device *dev;
    bool failed; /* a device error has happened: no further work */
};

/* The device under an engine, borrowed; for code that runs further networks on it (InceptionV3). */
struct imf__device *imf__engine_device(struct imf_engine *e);

/* The CUDA module's device (cuda_loader.c); fails with a sentence where there is none. */
imf_status imf__cuda_device_open(struct imf__device **out, int ordinal,
                                 enum imf_precision precision, struct imf_error *err);

#endif
