/* Loading OpenBLAS and LAPACKE. */
#include "metrics/linear_algebra.h"

#include "common/error.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct imf__linear_algebra imf__linear;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char missing[300]; /* "": all is there */

static void *find(void *library, const char *name)
{
    void *symbol = library ? dlsym(library, name) : NULL;
    const char *why = !symbol && missing[0] == '\0' ? dlerror() : NULL;
    if (!symbol && missing[0] == '\0')
        snprintf(missing, sizeof(missing), "%s", why ? why : name);
    return symbol;
}

static void load(void)
{
    /* Global, so that LAPACKE finds OpenBLAS's LAPACK before the reference one it was linked with. */
    void *blas = dlopen(IMF_OPENBLAS, RTLD_NOW | RTLD_GLOBAL);
    void *lapacke = blas ? dlopen(IMF_LAPACKE, RTLD_NOW | RTLD_LOCAL) : NULL;
    void *symbols[3];
    symbols[0] = find(blas, "cblas_dgemm");
    symbols[1] = find(lapacke, "LAPACKE_dsyevd");
    symbols[2] = find(lapacke, "LAPACKE_dgesdd");
    if (missing[0] != '\0')
        return;
    /* ISO C has no cast from object to function. */
    memcpy(&imf__linear.dgemm, &symbols[0], sizeof(symbols[0]));
    memcpy(&imf__linear.dsyevd, &symbols[1], sizeof(symbols[1]));
    memcpy(&imf__linear.dgesdd, &symbols[2], sizeof(symbols[2]));
    void *symbol = dlsym(blas, "openblas_set_num_threads");
    void (*set_threads)(int);
    memcpy(&set_threads, &symbol, sizeof(symbol));
    if (symbol)
        set_threads(1);
}

imf_status imf__linear_load(struct imf_error *err)
{
    pthread_once(&once, load);
    if (missing[0] == '\0')
        return IMF_OK;
    return imf__fail(err, IMF_EUNSUPPORTED, "metrics need OpenBLAS and LAPACKE: %s", missing);
}
