/* Packing weights, and sharing a product out to threads (gemm_multiply.h). Tasks are blocks of columns
 * times blocks of rows; whichever thread takes one, its bits are the same. */
#include "cpu/gemm_multiply.h"
#include "common/error.h"

#include <stdlib.h>
#include <string.h>

struct gemm_matrix {
    int N, K;
    size_t panels;
    uint16_t *data;
    float *bias; /* padded to whole panels, or NULL */
};

static imf_status pack(struct gemm_matrix *m, const float *weight, const float *other)
{
    const size_t size = gemm_packed(1, m->K), K = (size_t)m->K;
    const size_t width = other ? GEMM_PANEL / 2 : GEMM_PANEL;
#pragma omp parallel for schedule(static)
    for (size_t p = 0; p < m->panels; p++) {
        const float *from[GEMM_PANEL];
        for (size_t c = 0; c < GEMM_PANEL; c++) {
            size_t column = p * width + c % width;
            from[c] = column >= (size_t)m->N ? NULL : (c < width ? weight : other) + column * K;
        }
        imf__gemm_pack_b(m->data + p * size, from, m->K);
    }
    return IMF_OK;
}

struct gemm_matrix *imf__gemm_matrix_create(struct cpu_device *cpu, const float *weight,
                                            const float *other, const float *bias, int N, int K)
{
    struct gemm_matrix *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->N = N;
    m->K = K;
    m->panels = other ? 2 * gemm_panels(N) : gemm_panels(N);
    size_t bytes = gemm_packed(m->panels, K) * sizeof(*m->data);
    size_t bias_bytes = m->panels * GEMM_PANEL * sizeof(float);
    m->data = cpu_weights_alloc(bytes);
    if (bias)
        m->bias = cpu_memory_alloc(bias_bytes);
    if (!m->data || (bias && !m->bias)) {
        imf__gemm_matrix_free(m);
        return NULL;
    }
    pack(m, weight, other);
    if (bias)
        memcpy(m->bias, bias, (size_t)N * sizeof(float));
    cpu->base.weights_bytes += bytes + (bias ? bias_bytes : 0);
    return m;
}

void imf__gemm_matrix_free(struct gemm_matrix *m)
{
    if (!m)
        return;
    cpu_weights_free(m->data);
    free(m->bias);
    free(m);
}

/* ---- Sharing out ---- */

/* Blocks of A and B that stay in the second-level cache together with B's next. */
#define A_BYTES (800 << 10)
#define B_BYTES (200 << 10)
#define TASKS_A_THREAD 6
/* Of K at once, where results are added anyway: with more, few rows stay in the cache, and B comes
 * from memory again for each few. */
#define MOST_STEPS 64

static int ceil_div(int n, int by)
{
    return (n + by - 1) / by;
}

static int within(int n, int most)
{
    return n < 1 ? 1 : n > most ? most : n;
}

struct gemm_tasks imf__gemm_tasks(int panels, int strips, size_t panel_bytes, int threads)
{
    struct gemm_tasks t = {.rows = within((int)(A_BYTES / panel_bytes), strips),
                           .columns = within((int)(B_BYTES / panel_bytes), panels)};
    t.rows = ceil_div(strips, ceil_div(strips, t.rows));
    for (;;) {
        t.column_tasks = ceil_div(panels, t.columns);
        t.row_tasks = ceil_div(strips, t.rows);
        if (t.column_tasks * t.row_tasks >= TASKS_A_THREAD * threads || threads == 1)
            return t;
        if (t.columns > 2 || (t.columns > 1 && t.rows == 1))
            t.columns = ceil_div(t.columns, 2);
        else if (t.rows > 1)
            t.rows = ceil_div(t.rows, 2);
        else
            return t;
    }
}

/* Job number `task` of all. Neighbours have the same rows. */
static struct gemm_job job_of(const struct gemm_job *all, const struct gemm_tasks *t, int task)
{
    const int column = task % t->column_tasks * t->columns;
    const int strip = task / t->column_tasks * t->rows;
    struct gemm_job job = *all;
    job.b += (size_t)column * all->panel_size;
    job.panel += column;
    job.panels = within(t->columns, all->panels - column);
    job.strips += strip;
    job.n_strips = within(t->rows, all->n_strips - strip);
    return job;
}

