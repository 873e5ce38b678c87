/* JPEG and WebP: their libraries read back a picture near the one that went in; equal arguments
 * give equal bytes; the metadata is where readers look for it, and without it the file is still
 * whole. */
#include "base/encode.h"
#include "run_suite.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <webp/decode.h>

static const struct picture_text full = {"golden retriever\nSteps: 1, Sampler: iMF, Seed: 42",
                                         "{\"class\":207}", "imfd 1.2"};

/* Smooth, so that lossy coding comes near. */
static uint8_t *picture(int width, int height)
{
    uint8_t *rgb = malloc(3 * (size_t)width * (size_t)height);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            uint8_t *p = rgb + 3 * ((size_t)y * (size_t)width + (size_t)x);
            p[0] = (uint8_t)(40 + x / 2);
            p[1] = (uint8_t)(40 + y / 2);
            p[2] = (uint8_t)(120 + (x + y) / 8);
        }
    }
    return rgb;
}

static uint8_t *read_jpeg(const struct blob *b, int width, int height)
{
    struct jpeg_decompress_struct c;
    struct jpeg_error_mgr errors;
    c.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&c);
    jpeg_mem_src(&c, b->data, b->size);
    ck_assert_int_eq(jpeg_read_header(&c, TRUE), JPEG_HEADER_OK);
    jpeg_start_decompress(&c);
    ck_assert_int_eq((int)c.output_width, width);
    ck_assert_int_eq((int)c.output_height, height);
    uint8_t *rgb = malloc(3 * (size_t)width * (size_t)height);
    while (c.output_scanline < c.output_height) {
        JSAMPROW row = rgb + 3 * (size_t)width * c.output_scanline;
        jpeg_read_scanlines(&c, &row, 1);
    }
    jpeg_finish_decompress(&c);
    ck_assert_int_eq((int)errors.num_warnings, 0);
    jpeg_destroy_decompress(&c);
    return rgb;
}

static uint8_t *read_webp(const struct blob *b, int width, int height)
{
    int w, h;
    uint8_t *rgb = WebPDecodeRGB(b->data, b->size, &w, &h);
    ck_assert_ptr_nonnull(rgb);
    ck_assert_int_eq(w, width);
    ck_assert_int_eq(h, height);
    return rgb;
}

static double difference(const struct blob *b, int format, const uint8_t *rgb, int width,
                         int height)
{
    uint8_t *back =
        format == PICTURE_JPEG ? read_jpeg(b, width, height) : read_webp(b, width, height);
    double sum = 0;
    size_t size = 3 * (size_t)width * (size_t)height;
    for (size_t i = 0; i < size; i++)
        sum += abs(back[i] - rgb[i]);
    free(back);
    return sum / (double)size;
}

static bool holds(const struct blob *b, const char *text)
{
    return memmem(b->data, b->size, text, strlen(text)) != NULL;
}

static struct blob *encode(int format, int quality, const uint8_t *rgb, int width, int height,
                           const struct picture_text *text)
{
    struct picture_encoder *e;
    struct blob *b = NULL;
    const struct picture_encoding how = {(uint8_t)format, (uint8_t)quality};
    ck_assert_int_eq(picture_encoder_create(&e, 1), IMF_OK);
    ck_assert_int_eq(picture_encode(e, &how, rgb, width, height, text, &b), IMF_OK);
    picture_encoder_destroy(e);
    return b;
}

START_TEST(test_round_trip)
{
    static const int sides[][2] = {{1, 1}, {3, 2}, {17, 8}, {64, 48}, {256, 256}};
    for (size_t i = 0; i < 5; i++) {
        int width = sides[i][0], height = sides[i][1];
        uint8_t *rgb = picture(width, height);
        struct blob *fine = encode(_i, 100, rgb, width, height, &full);
        struct blob *again = encode(_i, 100, rgb, width, height, &full);
        struct blob *bare = encode(_i, 100, rgb, width, height, NULL);
        struct blob *coarse = encode(_i, 0, rgb, width, height, &full);
        ck_assert_uint_eq(fine->size, again->size);
        ck_assert_mem_eq(fine->data, again->data, fine->size);
        ck_assert(difference(fine, _i, rgb, width, height) < 4);
        if (width >= 64) {
            ck_assert(coarse->size < fine->size);
            ck_assert(difference(coarse, _i, rgb, width, height) < 30);
        }
        ck_assert(holds(fine, "trainedAlgorithmicMedia") && holds(fine, full.parameters) &&
                  holds(fine, full.imfd));
        /* Without its text: what is made without text, byte for byte. */
        struct blob *plain = picture_without_text(fine, _i);
        ck_assert_uint_eq(plain->size, bare->size);
        ck_assert_mem_eq(plain->data, bare->data, bare->size);
        ck_assert(difference(plain, _i, rgb, width, height) < 4);
        blob_drop(fine);
        blob_drop(again);
        blob_drop(bare);
        blob_drop(coarse);
        blob_drop(plain);
        free(rgb);
    }
}
END_TEST

