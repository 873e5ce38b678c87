/* Files made to hurt: truncated anywhere, bits flipped, pickles that call, nest and multiply, zip
 * directories that lie. Each must end in an error with a sentence, or in a good read;
 * AddressSanitizer and valgrind watch. */
#include "checkpoint_files.h"
#include "run_suite.h"

#define TORCH TESTS_DIR "/golden/torch/"

/* ---- Mutations of good files ----------------------------------------------------------------- */

static const char *const files[] = {"zip_f32.pth",     "zip_training.pth",    "zip_protocol4.pth",
                                    "legacy_f32.pth",  "legacy_training.pth", "zip_beside.pth",
                                    "zip_deflated.pth"};

START_TEST(test_truncated)
{
    char path[256];
    size_t size;
    snprintf(path, sizeof(path), TORCH "%s", files[_i]);
    uint8_t *bytes = slurp(path, &size);
    ck_assert_ptr_nonnull(bytes);
    size_t accepted = 0;
    for (size_t n = 0; n < size; n++) {
        struct imf__checkpoint *c;
        struct imf_error err;
        if (open_bytes(&c, bytes, n, &err) == IMF_OK) {
            accepted++;
            imf__checkpoint_close(c);
        }
    }
    /* Every byte counts: a zip ends with its directory, a legacy file with data. */
    ck_assert_uint_eq(accepted, 0);
    free(bytes);
}
END_TEST

/* A small linear generator: the same flips every time. */
static uint32_t draw(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return *state >> 8;
}

START_TEST(test_flipped)
{
    char path[256];
    size_t size, opened = 0, refused = 0;
    snprintf(path, sizeof(path), TORCH "%s", files[_i]);
    uint8_t *bytes = slurp(path, &size), *copy = malloc(size);
    ck_assert(bytes && copy);
    uint32_t state = 1;
    for (int round = 0; round < 2000; round++) {
        memcpy(copy, bytes, size);
        for (uint32_t flips = 1 + draw(&state) % 4; flips; flips--)
            copy[draw(&state) % size] ^= (uint8_t)(1u << draw(&state) % 8);
        struct imf__checkpoint *c;
        struct imf_error err;
        if (open_bytes(&c, copy, size, &err) == IMF_OK) {
            imf_status status = read_all(c, &err);
            ck_assert(status == IMF_OK || err.message[0]);
            imf__checkpoint_close(c);
            opened++;
        } else {
            refused++;
        }
    }
    ck_assert_uint_gt(opened, 0); /* flips in data or padding */
    ck_assert_uint_gt(refused, 100);
    free(bytes);
    free(copy);
}
END_TEST

/* ---- Pickles --------------------------------------------------------------------------------- */

/* A file being built. */
struct image {
    uint8_t bytes[1 << 18];
    size_t size;
};
static struct image image;

static void add(const void *data, size_t n)
{
    ck_assert_uint_le(image.size + n, sizeof(image.bytes));
    memcpy(image.bytes + image.size, data, n);
    image.size += n;
}

static void add_text(const char *s)
{
    add(s, strlen(s));
}

static void add_int(uint64_t value, size_t n)
{
    add(&value, n);
}

/* A zip of stored entries without checksums, which nobody checks. `lie` changes the central entry
 * of data/0. */
enum lie { HONEST, DEFLATED, ENCRYPTED, FAR_HEADER, HUGE_SIZE, ZIP64_CUT, TWICE, OTHER_NAME };

struct part {
    const char *name;
    const void *data;
    size_t size, at;
};

static void add_common(const struct part *p, bool central, enum lie lie)
{
    bool lies = central && lie != HONEST && strcmp(p->name, "a/data/0") == 0;
    add_int(lies && lie == ENCRYPTED ? 1 : 0, 2);
    add_int(lies && lie == DEFLATED ? 8 : 0, 2);
    add_int(0, 8); /* time, checksum */
    uint64_t size = lies && (lie == HUGE_SIZE || lie == ZIP64_CUT) ? 0xFFFFFFFF : p->size;
    add_int(size, 4);
    add_int(size, 4);
    add_int(strlen(p->name), 2);
    add_int(lies && lie == HUGE_SIZE ? 20 : lies && lie == ZIP64_CUT ? 6 : 0, 2);
}

