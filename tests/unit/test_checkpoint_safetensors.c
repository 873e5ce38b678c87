/* safetensors: values of every type, lookup, metadata, shards, and files that must be refused. */
#include "checkpoint_files.h"
#include "run_suite.h"

#include <math.h>
#include <sys/stat.h>

/* Header text and data as one file. */
static imf_status open_header(struct imf__checkpoint **out, const char *header, const void *data,
                              size_t data_size, struct imf_error *err)
{
    size_t n = strlen(header);
    uint8_t *bytes = malloc(8 + n + data_size);
    ck_assert_ptr_nonnull(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)n >> 8 * i);
    memcpy(bytes + 8, header, n);
    if (data_size)
        memcpy(bytes + 8 + n, data, data_size);
    imf_status status = open_bytes(out, bytes, 8 + n + data_size, err);
    free(bytes);
    return status;
}

START_TEST(test_types)
{
    struct {
        float f32[2];
        uint16_t f16[6], bf16[2];
        double f64[1];
        int8_t i8[4];
    } data = {{1.5f, -2.0f},
              {0x3C00, 0xC000, 0x0001, 0x83FF, 0x7BFF, 0x8000},
              {0x3F80, 0xC2F7},
              {0.1},
              {1, 2, 3, 4}};
    struct imf__checkpoint *c;
    struct imf_error err;
    ck_assert_int_eq(
        open_header(&c,
                    "{\"__metadata__\":{\"input_size\":\"16\",\"format\":\"pt\"},"
                    "\"net.a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
                    "\"d\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[24,32]},"
                    "\"b\":{\"shape\":[6],\"dtype\":\"F16\",\"data_offsets\":[8,20]},"
                    "\"c\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[20,24]},"
                    "\"i\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[32,36]},"
                    "\"e\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[36,36]}}",
                    &data, 36, &err),
        IMF_OK);
    ck_assert_uint_eq(imf__checkpoint_count(c), 6);
    ck_assert_str_eq(imf__checkpoint_format(c), "safetensors");
    ck_assert_str_eq(imf__checkpoint_metadata(c, "input_size"), "16");
    ck_assert_ptr_null(imf__checkpoint_metadata(c, "none"));
    ck_assert_ptr_null(imf__checkpoint_find(c, "net.x"));

    float v[6];
    const struct imf__tensor *t = imf__checkpoint_find(c, "a");
    ck_assert_ptr_nonnull(t);
    ck_assert_str_eq(t->name, "net.a");
    ck_assert_int_eq(t->ndim, 2);
    ck_assert_int_eq(imf__checkpoint_read(c, t, v, &err), IMF_OK);
    ck_assert(v[0] == 1.5f && v[1] == -2.0f);
    t = imf__checkpoint_find(c, "net.b");
    ck_assert_ptr_nonnull(t);
    ck_assert_int_eq(imf__checkpoint_read(c, t, v, &err), IMF_OK);
    ck_assert(v[0] == 1.0f && v[1] == -2.0f && v[2] == 0x1p-24f && v[3] == -1023 * 0x1p-24f &&
              v[4] == 65504.0f && v[5] == 0 && signbit(v[5]));
    ck_assert_int_eq(imf__checkpoint_read(c, imf__checkpoint_find(c, "c"), v, &err), IMF_OK);
    ck_assert(v[0] == 1.0f && v[1] == -123.5f);
    t = imf__checkpoint_find(c, "d");
    ck_assert_uint_eq(t->count, 1);
    ck_assert_int_eq(imf__checkpoint_read(c, t, v, &err), IMF_OK);
    ck_assert(v[0] == 0.1f);
    ck_assert_int_eq(imf__checkpoint_read(c, imf__checkpoint_find(c, "e"), v, &err), IMF_OK);
    ck_assert_int_eq(imf__checkpoint_read(c, imf__checkpoint_find(c, "i"), v, &err), IMF_EFORMAT);
    imf__checkpoint_close(c);
}
END_TEST

