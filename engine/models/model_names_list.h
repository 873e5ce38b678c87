/* Building a list of names; between the model_names*.c files only. */
#ifndef IMF__MODEL_NAMES_LIST_H
#define IMF__MODEL_NAMES_LIST_H

#include "models/model_names.h"

struct list {
    struct imf__names *names;
    imf_status status; /* sticky, so that adding needs no checks */
    bool unneeded;     /* what is added now serves training only */
    char prefix[64];   /* put in front of every name */
};

__attribute__((format(printf, 4, 5))) void
imf__list_add(struct list *l, int ndim, const int64_t shape[4], const char *format, ...);
/* The status; frees the list when it is not IMF_OK. */
IMF_MUST_CHECK imf_status imf__list_end(struct list *l);

/* The number of dimensions and a shape, as imf__list_add wants them. */
#define D1(a) 1, ((const int64_t[4]){a})
#define D2(a, b) 2, ((const int64_t[4]){a, b})
#define D3(a, b, c) 3, ((const int64_t[4]){a, b, c})
#define D4(a, b, c, d) 4, ((const int64_t[4]){a, b, c, d})

#endif
