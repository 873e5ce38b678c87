#!/bin/sh
# Installs what imfd needs on Debian 12. Usage: tools/install-deps.sh [build] [test] [web] [python]
# Looks first and installs only what is missing, with one apt-get call; silent when nothing is.
# "python" puts Python test tools into a virtual environment, build/venv, never into the system.
set -eu
cd "$(dirname "$0")/.."

# package            needed for   why
table="
gcc                  build        compiler
libc6-dev            build        C library headers
cmake                build        build system
ninja-build          build        build system
pkg-config           build        finds the libraries
libdnnl-dev          build        oneDNN: matrices and convolutions on the CPU
libmicrohttpd-dev    build        HTTP
libuv1-dev           build        event loop
libcjson-dev         build        JSON
libdeflate-dev       build        deflate and checksums of PNGs
libpng-dev           build        pictures
libjpeg62-turbo-dev  build        pictures
libwebp-dev          build        pictures
zlib1g-dev           build        deflated .npz files
liblapacke-dev       build        eigenvalues of FID
libopenblas-dev      build        matrices of the metrics in float64
libxxhash-dev        build        fingerprints
uthash-dev           build        hash tables
check                test         C unit tests
libopenmpi-dev       test         imfd evaluate on several machines (optional in a build)
openmpi-bin          test         evaluate over ranks
g++                  test         the CUDA emulator is C++
clang                test         fuzz targets (libFuzzer)
curl                 test         HTTP tests
python3              test         HTTP and command line tests
python3-venv         test         Python test tools
nginx-light          test         conf/nginx before real replicas
haproxy              test         conf/haproxy before real replicas
openssl              test         certificate of those tests
prometheus           test         promtool: conf/prometheus
systemd              test         systemd-analyze: conf/imfd.service
devscripts           test         hardening-check
dpkg-dev             test         dependencies of the .deb
debootstrap          test         a Debian 12 to install the .deb in
podman               test         the container image, without a Docker engine
buildah              test         the same image in a chroot
mandoc               test         manual page
libimage-exiftool-perl test       metadata of pictures, read by another program
clang-format         test         lint
clang-tidy           test         lint
shellcheck           test         lint
eslint               test         lint of the page
chromium             web          drives the web page
chromium-driver      web          drives the web page
"

groups=" ${*:-build} "

missing=$(printf '%s\n' "$table" | while read -r package group why; do
    case "$groups" in *" $group "*) ;; *) continue ;; esac
    [ -n "$why" ] || continue # the table's empty lines
    # "ii": installed and configured.
    case "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" in
        ii*) ;;
        *) printf ' %s' "$package" ;;
    esac
done)

if [ -n "$missing" ]; then
    as_root=""
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "imfd: these packages are missing and there is no sudo; as root, run:" >&2
            echo "  apt-get install --no-install-recommends$missing" >&2
            exit 1
        fi
        as_root="sudo"
    fi
    echo "imfd: installing with apt:$missing"
    $as_root apt-get update -qq
    # The packages of servers start them. policy-rc.d forbids it for this call; one that is there already is
    # its owner's decision, and stays.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ] && [ ! -L $policy ]; then
        trap '$as_root rm -f $policy' EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\n# imfd: no server starts while its tests\047 packages are installed.\nexit 101\n' |
            $as_root tee $policy >/dev/null
        $as_root chmod 755 $policy
    fi
    # shellcheck disable=SC2086 # a list of words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
    # Nor at the next start of the machine. Those that were installed before are left as they are.
    if command -v systemctl >/dev/null; then
        for package in $missing; do
            case $package in
                nginx-light) unit=nginx ;;
                haproxy | prometheus) unit=$package ;;
                *) continue ;;
            esac
            $as_root systemctl disable "$unit" >/dev/null 2>&1 || true
        done
    fi
fi

# The virtual environment is made anew when the list of requirements has changed.
case $groups in
    *" python "*)
        wanted=$(cksum <tests/requirements.txt)
        if [ "$wanted" != "$(cat build/venv/imfd-requirements 2>/dev/null || true)" ]; then
            echo "imfd: installing the packages of tests/requirements.txt with pip into build/venv"
            rm -rf build/venv
            mkdir -p build
            python3 -m venv build/venv
            # Without PyPI the conformance tests say that they are skipped; nothing else needs it.
            if build/venv/bin/pip install --quiet --disable-pip-version-check \
                -r tests/requirements.txt; then
                printf '%s\n' "$wanted" >build/venv/imfd-requirements
            else
                echo "imfd: pip failed: the conformance tests will be skipped" >&2
            fi
        fi
        ;;
esac
