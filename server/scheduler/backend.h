/* What the scheduler needs of imf.h: a device that holds models, and lanes that are stepped and
 * decoded. Two tables exist: libimf's own functions, and backend_fake (arithmetic only, for tests
 * and for measuring the server by itself). This is a test seam, not a plug-in system.
 *
 * Threads: everything of one device, from device_open to device_close, is called on that device's
 * engine thread and nowhere else. class_name is the exception: it may be called from any thread
 * while the model is loaded.
 * Ownership: *_open, *_load and *_create hand the object to the caller, who gives it back through
 * the matching close, unload or destroy; models before their device, lanes before their model.
 * Errors: as in imf.h, out-parameters are untouched on failure. After IMF_EDEVICE the device is
 * good for nothing but closing. */
#ifndef BACKEND_H
#define BACKEND_H

#include "imf.h"

struct backend_ops {
    imf_status (*device_open)(struct imf_engine **out, const struct imf_engine_params *p,
                              struct imf_error *err);
    void (*device_close)(struct imf_engine *device);
    /* Valid until device_close; never changes. */
    const struct imf_engine_info *(*device_info)(const struct imf_engine *device);
    /* Sentence about the last failed step or decode; "" when none. */
    const char *(*device_error)(const struct imf_engine *device);

    imf_status (*model_load)(struct imf_model **out, struct imf_engine *device,
                             const struct imf_model_params *p, struct imf_error *err);
    void (*model_unload)(struct imf_model *model);
    const struct imf_model_info *(*model_info)(const struct imf_model *model);
    const char *(*class_name)(const struct imf_model *model, int label); /* or NULL */

    imf_status (*lane_create)(struct imf_lane **out, const struct imf_model *model);
    imf_status (*lane_start)(struct imf_lane *lane, const struct imf_model *model, int32_t label,
                             uint64_t seed, const struct imf_sampling *s, struct imf_error *err);
    /* lane_start in halves (imf.h), for drawing noise elsewhere; NULL, both, where it is not. */
    imf_status (*lane_set)(struct imf_lane *lane, const struct imf_model *model, int32_t label,
                           uint64_t seed, const struct imf_sampling *s, struct imf_error *err);
    void (*noise_draw)(const struct imf_model *model, float *z, uint64_t seed);
    void (*noise_shape)(const struct imf_model *model, float *z, size_t n);
    imf_status (*lane_fetch)(struct imf_model *model, struct imf_lane *lane); /* NULL: z is there */
    void (*lane_destroy)(struct imf_lane *lane);

    /* As in imf.h: one network evaluation for 1..max_batch lanes, pictures of 1..decode_batch
     * lanes, each in halves; rgb holds a place of (image_height, image_width, 3) for each picture.
     * wait returns when everything begun has been computed. */
    imf_status (*step_begin)(struct imf_model *model, struct imf_lane *const *lanes, int n);
    imf_status (*step_end)(struct imf_model *model, struct imf_lane **lanes, int n);
    imf_status (*decode_begin)(struct imf_model *model, struct imf_lane *const *lanes, int n);
    imf_status (*decode_end)(struct imf_model *model, uint8_t *const *rgb);
    imf_status (*wait)(struct imf_engine *device);
};

/* The fake engine. It is chosen by the device name "fake" or "fake:key=value,key=value...":
 *
 *   step_us=0        duration of a network evaluation, whatever the batch
 *   step_lane_us=0   and what each lane adds to it
 *   decode_us=0      duration of a decode call
 *   decode_lane_us=0 and what each lane adds to it
 *   spin=0           1: burn the processor for those durations instead of sleeping
 *   load_ms=0        duration of model_load
 *   fail_load=0      1: model_load fails with IMF_EFORMAT
 *   sick=0           1: latents are not numbers; 2: all pixels are alike; 3: no decoder
 *   fail_label=-1    a step that holds a lane of this class fails with IMF_EDEVICE
 *   hang_label=-1    a step that holds a lane of this class never ends
 *   fail_after=0     the n-th step and all later ones fail with IMF_EDEVICE; 0: never
 *   overlap=0        1: time passes after the call, as on a GPU, until somebody waits for it
 *   max_batch=8      used where imf_model_params asks 0
 *   size=256         width and height of the pictures
 *   classes=1000
 *
 * A picture depends on class, seed, steps, omega, t_min and t_max and on nothing else, and no two
 * sets of these look alike; it holds gradients and noise, so that PNG has realistic work. The
 * latent passes through every step, so a lane stepped once too often or mixed up with another one
 * shows in the picture. */
extern const struct backend_ops backend_fake;

/* What a test may do to a fake device from outside while it runs. All calls are thread-safe.
 * Devices are found by the `name=` option ("fake:name=a"), at most 15 characters. */
struct backend_fake_control;
/* Creates the control that devices opened later under this name obey; hand back with _free after
 * they are closed. NULL when out of memory. */
struct backend_fake_control *backend_fake_control_new(const char *name);
void backend_fake_control_free(struct backend_fake_control *c);
/* Blocks before the next step or decode until released. */
void backend_fake_block(struct backend_fake_control *c, bool blocked);
/* Returns once a step or decode waits at the block. */
void backend_fake_wait_blocked(struct backend_fake_control *c);
/* The next step or decode, and all later ones, fail with IMF_EDEVICE. */
void backend_fake_fail(struct backend_fake_control *c);
/* Lanes created and not yet destroyed. */
int backend_fake_live_lanes(struct backend_fake_control *c);

/* The table for a device name of the settings ("cpu", "cuda:1", "fake:..."). */
const struct backend_ops *backend_for_device(const char *device);

#endif
