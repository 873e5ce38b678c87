#!/bin/sh
# A relocatable archive for any x86-64 Linux with a glibc as old as the builder's needs (it says which):
#
#   tools/packaging/bundle.sh [OUTPUT FOLDER]      imfd-VERSION-x86_64.tar.xz
#
#   imfd-VERSION/bin/imfd, lib/imfd/*.so*, share/imfd (the demo model), tools/gpu-first-run.sh
#
# Every library that imfd needs comes along but glibc; cuBLASLt (half a gigabyte) and the driver are the
# host's. Paths are relative: unpack anywhere and run. BUNDLE_ARCHS=90-real (or all) chooses the GPUs,
# BUNDLE_CUDA=OFF leaves the CUDA engine out, BUNDLE_BUILD names the build folder.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
output=$(mkdir -p "${1:-$root/build}" && cd "${1:-$root/build}" && pwd)
build=${BUNDLE_BUILD:-$root/build/bundle}
version=$(sed -n 's/^project(imfd VERSION \([0-9.]*\).*/\1/p' "$root/CMakeLists.txt")

# DT_RPATH, which unlike DT_RUNPATH also holds for the libraries of libraries.
# shellcheck disable=SC2016 # the loader's $ORIGIN
cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DIMFD_TESTS=OFF \
    -DIMFD_CUDA="${BUNDLE_CUDA:-AUTO}" -DIMFD_CUDA_ARCHS="${BUNDLE_ARCHS:-90-real}" \
    -DCMAKE_INSTALL_RPATH='$ORIGIN/../lib/imfd' -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags \
    -DCMAKE_INSTALL_PREFIX="/imfd-$version" >/dev/null
cmake --build "$build" --parallel "${JOBS:-$(nproc)}"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
top=$stage/imfd-$version
DESTDIR=$stage cmake --install "$build" --component runtime --strip >/dev/null
rm -rf "${top:?}/etc" "$top/share/man" "$top/share/bash-completion"
mkdir -p "$top/lib/imfd" "$top/tools"
cp "$root/tools/gpu-first-run.sh" "$root/tools/gpu-first-run.py" "$root/tools/gpu-yardsticks.py" "$top/tools/"

# glibc's own libraries stay the host's: they fit its loader only.
ldd "$top/bin/imfd" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | while read -r library; do
    case ${library##*/} in
        libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.* | libresolv.so.* | ld-linux*) ;;
        *) cp -L "$library" "$top/lib/imfd/" ;;
    esac
done
strip --strip-unneeded "$top"/lib/imfd/*.so* 2>/dev/null || true

glibc=$(objdump -T "$top/bin/imfd" "$top"/lib/imfd/*.so* | sed -n 's/.*(\{0,1\}GLIBC_\([0-9.]*\)).*/\1/p' |
    sort -V | tail -1)
archive=$output/imfd-$version-x86_64.tar.xz
tar -C "$stage" --sort=name --owner=0 --group=0 --numeric-owner -cf - "imfd-$version" | xz -T0 -6 >"$archive"
echo "$archive: $(($(stat -c %s "$archive") / 1000000)) MB, needs glibc $glibc"
