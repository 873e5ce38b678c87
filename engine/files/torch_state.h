/* From a pickle's root value to the checkpoint's list of tensors: what both torch formats share. */
#ifndef IMF__TORCH_STATE_H
#define IMF__TORCH_STATE_H

#include "files/pickle.h"

struct imf__region {
    uint32_t file; /* of the checkpoint */
    uint64_t offset, bytes;
    uint32_t crc; /* 0: none */
};

/* Finds where a storage's bytes are. The error goes behind "storage KEY": "is missing". */
struct imf__storage_source {
    imf_status (*find)(void *user, const struct imf__pickle_storage *storage,
                       struct imf__region *out, struct imf_error *err);
    void *user;
    uint32_t file; /* the checkpoint's, for messages */
};

/* Enters the nesting dict and adds its tensors to the checkpoint, in the order of the file, and the
 * names of what was not built. */
IMF_MUST_CHECK imf_status imf__torch_state_add(struct imf__checkpoint *c,
                                               const struct imf__pickle *pickle,
                                               const struct imf__storage_source *source,
                                               struct imf_error *err);

#endif
