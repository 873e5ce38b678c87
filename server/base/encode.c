/* Pictures' files: PNG by png.c, JPEG and WebP by their libraries, with the metadata put between what
 * these write. */
#include "base/encode.h"
#include "base/png.h"
#include "common/error.h"

#include <setjmp.h>
#include <stdio.h> /* jpeglib.h wants it */
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <webp/encode.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define MAX_SIDE WEBP_MAX_DIMENSION
/* From here on colours keep their full resolution, as photograph tools have it. */
#define FULL_CHROMA_QUALITY 90

struct picture_encoder {
    struct png_encoder *png;
};

imf_status picture_encoder_create(struct picture_encoder **out, int png_level)
{
    struct picture_encoder *e = calloc(1, sizeof(*e));
    if (!e)
        return IMF_ENOMEM;
    imf_status status = png_encoder_create(&e->png, png_level);
    if (status == IMF_OK)
        *out = e;
    else
        free(e);
    return status;
}

void picture_encoder_destroy(struct picture_encoder *e)
{
    if (!e)
        return;
    png_encoder_destroy(e->png);
    free(e);
}

static uint8_t *append(uint8_t *p, const void *bytes, size_t n)
{
    memcpy(p, bytes, n);
    return p + n;
}

/* ---- JPEG ------------------------------------------------------------------------------------ */

enum { JPEG_HEAD = 20 }; /* SOI and JFIF's APP0; the text comes behind */

struct jpeg_failure {
    struct jpeg_error_mgr manager; /* first: the library knows no more of it */
    jmp_buf at;
};

static void jpeg_failed(j_common_ptr c)
{
    longjmp(((struct jpeg_failure *)c->err)->at, 1);
}

static void jpeg_silent(j_common_ptr c)
{
    (void)c;
}

/* Baseline, with the exact integer transform: the same bytes on every processor. */
static void jpeg_run(struct jpeg_compress_struct *c, const uint8_t *rgb, int width, int height,
                     int quality)
{
    c->image_width = (JDIMENSION)width;
    c->image_height = (JDIMENSION)height;
    c->input_components = 3;
    c->in_color_space = JCS_RGB;
    jpeg_set_defaults(c);
    jpeg_set_quality(c, quality, TRUE);
    c->dct_method = JDCT_ISLOW;
    c->optimize_coding = TRUE;
    if (quality >= FULL_CHROMA_QUALITY)
        c->comp_info[0].h_samp_factor = c->comp_info[0].v_samp_factor = 1;
    jpeg_start_compress(c, TRUE);
    while (c->next_scanline < c->image_height) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)(rgb + 3 * (size_t)width * c->next_scanline);
        jpeg_write_scanlines(c, &row, 1);
    }
    jpeg_finish_compress(c);
}

/* *out is malloc'd. */
static bool jpeg_compress(const uint8_t *rgb, int width, int height, int quality,
                          unsigned char **out, unsigned long *size)
{
    struct jpeg_compress_struct c;
    struct jpeg_failure failure;
    c.err = jpeg_std_error(&failure.manager);
    failure.manager.error_exit = jpeg_failed;
    failure.manager.output_message = jpeg_silent;
    bool good = setjmp(failure.at) == 0;
    if (good) {
        jpeg_create_compress(&c);
        jpeg_mem_dest(&c, out, size);
        jpeg_run(&c, rgb, width, height, quality);
    }
    jpeg_destroy_compress(&c);
    return good;
}

static uint8_t *put_app1(uint8_t *p, const char *name, size_t name_size, const void *data,
                         size_t size)
{
    if (size == 0)
        return p;
    size_t length = 2 + name_size + size;
    const uint8_t head[4] = {0xff, JPEG_APP0 + 1, (uint8_t)(length >> 8), (uint8_t)length};
    return append(append(append(p, head, sizeof(head)), name, name_size), data, size);
}

static imf_status encode_jpeg(const uint8_t *rgb, int width, int height, int quality,
                              const uint8_t *exif, size_t exif_size, const char *xmp,
                              size_t xmp_size, struct blob **out)
{
    static const char exif_name[] = "Exif\0", xmp_name[] = "http://ns.adobe.com/xap/1.0/";
    unsigned char *packed = NULL;
    unsigned long size = 0;
    bool good = jpeg_compress(rgb, width, height, quality, &packed, &size);
    struct blob *b =
        good ? blob_new(size + exif_size + xmp_size + 64) : NULL; /* 64: names and framing */
    if (b) {
        uint8_t *p = append(b->data, packed, JPEG_HEAD);
        p = put_app1(p, exif_name, sizeof(exif_name), exif, exif_size);
        p = put_app1(p, xmp_name, sizeof(xmp_name), xmp, xmp_size);
        b->text_offset = JPEG_HEAD;
        b->text_size = (size_t)(p - b->data) - JPEG_HEAD;
        p = append(p, packed + JPEG_HEAD, size - JPEG_HEAD);
        b->size = (size_t)(p - b->data);
    }
    free(packed);
    *out = b;
    return b ? IMF_OK : IMF_ENOMEM;
}

/* ---- WebP ------------------------------------------------------------------------------------ */

enum { RIFF_HEAD = 12, VP8X_SIZE = 18, VP8X_XMP = 4, VP8X_EXIF = 8 };

