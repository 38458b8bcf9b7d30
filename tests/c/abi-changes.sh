#!/bin/sh
# The ABI checks notice every kind of change they are there for: compiler ffi-dir stored-dump
set -eu
cc=$1 ffi=$2 stored=$3
command -v abidiff >/dev/null || {
    echo "there is no abidiff"
    exit 77
}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
header=$tmp/qcontext.h map=$tmp/qcontext.map soname=libqcontext.so.0
failures=0

fresh() {
    cp "$ffi/include/qcontext.h" "$header"
    cp "$ffi/qcontext.map" "$map"
}

# change FILE SED-SCRIPT: changes it, which must have an effect.
change() {
    cp "$1" "$tmp/before"
    sed -i "$2" "$1"
    if cmp -s "$1" "$tmp/before"; then
        echo "nothing to change by: $2" >&2
        exit 1
    fi
}

# noticed WHAT PATTERN COMMAND...: the command fails and says so.
noticed() {
    what=$1 pattern=$2
    shift 2
    if "$@" >"$tmp/said" 2>&1; then
        echo "not noticed: $what" >&2
        failures=$((failures + 1))
    elif ! grep -q "$pattern" "$tmp/said"; then
        echo "$what: not the expected complaint:" >&2
        head -n 20 "$tmp/said" >&2
        failures=$((failures + 1))
    fi
}

compare() {
    "$ffi/abi/compare.sh" "$cc" "$header" "$map" "$soname" "$stored"
}

fresh
compare

fresh
change "$header" '/^gboolean qcontext_iterate(/,/;$/d'
noticed "a removed function" "'function gboolean qcontext_iterate(.*{qcontext_iterate@@QCONTEXT_0.1}" compare
fresh
change "$header" 's/^uint32_t qcontext_version(void);/&\nvoid qcontext_new_one(void);/'
change "$map" 's/^ *global:/&\n    qcontext_new_one;/'
noticed "an added function" "'function void qcontext_new_one()'" compare
fresh
change "$header" 's/^\(void qcontext_notify(\)QContext/\1QContextAio/'
noticed "another type of parameter" "parameter 1 of type 'QContext\*' changed" compare
fresh
change "$header" 's/^uint32_t qcontext_version/uint16_t qcontext_version/'
change "$header" 's/^#include <stdint.h>/&\ntypedef unsigned short uint16_t;/'
noticed "another type of result" "return type changed" compare
fresh
change "$header" 's/^  QCONTEXT_ERROR_BUSY = 202/  QCONTEXT_ERROR_BUSY = 212/'
noticed "another value of an enum" "QCONTEXT_ERROR_BUSY' from value '202' to '212'" compare
fresh
change "$header" 's/^  uint32_t flags;/  uint32_t more;\n&/'
noticed "another layout of a struct" "'uint32_t more'" compare
fresh
change "$map" 's/^QCONTEXT_0.1/QCONTEXT_0.9/'
noticed "another version of the symbols" "\[D\] .*{qcontext_new@@QCONTEXT_0.1}" compare
fresh
soname=libqcontext.so.1
noticed "another soname" "SONAME changed from 'libqcontext.so.0' to 'libqcontext.so.1'" compare
soname=libqcontext.so.0

# check-abi.sh compares a library: here one of empty functions.
library() {
    "$ffi/abi/empty.sh" "$cc" "$header" "$map" "$soname" "$tmp/library.so"
}
symbols() {
    "$ffi/check-abi.sh" "$tmp/library.so" "$map" "$header"
}

fresh
library
symbols

change "$header" '/^gboolean qcontext_iterate(/,/;$/d'
noticed "a function that is not in the header" "> qcontext_iterate" symbols
fresh
change "$map" '/qcontext_iterate;/d'
noticed "a function that is not in the map" "< qcontext_iterate" symbols
fresh
change "$header" '/^gboolean qcontext_iterate(/,/;$/d'
library
fresh
noticed "a function that is not in the library" "< qcontext_iterate" symbols
fresh
echo '{ global: qcontext_*; local: *; };' >"$map"
library
fresh
noticed "symbols without a version" "symbols without a version" symbols
soname=libqcontext.so.1
library
soname=libqcontext.so.0
noticed "another soname of the library" "SONAME is not libqcontext.so.0" symbols

[ "$failures" -eq 0 ]
