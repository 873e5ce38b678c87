/* Lists of tensors and synthetic weights: names and shapes of the published files, the formula's
 * values, and files written in both formats read back bit for bit. */
#include "checkpoint_files.h"
#include "common/json.h"
#include "run_suite.h"
#include "models/model_names.h"
#include "models/synth.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

START_TEST(test_mit_counts)
{
    static const struct {
        const char *name;
        uint64_t parameters;
    } models[] = {{"MiT_B_2", 88948256},
                  {"imfDiT_M_2", 173921312},
                  {"iMF-L/2", 409071648},
                  {"MiT_XL_2", 610433056}};
    for (size_t i = 0; i < 4; i++) {
        struct imf__meanflow_shape shape;
        struct imf__names names;
        ck_assert(imf__meanflow_named(&shape, models[i].name));
        ck_assert_int_eq(imf__meanflow_names(&names, &shape), IMF_OK);
        ck_assert_uint_eq(names.parameters, models[i].parameters);
        ck_assert_int_eq(shape.mlp_hidden, shape.hidden * 8 / 3);
        imf__names_free(&names);
    }
    struct imf__meanflow_shape shape;
    ck_assert(!imf__meanflow_named(&shape, "MiT_S_2"));
}
END_TEST

/* A list against {"name": [shape], ...} as the golden folder has it: same names, same shapes. */
static void check_keys(const struct imf__names *names, const char *path)
{
    size_t size, count = 0;
    char *text = (char *)slurp(path, &size);
    ck_assert_msg(text, "%s is missing", path);
    struct imf__json j;
    imf__json_init(&j, text, size);
    ck_assert_int_eq(imf__json_next(&j), IMF__JSON_OBJECT);
    while (imf__json_next(&j) == IMF__JSON_KEY) {
        const struct imf__name *name = imf__names_find(names, j.string);
        ck_assert_msg(name, "%s: %s", path, j.string);
        ck_assert_int_eq(imf__json_next(&j), IMF__JSON_ARRAY);
        int n = 0;
        while (imf__json_next(&j) == IMF__JSON_NUMBER) {
            ck_assert_msg(n < name->ndim && name->shape[n] == j.integer, "%s: %s", path,
                          name->name);
            n++;
        }
        ck_assert_int_eq(n, name->ndim);
        count++;
    }
    ck_assert_uint_eq(count, names->count);
    free(text);
}

START_TEST(test_keys)
{
    struct imf__names names;
    struct imf__vae_shape vae;
    imf__vae_shape_init(&vae);
    ck_assert_int_eq(imf__vae_names(&names, &vae), IMF_OK);
    check_keys(&names, TESTS_DIR "/golden/vae_full/keys.json");
    imf__names_free(&names);
    ck_assert_int_eq(imf__taesd_names(&names), IMF_OK);
    check_keys(&names, TESTS_DIR "/golden/taesd/keys.json");
    imf__names_free(&names);
    ck_assert_int_eq(imf__inception_names(&names, 1), IMF_OK);
    check_keys(&names, TESTS_DIR "/golden/inception/keys.json");
    imf__names_free(&names);
}
END_TEST

