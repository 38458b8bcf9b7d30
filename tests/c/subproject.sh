#!/bin/sh
# Another project builds with this one as its subproject, and its programs run: source-dir build-dir
set -eu
source=$1
# What the build outside has compiled need not be compiled again.
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$2/cargo}
export CARGO_TARGET_DIR
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cp -r "$source/tests/c/subproject" "$tmp/user"
cp "$source/tests/c/header.c" "$tmp/user/program.c"
mkdir "$tmp/user/subprojects"
ln -s "$source" "$tmp/user/subprojects/qcontext"
meson=${MESON:-meson}
# Whether the pkg-config file of an installed copy is there does not matter.
"$meson" setup --fatal-meson-warnings --buildtype=debugoptimized --wrap-mode=forcefallback "$tmp/build" "$tmp/user"
"$meson" compile -C "$tmp/build"
"$meson" test -C "$tmp/build" --print-errorlogs
