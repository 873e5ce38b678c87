/* pMF: the small models' pixels and 8-bit pictures in both precisions, post-trained files, what the
 * published sizes are sampled with, and files that are wrong. */
#include "golden.h"

#include <stdio.h>
#include <string.h>

struct pmf_case {
    const char *name;
    int n;
    struct golden_sample samples[3];
};

/* The three steps of both models: per-sample guidance, the null class among the labels. */
#define THREE                                                                                      \
    3,                                                                                             \
    {                                                                                              \
        {0, 5, {3, 1.0f, 0.0f, 1.0f}}, {9, 6, {3, 4.0f, 0.1f, 0.8f}},                              \
        {                                                                                          \
            10, 42,                                                                                \
            {                                                                                      \
                3, 7.0f, 0.2f, 0.7f                                                                \
            }                                                                                      \
        }                                                                                          \
    }

static const struct pmf_case tiny_cases[2][2] = {
    {{"tiny_one", 2, {{3, 0, {1, 7.5f, 0.1f, 0.8f}}, {7, 1, {1, 7.5f, 0.1f, 0.8f}}}},
     {"tiny_three", THREE}},
    {{"tiny80_one", 2, {{3, 0, {1, 7.5f, 0.1f, 0.8f}}, {7, 1, {1, 7.5f, 0.1f, 0.8f}}}},
     {"tiny80_three", THREE}},
};

static const struct tiny {
    struct imf__meanflow_shape shape;
    uint64_t seed;
    float noise_scale;
    const char *shared; /* as torch.save wrote it */
} tiny[2] = {
    {{IMF__PMF, 4, 2, 128, 64, 341, 10, 3, 16, 64, 128, false}, 21, 2, "pmf/pmf_tiny.pt"},
    {{IMF__PMF, 4, 2, 160, 80, 426, 10, 3, 16, 64, 128, false}, 22, 1, "pmf/pmf_tiny80.pt"},
};

static char *write_tiny(int which, bool post_trained)
{
    struct imf__meanflow_shape shape = tiny[which].shape;
    struct imf__names names = {0};
    shape.post_trained = post_trained;
    ck_assert_int_eq(imf__meanflow_names(&names, &shape), IMF_OK);
    return golden_synth(post_trained ? "post.safetensors" : "tiny.safetensors", &names,
                        tiny[which].seed);
}

/* ---- Values ---- */

static void check_pictures(struct imf_model *m, const struct pmf_case *c, const float *z,
                           enum imf_precision precision)
{
    const struct imf_model_info *info = imf_model_get_info(m);
    size_t picture = (size_t)info->image_width * (size_t)info->image_height * 3;
    size_t n = (size_t)c->n * picture;
    char file[64];
    snprintf(file, sizeof(file), "pmf/u8_%s.npy", c->name);
    uint8_t *want = golden_read_bytes(file, n), *got = malloc(n);
    for (int i = 0; i < c->n; i++) {
        struct imf_lane *lane = NULL;
        ck_assert_int_eq(imf_lane_create(&lane, m), IMF_OK);
        memcpy(lane->z, z + (size_t)i * lane->z_count, lane->z_count * sizeof(float));
        ck_assert_int_eq(imf_decode(m, &lane, 1, got + (size_t)i * picture), IMF_OK);
        imf_lane_destroy(lane);
    }
    int level = golden_max_level(got, want, n);
    double psnr = golden_psnr(got, want, n);
    printf("%-14s %s: at most %d levels, %.1f dB\n", c->name, imf_precision_name(precision), level,
           psnr);
    if (precision == IMF_PRECISION_FP32)
        ck_assert_msg(level <= 1, "%s: %d levels", c->name, level);
    else
        ck_assert_msg(psnr >= BF16_PSNR_BOUND, "%s: %g dB", c->name, psnr);
    free(got);
    free(want);
}

static void check_tiny(int which, const char *path, enum imf_precision precision)
{
    if (golden_lacks(precision))
        return;
    struct imf_engine *e = golden_engine(precision);
    struct imf_model_params p;
    imf_model_params_init(&p);
    p.checkpoint = path;
    p.noise_scale = tiny[which].noise_scale;
    struct imf_model *m = golden_model_of(e, &p);
    for (int i = 0; i < 2; i++) {
        const struct pmf_case *c = &tiny_cases[which][i];
        char file[64];
        snprintf(file, sizeof(file), "pmf/pixels_%s.npy", c->name);
        struct golden want = golden_read(file);
        float *got = golden_latents(m, c->samples, c->n);
        golden_check(c->name, got, want.values, want.count, precision);
        check_pictures(m, c, got, precision);
        free(got);
        free(want.values);
    }
    imf_model_destroy(m);
    imf_engine_destroy(e);
}

