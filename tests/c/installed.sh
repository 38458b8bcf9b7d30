#!/bin/sh
# What is installed is all there, and a program outside the tree builds against it, shared and static, with nothing but
# pkg-config: source-dir build-dir
set -eu
source=$1 build=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
DESTDIR="$tmp/root" "${MESON:-meson}" install -C "$build" --no-rebuild --quiet
pc=$(find "$tmp/root" -name qcontext.pc)
lib=$(dirname "$(dirname "$pc")")
# The installed copy stands in a DESTDIR.
sed -i "s|^prefix=|prefix=$tmp/root|" "$pc"
PKG_CONFIG_PATH="$(dirname "$pc")${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"
export PKG_CONFIG_PATH
flags() {
    pkg-config "$@" qcontext
}

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$source/Cargo.toml" | head -n 1)
test "$(flags --modversion)" = "$version"
test "$(readlink "$lib/libqcontext.so")" = libqcontext.so.0
test "$(readlink "$lib/libqcontext.so.0")" = "libqcontext.so.$version"
test -f "$lib/libqcontext.so.$version"
include=$(flags --variable=includedir)
for header in qcontext.h qcontext-compat.h qcontext-compat-2013.h; do
    cmp "$include/$header" "$source/ffi/include/$header"
done
"$source/ffi/check-abi.sh" "$lib/libqcontext.so.$version" "$source/ffi/qcontext.map" "$include/qcontext.h"

cp "$source/tests/c/header.c" "$tmp/program.c"
# shellcheck disable=SC2046 # a list of words
${CC:-cc} "$tmp/program.c" -o "$tmp/shared" $(flags --cflags --libs)
LD_LIBRARY_PATH="$lib" "$tmp/shared"
objdump -p "$tmp/shared" | grep -q 'NEEDED *libqcontext\.so\.0$'
# Only the static library is left to be found.
rm "$lib"/libqcontext.so*
# shellcheck disable=SC2046 # a list of words
${CC:-cc} "$tmp/program.c" -o "$tmp/static" $(flags --cflags --libs --static)
"$tmp/static"
