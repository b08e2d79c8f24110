# `make help` lists the targets.
.DEFAULT_GOAL := help
TARGET := $(or $(CARGO_TARGET_DIR),target)
SETUP := e2e/setup

.PHONY: help
help: ## This list
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

.PHONY: demo
demo: packages ## Everything from nothing: a cluster and a Tor network on this machine, and a service with three backends
	@$(MAKE) --no-print-directory -j2 kubernetes release
	@$(SETUP)/images.sh all $(TARGET)/release/onionbalance-operator >/dev/null
	@$(TARGET)/release/e2e demo

.PHONY: demo-down
demo-down: ## Take down what `make demo` brought up
	@cargo build --release --locked --quiet --package onionbalance-e2e && $(TARGET)/release/e2e down

.PHONY: images
images: packages release ## Container images without Docker: target/images/*.tar
	@$(SETUP)/images.sh all $(TARGET)/release/onionbalance-operator

.PHONY: test
test: no-demo packages ## All tests; ends with "N passed, N failed"
	@$(MAKE) --no-print-directory -j2 kubernetes test-build
	@$(SETUP)/run-tests.sh unit api tor e2e

.PHONY: test-unit
test-unit: ## Tests that need neither root nor a cluster
	@$(SETUP)/run-tests.sh unit

.PHONY: test-api
test-api: packages ## The operator against a real API server
	@$(MAKE) --no-print-directory -j2 kubernetes test-build
	@$(SETUP)/run-tests.sh api

.PHONY: test-tor
test-tor: ## Our programs beside real tors; publisher and agents on a private Tor network
	@$(SETUP)/packages.sh tor
	@$(SETUP)/run-tests.sh tor

.PHONY: test-e2e
test-e2e: no-demo packages ## The whole path on a one-node Kubernetes and a private Tor network
	@$(MAKE) --no-print-directory -j2 kubernetes test-build
	@$(SETUP)/run-tests.sh e2e

.PHONY: generate
generate: ## Write the files that are made from the code: crds/
	cargo run --locked --quiet -- crd >crds/onionbalancedservices.yaml.new
	mv crds/onionbalancedservices.yaml.new crds/onionbalancedservices.yaml

# What the targets above stand on.
.PHONY: no-demo packages kubernetes release test-build
STATE := $(or $(XDG_STATE_HOME),$(HOME)/.local/state)/onionbalance-operator
no-demo:
	@! test -e $(STATE)/e2e/node/connected || { echo "the demo is up, and a machine has room for one node: make demo-down" >&2; exit 1; }
packages:
	@$(SETUP)/packages.sh cluster
kubernetes:
	@$(SETUP)/kubernetes.sh >/dev/null
release:
	cargo build --release --locked --workspace --bins
test-build:
	cargo test --locked --workspace --all-targets --no-run