/* Every NaN or infinity is found, wherever it is, and named. */
START_TEST(test_not_finite)
{
    static const struct {
        const char *dtype;
        int item;
        uint64_t bits;
    } bad[] = {
        {"F32", 4, 0x7FC00000},
        {"F32", 4, 0xFF800000},
        {"F32", 4, 0x7F800001},
        {"F16", 2, 0x7C00},
        {"F16", 2, 0xFE01},
        {"BF16", 2, 0x7F80},
        {"BF16", 2, 0xFFC1},
        {"F64", 8, 0x7FF0000000000000},
        {"F64", 8, 0xFFF8000000000000},
        {"F64", 8, 0x7E37E43C8800759C}, /* 1e300: infinite as float32 */
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int n = 37, at = 35;
        uint8_t data[37 * 8] = {0};
        memcpy(data + at * bad[i].item, &bad[i].bits, (size_t)bad[i].item);
        char header[160];
        snprintf(header, sizeof(header),
                 "{\"w.x\":{\"dtype\":\"%s\",\"shape\":[%d],\"data_offsets\":[0,%d]}}",
                 bad[i].dtype, n, n * bad[i].item);
        struct imf__checkpoint *c;
        struct imf_error err;
        ck_assert_int_eq(open_header(&c, header, data, (size_t)(n * bad[i].item), &err), IMF_OK);
        ck_assert_int_eq(read_all(c, &err), IMF_EFORMAT);
        ck_assert_ptr_nonnull(strstr(err.message, "\"w.x\""));
        ck_assert_ptr_nonnull(strstr(err.message, "element 35"));
        imf__checkpoint_close(c);
    }
}
END_TEST

/* What the reference implementation reads: no metadata, blanks, keys of a later time, and types
 * that are not known here beside those that are. */
START_TEST(test_accepted)
{
#define A_REST ":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define A "\"a\"" A_REST
    static const char *const headers[] = {
        "{\"__metadata__\":null," A
        ",\"b\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[8,16]}}",
        " \n\t{" A ",\"b\":{\"dtype\":\"F4\",\"shape\":[4,4],\"data_offsets\":[8,16]}}\n\n",
        "{" A ",\"b\":{\"dtype\":\"F8_E8M0\",\"shape\":[8],\"data_offsets\":[8,16]}}",
        "{" A ",\"b\":{\"dtype\":\"F8_E4M3FNUZ\",\"shape\":[8],\"data_offsets\":[8,16]}}",
        "{" A ",\"b\":{\"dtype\":\"WHAT9\",\"shape\":[3],\"data_offsets\":[8,16]}}",
        "{" A ",\"b\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[8,11]},"
        "\"c\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[11,16]}}",
        "{\"b\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[8,16]},"
        "\"a\":{\"note\":{\"x\":[1,{}]},\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],"
        "\"n\":1}}",
    };
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        struct imf__checkpoint *c;
        struct imf_error err;
        float data[4] = {1, 2, 3, 4}, v[2];
        ck_assert_msg(open_header(&c, headers[i], data, sizeof(data), &err) == IMF_OK, "%s: %s",
                      headers[i], err.message);
        ck_assert_int_eq(imf__checkpoint_find(c, "b")->type, IMF__STORED_OTHER);
        ck_assert(!imf__tensor_is_weight(imf__checkpoint_find(c, "b")));
        ck_assert_int_eq(imf__checkpoint_read(c, imf__checkpoint_find(c, "a"), v, &err), IMF_OK);
        ck_assert(v[0] == 1 && v[1] == 2);
        imf__checkpoint_close(c);
    }
}
END_TEST

/* Of a name that is there twice the last counts. What came before it need not even fit its data;
 * that it is described well is all that is asked of it. */
START_TEST(test_repeated)
{
    static const char *const headers[] = {
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8,16]}," A "}",
        "{\"a\":{\"dtype\":\"F16\",\"shape\":[99],\"data_offsets\":[7,1]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8,16]},\"\\u0061\"" A_REST "}",
        "{" A "," A ",\"b\":{\"dtype\":\"BOOL\",\"shape\":[3,3],\"data_offsets\":[0,9]}," A
        ",\"b\":{\"dtype\":\"I16\",\"shape\":[2,2],\"data_offsets\":[8,16]}}",
    };
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        struct imf__checkpoint *c;
        struct imf_error err;
        float data[4] = {1, 2, 3, 4}, v[2];
        ck_assert_msg(open_header(&c, headers[i], data, sizeof(data), &err) == IMF_OK, "%s: %s",
                      headers[i], err.message);
        ck_assert_uint_eq(imf__checkpoint_count(c), 2);
        ck_assert_int_eq(imf__checkpoint_read(c, imf__checkpoint_find(c, "a"), v, &err), IMF_OK);
        ck_assert(v[0] == 1 && v[1] == 2);
        imf__checkpoint_close(c);
    }
}
END_TEST

/* Tensors that no model has, of more dimensions and longer names than are kept, are passed over. */
START_TEST(test_beyond_bounds)
{
    char header[2000], name[1200];
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    snprintf(header, sizeof(header),
             "{" A
             ",\"b\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1,1],\"data_offsets\":[8,12]},"
             "\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}",
             name);
    struct imf__checkpoint *c;
    struct imf_error err;
    float data[4] = {1, 2, 3, 4};
    ck_assert_int_eq(open_header(&c, header, data, sizeof(data), &err), IMF_OK);
    ck_assert_uint_eq(imf__checkpoint_count(c), 1);
    ck_assert_uint_eq(imf__checkpoint_skipped_count(c), 2);
    ck_assert_str_eq(imf__checkpoint_skipped_at(c, 0), "tensor.b");
    imf__checkpoint_close(c);
}
END_TEST

