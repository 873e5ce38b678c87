# Two commands for a fresh Debian 12, as root or through sudo:
#   make serve   installs what is missing, builds, serves on http://127.0.0.1:8080
#   make test    installs what is missing, builds, runs every test (most of an hour on two cores)
#   make check   the quick part of them
# Everything else is CMake: see CMakePresets.json.

USER_RUN := sh tools/as-user.sh
JOBS     ?= $(shell nproc)
ARGS     ?=

# clang-format over every source.
format:
	@sh tools/format.sh

.PHONY: format serve test check release dev tsan install-build install-test clean

serve: release
	@exec $(USER_RUN) build/release/server/imfd serve $(ARGS)

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