START_TEST(test_formula)
{
    /* v of net.time_tokens, as docs/synthetic-weights.md prints them; fan_in is 768. */
    static const double v[] = {0.19501954, 0.5327124, -0.36596161, -0.19253284};
    struct imf__name name = {"net.time_tokens", 2, {4, 768}, true};
    float values[4], again[2];
    imf__synth_fill(values, &name, 0, 0, 4);
    for (int i = 0; i < 4; i++)
        ck_assert_double_eq_tol(values[i] / sqrt(3.0 / 768), v[i], 1e-7);
    imf__synth_fill(again, &name, 0, 2, 2);
    ck_assert_mem_eq(again, values + 2, sizeof(again));
    imf__synth_fill(again, &name, 1, 2, 2);
    ck_assert_mem_ne(again, values + 2, sizeof(again));
    /* Every rule keeps to offset +- amplitude. */
    static const struct {
        struct imf__name name;
        double offset, amplitude;
    } rules[] = {
        {{"a.conv.weight", 4, {8, 3, 3, 3}, true}, 0, 0.4714045207910317},
        {{"a.conv1.weight", 4, {8, 3, 3, 3}, true}, 0, 0.3333333333333333},
        {{"a.attn_scale", 1, {16}, true}, 0, 0.3},
        {{"a.running_mean", 1, {16}, true}, 0, 0.05},
        {{"a.bias", 1, {16}, true}, 0, 0.05},
        {{"a.running_var", 1, {16}, true}, 1, 0.1},
        {{"a.weight", 1, {16}, true}, 1, 0.1},
    };
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        float x[216];
        double low = 9, high = -9;
        imf__synth_fill(x, &rules[i].name, 7, 0, 216);
        for (int k = 0; k < 216; k++) {
            low = fmin(low, x[k]);
            high = fmax(high, x[k]);
        }
        ck_assert(low >= rules[i].offset - rules[i].amplitude &&
                  high <= rules[i].offset + rules[i].amplitude);
        /* 216 draws come close to the ends. */
        ck_assert(high - low > 1.9 * rules[i].amplitude);
    }
}
END_TEST

/* ---- Files ----------------------------------------------------------------------------------- */

static char path[128];

static void temporary(const char *suffix)
{
    snprintf(path, sizeof(path), "/tmp/imf-synth-%ld%s", (long)getpid(), suffix);
}

static void tiny_names(struct imf__names *names)
{
    const struct imf__meanflow_shape shape = {IMF__MIT, 4, 2, 128, 64, 341, 10, 4, 2, 32, 0, false};
    ck_assert_int_eq(imf__meanflow_names(names, &shape), IMF_OK);
}

static struct imf__checkpoint *open_file(const char *file)
{
    struct imf__checkpoint *c;
    struct imf_error err = {0};
    ck_assert_msg(imf__checkpoint_open(&c, file, NULL, &err) == IMF_OK, "%s", err.message);
    return c;
}

/* All tensors of b are in a, with the same bits. */
static void same(struct imf__checkpoint *a, struct imf__checkpoint *b)
{
    ck_assert_uint_eq(imf__checkpoint_count(a), imf__checkpoint_count(b));
    for (size_t i = 0; i < imf__checkpoint_count(b); i++) {
        const struct imf__tensor *t = imf__checkpoint_at(b, i);
        const struct imf__tensor *u = imf__checkpoint_find(a, t->name);
        ck_assert_msg(u && u->count == t->count && u->type == t->type && u->ndim == t->ndim, "%s",
                      t->name);
        float *x = malloc(t->count * sizeof(float)), *y = malloc(t->count * sizeof(float));
        struct imf_error err = {0};
        ck_assert(x && y);
        ck_assert_int_eq(imf__checkpoint_read(a, u, x, &err), IMF_OK);
        ck_assert_int_eq(imf__checkpoint_read(b, t, y, &err), IMF_OK);
        ck_assert_msg(memcmp(x, y, t->count * sizeof(float)) == 0, "%s", t->name);
        free(x);
        free(y);
    }
}

