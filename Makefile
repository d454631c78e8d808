# The commands of the README. Cargo knows what is out of date; nothing here does.

CACHE   := $(CURDIR)/.cache
RELEASE := target/release
SPARK   := $(CACHE)/spark-3.5.9
# Only the tests need it: the shuffle service of a Spark without Mesos.
SPARK_4 := $(CACHE)/spark-4.3.0
# Links libmesos.so; see crates/libmesos/zigcc.
export BELLOWS_ZIG ?= $(CACHE)/zig

FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?= frames calls index auth

.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The binary is static and without line tables: one small file is all a machine needs. libmesos.so links to the libc
# of the JVM that loads it, which may be as old as 2.28. Naming both packages builds what they share once.
build: $(BELLOWS_ZIG) ## the release binary `bellows` and `libmesos.so`, in target/release/
	cargo build --release --locked --lib -p bellows -p bellows-libmesos
	cargo rustc --release --locked -p bellows --bin bellows -- -C target-feature=+crt-static -C strip=debuginfo
	@echo "$(RELEASE)/bellows and $(RELEASE)/libmesos.so"

demo: build ## a real PySpark application on an elastic cluster of three agents, on this machine
	$(RELEASE)/bellows demo --cache-dir $(CACHE)

test: needs build spark $(SPARK_4) ## all tests, those with real Spark and on the release binary included
	cargo test --workspace --locked

spark: ## Spark and the demo's data under .cache/, as the demo and the tests use them
	cargo build --quiet --locked -p bellows
	target/debug/bellows demo --cache-dir $(CACHE) --fetch-only

# As the demo fetches its own: whole, or not there.
$(SPARK_4): | needs
	rm -rf $@.partial
	python3 -m venv $@.partial
	$@.partial/bin/python3 -m pip --disable-pip-version-check install --no-input pyspark==4.3.0
	mv $@.partial $@

$(BELLOWS_ZIG):
	rm -rf $@.partial
	python3 -m venv $@.partial
	$@.partial/bin/python3 -m pip --disable-pip-version-check install --no-input ziglang==0.17.1 cargo-zigbuild==0.24.1
	mv $@.partial $@

bench: build ## what the cluster adds to a task: latencies, tasks per second, memory when idle; the longest step
	cargo run --release --locked -p bellows-benches --bin bench-cluster -- $(RELEASE)/bellows

bench-shuffle: build spark ## the shuffle service beside Spark's own: throughput, latency, CPU per block, memory
	cargo run --release --locked -p bellows-benches --bin bench-shuffle -- $(RELEASE)/bellows \
		$$(echo $(SPARK)/lib/python3*/site-packages/pyspark/jars)

# What is found goes below fuzz/target, and into fuzz/corpus only by hand: copy it there, then `cargo fuzz cmin TARGET`
# keeps of it what adds coverage.
fuzz: ## the decoders on damaged input, FUZZ_SECONDS (600) for each target
	command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
	cd fuzz && for target in $(FUZZ_TARGETS); do \
		mkdir -p target/corpus/$$target && cargo +nightly fuzz run $$target target/corpus/$$target corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=768 -timeout=5 -max_len=4096 -print_final_stats=1 || exit 1; \
	done

lint: ## rustfmt and clippy, as a change must pass them
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# Debian packages are installed only where they are missing and we may; elsewhere the missing ones are named.
needs:
	@missing=; \
	command -v javac >/dev/null || missing="openjdk-17-jdk-headless"; \
	[ -e /usr/share/java/zookeeper.jar ] || missing="$$missing zookeeper"; \
	command -v strace >/dev/null || missing="$$missing strace"; \
	command -v ip >/dev/null || missing="$$missing iproute2"; \
	[ "$$(id -u)" = 0 ] || command -v newuidmap >/dev/null || missing="$$missing uidmap"; \
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
	else \
		echo "The tests need: $$missing (Debian and Ubuntu: sudo apt install $$missing)" >&2; exit 1; \
	fi

.PHONY: bench bench-shuffle help build demo fuzz test spark lint needs
