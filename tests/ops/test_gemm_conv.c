/* Our own convolutions' jobs (cpu/gemm), kernel by kernel: pixels with residual and ReLU, the sums for
 * a GroupNorm, and the pixels that are normalised meanwhile; each against plain sums, and the tiles of
 * the hardware against their emulation, bit by bit. */
#include "common/bfloat16.h"
#include "cpu/gemm/gemm.h"
#include "run_suite.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 3x3, of a picture of 3 x 44 pixels: a whole strip and one of 12 in each row. */
enum {
    IN = 2, /* blocks of 32 channels */
    OUT = 3,
    H = 3,
    W = 44,
    BORDER = 3,
    ROW = (W + 2 * BORDER) * 32,
    PLANE = ROW * (H + 2 * BORDER),
    SLACK = 64 * 32, /* tiles are read past the last row's end */
    STEPS = 9 * IN,
    SUMS_ROW = 2 * OUT * 32,
    FED = 20, /* pixels */
    FED_GAP = 5 * 32,
    FED_PLANE = FED * 32 + FED_GAP
};

struct kind {
    bool residual, relu, sums, feed;
};
static const struct kind kinds[] = {
    {false, false, false, false}, {true, false, true, false}, {false, true, true, true},
    {true, true, false, true},    {true, true, true, true},
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

struct inputs {
    uint16_t *src, *residual, *b, *raw;
    float *w, bias[OUT * 32], scale[IN * 32], shift[IN * 32];
    struct gemm_strip strips[2 * H];
    size_t offsets[STEPS];
};

struct result {
    uint16_t dst[OUT * PLANE], fed[IN * FED_PLANE];
    float sums[H * SUMS_ROW];
};

static uint16_t random_half(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    uint32_t r = *seed >> 8;
    return (uint16_t)(0x3D00 + (r >> 4) % 0x280 + (r & 0x8000));
}

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    ck_assert_ptr_nonnull(p);
    memset(p, 0, bytes);
    return p;
}

static size_t pixel(int block, int y, int x)
{
    return (size_t)block * PLANE + (size_t)((y + BORDER) * ROW + (x + BORDER) * 32);
}

static uint16_t *random_picture(int blocks, uint32_t seed)
{
    uint16_t *p = allocate(((size_t)blocks * PLANE + SLACK) * 2);
    for (int b = 0; b < blocks; b++)
        for (int y = 0; y < H; y++)
            for (int x = 0; x < W; x++)
                for (size_t c = 0; c < 32; c++)
                    p[pixel(b, y, x) + c] = random_half(&seed);
    return p;
}

/* Weight of output channel o, step s (blocks, taps), input channel c of the block. */
static float *weight_of(const struct inputs *in, int o, int s, int c)
{
    return &in->w[((size_t)o * STEPS + (size_t)s) * 32 + (size_t)c];
}

static void make(struct inputs *in)
{
    uint32_t seed = 5;
    in->src = random_picture(IN, 1);
    in->residual = random_picture(OUT, 2);
    in->raw = allocate(IN * FED_PLANE * 2);
    for (int i = 0; i < IN * FED_PLANE; i++)
        in->raw[i] = random_half(&seed);
    in->w = allocate((size_t)OUT * 32 * STEPS * 32 * sizeof(float));
    for (int i = 0; i < OUT * 32 * STEPS * 32; i++)
        in->w[i] = imf__from_bf16(random_half(&seed)) / 16;
    for (int i = 0; i < OUT * 32; i++)
        in->bias[i] = imf__from_bf16(random_half(&seed));
    for (int i = 0; i < IN * 32; i++) {
        in->scale[i] = imf__from_bf16(random_half(&seed));
        in->shift[i] = imf__from_bf16(random_half(&seed));
    }
    in->b = allocate(gemm_packed(OUT, STEPS * 32) * 2);
    for (int p = 0; p < OUT; p++) {
        const float *from[GEMM_PANEL];
        for (int c = 0; c < GEMM_PANEL; c++)
            from[c] = weight_of(in, p * 32 + c, 0, 0);
        imf__gemm_pack_b(in->b + (size_t)p * gemm_packed(1, STEPS * 32), from, STEPS * 32);
    }
    for (int s = 0; s < STEPS; s++)
        in->offsets[s] = (size_t)(s / 9 * PLANE + s % 9 / 3 * ROW + s % 3 * 32);
    for (int i = 0; i < 2 * H; i++) {
        struct gemm_strip *s = &in->strips[i];
        *s = (struct gemm_strip){.a = (size_t)(i / 2 * ROW + i % 2 * 32 * 32),
                                 .rows = i % 2 ? W - 32 : 32,
                                 .goes_on = i % 2,
                                 .sums = (size_t)(i / 2 * SUMS_ROW)};
        s->dst = s->a;
    }
}

