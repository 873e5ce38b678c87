/* How many threads a container's quota pays for. */
#include "cpu/processors.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/imfd-cgroup-XXXXXX";

static void write_max(const char *group, const char *text)
{
    char path[256];
    snprintf(path, sizeof(path), "%s%s", root, group);
    mkdir(path, 0700);
    strncat(path, "/cpu.max", sizeof(path) - strlen(path) - 1);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

static void drop(const char *group)
{
    char path[256];
    snprintf(path, sizeof(path), "%s%s/cpu.max", root, group);
    unlink(path);
    snprintf(path, sizeof(path), "%s%s", root, group);
    rmdir(path);
}

START_TEST(test_quota)
{
    ck_assert_ptr_nonnull(mkdtemp(root));
    write_max("/a", "350000 100000\n");
    write_max("/a/b", "max 100000\n");
    write_max("/a/c", "50000 100000\n");
    write_max("/bad", "many 0\n");
    ck_assert_int_eq(imf__processor_quota(root, "0::/a\n"), 4);
    ck_assert_int_eq(imf__processor_quota(root, "0::/a/b\n"), 4); /* of the group above */
    ck_assert_int_eq(imf__processor_quota(root, "1:name=systemd:/x\n0::/a/c\n"), 1);
    ck_assert_int_eq(imf__processor_quota(root, "0::/bad\n"), 0);
    ck_assert_int_eq(imf__processor_quota(root, "0::/\n"), 0);
    ck_assert_int_eq(imf__processor_quota(root, "1:cpu:/a\n"), 0);
    ck_assert_int_eq(imf__processor_quota(root, ""), 0);
    write_max("", "200000 100000\n"); /* a container sees its own group as the root */
    ck_assert_int_eq(imf__processor_quota(root, "0::/\n"), 2);
    ck_assert_int_eq(imf__processor_quota(root, "0::/a\n"), 2);
    drop("/a/b");
    drop("/a/c");
    drop("/a");
    drop("/bad");
    drop("");
    ck_assert_int_ge(imf__processors(), 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("processors");
    TCase *tc = tcase_create("quota");
    tcase_add_test(tc, test_quota);
    suite_add_tcase(s, tc);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