/* A header of 100 000 000 bytes, and of one more. */
START_TEST(test_header_bound)
{
    static const char text[] = "{" A "}";
    size_t n = 100000000 + (size_t)_i;
    char *header = malloc(n + 1);
    struct imf__checkpoint *c;
    struct imf_error err;
    float data[2] = {1, 2};
    ck_assert_ptr_nonnull(header);
    memset(header, ' ', n);
    header[n] = '\0';
    memcpy(header, text, sizeof(text) - 1);
    ck_assert_int_eq(open_header(&c, header, data, sizeof(data), &err), _i ? IMF_EFORMAT : IMF_OK);
    if (!_i)
        imf__checkpoint_close(c);
    free(header);
}
END_TEST

START_TEST(test_refused)
{
    static const struct {
        const char *header, *says;
    } cases[] = {
        {"{}", "no tensors"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", "its shape needs 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0,24]}}", "truncated"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", "ends before"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[-0,16]}}", "two integers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16,16]}}", "two integers"},
        {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[15],\"data_offsets\":[0,16]}}", "needs 15"},
        {"{\"__metadata__\":null,\"__metadata__\":{},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
         "__metadata__ is there twice"},
        {"{\"z\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
         "\"a\" and \"z\" overlap"},
        {"{\"z\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[20,20]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
         "4 bytes in front of tensor \"z\""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}",
         "overflow"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]}}",
         "overflow"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2305843009213693952],\"data_offsets\":[0,8]}}",
         "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[999999999999999999,0]}}",
         "ends before"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[999999999999999000,"
         "999999999999999004]}}",
         "bytes in front of"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", "missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,4]}}",
         "repeated"},
        {"{\"a\":[1]}", "object"},
        {"{\"__metadata__\":{\"a\":1}}", "__metadata__"},
        /* The last of a name counts, and what came before it owns no data. */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[4,16]}}",
         "4 bytes in front of tensor \"a\""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
         "12 bytes behind the last tensor"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         "\"a\" and \"b\" overlap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
         "8 bytes in front of tensor \"a\""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
         "8 bytes behind the last tensor"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[33],\"data_offsets\":[0,16]}}", "needs 17"},
        {"{\"a\":{\"shape\":[4],\"data_offsets\":[0,16]}}", "missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,9],\"data_offsets\":[0,36]}}",
         "truncated"},
        {"{\"__metadata__\":{\"a\":null}}", "__metadata__"},
        {"{\"__metadata__\":[]}", "__metadata__"},
        {"\xEF\xBB\xBF{}", "neither"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", "early"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}} x", "after the end"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct imf__checkpoint *c = NULL;
        struct imf_error err;
        float data[4] = {0};
        ck_assert_msg(open_header(&c, cases[i].header, data, sizeof(data), &err) == IMF_EFORMAT,
                      "accepted: %s", cases[i].header);
        ck_assert_ptr_null(c);
        ck_assert_msg(strstr(err.message, cases[i].says), "%s: says \"%s\"", cases[i].header,
                      err.message);
    }
    /* A header longer than the file. */
    struct imf__checkpoint *c;
    struct imf_error err;
    ck_assert_int_eq(open_bytes(&c, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10, &err), IMF_EFORMAT);
    ck_assert_int_eq(open_bytes(&c, "\x10\0\0\0\0\0\0\0{}", 10, &err), IMF_EFORMAT);
    ck_assert_int_eq(open_bytes(&c, "", 0, &err), IMF_EFORMAT);
    ck_assert_int_eq(imf__checkpoint_open(&c, "/nowhere/x.safetensors", NULL, &err), IMF_EIO);
    ck_assert_ptr_nonnull(strstr(err.message, "/nowhere/x.safetensors"));
    ck_assert_int_eq(imf__checkpoint_open(&c, "/dev/null", NULL, &err), IMF_EIO);
    ck_assert_int_eq(imf__checkpoint_open(&c, "/", NULL, &err), IMF_EIO);
}
END_TEST

/* ---- Shards ---------------------------------------------------------------------------------- */

static char folder[64];

static void write_file(const char *name, const char *header, const void *data, size_t size)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    if (data) {
        uint64_t n = strlen(header);
        fwrite(&n, 8, 1, f);
    }
    fputs(header, f);
    if (data)
        fwrite(data, 1, size, f);
    ck_assert_int_eq(fclose(f), 0);
}

