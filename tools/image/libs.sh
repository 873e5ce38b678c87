#!/bin/sh
# Copies the shared libraries of DESTDIR/usr/bin/imfd into DESTDIR/usr/lib/imfd, for an image on
# another base than the build's. The C and C++ runtimes stay out: the base's are newer, and one
# process can have only one. Usage: libs.sh DESTDIR
# Every package that a file comes from is recorded with its licence, so that scanners find it where
# they look in images without a package manager: /var/lib/dpkg/status.d.
set -eu
out=$1
into=$out/usr/lib/imfd
records=$out/var/lib/dpkg/status.d
mkdir -p "$into" "$records"
ldd "$out/usr/bin/imfd" | awk '$3 ~ /^\// { print $3 }' |
    grep -Ev '/lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)\.so' | while read -r lib; do
    cp -L "$lib" "$into/"
    # dpkg knows the file's own name, not the links to it, and not always the folder (/lib is a link).
    package=$(dpkg-query -S "*/$(basename "$(readlink -f "$lib")")" | sed -n '1s/:.*//p')
    [ -n "$package" ] || { echo "libs.sh: no package has $lib" >&2; exit 1; }
    dpkg-query -s "$package" >"$records/$package"
    if [ -e "/usr/share/doc/$package/copyright" ]; then
        install -D -m 644 "/usr/share/doc/$package/copyright" "$out/usr/share/doc/$package/copyright"
    fi
done
[ -n "$(ls "$records")" ]
