/* Writing checkpoints, tensor by tensor, so that the largest model needs no more memory than a
 * buffer: .safetensors, or .pth in torch's zip format (torch.load reads it, weights_only too).
 * The file appears under its name when it is complete. */
#ifndef IMF__WEIGHTS_WRITE_H
#define IMF__WEIGHTS_WRITE_H

#include "files/checkpoint.h"
#include "files/names.h"

struct imf__weights_params {
    const struct imf__names *names;   /* in this order; counters (ndim 0) are left out. Borrowed */
    enum imf__stored_type type;       /* IMF__STORED_F32, F16 or BF16 */
    const char *const (*metadata)[2]; /* key, value; safetensors only; NULL for none */
    size_t metadata_count;
    bool force_zip64; /* for tests: large-file records in a small file */
};

struct imf__weights_writer; /* opaque */

/* The format follows the suffix: .safetensors, or .pth, .pt, .bin. IMF_EINVAL for others. */
IMF_MUST_CHECK imf_status imf__weights_create(struct imf__weights_writer **out, const char *path,
                                              const struct imf__weights_params *p,
                                              struct imf_error *err);
/* The next n values, in the order of the list, each tensor in C order; a call may not reach past
 * the end of a tensor. float16 and bfloat16 are rounded to nearest, ties to even. */
IMF_MUST_CHECK imf_status imf__weights_append(struct imf__weights_writer *w, const float *values,
                                              size_t n, struct imf_error *err);
/* After all values. Discard must follow in any case. */
IMF_MUST_CHECK imf_status imf__weights_commit(struct imf__weights_writer *w, struct imf_error *err);
void imf__weights_discard(struct imf__weights_writer *w); /* NULL is fine */

#endif
