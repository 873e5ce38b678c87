/* Pictures that evaluate scores: the samples that Pillow gives, from every kind of PNG, whatever the
 * chunks beside them say; and damage that must not be scored. */
#include "evaluate/evaluate.h"
#include "run_suite.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

static uint8_t file[10 << 20];
static size_t size;
static char path[64];

static void put32(uint32_t v)
{
    for (int i = 3; i >= 0; i--)
        file[size++] = (uint8_t)(v >> 8 * i);
}

static void chunk(const char *type, const void *data, size_t n)
{
    put32((uint32_t)n);
    size_t start = size;
    memcpy(file + size, type, 4);
    size += 4;
    if (n)
        memcpy(file + size, data, n);
    size += n;
    put32((uint32_t)crc32(0, file + start, (uInt)(size - start)));
}

static void head(int width, int height, int depth, int type)
{
    size = 0;
    memcpy(file, "\x89PNG\r\n\x1a\n", 8);
    size = 8;
    uint8_t h[13] = {0,
                     0,
                     (uint8_t)(width >> 8),
                     (uint8_t)width,
                     0,
                     0,
                     (uint8_t)(height >> 8),
                     (uint8_t)height,
                     (uint8_t)depth,
                     (uint8_t)type};
    chunk("IHDR", h, 13);
}

/* Rows of `n` bytes each, of which `given` are there, all the same. */
static void data(const void *row, size_t n, int rows)
{
    uint8_t raw[4096], packed[8192];
    uLongf length = sizeof(packed);
    size_t used = 0;
    for (int y = 0; y < rows; y++) {
        raw[used++] = 0; /* no filter */
        memcpy(raw + used, row, n);
        used += n;
    }
    ck_assert_int_eq(compress(packed, &length, raw, used), Z_OK);
    chunk("IDAT", packed, length);
}

static void finish(void)
{
    chunk("IEND", NULL, 0);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(file, 1, size, f), size);
    ck_assert_int_eq(fclose(f), 0);
}

/* The first pixel of what was written. */
static void reads(const char *what, int r, int g, int b)
{
    uint8_t *rgb = NULL;
    int width = 0, height = 0;
    struct imf_error err = {0};
    ck_assert_msg(eval_read_png(path, &rgb, &width, &height, &err) == IMF_OK, "%s: %s", what,
                  err.message);
    ck_assert_msg(rgb[0] == r && rgb[1] == g && rgb[2] == b, "%s: %d %d %d", what, rgb[0], rgb[1],
                  rgb[2]);
    free(rgb);
}

START_TEST(test_kinds)
{
    static const struct {
        const char *what;
        int depth, type;
        const char *row; /* one pixel */
        size_t n;
        const char *palette, *transparent;
        size_t transparent_size;
        int rgb[3];
    } cases[] = {
        {"RGB", 8, 2, "\x0a\x64\xc8", 3, NULL, NULL, 0, {10, 100, 200}},
        {"RGB of 16 bits", 16, 2, "\x0a\xff\x64\x00\xc8\x80", 6, NULL, NULL, 0, {10, 100, 200}},
        {"grey", 8, 0, "\x64", 1, NULL, NULL, 0, {100, 100, 100}},
        {"grey of 16 bits", 16, 0, "\x64\xff", 2, NULL, NULL, 0, {100, 100, 100}},
        {"grey of 1 bit", 1, 0, "\x80", 1, NULL, NULL, 0, {255, 255, 255}},
        {"grey of 4 bits", 4, 0, "\x50", 1, NULL, NULL, 0, {85, 85, 85}},
        {"grey and alpha", 8, 4, "\x64\x80", 2, NULL, NULL, 0, {177, 177, 177}},
        {"RGBA", 8, 6, "\x00\x64\xc8\x80", 4, NULL, NULL, 0, {127, 177, 227}},
        {"RGBA, opaque", 8, 6, "\x00\x64\xc8\xff", 4, NULL, NULL, 0, {0, 100, 200}},
        {"RGBA, clear", 8, 6, "\x00\x64\xc8\x00", 4, NULL, NULL, 0, {255, 255, 255}},
        {"RGBA of 16 bits",
         16,
         6,
         "\x00\xff\x64\x00\xc8\x80\x80\x00",
         8,
         NULL,
         NULL,
         0,
         {127, 177, 227}},
        {"palette", 8, 3, "\x01", 1, "\x01\x02\x03\x0a\x64\xc8", NULL, 0, {10, 100, 200}},
        {"palette with alpha",
         8,
         3,
         "\x01",
         1,
         "\x01\x02\x03\x00\x64\xc8",
         "\xff\x80",
         2,
         {127, 177, 227}},
        {"a transparent colour",
         8,
         2,
         "\x0a\x64\xc8",
         3,
         NULL,
         "\x00\x0a\x00\x64\x00\xc8",
         6,
         {255, 255, 255}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        head(1, 3, cases[i].depth, cases[i].type);
        if (cases[i].palette)
            chunk("PLTE", cases[i].palette, 6);
        if (cases[i].transparent)
            chunk("tRNS", cases[i].transparent, cases[i].transparent_size);
        data(cases[i].row, cases[i].n, 3);
        finish();
        reads(cases[i].what, cases[i].rgb[0], cases[i].rgb[1], cases[i].rgb[2]);
    }
}
END_TEST

/* Chunks that change no sample, right or wrong. */
START_TEST(test_chunks_beside)
{
    static const char zeros[32];
    static char text[9000000];
    static const struct {
        const char *type, *data;
        size_t n;
        int times;
    } cases[] = {
        {"gAMA", "\x00\x01\x86\xa0", 4, 1},
        {"gAMA", zeros, 4, 1},
        {"gAMA", "\x00\x00\xb1\x8f", 4, 2},
        {"cHRM", zeros, 32, 1},
        {"sRGB", "\x09", 1, 1},
        {"iCCP", "icc\0\0hello", 10, 1},
        {"cICP", "\x01\x0d\x00\x01", 4, 1},
        {"tIME", zeros, 7, 1},
        {"tEXt", "\0abc", 4, 1},
        {"tEXt", text, sizeof(text), 1},
        {"tEXt", "a\0b", 3, 1500},
        {"zTXt", "a\0\0notzlib", 10, 1},
        {"iTXt", "a\0\5\0\0\0abc", 9, 1},
        {"pHYs", zeros, 8, 1},
        {"bKGD", zeros, 1, 1},
        {"eXIf", "zz", 2, 1},
        {"sBIT", "\x09\x09\x09", 3, 1},
        {"prVt", "abc", 3, 1},
        {"tRNS", "\x00\x01", 2, 1},
        {"hIST", "\x00\x01", 2, 1},
    };
    memset(text, 'x', sizeof(text));
    text[1] = '\0';
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        head(1, 3, 8, 2);
        for (int k = 0; k < cases[i].times; k++)
            chunk(cases[i].type, cases[i].data, cases[i].n);
        data("\x0a\x64\xc8", 3, 3);
        chunk("tEXt", "late\0x", 6);
        finish();
        reads(cases[i].type, 10, 100, 200);
    }
    /* A checksum that is wrong, in a chunk that nobody needs; garbage behind the end. */
    head(1, 3, 8, 2);
    chunk("tEXt", "a\0abc", 5);
    file[size - 1] ^= 1;
    data("\x0a\x64\xc8", 3, 3);
    chunk("IEND", NULL, 0);
    memcpy(file + size, "garbage", 7);
    size += 7;
    finish();
    reads("wrong checksum", 10, 100, 200);
}
END_TEST

