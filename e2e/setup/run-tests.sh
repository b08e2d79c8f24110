#!/usr/bin/env bash
# Runs groups of tests. The last line counts the tests of all groups: "N passed, N failed".
#   run-tests.sh unit|chart|api|tor|oracle|artifacts|e2e|fuzz|long…
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/../.."

# The chain of causes of an error is more informative than its backtrace.
export RUST_LIB_BACKTRACE=0
log=$(mktemp)
# The process group of the work for later groups of tests, if it has been started.
ahead=
# The output and the exit codes of the groups that have run ahead of their turn.
results=$(mktemp -d)
trap 'rm -rf "$log" "$results"; [ -z "$ahead" ] || kill -- "-$ahead" 2>/dev/null || true' EXIT
# After Ctrl-C, no further group begins.
trap 'exit 130' INT
broken=()
times=()

# group NAME COMMAND…: runs one group of tests. If the command fails although no test failed, for
# example because the code does not compile, the group counts as one failed test.
group() {
    local name=$1 before after code=0 start=$SECONDS
    shift
    say "tests: $name"
    before=$(failures)
    # With -i, tee outlives Ctrl-C, so that a group can still stop what it has started.
    "$@" 2>&1 | tee -i -a "$log" || code=$?
    after=$(failures)
    [ "$code" = 0 ] || [ "$after" -gt "$before" ] || broken+=("$name")
    times+=("$name $((SECONDS - start)) s")
}

count() { sed -nE "s/^test result: .* ([0-9]+) $1;.*/\1/p" "$log" | awk '{ n += $1 } END { print n + 0 }'; }
failures() { count failed; }

# Every group uses --workspace. Building a single package would enable other features of its
# dependencies, which would then be built again.
unit() {
    cargo test --locked --workspace --no-fail-fast --lib --bins --test layers --test cycles --test style --test docs \
        --test simulated
}
chart() { cargo test --locked --workspace --no-fail-fast --test chart; }
api() {
    local programs
    e2e/setup/crd-server.sh >/dev/null && programs=$(e2e/setup/kubernetes.sh kube-apiserver) || return
    # The tests mostly wait for the server.
    KUBEBUILDER_ASSETS=$programs cargo test --locked --workspace --no-fail-fast --test operator_api_server -- \
        --test-threads 4
}
tor() {
    local code=0
    e2e/setup/arti.sh >/dev/null || return
    cargo test --locked --workspace --no-fail-fast --test '*_real_tor' || code=$?
    # These tests mostly wait for tor.
    { cargo build --locked --workspace --bins && e2e/setup/in-networks.sh 3 private_network standalone; } || code=$?
    return $code
}
e2e() {
    # Use a folder separate from the demo's.
    export OB_E2E_DIR="${OB_E2E_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/onionbalance-operator/e2e-test}"
    trap 'down; exit 130' INT TERM
    local code=0
    # The faults come before other pods, which would lengthen their times, and alone.
    with_programs --test chaos -- --nocapture || code=$?
    # These tests mostly wait for pods and for tor.
    with_programs --test cluster --test helm -- --nocapture --test-threads 3 || code=$?
    down || code=$?
    return $code
}
# The images and the Debian package.
artifacts() { with_programs --test images --test deb; }
# Tests that wait for time periods of the private Tor network to end.
long() {
    export OB_E2E_DIR="${OB_E2E_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/onionbalance-operator/e2e-test}"
    trap 'down; exit 130' INT TERM
    local code=0
    with_programs --test cluster --test private_network -- --ignored --nocapture || code=$?
    down || code=$?
    return $code
}
fuzz() { e2e/setup/fuzz.sh; }
oracle() {
    e2e/setup/stem.sh >/dev/null || return
    oracle_tests --no-fail-fast
}
oracle_tests() {
    cargo test --locked --manifest-path tests/oracle/Cargo.toml --target-dir "$OB_CACHE/oracle-target" "$@"
}
# Runs the groups oracle and artifacts ahead of their turn and builds the targets of fuzz, as far as
# these are among the given groups. All of this has the lowest priority.
work_ahead() {
    local name code
    renice -n 19 "$BASHPID" >/dev/null
    for name in "$@"; do
        case $name in
        oracle | artifacts)
            code=0
            "$name" >"$results/$name.log" 2>&1 || code=$?
            echo "$code" >"$results/$name.code"
            ;;
        # A group that fails to build reports the errors when its turn comes.
        fuzz) e2e/setup/fuzz.sh --build || true ;;
        esac
    done
}
# done_ahead NAME: prints the output of a group that has run ahead, and returns its exit code.
done_ahead() {
    cat "$results/$1.log"
    return "$(cat "$results/$1.code")"
}
# Builds like with_programs, so that cargo builds no dependency again.
down() { cargo build --locked --quiet --workspace --bins && "${CARGO_TARGET_DIR:-target}/debug/e2e" down; }
# Builds all programs first, because cargo builds only those of a test's own package.
with_programs() { cargo build --locked --workspace --bins && cargo test --locked --workspace --no-fail-fast "$@"; }

groups="unit chart api tor oracle artifacts e2e fuzz long"
[ $# -gt 0 ] || fail "usage: run-tests.sh ${groups// /|}…"
for name in "$@"; do
    [[ " $groups " = *" $name "* ]] || fail "unknown group of tests: $name; use some of $groups"
done
for name in "$@"; do
    case $name in
    tor)
        # These tests mostly wait, so there is time for the work of other groups.
        mkdir -p "$OB_CACHE/logs"
        set -m
        work_ahead "$@" >"$OB_CACHE/logs/work-ahead.log" 2>&1 &
        ahead=$!
        set +m
        ;;
    # Oracle and artifacts have run ahead. The faults of e2e are injected while the machine does
    # nothing else.
    oracle | artifacts | e2e)
        [ -z "$ahead" ] || wait "$ahead"
        ahead=
        ;;
    esac
    if [ -e "$results/$name.code" ]; then group "$name" done_ahead "$name"; else group "$name" "$name"; fi
done

passed=$(count passed)
failed=$(($(failures) + ${#broken[@]}))
say "time, builds included: $(printf '%s; ' "${times[@]}")total $SECONDS s"
[ ${#broken[@]} = 0 ] || say "groups that did not finish: ${broken[*]}"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