static void make_zip(struct part *parts, int n, enum lie lie)
{
    image.size = 0;
    for (int i = 0; i < n; i++) {
        parts[i].at = image.size;
        add_int(0x04034b50, 4);
        add_int(20, 2);
        add_common(&parts[i], false, lie);
        add_text(lie == OTHER_NAME && i == 1 ? "a/data/9" : parts[i].name);
        add(parts[i].data, parts[i].size);
    }
    size_t directory = image.size;
    int entries = 0;
    for (int i = 0; i < n; i++) {
        for (int again = 0; again <= (lie == TWICE && i == 1); again++, entries++) {
            bool zero = strcmp(parts[i].name, "a/data/0") == 0;
            add_int(0x02014b50, 4);
            add_int(0x00140014, 4);
            add_common(&parts[i], true, lie);
            add_int(0, 2);
            add_int(0, 2);
            add_int(0, 6);
            add_int(zero && lie == FAR_HEADER ? 0xFFFFFFF0 : parts[i].at, 4);
            add_text(parts[i].name);
            if (zero && lie == HUGE_SIZE) {
                add_int(1, 2);
                add_int(16, 2);
                add_int(UINT64_MAX - 8, 8);
                add_int(UINT64_MAX - 8, 8);
            } else if (zero && lie == ZIP64_CUT) {
                add_int(1, 2);
                add_int(8, 2);
                add_int(0, 2);
            }
        }
    }
    size_t end = image.size;
    add_int(0x06054b50, 4);
    add_int(0, 4);
    add_int((uint64_t)entries, 2);
    add_int((uint64_t)entries, 2);
    add_int(end - directory, 4);
    add_int(directory, 4);
    add_int(0, 2);
}

/* Opens a zip with this pickle and a storage "0" of 16 bytes: the floats 1, 2, 3, 4. */
static imf_status open_pickle_with(struct imf__checkpoint **c, const void *pickle, size_t size,
                                   enum lie lie, struct imf_error *err)
{
    static const float data[4] = {1, 2, 3, 4};
    struct part parts[] = {{"a/data.pkl", pickle, size, 0}, {"a/data/0", data, sizeof(data), 0}};
    make_zip(parts, 2, lie);
    return open_bytes(c, image.bytes, image.size, err);
}

#define STORAGE(count)                                                                             \
    "(U\7storagectorch\nFloatStorage\nU\1"                                                         \
    "0"                                                                                            \
    "U\3cpu" count "tQ"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n"
#define TENSOR(count, offset, shape, stride)                                                       \
    REBUILD "(" STORAGE(count) offset shape stride "\x89"                                          \
                                                   "Nt"                                            \
                                                   "R"
#define STATE(tensor) "\x80\2}U\1w" tensor "s."

/* Good, so that the others fail for their own reasons. */
START_TEST(test_handmade)
{
    static const char pickle[] = STATE(TENSOR("K\4", "K\1", "K\3\x85", "K\1\x85"));
    struct imf__checkpoint *c;
    struct imf_error err;
    ck_assert_msg(open_pickle_with(&c, pickle, sizeof(pickle) - 1, HONEST, &err) == IMF_OK, "%s",
                  err.message);
    float v[3];
    ck_assert_int_eq(imf__checkpoint_read(c, imf__checkpoint_find(c, "w"), v, &err), IMF_OK);
    ck_assert(v[0] == 2 && v[1] == 3 && v[2] == 4);
    imf__checkpoint_close(c);
}
END_TEST

