/* Writing what `imfd sample` drew. */
#include "cli/sample_output.h"
#include "cli/common.h"
#include "common/error.h"
#include "files/npy.h"
#include "files/output_file.h"
#include "base/png.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PNG_LEVEL 1
#define GRID_SIDE_MAX 16384 /* what png_encode takes */

struct imfd_output {
    struct imfd_output_options options;
    const struct imf_model *model;
    const struct imf_model_info *info;
    struct png_encoder *encoder;
    size_t n, z_count;
    uint8_t *rgb;            /* (n, H, W, 3) for a .npy, else the grid (rows H, columns W, 3) */
    float *z;                /* (n, z_count), or NULL */
    int columns, rows;       /* of the grid */
    struct imfd_sample last; /* for the text of a single picture */
};

static bool has_suffix(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);
    return n >= m && strcmp(path + n - m, suffix) == 0;
}

static bool is_stdout(const struct imfd_output_options *o)
{
    return strcmp(o->path, "-") == 0;
}

/* ---- Before any work ---- */

/* A file that can be created or replaced. */
static imf_status check_writable(const char *path, struct imf_error *err)
{
    struct stat st;
    if (stat(path, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            return imf__fail(err, IMF_EIO, "%s: is a folder", path);
        return access(path, W_OK) == 0 ? IMF_OK
                                       : imf__fail(err, IMF_EIO, "%s: %s", path, strerror(errno));
    }
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int len = slash ? (int)(slash - path) : 1;
    if ((size_t)len >= sizeof(folder))
        return imf__fail(err, IMF_EIO, "%.60s...: %s", path, strerror(ENAMETOOLONG));
    snprintf(folder, sizeof(folder), "%.*s", len ? len : 1, slash ? path : ".");
    if (access(folder, W_OK | X_OK) != 0)
        return imf__fail(err, IMF_EIO, "%s: %s", path, strerror(errno));
    return IMF_OK;
}

/* mkdir -p */
imf_status imfd_output_check(const struct imfd_output_options *o, struct imf_error *err)
{
    imf_status status = IMF_OK;
    if (o->path && !is_stdout(o)) {
        if (!has_suffix(o->path, ".png") && !has_suffix(o->path, ".npy"))
            return imf__fail(err, IMF_EINVAL, "%s: the name must end in .png or .npy, or be -",
                             o->path);
        status = check_writable(o->path, err);
    }
    if (status == IMF_OK && o->latents)
        status = check_writable(o->latents, err);
    if (status == IMF_OK && o->folder)
        status = imf__output_folder(o->folder, err);
    return status;
}

/* ---- The grid ---- */

/* The number of columns that fills the last row and is nearest above the square root: 8 pictures
 * stand in 2 rows of 4; where nothing fits, the last row stays short. */
static int choose_columns(size_t n)
{
    int root = (int)ceil(sqrt((double)n));
    for (int c = root; c <= 2 * root; c++) {
        if (n % (size_t)c == 0)
            return c;
    }
    return root;
}

static size_t picture_bytes(const struct imfd_output *o)
{
    return (size_t)o->info->image_width * (size_t)o->info->image_height * 3;
}

static bool wants_npy(const struct imfd_output *o)
{
    return o->options.path && has_suffix(o->options.path, ".npy");
}

static imf_status allocate_pictures(struct imfd_output *o, struct imf_error *err)
{
    size_t cells = o->n;
    if (!wants_npy(o)) {
        size_t columns = o->options.columns ? (size_t)o->options.columns : 0;
        if (!columns)
            columns = o->n > GRID_SIDE_MAX ? GRID_SIDE_MAX : (size_t)choose_columns(o->n);
        if (columns > o->n)
            columns = o->n;
        size_t rows = (o->n + columns - 1) / columns;
        if (columns * (size_t)o->info->image_width > GRID_SIDE_MAX ||
            rows * (size_t)o->info->image_height > GRID_SIDE_MAX)
            return imf__fail(err, IMF_EINVAL,
                             "%zu pictures in %zu columns do not fit a PNG of %d pixels a side: "
                             "use --save-images DIR or -o FILE.npy",
                             o->n, columns, GRID_SIDE_MAX);
        o->columns = (int)columns;
        o->rows = (int)rows;
        cells = columns * rows;
    }
    o->rgb = calloc(cells, picture_bytes(o));
    return o->rgb ? IMF_OK : imf__fail(err, IMF_ENOMEM, "out of memory for %zu pictures", cells);
}

static void place_in_grid(struct imfd_output *o, size_t i, const uint8_t *rgb)
{
    size_t row_bytes = (size_t)o->info->image_width * 3;
    size_t column = i % (size_t)o->columns, row = i / (size_t)o->columns;
    for (int y = 0; y < o->info->image_height; y++) {
        size_t line = row * (size_t)o->info->image_height + (size_t)y;
        memcpy(o->rgb + (line * (size_t)o->columns + column) * row_bytes,
               rgb + (size_t)y * row_bytes, row_bytes);
    }
}

imf_status imfd_output_create(struct imfd_output **out, const struct imfd_output_options *options,
                              const struct imf_model *model, size_t n, struct imf_error *err)
{
    struct imfd_output *o = calloc(1, sizeof(*o));
    if (!o)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    o->options = *options;
    o->model = model;
    o->info = imf_model_get_info(model);
    o->n = n;
    o->z_count =
        (size_t)o->info->channels * (size_t)o->info->input_size * (size_t)o->info->input_size;
    imf_status status = IMF_OK;
    if (imfd_output_wants_pictures(o) && !o->info->image_width)
        status = imf__fail(err, IMF_EINVAL,
                           "--decoder is needed: %s makes latents of %d channels, not pictures",
                           o->info->name, o->info->channels);
    if (status == IMF_OK && options->path)
        status = allocate_pictures(o, err);
    if (status == IMF_OK && options->latents && !(o->z = calloc(n, o->z_count * sizeof(*o->z))))
        status = imf__fail(err, IMF_ENOMEM, "out of memory for %zu latents", n);
    if (status == IMF_OK && imfd_output_wants_pictures(o) &&
        png_encoder_create(&o->encoder, PNG_LEVEL) != IMF_OK)
        status = imf__fail(err, IMF_ENOMEM, "out of memory");
    if (status != IMF_OK) {
        imfd_output_destroy(o);
        return status;
    }
    *out = o;
    return IMF_OK;
}

bool imfd_output_wants_pictures(const struct imfd_output *o)
{
    return o->options.path || o->options.folder;
}

void imfd_output_destroy(struct imfd_output *o)
{
    if (!o)
        return;
    png_encoder_destroy(o->encoder);
    free(o->rgb);
    free(o->z);
    free(o);
}

/* ---- Files ---- */

static imf_status save(const char *path, const struct blob *file, struct imf_error *err)
{
    return imf__output_save(path, &(struct iovec){(void *)file->data, file->size}, 1, err);
}

static imf_status write_stdout(const void *data, size_t size, struct imf_error *err)
{
    if (fwrite(data, 1, size, stdout) != size || fflush(stdout) != 0)
        return imf__fail(err, IMF_EIO, "standard output: %s", strerror(errno));
    return IMF_OK;
}

/* The text that image tools show, and the same as JSON. */
static void describe(struct picture_text *text, const struct imfd_output *o,
                     const struct imfd_sample *s)
{
    const struct imf_sampling *g = &s->sampling;
    const char *name = imf_model_class_name(o->model, s->label);
    char label[80];
    snprintf(label, sizeof(label), "class %" PRId32 "%s%.60s", s->label, name ? " " : "",
             name ? name : "");
    snprintf(text->parameters, sizeof(text->parameters),
             "%s\nSteps: %d, Sampler: iMF, CFG scale: %g, Seed: %" PRIu64
             ", Size: %dx%d, Model: %s, Version: imfd %s",
             label, g->steps, (double)g->omega, s->seed, o->info->image_width,
             o->info->image_height, o->info->name, imf_version());
    snprintf(text->imfd, sizeof(text->imfd),
             "{\"model\": \"%s\", \"class\": %" PRId32 ", \"seed\": %" PRIu64
             ", \"steps\": %d, \"omega\": %.9g, \"t_min\": %.9g, \"t_max\": %.9g}",
             o->info->name, s->label, s->seed, g->steps, (double)g->omega, (double)g->t_min,
             (double)g->t_max);
}

static imf_status encode(struct imfd_output *o, struct blob **png, const uint8_t *rgb, int columns,
                         int rows, const struct imfd_sample *s, struct imf_error *err)
{
    struct picture_text text = {.software = ""};
    snprintf(text.software, sizeof(text.software), "imfd %s", imf_version());
    if (s)
        describe(&text, o, s);
    imf_status status = png_encode(o->encoder, rgb, columns * o->info->image_width,
                                   rows * o->info->image_height, &text, png);
    return status == IMF_OK ? IMF_OK
                            : imf__fail(err, status, "PNG: %s", imf_status_sentence(status));
}

imf_status imfd_output_add(struct imfd_output *o, size_t i, const struct imfd_sample *s,
                           const float *z, const uint8_t *rgb, struct imf_error *err)
{
    o->last = *s;
    if (o->z)
        memcpy(o->z + i * o->z_count, z, o->z_count * sizeof(*z));
    if (o->rgb && wants_npy(o))
        memcpy(o->rgb + i * picture_bytes(o), rgb, picture_bytes(o));
    else if (o->rgb)
        place_in_grid(o, i, rgb);
    if (!o->options.folder)
        return IMF_OK;

    char path[PATH_MAX];
    int len = snprintf(path, sizeof(path), "%s/%05zu_class%" PRId32 "_seed%" PRIu64 ".png",
                       o->options.folder, i, s->label, s->seed);
    if (len < 0 || len >= (int)sizeof(path))
        return imf__fail(err, IMF_EIO, "%s: the path is too long", o->options.folder);
    struct blob *png = NULL;
    imf_status status = encode(o, &png, rgb, 1, 1, s, err);
    if (status == IMF_OK)
        status = save(path, png, err);
    blob_drop(png);
    return status;
}

static imf_status write_pictures(struct imfd_output *o, struct imf_error *err)
{
    if (wants_npy(o)) {
        int64_t shape[] = {(int64_t)o->n, o->info->image_height, o->info->image_width, 3};
        return imf__npy_save(o->options.path, IMF__NPY_U8, 4, shape, o->rgb, err);
    }
    struct blob *png = NULL;
    imf_status status =
        encode(o, &png, o->rgb, o->columns, o->rows, o->n == 1 ? &o->last : NULL, err);
    if (status == IMF_OK)
        status = is_stdout(&o->options) ? write_stdout(png->data, png->size, err)
                                        : save(o->options.path, png, err);
    blob_drop(png);
    return status;
}

imf_status imfd_output_finish(struct imfd_output *o, struct imf_error *err)
{
    imf_status status = IMF_OK;
    if (o->options.path)
        status = write_pictures(o, err);
    if (status == IMF_OK && o->z) {
        int64_t side = o->info->input_size,
                shape[] = {(int64_t)o->n, o->info->channels, side, side};
        status = imf__npy_save(o->options.latents, IMF__NPY_F32, 4, shape, o->z, err);
    }
    return status;
}