/* Seed 11 in both formats gives the golden model's bits. */
START_TEST(test_mit_tiny)
{
    static const char *const suffixes[] = {".pth", ".safetensors", ".pth"};
    struct imf__names names;
    tiny_names(&names);
    for (int i = 0; i < 3; i++) {
        static const char *const metadata[][2] = {{"input_size", "32"}, {"q", "\"\\\n"}};
        const struct imf__weights_params p = {
            .names = &names, .metadata = metadata, .metadata_count = 2, .force_zip64 = i == 2};
        struct imf_error err = {0};
        temporary(suffixes[i]);
        ck_assert_int_eq(imf__synth_write(path, &p, 11, NULL, NULL, &err), IMF_OK);
        struct imf__checkpoint *a = open_file(path);
        struct imf__checkpoint *b = open_file(TESTS_DIR "/golden/mit_tiny/mit_tiny.pth");
        same(a, b);
        if (i == 1) {
            ck_assert_str_eq(imf__checkpoint_metadata(a, "input_size"), "32");
            ck_assert_str_eq(imf__checkpoint_metadata(a, "q"), "\"\\\n");
        }
        struct imf__meanflow_shape shape;
        ck_assert_int_eq(imf__model_kind_of(a), IMF__MODEL_MIT);
        ck_assert_int_eq(imf__meanflow_shape_read(&shape, a, &err), IMF_OK);
        ck_assert(shape.depth == 4 && shape.shared_depth == 2 && shape.hidden == 128 &&
                  shape.mlp_hidden == 341 && shape.classes == 10 && shape.channels == 4 &&
                  shape.patch_size == 2);
        imf__checkpoint_close(a);
        imf__checkpoint_close(b);
        unlink(path);
    }
    imf__names_free(&names);
}
END_TEST

/* Half precision is rounded as torch rounds: against the golden float16 and bfloat16 files where
 * they are there, and against the float32 values within half a unit everywhere. */
START_TEST(test_half)
{
    static const struct {
        enum imf__stored_type type;
        const char *golden;
        float bound;
    } cases[] = {
        {IMF__STORED_F16, SHARED_DIR "/golden/mit_tiny/mit_tiny_f16.pth", 0x1p-11f},
        {IMF__STORED_BF16, SHARED_DIR "/golden/mit_tiny/mit_tiny_bf16.pth", 0x1p-8f},
    };
    struct imf__names names;
    tiny_names(&names);
    for (int i = 0; i < 2; i++) {
        const struct imf__weights_params p = {.names = &names, .type = cases[i].type};
        struct imf_error err = {0};
        temporary(".pth");
        ck_assert_int_eq(imf__synth_write(path, &p, 11, NULL, NULL, &err), IMF_OK);
        struct imf__checkpoint *a = open_file(path);
        for (size_t k = 0; k < names.count; k++) {
            const struct imf__tensor *t = imf__checkpoint_find(a, names.items[k].name);
            ck_assert_ptr_nonnull(t);
            ck_assert_int_eq(t->type, cases[i].type);
            float *x = malloc(t->count * sizeof(float)), *y = malloc(t->count * sizeof(float));
            ck_assert(x && y);
            ck_assert_int_eq(imf__checkpoint_read(a, t, x, &err), IMF_OK);
            imf__synth_fill(y, &names.items[k], 11, 0, t->count);
            uint64_t off = 0; /* one assertion: each one costs a write */
            for (uint64_t n = 0; n < t->count; n++)
                off += fabsf(x[n] - y[n]) > fmaxf(fabsf(y[n]), 0x1p-14f) * cases[i].bound;
            ck_assert_uint_eq(off, 0);
            free(x);
            free(y);
        }
        imf__checkpoint_close(a);
        if (access(cases[i].golden, R_OK) == 0) {
            a = open_file(path);
            struct imf__checkpoint *b = open_file(cases[i].golden);
            same(a, b);
            imf__checkpoint_close(a);
            imf__checkpoint_close(b);
        }
        unlink(path);
    }
    imf__names_free(&names);
}
END_TEST