START_TEST(test_zip_lies)
{
    static const char pickle[] = STATE(TENSOR("K\4", "K\0", "K\4\x85", "K\1\x85"));
    static const struct {
        enum lie lie;
        const char *says;
    } cases[] = {
        {DEFLATED, "tensor \"w\": storage 0 has a damaged header"},
        {ENCRYPTED, "storage 0 is encrypted"},
        {FAR_HEADER, "storage 0 has its header outside"},
        {HUGE_SIZE, "storage 0 has 18446744073709551607 bytes, which reach past"},
        {ZIP64_CUT, "zip64 field is damaged"},
        {TWICE, "\"a/data/0\" is there twice"},
        {OTHER_NAME, "storage 0 has a damaged header"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct imf__checkpoint *c;
        struct imf_error err;
        ck_assert_int_ne(open_pickle_with(&c, pickle, sizeof(pickle) - 1, cases[i].lie, &err),
                         IMF_OK);
        ck_assert_msg(strstr(err.message, cases[i].says), "%d says \"%s\"", cases[i].lie,
                      err.message);
    }
}
END_TEST

#define BIG "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f" /* 2^63 - 1 */
#define TOKEN(s) s, sizeof(s) - 1

START_TEST(test_bad_pickles)
{
    static const struct {
        const char *pickle;
        size_t size;
        const char *says;
    } cases[] = {
        /* Calls. */
        {TOKEN("\x80\2cos\nsystem\n(U\2idtR."), "\"os.system\""},
        {TOKEN("\x80\2cposix\nsystem\n(U\2idtR."), "\"posix.system\""},
        {TOKEN("\x80\2c__builtin__\neval\n(U\1"
               "1tR."),
         "\"__builtin__.eval\""},
        {TOKEN("\x80\4\x8c\2os\x94\x8c\6system\x94\x93."), "\"os.system\""},
        {TOKEN("\x80\2ctorch.storage\n_load_from_bytes\n(U\2idtR."), "_load_from_bytes"},
        {TOKEN("\x80\2(U\2idios\nsystem\n."), "INST"},
        {TOKEN("\x80\2}}R."), "no global"},
        {TOKEN("\x80\2ctorch\nFloatStorage\n)R."), "storage class"},
        {TOKEN("\x80\2U\3"
               "abcPx\n."),
         "PERSID"},
        {TOKEN("\x80\2}2."), "DUP"},
        {TOKEN("\x80\2\x82\1."), "EXT1"},
        /* Stack and memo. */
        {TOKEN("\x80\2."), "nothing"},
        {TOKEN("\x80\2}}."), "more than one"},
        {TOKEN("\x80\2(."), "nothing"},
        {TOKEN("\x80\2t."), "no mark"},
        {TOKEN("\x80\2s."), "empty"},
        {TOKEN("\x80\2}(K\1u."), "container"},
        {TOKEN("\x80\2K\1(K\1K\2u."), "container"},
        {TOKEN("\x80\2h\7."), "remembered"},
        {TOKEN("\x80\2j\xff\xff\xff\xff."), "remembered"},
        {TOKEN("\x80\2}r\xff\xff\xff\xff."), "memo is too large"},
        {TOKEN("\x80\2q\1."), "nothing to remember"},
        {TOKEN("\x80\2X\xff\xff\xff\xff"
               "abc."),
         "longer"},
        {TOKEN("\x80\4\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
               "abc."),
         "longer"},
        {TOKEN("\x80\2K"), "truncated"},
        {TOKEN("\x80\1}."), "protocol"},
        {TOKEN("\x80\x06}."), "protocol"},
        {TOKEN("\x80\2}b."), "attributes"},
        /* No state dict. */
        {TOKEN("\x80\2}."), "no state dict"},
        {TOKEN("\x80\2K\1."), "no state dict"},
        {TOKEN("\x80\2}U\1wK\1s."), "no state dict"},
        /* Several, and nothing says which. */
        {TOKEN("\x80\2}(U\2m1}U\1w" TENSOR("K\4", "K\0", "K\4\x85", "K\1\x85") "sU\2m2}U\1w" TENSOR(
             "K\4", "K\0", "K\4\x85", "K\1\x85") "su."),
         "name one of m1, m2"},
        /* Tensors that lie. */
        {TOKEN(STATE(TENSOR("K\5", "K\0", "K\4\x85", "K\1\x85"))),
         "tensor \"w\": storage 0 has 16 bytes, 20 needed"},
        {TOKEN(STATE(TENSOR("K\4", "K\1", "K\4\x85", "K\1\x85"))),
         "tensor \"w\": storage 0 has 16 bytes, 20 needed"},
        {TOKEN(STATE(TENSOR("K\4", "K\0", "K\2K\2\x86", "K\3K\1\x86"))), "storage 0 has 16 bytes"},
        {TOKEN(STATE(TENSOR("K\4", BIG, "K\2\x85", "K\1\x85"))), "overflow"},
        {TOKEN(STATE(TENSOR("K\4", "K\0", "K\2\x85", BIG "\x85"))), "overflow"},
        {TOKEN(STATE(TENSOR("K\4", "K\0", BIG BIG "\x86", "K\0K\0\x86"))), "overflow"},
        {TOKEN(STATE(TENSOR("K\4", "K\0", "K\0" BIG BIG "\x87", "K\0K\0K\0\x87"))), "overflow"},
        {TOKEN(STATE(TENSOR("K\4", "K\0", "J\0\0\0\x40\x85", "K\0\x85"))), "out of a storage"},
        {TOKEN(STATE(TENSOR(BIG, "K\0", "K\4\x85", "K\1\x85"))), "storage 0 has 16 bytes"},
        {TOKEN(STATE(TENSOR("K\4", "J\xff\xff\xff\xff", "K\1\x85", "K\1\x85"))), "offset"},
        {TOKEN(STATE(TENSOR("K\4", "K\0", "J\xff\xff\xff\xff\x85", "K\1\x85"))), "shape"},
        {TOKEN(STATE(TENSOR("K\4", "K\0", "K\2\x85", "J\xff\xff\xff\xff\x85"))), "strides"},
        {TOKEN(STATE(TENSOR("K\4", "K\0", "K\2\x85", "K\1K\1\x86"))), "strides"},
        {TOKEN(STATE(TENSOR("K\4", "K\0", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t",
                            "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t"))),
         "no state dict"},
        {TOKEN("\x80\2}(U\1w" TENSOR("K\4", "K\0", "K\4\x85", "K\1\x85") "U\1w" TENSOR(
             "K\4", "K\0", "K\4\x85", "K\1\x85") "u."),
         "\"w\" is there twice"},
        {TOKEN("\x80\2}U\3w\0x" TENSOR("K\4", "K\0", "K\4\x85", "K\1\x85") "s."), "NUL"},
        {TOKEN("\x80\2}U\1\xff" TENSOR("K\4", "K\0", "K\4\x85", "K\1\x85") "s."), "UTF-8"},
        {TOKEN("\x80\2}U\1w" REBUILD "(K\1K\0K\4\x85K\1\x85\x89NtRs."), "without a storage"},
        {TOKEN("\x80\2}U\1w(U\7storageK\1U\1"
               "0U\3cpuK\4tQs."),
         "without a class"},
        {TOKEN("\x80\2}U\1w(U\6modulectorch\nFloatStorage\nU\1"
               "0U\3cpuK\4tQs."),
         "no state dict"},
        {TOKEN("\x80\2}U\1w(U\5plug!ctorch\nFloatStorage\nU\1"
               "0U\3cpuK\4tQs."),
         "no storage"},
        {TOKEN("\x80\2}U\1w" REBUILD "((U\7storagectorch\nFloatStorage\nU\1"
               "7U\3cpuK\4tQK\0K\4\x85K\1"
               "\x85\x89NtRs."),
         "storage 7 is missing"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct imf__checkpoint *c;
        struct imf_error err;
        ck_assert_msg(open_pickle_with(&c, cases[i].pickle, cases[i].size, HONEST, &err) != IMF_OK,
                      "case %zu was accepted", i);
        ck_assert_msg(strstr(err.message, cases[i].says), "case %zu says \"%s\", not \"%s\"", i,
                      err.message, cases[i].says);
    }
}
END_TEST

static char deep[200000];

START_TEST(test_deep_pickles)
{
    static const struct {
        const char *start, *repeat, *end;
    } cases[] = {
        {"\x80\2", "(", "."},                /* marks */
        {"\x80\2", "]", "."},                /* values */
        {"\x80\2K\1", "\x85", "."},          /* tuples in tuples: fine, but no state dict */
        {"\x80\2}", "U\1a}", "."},           /* dicts on the stack */
        {"\x80\2}q\1", "U\5modelh\1s", "."}, /* a dict within itself */
        {"\x80\2}q\1", "(U\1ah\1U\1bh\1u", "."},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t n = 2 + strlen(cases[i].start + 2), m = strlen(cases[i].repeat);
        memcpy(deep, cases[i].start, n);
        while (n + m + 1 < sizeof(deep)) {
            memcpy(deep + n, cases[i].repeat, m);
            n += m;
        }
        deep[n++] = '.';
        struct imf__checkpoint *c;
        struct imf_error err;
        ck_assert_msg(open_pickle_with(&c, deep, n, HONEST, &err) == IMF_EFORMAT, "case %zu", i);
        ck_assert(err.message[0]);
    }
    /* Dicts that contain each other many times over do not multiply the search. */
    size_t n = 0;
    memcpy(deep, "\x80\2}q\1", 5);
    n = 5;
    for (int level = 0; level < 6; level++) {
        deep[n++] = '}';
        for (int k = 0; k < 200; k++) {
            char item[8] = {
                'U', 2, (char)('a' + k % 26), (char)('a' + k / 26), 'h', (char)(level + 1), 's'};
            memcpy(deep + n, item, 7);
            n += 7;
        }
        deep[n++] = 'q';
        deep[n++] = (char)(level + 2);
        if (level < 5)
            deep[n++] = '0';
    }
    deep[n++] = '0';
    deep[n++] = 'h';
    deep[n++] = 7;
    deep[n++] = '0';
    deep[n++] = '.';
    /* The first dict is still on the stack: it is what the pickle leaves. */
    struct imf__checkpoint *c;
    struct imf_error err;
    ck_assert_int_eq(open_pickle_with(&c, deep, n, HONEST, &err), IMF_EFORMAT);
    /* Now the last one. */
    memcpy(deep + n - 5, "0h\7.", 4);
    deep[4] = 1;
    ck_assert_int_eq(open_pickle_with(&c, deep, n - 1, HONEST, &err), IMF_EFORMAT);
}
END_TEST

/* Broken end records. */
START_TEST(test_zip_ends)
{
    static const char pickle[] = STATE(TENSOR("K\4", "K\0", "K\4\x85", "K\1\x85"));
    struct imf__checkpoint *c;
    struct imf_error err;
    ck_assert_int_eq(open_pickle_with(&c, pickle, sizeof(pickle) - 1, HONEST, &err), IMF_OK);
    imf__checkpoint_close(c);
    size_t end = image.size - 22;
    /* Offset, size and count of the directory, to everything extreme. */
    static const struct {
        size_t at, n;
    } fields[] = {{4, 2}, {10, 2}, {12, 4}, {16, 4}, {20, 2}};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        static const uint32_t values[] = {1, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF};
        for (int k = 0; k < 4; k++) {
            uint8_t saved[4];
            memcpy(saved, image.bytes + end + fields[i].at, fields[i].n);
            memcpy(image.bytes + end + fields[i].at, &values[k], fields[i].n);
            bool same = memcmp(saved, image.bytes + end + fields[i].at, fields[i].n) == 0;
            imf_status status = open_bytes(&c, image.bytes, image.size, &err);
            if (status == IMF_OK)
                imf__checkpoint_close(c);
            /* A disk number of 0xFFFF means "see zip64" and is let through. */
            ck_assert(same || status != IMF_OK || fields[i].at == 4);
            memcpy(image.bytes + end + fields[i].at, saved, fields[i].n);
        }
    }
    /* A comment behind the end record is fine. */
    image.bytes[end + 20] = 5;
    add_text("hello");
    ck_assert_int_eq(open_bytes(&c, image.bytes, image.size, &err), IMF_OK);
    imf__checkpoint_close(c);
}
END_TEST

/* One flipped bit in the weights, though the value stays finite, or in the pickle: torch's
 * checksums tell. Where torch was told to write none (0), the file still reads. */
START_TEST(test_checksum)
{
    size_t size;
    uint8_t *bytes = slurp(TORCH "zip_f32.pth", &size);
    ck_assert_ptr_nonnull(bytes);
    struct imf__checkpoint *c;
    struct imf_error err;
    float value = -0.75f; /* element 1 of net.plain comes first in the file */
    uint8_t *at = memmem(bytes, size, &value, sizeof(value));
    ck_assert_ptr_nonnull(at);
    *at ^= 1;
    ck_assert_int_eq(open_bytes(&c, bytes, size, &err), IMF_OK);
    ck_assert_int_eq(read_all(c, &err), IMF_EFORMAT);
    ck_assert_msg(strstr(err.message, "\"net.plain\"") && strstr(err.message, "checksum"), "%s",
                  err.message);
    imf__checkpoint_close(c);
    /* The central directory's checksum of data/0, set to 0. */
    uint8_t *name = NULL;
    for (uint8_t *p = bytes; (p = memmem(p, size - (size_t)(p - bytes), "zip_f32/data/0", 14)); p++)
        name = p;
    ck_assert_ptr_nonnull(name);
    memset(name - 46 + 16, 0, 4);
    ck_assert_int_eq(open_bytes(&c, bytes, size, &err), IMF_OK);
    ck_assert_int_eq(read_all(c, &err), IMF_OK);
    imf__checkpoint_close(c);
    at = memmem(bytes, size, "net.plain", 9);
    ck_assert_ptr_nonnull(at);
    at[8] = 'm';
    ck_assert_int_eq(open_bytes(&c, bytes, size, &err), IMF_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.message, "data.pkl is damaged"));
    free(bytes);
}
END_TEST