static imf_status open_index(struct imf__checkpoint **out, const char *index, struct imf_error *err)
{
    char path[128];
    write_file("model.safetensors.index.json", index, NULL, 0);
    snprintf(path, sizeof(path), "%s/model.safetensors.index.json", folder);
    return imf__checkpoint_open(out, path, NULL, err);
}

START_TEST(test_shards)
{
    snprintf(folder, sizeof(folder), "/tmp/imf-shards-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    float x[2] = {1, 2}, y[1] = {3};
    write_file("m-1.safetensors",
               "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", x, sizeof(x));
    write_file("m-2.safetensors",
               "{\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", y, sizeof(y));
    struct imf__checkpoint *c;
    struct imf_error err;
    float v[2];
    ck_assert_int_eq(open_index(&c,
                                "{\"metadata\":{\"total_size\":12},\"weight_map\":"
                                "{\"y\":\"m-2.safetensors\",\"x\":\"m-1.safetensors\"}}",
                                &err),
                     IMF_OK);
    ck_assert_uint_eq(imf__checkpoint_count(c), 2);
    ck_assert_int_eq(imf__checkpoint_read(c, imf__checkpoint_find(c, "y"), v, &err), IMF_OK);
    ck_assert(v[0] == 3);
    ck_assert_int_eq(imf__checkpoint_read(c, imf__checkpoint_find(c, "x"), v, &err), IMF_OK);
    ck_assert(v[1] == 2);
    imf__checkpoint_close(c);
    /* The folder alone finds the index. */
    ck_assert_int_eq(imf__checkpoint_open(&c, folder, NULL, &err), IMF_OK);
    ck_assert_uint_eq(imf__checkpoint_count(c), 2);
    imf__checkpoint_close(c);

    static const struct {
        const char *index, *says;
    } cases[] = {
        {"{\"weight_map\":{\"x\":\"../m-1.safetensors\"}}", "no plain file name"},
        {"{\"weight_map\":{\"x\":\"/etc/passwd\"}}", "no plain file name"},
        {"{\"weight_map\":{\"x\":\"..\"}}", "no plain file name"},
        {"{\"weight_map\":{\"x\":\"m-3.safetensors\"}}", "m-3.safetensors"},
        {"{\"weight_map\":{\"y\":\"m-1.safetensors\"}}", "is not in"},
        {"{\"weight_map\":{\"x\":\"m-1.safetensors\",\"z\":\"m-1.safetensors\"}}",
         "\"z\" is not in"},
        {"{\"weight_map\":{}}", "weight_map"},
        {"{\"weight_map\":{\"x\":1}}", "weight_map"},
        {"{}", "weight_map"},
        {"{\"weight_map\":{\"x\":\"m-1.safetensors\"}", "early"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ck_assert_int_ne(open_index(&c, cases[i].index, &err), IMF_OK);
        ck_assert_msg(strstr(err.message, cases[i].says), "%s: says \"%s\"", cases[i].index,
                      err.message);
    }
    char path[160];
    const char *names[] = {"m-1.safetensors", "m-2.safetensors", "model.safetensors.index.json"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}
END_TEST

/* The fingerprint depends on names, shapes and values, and on nothing else. */
START_TEST(test_fingerprint)
{
    static const char *const headers[] = {
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"a\":{\"data_offsets\":[0,16], \"dtype\":\"F32\",\"shape\":[4]}} ",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}",
        "{\"b\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
    };
    uint64_t print[5][2];
    for (int i = 0; i < 5; i++) {
        float data[4] = {1, 2, 3, i == 4 ? 5.0f : 4.0f};
        struct imf__checkpoint *c;
        struct imf_error err;
        ck_assert_int_eq(open_header(&c, headers[i], data, sizeof(data), &err), IMF_OK);
        ck_assert_int_eq(read_all(c, &err), IMF_OK);
        imf__checkpoint_fingerprint(c, print[i]);
        imf__checkpoint_close(c);
    }
    ck_assert(memcmp(print[0], print[1], 16) == 0);
    for (int i = 2; i < 5; i++)
        ck_assert(memcmp(print[0], print[i], 16) != 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("safetensors");
    TCase *tc = tcase_create("safetensors");
    tcase_add_test(tc, test_types);
    tcase_add_test(tc, test_not_finite);
    tcase_set_timeout(tc, 120); /* a header of 100 MB is a lot for a sanitizer on a busy machine */
    tcase_add_test(tc, test_accepted);
    tcase_add_test(tc, test_repeated);
    tcase_add_test(tc, test_beyond_bounds);
    tcase_add_loop_test(tc, test_header_bound, 0, 2);
    tcase_add_test(tc, test_refused);
    tcase_add_test(tc, test_shards);
    tcase_add_test(tc, test_fingerprint);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
