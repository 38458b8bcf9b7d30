#!/bin/sh
# The C tests with AddressSanitizer and UndefinedBehaviorSanitizer: c-compiler c++-compiler build-dir
set -eu
build=$3
# clang leaves its own functions undefined in a shared library.
[ -d "$build/meson-private" ] || CC=$1 CXX=$2 meson setup --fatal-meson-warnings "$build" \
    -Db_sanitize=address,undefined -Db_lundef=false
meson compile -C "$build"
meson test -C "$build" --print-errorlogs
