/* What the golden tests share: reading reference arrays, loading models, comparing. The device is
 * "cpu" unless IMFD_TEST_DEVICE names another. A failure ends the test with what differed. */
#ifndef GOLDEN_H
#define GOLDEN_H

#include "imf.h"
#include "models/model_names.h"

#include <check.h>
#include <stdlib.h>

/* Bounds, with their reasons: float32 sums in another order differ by about 1e-6, bfloat16 stores 8
 * bits, and 35 dB is where a difference starts to be seen. */
#define FP32_LATENT_BOUND 1e-4
#define BF16_LATENT_BOUND 2e-2
#define BF16_PSNR_BOUND 35.0

struct golden {
    float *values; /* malloc'ed */
    size_t count;
};

const char *golden_path(const char *name);   /* under tests/golden; valid until the next call */
const char *golden_shared(const char *name); /* under ../shared/golden; NULL when that is absent */
struct golden golden_read(const char *name); /* .npy of float32 */
uint8_t *golden_read_bytes(const char *name, size_t count); /* .npy of uint8; malloc'ed */

/* Whether the device has none of this precision, as CPUs without AVX-512 have no bfloat16: what is
 * left out is printed. */
bool golden_lacks(enum imf_precision precision);
struct imf_engine *golden_engine(enum imf_precision precision);
struct imf_model *golden_model(struct imf_engine *e, const char *checkpoint, const char *decoder);
struct imf_model *golden_model_of(struct imf_engine *e, const struct imf_model_params *p);

char *golden_work(const char *file); /* a path below WORK_DIR; malloc'ed */
/* Synthetic weights of a list, written below WORK_DIR; returns the path, malloc'ed. */
char *golden_synth(const char *file, struct imf__names *names, uint64_t seed);
char *golden_synth_with(const char *file, struct imf__names *names, uint64_t seed,
                        const char *const (*metadata)[2], size_t metadata_count);
char *golden_synth_model(const char *model, uint64_t seed);
/* vae_tiny (synthetic, seed 5) with its config.json beside it. */
char *golden_vae_tiny(void);
void golden_clean(void); /* removes what is left below WORK_DIR */

struct golden_sample {
    int32_t label;
    uint64_t seed;
    struct imf_sampling sampling;
};
/* Latents (n, z_count) of the samples in one batch; malloc'ed. */
float *golden_latents(struct imf_model *m, const struct golden_sample *s, int n);

/* Fails when values are further from the reference than their precision explains. */
void golden_check(const char *what, const float *got, const float *want, size_t n,
                  enum imf_precision precision);
double golden_relative_l2(const float *got, const float *want, size_t n);
double golden_psnr(const uint8_t *got, const uint8_t *want, size_t n);
int golden_max_level(const uint8_t *got, const uint8_t *want, size_t n);

int golden_main(Suite *s);

#endif
