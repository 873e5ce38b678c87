#!/bin/sh
# The quick part of the tests, in a build of its own without CUDA, sanitizers and fuzzing: units, the
# command line's usage, the wire, one golden model. Minutes, where tools/run-tests.sh takes most of an hour.
set -eu
cd "$(dirname "$0")/.." || exit 1
jobs=${JOBS:-$(nproc)}
cmake --preset release -B build/check -DIMFD_TESTS=ON -DIMFD_CUDA=OFF -DIMFD_FUZZ=OFF -DIMFD_TEST_EMULATOR=OFF >/dev/null
cmake --build build/check --parallel "$jobs"
ctest --test-dir build/check --parallel "$jobs" --timeout 300 --output-on-failure \
    -R '^(test_|cli_usage|cli_weights|http_protocol|http_generate|http_resource|golden_mit$|structure)'