START_TEST(test_vae_tiny)
{
    const char *golden = SHARED_DIR "/golden/vae_tiny/diffusion_pytorch_model.bin";
    const struct imf__vae_shape shape = {4, 4, {64, 64, 32, 32}};
    struct imf__names names;
    struct imf_error err = {0};
    ck_assert_int_eq(imf__vae_names(&names, &shape), IMF_OK);
    const struct imf__weights_params p = {.names = &names};
    temporary(".safetensors");
    ck_assert_int_eq(imf__synth_write(path, &p, 5, NULL, NULL, &err), IMF_OK);
    struct imf__checkpoint *a = open_file(path);
    struct imf__vae_shape found;
    ck_assert_int_eq(imf__model_kind_of(a), IMF__MODEL_SD_VAE);
    ck_assert_int_eq(imf__vae_shape_read(&found, a, &err), IMF_OK);
    ck_assert_mem_eq(&found, &shape, sizeof(found));
    for (size_t i = 0; i < names.count; i++) {
        const struct imf__tensor *t;
        ck_assert_int_eq(imf__model_require(&t, a, &names.items[i], &err), IMF_OK);
    }
    if (access(golden, R_OK) == 0) {
        struct imf__checkpoint *b = open_file(golden);
        same(a, b);
        imf__checkpoint_close(b);
        /* The newer attention names answer to the older ones. */
        b = open_file(SHARED_DIR "/golden/vae_tiny/diffusion_pytorch_model_newnames.safetensors");
        for (size_t i = 0; i < names.count; i++) {
            const struct imf__tensor *t;
            ck_assert_int_eq(imf__model_require(&t, b, &names.items[i], &err), IMF_OK);
        }
        imf__checkpoint_close(b);
    }
    imf__checkpoint_close(a);
    imf__names_free(&names);
    unlink(path);
}
END_TEST

/* Wrong and missing tensors are named with what was expected and found. */
START_TEST(test_require)
{
    struct imf__checkpoint *c = open_file(TESTS_DIR "/golden/mit_tiny/mit_tiny.pth");
    const struct imf__tensor *t;
    struct imf_error err = {0};
    const struct imf__name wrong = {"net.x_embedder.proj.weight", 4, {256, 4, 2, 2}, true};
    ck_assert_int_eq(imf__model_require(&t, c, &wrong, &err), IMF_EMODEL);
    ck_assert_ptr_nonnull(strstr(err.message, "expected shape [256, 4, 2, 2]"));
    ck_assert_ptr_nonnull(strstr(err.message, "found [128, 4, 2, 2]"));
    const struct imf__name missing = {"net.nothing.weight", 1, {3}, true};
    ck_assert_int_eq(imf__model_require(&t, c, &missing, &err), IMF_EMODEL);
    ck_assert_ptr_nonnull(strstr(err.message, "\"net.nothing.weight\" of shape [3] is missing"));
    imf__checkpoint_close(c);
}
END_TEST

/* A disk that fills up leaves what was under the name before, and nothing else. */
START_TEST(test_full_disk)
{
    struct imf__names names;
    tiny_names(&names);
    const struct imf__weights_params p = {.names = &names};
    struct imf_error err = {0};
    temporary(".safetensors");
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs("before", f);
    fclose(f);
    signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit = {1 << 20, 1 << 20};
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_assert_int_eq(imf__synth_write(path, &p, 0, NULL, NULL, &err), IMF_EIO);
    ck_assert_ptr_nonnull(strstr(err.message, path));
    size_t size;
    uint8_t *text = slurp(path, &size);
    ck_assert_uint_eq(size, 6);
    free(text);
    char part[192];
    snprintf(part, sizeof(part), "%s.part-%ld", path, (long)getpid());
    ck_assert_int_ne(access(part, F_OK), 0);
    unlink(path);
    ck_assert_int_eq(imf__synth_write("/nowhere/x.pth", &p, 0, NULL, NULL, &err), IMF_EIO);
    ck_assert_int_eq(imf__synth_write("/tmp/x.onnx", &p, 0, NULL, NULL, &err), IMF_EINVAL);
    ck_assert_int_eq(imf__synth_write("/tmp", &p, 0, NULL, NULL, &err), IMF_EINVAL);
    imf__names_free(&names);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("synth");
    TCase *tc = tcase_create("synth");
    tcase_add_test(tc, test_mit_counts);
    tcase_add_test(tc, test_keys);
    tcase_add_test(tc, test_formula);
    tcase_add_test(tc, test_mit_tiny);
    tcase_add_test(tc, test_half);
    tcase_add_test(tc, test_vae_tiny);
    tcase_add_test(tc, test_require);
    tcase_add_test(tc, test_full_disk);
    tcase_set_timeout(tc, 60);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
