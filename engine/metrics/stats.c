/* Streaming mean and covariance as a fixed binary tree over blocks of samples; see imf_metrics.h.
 * Within a block the samples are centred first (two passes), between nodes Chan's update is used:
 * no sum of squares is ever formed that a subtraction would have to rescue. */
#include "imf_metrics.h"

#include "common/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 8 }; /* columns of a panel; the kernel below computes TILE x TILE sums */

struct imf_stats {
    int dim;
    int64_t blocks;
    int levels; /* of the root */
    struct imf_stats_node *nodes;
    size_t count, capacity;
};

static size_t packed_size(int dim)
{
    return (size_t)dim * ((size_t)dim + 1) / 2;
}

/* First element of row i in the packed upper triangle, minus i: row[j] is element (i, j). */
static size_t packed_row(int dim, int i)
{
    size_t r = (size_t)i;
    return r * (size_t)dim - r * (r + 1) / 2;
}

imf_status imf_stats_create(struct imf_stats **out, int dim, int64_t blocks, struct imf_error *err)
{
    if (dim < 1 || dim > 1 << 14 || blocks < 1 || blocks > (int64_t)1 << 40)
        return imf__fail(err, IMF_EINVAL, "statistics of %lld blocks of dimension %d",
                         (long long)blocks, dim);
    struct imf_stats *s = calloc(1, sizeof(*s));
    if (!s)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    s->dim = dim;
    s->blocks = blocks;
    while (((int64_t)1 << s->levels) < blocks)
        s->levels++;
    *out = s;
    return IMF_OK;
}

static void node_free(struct imf_stats_node *node)
{
    free(node->mean);
    free(node->m2);
}

void imf_stats_destroy(struct imf_stats *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->count; i++)
        node_free(&s->nodes[i]);
    free(s->nodes);
    free(s);
}

static bool node_alloc(struct imf_stats_node *node, int dim)
{
    node->mean_n = (size_t)dim;
    node->m2_n = packed_size(dim);
    node->mean = malloc(node->mean_n * sizeof(double));
    node->m2 = malloc(node->m2_n * sizeof(double));
    if (node->mean && node->m2)
        return true;
    node_free(node);
    return false;
}

/* ---- Tree ---------------------------------------------------------------------------------- */

static int64_t first_block(const struct imf_stats_node *node)
{
    return node->index << node->level;
}

static int64_t end_block(const struct imf_stats *s, const struct imf_stats_node *node)
{
    int64_t end = (node->index + 1) << node->level;
    return end < s->blocks ? end : s->blocks;
}

bool imf_stats_has(const struct imf_stats *s, int64_t block)
{
    for (size_t i = 0; i < s->count; i++)
        if (block >= first_block(&s->nodes[i]) && block < end_block(s, &s->nodes[i]))
            return true;
    return false;
}

bool imf_stats_complete(const struct imf_stats *s)
{
    return s->count == 1 && s->nodes[0].level == s->levels;
}

size_t imf_stats_node_count(const struct imf_stats *s)
{
    return s->count;
}

const struct imf_stats_node *imf_stats_node_at(const struct imf_stats *s, size_t i)
{
    return &s->nodes[i];
}

/* a = a merged with its right neighbour b. */
static void merge(struct imf_stats_node *a, const struct imf_stats_node *b, int dim)
{
    double na = (double)a->n, nb = (double)b->n, n = na + nb, weight = na * nb / n;
    double *delta = b->mean; /* b is discarded afterwards */
    for (int i = 0; i < dim; i++) {
        delta[i] -= a->mean[i];
        a->mean[i] += delta[i] * (nb / n);
    }
#pragma omp parallel for schedule(static, 16) if (dim >= 512)
    for (int i = 0; i < dim; i++) {
        double *row = a->m2 + packed_row(dim, i);
        const double *other = b->m2 + packed_row(dim, i);
        double scaled = delta[i] * weight;
        for (int j = i; j < dim; j++)
            row[j] += other[j] + scaled * delta[j];
    }
    a->n += b->n;
}

static size_t find_node(const struct imf_stats *s, int level, int64_t index)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->nodes[i].level == level && s->nodes[i].index == index)
            return i;
    return s->count;
}

/* Takes the node and climbs: merges with its sibling while that is there; a node whose right
 * sibling would lie past the last block is its own parent. */
static void insert(struct imf_stats *s, struct imf_stats_node node)
{
    while (node.level < s->levels) {
        bool left = node.index % 2 == 0;
        if (left && ((node.index + 1) << node.level) >= s->blocks) {
            node.level++;
            node.index /= 2;
            continue;
        }
        size_t at = find_node(s, node.level, left ? node.index + 1 : node.index - 1);
        if (at == s->count)
            break;
        struct imf_stats_node sibling = s->nodes[at];
        s->nodes[at] = s->nodes[--s->count];
        struct imf_stats_node *a = left ? &node : &sibling, *b = left ? &sibling : &node;
        merge(a, b, s->dim);
        node_free(b);
        node = *a;
        node.level++;
        node.index /= 2;
    }
    s->nodes[s->count++] = node;
}

static imf_status reserve(struct imf_stats *s, struct imf_error *err)
{
    if (s->count < s->capacity)
        return IMF_OK;
    size_t capacity = s->capacity ? 2 * s->capacity : 16;
    struct imf_stats_node *nodes = realloc(s->nodes, capacity * sizeof(*nodes));
    if (!nodes)
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    s->nodes = nodes;
    s->capacity = capacity;
    return IMF_OK;
}

