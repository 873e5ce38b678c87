/* Reference statistics: an .npz with `mu`, `sigma` and sometimes `features`. */
#include "imf_metrics.h"

#include "common/error.h"
#include "files/npz.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

static const struct imf__npz_array *find(struct imf__npz *z, const char *name, const char *path,
                                         struct imf_error *err)
{
    const struct imf__npz_array *a = imf__npz_find(z, name);
    if (a)
        return a;
    char names[256] = "";
    size_t n = 0;
    for (size_t i = 0; i < imf__npz_count(z) && n < sizeof(names); i++)
        n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", i ? ", " : "",
                              imf__npz_at(z, i)->name);
    (void)imf__fail(err, IMF_EFORMAT,
                    "%s: array \"%s\" is missing (found: %s); reference statistics hold mu and "
                    "sigma, as imfd evaluate --make-ref writes them",
                    path, name, n ? names : "nothing");
    return NULL;
}

static imf_status check_shapes(const struct imf__npz_array *mu, const struct imf__npz_array *sigma,
                               int dim, const char *path, struct imf_error *err)
{
    if (mu->ndim != 1 || mu->count == 0 || mu->count > 1 << 14)
        return imf__fail(err, IMF_EFORMAT, "%s: mu must be one row of float32 or float64 numbers",
                         path);
    if (sigma->ndim != 2 || sigma->shape[0] != sigma->shape[1])
        return imf__fail(err, IMF_EFORMAT,
                         "%s: sigma must be a square matrix, found %d dimensions"
                         " %llu x %llu",
                         path, sigma->ndim, (unsigned long long)sigma->shape[0],
                         (unsigned long long)(sigma->ndim > 1 ? sigma->shape[1] : 1));
    if (!sigma->is_double)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: sigma must be float64; float32 loses the small eigenvalues. Make the "
                         "file again with imfd evaluate --make-ref, or with numpy.cov in float64",
                         path);
    if (sigma->shape[0] != mu->count)
        return imf__fail(err, IMF_EFORMAT, "%s: mu has %llu numbers, sigma %llu rows", path,
                         (unsigned long long)mu->count, (unsigned long long)sigma->shape[0]);
    if (dim && mu->count != (uint64_t)dim)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: statistics of %llu features; %d of InceptionV3 are needed", path,
                         (unsigned long long)mu->count, dim);
    return IMF_OK;
}

static imf_status check_symmetric(const struct imf_reference *r, const char *path,
                                  struct imf_error *err)
{
    size_t n = (size_t)r->dim;
    double scale = 0;
    for (size_t i = 0; i < n; i++)
        scale = fmax(scale, fabs(r->sigma[i * n + i]));
    for (size_t i = 0; i < n; i++) {
        if (r->sigma[i * n + i] < 0)
            return imf__fail(err, IMF_EFORMAT, "%s: sigma[%zu][%zu] is negative", path, i, i);
        for (size_t j = 0; j < i; j++)
            if (fabs(r->sigma[i * n + j] - r->sigma[j * n + i]) > 1e-6 * scale)
                return imf__fail(err, IMF_EFORMAT,
                                 "%s: sigma is not symmetric at [%zu][%zu]; it is no covariance",
                                 path, i, j);
    }
    return IMF_OK;
}

static imf_status read_features(struct imf_reference *r, struct imf__npz *z, const char *path,
                                struct imf_error *err)
{
    const struct imf__npz_array *f = imf__npz_find(z, "features");
    if (!f)
        return IMF_OK;
    if (f->ndim != 2 || f->shape[1] != (uint64_t)r->dim || f->count == 0)
        return imf__fail(err, IMF_EFORMAT, "%s: features must be float32 rows of %d numbers", path,
                         r->dim);
    r->features = malloc(f->count * sizeof(float));
    if (!r->features)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory for %llu rows of features", path,
                         (unsigned long long)f->shape[0]);
    r->count = (int64_t)f->shape[0];
    return imf__npz_read_float(z, f, r->features, err);
}

static void fingerprint(struct imf_reference *r)
{
    size_t n = (size_t)r->dim;
    XXH128_hash_t a = XXH3_128bits(r->mu, n * sizeof(double));
    XXH128_hash_t b = XXH3_128bits(r->sigma, n * n * sizeof(double));
    snprintf(r->fingerprint, sizeof(r->fingerprint), "%016llx%016llx",
             (unsigned long long)(a.low64 ^ b.high64), (unsigned long long)(a.high64 ^ b.low64));
}

imf_status imf_reference_read(struct imf_reference **out, const char *path, int dim,
                              bool want_features, struct imf_error *err)
{
    struct imf__npz *z = NULL;
    struct imf_reference *r = NULL;
    imf_status status = imf__npz_open(&z, path, err);
    if (status != IMF_OK)
        return status;
    const struct imf__npz_array *mu = find(z, "mu", path, err);
    const struct imf__npz_array *sigma = mu ? find(z, "sigma", path, err) : NULL;
    status = sigma ? check_shapes(mu, sigma, dim, path, err) : IMF_EFORMAT;
    if (status != IMF_OK)
        goto out;
    r = calloc(1, sizeof(*r));
    if (r) {
        r->dim = (int)mu->count;
        r->mu = malloc(mu->count * sizeof(double));
        r->sigma = malloc(sigma->count * sizeof(double));
    }
    if (!r || !r->mu || !r->sigma) {
        status = imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
        goto out;
    }
    status = imf__npz_read_double(z, mu, r->mu, err);
    if (status == IMF_OK)
        status = imf__npz_read_double(z, sigma, r->sigma, err);
    if (status == IMF_OK)
        status = check_symmetric(r, path, err);
    if (status == IMF_OK && want_features)
        status = read_features(r, z, path, err);
    if (status == IMF_OK) {
        fingerprint(r);
        *out = r;
        r = NULL;
    }
out:
    imf_reference_free(r);
    imf__npz_close(z);
    return status;
}

imf_status imf_reference_write(const char *path, const double *mu, const double *sigma, int dim,
                               const float *features, int64_t count, struct imf_error *err)
{
    uint64_t d = (uint64_t)dim;
    struct imf__npz_source arrays[3] = {
        {.name = "mu", .ndim = 1, .shape = {d}, .f64 = mu},
        {.name = "sigma", .ndim = 2, .shape = {d, d}, .f64 = sigma},
        {.name = "features", .ndim = 2, .shape = {(uint64_t)count, d}, .f32 = features},
    };
    return imf__npz_write(path, arrays, features ? 3 : 2, err);
}

void imf_reference_free(struct imf_reference *r)
{
    if (!r)
        return;
    free(r->mu);
    free(r->sigma);
    free(r->features);
    free(r);
}
