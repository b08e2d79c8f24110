#!/usr/bin/env bash
# Writes the krew manifest of the kubectl plugin, for the archives in the release. assemble.sh calls
# this script.
. "$(dirname "$0")/settings.sh"

cat >"$OUT/files/onionbalance.yaml" <<MANIFEST
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: onionbalance
spec:
  version: v$VERSION
  homepage: $OB_REPOSITORY
  shortDescription: Show onion services, and manage their keys
  description: |
    Shows and examines the load-balanced Tor onion services of the Onionbalance operator, with a
    remedy for each problem. Generates, converts, delegates and checks keys of onion services.
  platforms:
MANIFEST
found=
for architecture in "${ARCHITECTURES[@]}"; do
    name=kubectl-onionbalance_${VERSION}_linux_$architecture
    [ -e "$OUT/files/$name.tar.gz" ] || continue
    found=yes
    cat >>"$OUT/files/onionbalance.yaml" <<PLATFORM
  - selector:
      matchLabels:
        os: linux
        arch: $architecture
    uri: $OB_REPOSITORY/releases/download/v$VERSION/$name.tar.gz
    sha256: $(sha256sum <"$OUT/files/$name.tar.gz" | cut -d ' ' -f 1)
    bin: kubectl-onionbalance
    files:
    - from: $name/*
      to: .
PLATFORM
done
[ -n "$found" ] || fail "there is no archive of the plugin in $OUT/files; run deploy/release/build.sh"
