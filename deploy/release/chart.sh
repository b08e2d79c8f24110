#!/usr/bin/env bash
# Packages the Helm chart for a release: with the images in OB_REGISTRY, links to OB_REPOSITORY and
# the changes of this version. Equal input makes equal packages. assemble.sh calls this script.
. "$(dirname "$0")/settings.sh"
cd "$TREE"

NAME=onionbalance-operator
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "charts/$NAME" "$work/$NAME"
chart=$work/$NAME

# In a release, the tags of the images are the chart's appVersion.
sed -i -e "s,repository: localhost/,repository: $OB_REGISTRY/," \
    -e "s,^  docsUrl: docs\$,  docsUrl: $OB_REPOSITORY/blob/v$VERSION/docs," \
    -e "/^tor:/,/^\$/s/tag: dev/tag: \"$VERSION\"/" -e 's/^  tag: dev/  tag: ""/' "$chart/values.yaml"
# The relative links of the page end at the chart's folder.
sed -i "s,](\.\./\.\./,]($OB_REPOSITORY/blob/v$VERSION/,g" "$chart/README.md"

# The file ends with the annotations.
{
    cat <<ANNOTATIONS
  artifacthub.io/links: |
    - name: documentation
      url: $OB_REPOSITORY/tree/v$VERSION/docs
    - name: support
      url: $OB_REPOSITORY/issues
  artifacthub.io/images: |
    - name: onionbalance-operator
      image: $OB_REGISTRY/onionbalance-operator:$VERSION
      platforms: [linux/amd64, linux/arm64]
    - name: onionbalance-tor
      image: $OB_REGISTRY/onionbalance-tor:$VERSION
      platforms: [linux/amd64, linux/arm64]
    - name: onionbalance-tor-obfs4
      image: $OB_REGISTRY/onionbalance-tor-obfs4:$VERSION
      platforms: [linux/amd64, linux/arm64]
  artifacthub.io/prerelease: "$([[ $VERSION == *-* ]] && echo true || echo false)"
  artifacthub.io/changes: |
ANNOTATIONS
    deploy/release/changes.py "$VERSION" --format yaml | sed 's/^/    /'
    cat <<ADDRESSES
home: $OB_REPOSITORY
icon: $OB_REPOSITORY/raw/v$VERSION/docs/logo.svg
sources:
- $OB_REPOSITORY
ADDRESSES
} >>"$chart/Chart.yaml"

helm=$(e2e/setup/helm.sh)
"$helm" lint --strict "$chart" >&2
mkdir -p "$OUT/files"
tarball "$chart" >"$OUT/files/$NAME-$VERSION.tgz"
