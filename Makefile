# The two commands: `make run` shows it working, `make test` proves it. Both install what they need.
CARGO ?= cargo

run: ready
	$(CARGO) build --locked --release --bin qctx
	tests/guest/run

test: ready
	CARGO="$(CARGO)" tests/all

bench: ready
	tests/guest/packages libuv1-dev libevent-dev
	$(CARGO) bench --locked --bench disk
	$(CARGO) run --locked --release --manifest-path tests/bench/loops/Cargo.toml --features peers \
	    --target-dir target/loops -- --out target/bench

ready:
	tests/guest/packages
	tests/guest/fetch

.PHONY: run test bench ready
