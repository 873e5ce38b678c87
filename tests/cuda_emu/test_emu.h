#ifndef TEST_EMU_H
#define TEST_EMU_H

#include <check.h>

/* The cuBLASLt cases, in test_emu_api.cpp. */
void add_api_tests(Suite *s);

#endif