START_TEST(test_tiny)
{
    for (int post_trained = 0; post_trained < 2; post_trained++) {
        char *path = write_tiny(_i, post_trained);
        check_tiny(_i, path, IMF_PRECISION_FP32);
        check_tiny(_i, path, IMF_PRECISION_BF16);
        remove(path);
        free(path);
    }
    if (golden_shared(tiny[_i].shared)) /* with its complex rope_freqs */
        check_tiny(_i, golden_shared(tiny[_i].shared), IMF_PRECISION_FP32);
    else
        printf("../shared is absent: the files of torch.save are left out\n");
}
END_TEST

/* ---- z on the device ---- */

static struct imf_lane *start(struct imf_model *m, int i)
{
    const struct imf_sampling s = {2, 4.0f, 0.1f, 0.8f};
    struct imf_lane *lane = NULL;
    ck_assert_int_eq(imf_lane_create(&lane, m), IMF_OK);
    ck_assert_int_eq(imf_lane_start(lane, m, i, (uint64_t)i, &s, NULL), IMF_OK);
    return lane;
}

/* More lanes than a GPU keeps z of, stepped in turns: z is the same as when each goes alone, and so
 * are pictures, whether z is on the device or here. */
START_TEST(test_many_lanes)
{
    enum { LANES = 10, BYTES = 64 * 64 * 3 };
    char *path = write_tiny(1, false);
    struct imf_engine *e = golden_engine(IMF_PRECISION_FP32);
    struct imf_model_params p;
    imf_model_params_init(&p);
    p.checkpoint = path;
    p.max_batch = 2;
    p.decode_batch = 1;
    struct imf_model *m = golden_model_of(e, &p);
    struct imf_lane *lanes[LANES];
    uint8_t *away = malloc(BYTES), *here = malloc(BYTES);
    for (int i = 0; i < LANES; i++)
        lanes[i] = start(m, i);
    for (int step = 0; step < 2; step++)
        for (int i = 0; i < LANES; i += 2)
            ck_assert_int_eq(imf_step(m, lanes + i, 2), IMF_OK);
    for (int i = 0; i < LANES; i++) {
        struct imf_lane *alone = start(m, i);
        ck_assert_int_eq(imf_step(m, &alone, 1), IMF_OK);
        ck_assert_int_eq(imf_step(m, &alone, 1), IMF_OK);
        ck_assert_int_eq(imf_decode(m, &lanes[i], 1, away), IMF_OK);
        ck_assert_int_eq(imf_lane_fetch(m, lanes[i]), IMF_OK);
        ck_assert_int_eq(imf_decode(m, &lanes[i], 1, here), IMF_OK);
        ck_assert_mem_eq(away, here, BYTES);
        ck_assert_int_eq(imf_lane_fetch(m, alone), IMF_OK);
        ck_assert_mem_eq(alone->z, lanes[i]->z, alone->z_count * sizeof(float));
        /* Started anew, it is its noise again. */
        ck_assert_int_eq(imf_lane_start(alone, m, 1, 9, &alone->sampling, NULL), IMF_OK);
        ck_assert_int_eq(imf_step(m, &alone, 1), IMF_OK);
        imf_lane_destroy(alone);
    }
    for (int i = 0; i < LANES; i++)
        imf_lane_destroy(lanes[i]);
    free(away);
    free(here);
    imf_model_destroy(m);
    imf_engine_destroy(e);
    remove(path);
    free(path);
}
END_TEST

/* ---- What a file says, and wrong files ---- */

START_TEST(test_defaults)
{
    static const struct {
        const char *name;
        float omega, t_min, t_max, noise_scale;
        uint64_t parameters;
    } published[] = {
        {"pmfDiT_B_16", 7.5f, 0.1f, 0.8f, 1, 0}, {"pmfDiT_L_16", 7.0f, 0.2f, 0.7f, 1, 0},
        {"pmfDiT_H_16", 7.0f, 0.2f, 0.6f, 2, 0}, {"pmfDiT_B_32", 6.5f, 0.1f, 0.7f, 2, 0},
        {"pmfDiT_L_32", 7.5f, 0.2f, 0.6f, 4, 0}, {"pmfDiT_H_32", 5.5f, 0.1f, 0.6f, 4, 0},
    };
    for (size_t i = 0; i < sizeof(published) / sizeof(published[0]); i++) {
        struct imf__meanflow_shape s, slash, dash;
        char name[32];
        ck_assert(imf__meanflow_named(&s, published[i].name));
        snprintf(name, sizeof(name), "pMF-%c/%s", published[i].name[7], published[i].name + 9);
        ck_assert(imf__meanflow_named(&slash, name));
        name[5] = '-';
        ck_assert(imf__meanflow_named(&dash, name));
        ck_assert_str_eq(imf__meanflow_name(&slash), published[i].name);
        ck_assert_str_eq(imf__meanflow_name(&dash), published[i].name);
        struct imf__meanflow_defaults d = imf__meanflow_defaults(&s);
        const struct imf_sampling want = {1, published[i].omega, published[i].t_min,
                                          published[i].t_max};
        ck_assert_mem_eq(&d.sampling, &want, sizeof(want));
        ck_assert(d.noise_scale == published[i].noise_scale);
        s.post_trained = true;
        d = imf__meanflow_defaults(&s);
        ck_assert(d.sampling.omega == (i == 0 ? 8.5f : published[i].omega));
        ck_assert(d.sampling.t_max == (i == 0 ? 0.7f : published[i].t_max));
    }
}
END_TEST

