/* A device that computes nothing and counts: every operation adds the launches that the CUDA device
 * would make for it, with their bytes and FLOPs, and the time they take on a named GPU,
 *
 *     seconds  = sum over launches of max(bytes / bandwidth, FLOPs / rate) + launch cost,
 *     estimate = the same with the shares of bandwidth and rate that kernels of a kind reach.
 *
 * The first is what no kernel can beat, the second what to expect of a card.
 *
 * Models load and run on it like on any device (their weights are read for their shapes only), so
 * the prediction follows the very sequence of operations that runs. Bytes are those that must cross
 * DRAM with an ideal L2: each operand once a launch. The counts are held against the emulator's
 * counters of the real kernels by tests/cuda_emu.
 *
 * The engine's own, and its tools': a program that serves needs imf.h alone. */
#ifndef IMF__ROOFLINE_H
#define IMF__ROOFLINE_H

#include "device.h"

/* Kinds of launches, by what bounds them and how well that is used. */
enum imf__work {
    IMF__MEMORY,    /* element-wise and norms: the share of the bandwidth */
    IMF__LIBRARY,   /* cuBLASLt in bfloat16: the share of bf16_flops */
    IMF__CONV,      /* our convolutions on mma.sync: the share of bf16_flops */
    IMF__ATTENTION, /* our attention on mma.sync, exponentials between: the share of bf16_flops */
    IMF__PLAIN,     /* float32 products: the share of f32_flops */
    IMF__WORK_KINDS
};

struct imf__gpu {
    const char *name;      /* "H100" */
    const char *describe;  /* "H100 SXM, 990 TFLOP/s bf16 dense, 3.35 TB/s" */
    double bf16_flops;     /* tensor cores, dense, float32 accumulation, FLOP/s */
    double f32_flops;      /* plain float32, FLOP/s */
    double bandwidth;      /* bytes/s */
    double launch_seconds; /* between two kernels of a graph */
    double reached[IMF__WORK_KINDS];
};

/* One stage: all launches of a kind since the last reset. */
struct imf__roofline_row {
    char stage[40]; /* "attention", "conv 3x3 at 64 x 64" */
    int launches;
    double flops; /* as executed, padding included */
    double useful_flops;
    double bytes;
    double seconds;  /* at peak rates */
    double estimate; /* at reached ones */
};

imf_status imf__roofline_device_create(struct imf__device **out, const char *gpu,
                                       enum imf_precision precision, struct imf_error *err);
const struct imf__gpu *imf__roofline_gpu(const struct imf__device *d);
/* Rows in the order of their first launch; borrowed, valid until the next operation or reset. */
int imf__roofline_rows(const struct imf__device *d, const struct imf__roofline_row **rows);
void imf__roofline_reset(struct imf__device *d);
/* Sum of all rows. */
struct imf__roofline_row imf__roofline_total(const struct imf__device *d);

#endif
