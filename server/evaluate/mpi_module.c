/* libimfd_mpi.so: the only code that includes MPI. Built where Open MPI (or another MPI that
 * pkg-config or CMake finds) is installed; loaded by ranks.c when mpirun started the program. */
#include "evaluate/ranks.h"

#include <mpi.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A message's count is an int: larger blocks go in pieces. */
enum { PIECE = 1 << 30, TAG = 1, TAG_PROGRESS = 2 };

static void gather_all(void *all, const void *mine, int bytes)
{
    MPI_Allgather(mine, bytes, MPI_BYTE, all, bytes, MPI_BYTE, MPI_COMM_WORLD);
}

static void send_bytes(int to, const void *data, size_t bytes)
{
    const char *p = data;
    for (; bytes > 0; p += PIECE) {
        int n = bytes < PIECE ? (int)bytes : PIECE;
        MPI_Send(p, n, MPI_BYTE, to, TAG, MPI_COMM_WORLD);
        bytes -= (size_t)n;
    }
}

static void receive_bytes(int from, void *data, size_t bytes)
{
    char *p = data;
    for (; bytes > 0; p += PIECE) {
        int n = bytes < PIECE ? (int)bytes : PIECE;
        MPI_Recv(p, n, MPI_BYTE, from, TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        bytes -= (size_t)n;
    }
}

/* ---- Progress: a number and whether it is the last --------------------------------------------
 */

static int64_t told[2]; /* on its way while `telling` is active */
static MPI_Request telling = MPI_REQUEST_NULL;
static int64_t *known; /* rank 0: of each rank */
static int ranks, ended_ranks;

static void tell(int64_t value, bool last)
{
    int arrived = 0;
    if (last)
        MPI_Wait(&telling, MPI_STATUS_IGNORE);
    else
        MPI_Test(&telling, &arrived, MPI_STATUS_IGNORE);
    if (!last && !arrived)
        return; /* rank 0 is busy: it hears the next one */
    told[0] = value;
    told[1] = last;
    MPI_Isend(told, 2, MPI_INT64_T, 0, TAG_PROGRESS, MPI_COMM_WORLD, &telling);
    if (last)
        MPI_Wait(&telling, MPI_STATUS_IGNORE);
}

static int64_t heard(int *ended)
{
    int64_t message[2], sum = 0;
    for (int there = 1; there;) {
        MPI_Status status;
        MPI_Iprobe(MPI_ANY_SOURCE, TAG_PROGRESS, MPI_COMM_WORLD, &there, &status);
        if (!there)
            break;
        MPI_Recv(message, 2, MPI_INT64_T, status.MPI_SOURCE, TAG_PROGRESS, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
        known[status.MPI_SOURCE] = message[0];
        ended_ranks += message[1] != 0;
    }
    for (int r = 1; r < ranks; r++)
        sum += known[r];
    *ended = ended_ranks;
    if (ended_ranks == ranks - 1) { /* what comes from now on belongs to the next evaluation */
        memset(known, 0, (size_t)ranks * sizeof(*known));
        ended_ranks = 0;
    }
    return sum;
}

/* ---- Begin and end --------------------------------------------------------------------------- */

static void finish(void)
{
    free(known);
    MPI_Finalize();
}

static void give_up(void)
{
    MPI_Abort(MPI_COMM_WORLD, 1);
}

__attribute__((visibility("default"))) int imfd_mpi_open(struct imfd_mpi *out, int abi);

int imfd_mpi_open(struct imfd_mpi *out, int abi)
{
    int given;
    if (abi != IMFD_MPI_ABI)
        return -1;
    /* Only the main thread speaks to MPI. */
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given) != MPI_SUCCESS)
        return -1;
    MPI_Comm local;
    MPI_Comm_rank(MPI_COMM_WORLD, &out->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &out->size);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local);
    MPI_Comm_rank(local, &out->local_rank);
    MPI_Comm_size(local, &out->local_size);
    MPI_Comm_free(&local);
    ranks = out->size;
    known = calloc((size_t)ranks, sizeof(*known));
    if (!known)
        return -1;
    out->gather_all = gather_all;
    out->send = send_bytes;
    out->receive = receive_bytes;
    out->tell = tell;
    out->heard = heard;
    out->finish = finish;
    out->give_up = give_up;
    return 0;
}
