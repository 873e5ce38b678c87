/* Every operation of the CUDA device against plain loops, without the rest of imfd: what a machine
 * with a GPU, nvcc and gcc can build and run (cmake -DIMFD_ONLY_SELFCHECK=ON).
 *
 *   imfd-ops [fp32|bf16]...     both when none is named; exit status 1 on a miss */
#include "core/cuda_loader.h"
#include "reference/reference.h"

#include <stdio.h>
#include <string.h>

static int check(enum imf_precision precision)
{
    struct imf__device *d = NULL;
    struct imf_error err = {0};
    int failed = 0;
    if (imf__cuda_device_open(&d, 0, precision, &err) != IMF_OK) {
        fprintf(stderr, "imfd-ops: %s\n", err.message);
        return 1;
    }
    printf("%s\n", d->info.description);
    for (size_t i = 0; i < imf__op_case_count(); i++) {
        struct imf__op_report r;
        imf__op_check(d, i, &r);
        failed += !r.passed;
        printf("%s %s(%s): error %.2g of %.2g, worst %.2g of %.2g%s%s\n",
               !r.passed    ? "MISS    "
               : r.declined ? "declined"
                            : "ok      ",
               r.op, r.shape, r.error, r.bound, r.worst, r.worst_bound, r.passed ? "" : ": ",
               r.message);
    }
    printf("%s: %d of %zu cases missed\n", precision == IMF_PRECISION_BF16 ? "bf16" : "fp32",
           failed, imf__op_case_count());
    d->ops->destroy(d);
    return failed > 0;
}

int main(int argc, char **argv)
{
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "fp32") != 0 && strcmp(argv[i], "bf16") != 0) {
            fprintf(stderr, "usage: imfd-ops [fp32|bf16]...\n");
            return 2;
        }
    }
    bool all = argc == 1;
    for (int i = 1; i < argc || all; i++, all = false) {
        if (all)
            failed |= check(IMF_PRECISION_FP32) | check(IMF_PRECISION_BF16);
        else
            failed |= check(strcmp(argv[i], "bf16") == 0 ? IMF_PRECISION_BF16 : IMF_PRECISION_FP32);
    }
    return failed;
}
