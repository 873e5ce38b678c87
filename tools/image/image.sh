#!/bin/sh
# Builds and starts the container image where no Docker engine runs and no registry is reached: as
# root, with podman, buildah and debootstrap, in a storage of its own, build/deploy/containers.
#   tools/image/image.sh base             a debootstrap'ed Debian 12 as debian:12-slim
#   tools/image/image.sh build [ARG..]    the image imfd:cpu; ARGs go to podman build
#   tools/image/image.sh size             MB of the base, and of the image beyond it
#   tools/image/image.sh serve [ARG..]    starts it by `buildah run --isolation=chroot`, in the
#                                         foreground; ARGs go to buildah (--env IMFD_LISTEN=...)
#   tools/image/image.sh podman ARG..     podman with that storage: run, exec, stop, ...
#   tools/image/image.sh clean            removes the storage
# `podman build` and `serve` need no namespaces and work nearly everywhere. `podman run` needs cgroups
# of one kind; on a machine that mixes v1 and v2, a mount namespace helps:
#   unshare -m sh -c 'mount -t cgroup2 none /sys/fs/cgroup && exec tools/image/image.sh podman run ...'
# with --cgroups=disabled and, for a root with limits of its own, --ulimit nofile=1024 --ulimit nproc=1024.
set -eu
cd "$(dirname "$0")/../.."
store=$PWD/build/deploy/containers
base=docker.io/library/debian:12-slim
image=${IMFD_IMAGE:-localhost/imfd:cpu}
driver=${STORAGE_DRIVER:-overlay}

# Both are told where the storage is and how it works: each would otherwise have its own idea, and
# buildah would not know the images that podman made.
with_storage() {
    tool=$1
    shift
    "$tool" --root "$store/root" --runroot "$store/run" --storage-driver "$driver" "$@"
}

# debian:12-slim leaves out documents and translations, but keeps licences; the same here.
make_base() {
    [ -e build/deploy/base.tar ] || sh tools/packaging/make-base.sh
    folder=$(mktemp -d build/deploy/slim.XXXXXX)
    trap 'rm -rf "$folder"' EXIT
    tar -C "$folder" -xf build/deploy/base.tar
    cat >"$folder/etc/dpkg/dpkg.cfg.d/docker" <<END
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/locale/*
END
    find "$folder/usr/share/doc" ! -type d ! -name copyright -delete
    rm -rf "$folder"/usr/share/man/* "$folder"/usr/share/locale/* "$folder"/var/cache/apt/*.bin \
        "$folder"/var/log/*.log
    tar -C "$folder" --numeric-owner -c . | with_storage podman import --change 'CMD ["bash"]' - "$base"
}

# buildah passes no signal on, and a signal to it kills the program. So it runs in a session of its
# own, and SIGTERM or Ctrl-C here goes to the last of its descendants, which is imfd.
drain() {
    process=$1
    while child=$(pgrep -P "$process"); do process=$child; done
    kill -TERM "$process"
}

serve() {
    container=$(with_storage buildah from --pull-never "$image")
    trap 'with_storage buildah rm "$container" >/dev/null' EXIT
    setsid buildah --root "$store/root" --runroot "$store/run" --storage-driver "$driver" \
        run --isolation=chroot "$@" "$container" -- imfd serve &
    engine=$!
    trap 'drain $engine' TERM INT
    status=0
    wait $engine || status=$?
    while kill -0 $engine 2>/dev/null; do # the wait was ended by a signal
        status=0
        wait $engine || status=$?
    done
    return $status
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
base)
    make_base
    ;;
build)
    with_storage podman image exists "$base" || make_base
    with_storage podman build --isolation=chroot --network=host --pull=never --format=docker --target cpu \
        --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
        --build-arg SOURCE="$(git remote get-url origin 2>/dev/null || true)" \
        --tag "$image" "$@" .
    ;;
size)
    of() { with_storage podman image inspect --format '{{.Size}}' "$1"; }
    echo "base $(($(of "$base") / 1000000)) MB, beyond it $((($(of "$image") - $(of "$base")) / 1000000)) MB"
    ;;
serve)
    serve "$@"
    ;;
podman)
    with_storage podman --cgroup-manager cgroupfs "$@"
    ;;
clean)
    with_storage podman rm --all --force
    with_storage podman rmi --all --force
    rm -rf "$store"
    ;;
*)
    sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 2
    ;;
esac
