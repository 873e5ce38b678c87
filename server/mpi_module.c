/* libimfd_mpi.so: the only code that includes MPI. Built where Open MPI (or another MPI that
 * pkg-config or CMake finds) is installed; loaded by ranks.c when mpirun started the program. */
#include "ranks.h"

#include <mpi.h>
#include <stdint.h>

/* A message's count is an int: larger blocks go in pieces. */
enum { PIECE = 1 << 30, TAG = 1 };

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

static void finish(void)
{
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
    out->gather_all = gather_all;
    out->send = send_bytes;
    out->receive = receive_bytes;
    out->finish = finish;
    out->give_up = give_up;
    return 0;
}
