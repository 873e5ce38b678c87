/* Pictures as files: folders of PNGs to be scored, samples that are kept, and the sample grid. */
#include "evaluate/evaluate.h"

#include "common/error.h"

#include <dirent.h>
#include <errno.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_SIZE = 4096 };

/* ---- Folders ------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void eval_free_list(char **files, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        free(files[i]);
    free(files);
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcasecmp(name + n - m, end) == 0;
}

/* A picture of a format that is not read here. */
static bool is_other_picture(const char *name)
{
    static const char *const ends[] = {".jpg", ".jpeg", ".webp", ".bmp", ".gif",
                                       ".tif", ".tiff", ".avif", ".ppm"};
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        if (ends_with(name, ends[i]))
            return true;
    }
    return false;
}

static bool is_folder(const char *folder, const char *name)
{
    char path[PATH_SIZE];
    struct stat st;
    return snprintf(path, sizeof(path), "%s/%s", folder, name) < (int)sizeof(path) &&
           stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool append(char ***files, int64_t *n, int64_t *capacity, const char *folder,
                   const char *name)
{
    if (*n == *capacity) {
        int64_t more = *capacity ? 2 * *capacity : 1024;
        char **grown = realloc(*files, (size_t)more * sizeof(*grown));
        if (!grown)
            return false;
        *files = grown;
        *capacity = more;
    }
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        return false;
    (*files)[(*n)++] = path;
    return true;
}

imf_status eval_list_images(const char *folder, int64_t limit, char ***files, int64_t *n,
                            int64_t *left_out, struct imf_error *err)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return imf__fail(err, IMF_EIO, "%s: %s", folder, strerror(errno));
    char **list = NULL;
    int64_t count = 0, capacity = 0;
    bool ok = true;
    int64_t others = 0;
    for (struct dirent *e; ok && (e = readdir(dir));) {
        if (e->d_name[0] == '.' || is_folder(folder, e->d_name))
            continue;
        others += is_other_picture(e->d_name);
        if (ends_with(e->d_name, ".png"))
            ok = append(&list, &count, &capacity, folder, e->d_name);
    }
    closedir(dir);
    if (!ok) {
        eval_free_list(list, count);
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", folder);
    }
    if (count < 2 || (limit && count < limit)) {
        eval_free_list(list, count);
        return imf__fail(err, IMF_EINVAL, "%s: %lld PNG pictures there (%lld of other formats); %s",
                         folder, (long long)count, (long long)others,
                         limit ? "fewer than --num-images" : "statistics need at least 2");
    }
    *left_out = others;
    qsort(list, (size_t)count, sizeof(*list), by_name);
    while (limit && count > limit)
        free(list[--count]);
    *files = list;
    *n = count;
    return IMF_OK;
}

/* ---- PNG ----------------------------------------------------------------------------------- */

imf_status eval_write_png(const char *path, const uint8_t *rgb, int width, int height,
                          struct imf_error *err)
{
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)width,
                       .height = (png_uint_32)height,
                       .format = PNG_FORMAT_RGB,
                       .flags = PNG_IMAGE_FLAG_FAST};
    char temporary[PATH_SIZE];
    if (snprintf(temporary, sizeof(temporary), "%s.tmp", path) >= (int)sizeof(temporary))
        return imf__fail(err, IMF_EINVAL, "%.100s...: path too long", path);
    errno = 0;
    if (png_image_write_to_file(&image, temporary, 0, rgb, 0, NULL) && rename(temporary, path) == 0)
        return IMF_OK;
    int cause = errno;
    unlink(temporary);
    return imf__fail(
        err, IMF_EIO, "%s: cannot be written: %s%s", path, cause ? strerror(cause) : image.message,
        cause == ENOSPC ? "; free some space and run the same command again, it goes on from here"
                        : "");
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
        status = eval_write_png(path, rgb, width, height, err);
    }
    if (status == IMF_OK && in_grid(job, image)) {
        kept_path(path, job, "grid", image);
        status = eval_write_png(path, rgb, width, height, err);
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
        status = eval_write_png(path, grid, side * cell_w, side * cell_h, err);
    }
    if (status == IMF_OK)
        remove_kept(job);
    free(grid);
    return status;
}