/* tiny, with one tensor (or a new one) of another shape. */
static const struct wrong {
    const char *tensor;
    int ndim;
    int64_t shape[4];
    const char *name; /* metadata, or NULL */
    const char *says;
} wrongs[] = {
    {"net.rope_freqs", 2, {16, 40}, NULL, "\"net.rope_freqs\": expected shape [16, 32]"},
    {"net.rope_freqs", 2, {256, 32}, NULL, "for 16 patches and heads of 64"},
    {"net.x_embedder.proj2.weight",
     4,
     {128, 96, 1, 1},
     NULL,
     "\"net.x_embedder.proj2.weight\": expected shape [128, 128, 1, 1], found [128, 96, 1, 1]"},
    {"net.x_embedder.proj1.bias", 1, {96}, NULL, "expected shape [128], found [96]"},
    {"net.pos_embed", 3, {1, 35, 128}, NULL, "35 positions are no prefix of 20 and a square"},
    {"net.pos_embed", 3, {1, 20, 128}, NULL, "20 positions"},
    {"net.pos_embed", 3, {1, 36, 64}, NULL, "expected shape [1, 36, 128], found [1, 36, 64]"},
    {"net.shared_blocks.0.attn.q_norm.weight", 1, {96}, NULL, "the head size is 96"},
    {"net.shared_blocks.0.attn.q_norm.weight", 1, {80}, NULL, "hidden is 128, must be a multiple"},
    {"net.shared_blocks.1.attn.q_norm.weight", 1, {80}, NULL, "expected shape [64], found [80]"},
    {"net.x_embedder.proj1.weight", 4, {128, 3, 16, 32}, NULL, "expected shape [128, 3, 16, 16]"},
    {"net.x_embedder.proj1.weight", 4, {128, 1, 16, 16}, NULL, "expected shape [256, 128]"},
    {"net.x_embedder.proj1.weight", 4, {128, 3, 65, 65}, NULL, "patch is 65, must be 1 to 64"},
    {NULL, 0, {0}, "pmfDiT_B_16", "says pmfDiT_B_16, but the tensors are those of pmfDiT_d4_h128"},
};

START_TEST(test_wrong_files)
{
    const struct wrong *w = &wrongs[_i];
    struct imf__names names = {0};
    ck_assert_int_eq(imf__meanflow_names(&names, &tiny[0].shape), IMF_OK);
    names.items = realloc(names.items, (names.count + 1) * sizeof(*names.items));
    size_t at = 0;
    while (w->tensor && at < names.count && strcmp(names.items[at].name, w->tensor) != 0)
        at++;
    if (w->tensor) {
        names.count += at == names.count;
        names.items[at] = (struct imf__name){.ndim = w->ndim};
        memcpy(names.items[at].shape, w->shape, sizeof(w->shape));
        snprintf(names.items[at].name, sizeof(names.items[at].name), "%s", w->tensor);
    }
    const char *const metadata[][2] = {{"name", w->name}};
    char *path = golden_synth_with("wrong.safetensors", &names, 21, metadata, w->name != NULL);
    struct imf_engine *e = golden_engine(IMF_PRECISION_FP32);
    struct imf_model *m = NULL;
    struct imf_model_params p;
    struct imf_error err = {0};
    imf_model_params_init(&p);
    p.checkpoint = path;
    ck_assert_int_eq(imf_model_load(&m, e, &p, &err), IMF_EMODEL);
    ck_assert_msg(strstr(err.message, w->says), "\"%s\" says not \"%s\"", err.message, w->says);
    ck_assert_ptr_nonnull(strstr(err.message, "wrong.safetensors"));
    imf_engine_destroy(e);
    remove(path);
    free(path);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pmf");
    TCase *tc = tcase_create("pmf");
    tcase_set_timeout(tc, 1200);
    tcase_add_loop_test(tc, test_tiny, 0, 2);
    tcase_add_test(tc, test_many_lanes);
    tcase_add_test(tc, test_defaults);
    tcase_add_loop_test(tc, test_wrong_files, 0, sizeof(wrongs) / sizeof(wrongs[0]));
    suite_add_tcase(s, tc);
    return golden_main(s);
}
