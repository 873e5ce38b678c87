/* A row's bits are the same among any number of rows, at any place, for any number of threads: the
 * products of tests/ops at up to 1104 rows, which is four samples of 276 tokens, and the attention
 * of the sd-vae. */
#include "core/engine.h"
#include "reference/op_run.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 1104 };

struct product {
    int N, K;
    bool swiglu, bias;
    enum imf__epilogue epilogue;
};

/* B's matrices, ends of the network, and sizes that no vector divides. */
static const struct product products[] = {
    {.N = 2304, .K = 768},
    {.N = 768, .K = 768, .epilogue = IMF__ADD},
    {.N = 2048, .K = 768, .swiglu = true},
    {.N = 768, .K = 2048, .epilogue = IMF__ADD},
    {.N = 768, .K = 256, .bias = true, .epilogue = IMF__SILU},
    {.N = 16, .K = 768, .bias = true},
    {.N = 341, .K = 128, .swiglu = true},
    {.N = 128, .K = 341, .epilogue = IMF__ADD},
    {.N = 13, .K = 37, .bias = true, .epilogue = IMF__SILU},
};
enum { PRODUCTS = sizeof(products) / sizeof(products[0]) };

static const int row_counts[] = {1, 3, 96, 276, 552, 829, 1103, ROWS};
static const enum imf_precision precisions[] = {IMF_PRECISION_FP32, IMF_PRECISION_BF16};

static float *random_floats(size_t n, uint32_t seed)
{
    float *x = malloc(n * sizeof(float));
    ck_assert_ptr_nonnull(x);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) * 0x1p-23f - 1.0f;
    }
    return x;
}

static void *allocate(struct imf__device *d, size_t bytes)
{
    void *p = NULL;
    ck_assert_int_eq(d->ops->alloc(d, &p, bytes, false), IMF_OK);
    return p;
}

static void *on_device(struct imf__device *d, const float *x, size_t n)
{
    void *p = allocate(d, n * sizeof(*x));
    ck_assert_int_eq(d->ops->upload(d, p, x, n * sizeof(*x)), IMF_OK);
    return p;
}

/* A product on its device, with inputs for ROWS rows. */
struct bench {
    struct imf_engine *engine;
    struct imf__device *d;
    const struct product *p;
    struct imf__linear *linear;
    struct imf__swiglu *swiglu;
    float *src, *sum; /* on the host; sum: what IMF__ADD adds to */
};

/* False where the device has not this precision. */
static bool bench_open(struct bench *b, const struct product *p, enum imf_precision precision,
                       int threads)
{
    struct imf_engine_params params;
    size_t N = (size_t)p->N, K = (size_t)p->K;
    imf_engine_params_init(&params);
    params.device = "cpu";
    params.precision = precision;
    params.threads = threads;
    *b = (struct bench){.p = p};
    imf_status status = imf_engine_create(&b->engine, &params, NULL);
    if (status == IMF_EUNSUPPORTED && precision == IMF_PRECISION_BF16)
        return false;
    ck_assert_int_eq(status, IMF_OK);
    b->d = imf__engine_device(b->engine);
    b->src = random_floats(ROWS * K, 1);
    b->sum = random_floats(ROWS * N, 2);
    float *w = random_floats(N * K, 3), *w3 = random_floats(N * K, 4), *bias = random_floats(N, 5);
    if (p->swiglu)
        ck_assert_int_eq(b->d->ops->swiglu_load(b->d, &b->swiglu, w, w3, p->N, p->K), IMF_OK);
    else
        ck_assert_int_eq(b->d->ops->linear_load(b->d, &b->linear, IMF__ACT, w,
                                                p->bias ? bias : NULL, p->N, p->K),
                         IMF_OK);
    free(bias);
    free(w3);
    free(w);
    return true;
}

static void bench_close(struct bench *b)
{
    b->d->ops->linear_free(b->d, b->linear);
    b->d->ops->swiglu_free(b->d, b->swiglu);
    imf_engine_destroy(b->engine);
    free(b->src);
    free(b->sum);
}

