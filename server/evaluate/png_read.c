/* PNGs as Pillow reads them, so that scores agree with torch-fidelity's: samples are sRGB whatever
 * gAMA, cHRM, iCCP or cICP say; of 16 bits the upper eight count; alpha (tRNS included) is blended
 * with white in sRGB. What libpng warns of is no damage as long as every pixel is there. */
#include "evaluate/evaluate.h"

#include "common/error.h"

#include <errno.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SIDE = 16384 };

/* Chunks that say nothing about the samples; those that lie in them end no evaluation. */
static const png_byte unread[] = "bKGD\0cHRM\0cICP\0eXIf\0gAMA\0hIST\0iCCP\0iTXt\0oFFs\0pCAL\0pHYs"
                                 "\0sBIT\0sCAL\0sPLT\0sRGB\0sTER\0"
                                 "tEXt\0tIME\0zTXt";

struct reading {
    const char *path;
    FILE *file;
    png_structp png;
    png_infop info;
    png_bytep *rows;
    uint8_t *pixels; /* (height, width, 4) */
    char why[128];
};

static void on_error(png_structp png, png_const_charp message)
{
    struct reading *r = png_get_error_ptr(png);
    if (!r->why[0])
        snprintf(r->why, sizeof(r->why), "%s", message);
    png_longjmp(png, 1);
}

/* zlib found the data wrong after the last row: a checksum that differs means wrong pixels. More
 * data than there are pixels does no harm. */
static void on_warning(png_structp png, png_const_charp message)
{
    struct reading *r = png_get_error_ptr(png);
    if (strncmp(message, "IDAT: in", 8) == 0 && !r->why[0])
        snprintf(r->why, sizeof(r->why), "%s", message);
}

static void ask_for_rgba(struct reading *r)
{
    png_structp png = r->png;
    png_set_strip_16(png);
    png_set_packing(png);
    png_set_expand(png); /* palettes, 1 to 4 bits, tRNS */
    png_set_gray_to_rgb(png);
    png_set_add_alpha(png, 255, PNG_FILLER_AFTER);
    png_set_interlace_handling(png);
    png_read_update_info(png, r->info);
}

/* Everything that may longjmp. False with r->why. */
static bool decode(struct reading *r)
{
    if (setjmp(png_jmpbuf(r->png)))
        return false;
    png_set_benign_errors(r->png, 1);
    png_set_user_limits(r->png, MAX_SIDE, MAX_SIDE);
    png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_NEVER, unread, (int)sizeof(unread) / 5);
    png_init_io(r->png, r->file);
    png_read_info(r->png, r->info);
    ask_for_rgba(r);
    size_t width = png_get_image_width(r->png, r->info);
    size_t height = png_get_image_height(r->png, r->info);
    if (png_get_rowbytes(r->png, r->info) != 4 * width)
        png_error(r->png, "an unknown layout of pixels");
    r->pixels = malloc(4 * width * height);
    r->rows = calloc(height, sizeof(*r->rows));
    if (!r->pixels || !r->rows)
        png_error(r->png, "out of memory");
    for (size_t y = 0; y < height; y++)
        r->rows[y] = r->pixels + 4 * width * y;
    png_read_image(r->png, r->rows);
    return !r->why[0];
}

/* (n, 4) to (n, 3), in place. */
static void blend_with_white(uint8_t *pixels, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint8_t *p = pixels + 4 * i;
        unsigned alpha = p[3];
        for (size_t c = 0; c < 3; c++)
            pixels[3 * i + c] = (uint8_t)((p[c] * alpha + 255 * (255 - alpha) + 127) / 255);
    }
}

imf_status eval_read_png(const char *path, uint8_t **rgb, int *width, int *height,
                         struct imf_error *err)
{
    struct reading r = {.path = path, .file = fopen(path, "rbe")};
    if (!r.file)
        return imf__fail(err, IMF_EIO, "%s: %s", path, strerror(errno));
    imf_status status = IMF_OK;
    r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &r, on_error, on_warning);
    r.info = r.png ? png_create_info_struct(r.png) : NULL;
    if (!r.info) {
        status = imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
    } else if (!decode(&r)) {
        status = imf__fail(err, IMF_EFORMAT,
                           r.rows ? "%s: damaged PNG: %s" : "%s: cannot be read as a PNG: %s", path,
                           r.why);
    } else {
        *width = (int)png_get_image_width(r.png, r.info);
        *height = (int)png_get_image_height(r.png, r.info);
        blend_with_white(r.pixels, (size_t)*width * (size_t)*height);
        *rgb = r.pixels;
        r.pixels = NULL;
    }
    png_destroy_read_struct(&r.png, &r.info, NULL);
    free(r.pixels);
    free(r.rows);
    fclose(r.file);
    return status;
}
