/* For a tensor `name` with linear index i = 0, 1, ... and model seed k:
 *
 *     base = FNV-1a-64(name) + k * 0xD1B54A32D192ED03
 *     x = SplitMix64's finaliser of base + (i + 1) * 0x9E3779B97F4A7C15
 *     v = (2 (x >> 40) + 1 - 2^24) / 2^24          in (-1, 1), exact
 *     weight = float32(offset + amplitude * v)     in float64 */
#include "models/synth.h"

#include "common/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 65536

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Keeps activations near unit variance through any depth: the first rule that matches. */
static void rule(const struct imf__name *name, double *offset, double *amplitude)
{
    double fan_in = 1;
    for (int i = 1; i < name->ndim; i++)
        fan_in *= (double)name->shape[i];
    *offset = 0;
    if (ends_with(name->name, "pos_embed")) {
        *amplitude = 0.25;
    } else if (name->ndim == 3 && ends_with(name->name, "_tokens")) {
        *amplitude = sqrt(3.0 / (double)name->shape[2]);
    } else if (name->ndim == 4 && ends_with(name->name, ".conv.weight")) {
        *amplitude = sqrt(6.0 / fan_in);
    } else if (name->ndim >= 2) {
        *amplitude = sqrt(3.0 / fan_in);
    } else if (ends_with(name->name, "_scale")) {
        *amplitude = 0.3;
    } else if (ends_with(name->name, "running_mean") || ends_with(name->name, ".bias")) {
        *amplitude = 0.05;
    } else {
        *offset = 1; /* running_var, .weight */
        *amplitude = 0.1;
    }
}

void imf__synth_fill(float *values, const struct imf__name *name, uint64_t seed, uint64_t first,
                     size_t n)
{
    uint64_t base = 0xCBF29CE484222325u;
    for (const char *p = name->name; *p; p++)
        base = (base ^ (uint8_t)*p) * 0x100000001B3u;
    base += seed * 0xD1B54A32D192ED03u;
    double offset, amplitude;
    rule(name, &offset, &amplitude);
    for (size_t i = 0; i < n; i++) {
        uint64_t x = base + (first + i + 1) * 0x9E3779B97F4A7C15u;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
        x = (x ^ x >> 27) * 0x94D049BB133111EBu;
        x ^= x >> 31;
        double v = (double)(2 * (int32_t)(x >> 40) + 1 - (1 << 24)) * 0x1p-24;
        values[i] = (float)(offset + amplitude * v);
    }
}

static uint64_t count_of(const struct imf__name *name)
{
    uint64_t count = name->ndim > 0;
    for (int i = 0; i < name->ndim; i++)
        count *= (uint64_t)name->shape[i];
    return count;
}

static imf_status write_tensor(struct imf__weights_writer *w, const struct imf__name *name,
                               uint64_t seed, float *values, struct imf_error *err)
{
    uint64_t count = count_of(name);
    for (uint64_t i = 0; i < count; i += CHUNK) {
        size_t n = count - i < CHUNK ? (size_t)(count - i) : CHUNK;
        imf__synth_fill(values, name, seed, i, n);
        imf_status status = imf__weights_append(w, values, n, err);
        if (status != IMF_OK)
            return status;
    }
    return IMF_OK;
}

imf_status imf__synth_write(const char *path, const struct imf__weights_params *p, uint64_t seed,
                            void (*progress)(void *user, double fraction), void *user,
                            struct imf_error *err)
{
    struct imf__weights_writer *w;
    imf_status status = imf__weights_create(&w, path, p, err);
    if (status != IMF_OK)
        return status;
    float *values = malloc(CHUNK * sizeof(float));
    if (!values)
        status = imf__fail(err, IMF_ENOMEM, "%.300s: out of memory", path);
    uint64_t done = 0;
    for (size_t i = 0; i < p->names->count && status == IMF_OK; i++) {
        const struct imf__name *name = &p->names->items[i];
        status = write_tensor(w, name, seed, values, err);
        done += count_of(name);
        if (progress)
            progress(user, (double)done / (double)p->names->parameters);
    }
    if (status == IMF_OK)
        status = imf__weights_commit(w, err);
    imf__weights_discard(w);
    free(values);
    return status;
}
