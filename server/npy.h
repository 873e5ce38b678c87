/* The head of a .npy file (NumPy's format 1.0): what comes before the raw values. Any thread. */
#ifndef IMFD_NPY_H
#define IMFD_NPY_H

#include <stddef.h>
#include <stdint.h>

#define IMFD_NPY_HEAD_SIZE 128 /* always: values start on a 64-byte boundary, as NumPy has it */

/* descr: "|u1" for uint8, "<f4" for float32. C order. ndim 1..4 and dimensions under
 * 10^13, which always fits. */
void imfd_npy_head(char head[IMFD_NPY_HEAD_SIZE], const char *descr, const uint64_t *shape,
                   int ndim);

#endif