static enum imf__dtype dst_type(const struct bench *b)
{
    return b->p->epilogue == IMF__ADD ? IMF__F32 : IMF__ACT;
}

/* Of a result, as results() gives it. */
static size_t row_bytes(const struct bench *b)
{
    const bool plain = dst_type(b) == IMF__ACT && !b->d->ops->act_bytes;
    return (size_t)b->p->N * (plain ? b->d->act_size : sizeof(float));
}

static void multiply(struct bench *b, void *dst, const void *src, int rows)
{
    for (int dry = 1; dry >= 0; dry--) {
        b->d->dry = dry;
        ck_assert_int_eq(b->p->swiglu ? b->d->ops->swiglu(b->d, dst, src, b->swiglu, rows)
                                      : b->d->ops->linear(b->d, dst, dst_type(b), src, b->linear,
                                                          rows, b->p->epilogue),
                         IMF_OK);
    }
}

/* The results of `rows` rows from row `at` on, as if there were no others; malloc'ed. */
static char *results(struct bench *b, int at, int rows)
{
    const size_t N = (size_t)b->p->N, K = (size_t)b->p->K, n = (size_t)rows;
    const enum imf__dtype type = dst_type(b);
    void *src = allocate(b->d, imf__act_bytes(b->d, n, K));
    ck_assert_int_eq(imf__act_put(b->d, src, b->src + (size_t)at * K, n, K), IMF_OK);
    void *dst = type == IMF__ACT ? allocate(b->d, imf__act_bytes(b->d, n, N))
                                 : on_device(b->d, b->sum + (size_t)at * N, n * N);
    char *out = malloc(n * N * sizeof(float));
    ck_assert_ptr_nonnull(out);
    multiply(b, dst, src, rows);
    if (type == IMF__ACT && b->d->ops->act_bytes)
        ck_assert_int_eq(imf__act_get(b->d, (float *)out, dst, n, N), IMF_OK);
    else
        ck_assert_int_eq(b->d->ops->download(b->d, out, dst, n * row_bytes(b)), IMF_OK);
    b->d->ops->free(b->d, src);
    b->d->ops->free(b->d, dst);
    return out;
}

static void check_rows(struct bench *b, const char *all, int at, int rows, int threads)
{
    char *got = results(b, at, rows);
    size_t row = row_bytes(b);
    ck_assert_msg(memcmp(got, all + (size_t)at * row, (size_t)rows * row) == 0,
                  "N %d, K %d, %d threads: other bits in rows %d to %d by themselves", b->p->N,
                  b->p->K, threads, at, at + rows - 1);
    free(got);
}

START_TEST(test_rows)
{
    struct bench b;
    char *all = NULL;
    const struct product *p = &products[_i % PRODUCTS];
    for (int threads = 1; threads <= 3; threads++) {
        if (!bench_open(&b, p, precisions[_i / PRODUCTS], threads)) {
            printf("no bfloat16 here: left out\n");
            return;
        }
        if (!all)
            all = results(&b, 0, ROWS);
        for (size_t i = 0; i < sizeof(row_counts) / sizeof(row_counts[0]); i++) {
            int rows = row_counts[i], last = ROWS - rows;
            check_rows(&b, all, 0, rows, threads);
            check_rows(&b, all, last < 5 ? last : 5, rows, threads);
            check_rows(&b, all, last, rows, threads);
        }
        bench_close(&b);
    }
    free(all);
}
END_TEST

/* The sd-vae's attention: the same bits for any number of threads, and for a sample among others.
 */
