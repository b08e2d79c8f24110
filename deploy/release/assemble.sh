#!/usr/bin/env bash
# Combines what build.sh has built for each architecture into one release:
#   images/NAME   an OCI layout with the image for all architectures
#   files/        the chart, the plugin's archives and krew manifest, the Debian packages, the SBOMs,
#                 the release notes, and the checksums of all
. "$(dirname "$0")/settings.sh"
cd "$TREE"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# index IMAGE: combines the images of all architectures. An image without any is left out.
index() {
    local image=$1 name layout=$OUT/images/$1 architecture archive
    local type=application/vnd.oci.image.index.v1+json
    name=$(archive_of "$image")
    rm -rf "$layout"
    for architecture in "${ARCHITECTURES[@]}"; do
        archive=$OUT/$architecture/images/$name.tar
        [ -e "$archive" ] || continue
        mkdir -p "$layout/blobs/sha256" "$work/$image-$architecture"
        tar --extract --file "$archive" --directory "$work/$image-$architecture"
        cp "$work/$image-$architecture"/blobs/sha256/* "$layout/blobs/sha256/"
        jq '.manifests[0] | del(.annotations)' "$work/$image-$architecture/index.json"
    done >"$work/$image.manifests"
    if [ ! -d "$layout" ]; then
        say "$image: NOT COMBINED, because no architecture has it"
        return
    fi
    jq --slurp --compact-output --arg type $type --arg version "$VERSION" --arg source "$OB_REPOSITORY" \
        --arg revision "$(git rev-parse HEAD)" --arg title "$image" \
        '{schemaVersion: 2, mediaType: $type, manifests: ., annotations: {
            "org.opencontainers.image.title": $title, "org.opencontainers.image.version": $version,
            "org.opencontainers.image.source": $source, "org.opencontainers.image.revision": $revision,
            "org.opencontainers.image.licenses": "Apache-2.0"}}' "$work/$image.manifests" >"$work/$image.index"
    jq --null-input --compact-output --arg type $type --arg version "$VERSION" \
        --arg digest "sha256:$(sha256sum <"$work/$image.index" | cut -d ' ' -f 1)" \
        --argjson size "$(stat --format=%s "$work/$image.index")" \
        '{schemaVersion: 2, mediaType: $type, manifests: [{mediaType: $type, digest: $digest, size: $size,
          annotations: {"org.opencontainers.image.ref.name": $version}}]}' >"$layout/index.json"
    echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
    mv "$work/$image.index" "$layout/blobs/sha256/$(digest_of "$image" | cut -d : -f 2)"
    say "$image: $(digest_of "$image") ($(jq --slurp --raw-output 'map(.platform.architecture) | join(", ")' "$work/$image.manifests"))"
}

# Copies the files of all architectures under names that are unique.
copy() {
    local architecture image sbom
    for architecture in "${ARCHITECTURES[@]}"; do
        for image in "${IMAGES[@]}"; do
            sbom=$OUT/$architecture/images/$(archive_of "$image").spdx.json
            [ ! -e "$sbom" ] || cp "$sbom" "$OUT/files/${image}_${VERSION}_$architecture.spdx.json"
        done
        find "$OUT/$architecture" \( -path '*/deb/*.deb' -o -path '*/plugin/*.tar.gz' \) -exec cp -t "$OUT/files" {} +
    done
}

rm -rf "$OUT/images" "$OUT/files"
mkdir -p "$OUT/images" "$OUT/files"
for image in "${IMAGES[@]}"; do index "$image"; done
copy
deploy/release/chart.sh
deploy/release/krew.sh
deploy/release/notes.sh >"$OUT/files/notes.md"
(cd "$OUT/files" && find . -type f ! -name SHA256SUMS -printf '%P\0' | LC_ALL=C sort --zero-terminated |
    xargs --null sha256sum >"$work/sums")
mv "$work/sums" "$OUT/files/SHA256SUMS"
say "the release $VERSION is in $OUT/files and $OUT/images"
