#!/usr/bin/env bash
# Creates a Python environment with Python Onionbalance, the baseline of the benchmarks. Prints the
# path of its interpreter.
. "$(dirname "$0")/lib.sh"

ONIONBALANCE=0.2.4
STEM=1.8.2
CRYPTOGRAPHY=50.0.2
DIR="$OB_CACHE/python-onionbalance-$ONIONBALANCE-$STEM-$CRYPTOGRAPHY"

exec 9>"$OB_CACHE/python-onionbalance.lock"
flock 9
make_environment() {
    rm -rf "$DIR"
    python3 -m venv "$DIR"
    "$DIR/bin/pip" install "onionbalance==$ONIONBALANCE" "stem==$STEM" "cryptography==$CRYPTOGRAPHY"
    touch "$DIR/complete"
}
[ -e "$DIR/complete" ] || step "install Python Onionbalance $ONIONBALANCE" make_environment
echo "$DIR/bin/python"
