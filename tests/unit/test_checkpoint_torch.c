/* Files written by torch.save (tests/golden/torch, made by the script there), zip and legacy:
 * values through every kind of view, nesting, refusals; and the models beside the repository. */
#include "checkpoint_files.h"
#include "run_suite.h"

#define TORCH TESTS_DIR "/golden/torch/"

/* The tensors of state() in make_torch_files.py: element i is base + step * i. */
static const struct {
    const char *name;
    int ndim;
    int64_t shape[3];
    float base, step;
} ramps[] = {
    {"plain", 2, {4, 6}, -1.0f, 0.25f},       {"transposed", 2, {5, 3}, -1.0f, 0.25f},
    {"permuted", 3, {2, 3, 4}, -1.0f, 0.25f}, {"sliced", 2, {3, 4}, -1.0f, 0.25f},
    {"shared_a", 1, {6}, -1.0f, 0.25f},       {"shared_b", 1, {6}, -0.25f, 0.25f},
    {"expanded", 1, {5}, 2.5f, 0.0f},         {"scalar", 0, {0}, 3.5f, 0.0f},
    {"empty", 2, {0, 3}, 0.0f, 0.0f},
};

static void check_ramps(struct imf__checkpoint *c, const char *file, float add)
{
    for (size_t i = 0; i < sizeof(ramps) / sizeof(ramps[0]); i++) {
        char name[64];
        snprintf(name, sizeof(name), "net.%s", ramps[i].name);
        const struct imf__tensor *t = imf__checkpoint_find(c, name);
        ck_assert_msg(t, "%s: no %s", file, name);
        ck_assert_ptr_eq(imf__checkpoint_find(c, ramps[i].name), t);
        ck_assert_int_eq(t->ndim, ramps[i].ndim);
        for (int d = 0; d < t->ndim; d++)
            ck_assert_int_eq(t->shape[d], ramps[i].shape[d]);
        float values[64];
        ck_assert_uint_le(t->count, 64);
        struct imf_error err;
        ck_assert_int_eq(imf__checkpoint_read(c, t, values, &err), IMF_OK);
        for (uint64_t k = 0; k < t->count; k++) {
            float expected = ramps[i].base + ramps[i].step * (float)k + add;
            ck_assert_msg(values[k] == expected, "%s: %s[%d] is %g, not %g", file, name, (int)k,
                          (double)values[k], (double)expected);
        }
    }
}

static const struct {
    const char *file, *format, *nesting;
    enum imf__stored_type type;
} files[] = {
    {"zip_f32.pth", "torch zip", "", IMF__STORED_F32},
    {"zip_f16.pth", "torch zip", "", IMF__STORED_F16},
    {"zip_bf16.pth", "torch zip", "", IMF__STORED_BF16},
    {"zip_f64.pth", "torch zip", "", IMF__STORED_F64},
    {"zip_protocol4.pth", "torch zip", "", IMF__STORED_F32},
    {"zip_training.pth", "torch zip", "model", IMF__STORED_F32},
    {"zip_state_dict.pth", "torch zip", "state_dict", IMF__STORED_F32},
    {"zip_ema_deep.pth", "torch zip", "ema.params", IMF__STORED_F32},
    {"zip_sole.pth", "torch zip", "weights_of_mine", IMF__STORED_F32},
    {"zip_no_net.pth", "torch zip", "", IMF__STORED_F32},
    {"zip_beside.pth", "torch zip", "model", IMF__STORED_F32},
    {"zip_tensors_beside.pth", "torch zip", "model", IMF__STORED_F32},
    {"zip_negative.pth", "torch zip", "", IMF__STORED_F32},
    {"zip_negative_bf16.pth", "torch zip", "", IMF__STORED_BF16},
    {"zip_deflated.pth", "torch zip", "", IMF__STORED_F32},
    {"zip_trailing.pth", "torch zip", "", IMF__STORED_F32},
    {"zip_subclass.pth", "torch zip", "", IMF__STORED_F32},
    {"legacy_f32.pth", "torch legacy", "", IMF__STORED_F32},
    {"legacy_beside.pth", "torch legacy", "model", IMF__STORED_F32},
    {"legacy_negative.pth", "torch legacy", "", IMF__STORED_F32},
    {"legacy_bf16.pth", "torch legacy", "", IMF__STORED_BF16},
    {"legacy_training.pth", "torch legacy", "model", IMF__STORED_F32},
};

