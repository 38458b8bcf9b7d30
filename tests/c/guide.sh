#!/bin/sh
# The example of a text compiles and does what it says: text compiler library-dir include-dir
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
# shellcheck disable=SC2016 # nothing is to be expanded
sed -n '/^```c$/,/^```$/p' "$1" | sed '/^```/d' >"$tmp/example.c"
# shellcheck disable=SC2046 # a list of words
"$2" -Wall -Wextra -Werror "$tmp/example.c" -o "$tmp/example" -I "$4" -L "$3" -lqcontext $(pkg-config --cflags --libs glib-2.0)
LD_LIBRARY_PATH="$3" "$tmp/example" >"$tmp/said"
grep -q '^queued on thread [0-9]' "$tmp/said"
grep -q '^waited for on thread [0-9]' "$tmp/said"
