/* Noise drawn beside the engine thread: whole drawings come out whatever was wanted, in pieces that
 * several threads shape, each number once. */
#include "scheduler/noise.h"
#include "run_suite.h"

#include <check.h>
#include <stdlib.h>
#include <unistd.h>

enum { COUNT = 5 * 32768 + 48 };

static void draw(const struct imf_model *m, float *z, uint64_t seed)
{
    (void)m;
    for (size_t i = 0; i < COUNT; i++)
        z[i] = (float)((i * 7 + seed) % 1000);
}

static void shape(const struct imf_model *m, float *z, size_t n)
{
    (void)m;
    ck_assert_uint_eq(n % 16, 0);
    if (z[0] > 900)
        usleep(100); /* so that others overtake */
    for (size_t i = 0; i < n; i++)
        z[i] += 0.5f;
}

static void take(struct noise *n, const struct imf_model *m, float *z, uint64_t seed)
{
    ck_assert_int_eq(noise_take(n, m, seed, z, COUNT), IMF_OK);
    size_t wrong = 0; /* ck_assert for each would take a minute */
    for (size_t i = 0; i < COUNT; i++)
        wrong += z[i] != (float)((i * 7 + seed) % 1000) + 0.5f;
    ck_assert_msg(wrong == 0, "%zu numbers of seed %d", wrong, (int)seed);
}

/* Wanted or not, in any order, more than are kept. */
START_TEST(test_drawings)
{
    const struct imf_model *m = (const struct imf_model *)(uintptr_t)64;
    struct noise *n = NULL;
    float *z = malloc(COUNT * sizeof(float));
    ck_assert_int_eq(noise_create(&n, draw, shape), IMF_OK);
    take(n, m, z, 5);
    for (uint64_t round = 0; round < 4; round++) {
        for (uint64_t s = 0; s < NOISE_KEPT + 9; s++)
            noise_want(n, m, round * 3 + s, COUNT);
        for (uint64_t s = NOISE_KEPT + 9; s-- > 0;)
            take(n, m, z, round * 3 + s);
    }
    noise_want(n, m, 1234, COUNT); /* nobody takes it */
    noise_destroy(n);
    free(z);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("noise");
    TCase *tc = tcase_create("noise");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_drawings);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
