/* Heads of .npy files. */
#include "npy.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void imfd_npy_head(char head[IMFD_NPY_HEAD_SIZE], const char *descr, const uint64_t *shape,
                   int ndim)
{
    char text[IMFD_NPY_HEAD_SIZE - 10 + 1]; /* magic, version and length take 10 bytes */
    size_t used = 0;
    used += (size_t)snprintf(text, sizeof(text),
                             "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    for (int i = 0; i < ndim && used < sizeof(text); i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%" PRIu64 ", ", shape[i]);
    if (used < sizeof(text))
        used += (size_t)snprintf(text + used, sizeof(text) - used, "), }");
    memset(head, ' ', IMFD_NPY_HEAD_SIZE);
    memcpy(head, "\x93NUMPY\x01\x00", 8);
    head[8] = (char)(IMFD_NPY_HEAD_SIZE - 10);
    head[9] = 0;
    assert(used <= IMFD_NPY_HEAD_SIZE - 11);
    memcpy(head + 10, text, used);
    head[IMFD_NPY_HEAD_SIZE - 1] = '\n';
}
