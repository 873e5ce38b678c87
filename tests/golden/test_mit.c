/* mit_tiny: latents of every published case in both precisions, every file format, and each stage
 * of the network. */
#include "files/checkpoint.h"
#include "files/weights_write.h"
#include "golden.h"
#include "core/model.h"

#include <stdio.h>
#include <string.h>

static const struct mit_case {
    const char *file;
    int n;
    struct golden_sample samples[4];
} cases[] = {
    {"mit_tiny/latents_one_step.npy",
     2,
     {{3, 0, {1, 8.0f, 0.4f, 0.65f}}, {7, 1, {1, 8.0f, 0.4f, 0.65f}}}},
    {"mit_tiny/latents_two_steps.npy",
     3,
     {{0, 5, {2, 4.0f, 0.36f, 0.64f}},
      {9, 6, {2, 4.0f, 0.36f, 0.64f}},
      {10, 42, {2, 4.0f, 0.36f, 0.64f}}}},
    {"mit_tiny/latents_per_sample.npy",
     4,
     {{1, 0, {1, 1.0f, 0.0f, 1.0f}},
      {2, 0, {1, 2.5f, 0.1f, 0.9f}},
      {3, 0, {1, 8.0f, 0.4f, 0.65f}},
      {4, 0, {1, 10.5f, 0.42f, 0.62f}}}},
    {"mit_tiny/latents_five_steps.npy", 1, {{6, 4294967295, {5, 1.5f, 0.0f, 1.0f}}}},
};
#define CASES (sizeof(cases) / sizeof(cases[0]))

static void check_cases(const char *path, enum imf_precision precision, double bound)
{
    char *checkpoint = strdup(path); /* golden_path's buffer serves the references too */
    struct imf_engine *e = golden_engine(precision);
    struct imf_model *m = golden_model(e, checkpoint, "none");
    for (size_t i = 0; i < CASES; i++) {
        struct golden want = golden_read(cases[i].file);
        float *got = golden_latents(m, cases[i].samples, cases[i].n);
        double error = golden_relative_l2(got, want.values, want.count);
        printf("%-34s %s %s %.2e\n", cases[i].file, strrchr(checkpoint, '/') + 1,
               imf_precision_name(precision), error);
        ck_assert_msg(error <= bound, "%s, %s: relative L2 %g, bound %g", cases[i].file, checkpoint,
                      error, bound);
        free(got);
        free(want.values);
    }
    free(checkpoint);
    imf_model_destroy(m);
    imf_engine_destroy(e);
}

START_TEST(test_latents_fp32)
{
    check_cases(golden_path("mit_tiny/mit_tiny.pth"), IMF_PRECISION_FP32, FP32_LATENT_BOUND);
}
END_TEST

START_TEST(test_latents_bf16)
{
    if (!golden_lacks(IMF_PRECISION_BF16))
        check_cases(golden_path("mit_tiny/mit_tiny.pth"), IMF_PRECISION_BF16, BF16_LATENT_BOUND);
}
END_TEST

/* The same weights in every format give the same answers; the 16-bit files to their own rounding.
 */
START_TEST(test_formats)
{
    static const struct {
        const char *name;
        double bound;
    } files[] = {
        {"mit_tiny/mit_tiny.safetensors", FP32_LATENT_BOUND},
        {"mit_tiny/mit_tiny_legacy.pth", FP32_LATENT_BOUND},
        {"mit_tiny/mit_tiny_nested.pth", FP32_LATENT_BOUND},
        {"mit_tiny/mit_tiny_f16.pth", 2e-3},
        {"mit_tiny/mit_tiny_bf16.pth", BF16_LATENT_BOUND},
        {"fdloss/mit_tiny_fdloss.pth", FP32_LATENT_BOUND},
    };
    if (!golden_shared("mit_tiny"))
        printf("../shared is absent: other formats are left to the checkpoint tests\n");
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]) && golden_shared("mit_tiny"); i++) {
        check_cases(golden_shared(files[i].name), IMF_PRECISION_FP32, files[i].bound);
    }
}
END_TEST

