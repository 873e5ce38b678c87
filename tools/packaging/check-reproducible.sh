#!/bin/sh
# Builds HEAD twice, in two folders of different names, a minute of file times apart, and compares the program,
# libimf.a and the .deb byte by byte. Takes two whole builds. Everything is made without a compiler cache.
set -eu
umask 022 # cpack writes it into the .deb's outer archive
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
export CCACHE_DISABLE=1 SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
unset CMAKE_C_COMPILER_LAUNCHER CMAKE_CXX_COMPILER_LAUNCHER CMAKE_CUDA_COMPILER_LAUNCHER
for place in first another-and/longer; do
    tree=$folder/$place/tree
    mkdir -p "$tree"
    git archive HEAD | tar -x -C "$tree"
    cmake -S "$tree" -B "$folder/$place/b" -G Ninja -DIMFD_TESTS=OFF -DIMFD_CUDA=OFF \
        -DCMAKE_INSTALL_PREFIX=/usr >/dev/null
    cmake --build "$folder/$place/b" --parallel "${JOBS:-$(nproc)}" >/dev/null
    (cd "$folder/$place/b" && cpack -G DEB -B out >/dev/null &&
        sha256sum server/imfd engine/libimf.a out/*.deb | tee "$folder/${place%%/*}.sums")
    find "$tree" -exec touch -d '1 minute ago' {} + # the times of files are nobody's business
done
cmp "$folder/first.sums" "$folder/another-and.sums"
echo "same bytes"
