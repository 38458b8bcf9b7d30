#!/bin/sh
# A program outside the tree builds against the installed copy, shared and static, with nothing but pkg-config:
# source-dir build-dir
set -eu
source=$1 build=$2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
DESTDIR="$tmp/root" "${MESON:-meson}" install -C "$build" --no-rebuild --quiet
pc=$(find "$tmp/root" -name qcontext.pc)
lib=$(dirname "$(dirname "$pc")")
# The installed copy stands in a DESTDIR.
sed -i "s|^prefix=|prefix=$tmp/root|" "$pc"
export PKG_CONFIG_PATH="$(dirname "$pc")${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"
flags() {
    pkg-config "$@" qcontext
}
test "$(flags --modversion)" = "$(sed -n 's/^version = "\(.*\)"/\1/p' "$source/Cargo.toml" | head -1)"
cp "$source/tests/c/header.c" "$tmp/program.c"
${CC:-cc} "$tmp/program.c" -o "$tmp/shared" $(flags --cflags --libs)
LD_LIBRARY_PATH="$lib" "$tmp/shared"
objdump -p "$tmp/shared" | grep -q 'NEEDED *libqcontext\.so\.0$'
# Only the static library is left to be found.
rm "$lib"/libqcontext.so*
${CC:-cc} "$tmp/program.c" -o "$tmp/static" $(flags --cflags --libs --static)
"$tmp/static"
