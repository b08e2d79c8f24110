#!/usr/bin/env bash
# Creates a Python environment with stem, which decodes descriptors independently of our code.
# Prints the path of its interpreter.
. "$(dirname "$0")/lib.sh"

STEM=1.8.2
CRYPTOGRAPHY=50.0.2
DIR="$OB_CACHE/stem-$STEM-$CRYPTOGRAPHY"

exec 9>"$OB_CACHE/stem.lock"
flock 9
make_environment() {
    rm -rf "$DIR"
    python3 -m venv "$DIR"
    "$DIR/bin/pip" install "stem==$STEM" "cryptography==$CRYPTOGRAPHY"
    touch "$DIR/complete"
}
[ -e "$DIR/complete" ] || step "install Python's stem $STEM" make_environment
echo "$DIR/bin/python"
