/* Packed weights share blocks of memory: each is zeroed, nobody else's, and given back in any
 * order. */
#include "cpu/internal.h"
#include "run_suite.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { PIECES = 15 };

static size_t size_of(int i)
{
    static const size_t sizes[] = {
        0, 1, 4096, 100000, (size_t)3 << 20, ((size_t)20 << 20) + 5, (size_t)40 << 20};
    return sizes[(size_t)i % (sizeof(sizes) / sizeof(sizes[0]))];
}

static bool holds(const unsigned char *p, size_t size, int value)
{
    for (size_t i = 0; i < size; i += 61)
        if (p[i] != value)
            return false;
    return size == 0 || p[size - 1] == value;
}

START_TEST(test_weights)
{
    unsigned char *p[PIECES];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < PIECES; i++) {
            p[i] = cpu_weights_alloc(size_of(i));
            ck_assert_ptr_nonnull(p[i]);
            ck_assert_uint_eq((uintptr_t)p[i] % 64, 0);
            ck_assert(holds(p[i], size_of(i), 0));
            memset(p[i], i + 1, size_of(i));
        }
        for (int i = 0; i < PIECES; i++)
            ck_assert(holds(p[i], size_of(i), i + 1));
        for (int i = 0; i < PIECES; i++) { /* another order */
            const int at = i * 7 % PIECES;
            ck_assert(holds(p[at], size_of(at), at + 1));
            cpu_weights_free(p[at]);
        }
        cpu_weights_free(NULL);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("memory");
    TCase *tc = tcase_create("memory");
    tcase_add_test(tc, test_weights);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
