/* `imfd bench --roofline GPU`: predicted times instead of measured ones. */
#ifndef IMFD_BENCH_ROOFLINE_H
#define IMFD_BENCH_ROOFLINE_H

#include "imf.h"

#include <cjson/cJSON.h>

/* The engine is one of device "roofline:GPU", with its model and max_batch lanes. Returns what was
 * counted for every batch size, to be printed as JSON or by imfd_roofline_print; NULL with `err`.
 */
cJSON *imfd_roofline_count(struct imf_engine *e, struct imf_model *m, struct imf_lane **lanes,
                           const int *batches, int n_batches, struct imf_error *err);
void imfd_roofline_print(const cJSON *results);

#endif
