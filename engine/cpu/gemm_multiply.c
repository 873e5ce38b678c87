/* Packing weights, and sharing a product out to threads (multiply.h). Tasks are blocks of columns
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
    m->panels = other ? ((size_t)N + 15) / 16 : gemm_panels(N);
    size_t bytes = gemm_packed(m->panels, K) * sizeof(*m->data);
    size_t bias_bytes = m->panels * GEMM_PANEL * sizeof(float);
    m->data = cpu_memory_alloc(bytes);
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
    free(m->data);
    free(m->bias);
    free(m);
}

/* ---- Sharing out ---- */

struct tasks {
    int columns, rows; /* panels in a task */
    int column_tasks, row_tasks;
};

#define COLUMN_BYTES (800 << 10) /* of B in a task: they stay in the second-level cache */
#define ROW_PANELS 4
#define TASKS_A_THREAD 3

static int ceil_div(int n, int by)
{
    return (n + by - 1) / by;
}

/* Large tasks where there is enough work; smaller ones where threads would have none. */
static struct tasks share_out(int columns, int rows, size_t panel_bytes, int threads)
{
    struct tasks t = {.rows = ROW_PANELS < rows ? ROW_PANELS : rows};
    t.rows = ceil_div(rows, ceil_div(rows, t.rows));
    t.columns = (int)(COLUMN_BYTES / panel_bytes);
    t.columns = t.columns < 1 ? 1 : t.columns > columns ? columns : t.columns;
    for (;;) {
        t.column_tasks = ceil_div(columns, t.columns);
        t.row_tasks = ceil_div(rows, t.rows);
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

void imf__gemm_share(struct cpu_device *cpu, const struct gemm_job *all)
{
    const size_t size = (size_t)all->steps * GEMM_STEP;
    const struct tasks t =
        share_out(all->panels, all->n_strips, size * sizeof(*all->b), cpu->threads);
#pragma omp for collapse(2) schedule(dynamic) nowait
    for (int c = 0; c < t.column_tasks; c++) {
        for (int r = 0; r < t.row_tasks; r++) {
            int column = c * t.columns, strip = r * t.rows;
            struct gemm_job job = *all;
            job.b += (size_t)column * size;
            job.panel += column;
            job.panels = all->panels - column < t.columns ? all->panels - column : t.columns;
            job.strips += strip;
            job.n_strips = all->n_strips - strip < t.rows ? all->n_strips - strip : t.rows;
            cpu->gemm->run(&job);
        }
    }
}

/* Work memory: the packed rows, their strips, and the offsets of steps. */
struct plan {
    size_t strips, offsets, bytes;
};

static struct plan plan_of(int rows, int K)
{
    struct plan p;
    size_t panels = gemm_panels(rows);
    p.strips = cpu_round_up(gemm_packed(panels, K) * sizeof(uint16_t), 64);
    p.offsets = p.strips + cpu_round_up(panels * sizeof(struct gemm_strip), 64);
    p.bytes = p.offsets + gemm_steps(K) * sizeof(size_t);
    return p;
}

imf_status imf__gemm_multiply(struct cpu_device *cpu, void *dst, bool bf16, const uint16_t *src,
                              const struct gemm_matrix *m, int rows, enum gemm_epilogue epilogue)
{
    const size_t size = gemm_packed(1, m->K);
    const int panels = (int)gemm_panels(rows);
    const struct plan plan = plan_of(rows, m->K);
    IMF_TRY(cpu_scratch_reserve(cpu, CPU_SCRATCH_ROWS, plan.bytes));
    if (cpu->base.dry)
        return IMF_OK;
    char *work = cpu_scratch(cpu, CPU_SCRATCH_ROWS);
    uint16_t *packed = (uint16_t *)work;
    struct gemm_strip *strips = (struct gemm_strip *)(work + plan.strips);
    size_t *offsets = (size_t *)(work + plan.offsets);
    const struct gemm_out out = {
        .dst = dst,
        .bf16 = bf16,
        .stride = (size_t)m->N,
        .panel = epilogue == GEMM_SWIGLU ? GEMM_PANEL / 2 : GEMM_PANEL,
        .columns = m->N,
        .bias = m->bias,
        .epilogue = epilogue,
    };
    const struct gemm_job job = {
        .out = &out,
        .strips = strips,
        .n_strips = panels,
        .a = packed,
        .offsets = offsets,
        .row = 32,
        .b = m->data,
        .steps = (int)gemm_steps(m->K),
        .panels = (int)m->panels,
    };
    for (size_t s = 0; s < gemm_steps(m->K); s++)
        offsets[s] = s * GEMM_STEP;
#pragma omp parallel num_threads(cpu->threads)
    {
#pragma omp for schedule(static)
        for (int p = 0; p < panels; p++) {
            int first = p * GEMM_PANEL, n = rows - first < GEMM_PANEL ? rows - first : GEMM_PANEL;
            imf__gemm_pack_a(packed + (size_t)p * size, src + (size_t)first * (size_t)m->K,
                             (size_t)m->K, n, m->K);
            strips[p] = (struct gemm_strip){(size_t)p * size, (size_t)first * (size_t)m->N, n};
        }
        imf__gemm_share(cpu, &job);
    }
    return IMF_OK;
}
