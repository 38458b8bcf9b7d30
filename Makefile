# The two commands: `make run` shows it working, `make test` proves it. Both install what they need.
CARGO ?= cargo

run: ready
	$(CARGO) build --locked --release --bin qctx
	tests/guest/run

test: ready
	CARGO="$(CARGO)" tests/all

bench: ready
	$(CARGO) bench --locked --bench disk

ready:
	tests/guest/packages
	tests/guest/fetch

.PHONY: run test bench ready
