# The two commands: `make run` shows it working, `make test` proves it. Both install what they need.
CARGO ?= cargo

# The QEMU of `make run`: 7 or 10.
export QEMU ?= 7

run:
	@echo "== 1 of 5: installing the Debian packages that are missing: a C linker, GLib, busybox, e2fsprogs"
	@tests/guest/packages run
	@echo "== 2 of 5: fetching a Linux kernel and QEMU into target/guest, once"
	@tests/guest/fetch $(QEMU)
	@echo "== 3 of 5: building qctx"
	@$(CARGO) build --locked --release --bin qctx
	@echo "== 4 of 5: a guest of a few hundred instructions drives two disks on two contexts"
	@target/release/qctx
	@echo "== 5 of 5: Linux, in a virtual machine of QEMU's, uses two disks that qctx serves over vhost-user"
	@tests/guest/run
	@cat docs/try-next.txt

test:
	tests/guest/packages test
	tests/guest/fetch
	tests/guest/fetch source
	CARGO="$(CARGO)" tests/all

bench:
	tests/guest/packages bench
	tests/guest/fetch 10
	$(CARGO) bench --locked --bench disk
	$(CARGO) bench --locked --bench nbd
	$(CARGO) bench --locked --bench machine -- --out target/bench
	$(CARGO) bench --locked --bench contention -- --out target/bench
	$(CARGO) run --locked --release --manifest-path tests/bench/loops/Cargo.toml --features peers \
	    --target-dir target/loops -- --out target/bench

# Long runs of what `make test` does briefly. SOAK_SECONDS, MODEL_SECONDS (for each model of a context's end and each scenario)
# and FUZZ_SECONDS (for each target) say how long.
SOAK_SECONDS ?= 600
MODEL_SECONDS ?= 60
FUZZ_SECONDS ?= 60
soak:
	tests/guest/packages test
	tests/guest/fetch
	SOAK_SECONDS=$(SOAK_SECONDS) $(CARGO) test --locked --test soak -- --nocapture
	QCOW2_KILLS=200 $(CARGO) test --locked --test disk_qcow2_kill
	RUSTFLAGS="--cfg loom" SOAK_SECONDS=$(MODEL_SECONDS) $(CARGO) test --locked --release --target-dir target/loom \
	    -p gsource --lib loom_
	RUSTFLAGS="--cfg shuttle -C debug-assertions" SOAK_SECONDS=$(MODEL_SECONDS) $(CARGO) test --locked --release \
	    --target-dir target/shuttle -p gsource --lib shuttle_
	CARGO="$(CARGO)" SOAK_SECONDS=$(MODEL_SECONDS) tests/asan \
	    -p gsource -p qcontext -p qcontext-ffi -p qcontext-shared-test --lib --tests --no-fail-fast

# QEMU's own iotests, with qctx in the place of qemu-storage-daemon.
iotests:
	tests/guest/packages iotests
	tests/guest/fetch 10
	tests/guest/fetch source
	$(CARGO) build --locked --release --bin qctx
	tests/iotests/run

fuzz:
	tests/guest/packages build
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --locked --release --test fuzz -- --nocapture

# The program, the C library with its headers and pkg-config file. DESTDIR is for packagers.
PREFIX ?= /usr/local
install:
	tests/guest/packages install
	$(CARGO) build --locked --release --bin qctx
	[ -d target/install/meson-private ] || \
	    meson setup target/install --prefix=$(PREFIX) --libdir=lib --buildtype=release
	meson configure target/install --prefix=$(PREFIX)
	CARGO_TARGET_DIR=$(CURDIR)/target DESTDIR=$(DESTDIR) meson install -C target/install
	install -D -m 755 target/release/qctx $(DESTDIR)$(PREFIX)/bin/qctx
	install -D -m 644 docs/qctx.1 $(DESTDIR)$(PREFIX)/share/man/man1/qctx.1

# Debian packages in target/deb, and their test on a minimal system made for it (as root).
deb:
	tests/guest/packages deb
	tests/deb/build

deb-test:
	tests/guest/packages deb-test
	tests/deb/clean-system

.PHONY: run test bench soak iotests fuzz install deb deb-test
