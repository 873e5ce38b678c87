/* The oracle: the whole device table in plain loops (imf__plain_device_create), and a table of
 * cases that holds any device against it. tests/ops runs it on every device; `imfd selfcheck` runs
 * it on the machine where a picture looks wrong. Written to be read and believed, not to be fast:
 * sums are taken in double precision, and nothing is fused, blocked or vectorised.
 *
 * The engine's own, and its tools': a program that serves needs imf.h alone. */
#ifndef IMF__REFERENCE_H
#define IMF__REFERENCE_H

#include "device.h"

/* precision FP32: every sum in double, stored as float32: the truth. BF16: what a straightforward
 * bfloat16 version of each operation gives, weights and stored activations rounded: the yardstick
 * for a device's bfloat16 error. AUTO is FP32. */
IMF_MUST_CHECK imf_status imf__plain_device_create(struct imf__device **out,
                                                   enum imf_precision precision,
                                                   struct imf_error *err);

/* One operation at one shape. */
struct imf__op_case;

struct imf__op_report {
    const char *op;  /* "conv2d", static */
    char shape[120]; /* "3x3 s1 up 33->65 7x5 relu" */
    bool passed;
    bool declined;       /* passed, but only by IMF_EUNSUPPORTED for a shape that no model has */
    imf_status status;   /* of the device's calls */
    double error, bound; /* relative L2 error against the truth, and what is allowed */
    double worst, worst_bound; /* largest absolute error and what is allowed */
    char message[400];         /* why it failed: seed, index, values; "" when passed */
};

size_t imf__op_case_count(void);
const char *imf__op_case_name(size_t i); /* of the operation */

/* Runs case i on the device three times: dry, with several samples, then each of those samples in
 * other batches. Passes when the values agree with the plain device and a sample's bits are the
 * same in every batch. The device must be idle; on IMF_EDEVICE it may be unusable afterwards. */
void imf__op_check(struct imf__device *d, size_t i, struct imf__op_report *report);

#endif
