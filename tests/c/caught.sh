#!/bin/sh
# A tool reports a mistake, and reports none where there is none: pattern fault program...
# The program is given the name of the fault last, and once "none".
set -eu
pattern=$1 fault=$2
shift 2
if said=$("$@" "$fault" 2>&1); then
    echo "the tool did not report '$fault'" >&2
    exit 1
fi
echo "$said" | grep "$pattern"
"$@" none
