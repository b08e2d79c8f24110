# `make help` lists the targets.
.DEFAULT_GOAL := help
TARGET := $(or $(CARGO_TARGET_DIR),target)
SETUP := e2e/setup
CHART := charts/onionbalance-operator

.PHONY: help
help: ## List the targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

# The demo changes a cluster only if it is named on the command line. A variable of the environment may have another purpose.
CONTEXT = $(if $(filter environment,$(origin CLUSTER)),$(error the environment sets CLUSTER=$(CLUSTER); name the cluster on \
	the command line (make $@ CLUSTER=$(CLUSTER)), or none for a cluster of its own (make $@ CLUSTER=)))$(CLUSTER)
.PHONY: demo
demo: ## Start a local cluster and Tor network, and a service with three backends; CLUSTER=current-context takes your cluster
	@CLUSTER="$(CONTEXT)" IMAGES="$(IMAGES)" KEEP="$(KEEP)" $(SETUP)/demo.sh

.PHONY: demo-down
demo-down: ## Stop the demo and remove its state (not the packages, caches and builds); name your cluster again with CLUSTER=
	@cargo build --locked --workspace --quiet --bin e2e && $(TARGET)/debug/e2e down $(if $(CONTEXT),--cluster "$(CONTEXT)")

.PHONY: images
images: release-packages release ## Build the container images without Docker, and their SBOMs, in target/images
	@$(SETUP)/images.sh all $(TARGET)/release/onionbalance-operator

.PHONY: docs
docs: release-packages ## Build the documentation site in target/docs/site, and check its links
	@$(SETUP)/docs.sh $(TARGET)/docs

.PHONY: screenshots
screenshots: ## Renew the picture of kubectl onionbalance status in docs/pictures; the demo must be running
	@test -e $(DEMO)/node/connected || { echo "the demo is not running: run 'make demo' first" >&2; exit 1; }
	@cargo build --release --locked --quiet --bin kubectl-onionbalance
	@KUBECONFIG=$(DEMO)/kubernetes/admin.conf python3 docs/site/screenshot.py $(TARGET)/release/kubectl-onionbalance status web \
		>$(TARGET)/status.svg
	@mv $(TARGET)/status.svg docs/pictures/status.svg && echo docs/pictures/status.svg

.PHONY: programs
programs: ## Build the programs for servers and people: onionbalance, onionbalance-config, kubectl-onionbalance
	cargo build --release --locked --bin onionbalance --bin onionbalance-config --bin kubectl-onionbalance

.PHONY: pages
pages: ## Write the manual pages and shell completions of these programs, in target/pages
	cargo run --release --locked --package onionbalance-e2e --bin manual -- $(TARGET)/pages

.PHONY: deb
deb: release-packages programs pages ## Build the Debian package of the stand-alone daemon, in target/deb
	@$(SETUP)/deb.sh $(TARGET)/release $(TARGET)/pages

.PHONY: release-dry-run
release-dry-run: release-packages ## Make a release and publish it to a registry on this machine (docs/releasing.md), in target/release-files
	@deploy/release/dry-run.sh

.PHONY: test
test: no-demo packages ## Run all tests except those of test-long; the last line reads "N passed, N failed"
	@$(MAKE) --no-print-directory -j2 kubernetes test-build crd-server earlier
	@SECONDS_EACH=$(or $(SECONDS_EACH),5) $(SETUP)/run-tests.sh unit chart api tor oracle artifacts e2e fuzz

.PHONY: test-unit
test-unit: ## Run the tests that need neither root nor a cluster
	@$(SETUP)/run-tests.sh unit

.PHONY: test-chart
test-chart: ## Test the Helm chart: its values, its output, and that it matches deploy/
	@$(SETUP)/packages.sh chart
	@$(SETUP)/run-tests.sh chart

.PHONY: test-api
test-api: packages ## Test the operator against a real API server, and the CRD against a current one
	@$(MAKE) --no-print-directory -j2 kubernetes test-build crd-server PROGRAMS=kube-apiserver
	@$(SETUP)/run-tests.sh api

.PHONY: test-tor
test-tor: ## Test against real tor processes and a private Tor network
	@$(SETUP)/packages.sh tor
	@$(SETUP)/run-tests.sh tor

.PHONY: test-oracle
test-oracle: ## Compare descriptors, keys and the HSDir ring with arti and stem
	@$(SETUP)/packages.sh tor
	@$(SETUP)/run-tests.sh oracle

.PHONY: test-e2e
test-e2e: no-demo packages ## Run the end-to-end tests on a one-node Kubernetes cluster and a private Tor network; check images and Debian package
	@$(MAKE) --no-print-directory -j2 kubernetes test-build earlier
	@$(SETUP)/run-tests.sh artifacts e2e

.PHONY: test-long
test-long: no-demo packages ## Run the tests that wait for many time periods, which make test leaves out
	@$(MAKE) --no-print-directory -j2 kubernetes test-build
	@$(SETUP)/run-tests.sh long

.PHONY: mutants
mutants: ## Check that the tests notice each fault in tests/mutants; limit with ONLY="agent-silence suspended"
	@tests/mutants/run.sh $(ONLY)

