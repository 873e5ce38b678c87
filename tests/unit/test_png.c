/* PNGs: libpng reads back the pixels and texts that went in, at every level and for many shapes;
 * the same picture gives the same bytes; without its text range the file is still a PNG. */
#include "base/deflate.h"
#include "base/png.h"
#include "run_suite.h"

#include <check.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static uint64_t state;

static uint32_t random32(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

enum pattern { FLAT, RAMP, NOISE, MIXED, RARE, PATTERNS };

/* RARE has byte frequencies like Fibonacci numbers, which makes Huffman codes as long as can be. */
static void fill(uint8_t *p, size_t size, enum pattern pattern)
{
    state = 12345 + (uint64_t)pattern;
    size_t fibonacci[2] = {1, 1}, left = 1;
    uint8_t symbol = 0;
    for (size_t i = 0; i < size; i++) {
        switch (pattern) {
        case FLAT:
            p[i] = 200;
            break;
        case RAMP:
            p[i] = (uint8_t)(i / 7);
            break;
        case NOISE:
            p[i] = (uint8_t)random32();
            break;
        case MIXED:
            p[i] = i % 1000 < 500 ? 3 : (uint8_t)(random32() & 15);
            break;
        default:
            if (left-- == 0) {
                left = fibonacci[0] + fibonacci[1];
                fibonacci[0] = fibonacci[1];
                fibonacci[1] = left--;
                symbol++;
            }
            p[i] = symbol;
            break;
        }
    }
}

/* Shuffled, so that runs do not hide the frequencies. */
static void shuffle(uint8_t *p, size_t size)
{
    for (size_t i = size; i > 1; i--) {
        size_t j = random32() % i;
        uint8_t swap = p[i - 1];
        p[i - 1] = p[j];
        p[j] = swap;
    }
}

START_TEST(test_deflate_runs)
{
    static const size_t sizes[] = {0,    1,     2,     3,     7,     8,      9,     255,
                                   4096, 49151, 49152, 49153, 98304, 150000, 196864};
    for (int pattern = 0; pattern < PATTERNS; pattern++) {
        for (int shuffled = 0; shuffled < 2; shuffled++) {
            for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
                size_t size = sizes[k], bound = deflate_runs_bound(size);
                uint8_t *in = malloc(size + 1), *out = malloc(bound), *back = malloc(size + 1);
                fill(in, size, (enum pattern)pattern);
                if (shuffled)
                    shuffle(in, size);
                size_t packed = deflate_runs(out, in, size);
                ck_assert_uint_le(packed + 8, bound);
                uLongf length = size + 1;
                ck_assert_msg(uncompress(back, &length, out, packed) == Z_OK, "pattern %d size %zu",
                              pattern, size);
                ck_assert_uint_eq(length, size);
                ck_assert_mem_eq(back, in, size);
                free(in);
                free(out);
                free(back);
            }
        }
    }
}
END_TEST

struct source {
    const uint8_t *data;
    size_t left;
};

static void read_some(png_structp png, png_bytep out, size_t n)
{
    struct source *s = png_get_io_ptr(png);
    if (n > s->left)
        png_error(png, "short");
    memcpy(out, s->data, n);
    s->data += n;
    s->left -= n;
}

static void on_png_error(png_structp png, png_const_charp message)
{
    (void)png;
    ck_abort_msg("libpng: %s", message);
}

struct texts {
    char parameters[600], imfd[600], xmp[METADATA_MAX_XMP];
    int count;
};

/* Decodes with libpng, strictly: any warning is a failure of the test. */
static void read_png(const uint8_t *data, size_t size, uint8_t *rgb, int width, int height,
                     struct texts *texts)
{
    struct source source = {data, size};
    memset(texts, 0, sizeof(*texts));
    png_structp png =
        png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, on_png_error, on_png_error);
    png_infop info = png_create_info_struct(png);
    png_set_read_fn(png, &source, read_some);
    png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_read_info(png, info);
    ck_assert_int_eq(png_get_image_width(png, info), width);
    ck_assert_int_eq(png_get_image_height(png, info), height);
    ck_assert_int_eq(png_get_bit_depth(png, info), 8);
    ck_assert_int_eq(png_get_color_type(png, info), PNG_COLOR_TYPE_RGB);
    for (int y = 0; y < height; y++)
        png_read_row(png, rgb + (size_t)y * (size_t)width * 3, NULL);
    png_read_end(png, info);
    ck_assert_uint_eq(source.left, 0);
    png_textp text;
    texts->count = png_get_text(png, info, &text, NULL);
    for (int i = 0; i < texts->count; i++) {
        char *to = strcmp(text[i].key, "parameters") == 0 ? texts->parameters
                   : strcmp(text[i].key, "imfd") == 0     ? texts->imfd
                                                          : texts->xmp;
        ck_assert(to != texts->xmp || strcmp(text[i].key, "XML:com.adobe.xmp") == 0);
        strcpy(to, text[i].text);
    }
    png_destroy_read_struct(&png, &info, NULL);
}

