/* A list of tensors, names and shapes: what a model is made of, or what a file being written will hold. */
#ifndef IMF__NAMES_H
#define IMF__NAMES_H

#include "imf.h"

struct imf__name {
    char name[128];
    int ndim; /* 0: a counter (num_batches_tracked) that nothing reads */
    int64_t shape[4];
    bool needed; /* by this engine; v_final_layer and the like serve training only */
};

struct imf__names {
    struct imf__name *items;
    size_t count, capacity;
    uint64_t parameters; /* sum of the products of all shapes but the counters' */
};

void imf__names_free(struct imf__names *names);
const struct imf__name *imf__names_find(const struct imf__names *names, const char *name);

#endif
