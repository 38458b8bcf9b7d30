#!/bin/sh
# Builds the archive for meson: cargo src target-dir profile outdir output depfile
# CARGO_TARGET_DIR names a target directory that several build directories share.
set -eu
cargo=$1 target=${CARGO_TARGET_DIR:-$3} profile=$4 outdir=$5 output=$6 depfile=$7
# Also where a subproject is a symbolic link the source is the same for cargo.
src=$(cd "$2" && pwd -P)
"$cargo" build --locked --manifest-path "$src/Cargo.toml" --package qcontext-ffi --lib \
    --profile "$profile" --target-dir "$target"
cp "$target/$outdir/libqcontext_ffi.a" "$output"
sed "s|^[^:]*:|$output:|" "$target/$outdir/libqcontext_ffi.d" >"$depfile"
