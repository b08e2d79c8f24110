#!/usr/bin/env bash
# Builds what the demo needs and runs the demo. Prints the time of each part, and of all parts.
# Variables:
#   CLUSTER=CONTEXT          a cluster that runs already: the name of a kubectl context, or
#                            current-context; by default, a new cluster on this machine
#   IMAGES=REGISTRY/FOLDER   the images are in a registry, so no image is built or loaded
#   KEEP=yes                 the demo stays on the cluster that ran already
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/../.."

CLUSTER=${CLUSTER:-}
IMAGES=${IMAGES:-}
KEEP=${KEEP:-}
E2E=${CARGO_TARGET_DIR:-target}/debug/e2e
PARTS=3
times=()

# part NUMBER NAME COMMAND…: runs a part of the demo.
part() {
    local number=$1 name=$2 start=$SECONDS
    shift 2
    say "part $number of $PARTS: $name"
    "$@"
    times+=("$name $((SECONDS - start)) s")
}

# parallel TARGET…: makes targets of the Makefile at the same time. Two builds at a time keep two
# cores busy while one of them compiles its last, large part.
parallel() { make --no-print-directory --jobs=$# "$@"; }

has() { command -v "$1" >/dev/null; }
# Debian's python3 alone cannot make the environment in which Helm is installed.
has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

# A mistake in the context's name must not show only after the builds.
check_context() {
    local config=${KUBECONFIG:-$HOME/.kube/config} files file found=
    IFS=: read -ra files <<<"$config"
    for file in "${files[@]}"; do [ ! -e "$file" ] || found=yes; done
    [ -n "$found" ] || fail "there is no kubeconfig at $config; set KUBECONFIG to the file that kubectl uses"
    [ "$CLUSTER" != current-context ] && has kubectl || return 0
    kubectl config get-contexts "$CLUSTER" >/dev/null 2>&1 ||
        fail "the kubeconfig $config has no context $CLUSTER; list the contexts with: kubectl config get-contexts"
}

own_cluster() {
    part 1 "Debian packages, and cargo's downloads" parallel demo-packages crates
    part 2 "builds" parallel kubernetes demo-programs demo-images
    part 3 "demo" "$E2E" demo
}

cluster_that_runs() {
    check_context
    local options=(--cluster "$CLUSTER")
    [ -z "$IMAGES" ] || options+=(--images "$IMAGES")
    [ -z "$KEEP" ] || options+=(--keep)
    # A machine that builds no images need not run Debian.
    if [ -n "$IMAGES" ] && has tor && has kubectl && has_venv && has cc; then
        part 1 "cargo's downloads" parallel crates
    else
        part 1 "Debian packages, and cargo's downloads" parallel client-packages crates
    fi
    if [ -n "$IMAGES" ]; then
        part 2 "builds" parallel demo-programs
    else
        part 2 "builds" parallel demo-programs demo-images
    fi
    part 3 "demo" "$E2E" demo "${options[@]}"
}

if [ -n "$CLUSTER" ]; then
    cluster_that_runs
elif [ -n "$IMAGES$KEEP" ]; then
    fail "IMAGES and KEEP apply to a cluster that runs already; name it, too: make demo CLUSTER=current-context"
else
    own_cluster
fi
say "times: $(printf '%s, ' "${times[@]}")total $SECONDS s"
