#!/usr/bin/env bash
# Builds the arti client from crates.io and prints the program's path. A test uses it to connect to
# our services.
. "$(dirname "$0")/lib.sh"

ARTI=2.7.0
# With rustls-ring and static-sqlite, the build needs a C compiler but no development packages.
FEATURES=tokio,rustls-ring,static-sqlite,onion-service-client
TOOLS="$OB_CACHE/tools"

exec 9>"$OB_CACHE/arti.lock"
flock 9
# A separate target directory lets an interrupted build resume.
install_arti() {
    cargo install --locked --root "$TOOLS" --target-dir "$OB_CACHE/arti-target" --no-default-features --features "$FEATURES" "arti@$ARTI"
    rm -rf "$OB_CACHE/arti-target"
}
"$TOOLS/bin/arti" --version 2>/dev/null | grep -qwF "$ARTI" || step "build arti $ARTI (about 5 minutes on two cores)" install_arti
echo "$TOOLS/bin/arti"