static void drop(struct inputs *in)
{
    free(in->src);
    free(in->residual);
    free(in->raw);
    free(in->b);
    free(in->w);
}

/* By a kernel, every strip and panel in a job of its own where `apart`. */
static struct result *convolve(const struct inputs *in, const struct kind *kind,
                               const struct gemm_kernel *k, bool apart)
{
    struct result *r = allocate(sizeof(*r));
    memset(r, 0xFF, sizeof(*r)); /* NaN where nothing is written */
    const size_t first = pixel(0, 0, 0);
    const struct gemm_out out = {.dst = r->dst + first,
                                 .bf16 = true,
                                 .stride = 32,
                                 .panel = PLANE,
                                 .columns = OUT * 32,
                                 .bias = in->bias,
                                 .residual = kind->residual ? in->residual + first : NULL,
                                 .relu = kind->relu,
                                 .sums = kind->sums ? r->sums : NULL,
                                 .squares = SUMS_ROW / 2,
                                 .epilogue = GEMM_CONV};
    const struct gemm_feed feed = {.src = in->raw,
                                   .dst = r->fed,
                                   .a = in->scale,
                                   .b = in->shift,
                                   .planes = IN,
                                   .pixels = FED,
                                   .src_gap = FED_GAP,
                                   .dst_gap = FED_GAP,
                                   .step = 1,
                                   .silu = true};
    const int strips = apart ? 1 : 2 * H, panels = apart ? 1 : OUT;
    for (int i = 0; i < 2 * H; i += strips) {
        for (int p = 0; p < OUT; p += panels) {
            const struct gemm_job job = {.out = &out,
                                         .strips = in->strips + i,
                                         .n_strips = strips,
                                         .a = in->src + pixel(0, -1, -1),
                                         .offsets = in->offsets,
                                         .row = 32,
                                         .b = in->b + (size_t)p * gemm_packed(1, STEPS * 32),
                                         .panel_size = (size_t)STEPS * GEMM_STEP,
                                         .steps = STEPS,
                                         .keep = STEPS,
                                         .panel = p,
                                         .panels = panels,
                                         .feed = kind->feed && i + p == 0 ? &feed : NULL};
            k->run(&job);
        }
    }
    return r;
}

static double expected(const struct inputs *in, const struct kind *kind, int o, int y, int x)
{
    double sum = (double)in->bias[o];
    for (int s = 0; s < STEPS; s++)
        for (int c = 0; c < 32; c++)
            sum += (double)*weight_of(in, o, s, c) *
                   (double)imf__from_bf16(
                       in->src[pixel(s / 9, y - 1 + s % 9 / 3, x - 1 + s % 3) + (size_t)c]);
    if (kind->residual)
        sum += (double)imf__from_bf16(in->residual[pixel(o / 32, y, x) + (size_t)o % 32]);
    return kind->relu && sum < 0 ? 0 : sum;
}

static void check_close(const char *what, const char *kernel, double got, double want, double scale)
{
    ck_assert_msg(fabs(got - want) <= scale, "%s: %s is %g, not %g", kernel, what, got, want);
}