START_TEST(test_refused)
{
    struct picture_encoder *e;
    struct blob *b = NULL;
    const uint8_t pixel[3] = {0};
    const struct picture_encoding how = {(uint8_t)_i, 90};
    ck_assert_int_eq(picture_encoder_create(&e, 1), IMF_OK);
    ck_assert_int_eq(picture_encode(e, &how, pixel, 0, 1, NULL, &b), IMF_EINVAL);
    ck_assert_int_eq(picture_encode(e, &how, pixel, 1, 20000, NULL, &b), IMF_EINVAL);
    ck_assert_ptr_null(b);
    picture_encoder_destroy(e);
    picture_encoder_destroy(NULL);
}
END_TEST

/* ---- EXIF ------------------------------------------------------------------------------------ */

static unsigned u16(const uint8_t *p)
{
    return p[0] | (unsigned)p[1] << 8;
}

static unsigned u32(const uint8_t *p)
{
    return u16(p) | u16(p + 2) << 16;
}

/* The entry of a tag in the folder at `at`, whose tags must ascend. */
static const uint8_t *find_tag(const uint8_t *exif, unsigned at, unsigned tag)
{
    const uint8_t *found = NULL;
    for (unsigned i = 0; i < u16(exif + at); i++) {
        const uint8_t *entry = exif + at + 2 + 12 * i;
        ck_assert(i == 0 || u16(entry) > u16(entry - 12));
        if (u16(entry) == tag)
            found = entry;
    }
    return found;
}

START_TEST(test_exif)
{
    uint8_t exif[METADATA_MAX_EXIF];
    ck_assert_uint_ne(metadata_exif(&full, exif), 0);
    ck_assert_mem_eq(exif, "II*\0\x08\0\0", 8);
    const uint8_t *software = find_tag(exif, 8, 0x0131), *folder = find_tag(exif, 8, 0x8769);
    ck_assert_str_eq((const char *)exif + u32(software + 8), "imfd 1.2");
    ck_assert_str_eq((const char *)exif + u32(find_tag(exif, 8, 0x010e) + 8), full.imfd);
    const uint8_t *comment = find_tag(exif, u32(folder + 8), 0x9286);
    ck_assert_uint_eq(u32(comment + 4), 8 + strlen(full.parameters));
    ck_assert_mem_eq(exif + u32(comment + 8), "ASCII\0\0", 8);
    ck_assert_mem_eq(exif + u32(comment + 8) + 8, full.parameters, strlen(full.parameters));

    /* Other letters: UTF-16; what is no UTF-8 does no harm. */
    const struct picture_text other = {"\xc3\xa9\xf0\x9f\x98\x80\xe2\x98\xff\xe2", "", ""};
    size_t size = metadata_exif(&other, exif);
    comment = find_tag(exif, u32(find_tag(exif, 8, 0x8769) + 8), 0x9286);
    ck_assert_mem_eq(exif + u32(comment + 8), "UNICODE", 8);
    static const unsigned want[] = {0xe9, 0xd83d, 0xde00, 0xfffd, 0xfffd, 0xfffd};
    ck_assert_uint_eq(u32(comment + 4), 8 + sizeof(want) / sizeof(want[0]) * 2);
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
        ck_assert_uint_eq(u16(exif + u32(comment + 8) + 8 + 2 * i), want[i]);
    ck_assert_uint_eq(size, u32(comment + 8) + u32(comment + 4));

    struct picture_text longest;
    memset(&longest, 0xc3, sizeof(longest));
    longest.parameters[sizeof(longest.parameters) - 1] = '\0';
    longest.imfd[sizeof(longest.imfd) - 1] = '\0';
    longest.software[sizeof(longest.software) - 1] = '\0';
    ck_assert_uint_le(metadata_exif(&longest, exif), METADATA_MAX_EXIF);
    ck_assert_uint_eq(metadata_exif(&(struct picture_text){"", "", ""}, exif), 0);
}
END_TEST

START_TEST(test_xmp)
{
    char xmp[METADATA_MAX_XMP];
    struct picture_text text = full;
    size_t size = metadata_xmp(&text, xmp);
    ck_assert_uint_eq(size, strlen(xmp));
    ck_assert_ptr_nonnull(strstr(xmp, "xmp:CreatorTool=\"imfd 1.2\""));
    memset(text.software, 'x', sizeof(text.software) - 1);
    ck_assert_uint_lt(metadata_xmp(&text, xmp), METADATA_MAX_XMP);
    ck_assert_uint_eq(metadata_xmp(&(struct picture_text){"a", "b", ""}, xmp), 0);
    ck_assert_uint_eq(metadata_xmp(&(struct picture_text){"a", "b", "<\"&>"}, xmp), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("encode");
    TCase *tc = tcase_create("encode");
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_round_trip, PICTURE_JPEG, PICTURE_FORMATS);
    tcase_add_loop_test(tc, test_refused, 0, PICTURE_FORMATS);
    tcase_add_test(tc, test_exif);
    tcase_add_test(tc, test_xmp);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
