/* Our own bfloat16 products (cpu/gemm), kernel by kernel: each against plain sums, and the tiles of
 * the hardware against their emulation, bit by bit. */
#include "common/bfloat16.h"
#include "cpu/gemm/gemm.h"
#include "run_suite.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shape {
    int rows, N, K;
    enum gemm_epilogue epilogue;
    bool bf16, bias;
};

/* Whole panels, and cut-off ones of every kind. */
static const struct shape shapes[] = {
    {32, 32, 32, GEMM_STORE, false, false}, {64, 96, 256, GEMM_STORE, true, true},
    {276, 64, 768, GEMM_ADD, false, false}, {33, 40, 48, GEMM_STORE, false, true},
    {7, 13, 37, GEMM_SILU, true, true},     {20, 80, 96, GEMM_SILU, false, false},
    {45, 72, 100, GEMM_ADD, false, true},   {50, 48, 64, GEMM_SWIGLU, true, false},
    {1, 11, 341, GEMM_SWIGLU, true, false}, {100, 16, 1000, GEMM_ADD, false, false},
};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

/* Random bfloat16 numbers, among them zeros, denormals and large ones. */
static uint16_t random_half(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    uint32_t r = *seed >> 8;
    if (r % 61 == 0)
        return (uint16_t)(r >> 8 & 0x807F);
    if (r % 67 == 0)
        return (uint16_t)(0x4100 | (r >> 8 & 0x807F));
    return (uint16_t)(0x3E00 + (r >> 4) % 0x180 + (r & 0x8000));
}

struct inputs {
    const struct shape *s;
    uint16_t *x, *a, *b; /* x (rows, K); packed */
    float *w, *w3, *bias, *before;
    size_t panels;
};

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    ck_assert_ptr_nonnull(p);
    return p;
}

static float *random_floats(size_t n, uint32_t seed)
{
    float *x = allocate(n * sizeof(*x));
    for (size_t i = 0; i < n; i++)
        x[i] = imf__from_bf16(random_half(&seed));
    return x;
}

static void make(struct inputs *in, const struct shape *s)
{
    size_t rows = (size_t)s->rows, N = (size_t)s->N, K = (size_t)s->K;
    size_t panel = gemm_packed(1, s->K), row_panels = gemm_panels(s->rows);
    bool pair = s->epilogue == GEMM_SWIGLU;
    uint32_t seed = 9;
    *in = (struct inputs){.s = s, .panels = pair ? (N + 15) / 16 : gemm_panels(s->N)};
    in->x = allocate(rows * K * 2);
    for (size_t i = 0; i < rows * K; i++)
        in->x[i] = random_half(&seed);
    in->w = random_floats(N * K, 1);
    in->w3 = random_floats(N * K, 2);
    in->bias = random_floats(in->panels * GEMM_PANEL, 3);
    in->before = random_floats(rows * N, 4);
    in->a = allocate(row_panels * panel * 2);
    in->b = allocate(in->panels * panel * 2);
    memset(in->a, 0xFF, row_panels * panel * 2); /* NaN where nothing is written */
    for (size_t r = 0; r < rows; r++)
        for (size_t k = 0; k < gemm_steps(s->K) * 32; k++)
            in->a[gemm_place(r, k, gemm_steps(s->K))] = k < K ? in->x[r * K + k] : 0;
    for (size_t p = 0; p < in->panels; p++) {
        const float *from[GEMM_PANEL];
        for (size_t c = 0; c < GEMM_PANEL; c++) {
            size_t width = pair ? 16 : 32, column = p * width + c % width;
            from[c] = column >= N ? NULL : (pair && c >= 16 ? in->w3 : in->w) + column * K;
        }
        imf__gemm_pack_b(in->b + p * panel, from, s->K);
    }
}

static void drop(struct inputs *in)
{
    free(in->x);
    free(in->a);
    free(in->b);
    free(in->w);
    free(in->w3);
    free(in->bias);
    free(in->before);
}

