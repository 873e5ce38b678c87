/* The products of a transformer block against the hardware's peak, both on the engine's threads and
 * in turn, each product timed right after it has run once: medians of a few rounds, and the best
 * product beside the best peak, which is what an undisturbed machine does. One thread is measured by
 * its own processor time, which other processes disturb least.
 *     bench_products [PRECISION [THREADS [SAMPLES]]] */
#include "core/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 101, TOKENS = 276 };

struct product {
    const char *name;
    int N, K;
    bool swiglu, add;
};

static const struct product products[] = {
    {"B: q, k, v", 2304, 768, false, false},   {"B: attention out", 768, 768, false, true},
    {"B: w1, w3", 2048, 768, true, false},     {"B: w2", 768, 2048, false, true},
    {"XL: q, k, v", 3072, 1024, false, false}, {"XL: attention out", 1024, 1024, false, true},
    {"XL: w1, w3", 2730, 1024, true, false},   {"XL: w2", 1024, 2730, false, true},
};

static double seconds(int threads)
{
    struct timespec t;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void check(imf_status status)
{
    if (status != IMF_OK) {
        fprintf(stderr, "bench_products: %s\n", imf_status_sentence(status));
        exit(1);
    }
}

static void *allocate(struct imf__device *d, size_t bytes)
{
    void *p = NULL;
    check(d->ops->alloc(d, &p, bytes, false));
    return p;
}

static void measure(struct imf__device *d, const struct product *p, int rows)
{
    size_t N = (size_t)p->N, K = (size_t)p->K, M = (size_t)rows;
    struct imf__linear *linear = NULL;
    struct imf__swiglu *swiglu = NULL;
    float *w = malloc(N * K * sizeof(*w));
    double shares[ROUNDS], rates[ROUNDS], peak, best = 0;
    uint32_t seed = 1;
    if (!w)
        check(IMF_ENOMEM);
    for (size_t i = 0; i < N * K; i++) {
        seed = seed * 1664525u + 1013904223u;
        w[i] = (float)(seed >> 8) * 0x1p-23f - 1.0f;
    }
    const size_t bytes = imf__act_bytes(d, M, K), act = imf__act_bytes(d, M, N);
    void *src = allocate(d, bytes);
    for (size_t i = 0; i < bytes; i++) /* zeros would run faster */
        ((uint8_t *)src)[i] = i % 2 ? 0x3F : (uint8_t)(i * 2654435761u >> 24);
    void *dst = allocate(d, act > M * N * sizeof(float) ? act : M * N * sizeof(float));
    if (p->swiglu)
        check(d->ops->swiglu_load(d, &swiglu, w, w, p->N, p->K));
    else
        check(d->ops->linear_load(d, &linear, IMF__ACT, w, NULL, p->N, p->K));
    for (int i = -1; i < ROUNDS; i++) { /* the first prepares */
        d->dry = i < 0;
        check(d->ops->peak_rate(d, &peak));
        double t = 0;
        for (int run = 0; run < 2; run++) { /* the first brings what the peak's loop lost */
            t = seconds(d->info.threads);
            if (p->swiglu)
                check(d->ops->swiglu(d, dst, src, swiglu, rows));
            else
                check(d->ops->linear(d, dst, p->add ? IMF__F32 : IMF__ACT, src, linear, rows,
                                     p->add ? IMF__ADD : IMF__STORE));
            t = seconds(d->info.threads) - t;
        }
        if (i >= 0) {
            rates[i] = 2.0 * (double)M * (double)N * (double)K * (p->swiglu ? 2 : 1) / t;
            shares[i] = rates[i] / peak;
            best = peak > best ? peak : best;
        }
    }
    qsort(shares, ROUNDS, sizeof(*shares), by_value);
    qsort(rates, ROUNDS, sizeof(*rates), by_value);
    printf("%-18s %5d x %4d x %4d  %6.0f  %5.1f %%  %5.1f %%\n", p->name, rows, p->K,
           p->N * (p->swiglu ? 2 : 1), rates[ROUNDS / 2] / 1e9, 100 * shares[ROUNDS / 2],
           100 * rates[ROUNDS - 1] / best);
    d->ops->linear_free(d, linear);
    d->ops->swiglu_free(d, swiglu);
    d->ops->free(d, src);
    d->ops->free(d, dst);
    free(w);
}

int main(int argc, char **argv)
{
    struct imf_engine *e = NULL;
    struct imf_engine_params p;
    struct imf_error err = {0};
    imf_engine_params_init(&p);
    p.device = "cpu";
    p.precision = IMF_PRECISION_BF16;
    if (argc > 1 && !imf_precision_parse(&p.precision, argv[1]))
        return 2;
    p.threads = argc > 2 ? atoi(argv[2]) : 0;
    int samples = argc > 3 ? atoi(argv[3]) : 4;
    if (samples < 1 || imf_engine_create(&e, &p, &err) != IMF_OK) {
        fprintf(stderr, "bench_products: %s\n", err.message);
        return 1;
    }
    printf("%s\n%-18s %5s x    K x    N  GFLOP/s  of peak  at best\n",
           imf_engine_get_info(e)->description, "product", "rows");
    for (size_t i = 0; i < sizeof(products) / sizeof(products[0]); i++)
        measure(imf__engine_device(e), &products[i], samples * TOKENS);
    imf_engine_destroy(e);
    return 0;
}
