/* A small synthetic model that draws 32 x 32 pictures itself: no decoder to wait for. */
#ifndef TEST_PIXEL_MODEL_H
#define TEST_PIXEL_MODEL_H

#include "../golden/golden.h"

/* Path of its weights below WORK_DIR, malloc'ed; remove() it. */
static inline char *pixel_model(void)
{
    const struct imf__meanflow_shape shape = {.depth = 2,
                                              .shared_depth = 1,
                                              .hidden = 64,
                                              .head_size = 64,
                                              .mlp_hidden = 170,
                                              .classes = 10,
                                              .channels = 3,
                                              .patch_size = 2,
                                              .input_size = 32};
    struct imf__names names = {0};
    ck_assert_int_eq(imf__meanflow_names(&names, &shape), IMF_OK);
    return golden_synth("pixels.safetensors", &names, 7);
}

#endif
