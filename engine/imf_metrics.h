/* The evaluation half of libimf: InceptionV3 features, and the numbers computed from them (FID,
 * Inception Score, KID, precision and recall). imf.h is the generating half; the server needs only
 * that one.
 *
 * Arithmetic is float64 with LAPACK and single-threaded BLAS calls, so that the same numbers come
 * out whatever the number of processors: every result here is a pure function of its input.
 * Features are (N, 2048) float32, logits (N, 1008) float32, spatial features (N, 2023) float32, all
 * row-major.
 *
 * Errors and ownership are as in imf.h. Unless said otherwise any thread may call, and one object
 * is used by one thread at a time. */
#ifndef IMF_METRICS_H
#define IMF_METRICS_H

#include "imf.h"

#ifdef __cplusplus
extern "C" {
#endif

#define IMF_FEATURES 2048
#define IMF_LOGITS 1008
#define IMF_SPATIAL 2023 /* 17 x 17 places, 7 channels */

/* ---- InceptionV3 ---------------------------------------------------------------------------- */

struct imf_inception; /* opaque; borrowed engine, owned weights */

/* torch-fidelity's weights-inception-2015-12-05-6726825d.pth, or any checkpoint with its names;
 * `imfd synth inception --config narrow=N` writes ones of N times fewer channels. BatchNorm is
 * folded here. Pictures are taken `batch` at a time (0: the device's choice). The engine should be
 * a float32 one: bfloat16 features would move FID by more than its last digit. */
IMF_MUST_CHECK imf_status imf_inception_load(struct imf_inception **out, struct imf_engine *e,
                                             const char *path, int batch, struct imf_error *err);
int imf_inception_batch(const struct imf_inception *net);
int imf_inception_narrow(const struct imf_inception *net);   /* 1: the published network */
double imf_inception_flops(const struct imf_inception *net); /* of one picture */
const char *imf_inception_fingerprint(const struct imf_inception *net);
/* features (n, 2048), logits (n, 1008; without the bias; may be NULL) and spatial features (n, 17, 17,
 * 7: the first channels of Mixed_6d, which TensorFlow's graph calls mixed_6/conv and sFID is made
 * of; may be NULL) of rgb (n, height, width, 3). Any n; a picture's features do not depend on the pictures around it. The first call with a
 * new picture size prepares the device for it. */
IMF_MUST_CHECK imf_status imf_inception_run(struct imf_inception *net, const uint8_t *rgb, int n,
                                            int height, int width, float *features, float *logits,
                                            float *spatial);
void imf_inception_destroy(struct imf_inception *net); /* NULL is fine; before its engine */

/* ---- Mean and covariance, streamed ---------------------------------------------------------- */

/* Samples arrive in blocks of a fixed size, in any order and from anywhere (threads, ranks, an
 * earlier run). Each block becomes a node (n, mean, sum of squared deviations), and two
 * neighbouring nodes of a fixed binary tree are merged (Chan, Golub, LeVeque 1979) as soon as both
 * are there. The tree depends on the number of blocks only, so the result is the same bit for bit
 * whatever the order of arrival. At most 2 log2(blocks) nodes of dim^2/2 doubles are held when
 * blocks come in order. */
struct imf_stats;

struct imf_stats_node {
    int level;           /* 0: a block; l: 2^l blocks */
    int64_t index;       /* blocks [index 2^level, (index + 1) 2^level), cut at the last */
    int64_t n;           /* samples */
    double *mean;        /* (dim) */
    double *m2;          /* packed upper triangle, rows i of dim - i */
    size_t mean_n, m2_n; /* their lengths */
};

IMF_MUST_CHECK imf_status imf_stats_create(struct imf_stats **out, int dim, int64_t blocks,
                                           struct imf_error *err);
/* x (n, dim); each block once (IMF_EINVAL when it is there already). Uses OpenMP threads. */
IMF_MUST_CHECK imf_status imf_stats_add(struct imf_stats *s, int64_t block, const float *x, int n,
                                        struct imf_error *err);
bool imf_stats_has(const struct imf_stats *s, int64_t block);
bool imf_stats_complete(const struct imf_stats *s);
/* Nodes held now, for checkpoints and for sending elsewhere; valid until the next call that
 * changes s. */
size_t imf_stats_node_count(const struct imf_stats *s);
const struct imf_stats_node *imf_stats_node_at(const struct imf_stats *s, size_t i);
/* Adds a copy of a node from elsewhere. One whose blocks are all here already is ignored; one
 * that overlaps partly, or whose numbers are not finite, is IMF_EFORMAT. */
IMF_MUST_CHECK imf_status imf_stats_put(struct imf_stats *s, const struct imf_stats_node *node,
                                        struct imf_error *err);
/* mean (dim), cov (dim, dim) the unbiased covariance. IMF_EINVAL unless complete with n >= 2. */
IMF_MUST_CHECK imf_status imf_stats_result(const struct imf_stats *s, double *mean, double *cov,
                                           int64_t *n, struct imf_error *err);
void imf_stats_destroy(struct imf_stats *s);

/* ---- Reference statistics ------------------------------------------------------------------- */

struct imf_reference {
    int dim;
    double *mu;      /* (dim) */
    double *sigma;   /* (dim, dim) */
    double *mu_s;    /* (2023), of spatial features; NULL when the file has none */
    double *sigma_s; /* (2023, 2023) */
    float *features; /* (count, dim), or NULL when the file has none: KID and P/R need them */
    int64_t count;   /* rows of features */
    char fingerprint[33];
};

/* Reads `mu` (float32 or float64), `sigma` (float64), where they are there `mu_s` and `sigma_s` (of
 * spatial features, as the ADM suite's references have them) and, if asked for and there, `features`
 * (float32) of an .npz. `dim` is what they must be (0: any). Says what is wrong with a file that
 * cannot serve: missing array, float32 or non-square or asymmetric sigma, NaN. */
IMF_MUST_CHECK imf_status imf_reference_read(struct imf_reference **out, const char *path, int dim,
                                             bool want_features, struct imf_error *err);
/* What is NULL is left out; the fingerprint is not looked at. */
IMF_MUST_CHECK imf_status imf_reference_write(const char *path, const struct imf_reference *r,
                                              struct imf_error *err);
void imf_reference_free(struct imf_reference *r);

/* ---- Numbers -------------------------------------------------------------------------------- */

/* |mu1 - mu2|^2 + tr sigma1 + tr sigma2 - 2 tr sqrt(sigma1 sigma2), rank-deficient sigmas
 * included. sigma (dim, dim) symmetric; not changed. Two threads, for a factor of each sigma. */
IMF_MUST_CHECK imf_status imf_fid(double *out, const double *mu1, const double *sigma1,
                                  const double *mu2, const double *sigma2, int dim,
                                  struct imf_error *err);

struct imf_mean_std {
    double mean, std; /* population standard deviation, ddof 0 */
};

/* Inception Score of logits (n, classes): rows permuted as NumPy's RandomState(seed) does, cut in
 * `splits`; torch-fidelity uses 10 and 2020. */
IMF_MUST_CHECK imf_status imf_inception_score(struct imf_mean_std *out, const float *logits,
                                              int64_t n, int classes, int splits, uint32_t seed,
                                              struct imf_error *err);

/* Kernel Inception Distance: unbiased MMD^2 with the kernel (x.y / dim + 1)^3 over `subsets`
 * random subsets of `size` rows of each (torch-fidelity: 100, 1000, seed 2020), drawn as NumPy's
 * RandomState(seed).choice(n, size, replace=False) does, a before b. */
IMF_MUST_CHECK imf_status imf_kid(struct imf_mean_std *out, const float *a, int64_t na,
                                  const float *b, int64_t nb, int dim, int subsets, int size,
                                  uint32_t seed, struct imf_error *err);

/* Improved precision and recall (Kynkaanniemi 2019): the share of generated rows within the k-th
 * nearest neighbour distance of some real row, and the reverse. */
struct imf_precision_recall {
    double precision, recall;
};
IMF_MUST_CHECK imf_status imf_precision_recall(struct imf_precision_recall *out,
                                               const float *generated, int64_t n_generated,
                                               const float *real, int64_t n_real, int dim, int k,
                                               struct imf_error *err);

/* out[n] = numpy.random.RandomState(seed).permutation(n), n < 2^32. */
void imf_permutation(int64_t *out, int64_t n, uint32_t seed);

#ifdef __cplusplus
}
#endif
#endif
