/* JPEG and WebP as Pillow reads them: libjpeg's exact integer transform with its smooth
 * upsampling, grey and CMYK turned to RGB, no rotation by EXIF; of WebP one picture, its alpha blended
 * with white as that of PNGs is. A file that is cut short is refused, as Pillow does. */
#include "evaluate/evaluate.h"

#include "base/read_file.h"
#include "common/error.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <webp/decode.h>

enum { MAX_SIDE = 16384, MAX_BYTES = 1 << 30 };

/* The whole file, malloc'd. */
static imf_status read_file(const char *path, uint8_t **bytes, size_t *size, struct imf_error *err)
{
    char *text;
    imf_status status = imfd_read_file(&text, size, path, MAX_BYTES, false, err);
    if (status != IMF_OK)
        return status == IMF_EINVAL ? IMF_EFORMAT : status;
    *bytes = (uint8_t *)text;
    if (*size > 0)
        return IMF_OK;
    free(text);
    return imf__fail(err, IMF_EFORMAT, "%s: empty", path);
}

/* ---- JPEG ---------------------------------------------------------------------------------- */

struct reading {
    struct jpeg_error_mgr manager; /* first: the library knows no more of it */
    jmp_buf at;
    struct jpeg_decompress_struct c;
    uint8_t *rgb, *row; /* row: of CMYK */
    char why[JMSG_LENGTH_MAX];
};

static void on_error(j_common_ptr c)
{
    struct reading *r = (struct reading *)c->err;
    c->err->format_message(c, r->why);
    longjmp(r->at, 1);
}

/* Warnings are damage: data that is missing or makes no sense. */
static void on_message(j_common_ptr c, int level)
{
    if (level < 0)
        on_error(c);
}

/* Adobe's CMYK is inverted, so that a sample is the light that is left. */
static void from_cmyk(uint8_t *rgb, const uint8_t *cmyk, size_t width, bool inverted)
{
    for (size_t x = 0; x < width; x++, rgb += 3, cmyk += 4) {
        int light = inverted ? cmyk[3] : 255 - cmyk[3];
        for (int k = 0; k < 3; k++) {
            int ink = (inverted ? 255 - cmyk[k] : cmyk[k]) * light + 128;
            rgb[k] = (uint8_t)(light - ((ink + (ink >> 8)) >> 8));
        }
    }
}

/* Everything that may longjmp. False with r->why. */
static bool decode(struct reading *r, const uint8_t *bytes, size_t size)
{
    if (setjmp(r->at))
        return false;
    jpeg_create_decompress(&r->c);
    jpeg_mem_src(&r->c, bytes, size);
    jpeg_read_header(&r->c, TRUE);
    if (r->c.image_width > MAX_SIDE || r->c.image_height > MAX_SIDE) {
        snprintf(r->why, sizeof(r->why), "a side of more than %d", MAX_SIDE);
        return false;
    }
    bool cmyk = r->c.num_components == 4;
    r->c.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    r->c.dct_method = JDCT_ISLOW;
    jpeg_start_decompress(&r->c);
    size_t width = r->c.output_width, height = r->c.output_height;
    r->rgb = malloc(3 * width * height);
    r->row = malloc(4 * width);
    if (!r->rgb || !r->row) {
        snprintf(r->why, sizeof(r->why), "out of memory");
        return false;
    }
    while (r->c.output_scanline < height) {
        uint8_t *to = r->rgb + 3 * width * r->c.output_scanline;
        JSAMPROW row = cmyk ? r->row : to;
        jpeg_read_scanlines(&r->c, &row, 1);
        if (cmyk)
            from_cmyk(to, r->row, width, r->c.saw_Adobe_marker);
    }
    jpeg_finish_decompress(&r->c);
    return true;
}

imf_status eval_read_jpeg(const char *path, uint8_t **rgb, int *width, int *height,
                          struct imf_error *err)
{
    uint8_t *bytes;
    size_t size;
    IMF_TRY(read_file(path, &bytes, &size, err));
    struct reading *r = calloc(1, sizeof(*r));
    if (!r) {
        free(bytes);
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
    }
    r->c.err = jpeg_std_error(&r->manager);
    r->manager.error_exit = on_error;
    r->manager.emit_message = on_message;
    bool good = decode(r, bytes, size);
    imf_status status = IMF_OK;
    if (good) {
        *rgb = r->rgb;
        *width = (int)r->c.output_width;
        *height = (int)r->c.output_height;
    } else {
        free(r->rgb);
        status = imf__fail(err, IMF_EFORMAT, "%s: not a whole JPEG picture: %s", path, r->why);
    }
    jpeg_destroy_decompress(&r->c);
    free(r->row);
    free(r);
    free(bytes);
    return status;
}

/* ---- WebP ---------------------------------------------------------------------------------- */

imf_status eval_read_webp(const char *path, uint8_t **rgb, int *width, int *height,
                          struct imf_error *err)
{
    uint8_t *bytes;
    size_t size;
    int w = 0, h = 0;
    IMF_TRY(read_file(path, &bytes, &size, err));
    uint8_t *pixels = NULL, *decoded = NULL;
    if (WebPGetInfo(bytes, size, &w, &h) && w <= MAX_SIDE && h <= MAX_SIDE)
        decoded = WebPDecodeRGBA(bytes, size, &w, &h);
    free(bytes);
    if (!decoded)
        return imf__fail(err, IMF_EFORMAT, "%s: not a whole WebP picture (animations are not read)",
                         path);
    size_t count = (size_t)w * (size_t)h;
    pixels = malloc(3 * count);
    for (size_t i = 0; pixels && i < count; i++) {
        const uint8_t *p = decoded + 4 * i;
        for (int k = 0; k < 3; k++)
            pixels[3 * i + (size_t)k] = (uint8_t)((p[k] * p[3] + 255 * (255 - p[3]) + 127) / 255);
    }
    WebPFree(decoded);
    if (!pixels)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
    *rgb = pixels;
    *width = w;
    *height = h;
    return IMF_OK;
}
