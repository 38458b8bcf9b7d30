#!/bin/sh
# Describes the interface as a C program sees it, for abidiff: compiler header map soname >dump
# The types are those of a library of empty functions that is made of the header: the real one is compiled from Rust, whose
# debug information shows Rust's types and changes with its compiler. That the real one has just these symbols is checked
# by check-abi.sh.
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$(dirname "$0")/empty.sh" "$1" "$2" "$3" "$4" "$tmp/empty.so"
abidw --load-all-types --no-show-locs --no-comp-dir-path --no-corpus-path --type-id-style hash "$tmp/empty.so"
