/* Full size: what the table of operations leaves out. Rows by the thousand, pictures of 256 x 256,
 * the decoder and its graphs, downloads, batches beyond eight, work memory that grows under captured
 * passes, two engines on one device; and the CPU as the judge. */
#include "cli/selfcheck_full.h"
#include "core/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Relative L2 error of latents against float32 on the CPU, and mean distance of pictures' levels. */
#define LATENT_BOUND_FP32 1e-4
#define LATENT_BOUND_BF16 5e-2
#define LEVELS_BOUND 2.0

struct side {
    struct imf_engine *engine;
    struct imf_model *model;
};

/* Some samples drawn: (n, z_count) latents, (n, H, W, 3) pictures or NULL. */
struct drawn {
    int n;
    size_t z_count, picture;
    float *z;
    uint8_t *rgb;
};

static void close_side(struct side *s)
{
    imf_model_destroy(s->model);
    imf_engine_destroy(s->engine);
    *s = (struct side){NULL, NULL};
}

static imf_status load(struct imf_model **out, struct imf_engine *e,
                       const struct imfd_full_check *check, int max_batch, struct imf_error *err)
{
    struct imf_model_params p;
    imf_model_params_init(&p);
    p.checkpoint = check->checkpoint;
    p.decoder = check->decoder;
    p.max_batch = max_batch;
    return imf_model_load(out, e, &p, err);
}

static imf_status open_side(struct side *s, const struct imfd_full_check *check, const char *device,
                            enum imf_precision precision, int max_batch, struct imf_error *err)
{
    struct imf_engine_params p;
    imf_engine_params_init(&p);
    p.device = device;
    p.precision = precision;
    imf_status status = imf_engine_create(&s->engine, &p, err);
    return status == IMF_OK ? load(&s->model, s->engine, check, max_batch, err) : status;
}

static void free_drawn(struct drawn *d)
{
    free(d->z);
    free(d->rgb);
    *d = (struct drawn){.n = 0};
}

/* Samples first .. first + n - 1 in one batch. */
static imf_status draw(struct drawn *d, struct imf_model *m, int first, int n)
{
    const struct imf_model_info *info = imf_model_get_info(m);
    struct imf_lane **lanes = calloc((size_t)n, sizeof(struct imf_lane *));
    struct imf_sampling sampling = info->defaults;
    imf_status status = lanes ? IMF_OK : IMF_ENOMEM;
    sampling.steps = 1;
    free_drawn(d);
    for (int i = 0; i < n && status == IMF_OK; i++) {
        status = imf_lane_create(&lanes[i], m);
        if (status == IMF_OK)
            status = imf_lane_start(lanes[i], m, (first + i) % info->classes,
                                    (uint64_t)first + (uint64_t)i, &sampling, NULL);
    }
    if (status == IMF_OK) {
        d->n = n;
        d->z_count = lanes[0]->z_count;
        d->picture = (size_t)info->image_width * (size_t)info->image_height * 3;
        d->z = calloc((size_t)n * d->z_count, sizeof(*d->z));
        d->rgb = d->picture ? calloc((size_t)n, d->picture) : NULL;
        status = d->z && (d->rgb || !d->picture) ? imf_step(m, lanes, n) : IMF_ENOMEM;
    }
    if (status == IMF_OK && d->rgb)
        status = imf_decode(m, lanes, n, d->rgb);
    for (int i = 0; i < n && status == IMF_OK; i++)
        memcpy(d->z + (size_t)i * d->z_count, lanes[i]->z, d->z_count * sizeof(*d->z));
    for (int i = 0; lanes && i < n; i++)
        imf_lane_destroy(lanes[i]);
    free(lanes);
    return status;
}

static int say(const char *what, bool ok, const char *why)
{
    printf("  %-18s %s%s%s\n", what, ok ? "ok" : "MISS", ok || !*why ? "" : ": ", ok ? "" : why);
    fflush(stdout);
    return !ok;
}

static int say_failed(const char *what, imf_status status, const struct side *s,
                      const struct imf_error *err)
{
    const char *why = err->message[0] ? err->message : s->engine ? imf_engine_error(s->engine) : "";
    return say(what, false, *why ? why : imf_status_sentence(status));
}

/* Whether sample `at` of `all` is the only one of `alone`, bit for bit. */
static bool same(const struct drawn *all, int at, const struct drawn *alone)
{
    size_t z = all->z_count * sizeof(*all->z);
    return memcmp(all->z + (size_t)at * all->z_count, alone->z, z) == 0 &&
           (!all->rgb ||
            memcmp(all->rgb + (size_t)at * all->picture, alone->rgb, all->picture) == 0);
}

