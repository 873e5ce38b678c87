/* The three routines of BLAS and LAPACK that the metrics use. OpenBLAS starts threads when it is loaded
 * and ends them at exit; so it is loaded when a metric is computed, and not by who serves pictures. */
#ifndef IMF_METRICS_LINEAR_ALGEBRA_H
#define IMF_METRICS_LINEAR_ALGEBRA_H

#include "imf.h"

#include <cblas.h>
#include <lapacke.h>

struct imf__linear_algebra {
    __typeof__(cblas_dgemm) *dgemm;
    __typeof__(LAPACKE_dsyevd) *dsyevd;
    __typeof__(LAPACKE_dgesdd) *dgesdd;
};

/* Set by the first load that succeeds; nothing changes it after that. */
extern struct imf__linear_algebra imf__linear;

/* With one thread: OpenBLAS splits sums by their number, and the last bit shall be reproducible. May
 * be called by several threads. */
IMF_MUST_CHECK imf_status imf__linear_load(struct imf_error *err);

#endif
