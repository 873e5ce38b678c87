#!/bin/sh
# What tools say of the sources without running them: lint.sh format|tidy|shell|javascript [BUILD FOLDER]
# Exit status 77 (skipped, for ctest) where the tool is not installed. cppcheck was tried and is left out: on
# this tree it found nothing, and took allocations through out-parameters for uninitialised variables.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."

need() {
    command -v "$1" >/dev/null || {
        echo "$1 is not installed"
        exit 77
    }
}

case ${1:-} in
    format)
        need clang-format
        tools/format.sh --check
        ;;
    tidy)
        need clang-tidy
        # The compiler's own flags and pragmas, without those that clang does not know.
        # Nor files in gcc's own vector shuffles.
        find server engine -name '*.c' ! -name tiles_attention.c -print0 |
            xargs -0 -n 8 -P "$(nproc)" clang-tidy --quiet -p "$2" --extra-arg=-Wno-unknown-warning-option \
            --extra-arg=-Wno-unknown-pragmas 2>/dev/null
        ;;
    shell)
        need shellcheck
        find .ci tools tests conf -name '*.sh' -print0 | xargs -0 shellcheck .ci/run
        ;;
    javascript)
        need eslint
        # Debian's modules, also for a node that is not Debian's.
        NODE_PATH=/usr/share/nodejs eslint --no-eslintrc -c "$here/eslint.json" web/*.js
        ;;
    *)
        echo "usage: lint.sh format|tidy|shell|javascript [BUILD FOLDER]" >&2
        exit 2
        ;;
esac
