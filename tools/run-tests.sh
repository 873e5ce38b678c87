#!/bin/sh
# Builds the three presets and runs every test in the one where it says most:
#   dev      AddressSanitizer and UBSan: unit, ops, golden, command line, HTTP
#   tsan     ThreadSanitizer: the tests labelled "threads" (server and scheduler)
#   release  the tests labelled "release" (conformance, browser, fuzzing) or "golden", the
#            full-size ones among them where ../shared is there
# A test without any of these labels runs under dev only. The last lines are each build's ctest summary
# and the total. Set IMFD_TEST_BUILDS="dev" to run fewer.
set -u
cd "$(dirname "$0")/.." || exit 1
jobs=${JOBS:-$(nproc)}
builds=${IMFD_TEST_BUILDS:-dev tsan release}
logs=build/test-logs
mkdir -p "$logs"
rm -f "$logs"/*

export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_stack_use_after_return=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"
export TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1 suppressions=$PWD/tests/tsan.supp}"
export CTEST_OUTPUT_ON_FAILURE=1

status=0
for build in $builds; do
    echo "== $build: build"
    # The emulator is the same in every build, so one is enough; what lasts wants an optimised one.
    case $build in
        dev) emulator=ON ;;
        release) emulator=FULL ;;
        *) emulator=OFF ;;
    esac
    if ! { cmake --preset "$build" -DIMFD_TESTS=ON -DIMFD_TEST_EMULATOR="$emulator" &&
        cmake --build "build/$build" --parallel "$jobs"; } >"$logs/$build-build.txt" 2>&1; then
        tail -n 60 "$logs/$build-build.txt"
        echo "imfd: the $build build failed" >&2
        exit 1
    fi
    case $build in
        dev) select="-LE release" ;;
        tsan) select="-L threads" ;;
        *) select="-L release|golden" ;;
    esac
    echo "== $build: test"
    # Shown while it runs: the whole takes most of an hour on two cores.
    # shellcheck disable=SC2086 # $select is two words
    {
        ctest --test-dir "build/$build" $select --parallel "$jobs" --no-tests=ignore --timeout 600 2>&1
        echo $? >"$logs/$build.status"
    } | tee "$logs/$build.txt"
    [ "$(cat "$logs/$build.status")" = 0 ] || status=1
done

# "100% tests passed, 0 tests failed out of 41", per build and in all.
echo
passed=0 failed=0 skipped=0
for build in $builds; do
    line=$(grep 'tests passed,' "$logs/$build.txt" || echo "no tests")
    echo "$build: $line"
    total=$(expr "$line" : '.*out of \([0-9]*\)') || total=0
    bad=$(expr "$line" : '.* \([0-9]*\) tests* failed') || bad=0
    # ctest counts what was skipped among what passed.
    skips=$(grep -c '[*]Skipped' "$logs/$build.txt") || skips=0
    [ "$skips" = 0 ] || echo "$build: $skips skipped"
    failed=$((failed + bad))
    skipped=$((skipped + skips))
    passed=$((passed + total - bad - skips))
done
[ "$passed" -gt 0 ] || status=1
echo "$passed passed, $failed failed, $skipped skipped"
exit $status
