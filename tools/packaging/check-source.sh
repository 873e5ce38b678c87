#!/bin/sh
# Builds the source tarball in a Debian 12 that has nothing but what tools/install-deps.sh installs, and draws
# a picture there. As root; needs debootstrap and a network; takes some minutes.
#   tools/packaging/check-source.sh [BUILD]     default: build/release, which has to be configured
set -eu
cd "$(dirname "$0")/../.."
build=$(realpath "${1:-build/release}")
sh tools/packaging/make-base.sh
folder=$(mktemp -d build/deploy/source.XXXXXX)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
cpack --config "$build/CPackSourceConfig.cmake" -B "$folder/out" >/dev/null
mkdir "$folder/root"
tar -C "$folder/root" --numeric-owner -xf build/deploy/base.tar
chmod 755 "$folder/root"
cp /etc/resolv.conf "$folder/root/etc/resolv.conf"
echo force-unsafe-io >"$folder/root/etc/dpkg/dpkg.cfg.d/test" # it does not outlive this script
tar -C "$folder/root/root" -xf "$folder"/out/imfd-*.tar.gz
cat >"$folder/root/build.sh" <<'END'
set -eu
cd /root/imfd-*
sh tools/install-deps.sh build
cmake -S . -B b -G Ninja -DIMFD_TESTS=OFF -DIMFD_CUDA=OFF
cmake --build b --parallel "$JOBS"
b/server/imfd sample --demo --classes 0-7 -o /picture.png
END
# The mount of /proc ends with the name space.
# shellcheck disable=SC2016 # $0 is the inner shell's
unshare --mount sh -c 'mount --rbind /proc "$0/proc" && exec chroot "$0" env -i \
    PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 JOBS="$1" sh /build.sh' \
    "$folder/root" "${JOBS:-$(nproc)}"
head -c 4 "$folder/root/picture.png" | grep -q PNG
echo "$(basename "$folder"/out/imfd-*.tar.gz): builds in Debian 12 and draws"
