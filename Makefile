# Two commands for a fresh Debian 12, as root or through sudo:
#   make serve   installs what is missing, builds, serves on http://127.0.0.1:8080
#   make test    installs what is missing, builds, runs every test (most of an hour on two cores)
#   make check   the quick part of them
#   make install builds and puts imfd into /usr/local (PREFIX=/usr, DESTDIR=... for packagers)
# Everything else is CMake: see CMakePresets.json.

USER_RUN := sh tools/as-user.sh
JOBS     ?= $(shell nproc)
PREFIX   ?= /usr/local
AS_ROOT  := $(shell [ "$$(id -u)" = 0 ] || [ -n "$(DESTDIR)" ] || [ -w "$(PREFIX)/bin" ] || echo sudo)
ARGS     ?=

# clang-format over every source.
format:
	@sh tools/format.sh

.PHONY: format serve install test check release dev tsan install-build install-test clean

serve: release
	@exec $(USER_RUN) build/release/server/imfd serve $(ARGS)

install: release
	@$(AS_ROOT) env DESTDIR="$(DESTDIR)" cmake --install build/release --prefix "$(PREFIX)" --component runtime >/dev/null
	@$(AS_ROOT) rm -f build/release/install_manifest_runtime.txt
	@echo "installed: $(DESTDIR)$(PREFIX)/bin/imfd"

test: install-test
	@$(USER_RUN) sh tools/run-tests.sh

check: install-test
	@$(USER_RUN) sh tools/check.sh

release dev tsan: %: install-build build/%/build.ninja
	@$(USER_RUN) cmake --build build/$* --parallel $(JOBS)

# Tests are configured in only where their packages are: `make serve` needs none of them.
build/%/build.ninja: CMakePresets.json | install-build
	@$(USER_RUN) cmake --preset $* -DIMFD_TESTS=$$(pkg-config --exists check && echo ON || echo OFF)

install-build:
	@sh tools/install-deps.sh build

install-test:
	@sh tools/install-deps.sh build test web
	@$(USER_RUN) sh tools/install-deps.sh python

clean:
	rm -rf build/dev build/release build/tsan
