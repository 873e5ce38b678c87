/* Choosing cuBLASLt's algorithm for a shape, once, when the first product of the shape is prepared.
 *
 * Of the library's suggestions for many rows the first that suits is the reference: it keeps k
 * whole, and its rows have the same bits among 1, 276 and 4096 rows. Every other suggestion whose
 * bits are the reference's is timed beside it, and the fastest is taken; so is the fastest of those
 * suggested for few rows. What is fastest may differ from start to start, but no bit does.
 *
 * When a model has been planned, its largest number of rows is compared too. Where that adds in
 * another order, or finds no memory, products of so many rows go in pieces of 4096. */
#include "gemm_plan.h"

#include <stdlib.h>
#include <string.h>

enum { SUGGESTIONS = 16, FEW = 276, ONE_BATCH = 1, BATCH = 3 };
/* A device this slow is not worth timing: it is the emulator. */
#define SLOW_SECONDS 0.2

/* Memory for trying a shape: operands and two results. */
struct trial {
    struct cuda_device *c;
    struct cuda_gemm *g;
    char *memory, *A, *B, *D[2];
    char *host; /* two pieces of results */
    int n, batch;
    cudaEvent_t start, stop;
};

static size_t bytes_of(int64_t elements, enum k_type type)
{
    return ((size_t)elements * cuda_type_size(type) + 255) / 256 * 256;
}

static bool batched(const struct cuda_gemm_shape *s)
{
    return s->stride_d != 0;
}

/* Rows of random values, mirrored in the middle, the second half times `sign`. Products of rows of
 * both signs are nothing but what rounding leaves of cancelled sums, so that any other order of
 * summation shows, even in bfloat16 results. Some sixty rows, over and over. */
imf_status cuda_fill_rows(struct cuda_device *c, void *memory, enum k_type type, int64_t row,
                          int64_t rows, float sign)
{
    size_t distinct = rows < 61 ? (size_t)rows : 61, n = (size_t)row, count = distinct * n;
    float *values = malloc(2 * count * sizeof(*values)), *packed = values + count;
    if (!values)
        return IMF_ENOMEM;
    uint32_t state = 1;
    for (size_t r = 0; r < distinct; r++) {
        float *x = values + r * n;
        for (size_t i = 0; i < (n + 1) / 2; i++) {
            state = state * 1664525u + 1013904223u;
            x[i] = (float)(int32_t)state * 0x1p-31f;
            x[n - 1 - i] = sign * x[i];
        }
    }
    cuda_pack(packed, type, values, count);
    size_t bytes = (size_t)(rows * row) * cuda_type_size(type), done = count * cuda_type_size(type);
    imf_status status = cuda_upload(&c->base, memory, packed, done);
    free(values);
    IMF_TRY(status);
    for (; done < bytes; done *= 2) {
        size_t piece = bytes - done < done ? bytes - done : done;
        CUDA_TRY(c, cudaMemcpyAsync((char *)memory + done, memory, piece, cudaMemcpyDeviceToDevice,
                                    c->stream));
    }
    return IMF_OK;
}

static void close_trial(struct trial *t)
{
    if (t->start)
        cudaEventDestroy(t->start);
    if (t->stop)
        cudaEventDestroy(t->stop);
    cudaFree(t->memory);
    free(t->host);
}

/* Rows compared of each result: the first, and the last. */
static int sample_rows(const struct trial *t)
{
    return t->n < FEW ? t->n : FEW;
}

static size_t row_bytes(const struct trial *t)
{
    return (size_t)t->g->shape.m * cuda_type_size(t->g->shape.d);
}

