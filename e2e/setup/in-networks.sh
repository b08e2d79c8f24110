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
# Ends the tests that are still running, for example after Ctrl-C.
end() {
    local group
    for group in $(jobs -p); do kill -- "-$group" 2>/dev/null || true; done
    wait
    rm -rf "$dir"
}
trap end EXIT

# The number of seconds that each test took when it last passed.
times=$OB_CACHE/test-times
mkdir -p "$times"

time_of() { echo "$times/$1-${2//:/-}"; }

one() {
    local program=$1 test=$2 code=0 start=$SECONDS log
    log=$dir/$program-${test//:/-}
    # shellcheck disable=SC2016
    unshare "${namespaces[@]}" sh -c 'ip link set lo up && exec "$@"' sh \
        cargo test --locked --workspace --test "$program" -- --exact --nocapture "$test" >"$log" 2>&1 || code=$?
    [ "$code" != 0 ] || echo $((SECONDS - start)) >"$(time_of "$program" "$test")"
    flock "$dir" cat "$log"
    say "$program $test: $((SECONDS - start)) s"
    return "$code"
}

# The longest tests come first, because the last ones would run alone. New tests may be long.
queue=
for program in "$@"; do
    tests=$(cargo test --locked --workspace --test "$program" -- --list | sed -n 's/: test$//p')
    for test in $tests; do
        seconds=$(cat "$(time_of "$program" "$test")" 2>/dev/null || echo 9999)
        queue+="$seconds $program $test"$'\n'
    done
done

code=0
while read -r _ program test; do
    while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do wait -n || code=$?; done
    # Each test has a process group, so that the whole test can be ended.
    set -m
    one "$program" "$test" </dev/null &
    set +m
done < <(printf %s "$queue" | sort --stable --key=1,1nr)
while [ -n "$(jobs -p)" ]; do wait -n || code=$?; done
exit "$code"
