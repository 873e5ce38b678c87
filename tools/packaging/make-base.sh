#!/bin/sh
# Makes a small Debian 12 for tests of the package and for images without a Docker engine:
# build/deploy/base.tar. As root; needs debootstrap and a network.
set -eu
cd "$(dirname "$0")/../.."
mirror=${1:-http://deb.debian.org/debian}
mkdir -p build/deploy
folder=$(mktemp -d build/deploy/base.XXXXXX)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase --include=ca-certificates bookworm "$folder" "$mirror"
rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*
tar -C "$folder" --numeric-owner -cf build/deploy/base.tar .
echo "made build/deploy/base.tar"
