# `make help` lists the targets.
.DEFAULT_GOAL := help
TARGET := $(or $(CARGO_TARGET_DIR),target)
SETUP := e2e/setup
CHART := charts/onionbalance-operator

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
	@$(SETUP)/run-tests.sh unit chart api tor oracle e2e fuzz

.PHONY: test-unit
test-unit: ## Tests that need neither root nor a cluster
	@$(SETUP)/run-tests.sh unit

.PHONY: test-chart
test-chart: ## The Helm chart: values, what it renders, that it is deploy/
	@$(SETUP)/packages.sh chart
	@$(SETUP)/run-tests.sh chart

.PHONY: test-api
test-api: packages ## The operator against a real API server
	@$(MAKE) --no-print-directory -j2 kubernetes test-build
	@$(SETUP)/run-tests.sh api

.PHONY: test-tor
test-tor: ## Our programs beside real tors; publisher and agents on a private Tor network
	@$(SETUP)/packages.sh tor
	@$(SETUP)/run-tests.sh tor

.PHONY: test-oracle
test-oracle: ## Descriptors, keys and the HSDir ring beside arti's crates and Python's stem
	@$(SETUP)/packages.sh tor
	@$(SETUP)/run-tests.sh oracle

.PHONY: test-e2e
test-e2e: no-demo packages ## The whole path on a one-node Kubernetes and a private Tor network
	@$(MAKE) --no-print-directory -j2 kubernetes test-build
	@$(SETUP)/run-tests.sh e2e

.PHONY: chaos
chaos: no-demo packages ## Faults under load, and what they cost; FAULTS=backend_tor_kill,scale_down for some (docs/reliability.md)
	@$(MAKE) --no-print-directory -j2 kubernetes release
	@$(SETUP)/stem.sh >/dev/null
	@code=0; $(TARGET)/release/e2e chaos $(if $(FAULTS),--only $(FAULTS)) || code=$$?; $(TARGET)/release/e2e down && exit $$code

.PHONY: fuzz
fuzz: packages ## Fuzz every parser of peers' texts; SECONDS_EACH=3600 for longer than a minute each
	@$(SETUP)/run-tests.sh fuzz

.PHONY: bench
bench: packages ## How fast and how small: criterion, then figures beside Python Onionbalance (docs/performance.md)
	@$(MAKE) --no-print-directory release
	@cargo bench --locked --quiet --package onionbalance-bench
	@$(TARGET)/release/onionbalance-bench forwarder
	@$(TARGET)/release/onionbalance-bench figures --python "$$($(SETUP)/python-onionbalance.sh)"

.PHONY: scale-test
scale-test: packages ## The operator with 500 objects on a real API server, beside a bare client; fails where a figure misses its mark
	@$(MAKE) --no-print-directory -j2 kubernetes release
	@$(TARGET)/release/onionbalance-bench scale --programs "$$($(SETUP)/kubernetes.sh)"

.PHONY: generate
generate: ## Write the files that are made from others: crds/, its reference in docs/, and the chart's copies of the CRD and the operator's rights
	cargo run --locked --quiet -- crd >crds/onionbalancedservices.yaml.new
	mv crds/onionbalancedservices.yaml.new crds/onionbalancedservices.yaml
	cargo run --locked --quiet -- crd --format markdown >docs/reference.md.new
	mv docs/reference.md.new docs/reference.md
	cp crds/onionbalancedservices.yaml $(CHART)/files/crd.yaml
	sed -n '/^kind: ClusterRole$$/,/^---$$/{ /^rules:$$/,/^---$$/{ /^rules:$$/d; /^---$$/d; p } }' deploy/rbac.yaml >$(CHART)/files/rules.yaml

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
