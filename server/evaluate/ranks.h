/* Ranks of a program started by mpirun. MPI itself lives in a module, libimfd_mpi.so, which is
 * loaded only when the environment says that mpirun started us: a server that never evaluates
 * depends on no MPI. Alone, rank is 0 of 1 and every call is trivial. */
#ifndef IMFD_RANKS_H
#define IMFD_RANKS_H

#include "imf.h"

#define IMFD_MPI_ABI 2

/* What the module exports as `imfd_mpi_open`. Calls end the program when a rank is lost, as MPI
 * does. */
struct imfd_mpi {
    int rank, size;             /* of all */
    int local_rank, local_size; /* of those on this machine */
    void (*gather_all)(void *all /* (size, bytes) */, const void *mine, int bytes);
    void (*send)(int to, const void *data, size_t bytes);
    void (*receive)(int from, void *data, size_t bytes);
    /* Progress: every rank but 0 tells how far it is, at the end with `last`; rank 0 hears of it.
     * None of them waits, but for the last `tell`. */
    void (*tell)(int64_t value, bool last);
    int64_t (*heard)(int *ended); /* sum of what the others told; how many of them have ended */
    void (*finish)(void);
    void (*give_up)(void); /* ends all ranks at once: after a failure that others wait for */
};
typedef int (*imfd_mpi_open_fn)(struct imfd_mpi *out, int abi);

struct imfd_ranks {
    struct imfd_mpi mpi;
    void *module;
};

/* Fails with a sentence when mpirun started us and the module is missing. */
IMF_MUST_CHECK imf_status imfd_ranks_init(struct imfd_ranks *r, struct imf_error *err);
/* True when `mine` is true on every rank. */
bool imfd_ranks_all(const struct imfd_ranks *r, bool mine);
/* True when these bytes are equal on every rank. */
bool imfd_ranks_same(const struct imfd_ranks *r, const void *data, size_t bytes);
/* Orderly end; collective. */
void imfd_ranks_finish(struct imfd_ranks *r);
/* Ends the program on all ranks where there are others; returns when alone. */
void imfd_ranks_give_up(struct imfd_ranks *r);

#endif
