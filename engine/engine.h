/* Inside the engine: an engine is one device plus the rules for using it. */
#ifndef IMF__ENGINE_H
#define IMF__ENGINE_H

#include "device.h"

/* The device under an engine, borrowed; for code that runs further networks on it (InceptionV3). */
struct imf__device *imf__engine_device(struct imf_engine *e);

#endif
