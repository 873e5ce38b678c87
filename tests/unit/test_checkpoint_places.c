/* What is opened when a folder or an index is named, and what is said of files that hold something
 * else than weights. */
#include "checkpoint_files.h"
#include "run_suite.h"

#include <dirent.h>
#include <sys/stat.h>

#define TORCH TESTS_DIR "/golden/torch/"

static char folder[64];

static void path_of(char path[192], const char *name)
{
    snprintf(path, 192, "%s/%s", folder, name);
}

static void put(const char *name, const void *bytes, size_t size)
{
    char path[192];
    path_of(path, name);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(bytes, 1, size, f), size);
    ck_assert_int_eq(fclose(f), 0);
}

static void put_torch(const char *name, const char *golden)
{
    char path[192];
    size_t size;
    snprintf(path, sizeof(path), TORCH "%s", golden);
    uint8_t *bytes = slurp(path, &size);
    ck_assert_ptr_nonnull(bytes);
    put(name, bytes, size);
    free(bytes);
}

static void make_folder(void)
{
    snprintf(folder, sizeof(folder), "/tmp/imf-places-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e; (e = readdir(dir));) {
        char path[400];
        snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
        unlink(path);
    }
    closedir(dir);
    rmdir(folder);
}

static void says(const char *name, const char *words)
{
    char path[192];
    struct imf__checkpoint *c = NULL;
    struct imf_error err = {0};
    path_of(path, name);
    ck_assert_msg(imf__checkpoint_open(&c, path, NULL, &err) != IMF_OK, "%s was opened", path);
    ck_assert_msg(strstr(err.message, words), "%s: says \"%s\", not \"%s\"", name, err.message,
                  words);
}

/* The folder opens, and this is the file that was taken. */
static void takes(const char *name)
{
    struct imf__checkpoint *c;
    struct imf_error err = {0};
    ck_assert_msg(imf__checkpoint_open(&c, folder, NULL, &err) == IMF_OK, "%s", err.message);
    const char *slash = strrchr(imf__checkpoint_path(c), '/');
    ck_assert_str_eq(slash + 1, name);
    imf__checkpoint_close(c);
}

START_TEST(test_foreign_files)
{
    static const struct {
        const char *bytes;
        size_t size;
        const char *says;
    } cases[] = {
#define BYTES(s) s, sizeof(s) - 1
        {BYTES("version https://git-lfs.github.com/spec/v1\noid sha256:01\nsize 548105171\n"),
         "git lfs pull"},
        {BYTES("<!DOCTYPE html><html></html>"), "HTML page"},
        {BYTES("\n  <HTML><body>Sign in</body></HTML>"), "HTML page"},
        {BYTES("{\"error\":\"Repository not found\"}"), "JSON text"},
        {BYTES("[]"), "JSON text"},
        {BYTES("\x1f\x8b\x08\0\0\0\0\0\0\3 abc"), "gzip"},
        {BYTES("GGUF\3\0\0\0\0\0\0\0"), "GGUF"},
        {BYTES("\x89HDF\r\n\x1a\n\0\0\0\0"), "HDF5"},
        {BYTES("\x93NUMPY\1\0\x76\0{"), "NumPy"},
        {BYTES("\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), "PNG"},
        {BYTES(""), "0 bytes"},
        {BYTES("Entry not found"), "a text instead of weights"},
        {BYTES("hello, this is \xFF no checkpoint"), "neither a torch zip"},
    };
    static const char *const names[] = {"x.pth", "x.safetensors", "x.bin"};
    make_folder();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t k = 0; k < 3; k++) {
            put(names[k], cases[i].bytes, cases[i].size);
            if (i + 1 < sizeof(cases) / sizeof(cases[0]) || k != 1)
                says(names[k], cases[i].says);
        }
    }
    remove_folder();
}
END_TEST

START_TEST(test_folders)
{
    make_folder();
    says(".", "a folder without weights");
    put("optimizer.bin", "x", 1);
    put("random_states_0.pth", "x", 1);
    put("README.md", "x", 1);
    put(".hidden.pth", "x", 1);
    says(".", "a folder without weights");
    put_torch("checkpoint-last.pth", "zip_f32.pth");
    takes("checkpoint-last.pth");
    put_torch("another.ckpt", "zip_f32.pth");
    says(".", "several files of weights");
    put_torch("model.pth", "zip_f32.pth");
    takes("model.pth");
    put_torch("pytorch_model.bin", "zip_f32.pth");
    takes("pytorch_model.bin");
    remove_folder();
    make_folder();
    put("__0_0.distcp", "x", 1);
    says(".", "torch.distributed.checkpoint");
    remove_folder();
}
END_TEST

START_TEST(test_shards_of_torch)
{
    static const char *const tensors[] = {"plain",    "transposed",         "permuted", "sliced",
                                          "shared_a", "shared_b",           "expanded", "scalar",
                                          "empty",    "num_batches_tracked"};
    static const char y[] = "\x36\0\0\0\0\0\0\0"
                            "{\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"
                            "\0\0\x40\x40";
    char index[2048] = "{\"metadata\":{\"total_size\":1},\"weight_map\":{\"y\":\"y.safetensors\"";
    for (int i = 0; i < 10; i++) {
        size_t n = strlen(index);
        snprintf(index + n, sizeof(index) - n, ",\"net.%s\":\"a.bin\"", tensors[i]);
    }
    strcat(index, "}}");
    make_folder();
    put_torch("a.bin", "zip_beside.pth");
    put("y.safetensors", y, sizeof(y) - 1);
    put("pytorch_model.bin.index.json", index, strlen(index));
    struct imf__checkpoint *c;
    struct imf_error err = {0};
    ck_assert_msg(imf__checkpoint_open(&c, folder, NULL, &err) == IMF_OK, "%s", err.message);
    ck_assert_uint_eq(imf__checkpoint_count(c), 11);
    float v[24];
    ck_assert_int_eq(imf__checkpoint_read(c, imf__checkpoint_find(c, "plain"), v, &err), IMF_OK);
    ck_assert(v[0] == -1.0f && v[23] == 4.75f);
    ck_assert_int_eq(imf__checkpoint_read(c, imf__checkpoint_find(c, "y"), v, &err), IMF_OK);
    ck_assert(v[0] == 3.0f);
    imf__checkpoint_close(c);
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\n";
    put("y.safetensors", pointer, sizeof(pointer) - 1);
    says("pytorch_model.bin.index.json", "y.safetensors: a git-lfs pointer");
    remove_folder();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("places");
    TCase *tc = tcase_create("places");
    tcase_add_test(tc, test_foreign_files);
    tcase_add_test(tc, test_folders);
    tcase_add_test(tc, test_shards_of_torch);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
