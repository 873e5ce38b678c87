/* What imfd evaluate --images takes: folders of PNG, JPEG and WebP, with their sub-folders when asked,
 * and the arr_0 of an .npz; what is damaged or something else is refused by a sentence. */
#include "base/encode.h"
#include "evaluate/evaluate.h"
#include "run_suite.h"

#include <check.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { WIDTH = 40, HEIGHT = 24, SIZE = WIDTH * HEIGHT * 3 };

static char folder[64];
static struct imf_error err;

static const char *at(const char *name)
{
    static char path[4][256];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof(path[0]), "%s/%s", folder, name);
    return p;
}

static void write_file(const char *name, const void *data, size_t size)
{
    FILE *f = fopen(at(name), "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, size, f), size);
    fclose(f);
}

static void fill(uint8_t *rgb, int k)
{
    for (int i = 0; i < SIZE; i++)
        rgb[i] = (uint8_t)(60 + k * 20 + i / 3 % WIDTH + i % 3 * 10);
}

static struct blob *encode(int format, int k)
{
    struct picture_encoder *e;
    struct blob *b;
    uint8_t rgb[SIZE];
    const struct picture_encoding how = {(uint8_t)format, 100};
    fill(rgb, k);
    ck_assert_int_eq(picture_encoder_create(&e, 1), IMF_OK);
    ck_assert_int_eq(picture_encode(e, &how, rgb, WIDTH, HEIGHT, NULL, &b), IMF_OK);
    picture_encoder_destroy(e);
    return b;
}

static void add_picture(const char *name, int format, int k)
{
    struct blob *b = encode(format, k);
    write_file(name, b->data, b->size);
    blob_drop(b);
}

static void setup(void)
{
    strcpy(folder, "/tmp/imf-source-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st;
    (void)type;
    (void)walk;
    return remove(path);
}

static void teardown(void)
{
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Picture i is picture k, as near as its format keeps it. */
static void ensure_picture(struct eval_source *s, int64_t i, int k, int near)
{
    uint8_t want[SIZE], *rgb;
    int width, height;
    ck_assert_msg(eval_source_read(s, i, &rgb, &width, &height, &err) == IMF_OK, "%s", err.message);
    ck_assert_int_eq(width, WIDTH);
    ck_assert_int_eq(height, HEIGHT);
    fill(want, k);
    for (int j = 0; j < SIZE; j++)
        ck_assert_int_le(abs(rgb[j] - want[j]), near);
    free(rgb);
}

START_TEST(test_folder)
{
    struct eval_source *s;
    char text[160], before[33], after[33];
    add_picture("b.png", PICTURE_PNG, 0);
    add_picture("a.PNG", PICTURE_PNG, 1);
    add_picture("c.jpeg", PICTURE_JPEG, 2);
    add_picture("d.JPG", PICTURE_JPEG, 3);
    add_picture("e.webp", PICTURE_WEBP, 4);
    write_file("f.gif", "GIF", 3);
    write_file("g.txt", "text", 4);
    write_file(".h.png", "", 0);
    ck_assert_int_eq(mkdir(at("more"), 0700), 0);
    ck_assert_int_eq(mkdir(at("more/deep.png"), 0700), 0);
    add_picture("more/z.webp", PICTURE_WEBP, 5);
    add_picture("more/deep.png/y.png", PICTURE_PNG, 6);
    ck_assert_int_eq(eval_source_open(&s, folder, false, 0, &err), IMF_OK);
    ck_assert_int_eq(eval_source_count(s), 5);
    eval_source_describe(s, text);
    ck_assert_str_eq(text, "2 PNG, 2 JPEG, 1 WebP; left out: 1 of other formats");
    ensure_picture(s, 0, 1, 0);
    ensure_picture(s, 1, 0, 0);
    ensure_picture(s, 2, 2, 8);
    ensure_picture(s, 3, 3, 8);
    ensure_picture(s, 4, 4, 16);
    ck_assert_int_eq(eval_source_fingerprint(s, before, &err), IMF_OK);
    write_file("b.png", "changed", 7);
    ck_assert_int_eq(eval_source_fingerprint(s, after, &err), IMF_OK);
    ck_assert_str_ne(before, after);
    eval_source_close(s);

    ck_assert_int_eq(eval_source_open(&s, folder, true, 0, &err), IMF_OK);
    ck_assert_int_eq(eval_source_count(s), 7);
    ensure_picture(s, 5, 6, 0);
    ensure_picture(s, 6, 5, 16);
    eval_source_close(s);
    ck_assert_int_eq(eval_source_open(&s, folder, true, 3, &err), IMF_OK);
    ck_assert_int_eq(eval_source_count(s), 3);
    eval_source_close(s);
    ck_assert_int_eq(eval_source_open(&s, folder, false, 6, &err), IMF_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "--recursive"));
    ck_assert_int_eq(eval_source_open(&s, at("nowhere"), false, 0, &err), IMF_EIO);
}
END_TEST

/* Cut short anywhere, or something else under the name: refused, nothing leaks. */
START_TEST(test_damaged)
{
    static const char *const names[] = {"a.png", "a.jpg", "a.webp"};
    struct blob *b = encode(_i, 1);
    struct eval_source *s;
    uint8_t *rgb;
    int width, height;
    add_picture("b.png", PICTURE_PNG, 0);
    for (size_t size = 0; size + 16 < b->size; size += 1 + b->size / 60) {
        write_file(names[_i], b->data, size);
        ck_assert_int_eq(eval_source_open(&s, folder, false, 0, &err), IMF_OK);
        ck_assert_int_eq(eval_source_read(s, 0, &rgb, &width, &height, &err), IMF_EFORMAT);
        ck_assert_ptr_nonnull(strstr(err.message, names[_i]));
        eval_source_close(s);
    }
    write_file(names[_i], "not a picture at all, but long enough", 37);
    ck_assert_int_eq(eval_source_open(&s, folder, false, 0, &err), IMF_OK);
    ck_assert_int_eq(eval_source_read(s, 0, &rgb, &width, &height, &err), IMF_EFORMAT);
    eval_source_close(s);
    blob_drop(b);
}
END_TEST

/* ---- .npz ---------------------------------------------------------------------------------- */

static size_t put(uint8_t *p, size_t at_, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        p[at_ + (size_t)i] = (uint8_t)(v >> (8 * i));
    return at_ + (size_t)bytes;
}

/* Deflated in place, as long as that is shorter. */
static size_t squeeze(uint8_t *data, size_t size)
{
    z_stream z = {.next_in = data, .avail_in = (uInt)size, .avail_out = (uInt)size};
    uint8_t *packed = malloc(size);
    z.next_out = packed;
    ck_assert_int_eq(deflateInit2(&z, 6, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    ck_assert_int_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
    memcpy(data, packed, z.total_out);
    free(packed);
    deflateEnd(&z);
    return z.total_out;
}

enum method { STORED = 0, DEFLATED = 8, PRETENDED = -1 };

/* An archive of one array, as numpy.savez (or savez_compressed) writes it. */
static void write_npz(const char *name, const char *array, const char *header, const void *data,
                      size_t size, enum method how)
{
    char text[128];
    int n = snprintf(text, sizeof(text), "%-117s\n", header);
    size_t entry = 10 + (size_t)n + size, packed = entry, used = 0, name_size = strlen(array);
    int method = how == PRETENDED ? DEFLATED : how;
    uint8_t *zip = calloc(1, entry + 1000), *npy = malloc(entry);
    memcpy(npy, "\x93NUMPY\x01\0", 8);
    put(npy, 8, (uint64_t)n, 2);
    memcpy(npy + 10, text, (size_t)n);
    memcpy(npy + 10 + n, data, size);
    uint32_t crc = (uint32_t)crc32(0, npy, (uInt)entry);
    if (how == DEFLATED)
        packed = squeeze(npy, entry);
    for (int central = 0; central < 2; central++) {
        size_t p = used;
        p = put(zip, p, central ? 0x02014b50 : 0x04034b50, 4);
        p = put(zip, p, 20, 2);
        if (central)
            p = put(zip, p, 20, 2);
        p = put(zip, p, 0, 2);
        p = put(zip, p, (uint64_t)method, 2);
        p = put(zip, p, 0, 4);
        p = put(zip, p, crc, 4);
        p = put(zip, p, packed, 4);
        p = put(zip, p, entry, 4);
        p = put(zip, p, name_size, 2);
        p = put(zip, p, 0, 2);
        if (central)
            p = put(zip, put(zip, p, 0, 8), 0, 6);
        memcpy(zip + p, array, name_size);
        p += name_size;
        if (!central) {
            memcpy(zip + p, npy, packed);
            p += packed;
        }
        if (central) {
            size_t begin = used, length = p - used;
            p = put(zip, p, 0x06054b50, 4);
            p = put(zip, p, 0, 4);
            p = put(zip, p, 1, 2);
            p = put(zip, p, 1, 2);
            p = put(zip, p, length, 4);
            p = put(zip, p, begin, 4);
            p = put(zip, p, 0, 2);
        }
        used = p;
    }
    write_file(name, zip, used);
    free(zip);
    free(npy);
}

#define HEADER(type, order, shape)                                                                 \
    "{'descr': '" type "', 'fortran_order': " order ", 'shape': " shape ", }"

/* Deflated samples, in order and back again; damage is found where the data or its end is. */
START_TEST(test_deflated)
{
    enum { N = 5 };
    struct eval_source *s;
    uint8_t rgb[N * SIZE], *got;
    int width, height;
    for (int k = 0; k < N; k++)
        fill(rgb + k * SIZE, k);
    write_npz("d.npz", "arr_0.npy", HEADER("|u1", "False", "(5, 24, 40, 3)"), rgb, sizeof(rgb),
              DEFLATED);
    ck_assert_msg(eval_source_open(&s, at("d.npz"), false, 0, &err) == IMF_OK, "%s", err.message);
    ck_assert(eval_source_in_order(s));
    static const int order[] = {0, 1, 2, 4, 3, 0, 4};
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++)
        ensure_picture(s, order[i], order[i], 0);
    eval_source_close(s);
    /* A wrong checksum. */
    FILE *f = fopen(at("d.npz"), "r+");
    fseek(f, -22 - 46 - 9 + 16, SEEK_END);
    int byte = fgetc(f);
    fseek(f, -1, SEEK_CUR);
    fputc(byte ^ 1, f);
    fclose(f);
    ck_assert_msg(eval_source_open(&s, at("d.npz"), false, 0, &err) == IMF_OK, "%s", err.message);
    ck_assert_int_eq(eval_source_read(s, 0, &got, &width, &height, &err), IMF_OK);
    free(got);
    ck_assert_int_ne(eval_source_read(s, N - 1, &got, &width, &height, &err), IMF_OK);
    ck_assert_msg(strstr(err.message, "checksum") != NULL, "%s", err.message);
    eval_source_close(s);
}
END_TEST

START_TEST(test_npz)
{
    struct eval_source *s;
    char text[160], print[33];
    uint8_t rgb[3 * SIZE];
    for (int k = 0; k < 3; k++)
        fill(rgb + k * SIZE, k);
    write_npz("a.npz", "arr_0.npy", HEADER("|u1", "False", "(3, 24, 40, 3)"), rgb, sizeof(rgb), 0);
    ck_assert_msg(eval_source_open(&s, at("a.npz"), false, 0, &err) == IMF_OK, "%s", err.message);
    ck_assert_int_eq(eval_source_count(s), 3);
    for (int k = 0; k < 3; k++)
        ensure_picture(s, k, k, 0);
    eval_source_describe(s, text);
    ck_assert_str_eq(text, "3 samples of arr_0, 40x24");
    ck_assert_int_eq(eval_source_fingerprint(s, print, &err), IMF_OK);
    eval_source_close(s);
    ck_assert_int_eq(eval_source_open(&s, at("a.npz"), false, 2, &err), IMF_OK);
    ck_assert_int_eq(eval_source_count(s), 2);
    eval_source_close(s);
    ck_assert_int_eq(eval_source_open(&s, at("a.npz"), false, 4, &err), IMF_EINVAL);

    static const struct {
        const char *array, *header, *word;
        enum method method;
    } bad[] = {
        {"samples.npy", HEADER("|u1", "False", "(3, 24, 40, 3)"), "no array arr_0", 0},
        {"arr_0.npy", HEADER("<f4", "False", "(3, 24, 10, 3)"), "not bytes", 0},
        {"arr_0.npy", HEADER("|u1", "True", "(3, 24, 40, 3)"), "Fortran", 0},
        {"arr_0.npy", HEADER("|u1", "False", "(3, 3, 24, 40)"), "shape", 0},
        {"arr_0.npy", HEADER("|u1", "False", "(9, 24, 40, 3)"), "its shape", 0},
        {"arr_0.npy", HEADER("|u1", "False", "(3, 24, 40, 3)"), "", PRETENDED},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        write_npz("a.npz", bad[i].array, bad[i].header, rgb, sizeof(rgb), bad[i].method);
        ck_assert_int_ne(eval_source_open(&s, at("a.npz"), false, 0, &err), IMF_OK);
        ck_assert_msg(strstr(err.message, bad[i].word) != NULL, "%s", err.message);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("source");
    TCase *tc = tcase_create("source");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_folder);
    tcase_add_loop_test(tc, test_damaged, 0, PICTURE_FORMATS);
    tcase_add_test(tc, test_npz);
    tcase_add_test(tc, test_deflated);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
