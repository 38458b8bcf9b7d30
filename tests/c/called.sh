#!/bin/sh
# Every function of the library is called by some test, at run time: the dynamic linker says what it binds at a first call.
# map program...
set -eu
map=$1
shift
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset LD_BIND_NOW
for program in "$@"; do
    LD_DEBUG=bindings LD_DEBUG_OUTPUT="$tmp/bindings" "$program" >"$tmp/said" 2>&1 || {
        cat "$tmp/said" >&2
        exit 1
    }
done
sed -n '/global:/,/local:/s/^ *\([a-z0-9_]*\);.*/\1/p' "$map" | LC_ALL=C sort >"$tmp/map"
sed -n "s/.*binding file .*\/test-[a-z0-9-]* .* to .*libqcontext\.so.*normal symbol .\(qcontext_[a-z0-9_]*\)'.*/\1/p" "$tmp"/bindings.* |
    LC_ALL=C sort -u >"$tmp/called"
test -s "$tmp/map"
test -s "$tmp/called"
LC_ALL=C comm -23 "$tmp/map" "$tmp/called" >"$tmp/missed"
if [ -s "$tmp/missed" ]; then
    echo "no test calls:" >&2
    cat "$tmp/missed" >&2
    exit 1
fi