START_TEST(test_attention)
{
    static const int sizes[][2] = {{64, 32}, {49, 40}, {1024, 512}};
    int T = sizes[_i][0], C = sizes[_i][1];
    size_t n = (size_t)T * (size_t)C;
    float *first = NULL, *got = calloc(2 * n, sizeof(float));
    ck_assert_ptr_nonnull(got);
    for (int threads = 1; threads <= 3; threads++) {
        struct bench b;
        bench_open(&b, &products[PRODUCTS - 1], IMF_PRECISION_FP32, threads);
        float *dst = on_device(b.d, got, 2 * n), *x[3]; /* q, k, v */
        for (uint32_t i = 0; i < 3; i++) {
            float *host = random_floats(2 * n, i);
            memcpy(host + n, host, n * sizeof(float)); /* the second sample is the first again */
            x[i] = on_device(b.d, host, 2 * n);
            free(host);
        }
        for (int dry = 1; dry >= 0; dry--) {
            b.d->dry = dry;
            ck_assert_int_eq(b.d->ops->attention_single(b.d, dst, x[0], x[1], x[2], 2, T, C),
                             IMF_OK);
        }
        ck_assert_int_eq(b.d->ops->download(b.d, got, dst, 2 * n * sizeof(float)), IMF_OK);
        ck_assert_mem_eq(got, got + n, n * sizeof(float));
        if (!first) {
            first = malloc(n * sizeof(float));
            ck_assert_ptr_nonnull(first);
            memcpy(first, got, n * sizeof(float));
        }
        ck_assert_msg(memcmp(got, first, n * sizeof(float)) == 0, "T %d, C %d: %d threads", T, C,
                      threads);
        for (int i = 0; i < 3; i++)
            b.d->ops->free(b.d, x[i]);
        b.d->ops->free(b.d, dst);
        bench_close(&b);
    }
    free(first);
    free(got);
}
END_TEST

/* The same over a picture's pixels, whose runs are shared out differently for each number. */
START_TEST(test_attention_picture)
{
    static const int sizes[][3] = {{32, 32, 512}, {9, 40, 64}, {7, 5, 32}};
    const int h = sizes[_i][0], w = sizes[_i][1], C = sizes[_i][2];
    const size_t n = (size_t)(h * w * C);
    float *first = malloc(2 * n * sizeof(float)), *got = calloc(2 * n, sizeof(float));
    float *host = random_floats(2 * 3 * n, 1);
    ck_assert(first && got);
    memcpy(host + 3 * n, host, 3 * n * sizeof(float)); /* the second sample is the first again */
    for (int threads = 1; threads <= 5; threads++) {
        struct bench b;
        if (!bench_open(&b, &products[PRODUCTS - 1], IMF_PRECISION_BF16, threads))
            break; /* no AVX-512 */
        struct imf__image qkv = {.n = 2, .h = h, .w = w, .c = 3 * C}, dst = qkv;
        dst.c = C;
        qkv.data = allocate(b.d, b.d->ops->image_bytes(b.d, &qkv));
        dst.data = allocate(b.d, b.d->ops->image_bytes(b.d, &dst));
        float *x = on_device(b.d, host, 2 * 3 * n), *y = on_device(b.d, got, 2 * n);
        ck_assert_int_eq(b.d->ops->tokens_to_image(b.d, &qkv, x, false), IMF_OK);
        for (int dry = 1; dry >= 0 && b.d->attends_pictures; dry--) {
            b.d->dry = dry;
            ck_assert_int_eq(b.d->ops->attention_picture(b.d, &dst, &qkv), IMF_OK);
        }
        ck_assert_int_eq(b.d->ops->image_to_tokens(b.d, y, &dst), IMF_OK);
        ck_assert_int_eq(b.d->ops->download(b.d, got, y, 2 * n * sizeof(float)), IMF_OK);
        ck_assert_mem_eq(got, got + n, n * sizeof(float));
        if (threads == 1)
            memcpy(first, got, 2 * n * sizeof(float));
        ck_assert_msg(memcmp(got, first, n * sizeof(float)) == 0, "%d threads", threads);
        b.d->ops->free(b.d, x);
        b.d->ops->free(b.d, y);
        b.d->ops->free(b.d, qkv.data);
        b.d->ops->free(b.d, dst.data);
        bench_close(&b);
    }
    free(first);
    free(got);
    free(host);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rows");
    TCase *tc = tcase_create("invariance");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, test_rows, 0, 2 * PRODUCTS);
    tcase_add_loop_test(tc, test_attention, 0, 3);
    tcase_add_loop_test(tc, test_attention_picture, 0, 3);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