/* Inside a parallel region, once: all of a product, shared out to the threads; no barrier behind it.
 */
static void share(struct cpu_device *cpu, const struct gemm_job *all)
{
    const size_t size = (size_t)all->steps * GEMM_STEP;
    const struct gemm_tasks t =
        imf__gemm_tasks(all->panels, all->n_strips, size * sizeof(*all->b), cpu->threads);
    struct cpu_turn turn = cpu_turn_of(&cpu->tasks, t.column_tasks * t.row_tasks);
    while (cpu_next(&turn)) {
        struct gemm_job job = job_of(all, &t, turn.task);
        if (turn.task + 1 < turn.end) {
            struct gemm_job next = job_of(all, &t, turn.task + 1);
            job.next = next.b != job.b ? next.b : NULL;
            job.next_size = all->panel_size == size ? (size_t)next.panels * size : size;
        }
        cpu->gemm->run(&job);
    }
}

size_t cpu_act_bytes(const struct imf__device *d, size_t rows, size_t K)
{
    if (!cpu_packs(cpu_of((struct imf__device *)d)))
        return rows * K * d->act_size;
    return gemm_packed(gemm_panels((int)rows), (int)K) * sizeof(uint16_t);
}

/* Work memory: the strips, and the offsets of steps. */
static size_t offsets_at(int rows)
{
    return cpu_round_up(gemm_panels(rows) * sizeof(struct gemm_strip), 64);
}

static void lay(struct gemm_strip *strips, size_t *offsets, const struct gemm_matrix *m, int rows,
                bool packed)
{
    for (size_t s = 0; s < gemm_steps(m->K); s++)
        offsets[s] = s * GEMM_STEP;
    for (size_t p = 0; p < gemm_panels(rows); p++) {
        const int first = (int)p * GEMM_PANEL;
        strips[p] = (struct gemm_strip){
            .a = p * gemm_packed(1, m->K),
            .dst = packed ? p * gemm_packed(1, m->N) : (size_t)first * (size_t)m->N,
            .rows = rows - first < GEMM_PANEL ? rows - first : GEMM_PANEL,
        };
    }
}

imf_status imf__gemm_multiply(struct cpu_device *cpu, void *dst, enum imf__dtype dst_type,
                              const uint16_t *src, const struct gemm_matrix *m, int rows,
                              enum gemm_epilogue epilogue)
{
    const bool packed = dst_type == IMF__ACT;
    IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_ROWS,
                                offsets_at(rows) + gemm_steps(m->K) * sizeof(size_t)));
    if (cpu->base.dry)
        return IMF_OK;
    char *work = cpu_scratch(cpu, CPU_SCRATCH_ROWS);
    struct gemm_strip *strips = (struct gemm_strip *)work;
    size_t *offsets = (size_t *)(work + offsets_at(rows));
    const struct gemm_out out = {
        .dst = dst,
        .bf16 = dst_type != IMF__F32,
        .stride = packed ? 32 : (size_t)m->N,
        .panel = packed ? GEMM_STEP : GEMM_PANEL,
        .columns = packed ? (int)gemm_steps(m->N) * 32 : m->N, /* zeros behind the last */
        .bias = m->bias,
        .epilogue = epilogue,
    };
    struct gemm_job job = {
        .out = &out,
        .strips = strips,
        .n_strips = (int)gemm_panels(rows),
        .a = src,
        .offsets = offsets,
        .row = 32,
        .b = m->data,
        .panel_size = gemm_packed(1, m->K),
        .keep = GEMM_KEPT,
        .panels = (int)m->panels,
    };
    lay(strips, offsets, m, rows, packed);
    const int steps = (int)gemm_steps(m->K);
    const int each = epilogue == GEMM_ADD && !m->bias ? MOST_STEPS : steps;
    for (int done = 0; done < steps; done += job.steps) {
        const int parts = ceil_div(steps - done, each);
        job.steps = ceil_div(steps - done, parts);
        job.offsets = offsets + done;
        job.b = m->data + (size_t)done * GEMM_STEP;
#pragma omp parallel num_threads(cpu->threads)
        share(cpu, &job);
    }
    return IMF_OK;
}