static imf_status open_trial(struct trial *t, struct cuda_device *c, struct cuda_gemm *g, int n,
                             int batch)
{
    const struct cuda_gemm_shape *s = &g->shape;
    *t = (struct trial){.c = c, .g = g, .n = n, .batch = batch};
    size_t a = bytes_of(batched(s) ? s->stride_a * batch : s->lda * (s->a_transposed ? s->m : s->k),
                        s->ab);
    size_t b = bytes_of(batched(s) ? s->stride_b * batch : s->ldb * n, s->ab);
    size_t d = bytes_of(batched(s) ? s->stride_d * batch : s->ldd * n, s->d);
    void *memory = NULL;
    IMF_TRY(cuda_device_malloc(c, &memory, a + b + 2 * d));
    t->memory = t->A = memory;
    t->B = t->A + a;
    t->D[0] = t->B + b;
    t->D[1] = t->D[0] + d;
    t->host = malloc(2 * (size_t)sample_rows(t) * row_bytes(t));
    imf_status status = t->host ? IMF_OK : IMF_ENOMEM;
    int64_t rows_a = s->a_transposed ? s->m : s->k;
    if (status == IMF_OK)
        status = cuda_fill_rows(c, t->A, s->ab, s->lda, batched(s) ? rows_a * batch : rows_a, 1.0f);
    if (status == IMF_OK)
        status = cuda_fill_rows(c, t->B, s->ab, s->ldb, batched(s) ? (int64_t)n * batch : n, -1.0f);
    if (status == IMF_OK)
        CUDA_TRY(c, cudaEventCreate(&t->start));
    if (status == IMF_OK)
        CUDA_TRY(c, cudaEventCreate(&t->stop));
    return status;
}

/* D[which] = the product of n rows, timed. */
static imf_status run(struct trial *t, const cublasLtMatmulAlgo_t *algo, int which, int n,
                      int batch, int repeats, double *seconds)
{
    struct cuda_device *c = t->c;
    const struct cuda_gemm_shape *s = &t->g->shape;
    float ms = 0.0f;
    size_t bytes = bytes_of(batched(s) ? s->stride_d * batch : s->ldd * n, s->d);
    CUDA_TRY(c, cudaMemsetAsync(t->D[which], 0, bytes, c->stream)); /* of products that add */
    CUDA_TRY(c, cudaEventRecord(t->start, c->stream));
    for (int i = 0; i < repeats; i++)
        IMF_TRY(cuda_gemm_run_by(c, t->g, algo, t->D[which], t->A, t->B, n, batch, 1.0f));
    CUDA_TRY(c, cudaEventRecord(t->stop, c->stream));
    CUDA_TRY(c, cudaEventSynchronize(t->stop));
    CUDA_TRY(c, cudaEventElapsedTime(&ms, t->start, t->stop));
    *seconds = (double)ms / 1e3 / repeats;
    return IMF_OK;
}

/* Whether `rows` rows of both results, from row `first` on, have the same bits. */
static imf_status same_rows(struct trial *t, int first, int rows, bool *same)
{
    size_t row = row_bytes(t), at = (size_t)first * row, bytes = (size_t)rows * row;
    char *other = t->host + (size_t)sample_rows(t) * row;
    IMF_TRY(cuda_download(&t->c->base, t->host, t->D[0] + at, bytes));
    IMF_TRY(cuda_download(&t->c->base, other, t->D[1] + at, bytes));
    *same = *same && memcmp(t->host, other, bytes) == 0;
    return IMF_OK;
}

/* Whether rows by `algo`, few at a time, are those of D[0]. */
static imf_status agrees_for_few(struct trial *t, const cublasLtMatmulAlgo_t *algo, bool *agrees)
{
    const int sizes[] = {sample_rows(t), 1};
    double seconds;
    if (batched(&t->g->shape)) {
        IMF_TRY(run(t, algo, 1, t->n, ONE_BATCH, 1, &seconds));
        return same_rows(t, 0, sample_rows(t), agrees);
    }
    for (int i = 0; i < 2 && *agrees; i++) {
        *agrees = cuda_gemm_takes(t->c, t->g, algo, sizes[i], 1);
        if (!*agrees)
            return IMF_OK;
        IMF_TRY(run(t, algo, 1, sizes[i], 1, 1, &seconds));
        IMF_TRY(same_rows(t, 0, sizes[i], agrees));
    }
    return IMF_OK;
}

/* Whether the whole result by `algo` is D[0]; seconds: of the run. */
static imf_status agrees_for_many(struct trial *t, const cublasLtMatmulAlgo_t *algo, bool *agrees,
                                  double *seconds)
{
    *agrees = cuda_gemm_takes(t->c, t->g, algo, t->n, t->batch);
    if (!*agrees)
        return IMF_OK;
    IMF_TRY(run(t, algo, 1, t->n, t->batch, 1, seconds));
    IMF_TRY(same_rows(t, 0, sample_rows(t), agrees));
    IMF_TRY(same_rows(t, t->n - sample_rows(t), sample_rows(t), agrees));
    return agrees_for_few(t, algo, agrees);
}

