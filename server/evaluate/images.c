/* Pictures as files: samples that are kept, and the sample grid. */
#include "evaluate/evaluate.h"

#include "base/png.h"
#include "common/error.h"
#include "files/output_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_SIZE = 4096 };

/* ---- PNG ----------------------------------------------------------------------------------- */

static imf_status write_png(const char *path, const uint8_t *rgb, int width, int height,
                            struct imf_error *err)
{
    struct png_encoder *encoder = NULL;
    struct blob *png = NULL;
    imf_status status = png_encoder_create(&encoder, 1);
    if (status == IMF_OK)
        status = png_encode(encoder, rgb, width, height, NULL, &png);
    if (status == IMF_OK)
        status = imf__output_save(path, &(struct iovec){png->data, png->size}, 1, err);
    else
        status = imf__fail(err, status, "%s: %s", path, imf_status_sentence(status));
    blob_drop(png);
    png_encoder_destroy(encoder);
    return status;
}

/* ---- Samples and grid ---------------------------------------------------------------------- */

/* Side of the grid, and its pictures: evenly spread over all, so over the classes. */
static int grid_side(const struct eval_job *job)
{
    int side = 1;
    while (side < EVAL_GRID && (int64_t)(side + 1) * (side + 1) <= job->images)
        side++;
    return side;
}

static int64_t grid_image(const struct eval_job *job, int i)
{
    int cells = grid_side(job) * grid_side(job);
    return (int64_t)i * job->images / cells;
}

static bool in_grid(const struct eval_job *job, int64_t image)
{
    int cells = grid_side(job) * grid_side(job);
    for (int i = 0; i < cells; i++)
        if (grid_image(job, i) == image)
            return true;
    return false;
}

static void kept_path(char path[PATH_SIZE], const struct eval_job *job, const char *folder,
                      int64_t image)
{
    snprintf(path, PATH_SIZE, "%s/%s/%05lld.png", job->options.workdir, folder, (long long)image);
}

imf_status eval_keep_picture(const struct eval_job *job, int64_t image, const uint8_t *rgb,
                             int width, int height, struct imf_error *err)
{
    char path[PATH_SIZE];
    imf_status status = IMF_OK;
    if (job->options.save_samples) {
        kept_path(path, job, "samples", image);
        status = write_png(path, rgb, width, height, err);
    }
    if (status == IMF_OK && in_grid(job, image)) {
        kept_path(path, job, "grid", image);
        status = write_png(path, rgb, width, height, err);
    }
    return status;
}

/* Nearest neighbour: only foreign folders mix sizes. */
static void paste(uint8_t *grid, int grid_width, int x0, int y0, int cell_w, int cell_h,
                  const uint8_t *rgb, int width, int height)
{
    for (int y = 0; y < cell_h; y++) {
        const uint8_t *row = rgb + (size_t)(y * height / cell_h) * (size_t)width * 3;
        uint8_t *dst = grid + ((size_t)(y0 + y) * (size_t)grid_width + (size_t)x0) * 3;
        for (int x = 0; x < cell_w; x++)
            memcpy(dst + 3 * x, row + 3 * (size_t)(x * width / cell_w), 3);
    }
}

static void remove_kept(const struct eval_job *job)
{
    char path[PATH_SIZE];
    int cells = grid_side(job) * grid_side(job);
    for (int i = 0; i < cells; i++) {
        kept_path(path, job, "grid", grid_image(job, i));
        unlink(path);
    }
    snprintf(path, sizeof(path), "%s/grid", job->options.workdir);
    rmdir(path);
}

imf_status eval_write_grid(const struct eval_job *job, struct imf_error *err)
{
    enum { MAX_CELL = 512 };
    int side = grid_side(job), cell_w = 0, cell_h = 0;
    uint8_t *grid = NULL;
    char path[PATH_SIZE];
    for (int i = 0; i < side * side; i++) {
        uint8_t *rgb;
        int width, height;
        kept_path(path, job, "grid", grid_image(job, i));
        if (access(path, R_OK) != 0)
            continue;
        imf_status status = eval_read_png(path, &rgb, &width, &height, err);
        if (status != IMF_OK) {
            free(grid);
            return status;
        }
        if (!grid) { /* cells have the first picture's size */
            cell_w = width < MAX_CELL ? width : MAX_CELL;
            cell_h = height < MAX_CELL ? height : MAX_CELL;
            size_t bytes = (size_t)(side * cell_w) * (size_t)(side * cell_h) * 3;
            grid = malloc(bytes);
            if (!grid) {
                free(rgb);
                return imf__fail(err, IMF_ENOMEM, "out of memory for the sample grid");
            }
            memset(grid, 128, bytes);
        }
        paste(grid, side * cell_w, i % side * cell_w, i / side * cell_h, cell_w, cell_h, rgb, width,
              height);
        free(rgb);
    }
    imf_status status = IMF_OK;
    if (grid) {
        snprintf(path, sizeof(path), "%s/grid.png", job->options.workdir);
        status = write_png(path, grid, side * cell_w, side * cell_h, err);
    }
    if (status == IMF_OK)
        remove_kept(job);
    free(grid);
    return status;
}