/* First and last sample of `all` drawn alone by m. */
static int check_alone(const char *what, const struct side *s, const struct drawn *all)
{
    const int at[] = {0, all->n - 1};
    struct drawn one = {.n = 0};
    struct imf_error none = {0};
    bool ok = true;
    for (int i = 0; i < 2 && ok; i++) {
        imf_status status = draw(&one, s->model, at[i], 1);
        if (status != IMF_OK) {
            free_drawn(&one);
            return say_failed(what, status, s, &none);
        }
        ok = same(all, at[i], &one);
    }
    free_drawn(&one);
    return say(what, ok, "bits differ");
}

/* A larger model beside this one makes the device's work memory grow; what was captured before must
 * still be right. */
static int check_beside(const struct imfd_full_check *check, const struct side *s,
                        const struct drawn *all)
{
    static const char what[] = "beside a larger";
    struct imf_model *larger = NULL;
    struct imf_error err = {0};
    struct drawn again = {.n = 0};
    imf_status status = load(&larger, s->engine, check, 2 * check->batch, &err);
    if (status == IMF_OK)
        status = draw(&again, s->model, 0, check->batch);
    bool ok = status == IMF_OK &&
              memcmp(again.z, all->z, (size_t)all->n * all->z_count * sizeof(*all->z)) == 0 &&
              (!all->rgb || memcmp(again.rgb, all->rgb, (size_t)all->n * all->picture) == 0);
    int failed =
        status == IMF_OK ? say(what, ok, "bits differ") : say_failed(what, status, s, &err);
    free_drawn(&again);
    imf_model_destroy(larger);
    return failed;
}

static int check_second(const struct imfd_full_check *check, const struct drawn *all)
{
    struct side second = {NULL, NULL};
    struct imf_error err = {0};
    imf_status status =
        open_side(&second, check, check->device, check->precision, check->batch, &err);
    int failed = status == IMF_OK ? check_alone("a second engine", &second, all)
                                  : say_failed("a second engine", status, &second, &err);
    close_side(&second);
    return failed;
}

static int check_cpu(const struct imfd_full_check *check, const struct drawn *all)
{
    struct side cpu = {NULL, NULL};
    struct imf_error err = {0};
    struct drawn one = {.n = 0};
    char why[96] = "";
    double bound = check->precision == IMF_PRECISION_BF16 ? LATENT_BOUND_BF16 : LATENT_BOUND_FP32;
    imf_status status = open_side(&cpu, check, "cpu", IMF_PRECISION_FP32, 1, &err);
    if (status == IMF_OK)
        status = draw(&one, cpu.model, 0, 1);
    double difference = 0, total = 0, levels = 0;
    for (size_t i = 0; status == IMF_OK && i < one.z_count; i++) {
        difference += pow((double)all->z[i] - (double)one.z[i], 2);
        total += pow((double)one.z[i], 2);
    }
    for (size_t i = 0; status == IMF_OK && one.rgb && i < one.picture; i++)
        levels += abs(all->rgb[i] - one.rgb[i]) / (double)one.picture;
    double error = sqrt(difference / (total > 0 ? total : 1));
    snprintf(why, sizeof(why), "error %.2g of %.2g, %.2f levels of %.0f", error, bound, levels,
             LEVELS_BOUND);
    int failed = status == IMF_OK
                     ? say("against the CPU", error <= bound && levels <= LEVELS_BOUND, why)
                     : say_failed("against the CPU", status, &cpu, &err);
    free_drawn(&one);
    close_side(&cpu);
    return failed;
}

int imfd_selfcheck_full(const struct imfd_full_check *check)
{
    struct side s = {NULL, NULL};
    struct imf_error err = {0};
    struct drawn all = {.n = 0};
    int failed = 0;
    imf_status status = open_side(&s, check, check->device, check->precision, check->batch, &err);
    if (status == IMF_OK)
        status = draw(&all, s.model, 0, check->batch);
    if (status == IMF_OK) {
        failed += check_alone("alone and together", &s, &all);
        failed += check_beside(check, &s, &all);
        failed += check_second(check, &all);
        failed += check_cpu(check, &all);
    } else {
        failed += say_failed("a full batch", status, &s, &err);
    }
    free_drawn(&all);
    close_side(&s);
    return failed;
}