static bool splits_k(const cublasLtMatmulAlgo_t *algo)
{
    int32_t parts = 1;
    uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
    size_t written;
    if (cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts,
                                             sizeof(parts), &written) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme,
                                             sizeof(scheme), &written) != CUBLAS_STATUS_SUCCESS)
        return true; /* what cannot be asked is not trusted */
    return (parts != 0 && parts != 1) || scheme != CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* The library's suggestions for n rows that keep k whole and take n rows. */
static int suggestions(struct cuda_device *c, struct cuda_gemm *g, int n, int batch,
                       cublasLtMatmulAlgo_t algos[SUGGESTIONS])
{
    cublasLtMatmulHeuristicResult_t found[SUGGESTIONS];
    int count = 0, kept = 0;
    if (cuda_gemm_resize(c, g, n, batch) != IMF_OK ||
        cublasLtMatmulAlgoGetHeuristic(c->lt, g->desc, g->a, g->b, g->d, g->d, c->lt_preference,
                                       SUGGESTIONS, found, &count) != CUBLAS_STATUS_SUCCESS)
        return 0;
    for (int i = 0; i < count; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS && !splits_k(&found[i].algo) &&
            cuda_gemm_takes(c, g, &found[i].algo, n, batch))
            algos[kept++] = found[i].algo;
    return kept;
}

/* Seconds of `algo` for n rows once it is warm. */
static imf_status time_of(struct trial *t, const cublasLtMatmulAlgo_t *algo, int n, double *seconds)
{
    return run(t, algo, 1, n, n == t->n ? t->batch : 1, 10, seconds);
}

/* Of the suggestions that give D[0]'s bits the fastest for n rows; *best is one that does. */
static imf_status fastest(struct trial *t, const cublasLtMatmulAlgo_t *algos, int count, int n,
                          cublasLtMatmulAlgo_t *best)
{
    double least, seconds = 0.0;
    IMF_TRY(time_of(t, best, n, &least));
    for (int i = 0; i < count; i++) {
        bool agrees = true;
        if (memcmp(&algos[i], best, sizeof(*best)) == 0)
            continue;
        IMF_TRY(n == t->n ? agrees_for_many(t, &algos[i], &agrees, &seconds)
                          : agrees_for_few(t, &algos[i], &agrees));
        if (!agrees)
            continue;
        IMF_TRY(time_of(t, &algos[i], n, &seconds));
        if (seconds < least) {
            least = seconds;
            *best = algos[i];
        }
    }
    return IMF_OK;
}

static imf_status choose(struct trial *t, struct cuda_gemm_plan *p)
{
    cublasLtMatmulAlgo_t many[SUGGESTIONS], few[SUGGESTIONS];
    int count = suggestions(t->c, t->g, t->n, t->batch, many);
    double seconds = 0.0;
    for (int i = 0; i < count && !p->usable; i++) {
        p->usable = true;
        IMF_TRY(run(t, &many[i], 0, t->n, t->batch, 1, &seconds));
        IMF_TRY(agrees_for_few(t, &many[i], &p->usable));
        p->many = many[i];
    }
    p->most = t->n;
    if (!p->usable || seconds > SLOW_SECONDS)
        return IMF_OK;
    IMF_TRY(fastest(t, many, count, t->n, &p->many));
    if (batched(&t->g->shape) || t->n <= FEW)
        return IMF_OK;
    p->few = p->many;
    p->few_rows = 2 * FEW;
    count = suggestions(t->c, t->g, FEW, 1, few);
    return fastest(t, few, count, FEW, &p->few);
}

/* ---- The plans of a device ---- */

static imf_status set_preference(struct cuda_device *c, cublasLtMatmulPreferenceAttributes_t which,
                                 uint32_t value)
{
    CUDA_LT_TRY(
        c, cublasLtMatmulPreferenceSetAttribute(c->lt_preference, which, &value, sizeof(value)));
    return IMF_OK;
}