static void round_trip(int level, int width, int height, enum pattern pattern,
                       const struct picture_text *text)
{
    size_t size = (size_t)width * (size_t)height * 3;
    uint8_t *rgb = malloc(size), *back = malloc(size);
    fill(rgb, size, pattern);
    struct png_encoder *e, *other;
    ck_assert_int_eq(png_encoder_create(&e, level), IMF_OK);
    ck_assert_int_eq(png_encoder_create(&other, level), IMF_OK);
    struct blob *a, *b;
    ck_assert_int_eq(png_encode(e, rgb, width, height, text, &a), IMF_OK);
    /* The encoder's history does not matter. */
    struct blob *between;
    ck_assert_int_eq(png_encode(other, back, 1, 1, NULL, &between), IMF_OK);
    blob_drop(between);
    ck_assert_int_eq(png_encode(other, rgb, width, height, text, &b), IMF_OK);
    ck_assert_uint_eq(a->size, b->size);
    ck_assert_mem_eq(a->data, b->data, a->size);
    struct texts texts;
    read_png(a->data, a->size, back, width, height, &texts);
    ck_assert_mem_eq(back, rgb, size);
    ck_assert_str_eq(texts.parameters, text ? text->parameters : "");
    ck_assert_str_eq(texts.imfd, text ? text->imfd : "");
    ck_assert_int_eq(strstr(texts.xmp, "/trainedAlgorithmicMedia\"") != NULL,
                     text && text->software[0] != '\0');
    /* Without the text range: the picture and no text. */
    size_t after = a->text_offset + a->text_size;
    memmove(a->data + a->text_offset, a->data + after, a->size - after);
    memset(back, 0, size);
    read_png(a->data, a->size - a->text_size, back, width, height, &texts);
    ck_assert_mem_eq(back, rgb, size);
    ck_assert_int_eq(texts.count, 0);
    blob_drop(a);
    blob_drop(b);
    png_encoder_destroy(e);
    png_encoder_destroy(other);
    free(rgb);
    free(back);
}

static const int levels[] = {0, 1, 9};
enum { LEVELS = sizeof(levels) / sizeof(levels[0]) };

START_TEST(test_levels)
{
    struct picture_text text = {"golden retriever\nSteps: 1, Sampler: iMF", "{\"class\":207}",
                                "imfd 1.2"};
    for (int pattern = 0; pattern < PATTERNS; pattern++)
        round_trip(levels[_i], 64, 48, (enum pattern)pattern, &text);
    round_trip(levels[_i], 256, 256, MIXED, NULL);
}
END_TEST

START_TEST(test_shapes)
{
    static const int sides[] = {1, 2, 3, 5, 17, 300};
    for (size_t i = 0; i < 6; i++) {
        for (size_t k = 0; k < 6; k++)
            round_trip(levels[_i], sides[i], sides[k], NOISE, NULL);
    }
}
END_TEST

START_TEST(test_text)
{
    struct picture_text text = {"caf\xc3\xa9 \xe2\x98\x95", "", ""}; /* UTF-8: iTXt */
    round_trip(1, 8, 8, RAMP, &text);
    memset(text.parameters, 'x', sizeof(text.parameters) - 1);
    text.parameters[sizeof(text.parameters) - 1] = '\0';
    memset(text.imfd, 'y', sizeof(text.imfd) - 1);
    text.imfd[sizeof(text.imfd) - 1] = '\0';
    round_trip(1, 8, 8, RAMP, &text);
}
END_TEST

START_TEST(test_refused)
{
    struct png_encoder *e = NULL;
    struct blob *b = NULL;
    uint8_t pixel[3] = {0};
    ck_assert_int_eq(png_encoder_create(&e, -1), IMF_EINVAL);
    for (int level = 2; level <= 10; level++) {
        if (level != 9)
            ck_assert_int_eq(png_encoder_create(&e, level), IMF_EINVAL);
    }
    ck_assert_ptr_null(e);
    ck_assert_int_eq(png_encoder_create(&e, 1), IMF_OK);
    ck_assert_int_eq(png_encode(e, pixel, 0, 1, NULL, &b), IMF_EINVAL);
    ck_assert_int_eq(png_encode(e, pixel, 1, -1, NULL, &b), IMF_EINVAL);
    ck_assert_int_eq(png_encode(e, pixel, 20000, 20000, NULL, &b), IMF_EINVAL);
    ck_assert_ptr_null(b);
    png_encoder_destroy(e);
    png_encoder_destroy(NULL);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("png");
    TCase *tc = tcase_create("png");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_deflate_runs);
    tcase_add_loop_test(tc, test_levels, 0, LEVELS);
    tcase_add_loop_test(tc, test_shapes, 0, LEVELS);
    tcase_add_test(tc, test_text);
    tcase_add_test(tc, test_refused);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
