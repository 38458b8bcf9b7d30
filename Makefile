# The two commands: `make run` shows it working, `make test` proves it. Both install what they need.
CARGO ?= cargo

run: ready
	$(CARGO) build --locked --release --bin qctx
	target/release/qctx
	tests/guest/run

test: ready
	CARGO="$(CARGO)" tests/all

bench: ready
	tests/guest/packages libuv1-dev libevent-dev
	$(CARGO) bench --locked --bench disk
	$(CARGO) bench --locked --bench machine -- --out target/bench
	$(CARGO) bench --locked --bench contention -- --out target/bench
	$(CARGO) run --locked --release --manifest-path tests/bench/loops/Cargo.toml --features peers \
	    --target-dir target/loops -- --out target/bench

# Long runs of what `make test` does briefly. SOAK_SECONDS, MODEL_SECONDS (for each model of a context's end and each scenario)
# and FUZZ_SECONDS (for each target) say how long.
SOAK_SECONDS ?= 600
MODEL_SECONDS ?= 60
FUZZ_SECONDS ?= 60
soak: ready
	SOAK_SECONDS=$(SOAK_SECONDS) $(CARGO) test --locked --test soak -- --nocapture
	RUSTFLAGS="--cfg loom" SOAK_SECONDS=$(MODEL_SECONDS) $(CARGO) test --locked --release --target-dir target/loom \
	    -p gsource --lib loom_
	RUSTFLAGS="--cfg shuttle -C debug-assertions" SOAK_SECONDS=$(MODEL_SECONDS) $(CARGO) test --locked --release \
	    --target-dir target/shuttle -p gsource --lib shuttle_
	CARGO="$(CARGO)" SOAK_SECONDS=$(MODEL_SECONDS) tests/asan \
	    -p gsource -p qcontext -p qcontext-ffi -p qcontext-shared-test --lib --tests --no-fail-fast

fuzz:
	tests/guest/packages
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --locked --release --test fuzz -- --nocapture

# The program, the C library with its headers and pkg-config file. DESTDIR is for packagers.
PREFIX ?= /usr/local
install:
	tests/guest/packages
	$(CARGO) build --locked --release --bin qctx
	[ -d target/install/meson-private ] || \
	    meson setup target/install --prefix=$(PREFIX) --libdir=lib --buildtype=release
	meson configure target/install --prefix=$(PREFIX)
	CARGO_TARGET_DIR=$(CURDIR)/target DESTDIR=$(DESTDIR) meson install -C target/install
	install -D -m 755 target/release/qctx $(DESTDIR)$(PREFIX)/bin/qctx
	install -D -m 644 docs/qctx.1 $(DESTDIR)$(PREFIX)/share/man/man1/qctx.1

# Debian packages in target/deb, and their test on a minimal system made for it (as root).
deb:
	tests/guest/packages
	tests/deb/build

deb-test:
	tests/guest/packages mmdebstrap
	tests/deb/clean-system

ready:
	tests/guest/packages
	tests/guest/fetch

.PHONY: run test bench soak fuzz install deb deb-test ready
