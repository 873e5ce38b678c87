/* What the metadata of a safetensors file says about a model: default_steps, default_omega,
 * default_t_min, default_t_max, noise_scale, class_names (a JSON list), input_size. Values out of
 * range are errors that name the key.
 *
 * The engine's own, and its tools': a program that serves needs imf.h alone. */
#ifndef IMF__METADATA_H
#define IMF__METADATA_H

#include "models/model_names.h"

IMF_MUST_CHECK imf_status imf__metadata_int(int *out, const struct imf__checkpoint *c,
                                            const char *key, int fallback, int min, int max,
                                            struct imf_error *err);
/* Replaces the values of *d that the file has others for. */
IMF_MUST_CHECK imf_status imf__metadata_defaults(struct imf__meanflow_defaults *d,
                                                 const struct imf__checkpoint *c,
                                                 struct imf_error *err);
/* `classes` names, or NULL where the file has none. imf__class_names_free frees them. */
IMF_MUST_CHECK imf_status imf__metadata_class_names(char ***out, int classes,
                                                    const struct imf__checkpoint *c,
                                                    struct imf_error *err);
void imf__class_names_free(char **names, int classes); /* NULL is fine */

#endif