/* The product by a kernel, block by block where `apart`; guarded behind its end. */
static char *multiply(const struct inputs *in, const struct gemm_kernel *k, bool apart)
{
    const struct shape *s = in->s;
    size_t panel = gemm_packed(1, s->K), n = (size_t)s->rows * (size_t)s->N;
    size_t bytes = n * (s->bf16 ? 2 : 4);
    char *dst = allocate(bytes + 64);
    memset(dst, 0xFF, bytes + 64);
    if (s->epilogue == GEMM_ADD)
        memcpy(dst, in->before, bytes);
    struct gemm_out out = {.dst = dst,
                           .bf16 = s->bf16,
                           .stride = (size_t)s->N,
                           .panel = GEMM_PANEL,
                           .columns = s->N,
                           .bias = s->bias ? in->bias : NULL,
                           .epilogue = s->epilogue};
    struct gemm_strip strips[16];
    size_t offsets[64];
    int steps = (int)gemm_steps(s->K), columns = apart ? 1 : (int)in->panels;
    int n_strips = (int)gemm_panels(s->rows), at_once = apart ? 1 : n_strips;
    ck_assert(n_strips <= 16 && steps <= 64);
    for (int i = 0; i < n_strips; i++) {
        int rows = s->rows - i * 32 < 32 ? s->rows - i * 32 : 32;
        strips[i] = (struct gemm_strip){
            .a = (size_t)i * panel, .dst = (size_t)(i * 32 * s->N), .rows = rows};
    }
    for (int i = 0; i < steps; i++)
        offsets[i] = (size_t)i * GEMM_STEP;
    for (int i = 0; i < n_strips; i += at_once) {
        for (int p = 0; p < (int)in->panels; p += columns) {
            struct gemm_job job = {.out = &out,
                                   .strips = strips + i,
                                   .n_strips = at_once,
                                   .a = in->a,
                                   .offsets = offsets,
                                   .row = 32,
                                   .b = in->b + (size_t)p * panel,
                                   .panel_size = panel,
                                   .steps = steps,
                                   .keep = steps / 2,
                                   .panel = p,
                                   .panels = columns};
            k->run(&job);
        }
    }
    for (size_t i = 0; i < 64; i++)
        ck_assert_msg((unsigned char)dst[bytes + i] == 0xFF, "%s wrote behind the end", k->name);
    return dst;
}

static double sum_of(const struct inputs *in, size_t row, const float *w, size_t column)
{
    size_t K = (size_t)in->s->K;
    double sum = 0;
    for (size_t k = 0; k < K; k++) /* the weights are bfloat16 numbers already */
        sum += (double)imf__from_bf16(in->x[row * K + k]) * (double)w[column * K + k];
    return sum;
}

static double expected(const struct inputs *in, size_t row, size_t column)
{
    const struct shape *s = in->s;
    double x = sum_of(in, row, in->w, column) + (s->bias ? (double)in->bias[column] : 0);
    if (s->epilogue == GEMM_SWIGLU)
        return x / (1 + exp(-x)) * sum_of(in, row, in->w3, column);
    if (s->epilogue == GEMM_SILU)
        return x / (1 + exp(-x));
    if (s->epilogue == GEMM_ADD)
        return x + (double)in->before[row * (size_t)s->N + column];
    return x;
}

static void check_values(struct inputs *in, const struct gemm_kernel *k)
{
    const struct shape *s = in->s;
    char *got = multiply(in, k, false), *apart = multiply(in, k, true);
    size_t n = (size_t)s->rows * (size_t)s->N;
    double squares = 0, total = 0;
    for (size_t i = 0; i < n; i++) {
        double want = expected(in, i / (size_t)s->N, i % (size_t)s->N);
        double x =
            s->bf16 ? (double)imf__from_bf16(((uint16_t *)got)[i]) : (double)((float *)got)[i];
        squares += (x - want) * (x - want);
        total += want * want;
    }
    double error = sqrt(squares / total);
    ck_assert_msg(error < (s->bf16 ? 3e-3 : 2e-6), "%s, shape %d: error %g", k->name,
                  (int)(s - shapes), error);
    ck_assert_msg(memcmp(got, apart, n * (s->bf16 ? 2 : 4)) == 0,
                  "%s, shape %d: other bits block by block", k->name, (int)(s - shapes));
    free(got);
    free(apart);
}

