#!/usr/bin/env bash
# Builds the arti client from crates.io, for a test that it connects to our services. Prints the program's path.
. "$(dirname "$0")/lib.sh"

ARTI=2.7.0
# rustls-ring and static-sqlite: no development packages are needed beyond a C compiler.
FEATURES=tokio,rustls-ring,static-sqlite,onion-service-client
TOOLS="$OB_CACHE/tools"

exec 9>"$OB_CACHE/arti.lock"
flock 9
# In a target directory of its own, so that a build that was broken off goes on where it was.
install_arti() {
    cargo install --locked --root "$TOOLS" --target-dir "$OB_CACHE/arti-target" --no-default-features --features "$FEATURES" "arti@$ARTI"
    rm -rf "$OB_CACHE/arti-target"
}
"$TOOLS/bin/arti" --version 2>/dev/null | grep -qwF "$ARTI" || step "build arti $ARTI, about 5 minutes on two cores" install_arti
echo "$TOOLS/bin/arti"
