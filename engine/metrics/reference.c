/* Reference statistics: an .npz with `mu`, `sigma` and sometimes `mu_s`, `sigma_s`, `features`. */
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
    const char *m = mu->name, *s = sigma->name;
    if (mu->ndim != 1 || mu->count == 0 || mu->count > 1 << 14)
        return imf__fail(err, IMF_EFORMAT, "%s: %s must be one row of float32 or float64 numbers",
                         path, m);
    if (sigma->ndim != 2 || sigma->shape[0] != sigma->shape[1])
        return imf__fail(err, IMF_EFORMAT,
                         "%s: %s must be a square matrix, found %d dimensions"
                         " %llu x %llu",
                         path, s, sigma->ndim, (unsigned long long)sigma->shape[0],
                         (unsigned long long)(sigma->ndim > 1 ? sigma->shape[1] : 1));
    if (!sigma->is_double)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: %s must be float64; float32 loses the small eigenvalues. Make the "
                         "file again with imfd evaluate --make-ref, or with numpy.cov in float64",
                         path, s);
    if (sigma->shape[0] != mu->count)
        return imf__fail(err, IMF_EFORMAT, "%s: %s has %llu numbers, %s %llu rows", path, m,
                         (unsigned long long)mu->count, s, (unsigned long long)sigma->shape[0]);
    if (dim && mu->count != (uint64_t)dim)
        return imf__fail(err, IMF_EFORMAT,
                         "%s: %s has statistics of %llu features; %d of InceptionV3 are needed",
                         path, m, (unsigned long long)mu->count, dim);
    return IMF_OK;
}

static imf_status check_symmetric(const double *sigma, size_t n, const char *name, const char *path,
                                  struct imf_error *err)
{
    double scale = 0;
    for (size_t i = 0; i < n; i++)
        scale = fmax(scale, fabs(sigma[i * n + i]));
    for (size_t i = 0; i < n; i++) {
        if (sigma[i * n + i] < 0)
            return imf__fail(err, IMF_EFORMAT, "%s: %s[%zu][%zu] is negative", path, name, i, i);
        for (size_t j = 0; j < i; j++)
            if (fabs(sigma[i * n + j] - sigma[j * n + i]) > 1e-6 * scale)
                return imf__fail(err, IMF_EFORMAT,
                                 "%s: %s is not symmetric at [%zu][%zu]; it is no covariance", path,
                                 name, i, j);
    }
    return IMF_OK;
}

/* A mean and its covariance, malloc'ed. */
static imf_status read_pair(double **mu, double **sigma, struct imf__npz *z,
                            const struct imf__npz_array *m, const struct imf__npz_array *s, int dim,
                            const char *path, struct imf_error *err)
{
    IMF_TRY(check_shapes(m, s, dim, path, err));
    *mu = malloc(m->count * sizeof(double));
    *sigma = malloc(s->count * sizeof(double));
    if (!*mu || !*sigma)
        return imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
    IMF_TRY(imf__npz_read_double(z, m, *mu, err));
    IMF_TRY(imf__npz_read_double(z, s, *sigma, err));
    return check_symmetric(*sigma, (size_t)m->count, s->name, path, err);
}

static imf_status read_spatial(struct imf_reference *r, struct imf__npz *z, const char *path,
                               struct imf_error *err)
{
    const struct imf__npz_array *mu = imf__npz_find(z, "mu_s"),
                                *sigma = imf__npz_find(z, "sigma_s");
    if (!mu && !sigma)
        return IMF_OK;
    if (!mu || !sigma)
        return imf__fail(err, IMF_EFORMAT, "%s: %s is there without %s", path,
                         mu ? "mu_s" : "sigma_s", mu ? "sigma_s" : "mu_s");
    return read_pair(&r->mu_s, &r->sigma_s, z, mu, sigma, IMF_SPATIAL, path, err);
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
    if (!sigma) {
        status = IMF_EFORMAT;
        goto out;
    }
    r = calloc(1, sizeof(*r));
    status = r ? read_pair(&r->mu, &r->sigma, z, mu, sigma, dim, path, err)
               : imf__fail(err, IMF_ENOMEM, "%s: out of memory", path);
    if (status == IMF_OK) {
        r->dim = (int)mu->count;
        status = read_spatial(r, z, path, err);
    }
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

imf_status imf_reference_write(const char *path, const struct imf_reference *r,
                               struct imf_error *err)
{
    const int64_t d = r->dim, s = IMF_SPATIAL;
    const struct imf__npz_source all[] = {
        {.name = "mu", .ndim = 1, .shape = {d}, .f64 = r->mu},
        {.name = "sigma", .ndim = 2, .shape = {d, d}, .f64 = r->sigma},
        {.name = "mu_s", .ndim = 1, .shape = {s}, .f64 = r->mu_s},
        {.name = "sigma_s", .ndim = 2, .shape = {s, s}, .f64 = r->sigma_s},
        {.name = "features", .ndim = 2, .shape = {r->count, d}, .f32 = r->features},
    };
    struct imf__npz_source arrays[sizeof(all) / sizeof(all[0])];
    size_t n = 0;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (all[i].f64 || all[i].f32)
            arrays[n++] = all[i];
    }
    return imf__npz_write(path, arrays, n, err);
}

void imf_reference_free(struct imf_reference *r)
{
    if (!r)
        return;
    free(r->mu);
    free(r->sigma);
    free(r->mu_s);
    free(r->sigma_s);
    free(r->features);
    free(r);
}
