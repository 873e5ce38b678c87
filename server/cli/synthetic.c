/* Synthetic weights in a folder of their own below TMPDIR. */
#include "cli/synthetic.h"
#include "cli/common.h"
#include "common/error.h"
#include "models/synth.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool imfd_synthetic_known(const char *name)
{
    struct imf__meanflow_shape shape;
    return strcmp(name, "sd-vae") == 0 || strcmp(name, "taesd") == 0 ||
           imf__meanflow_named(&shape, name);
}

bool imfd_synthetic_draws_latents(const char *name)
{
    struct imf__meanflow_shape shape;
    return imf__meanflow_named(&shape, name) && shape.family == IMF__MIT;
}

static imf_status make_folder(struct imfd_synthetic *s, struct imf_error *err)
{
    const char *tmp = getenv("TMPDIR");
    int n = snprintf(s->folder, sizeof(s->folder), "%s/imfd-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (n < 0 || n >= (int)sizeof(s->folder) || !mkdtemp(s->folder)) {
        imf_status status = imf__fail(err, IMF_EIO, "%s: %s", s->folder, strerror(errno));
        s->folder[0] = '\0';
        return status;
    }
    n = snprintf(s->path, sizeof(s->path), "%s/weights.safetensors", s->folder);
    return n < (int)sizeof(s->path) ? IMF_OK
                                    : imf__fail(err, IMF_EIO, "TMPDIR: the path is too long");
}

/* input_size goes into the metadata; 0: nothing does. */
static imf_status write_weights(struct imfd_synthetic *s, const struct imf__names *names,
                                uint64_t seed, int input_size, struct imfd_progress *bar,
                                struct imf_error *err)
{
    char size[16];
    snprintf(size, sizeof(size), "%d", input_size);
    const char *const metadata[][2] = {{"input_size", size}};
    struct imf__weights_params p = {.names = names,
                                    .type = IMF__STORED_F32,
                                    .metadata = metadata,
                                    .metadata_count = input_size > 0};
    imf_status status = make_folder(s, err);
    if (status == IMF_OK)
        status = imf__synth_write(s->path, &p, seed, bar ? imfd_progress_fraction : NULL, bar, err);
    if (status != IMF_OK)
        imfd_synthetic_remove(s);
    return status;
}

imf_status imfd_synthetic_make(struct imfd_synthetic *s, const char *name, struct imf_error *err)
{
    struct imf__names names = {.count = 0};
    struct imf__meanflow_shape shape;
    struct imf__vae_shape vae;
    imf_status status;
    if (strcmp(name, "sd-vae") == 0) {
        imf__vae_shape_init(&vae);
        status = imf__vae_names(&names, &vae);
    } else if (strcmp(name, "taesd") == 0) {
        status = imf__taesd_names(&names);
    } else if (imf__meanflow_named(&shape, name)) {
        status = imf__meanflow_names(&names, &shape);
    } else {
        return imf__fail(err, IMF_EINVAL, "no synthetic weights for \"%.60s\"", name);
    }
    struct imfd_progress bar;
    imfd_progress_start(&bar, "synthesising weights", NULL, 1, false);
    status = status == IMF_OK ? write_weights(s, &names, 0, 0, &bar, err)
                              : imf__fail(err, status, "%s", imf_status_sentence(status));
    imfd_progress_end(&bar);
    imf__names_free(&names);
    return status;
}

imf_status imfd_synthetic_make_shape(struct imfd_synthetic *s,
                                     const struct imf__meanflow_shape *shape, uint64_t seed,
                                     struct imf_error *err)
{
    struct imf__names names = {.count = 0};
    imf_status status = imf__meanflow_names(&names, shape);
    /* A pMF's is in its tensors. */
    int side = shape->family == IMF__MIT ? shape->input_size : 0;
    status = status == IMF_OK ? write_weights(s, &names, seed, side, NULL, err)
                              : imf__fail(err, status, "%s", imf_status_sentence(status));
    imf__names_free(&names);
    return status;
}

void imfd_synthetic_remove(struct imfd_synthetic *s)
{
    if (!s->folder[0])
        return;
    unlink(s->path);
    rmdir(s->folder);
    s->folder[0] = '\0';
}
