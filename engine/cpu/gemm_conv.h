/* Inside our own convolutions: what loading (gemm_conv.c) leaves to running (gemm_conv_run.c).
 *
 * No picture is rearranged (gemm_multiply.h). A task is a band of rows, and of columns as many panels
 * as keep all threads busy. Where a GroupNorm waits to be done, a task does it to the pixels that its
 * rows see, into a buffer that stays in the second-level cache: to those of its first row at once,
 * unless the band above has left them there, to the others while the tiles work on the rows before.
 *
 * Where all panels fit the cache too, the buffer is a ring of as many rows as one row of output sees
 * and the one that is being normalised: a band goes on where the one above it has ended. */
#ifndef IMF__CPU_GEMM_CONV_H
#define IMF__CPU_GEMM_CONV_H

#include "cpu/gemm_multiply.h"

#define BLOCK 32 /* channels */

/* One product: all of it, or one parity. */
struct phase {
    uint16_t *data; /* panels of B */
    /* Of the steps: in a picture, and in a band's buffer, for each row of a ring to begin with. */
    size_t *offsets, *band_offsets;
    size_t first; /* elements from a picture's first to the window of output pixel (0, 0) */
};

struct gemm_conv {
    struct imf__conv_desc desc;
    int out_h, out_w; /* of one phase */
    int steps, panels, phases;
    size_t src_row, src_plane, src_picture; /* elements */
    size_t dst_row, dst_plane, dst_picture;
    size_t sums_row;       /* floats that a GroupNorm wants of one row of the result */
    int band, task_panels; /* output rows and panels of a task */
    int ring;              /* rows of the buffer, used in turn; 0: it has all rows of a band */
    bool ahead;            /* bands normalise a row for the one below */
    int band_rows;         /* that the buffer has */
    size_t band_plane;     /* elements */
    struct phase phase[4];
    struct gemm_strip *strips; /* of a band */
    int row_strips;
    float *bias; /* padded to whole panels */
};

static inline size_t blocks_of(int channels)
{
    return ((size_t)channels + BLOCK - 1) / BLOCK;
}

#endif
