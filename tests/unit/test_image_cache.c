/* The PNG cache: bounded in bytes, least recently used out first, references counted; random use
 * agrees with a plain model of it. */
#include "scheduler/image_cache.h"
#include "run_suite.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static struct picture_key key_of(int label, uint64_t seed)
{
    return (struct picture_key){
        .label = label, .seed = seed, .sampling = {.steps = 1, .omega = 8, .t_min = 0, .t_max = 1}};
}

static void put(struct image_cache *c, int label, size_t size)
{
    struct blob *b = blob_new(size);
    memset(b->data, label, size);
    struct picture_key key = key_of(label, 1);
    image_cache_put(c, &key, b);
    blob_drop(b);
}

static bool has(struct image_cache *c, int label)
{
    struct picture_key key = key_of(label, 1);
    return image_cache_has(c, &key);
}

/* Every field tells pictures apart; both zeros are one. */
START_TEST(test_keys)
{
    struct image_cache *c = image_cache_new(100000);
    struct picture_key first = key_of(7, 9), other;
    struct blob *b = blob_new(10);
    image_cache_put(c, &first, b);
    blob_drop(b);
#define DIFFERS(field, value)                                                                      \
    other = first;                                                                                 \
    other.field = value;                                                                           \
    ck_assert(!image_cache_has(c, &other))
    DIFFERS(model, 1);
    DIFFERS(label, 8);
    DIFFERS(seed, 9 + ((uint64_t)1 << 32));
    DIFFERS(sampling.steps, 2);
    DIFFERS(sampling.omega, 8.5f);
    DIFFERS(sampling.t_min, 0.1f);
    DIFFERS(sampling.t_max, 0.9f);
    DIFFERS(encoding.format, 1);
    DIFFERS(encoding.quality, 90);
    other = first;
    other.sampling.t_min = -0.0f;
    picture_key_normalise(&other);
    ck_assert(image_cache_has(c, &other));
    image_cache_free(c);
}
END_TEST

START_TEST(test_bounded)
{
    struct image_cache *c = image_cache_new(10000);
    for (int i = 0; i < 4; i++)
        put(c, i, 2000);
    ck_assert_uint_eq(image_cache_entries(c), 4);
    struct picture_key first = key_of(0, 1);
    struct blob *kept = image_cache_get(c, &first); /* now the most recent */
    ck_assert_ptr_nonnull(kept);
    put(c, 4, 2000);
    ck_assert(has(c, 0) && !has(c, 1) && has(c, 4));
    ck_assert_uint_le(image_cache_bytes(c), 10000);
    put(c, 5, 2600); /* over a quarter */
    ck_assert(!has(c, 5));
    for (int i = 10; i < 20; i++)
        put(c, i, 2000);
    ck_assert(!has(c, 0));
    ck_assert_uint_eq(kept->data[1999], 0); /* ours still */
    blob_drop(kept);
    image_cache_free(c);
    image_cache_free(NULL);
}
END_TEST

START_TEST(test_off)
{
    struct image_cache *c = image_cache_new(0);
    put(c, 1, 0);
    ck_assert(!has(c, 1));
    ck_assert_uint_eq(image_cache_bytes(c), 0);
    image_cache_free(c);
}
END_TEST

/* The model: an array in order of use. */
START_TEST(test_random)
{
    srand((unsigned)_i);
    struct image_cache *c = image_cache_new(300000);
    int order[400], count = 0;
    for (int op = 0; op < 20000; op++) {
        int label = rand() % 600, at = 0;
        while (at < count && order[at] != label)
            at++;
        struct picture_key key = key_of(label, 1);
        if (rand() % 2 == 0) {
            struct blob *b = image_cache_get(c, &key);
            ck_assert_int_eq(b != NULL, at < count);
            if (b) {
                ck_assert_uint_eq(b->data[0], (uint8_t)label);
                blob_drop(b);
                memmove(order + at, order + at + 1, (size_t)(count - at - 1) * sizeof(*order));
                order[count - 1] = label;
            }
        } else {
            size_t before = image_cache_entries(c);
            put(c, label, 1000 + (size_t)(label % 50));
            if (at == count) {
                int evicted = (int)(before + 1 - image_cache_entries(c));
                memmove(order, order + evicted, (size_t)(count - evicted) * sizeof(*order));
                count -= evicted;
                order[count++] = label;
            }
        }
        ck_assert_int_eq((int)image_cache_entries(c), count);
        ck_assert_uint_le(image_cache_bytes(c), 300000);
    }
    ck_assert_int_gt(count, 200);
    for (int i = 0; i < count; i++)
        ck_assert(has(c, order[i]));
    image_cache_free(c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("image_cache");
    TCase *tc = tcase_create("image_cache");
    tcase_add_test(tc, test_keys);
    tcase_add_test(tc, test_bounded);
    tcase_add_test(tc, test_off);
    tcase_add_loop_test(tc, test_random, 0, 5);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