imf_status imf_stats_put(struct imf_stats *s, const struct imf_stats_node *node,
                         struct imf_error *err)
{
    if (node->level < 0 || node->level > s->levels || node->index < 0 ||
        node->index > s->blocks >> node->level || first_block(node) >= s->blocks || node->n < 1 ||
        node->mean_n != (size_t)s->dim || node->m2_n != packed_size(s->dim))
        return imf__fail(err, IMF_EFORMAT, "saved statistics do not fit this run");
    int64_t here = 0, end = end_block(s, node);
    for (int64_t b = first_block(node); b < end; b++)
        here += imf_stats_has(s, b);
    if (here == end - first_block(node))
        return IMF_OK;
    if (here > 0)
        return imf__fail(err, IMF_EFORMAT, "saved statistics overlap");
    for (size_t i = 0; i < node->mean_n; i++)
        if (!isfinite(node->mean[i]))
            return imf__fail(err, IMF_EFORMAT, "saved statistics hold a NaN");
    imf_status status = reserve(s, err);
    if (status != IMF_OK)
        return status;
    struct imf_stats_node copy = *node;
    if (!node_alloc(&copy, s->dim))
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    memcpy(copy.mean, node->mean, copy.mean_n * sizeof(double));
    memcpy(copy.m2, node->m2, copy.m2_n * sizeof(double));
    insert(s, copy);
    return IMF_OK;
}

/* ---- A block ------------------------------------------------------------------------------- */

/* One TILE x TILE corner of the product: panels are (n, TILE). */
static void tile_product(double acc[TILE][TILE], const double *restrict a, const double *restrict b,
                         int n)
{
    for (int k = 0; k < n; k++)
        for (int i = 0; i < TILE; i++)
            for (int j = 0; j < TILE; j++)
                acc[i][j] += a[k * TILE + i] * b[k * TILE + j];
}

/* panels: centred samples, (dim / TILE rounded up, n, TILE), zero in the padding. */
static void fill_panels(double *panels, double *mean, const float *x, int n, int dim)
{
    for (int c = 0; c < dim; c++)
        mean[c] = 0;
    for (int k = 0; k < n; k++)
        for (int c = 0; c < dim; c++)
            mean[c] += (double)x[(size_t)k * dim + c];
    for (int c = 0; c < dim; c++)
        mean[c] /= n;
    for (int k = 0; k < n; k++)
        for (int c = 0; c < dim; c++)
            panels[((size_t)(c / TILE) * n + k) * TILE + c % TILE] =
                (double)x[(size_t)k * dim + c] - mean[c];
}

static void block_products(double *m2, const double *panels, int n, int dim)
{
    int tiles = (dim + TILE - 1) / TILE;
#pragma omp parallel for schedule(dynamic, 4) if (dim >= 512)
    for (int ti = 0; ti < tiles; ti++) {
        for (int tj = ti; tj < tiles; tj++) {
            double acc[TILE][TILE] = {{0}};
            tile_product(acc, panels + (size_t)ti * n * TILE, panels + (size_t)tj * n * TILE, n);
            for (int i = 0; i < TILE && ti * TILE + i < dim; i++) {
                double *row = m2 + packed_row(dim, ti * TILE + i);
                for (int j = ti == tj ? i : 0; j < TILE && tj * TILE + j < dim; j++)
                    row[tj * TILE + j] = acc[i][j];
            }
        }
    }
}

imf_status imf_stats_add(struct imf_stats *s, int64_t block, const float *x, int n,
                         struct imf_error *err)
{
    if (block < 0 || block >= s->blocks || n < 1 || imf_stats_has(s, block))
        return imf__fail(err, IMF_EINVAL, "block %lld of %lld is out of range or there already",
                         (long long)block, (long long)s->blocks);
    for (size_t i = 0; i < (size_t)n * (size_t)s->dim; i++)
        if (!isfinite(x[i]))
            return imf__fail(err, IMF_EINVAL, "a feature is not a finite number (block %lld)",
                             (long long)block);
    imf_status status = reserve(s, err);
    if (status != IMF_OK)
        return status;
    struct imf_stats_node node = {.index = block, .n = n};
    size_t tiles = (size_t)(s->dim + TILE - 1) / TILE;
    double *panels = calloc(tiles * TILE * (size_t)n, sizeof(double));
    if (!panels || !node_alloc(&node, s->dim)) {
        free(panels);
        return imf__fail(err, IMF_ENOMEM, "out of memory");
    }
    fill_panels(panels, node.mean, x, n, s->dim);
    block_products(node.m2, panels, n, s->dim);
    free(panels);
    insert(s, node);
    return IMF_OK;
}

imf_status imf_stats_result(const struct imf_stats *s, double *mean, double *cov, int64_t *n,
                            struct imf_error *err)
{
    if (!imf_stats_complete(s) || s->nodes[0].n < 2)
        return imf__fail(err, IMF_EINVAL, "statistics need at least 2 images, all of them done");
    const struct imf_stats_node *root = &s->nodes[0];
    int dim = s->dim;
    memcpy(mean, root->mean, (size_t)dim * sizeof(double));
    for (int i = 0; i < dim; i++)
        for (int j = i; j < dim; j++)
            cov[(size_t)i * dim + j] = cov[(size_t)j * dim + i] =
                root->m2[packed_row(dim, i) + (size_t)j] / (double)(root->n - 1);
    *n = root->n;
    return IMF_OK;
}