START_TEST(test_values)
{
    char path[256];
    snprintf(path, sizeof(path), TORCH "%s", files[_i].file);
    struct imf__checkpoint *c;
    struct imf_error err = {0};
    ck_assert_msg(imf__checkpoint_open(&c, path, NULL, &err) == IMF_OK, "%s", err.message);
    ck_assert_str_eq(imf__checkpoint_format(c), files[_i].format);
    ck_assert_str_eq(imf__checkpoint_nesting(c), files[_i].nesting);
    ck_assert_uint_eq(imf__checkpoint_count(c), 10);
    check_ramps(c, files[_i].file, 0);
    ck_assert_int_eq(imf__checkpoint_find(c, "net.plain")->type, files[_i].type);
    const struct imf__tensor *t = imf__checkpoint_find(c, "net.num_batches_tracked");
    ck_assert_ptr_nonnull(t);
    ck_assert_int_eq(t->type, IMF__STORED_OTHER);
    imf__checkpoint_close(c);
}
END_TEST

/* Of several state dicts the one that is asked for; the others are told. */
START_TEST(test_keys)
{
    static const struct {
        const char *file, *key, *nesting, *others, *says;
        float add;
    } cases[] = {
        {"zip_training.pth", NULL, "model", "ema", NULL, 0},
        {"zip_training.pth", "model", "model", "ema", NULL, 0},
        {"zip_training.pth", "ema", "ema", "model", NULL, 1},
        {"legacy_training.pth", "ema", "ema", "model", NULL, 1},
        {"zip_ema_deep.pth", "params", "ema.params", "", NULL, 0},
        {"zip_ema_deep.pth", "ema.params", "ema.params", "", NULL, 0},
        {"zip_training.pth", "model_ema1", NULL, NULL,
         "no state dict \"model_ema1\"; there are: model, ema", 0},
        {"zip_training.pth", "", NULL, NULL, "no state dict \"\"", 0},
        {"zip_f32.pth", "ema", NULL, NULL, "no state dict \"ema\"; there are: (the top)", 0},
    };
    char path[256];
    struct imf__checkpoint *c;
    struct imf_error err = {0};
    snprintf(path, sizeof(path), TORCH "%s", cases[_i].file);
    imf_status status = imf__checkpoint_open(&c, path, cases[_i].key, &err);
    if (cases[_i].says) {
        ck_assert_int_eq(status, IMF_EFORMAT);
        ck_assert_msg(strstr(err.message, cases[_i].says), "says \"%s\"", err.message);
        return;
    }
    ck_assert_msg(status == IMF_OK, "%s", err.message);
    ck_assert_str_eq(imf__checkpoint_nesting(c), cases[_i].nesting);
    ck_assert_str_eq(imf__checkpoint_others(c), cases[_i].others);
    check_ramps(c, cases[_i].file, cases[_i].add);
    imf__checkpoint_close(c);
}
END_TEST

START_TEST(test_parameters)
{
    struct imf__checkpoint *c;
    struct imf_error err = {0};
    ck_assert_msg(imf__checkpoint_open(&c, TORCH "zip_parameter.pth", NULL, &err) == IMF_OK, "%s",
                  err.message);
    float values[24];
    ck_assert_int_eq(imf__checkpoint_read(c, imf__checkpoint_find(c, "plain"), values, &err),
                     IMF_OK);
    ck_assert(values[0] == -1.0f && values[23] == 4.75f);
    ck_assert_int_eq(imf__checkpoint_find(c, "float8")->type, IMF__STORED_OTHER);
    ck_assert_int_eq(imf__checkpoint_find(c, "uint16")->type, IMF__STORED_OTHER);
    imf__checkpoint_close(c);
}
END_TEST

/* What stands beside the weights is named, and nothing of it is built. */
START_TEST(test_skipped)
{
    static const char *const classes[] = {
        "omegaconf.dictconfig.DictConfig",
        "easydict.EasyDict",
        "mylib.colours.Colour",
        "datetime.datetime",
        "collections.deque",
        "functools.partial",
        "types.SimpleNamespace",
        "__builtin__.bytearray",
        "numpy.random._pickle.__generator_ctor",
    };
    struct imf__checkpoint *c;
    struct imf_error err = {0};
    ck_assert_int_eq(imf__checkpoint_open(&c, TORCH "zip_beside.pth", NULL, &err), IMF_OK);
    for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
        bool found = false;
        for (size_t k = 0; k < imf__checkpoint_skipped_count(c); k++)
            found = found || strcmp(imf__checkpoint_skipped_at(c, k), classes[i]) == 0;
        ck_assert_msg(found, "%s is not named", classes[i]);
    }
    imf__checkpoint_close(c);
    ck_assert_int_eq(imf__checkpoint_open(&c, TORCH "zip_f32.pth", NULL, &err), IMF_OK);
    ck_assert_uint_eq(imf__checkpoint_skipped_count(c), 0);
    imf__checkpoint_close(c);
}
END_TEST