/* A file that shrinks after it was opened. */
START_TEST(test_shrinks)
{
    char path[] = "/tmp/imf-shrink-XXXXXX";
    size_t size;
    uint8_t *bytes = slurp(TESTS_DIR "/golden/mit_tiny/mit_tiny.pth", &size);
    ck_assert_ptr_nonnull(bytes);
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, size), (ssize_t)size);
    struct imf__checkpoint *c;
    struct imf_error err = {0};
    ck_assert_int_eq(imf__checkpoint_open(&c, path, NULL, &err), IMF_OK);
    ck_assert_int_eq(ftruncate(fd, 100000), 0);
    ck_assert_int_eq(read_all(c, &err), IMF_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.message, "truncated"));
    imf__checkpoint_close(c);
    close(fd);
    unlink(path);
    free(bytes);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hostile");
    TCase *tc = tcase_create("hostile");
    tcase_add_loop_test(tc, test_truncated, 0, sizeof(files) / sizeof(files[0]));
    tcase_add_loop_test(tc, test_flipped, 0, sizeof(files) / sizeof(files[0]));
    tcase_add_test(tc, test_handmade);
    tcase_add_test(tc, test_zip_lies);
    tcase_add_test(tc, test_bad_pickles);
    tcase_add_test(tc, test_deep_pickles);
    tcase_add_test(tc, test_zip_ends);
    tcase_add_test(tc, test_shrinks);
    tcase_add_test(tc, test_checksum);
    tcase_set_timeout(tc, 240);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
