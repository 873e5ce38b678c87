/* .npy files: round trips, what NumPy wrote, and refusal of anything damaged. */
#include "files/npy.h"

#include "checkpoint_files.h"
#include "run_suite.h"

static char path[96];

static void temporary(void)
{
    snprintf(path, sizeof(path), "/tmp/imf-npy-%ld.npy", (long)getpid());
}

START_TEST(test_round_trip)
{
    static const double numbers[6] = {0, -1.5, 1e300, 3, 4, 5};
    static const uint8_t bytes[6] = {0, 255, 3, 4, 5, 6};
    static const struct {
        enum imf__npy_type type;
        const void *data;
        size_t size;
        int ndim;
        int64_t shape[3];
    } cases[] = {
        {IMF__NPY_F64, numbers, 48, 2, {2, 3}}, {IMF__NPY_F64, numbers, 8, 0, {0}},
        {IMF__NPY_U8, bytes, 6, 1, {6}},        {IMF__NPY_U8, bytes, 6, 3, {1, 2, 3}},
        {IMF__NPY_F32, numbers, 24, 1, {6}},    {IMF__NPY_I32, numbers, 24, 2, {3, 2}},
        {IMF__NPY_F16, bytes, 6, 1, {3}},       {IMF__NPY_I64, numbers, 48, 1, {6}},
        {IMF__NPY_F32, numbers, 0, 2, {0, 5}},
    };
    temporary();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct imf_error err = {0};
        struct imf__npy a;
        ck_assert_int_eq(
            imf__npy_save(path, cases[i].type, cases[i].ndim, cases[i].shape, cases[i].data, &err),
            IMF_OK);
        ck_assert_msg(imf__npy_load(&a, path, &err) == IMF_OK, "%s", err.message);
        ck_assert_int_eq(a.type, cases[i].type);
        ck_assert_int_eq(a.ndim, cases[i].ndim);
        ck_assert_mem_eq(a.shape, cases[i].shape, (size_t)a.ndim * sizeof(a.shape[0]));
        ck_assert_mem_eq(a.data, cases[i].data, cases[i].size);
        imf__npy_free(&a);
    }
    unlink(path);
}
END_TEST

START_TEST(test_golden)
{
    struct imf_error err = {0};
    struct imf__npy a;
    ck_assert_int_eq(imf__npy_load(&a, TESTS_DIR "/golden/mit_tiny/latents_one_step.npy", &err),
                     IMF_OK);
    ck_assert_int_eq(a.type, IMF__NPY_F32);
    ck_assert_int_eq(a.ndim, 4);
    ck_assert(a.shape[0] == 2 && a.shape[1] == 4 && a.shape[2] == 32 && a.shape[3] == 32);
    ck_assert_uint_eq(a.count, 8192);
    imf__npy_free(&a);
    ck_assert_int_eq(imf__npy_load(&a, TESTS_DIR "/golden/vae_tiny/image_u8.npy", &err), IMF_OK);
    ck_assert_int_eq(a.type, IMF__NPY_U8);
    imf__npy_free(&a);
}
END_TEST

static imf_status load_bytes(const void *bytes, size_t size, struct imf_error *err)
{
    temporary();
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    fwrite(bytes, 1, size, f);
    fclose(f);
    struct imf__npy a = {0};
    imf_status status = imf__npy_load(&a, path, err);
    if (status == IMF_OK)
        imf__npy_free(&a);
    unlink(path);
    return status;
}

START_TEST(test_refused)
{
    static const char *const headers[] = {
        "{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 1), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 2), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,2), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 2, }",
        "{'descr': '<f4', 'fortran_order': False, }",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), } x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'other': 1}",
        "{'descr': '<f4' 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f4\", 'fortran_order': False, 'shape': (2,)}",
        "{",
        "",
        "__import__('os')",
    };
    uint8_t bytes[512];
    struct imf_error err = {0};
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        size_t n = strlen(headers[i]);
        memcpy(bytes, "\x93NUMPY\1\0", 8);
        bytes[8] = (uint8_t)n;
        bytes[9] = 0;
        memcpy(bytes + 10, headers[i], n);
        memset(bytes + 10 + n, 0, 8);
        ck_assert_msg(load_bytes(bytes, 10 + n + 8, &err) == IMF_EFORMAT, "accepted: %s",
                      headers[i]);
        ck_assert_ptr_nonnull(strstr(err.message, path));
    }
    /* Every truncation of a good file. */
    size_t size;
    uint8_t *good = slurp(TESTS_DIR "/golden/inception/logits_unbiased.npy", &size);
    ck_assert_ptr_nonnull(good);
    for (size_t n = 0; n < size; n += n < 200 ? 1 : 997)
        ck_assert_int_eq(load_bytes(good, n, &err), IMF_EFORMAT);
    ck_assert_int_eq(load_bytes(good, size, &err), IMF_OK);
    free(good);
    struct imf__npy a;
    ck_assert_int_eq(imf__npy_load(&a, "/nowhere.npy", &err), IMF_EIO);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("npy");
    TCase *tc = tcase_create("npy");
    tcase_add_test(tc, test_round_trip);
    tcase_add_test(tc, test_golden);
    tcase_add_test(tc, test_refused);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
