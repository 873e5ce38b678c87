#!/bin/sh
# Makes a small Debian 12 for tests of the package and for images without a Docker engine:
# build/deploy/base.tar, unless it is there. As root; needs debootstrap and a network.
#   tools/packaging/make-base.sh [MIRROR]
set -eu
cd "$(dirname "$0")/../.."
mirror=${1:-http://deb.debian.org/debian}
mkdir -p build/deploy
# Two tests may want it at the same time.
exec 9>build/deploy/base.lock
flock 9
[ ! -f build/deploy/base.tar ] || exit 0
folder=$(mktemp -d build/deploy/base.XXXXXX)
trap 'rm -rf "$folder" build/deploy/base.tar.part' EXIT
trap 'exit 1' HUP INT TERM
debootstrap --variant=minbase --include=ca-certificates bookworm "$folder" "$mirror"
rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*
chmod 755 "$folder" # mktemp's is 700, and it becomes the root
tar -C "$folder" --numeric-owner -cf build/deploy/base.tar.part .
mv build/deploy/base.tar.part build/deploy/base.tar
echo "made build/deploy/base.tar"
