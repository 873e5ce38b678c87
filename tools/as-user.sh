#!/bin/sh
# Runs a command as the person who called sudo, so that `sudo make serve` leaves no files of root's
# in that person's tree. Without sudo, or in a tree that belongs to somebody else, just runs it.
set -eu
if [ "$(id -u)" -eq 0 ] && [ -n "${SUDO_UID:-}" ] && [ "$SUDO_UID" -ne 0 ] &&
    [ "$(stat -c %u .)" = "$SUDO_UID" ]; then
    HOME=$(getent passwd "$SUDO_UID" | cut -d: -f6)
    export HOME
    # shellcheck disable=SC2153 # sudo sets both
    exec setpriv --reuid="$SUDO_UID" --regid="$SUDO_GID" --init-groups -- "$@"
fi
exec "$@"
