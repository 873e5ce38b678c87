#!/bin/sh
# Formats the sources in place; with --check only says which would change, and fails then.
set -eu
cd "$(dirname "$0")/.."
case ${1:-} in
    --check) set -- --dry-run --Werror ;;
    "") set -- -i ;;
    *) echo "usage: tools/format.sh [--check]" >&2; exit 2 ;;
esac
find server engine kernels tests -type f \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' \) \
    -print0 | xargs -0 -n 20 clang-format "$@"
