#!/bin/sh
# Every function and macro of the compatibility headers is used by some test: header header test...
set -eu
headers="$1 $2"
shift 2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
{
    # shellcheck disable=SC2086 # a list of files
    sed -n 's/^static inline .*[ *]\([a-zA-Z_0-9]*\)(.*/\1/p' $headers
    # shellcheck disable=SC2086 # a list of files
    sed -n 's/^#define \([a-zA-Z_0-9]*\)(.*/\1/p' $headers
} | grep -v '^qcontext_compat_\|^AIO_WAIT_WHILE_INTERNAL$' | LC_ALL=C sort -u >"$tmp/names"
[ "$(wc -l <"$tmp/names")" -gt 100 ]
while read -r name; do
    grep -qwh -- "$name" "$@" || echo "$name"
done <"$tmp/names" >"$tmp/missed"
if [ -s "$tmp/missed" ]; then
    echo "no test uses:" >&2
    cat "$tmp/missed" >&2
    exit 1
fi