/* The same tensors give the same fingerprint, whatever the file around them. */
START_TEST(test_fingerprint)
{
    static const char *const names[] = {"zip_f32.pth",      "zip_protocol4.pth", "legacy_f32.pth",
                                        "zip_training.pth", "zip_negative.pth",  "zip_deflated.pth",
                                        "zip_f16.pth"};
    uint64_t print[7][2];
    for (int i = 0; i < 7; i++) {
        char path[256];
        snprintf(path, sizeof(path), TORCH "%s", names[i]);
        struct imf__checkpoint *c;
        struct imf_error err = {0};
        ck_assert_int_eq(imf__checkpoint_open(&c, path, NULL, &err), IMF_OK);
        ck_assert_int_eq(read_all(c, &err), IMF_OK);
        imf__checkpoint_fingerprint(c, print[i]);
        imf__checkpoint_close(c);
    }
    for (int i = 1; i < 6; i++)
        ck_assert_mem_eq(print[i], print[0], 16);
    ck_assert_mem_ne(print[6], print[0], 16);
}
END_TEST

START_TEST(test_refused)
{
    static const struct {
        const char *file, *says;
    } cases[] = {
        {"refused_module.pth", "\"torch.nn.modules.linear.Linear\""},
        {"refused_script.pth", "TorchScript"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char path[256];
        snprintf(path, sizeof(path), TORCH "%s", cases[i].file);
        struct imf__checkpoint *c;
        struct imf_error err = {0};
        ck_assert_int_ne(imf__checkpoint_open(&c, path, NULL, &err), IMF_OK);
        ck_assert_msg(strstr(err.message, cases[i].file) && strstr(err.message, cases[i].says),
                      "says \"%s\"", err.message);
    }
}
END_TEST

/* ---- The golden models, where ../shared is there --------------------------------------------- */

static struct imf__checkpoint *open_shared(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), SHARED_DIR "/golden/%s", name);
    if (access(path, R_OK) != 0)
        return NULL;
    struct imf__checkpoint *c;
    struct imf_error err = {0};
    ck_assert_msg(imf__checkpoint_open(&c, path, NULL, &err) == IMF_OK, "%s", err.message);
    return c;
}

/* Largest difference over all tensors of a, looked up in b. */
static float compare(struct imf__checkpoint *a, struct imf__checkpoint *b)
{
    float worst = 0;
    ck_assert_uint_eq(imf__checkpoint_count(a), imf__checkpoint_count(b));
    for (size_t i = 0; i < imf__checkpoint_count(a); i++) {
        const struct imf__tensor *t = imf__checkpoint_at(a, i);
        const struct imf__tensor *u = imf__checkpoint_find(b, t->name);
        ck_assert_msg(u && u->count == t->count, "%s", t->name);
        float *x = malloc(t->count * sizeof(float)), *y = malloc(t->count * sizeof(float));
        ck_assert(x && y);
        struct imf_error err = {0};
        ck_assert_int_eq(imf__checkpoint_read(a, t, x, &err), IMF_OK);
        ck_assert_int_eq(imf__checkpoint_read(b, u, y, &err), IMF_OK);
        for (uint64_t k = 0; k < t->count; k++) {
            float d = x[k] > y[k] ? x[k] - y[k] : y[k] - x[k];
            worst = d > worst ? d : worst;
        }
        free(x);
        free(y);
    }
    return worst;
}

START_TEST(test_golden)
{
    static const struct {
        const char *file, *reference;
        float bound;
    } pairs[] = {
        {"mit_tiny/mit_tiny.pth", "mit_tiny/mit_tiny.safetensors", 0},
        {"mit_tiny/mit_tiny_legacy.pth", "mit_tiny/mit_tiny.safetensors", 0},
        {"mit_tiny/mit_tiny_nested.pth", "mit_tiny/mit_tiny.safetensors", 0},
        /* Weights are below 1.3: half a unit in the last place of 1 to 2. */
        {"mit_tiny/mit_tiny_f16.pth", "mit_tiny/mit_tiny.safetensors", 0x1p-11f},
        {"mit_tiny/mit_tiny_bf16.pth", "mit_tiny/mit_tiny.safetensors", 0x1p-8f},
        {"vae_tiny/diffusion_pytorch_model.bin", "vae_tiny/diffusion_pytorch_model.safetensors", 0},
    };
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        struct imf__checkpoint *a = open_shared(pairs[i].file);
        if (!a) {
            printf("skipped: ../shared is not there\n");
            return;
        }
        struct imf__checkpoint *b = open_shared(pairs[i].reference);
        float worst = compare(a, b);
        ck_assert_msg(worst <= pairs[i].bound, "%s: differs by %g", pairs[i].file, (double)worst);
        imf__checkpoint_close(a);
        imf__checkpoint_close(b);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("torch");
    TCase *tc = tcase_create("torch");
    tcase_add_loop_test(tc, test_values, 0, sizeof(files) / sizeof(files[0]));
    tcase_add_loop_test(tc, test_keys, 0, 9);
    tcase_add_test(tc, test_parameters);
    tcase_add_test(tc, test_skipped);
    tcase_add_test(tc, test_fingerprint);
    tcase_add_test(tc, test_refused);
    tcase_add_test(tc, test_golden);
    tcase_set_timeout(tc, 60);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
