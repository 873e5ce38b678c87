#!/bin/sh
# A relocatable archive for any x86-64 Linux with glibc 2.34 and GCC 11's libstdc++, or later:
#
#   tools/packaging/bundle.sh [OUTPUT FOLDER]      imfd-VERSION-x86_64.tar.xz
#
#   imfd-VERSION/bin/imfd, lib/imfd/*.so*, share/imfd (the demo model), tools/gpu-first-run.sh
#
# Every library that imfd needs comes along but glibc and GCC's libstdc++ and libgcc, which fit one another; cuBLASLt
# (half a gigabyte), the driver and, for metrics alone, OpenBLAS and LAPACKE are the host's too. A file that needs
# a newer host than said is an error. Paths are relative: unpack anywhere and run. BUNDLE_ARCHS=90-real (or all)
# chooses the GPUs, BUNDLE_CUDA=OFF leaves the CUDA engine out, BUNDLE_BUILD names the build folder, which is taken
# as it is configured where it is; BUNDLE_PRESET is xz's.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
output=$(mkdir -p "${1:-$root/build}" && cd "${1:-$root/build}" && pwd)
build=${BUNDLE_BUILD:-$root/build/bundle}
version=$(sed -n 's/^project(imfd VERSION \([0-9.]*\).*/\1/p' "$root/CMakeLists.txt")

[ -f "$build/CMakeCache.txt" ] || cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DIMFD_TESTS=OFF -DIMFD_TRITON=OFF -DIMFD_CUDA="${BUNDLE_CUDA:-AUTO}" \
    -DIMFD_CUDA_ARCHS="${BUNDLE_ARCHS:-90-real}" >/dev/null
cmake --build "$build" --parallel "${JOBS:-$(nproc)}"
cmake --build "$build" --parallel "${JOBS:-$(nproc)}" --target imfd_relocatable

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
top=$stage/imfd-$version
cmake --install "$build" --prefix "$top" --component runtime --strip >/dev/null
rm -rf "$top/share/man" "$top/share/bash-completion" "$top/share/doc/imfd/sbom.json"
mkdir -p "$top/lib/imfd" "$top/tools"
cp "$build/relocatable/imfd" "$top/bin/imfd"
strip "$top/bin/imfd"
cp "$root/tools/gpu-first-run.sh" "$root/tools/gpu-first-run.py" "$root/tools/gpu-yardsticks.py" "$top/tools/"

ldd "$build/relocatable/imfd" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | while read -r library; do
    case ${library##*/} in
        libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.* | libresolv.so.* | ld-linux*) ;;
        libstdc++.so.* | libgcc_s.so.*) ;;
        *) cp -L "$library" "$top/lib/imfd/" ;;
    esac
done
strip --strip-unneeded "$top"/lib/imfd/*.so* 2>/dev/null || true
python3 "$root/tools/packaging/sbom.py" "$top/bin/imfd" >"$top/share/doc/imfd/sbom.json" ||
    rm -f "$top/share/doc/imfd/sbom.json"

# The newest version of each interface that any file asks for; a newer one than the host's is an error.
asked() {
    readelf -VW "$1" | sed -e '1,/needs section/d' -e 's/GLIBC_ABI_DT_RELR/GLIBC_2.36/' |
        sed -n "s/.*Name: $2_\([0-9.]*\) .*/\1/p"
}
newest() { sort -V | tail -1; }
failed=0
while read -r interface most; do
    for file in "$top/bin/imfd" "$top"/lib/imfd/*.so*; do
        [ "$({ asked "$file" "$interface"; echo "$most"; } | newest)" = "$most" ] && continue
        echo "${file##*/} needs $interface $(asked "$file" "$interface" | newest), newer than $most" >&2
        failed=1
    done
done <<END
GLIBC 2.34
GLIBCXX 3.4.29
CXXABI 1.3.13
GCC 11
END
[ "$failed" = 0 ] || exit 1

archive=$output/imfd-$version-x86_64.tar.xz
tar -C "$stage" --sort=name --owner=0 --group=0 --numeric-owner -cf - "imfd-$version" |
    xz -T0 --x86 --lzma2=preset="${BUNDLE_PRESET:-9e}" >"$archive"
echo "$archive: $(($(stat -c %s "$archive") / 1000000)) MB"
