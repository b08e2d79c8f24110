#!/usr/bin/env bash
# Runs the tests of some programs, a few at a time. Each test runs in a process and a network
# namespace of its own, because all private Tor networks use the same ports. The output of a test
# appears when the test ends.
#   in-networks.sh NUMBER-AT-ONCE PROGRAM…
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/../.."

at_once=$1
shift
namespaces=(--net)
# Only root may create a network namespace. Within a user namespace, every user is root.
[ "$(id -u)" = 0 ] || namespaces+=(--map-root-user)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

one() {
    local program=$1 test=$2 code=0 log
    log=$dir/$program-${test//:/-}
    # shellcheck disable=SC2016
    unshare "${namespaces[@]}" sh -c 'ip link set lo up && exec "$@"' sh \
        cargo test --locked --workspace --test "$program" -- --exact --nocapture "$test" >"$log" 2>&1 || code=$?
    flock "$dir" cat "$log"
    return "$code"
}

code=0
for program in "$@"; do
    tests=$(cargo test --locked --workspace --test "$program" -- --list | sed -n 's/: test$//p')
    for test in $tests; do
        while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do wait -n || code=$?; done
        one "$program" "$test" &
    done
done
while [ -n "$(jobs -p)" ]; do wait -n || code=$?; done
exit "$code"