/* Our rows are 256-byte aligned at best and element-aligned at worst: what the leading dimension
 * and the batch stride leave of it. */
static uint32_t alignment_of(int64_t ld, int64_t stride, enum k_type type)
{
    int64_t step = (ld | stride) * (int64_t)cuda_type_size(type) | 256;
    return (uint32_t)(step & -step);
}

static imf_status set_alignment(struct cuda_device *c, const struct cuda_gemm_shape *s)
{
    uint32_t d = alignment_of(s->ldd, s->stride_d, s->d);
    IMF_TRY(set_preference(c, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                           alignment_of(s->lda, s->stride_a, s->ab)));
    IMF_TRY(set_preference(c, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                           alignment_of(s->ldb, s->stride_b, s->ab)));
    IMF_TRY(set_preference(c, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, d));
    return set_preference(c, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, d);
}

static bool same_shape(const struct cuda_gemm_shape *x, const struct cuda_gemm_shape *y)
{
    return x->ab == y->ab && x->d == y->d && x->m == y->m && x->k == y->k && x->n == y->n &&
           x->a_transposed == y->a_transposed && x->lda == y->lda && x->ldb == y->ldb &&
           x->ldd == y->ldd && !x->bias == !y->bias && x->add == y->add &&
           x->stride_a == y->stride_a && x->stride_b == y->stride_b && x->stride_d == y->stride_d;
}

/* Trials run for real also while a model is only being planned. */
static imf_status make(struct cuda_device *c, struct cuda_gemm *g, struct cuda_gemm_plan *p)
{
    struct trial t;
    bool dry = c->base.dry;
    c->base.dry = false;
    imf_status status = set_alignment(c, &g->shape);
    if (status == IMF_OK) {
        status = open_trial(&t, c, g, g->shape.n, batched(&g->shape) ? BATCH : 1);
        if (status == IMF_OK)
            status = choose(&t, p);
        close_trial(&t);
    }
    c->base.dry = dry;
    return status;
}

imf_status cuda_gemm_plan_for(struct cuda_device *c, struct cuda_gemm *g)
{
    for (g->plan = c->gemm_plans; g->plan; g->plan = g->plan->next)
        if (same_shape(&g->plan->shape, &g->shape)) {
            g->plan->shape.bias = g->shape.bias; /* an older one may be gone */
            return IMF_OK;
        }
    struct cuda_gemm_plan *p = calloc(1, sizeof(*p));
    if (!p)
        return IMF_ENOMEM;
    p->shape = g->shape;
    imf_status status = make(c, g, p);
    if (status != IMF_OK) {
        free(p);
        return status;
    }
    p->next = c->gemm_plans;
    c->gemm_plans = g->plan = p;
    return IMF_OK;
}

void cuda_gemm_plans_free(struct cuda_device *c)
{
    while (c->gemm_plans) {
        struct cuda_gemm_plan *p = c->gemm_plans;
        c->gemm_plans = p->next;
        free(p);
    }
}

/* Compares `wanted` rows at once with few: p->most becomes wanted where they agree. */
static imf_status compare_most(struct cuda_device *c, struct cuda_gemm_plan *p)
{
    struct cuda_gemm *g = NULL;
    struct trial t;
    bool agrees = true;
    double seconds;
    IMF_TRY(cuda_gemm_create(c, &g, &p->shape));
    imf_status status = open_trial(&t, c, g, p->wanted, 1);
    if (status == IMF_OK && cuda_gemm_takes(c, g, &p->many, p->wanted, 1)) {
        status = run(&t, &p->many, 0, p->wanted, 1, 1, &seconds);
        if (status == IMF_OK)
            status = agrees_for_few(&t, &p->many, &agrees);
        if (status == IMF_OK && agrees)
            p->most = p->wanted;
    }
    close_trial(&t);
    cuda_gemm_destroy(g);
    p->wanted = 0; /* asked and answered */
    return status == IMF_ENOMEM ? IMF_OK : status;
}

imf_status cuda_gemm_plans_settle(struct cuda_device *c)
{
    for (struct cuda_gemm_plan *p = c->gemm_plans; p; p = p->next)
        if (p->usable && !batched(&p->shape) && p->wanted > p->most)
            IMF_TRY(compare_most(c, p));
    return IMF_OK;
}
