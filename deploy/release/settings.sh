# Defines the settings of a release for the scripts in this folder, which source this file.
# shellcheck shell=bash
#   OB_RELEASE      the folder of the release; the default is target/release-files
#   OB_REPOSITORY   the address of the source repository, of which all other addresses are made
#   OB_REGISTRY     the registry and the folder of the images and of the chart, without a scheme
# The defaults are addresses that cannot exist.
TREE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$TREE/e2e/setup/lib.sh"
shopt -s inherit_errexit
umask 022

OUT=${OB_RELEASE:-$TREE/target/release-files}
OB_REPOSITORY=${OB_REPOSITORY:-https://git.example.org/onionbalance-operator}
OB_REGISTRY=${OB_REGISTRY:-registry.example.org}
# Registries accept lower case only.
OB_REGISTRY=${OB_REGISTRY,,}
VERSION=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' "$TREE/Cargo.toml")
# The images that a release publishes.
IMAGES=(onionbalance-operator onionbalance-tor onionbalance-tor-obfs4)
ARCHITECTURES=(amd64 arm64)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$TREE" log -1 --format=%ct)}
# The programs name this commit in their version. Cargo builds the programs again when it changes, so only
# the scripts of a release set the variable.
COMMIT=
if [ "$(git -C "$TREE" rev-parse --show-toplevel 2>/dev/null)" = "$(cd "$TREE" && pwd -P)" ]; then
    COMMIT=$(git -C "$TREE" describe --always --dirty --abbrev=12 --exclude '*')
fi
export OB_REPOSITORY OB_REGISTRY ONIONBALANCE_COMMIT=$COMMIT

# archive_of IMAGE: prints the name that images.sh gives to the files of an image.
archive_of() { echo "${1/#onionbalance-tor/tor}"; }

# digest_of IMAGE: prints the digest of the image for all architectures.
digest_of() { jq --raw-output '.manifests[0].digest' "$OUT/images/$1/index.json"; }

# tarball FOLDER: prints a compressed archive of a folder that depends on its content only.
tarball() {
    tar --create --format=ustar --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        --mtime="@$SOURCE_DATE_EPOCH" --directory "$(dirname "$1")" "$(basename "$1")" | gzip --best --no-name
}
