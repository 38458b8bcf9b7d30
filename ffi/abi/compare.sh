#!/bin/sh
# The interface is the stored one: compiler header map soname stored
# QCONTEXT_UPDATE_ABI=1 stores what it is now, which is for changes that are meant: before a release anything, after it
# additions in a new node of the map.
set -eu
stored=$5
here=$(dirname "$0")
for tool in abidw abidiff; do
    command -v "$tool" >/dev/null || {
        echo "there is no $tool"
        exit 77
    }
done
fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
"$here/dump.sh" "$1" "$2" "$3" "$4" >"$fresh"
if [ -n "${QCONTEXT_UPDATE_ABI:-}" ]; then
    cat "$fresh" >"$stored"
fi
architecture() {
    sed -n "s/.* architecture='\([^']*\)'.*/\1/p" "$1" | head -n 1
}
if [ "$(architecture "$fresh")" != "$(architecture "$stored")" ]; then
    echo "stored for $(architecture "$stored"), this is $(architecture "$fresh")"
    exit 77
fi
abidiff --non-reachable-types "$stored" "$fresh" || {
    echo "The interface is not that of $stored. If this is meant: meson compile -C BUILD abi-update" >&2
    exit 1
}
