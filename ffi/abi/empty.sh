#!/bin/sh
# Makes a library of empty functions that has the interface of the header: compiler header map soname library
set -eu
cc=$1 header=$2 map=$3 soname=$4 library=$5
include=$(cd "$(dirname "$0")" && pwd)/include
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
{
    cat "$header"
    sed '/^ *\/\*/,/\*\//d; /^#/d' "$header" | awk '
        /qcontext_[a-z0-9_]+\(/ { inside = 1 }
        inside { sub(/;$/, " { __builtin_trap(); }"); print }
        /}$/ { inside = 0 }'
} >"$tmp/empty.c"
cp "$map" "$tmp/map"
cd "$tmp"
# Types that no function names are part of the interface too.
$cc -g -fno-eliminate-unused-debug-types -Werror -fPIC -shared empty.c -o empty.so -nostdlib \
    -nostdinc -I "$include" -Wl,-soname,"$soname",--version-script=map
cat empty.so >"$library"
