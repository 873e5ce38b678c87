/* Noise: torch.randn's numbers for seven seeds, two of which need the seed's low 32 bits only. */
#include "golden.h"

#include <math.h>

START_TEST(test_randn)
{
    static const uint64_t seeds[] = {0, 1, 7, 42, 20251202, 4294967295, 4294967299};
    struct golden want = golden_read("rng/randn.npy");
    size_t n = want.count / 7;
    float *z = malloc(n * sizeof(float));
    for (size_t s = 0; s < 7; s++) {
        imf_noise(z, n, seeds[s]);
        for (size_t i = 0; i < n; i++)
            ck_assert_msg(fabsf(z[i] - want.values[s * n + i]) <= 1e-5f,
                          "seed %llu, number %zu: %.9g, expected %.9g",
                          (unsigned long long)seeds[s], i, (double)z[i],
                          (double)want.values[s * n + i]);
    }
    free(z);
    free(want.values);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("noise");
    TCase *tc = tcase_create("noise");
    tcase_add_test(tc, test_randn);
    suite_add_tcase(s, tc);
    return golden_main(s);
}
