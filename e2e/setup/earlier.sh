#!/usr/bin/env bash
# Builds the operator of an earlier commit, from which the tests upgrade, and takes the chart of this
# commit. Prints the folder, which contains the program onionbalance-operator, the archive
# onionbalance-operator.tar of its image with the tag earlier, and the folder chart.
. "$(dirname "$0")/lib.sh"
cd "$(dirname "$0")/../.."

# The pods of this commit work with today's operator. Name a later commit if a change needs an
# upgraded data plane, and once there is a release.
COMMIT=bc0203929269b5d6f64ca1cc28b6c0ec9fc45cf4
DIR=$OB_CACHE/earlier-${COMMIT:0:12}

exec 9>"$OB_CACHE/earlier.lock"
flock 9
make_program() {
    rm -rf "$OB_CACHE"/earlier-*
    mkdir -p "$DIR/tree"
    git archive "$COMMIT" | tar -x -C "$DIR/tree"
    (cd "$DIR/tree" && CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 \
        cargo build --locked --target-dir "$DIR/target" --bin onionbalance-operator)
    mv "$DIR/target/debug/onionbalance-operator" "$DIR"
    mv "$DIR/tree/charts/onionbalance-operator" "$DIR/chart"
    rm -rf "$DIR/tree" "$DIR/target"
    touch "$DIR/complete"
}
if [ ! -e "$DIR/complete" ]; then
    git cat-file -e "$COMMIT^{commit}" 2>/dev/null ||
        fail "this tree lacks commit $COMMIT, from which the tests upgrade; use a git clone, and run git fetch --unshallow in a shallow one"
    step "build the operator of commit ${COMMIT:0:7} (about 4 minutes)" make_program
fi
OB_IMAGES=$DIR OB_TAG=earlier e2e/setup/images.sh operator "$DIR/onionbalance-operator" >/dev/null
echo "$DIR"
