#!/bin/sh
# Stands in for a test that needs what is not installed: name...
echo "not installed: $*"
exit 77