static bool has_tiles(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512bf16") && imf__tiles_allowed(NULL);
#else
    return false;
#endif
}

/* Of those that this processor has; the emulation everywhere. */
static void with_each_kernel(struct inputs *in,
                             void (*check)(struct inputs *, const struct gemm_kernel *))
{
    check(in, &imf__gemm_tiles_emulated);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bf16"))
        check(in, &imf__gemm_dot);
    if (has_tiles())
        check(in, &imf__gemm_tiles);
#endif
}

START_TEST(test_values)
{
    struct inputs in;
    make(&in, &shapes[_i]);
    with_each_kernel(&in, check_values);
    drop(&in);
}
END_TEST

/* A sum of nothing and a bias, of any size. */
static void check_silu(struct inputs *in, const struct gemm_kernel *k)
{
    static const double most[] = {3e38, 1e30, 1e4, 200, 100, 90, 88,   87,
                                  70,   65,   64,  63,  20,  1,  1e-3, 1e-30};
    enum { SIZES = sizeof(most) / sizeof(most[0]) };
    for (int i = 0; i < in->s->N; i++)
        in->bias[i] = (float)((i / SIZES % 2 ? -1 : 1) * most[i % SIZES]);
    char *got = multiply(in, k, false);
    for (int i = 0; i < in->s->N; i++) {
        const double x = (double)in->bias[i], want = x / (1 + exp(-x));
        const double y =
            in->s->bf16 ? (double)imf__from_bf16(((uint16_t *)got)[i]) : (double)((float *)got)[i];
        ck_assert_msg(fabs(y - want) <= (in->s->bf16 ? 4.2e-3 : 1e-5) * fabs(want) + 1e-30,
                      "%s: silu(%g) is %g", k->name, x, y);
    }
    free(got);
}

START_TEST(test_silu)
{
    const struct shape s = {1, 32, 32, GEMM_SILU, _i == 1, true};
    struct inputs in;
    make(&in, &s);
    memset(in.a, 0, gemm_packed(1, s.K) * sizeof(*in.a));
    with_each_kernel(&in, check_silu);
    drop(&in);
}
END_TEST

#if defined(__x86_64__)
/* The real tiles, and the same kernels over tiles in plain C: every epilogue, every bit. */
START_TEST(test_emulation)
{
    struct inputs in;
    const struct shape *s = &shapes[_i];
    if (!has_tiles())
        return;
    make(&in, s);
    size_t bytes = (size_t)s->rows * (size_t)s->N * (s->bf16 ? 2 : sizeof(float));
    char *a = multiply(&in, &imf__gemm_tiles, false);
    char *b = multiply(&in, &imf__gemm_tiles_emulated_beside, false);
    ck_assert_mem_eq(a, b, bytes);
    free(a);
    free(b);
    drop(&in);
}
END_TEST
#endif

/* ---- Attention ---- */

/* Random numbers, or k = q or -q and all positions alike: no score can be larger or smaller. */
enum alike { RANDOM, SAME, OPPOSITE };

struct heads {
    int T, NH, HS;
    float norm; /* of q and of k; 0: random, some of them large */
    enum alike alike;
};
static const struct heads heads[] = {
    {1, 1, 64, 0, RANDOM},      {5, 2, 80, 0, RANDOM},       {31, 1, 64, 1, RANDOM},
    {32, 1, 80, 1, RANDOM},     {33, 3, 64, 0, RANDOM},      {80, 2, 80, 0, RANDOM},
    {276, 1, 64, 0, RANDOM},    {276, 2, 80, 0, RANDOM},     {276, 2, 64, 1, RANDOM},
    {276, 1, 80, 1, RANDOM},    {50, 1, 64, 2.3f, SAME},     {50, 1, 64, 2.3f, OPPOSITE},
    {60, 1, 80, 2.1f, SAME},    {60, 1, 80, 2.1f, OPPOSITE}, {50, 1, 64, 1e4f, SAME},
    {50, 1, 80, 1e4f, OPPOSITE}};