/* mit_tiny with every tensor called otherwise: part by part, or behind a prefix. */
static char *respelled(const char *prefix, const char *const (*parts)[2])
{
    struct imf__checkpoint *c = NULL;
    struct imf__names names = {0};
    struct imf__weights_params p = {.names = &names, .type = IMF__STORED_F32};
    struct imf__weights_writer *w = NULL;
    char *path = golden_work("respelled.safetensors");
    ck_assert_int_eq(imf__checkpoint_open(&c, golden_path("mit_tiny/mit_tiny.pth"), NULL, NULL),
                     IMF_OK);
    names.count = imf__checkpoint_count(c);
    names.items = calloc(names.count, sizeof(*names.items));
    for (size_t i = 0; i < names.count; i++) {
        const struct imf__tensor *t = imf__checkpoint_at(c, i);
        struct imf__name *n = &names.items[i];
        *n = (struct imf__name){.ndim = t->ndim};
        memcpy(n->shape, t->shape, sizeof(n->shape));
        const char *const *part = parts[0], *at = NULL, *name = t->name;
        while (part[0] && !(at = strstr(name, part[0])))
            part += 2;
        snprintf(n->name, sizeof(n->name), "%s%.*s%s%s", prefix, (int)(at ? at - name : 0), name,
                 at ? part[1] : "", at ? at + strlen(part[0]) : name);
    }
    ck_assert_int_eq(imf__weights_create(&w, path, &p, NULL), IMF_OK);
    for (size_t i = 0; i < names.count; i++) {
        const struct imf__tensor *t = imf__checkpoint_at(c, i);
        float *values = malloc(t->count * sizeof(float));
        ck_assert_int_eq(imf__checkpoint_read(c, t, values, NULL), IMF_OK);
        ck_assert_int_eq(imf__weights_append(w, values, (size_t)t->count, NULL), IMF_OK);
        free(values);
    }
    ck_assert_int_eq(imf__weights_commit(w, NULL), IMF_OK);
    imf__weights_discard(w);
    imf__names_free(&names);
    imf__checkpoint_close(c);
    return path;
}

/* Names of FD-Loss, of older files, and of what was saved inside its wrappers. */
START_TEST(test_spellings)
{
    static const char *const fdloss[][2] = {
        {"._flax_linear.", ".linear."}, {"._flax_embedding.", ".embedding."}, {NULL, NULL}};
    static const char *const older[][2] = {
        {"attn_scale", "attn_gate"}, {"mlp_scale", "mlp_gate"}, {NULL, NULL}};
    static const char *const wrapped[][2] = {{".mlp.", "._checkpoint_wrapped_module.mlp."},
                                             {".attn.", ".module._orig_mod.attn."},
                                             {NULL, NULL}};
    static const struct {
        const char *prefix;
        const char *const (*parts)[2];
    } ways[] = {{"", fdloss}, {"", older}, {"_fsdp_wrapped_module.", wrapped}, {"module.", fdloss}};
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        char *path = respelled(ways[i].prefix, ways[i].parts);
        check_cases(path, IMF_PRECISION_FP32, FP32_LATENT_BOUND);
        remove(path);
        free(path);
    }
}
END_TEST

/* ---- Stages ---- */

struct stages {
    struct imf__checkpoint *golden;
    struct imf__device *dev;
    struct golden scale[2]; /* block 0's attn_scale, mlp_scale */
    float *previous;        /* the residual stream before the stage, (T, D) */
    size_t n;               /* T D */
    int D, shared_depth, seen;
};

static float *stage_values(struct stages *s, const char *name)
{
    const struct imf__tensor *t = imf__checkpoint_find(s->golden, name);
    float *v = malloc(s->n * sizeof(float));
    ck_assert_msg(t && t->count == s->n, "stage %s is not in the golden file", name);
    ck_assert_int_eq(imf__checkpoint_read(s->golden, t, v, NULL), IMF_OK);
    return v;
}

static void check_stage(struct stages *s, const char *name, const float *got)
{
    float *want = stage_values(s, name);
    double error = golden_relative_l2(got, want, s->n);
    printf("stage %-14s %.2e\n", name, error);
    ck_assert_msg(error <= FP32_LATENT_BOUND, "stage %s: relative L2 %g", name, error);
    free(want);
    s->seen++;
}

