# The commands of the README. Cargo knows what is out of date; nothing here does.

CACHE   := $(CURDIR)/.cache
RELEASE := target/release
SPARK   := $(CACHE)/spark-3.5.9
# Only the tests need it: the shuffle service of a Spark without Mesos.
SPARK_4 := $(CACHE)/spark-4.3.0
TYPOS   := $(CACHE)/typos/bin/typos
# Links libmesos.so; see crates/libmesos/zigcc.
export BELLOWS_ZIG ?= $(CACHE)/zig

FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?= frames calls index auth scheduler_calls link operator_calls

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

# Those that start a Spark or its classes.
SPARK_TESTS   := auth_interop dispatcher executor machines scheduler settings shuffle_restart soak spark spark_client standalone
ALL_TESTS     := $(notdir $(patsubst %/main.rs,%.rs,$(wildcard crates/*/tests/*.rs crates/*/tests/*/main.rs tests/tests/*.rs)))
CLUSTER_TESTS := $(filter-out $(SPARK_TESTS),$(basename $(ALL_TESTS)))

test-unit: ## the tests beside the code: neither Java, root nor a network
	cargo test --workspace --locked --lib --bins

test-sim: ## the seeded simulation of a cluster
	cargo test --workspace --locked --test seeds

test-cluster: needs build ## real processes, disks, ZooKeeper; no Spark
	cargo test --workspace --locked $(addprefix --test ,$(sort $(CLUSTER_TESTS)))

test-spark: needs build spark $(SPARK_4) ## unmodified Spark, and the protocols against its own classes
	cargo test --workspace --locked $(addprefix --test ,$(SPARK_TESTS))

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

lint: $(TYPOS) ## formatting, clippy, spelling and what the fuzz targets compile to, as a change must pass them
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(TYPOS) --format brief
	cargo check --manifest-path fuzz/Cargo.toml --locked

$(TYPOS): | needs
	rm -rf $(CACHE)/typos $(CACHE)/typos.partial
	python3 -m venv $(CACHE)/typos.partial
	$(CACHE)/typos.partial/bin/python3 -m pip --disable-pip-version-check install --no-input typos==1.52.0
	mv $(CACHE)/typos.partial $(CACHE)/typos

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

.PHONY: bench bench-shuffle help build demo fuzz test test-unit test-sim test-cluster test-spark spark lint needs