enum { HEADS = sizeof(heads) / sizeof(heads[0]) };

struct attention {
    const struct heads *s;
    uint16_t *qkv;
    float *q_norm, *k_norm, *rope;
};

static void make_attention(struct attention *a, const struct heads *s)
{
    size_t width = (size_t)(s->NH * s->HS), n = 3 * width * (size_t)s->T, half = (size_t)s->HS / 2;
    uint32_t seed = 5;
    a->s = s;
    a->qkv = allocate(n * 2);
    for (size_t i = 0; i < n; i++)
        a->qkv[i] = random_half(&seed);
    for (size_t t = 0; s->alike != RANDOM && t < (size_t)s->T; t++) {
        for (size_t i = 0; i < width; i++) {
            uint16_t *q = a->qkv + t * 3 * width + i, x = a->qkv[i];
            q[0] = x;
            q[width] = s->alike == SAME ? x : x ^ 0x8000;
        }
    }
    a->q_norm = random_floats((size_t)s->HS, 6);
    a->k_norm = random_floats((size_t)s->HS, 7);
    for (int i = 0; s->norm > 0 && i < s->HS; i++)
        a->q_norm[i] = a->k_norm[i] = s->norm;
    a->rope = allocate(2 * (size_t)s->T * half * sizeof(float));
    for (size_t i = 0; i < (size_t)s->T * half; i++) {
        double angle = (s->alike == RANDOM ? (double)(i / half) : 0) *
                       pow(10, -3.0 * (double)(i % half) / (double)half);
        a->rope[i] = (float)cos(angle);
        a->rope[(size_t)s->T * half + i] = (float)sin(angle);
    }
}

static void drop_attention(struct attention *a)
{
    free(a->qkv);
    free(a->q_norm);
    free(a->k_norm);
    free(a->rope);
}

/* All heads, from row 9 of their panels on, then row by row; the work memory holds NaN at first, as
 * do rows of others. */
static uint16_t *attend(const struct attention *a, const struct gemm_kernel *k)
{
    enum { FIRST = 9 };
    const struct heads *s = a->s;
    const size_t width = (size_t)(s->NH * s->HS), T = (size_t)s->T, steps = gemm_steps((int)width);
    const size_t panels = gemm_panels(s->T + FIRST), in_steps = gemm_steps((int)(3 * width));
    const size_t in_bytes = gemm_packed(panels, (int)(3 * width)) * 2;
    const size_t packed_bytes = gemm_packed(panels, (int)width) * 2;
    size_t bytes = T * width * 2, work_bytes = k->attention_work(s->T, s->HS);
    uint16_t *qkv = allocate(in_bytes), *packed = allocate(packed_bytes), *dst = allocate(bytes);
    memset(qkv, 0xFF, in_bytes);
    for (size_t i = 0; i < T * 3 * width; i++)
        qkv[gemm_place(FIRST + i / (3 * width), i % (3 * width), in_steps)] = a->qkv[i];
    memset(packed, 0xFF, packed_bytes);
    char *work = allocate(work_bytes);
    memset(work, 0xFF, work_bytes);
    for (int h = 0; h < s->NH; h++)
        k->attention_head(packed, qkv, FIRST, a->q_norm, a->k_norm, a->rope, s->T, s->NH, s->HS, h,
                          work);
    free(work);
    free(qkv);
    for (size_t t = 0; t < T; t++) {
        for (size_t c = 0; c < width; c++)
            dst[t * width + c] = packed[gemm_place(FIRST + t, c, steps)];
        for (size_t c = width; c < steps * 32; c++)
            ck_assert_int_eq(packed[gemm_place(FIRST + t, c, steps)], 0);
    }
    free(packed);
    return dst;
}

