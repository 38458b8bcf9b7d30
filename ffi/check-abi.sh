#!/bin/sh
# The functions of the header, the names of the map and the symbols of the library are the same, all versioned:
# library map header
set -eu
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
nm -D --with-symbol-versions --defined-only "$1" | awk '$2 != "A" { print $3 }' | LC_ALL=C sort >"$tmp/nm"
sed -n '/global:/,/local:/s/^ *\([a-z0-9_]*\);.*/\1/p' "$2" | LC_ALL=C sort >"$tmp/map"
sed '/^ *\/\*/,/\*\//d; /^#/d' "$3" | grep -oE '\bqcontext_[a-z0-9_]+\(' | tr -d '(' | LC_ALL=C sort -u >"$tmp/header"
sed 's/@.*//' "$tmp/nm" >"$tmp/bare"
test -s "$tmp/map"
diff "$tmp/header" "$tmp/map"
diff "$tmp/map" "$tmp/bare"
if grep -v '@@QCONTEXT_' "$tmp/nm"; then
    echo "symbols without a version" >&2
    exit 1
fi
objdump -p "$1" | grep -q 'SONAME *libqcontext\.so\.0$' || {
    echo "SONAME is not libqcontext.so.0" >&2
    exit 1
}
