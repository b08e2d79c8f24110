#!/usr/bin/env bash
# Pushes a release that assemble.sh has made: the images and the chart. Signs everything, and attaches
# each SBOM to its image.
#   publish.sh [--rebuild]
# With --rebuild, only the images are pushed, and also under a tag with the version and the date.
# Variables, besides those of settings.sh:
#   OB_SIGN=keyless     sign with cosign and the identity of this workflow; otherwise, nothing is signed
#   OB_PLAIN_HTTP=yes   the registry speaks HTTP, for example on this machine
# Log in to the registry first: login.sh.
# Writes the lines "NAME DIGEST" of all that it pushed to the file `published` in the release's folder.
. "$(dirname "$0")/settings.sh"
cd "$TREE"

tags=("$VERSION")
only_images=
case ${1:-} in
"") ;;
--rebuild)
    only_images=yes
    tags+=("$VERSION-$(date --utc +%Y%m%d)")
    ;;
*) fail "usage: publish.sh [--rebuild]" ;;
esac
# The registry of a dry run speaks HTTP.
case "$OB_REGISTRY ${OB_PLAIN_HTTP:-$OB_REPOSITORY}" in
*example.org*) fail "set OB_REGISTRY and OB_REPOSITORY to the addresses of the project" ;;
esac
command -v skopeo >/dev/null || fail "install skopeo, for example with e2e/setup/packages.sh release"
[ "${OB_SIGN:-}" != keyless ] || command -v cosign >/dev/null || fail "install cosign, or do not set OB_SIGN"
plain_skopeo=() plain_helm=()
if [ "${OB_PLAIN_HTTP:-}" = yes ]; then
    plain_skopeo=(--dest-tls-verify=false)
    plain_helm=(--plain-http)
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# sign NAME DIGEST
sign() {
    if [ "${OB_SIGN:-}" = keyless ]; then
        step "sign $1" cosign sign --yes --recursive "$OB_REGISTRY/$1@$2"
    else
        say "$1: NOT SIGNED, because OB_SIGN is not set"
    fi
}

# attach NAME: attaches the SBOM of each architecture to the image of this architecture.
attach() {
    local name=$1 layout=$OUT/images/$1 index architecture digest
    [ "${OB_SIGN:-}" = keyless ] || return 0
    index=$layout/blobs/sha256/$(digest_of "$name" | cut -d : -f 2)
    for architecture in "${ARCHITECTURES[@]}"; do
        digest=$(jq --raw-output --arg architecture "$architecture" \
            '.manifests[] | select(.platform.architecture == $architecture) | .digest' "$index")
        [ -n "$digest" ] || fail "the image $name lacks the architecture $architecture"
        step "attach the SBOM of $name, $architecture" cosign attest --yes --type spdxjson \
            --predicate "$OUT/$architecture/images/$(archive_of "$name").spdx.json" "$OB_REGISTRY/$name@$digest"
    done
}

push_image() {
    local name=$1 digest tag
    digest=$(digest_of "$name")
    for tag in "${tags[@]}"; do
        step "push $name:$tag" skopeo copy --all --preserve-digests "${plain_skopeo[@]}" \
            "oci:$OUT/images/$name:$VERSION" "docker://$OB_REGISTRY/$name:$tag"
    done
    sign "$name" "$digest"
    attach "$name"
    echo "$name $digest" >>"$work/published"
}

push_chart() {
    local helm digest
    helm=$(e2e/setup/helm.sh)
    "$helm" push "${plain_helm[@]}" "$OUT/files/onionbalance-operator-$VERSION.tgz" "oci://$OB_REGISTRY/charts" \
        >"$work/push" 2>&1 || fail "could not push the chart: $(cat "$work/push")"
    digest=$(sed -n 's/^Digest: //p' "$work/push")
    [ -n "$digest" ] || fail "Helm printed no digest: $(cat "$work/push")"
    say "pushed charts/onionbalance-operator:$VERSION: $digest"
    sign charts/onionbalance-operator "$digest"
    echo "charts/onionbalance-operator $digest" >>"$work/published"
}

# blob FILE TYPE: puts a file into the layout of Artifact Hub's metadata, and prints its descriptor.
blob() {
    local sum
    sum=$(sha256sum <"$1" | cut -d ' ' -f 1)
    cp "$1" "$work/metadata/blobs/sha256/$sum"
    jq --null-input --compact-output --arg type "$2" --arg digest "sha256:$sum" \
        --argjson size "$(stat --format=%s "$1")" '{mediaType: $type, digest: $digest, size: $size}'
}

# Pushes the file in which Artifact Hub looks for the owners of the chart's repository.
push_metadata() {
    local type=application/vnd.cncf.artifacthub config layer
    mkdir -p "$work/metadata/blobs/sha256"
    echo '{}' >"$work/config"
    config=$(blob "$work/config" $type.config.v1+yaml)
    layer=$(blob charts/artifacthub-repo.yml $type.repository-metadata.layer.v1.yaml)
    jq --null-input --compact-output --argjson config "$config" --argjson layer "$layer" \
        '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config: $config,
          layers: [$layer + {annotations: {"org.opencontainers.image.title": "artifacthub-repo.yml"}}]}' >"$work/manifest"
    blob "$work/manifest" application/vnd.oci.image.manifest.v1+json |
        jq --compact-output '{schemaVersion: 2, manifests: [. + {
            annotations: {"org.opencontainers.image.ref.name": "artifacthub.io"}}]}' >"$work/metadata/index.json"
    echo '{"imageLayoutVersion":"1.0.0"}' >"$work/metadata/oci-layout"
    step "push the metadata for Artifact Hub" skopeo copy --preserve-digests "${plain_skopeo[@]}" \
        "oci:$work/metadata:artifacthub.io" "docker://$OB_REGISTRY/charts/onionbalance-operator:artifacthub.io"
}

for image in "${IMAGES[@]}"; do push_image "$image"; done
if [ -z "$only_images" ]; then
    push_chart
    push_metadata
fi
mv "$work/published" "$OUT/published"