START_TEST(test_damage)
{
    static const struct {
        const char *what;
        int at_end; /* bytes cut off the file */
    } cuts[] = {{"in the signature", 1000}, {"in the data", 30}};
    uint8_t *rgb = NULL;
    int width, height;
    struct imf_error err = {0};
    for (size_t i = 0; i < 2; i++) {
        head(1, 3, 8, 2);
        data("\x0a\x64\xc8", 3, 3);
        finish();
        long left = (long)size > cuts[i].at_end ? (long)size - cuts[i].at_end : 4;
        ck_assert_int_eq(truncate(path, left), 0);
        ck_assert_msg(eval_read_png(path, &rgb, &width, &height, &err) == IMF_EFORMAT, "%s",
                      cuts[i].what);
        ck_assert_ptr_nonnull(strstr(err.message, path));
    }
    /* One row fewer than the height promises. */
    head(1, 3, 8, 2);
    data("\x0a\x64\xc8", 3, 2);
    finish();
    ck_assert_int_eq(eval_read_png(path, &rgb, &width, &height, &err), IMF_EFORMAT);
    /* A bit of the data turned over: the chunk's checksum tells, and without it zlib's. */
    for (int repaired = 0; repaired < 2; repaired++) {
        head(1, 3, 8, 2);
        size_t start = size;
        data("\x0a\x64\xc8", 3, 3);
        file[size - 5] ^= 1; /* the last byte of zlib's checksum */
        if (repaired) {
            size -= 4;
            put32((uint32_t)crc32(0, file + start + 4, (uInt)(size - start - 4)));
        }
        finish();
        ck_assert_int_eq(eval_read_png(path, &rgb, &width, &height, &err), IMF_EFORMAT);
    }
    ck_assert_int_eq(eval_read_png("/nowhere/x.png", &rgb, &width, &height, &err), IMF_EIO);
    head(20000, 1, 8, 2);
    data("\x0a\x64\xc8", 3, 1);
    finish();
    ck_assert_int_eq(eval_read_png(path, &rgb, &width, &height, &err), IMF_EFORMAT);
    ck_assert_ptr_null(rgb);
}
END_TEST

int main(void)
{
    snprintf(path, sizeof(path), "/tmp/imf-png-read-%ld.png", (long)getpid());
    Suite *s = suite_create("png_read");
    TCase *tc = tcase_create("png_read");
    tcase_add_test(tc, test_kinds);
    tcase_add_test(tc, test_chunks_beside);
    tcase_add_test(tc, test_damage);
    suite_add_tcase(s, tc);
    int failed = run_suite(s, CK_NOFORK);
    unlink(path);
    return failed;
}
