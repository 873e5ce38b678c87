/* The emulator against small kernels with one planted bug each, and against what CUDA promises. One
 * file per subject: test_accesses.cu and so on. */
#include "test_emu.h"

int main(void)
{
    setenv("IMF_EMU_DEVICES", "2", 1);
    Suite *s = suite_create("cuda_emu");
    TCase *(*const cases[])(void) = {barrier_tests, access_tests,  async_copy_tests, fragment_tests,
                                     warp_tests,    counter_tests, limit_tests,      memory_tests,
                                     stream_tests,  cublaslt_tests};
    for (auto make : cases)
        suite_add_tcase(s, make());
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    imf_emu_reset();
    return failed ? 1 : 0;
}