static void check_pixels(const struct inputs *in, const struct kind *kind, const struct result *r,
                         const char *name)
{
    for (int o = 0; o < OUT * 32; o++) {
        for (int y = 0; y < H; y++) {
            double sum = 0, squares = 0;
            for (int x = 0; x < W; x++) {
                double want = expected(in, kind, o, y, x);
                sum += want;
                squares += want * want;
                check_close("a pixel", name,
                            (double)imf__from_bf16(r->dst[pixel(o / 32, y, x) + (size_t)o % 32]),
                            want, fabs(want) / 200 + 1e-3);
            }
            const float *sums = r->sums + (size_t)y * SUMS_ROW + o;
            if (!kind->sums)
                continue;
            check_close("a sum", name, (double)sums[0], sum, 1e-2);
            check_close("a sum of squares", name, (double)sums[SUMS_ROW / 2], squares,
                        squares * 1e-4 + 1e-3);
        }
    }
    for (int p = 0; p < OUT; p++) { /* the border is not the kernel's */
        ck_assert_uint_eq(r->dst[pixel(p, -1, 0)], 0xFFFF);
        ck_assert_uint_eq(r->dst[pixel(p, 0, -1) + 31], 0xFFFF);
        ck_assert_uint_eq(r->dst[pixel(p, H - 1, W)], 0xFFFF);
    }
}

static void check_fed(const struct inputs *in, const struct result *r, const char *name)
{
    for (int b = 0; b < IN; b++) {
        for (int i = 0; i < FED * 32; i++) {
            const int c = b * 32 + i % 32;
            double x = (double)imf__from_bf16(in->raw[b * FED_PLANE + i]) * (double)in->scale[c] +
                       (double)in->shift[c];
            double want = x / (1 + exp(-x));
            check_close("a normalised pixel", name,
                        (double)imf__from_bf16(r->fed[b * FED_PLANE + i]), want,
                        fabs(want) / 200 + 1e-4);
        }
        ck_assert_uint_eq(r->fed[b * FED_PLANE + FED * 32], 0xFFFF);
    }
}

static void check_kernel(const struct inputs *in, const struct kind *kind,
                         const struct gemm_kernel *k)
{
    struct result *whole = convolve(in, kind, k, false), *apart = convolve(in, kind, k, true);
    check_pixels(in, kind, whole, k->name);
    if (kind->feed)
        check_fed(in, whole, k->name);
    ck_assert_msg(memcmp(whole, apart, sizeof(*whole)) == 0, "%s: other bits block by block",
                  k->name);
    free(whole);
    free(apart);
}

static bool has_dot(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

static bool has_tiles(void)
{
    return has_dot() && imf__tiles_allowed(NULL);
}

START_TEST(test_values)
{
    struct inputs in;
    make(&in);
    check_kernel(&in, &kinds[_i], &imf__gemm_tiles_emulated);
#if defined(__x86_64__)
    if (has_dot())
        check_kernel(&in, &kinds[_i], &imf__gemm_dot);
    if (has_tiles())
        check_kernel(&in, &kinds[_i], &imf__gemm_tiles);
#endif
    drop(&in);
}
END_TEST

#if defined(__x86_64__)
START_TEST(test_hardware_is_its_emulation)
{
    struct inputs in;
    if (!has_tiles())
        return;
    make(&in);
    struct result *a = convolve(&in, &kinds[_i], &imf__gemm_tiles, false);
    struct result *b = convolve(&in, &kinds[_i], &imf__gemm_tiles_emulated_beside, false);
    ck_assert_mem_eq(a->dst, b->dst, sizeof(a->dst));
    ck_assert_mem_eq(a->sums, b->sums, sizeof(a->sums));
    ck_assert_mem_eq(a->fed, b->fed, sizeof(a->fed));
    free(a);
    free(b);
    drop(&in);
}
END_TEST
#endif

int main(void)
{
    Suite *suite = suite_create("gemm_conv");
    TCase *tc = tcase_create("kernels");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, test_values, 0, KINDS);
#if defined(__x86_64__)
    tcase_add_loop_test(tc, test_hardware_is_its_emulation, 0, KINDS);
    printf("tiles: %s\n", has_tiles() ? "hardware and emulation" : "emulation only");
#endif
    suite_add_tcase(suite, tc);
    return run_suite(suite, CK_FORK_GETENV);
}
