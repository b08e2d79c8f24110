#!/usr/bin/env bash
# Makes a release on this machine and publishes it to a registry that lives only as long as this script.
# Then checks what the registry holds. Nothing leaves this machine, and nothing is signed.
. "$(dirname "$0")/settings.sh"
cd "$TREE"

work=$(mktemp -d)
registry=
trap '[ -z "$registry" ] || kill "$registry" 2>/dev/null || true; rm -rf "$work"' EXIT

# Unpacks Debian's registry. Installed, it would be a service of this machine.
unpack_registry() {
    (cd "$work" && apt-get download docker-registry)
    dpkg-deb --extract "$work"/docker-registry_*.deb "$work/debian"
}

# Starts the registry on a free port and sets OB_REGISTRY.
start_registry() {
    local port=
    cat >"$work/registry.yml" <<CONFIG
version: 0.1
log: {accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:0"}
CONFIG
    "$work/debian/usr/bin/docker-registry" serve "$work/registry.yml" >"$work/log" 2>&1 &
    registry=$!
    while [ -z "$port" ]; do
        kill -0 "$registry" 2>/dev/null || fail "the registry has ended: $(tail -n 5 "$work/log")"
        port=$(sed -n 's/.*listening on 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$work/log")
        [ -n "$port" ] || sleep 0.1
    done
    export OB_REGISTRY=127.0.0.1:$port/onionbalance
}

# Checks that the registry has each image, and that the chart in it uses the images: all but the variants of
# tor's image, which an administrator chooses.
check() {
    local image digest helm name
    for image in "${IMAGES[@]}"; do
        digest=$(skopeo inspect --raw --tls-verify=false "docker://$OB_REGISTRY/$image:$VERSION" | sha256sum)
        [ "sha256:${digest%% *}" = "$(digest_of "$image")" ] || fail "the registry has another image $image: $digest"
    done
    skopeo inspect --raw --tls-verify=false "docker://$OB_REGISTRY/charts/onionbalance-operator:artifacthub.io" |
        jq --exit-status '.layers | length == 1' >/dev/null || fail "the registry lacks the metadata for Artifact Hub"
    helm=$(e2e/setup/helm.sh)
    "$helm" pull --plain-http --destination "$work" --version "$VERSION" "oci://$OB_REGISTRY/charts/onionbalance-operator"
    "$helm" template test "$work/onionbalance-operator-$VERSION.tgz" >"$work/rendered"
    for image in onionbalance-operator onionbalance-tor; do
        grep -qF "$OB_REGISTRY/$image:$VERSION" "$work/rendered" || fail "the chart does not use the image $image:$VERSION"
    done
    (cd "$OUT/files" && sha256sum --check --quiet SHA256SUMS)
    name=kubectl-onionbalance_${VERSION}_linux_$(dpkg --print-architecture)
    tar --extract --file "$OUT/files/$name.tar.gz" --directory "$work"
    [ "$("$work/$name/kubectl-onionbalance" --version)" = "kubectl-onionbalance $VERSION${COMMIT:+ ($COMMIT)}" ] ||
        fail "the plugin does not report the version $VERSION and the commit $COMMIT"
}

for architecture in "${ARCHITECTURES[@]}"; do deploy/release/build.sh "$architecture"; done
step "unpack a registry" unpack_registry
start_registry
deploy/release/assemble.sh
OB_PLAIN_HTTP=yes OB_SIGN='' deploy/release/publish.sh
step "check what was published" check
say "the release $VERSION is in $OUT"
