/* Where `imfd sample` puts its results: one picture or a grid as PNG, all pictures as a uint8 .npy,
 * a folder of PNG files, latents as a float32 .npy. */
#ifndef IMFD_SAMPLE_OUTPUT_H
#define IMFD_SAMPLE_OUTPUT_H

#include "imf.h"
#include "cli/sample_plan.h"

struct imfd_output_options {
    const char *path;    /* grid .png, pictures .npy, "-" (PNG to stdout), or NULL */
    const char *folder;  /* of single pictures, or NULL */
    const char *latents; /* .npy, or NULL */
    int columns;         /* of the grid; 0: as square as the number allows */
};

struct imfd_output; /* opaque */

/* Before any work: checks that everything asked for can be written, and creates the folder. */
IMF_MUST_CHECK imf_status imfd_output_check(const struct imfd_output_options *o,
                                            struct imf_error *err);
/* Room for n samples of the model. */
IMF_MUST_CHECK imf_status imfd_output_create(struct imfd_output **out,
                                             const struct imfd_output_options *o,
                                             const struct imf_model *model, size_t n,
                                             struct imf_error *err);
bool imfd_output_wants_pictures(const struct imfd_output *o);
/* Sample i is done. rgb (H, W, 3) may be NULL where pictures are not wanted. */
IMF_MUST_CHECK imf_status imfd_output_add(struct imfd_output *o, size_t i,
                                          const struct imfd_sample *s, const float *z,
                                          const uint8_t *rgb, struct imf_error *err);
/* Writes grid and latents. */
IMF_MUST_CHECK imf_status imfd_output_finish(struct imfd_output *o, struct imf_error *err);
void imfd_output_destroy(struct imfd_output *o); /* NULL is fine */

#endif