/* One row of q or k after norm and rotation. */
static void turned(const struct attention *a, double *y, int t, int head, int which)
{
    const struct heads *s = a->s;
    const size_t width = (size_t)(s->NH * s->HS), half = (size_t)s->HS / 2;
    const uint16_t *x = a->qkv + ((size_t)t * 3 + (size_t)which) * width + (size_t)(head * s->HS);
    const float *norm = which ? a->k_norm : a->q_norm, *cosine = a->rope + (size_t)t * half;
    const float *sine = cosine + (size_t)s->T * half;
    double squares = 0;
    for (int i = 0; i < s->HS; i++)
        squares += (double)imf__from_bf16(x[i]) * (double)imf__from_bf16(x[i]);
    double scale = 1 / sqrt(squares / s->HS + 1e-6);
    for (size_t i = 0; i < half; i++) {
        double p = (double)imf__from_bf16(x[2 * i]) * scale * (double)norm[2 * i];
        double q = (double)imf__from_bf16(x[2 * i + 1]) * scale * (double)norm[2 * i + 1];
        y[2 * i] = p * (double)cosine[i] - q * (double)sine[i];
        y[2 * i + 1] = p * (double)sine[i] + q * (double)cosine[i];
    }
}

static double attention_error(const struct attention *a, const uint16_t *got)
{
    const struct heads *s = a->s;
    const size_t T = (size_t)s->T, HS = (size_t)s->HS, width = (size_t)(s->NH * s->HS);
    double *k = allocate(T * HS * sizeof(*k)), *p = allocate(T * sizeof(*p)), q[80];
    double wrong = 0, all = 0;
    for (int h = 0; h < s->NH; h++) {
        for (size_t t = 0; t < T; t++)
            turned(a, k + t * HS, (int)t, h, 1);
        for (size_t t = 0; t < T; t++) {
            double most = -INFINITY, sum = 0;
            turned(a, q, (int)t, h, 0);
            for (size_t j = 0; j < T; j++) {
                p[j] = 0;
                for (size_t i = 0; i < HS; i++)
                    p[j] += q[i] * k[j * HS + i] / sqrt((double)HS);
                most = p[j] > most ? p[j] : most;
            }
            for (size_t j = 0; j < T; j++)
                sum += p[j] = exp(p[j] - most);
            for (size_t i = 0; i < HS; i++) {
                double want = 0, is;
                for (size_t j = 0; j < T; j++)
                    want +=
                        p[j] / sum *
                        (double)imf__from_bf16(a->qkv[(j * 3 + 2) * width + (size_t)h * HS + i]);
                is = (double)imf__from_bf16(got[t * width + (size_t)h * HS + i]);
                wrong += (is - want) * (is - want);
                all += want * want;
            }
        }
    }
    free(k);
    free(p);
    return sqrt(wrong / all);
}

static void check_attention(const struct attention *a, const struct gemm_kernel *k)
{
    uint16_t *got = attend(a, k);
    double error = attention_error(a, got);
    ck_assert_msg(error < 2e-2, "%s, T %d, head size %d: error %g", k->name, a->s->T, a->s->HS,
                  error);
    free(got);
}

START_TEST(test_attention)
{
    struct attention a;
    make_attention(&a, &heads[_i]);
    check_attention(&a, &imf__gemm_tiles_emulated);
#if defined(__x86_64__)
    if (has_tiles()) {
        const struct heads *s = a.s;
        check_attention(&a, &imf__gemm_tiles);
        uint16_t *x = attend(&a, &imf__gemm_tiles);
        uint16_t *y = attend(&a, &imf__gemm_tiles_emulated_beside);
        ck_assert_mem_eq(x, y, (size_t)(s->T * s->NH * s->HS) * 2);
        free(x);
        free(y);
    }
#endif
    drop_attention(&a);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gemm");
    TCase *tc = tcase_create("kernels");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, test_values, 0, SHAPES);
    tcase_add_loop_test(tc, test_silu, 0, 2);
    tcase_add_loop_test(tc, test_attention, 0, HEADS);
#if defined(__x86_64__)
    tcase_add_loop_test(tc, test_emulation, 0, SHAPES);
    printf("tiles: %s\n", has_tiles() ? "hardware and emulation" : "emulation only");
#endif
    suite_add_tcase(suite, tc);
    return run_suite(suite, CK_FORK_GETENV);
}