/* What a half-block added, before its scale: (x - previous) / scale. */
static void check_branch(struct stages *s, const char *name, const float *x, const float *scale)
{
    float *branch = malloc(s->n * sizeof(float)), *want = stage_values(s, name);
    /* Where the scale is tiny the quotient is all rounding: compare both sides scaled. */
    for (size_t i = 0; i < s->n; i++) {
        branch[i] = x[i] - s->previous[i];
        want[i] *= scale[i % (size_t)s->D];
    }
    double error = golden_relative_l2(branch, want, s->n);
    printf("stage %-14s %.2e\n", name, error);
    ck_assert_msg(error <= FP32_LATENT_BOUND, "stage %s: relative L2 %g", name, error);
    free(branch);
    free(want);
    s->seen++;
}

static imf_status tap(void *user, const char *stage, int layer, const float *x, int B)
{
    struct stages *s = user;
    float *host = malloc(s->n * sizeof(float));
    char name[32];
    (void)B; /* sample 0 is the first of the batch */
    imf_status status = s->dev->ops->download(s->dev, host, x, s->n * sizeof(float));
    if (status == IMF_OK)
        status = s->dev->ops->sync(s->dev);
    ck_assert_int_eq(status, IMF_OK);
    if (strcmp(stage, "sequence") == 0)
        check_stage(s, "sequence", host);
    if (strcmp(stage, "attention") == 0 && layer == 0)
        check_branch(s, "shared_0_attn", host, s->scale[0].values);
    if (strcmp(stage, "block") == 0) {
        if (layer == 0)
            check_branch(s, "shared_0_mlp", host, s->scale[1].values);
        bool shared = layer < s->shared_depth;
        snprintf(name, sizeof(name), "%s_%d", shared ? "shared" : "u",
                 shared ? layer : layer - s->shared_depth);
        check_stage(s, name, host);
    }
    memcpy(s->previous, host, s->n * sizeof(float));
    free(host);
    return IMF_OK;
}

static struct golden read_scale(struct imf__checkpoint *c, const char *name)
{
    const struct imf__tensor *t = imf__checkpoint_find(c, name);
    struct golden g = {malloc(t->count * sizeof(float)), t->count};
    ck_assert_int_eq(imf__checkpoint_read(c, t, g.values, NULL), IMF_OK);
    return g;
}

START_TEST(test_stages)
{
    struct imf_engine *e = golden_engine(IMF_PRECISION_FP32);
    struct imf_model *m = golden_model(e, golden_path("mit_tiny/mit_tiny.pth"), "none");
    struct stages s = {.dev = e->dev,
                       .n = (size_t)m->net.T * (size_t)m->net.D,
                       .D = m->net.D,
                       .shared_depth = m->net.shared_depth};
    struct imf__checkpoint *weights = NULL;
    ck_assert_int_eq(
        imf__checkpoint_open(&weights, golden_path("mit_tiny/mit_tiny.pth"), NULL, NULL), IMF_OK);
    s.scale[0] = read_scale(weights, "net.shared_blocks.0.attn_scale");
    s.scale[1] = read_scale(weights, "net.shared_blocks.0.mlp_scale");
    imf__checkpoint_close(weights);
    ck_assert_int_eq(
        imf__checkpoint_open(&s.golden,
                             golden_path("mit_tiny/activations_one_step_sample0.safetensors"), NULL,
                             NULL),
        IMF_OK);
    s.previous = calloc(s.n, sizeof(float));
    e->dev->eager = true; /* the tap copies to the host, which a graph cannot replay */
    m->net.tap = tap;
    m->net.tap_user = &s;
    free(golden_latents(m, cases[0].samples, cases[0].n));
    ck_assert_int_eq(s.seen, 7); /* sequence, two branches, four blocks */
    imf__checkpoint_close(s.golden);
    free(s.previous);
    free(s.scale[0].values);
    free(s.scale[1].values);
    imf_model_destroy(m);
    imf_engine_destroy(e);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("mit");
    TCase *tc = tcase_create("mit_tiny");
    tcase_set_timeout(tc, 600);
    tcase_add_test(tc, test_latents_fp32);
    tcase_add_test(tc, test_latents_bf16);
    tcase_add_test(tc, test_formats);
    tcase_add_test(tc, test_spellings);
    tcase_add_test(tc, test_stages);
    suite_add_tcase(s, tc);
    return golden_main(s);
}