.PHONY: chaos
chaos: no-demo packages ## Inject all faults under load (docs/reliability.md); limit with FAULTS=backend_tor_kill,scale_down
	@$(MAKE) --no-print-directory -j2 kubernetes release
	@$(SETUP)/stem.sh >/dev/null
	@code=0; $(TARGET)/release/e2e chaos --figures $(TARGET)/chaos.txt $(if $(FAULTS),--only $(FAULTS)) || code=$$?; $(TARGET)/release/e2e down && exit $$code

# Only root may create a network namespace. Within a user namespace, every user is root.
.PHONY: flood
flood: ## Flood services with introductions, ours and others (docs/performance.md); limit with PARTS=ours,python
	@$(SETUP)/packages.sh tor
	@$(MAKE) --no-print-directory release
	@$(SETUP)/stem.sh >/dev/null
	@$(SETUP)/python-onionbalance.sh >/dev/null
	@unshare --net $(if $(filter-out 0,$(shell id -u)),--map-root-user) sh -c 'ip link set lo up && exec "$$@"' sh \
		$(TARGET)/release/e2e flood --figures $(TARGET)/flood.txt $(if $(PARTS),--only $(PARTS))

.PHONY: simulate
simulate: ## Simulate 90 days of publishing with 10 seeds (docs/reliability.md); set DAYS and SEEDS for others
	@cargo run --release --locked --quiet --package onionbalance-simulate -- \
		--days $(or $(DAYS),90) --seeds $(or $(SEEDS),10) --figures $(TARGET)/simulate.txt

.PHONY: fuzz
fuzz: ## Fuzz every parser of untrusted input for a minute each; set SECONDS_EACH=3600 for an hour
	@$(SETUP)/packages.sh fuzz
	@$(SETUP)/run-tests.sh fuzz

.PHONY: bench
bench: packages ## Benchmark speed and memory, also under a flood of connections; fails if a target is missed (docs/performance.md)
	@$(MAKE) --no-print-directory release
	@cargo bench --locked --quiet --package onionbalance-bench
	@python=$$($(SETUP)/python-onionbalance.sh) && $(TARGET)/release/onionbalance-bench all --python "$$python"

.PHONY: scale-test
scale-test: packages ## Benchmark the operator with 500 objects on a real API server; fails if a target is missed
	@$(MAKE) --no-print-directory -j2 kubernetes release
	@programs=$$($(SETUP)/kubernetes.sh) && $(TARGET)/release/onionbalance-bench scale --programs "$$programs"

.PHONY: generate
generate: ## Regenerate crds/, docs/reference.md, the table of docs/reliability.md and the chart's copies
	cargo run --locked --quiet -- crd >crds/onionbalancedservices.yaml.new
	mv crds/onionbalancedservices.yaml.new crds/onionbalancedservices.yaml
	cargo run --locked --quiet -- crd --format markdown >docs/reference.md.new
	mv docs/reference.md.new docs/reference.md
	cargo run --locked --quiet --package onionbalance-e2e -- chaos --table $(wildcard docs/figures/chaos.txt)
	cp crds/onionbalancedservices.yaml $(CHART)/files/crd.yaml
	sed -n '/^kind: ClusterRole$$/,/^---$$/{ /^rules:$$/,/^---$$/{ /^rules:$$/d; /^---$$/d; p } }' deploy/rbac.yaml >$(CHART)/files/rules.yaml

# Prerequisites of the targets above.
.PHONY: no-demo packages release-packages kubernetes crd-server earlier release test-build demo-packages client-packages crates demo-programs demo-images
DEMO := $(or $(OB_E2E_DIR),$(or $(XDG_STATE_HOME),$(HOME)/.local/state)/onionbalance-operator/e2e)
no-demo:
	@! test -e $(DEMO)/node/connected || { echo "the demo is running, and a machine can host only one node: run 'make demo-down' first" >&2; exit 1; }
packages:
	@$(SETUP)/packages.sh cluster
release-packages:
	@$(SETUP)/packages.sh release
demo-packages:
	@$(SETUP)/packages.sh demo
client-packages:
	@$(SETUP)/packages.sh client
# Downloads the compiler and the crates. Without a network, they may be there already; if they are not, the build says so.
crates:
	@cargo fetch --locked --quiet || true
# PROGRAMS limits what KUBEBUILDER_ASSETS must hold.
kubernetes:
	@$(SETUP)/kubernetes.sh $(PROGRAMS) >/dev/null
crd-server:
	@$(SETUP)/crd-server.sh >/dev/null
# The operator of an earlier commit, from which the tests upgrade.
earlier:
	@$(SETUP)/earlier.sh >/dev/null
release:
	cargo build --release --locked --workspace --bins
test-build:
	cargo test --locked --workspace --all-targets --no-run
# The programs without optimisation, as the tests build them. An optimised build takes several times as long, and the
# demo mostly waits for tor. With --workspace, dependencies have the same features as in the other builds.
demo-programs:
	cargo build --locked --workspace $(if $(IMAGES),,--bin onionbalance-operator) --bin e2e
# The images that contain none of our programs.
demo-images:
	@for image in pause tor sample; do $(SETUP)/images.sh $$image >/dev/null || exit; done
