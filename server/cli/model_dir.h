/* A folder that holds one model: which file is the checkpoint and which the decoder. */
#ifndef MODEL_DIR_H
#define MODEL_DIR_H

#include "imf.h"

struct imfd_model_dir {
    char *checkpoint, *decoder; /* paths; decoder is "none" where there is none */
    char name[64];              /* of the model's size, "MiT_B_2", or "model" where it has none */
};

/* Looks at every weights file of the folder and of those in it, three deep. On failure err says
 * what was found, and *out is empty. */
IMF_MUST_CHECK imf_status imfd_model_dir_find(struct imfd_model_dir *out, const char *path,
                                              struct imf_error *err);
void imfd_model_dir_free(struct imfd_model_dir *d);

#endif
