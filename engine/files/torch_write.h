/* What is torch's in a .pth being written: names inside the zip, and the pickle. Used by
 * weights_write.c only. */
#ifndef IMF__TORCH_WRITE_H
#define IMF__TORCH_WRITE_H

#include "files/weights_write.h"
#include "files/zip_write.h"

/* The folder inside the archive, as torch names it: the path's last component without suffix. */
void imf__torch_prefix(char prefix[64], const char *path);
/* PREFIX/data.pkl and what torch.load looks at before it: the entry of tensor i of the list is
 * PREFIX/data/i, counting only tensors that are written. */
IMF_MUST_CHECK imf_status imf__torch_write_head(struct imf__zip_writer *z, const char *prefix,
                                                const struct imf__weights_params *p,
                                                struct imf_error *err);

#endif
