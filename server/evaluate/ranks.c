/* Finding and loading the MPI module; see ranks.h. */
#include "evaluate/ranks.h"

#include "common/error.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <dlfcn.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool started_by_mpirun(void)
{
    /* Open MPI, MPICH and Slurm's PMIx set these for every rank. */
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (getenv(names[i]))
            return true;
    return false;
}

/* Beside the program (a build folder), or where it is installed. */
static void *open_module(void)
{
    char self[PATH_MAX], path[PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0)
        return NULL;
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    snprintf(path, sizeof(path), "%s/libimfd_mpi.so", self);
    /* RTLD_GLOBAL: Open MPI's own plug-ins look for its symbols. */
    void *module = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    return module ? module : dlopen(IMFD_MODULE_DIR "/libimfd_mpi.so", RTLD_NOW | RTLD_GLOBAL);
}

imf_status imfd_ranks_init(struct imfd_ranks *r, struct imf_error *err)
{
    memset(r, 0, sizeof(*r));
    r->mpi.size = r->mpi.local_size = 1;
    if (!started_by_mpirun())
        return IMF_OK;
    r->module = open_module();
    if (!r->module)
        return imf__fail(err, IMF_EUNSUPPORTED,
                         "started by mpirun, but MPI is not built in or its libraries are missing "
                         "(%s); install libopenmpi-dev and build again, or run without mpirun",
                         dlerror());
    imfd_mpi_open_fn open_fn;
    void *symbol = dlsym(r->module, "imfd_mpi_open");
    memcpy(&open_fn, &symbol, sizeof(open_fn)); /* ISO C has no cast from object to function */
    if (!symbol || open_fn(&r->mpi, IMFD_MPI_ABI) != 0)
        return imf__fail(err, IMF_EUNSUPPORTED,
                         "libimfd_mpi.so does not belong to this imfd; build both again");
    return IMF_OK;
}

bool imfd_ranks_all(const struct imfd_ranks *r, bool mine)
{
    if (r->mpi.size == 1)
        return mine;
    unsigned char *all = malloc((size_t)r->mpi.size), value = mine;
    if (!all)
        abort(); /* a byte per rank: there is no going on */
    r->mpi.gather_all(all, &value, 1);
    bool result = true;
    for (int i = 0; i < r->mpi.size; i++)
        result = result && all[i];
    free(all);
    return result;
}

bool imfd_ranks_same(const struct imfd_ranks *r, const void *data, size_t bytes)
{
    uint64_t hash = XXH3_64bits(data, bytes);
    if (r->mpi.size == 1)
        return true;
    uint64_t *all = malloc((size_t)r->mpi.size * sizeof(*all));
    if (!all)
        abort();
    r->mpi.gather_all(all, &hash, sizeof(hash));
    bool same = true;
    for (int i = 0; i < r->mpi.size; i++)
        same = same && all[i] == hash;
    free(all);
    return same;
}

void imfd_ranks_finish(struct imfd_ranks *r)
{
    if (r->module)
        r->mpi.finish();
}

void imfd_ranks_give_up(struct imfd_ranks *r)
{
    if (r->module)
        r->mpi.give_up();
}