static void put_le(uint8_t *p, size_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint8_t *put_riff(uint8_t *p, const char *name, const void *data, size_t size)
{
    if (size == 0)
        return p;
    p = append(p, name, 4);
    put_le(p, size, 4);
    p = append(p + 4, data, size);
    if (size % 2 != 0)
        *p++ = 0;
    return p;
}

static bool webp_compress(const uint8_t *rgb, int width, int height, int quality,
                          WebPMemoryWriter *writer)
{
    WebPConfig config;
    WebPPicture picture;
    WebPMemoryWriterInit(writer);
    if (!WebPConfigPreset(&config, WEBP_PRESET_DEFAULT, (float)quality) ||
        !WebPPictureInit(&picture))
        return false;
    picture.width = width;
    picture.height = height;
    config.method = 2; /* half the time of the default (4), files 2 to 30 % larger */
    picture.writer = WebPMemoryWrite;
    picture.custom_ptr = writer;
    bool good =
        WebPPictureImportRGB(&picture, rgb, 3 * width) != 0 && WebPEncode(&config, &picture) != 0;
    WebPPictureFree(&picture);
    return good;
}

/* The library writes RIFF head and one chunk; a VP8X chunk before it announces those behind it. */
static imf_status encode_webp(const uint8_t *rgb, int width, int height, int quality,
                              const uint8_t *exif, size_t exif_size, const char *xmp,
                              size_t xmp_size, struct blob **out)
{
    WebPMemoryWriter writer;
    bool good = webp_compress(rgb, width, height, quality, &writer);
    struct blob *b = good ? blob_new(writer.size + VP8X_SIZE + exif_size + xmp_size + 32) : NULL;
    if (b) {
        uint8_t head[VP8X_SIZE] = "VP8X";
        put_le(head + 4, VP8X_SIZE - 8, 4);
        head[8] = (uint8_t)((exif_size > 0 ? VP8X_EXIF : 0) | (xmp_size > 0 ? VP8X_XMP : 0));
        put_le(head + 12, (size_t)width - 1, 3);
        put_le(head + 15, (size_t)height - 1, 3);
        uint8_t *p = append(b->data, writer.mem, RIFF_HEAD);
        p = append(append(p, head, VP8X_SIZE), writer.mem + RIFF_HEAD, writer.size - RIFF_HEAD);
        b->text_offset = (size_t)(p - b->data);
        p = put_riff(put_riff(p, "EXIF", exif, exif_size), "XMP ", xmp, xmp_size);
        b->size = (size_t)(p - b->data);
        b->text_size = b->size - b->text_offset;
        put_le(b->data + 4, b->size - 8, 4);
    }
    WebPMemoryWriterClear(&writer);
    *out = b;
    return b ? IMF_OK : IMF_ENOMEM;
}

/* ---- Any ------------------------------------------------------------------------------------- */

imf_status picture_encode(struct picture_encoder *e, const struct picture_encoding *how,
                          const uint8_t *rgb, int width, int height,
                          const struct picture_text *text, struct blob **out)
{
    uint8_t exif[METADATA_MAX_EXIF];
    char xmp[METADATA_MAX_XMP];
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE)
        return IMF_EINVAL;
    if (how->format == PICTURE_PNG)
        return png_encode(e->png, rgb, width, height, text, out);
    size_t exif_size = text ? metadata_exif(text, exif) : 0;
    size_t xmp_size = text ? metadata_xmp(text, xmp) : 0;
    return (how->format == PICTURE_JPEG ? encode_jpeg : encode_webp)(
        rgb, width, height, how->quality, exif, exif_size, xmp, xmp_size, out);
}

imf_status picture_encoder_print(struct picture_encoder *e, int format, uint64_t *out)
{
    enum { SIDE = 64 };
    uint8_t rgb[SIDE * SIDE * 3];
    uint32_t seed = 1;
    /* Slopes, an edge, and noise that grows to one side. */
    for (int y = 0; y < SIDE; y++) {
        for (int x = 0; x < SIDE; x++) {
            uint8_t *p = rgb + 3 * (y * SIDE + x);
            seed = seed * 1664525u + 1013904223u;
            p[0] = (uint8_t)(3 * x + (int)(seed >> 24) * x / (4 * SIDE));
            p[1] = (uint8_t)(2 * x + y);
            p[2] = (uint8_t)(x * x + y * y < SIDE * SIDE / 2 ? 230 : 40);
        }
    }
    const struct picture_encoding how = {.format = (uint8_t)format,
                                         .quality = format == PICTURE_PNG ? 0 : 80};
    struct blob *file = NULL;
    IMF_TRY(picture_encode(e, &how, rgb, SIDE, SIDE, NULL, &file));
    *out = XXH3_64bits(file->data, file->size);
    blob_drop(file);
    return IMF_OK;
}

struct blob *picture_without_text(const struct blob *file, int format)
{
    struct blob *plain = blob_new(file->size - file->text_size);
    if (!plain)
        return NULL;
    size_t rest = file->text_offset + file->text_size;
    append(append(plain->data, file->data, file->text_offset), file->data + rest,
           file->size - rest);
    if (format == PICTURE_WEBP) { /* which says what it holds, and how much */
        put_le(plain->data + 4, plain->size - 8, 4);
        plain->data[RIFF_HEAD + 8] = 0;
    }
    return plain;
}
